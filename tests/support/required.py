"""A list of what a test run must have tested, so that skipped tests do not go unnoticed.

The marker `covers("name", ...)` says what a test shows to work. Each name that the run requires must be covered by a
test that passed and by none that was skipped, or the run fails with a line that says why.
"""

from __future__ import annotations

import pytest

_PROPERTY = "covers"


class Required:
    """A plugin of pytest that checks a run against a list of names.

    Args:
        names: the required names of `covers` markers.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._passed: set[str] = set()
        self._skipped: dict[str, str] = {}
        self._known: set[str] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for marker in item.iter_markers("covers"):
                item.user_properties += [(_PROPERTY, name) for name in marker.args]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        names = [str(value) for key, value in report.user_properties if key == _PROPERTY]
        self._known.update(names)
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._skipped.update(dict.fromkeys(names, reason.removeprefix("Skipped: ")))
        elif report.when == "call" and report.passed:
            self._passed.update(names)

    def complaints(self) -> list[str]:
        """One line for each required name that the run did not show to work."""
        lines = []
        for name in self.names:
            if name not in self._known:
                known = ", ".join(sorted(self._known)) or "none"
                lines.append(f"required: no test of this run covers {name!r}; covered are {known}")
            elif name in self._skipped:
                lines.append(f"required: {name!r} was skipped: {self._skipped[name]}")
            elif name not in self._passed:
                lines.append(f"required: no test of {name!r} passed")
        return lines

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.complaints() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.complaints():
            terminalreporter.write_line(line, red=True)
