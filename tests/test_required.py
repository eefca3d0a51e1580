"""The list of what must have run: it must notice everything that did not."""

from __future__ import annotations

import pytest
from required import Required

TESTS = """
    import pytest

    @pytest.mark.covers("alpha")
    def test_alpha():
        pass

    @pytest.mark.covers("alpha", "beta")
    def test_alpha_and_beta():
        pass

    @pytest.mark.covers("gamma")
    def test_gamma():
        pass

    @pytest.mark.covers("gamma")
    def test_gamma_without_its_framework():
        pytest.skip("gamma's framework is missing")

    @pytest.mark.covers("delta")
    @pytest.mark.skip(reason="no delta here")
    def test_delta():
        raise AssertionError

    @pytest.mark.covers("epsilon")
    @pytest.mark.xfail(reason="not yet")
    def test_epsilon():
        raise AssertionError
"""


@pytest.fixture(autouse=True)
def _no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, *names: str) -> pytest.RunResult:
    pytester.makeini("[pytest]\nmarkers = covers(*names)")
    pytester.makepyfile(TESTS)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", plugins=[Required(list(names))])


@pytest.mark.parametrize("names", [(), ("alpha",), ("alpha", "beta")])
def test_what_passed_is_accepted(pytester: pytest.Pytester, names: tuple[str, ...]) -> None:
    result = run(pytester, *names)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("required:*")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("gamma", "required: 'gamma' was skipped: gamma's framework is missing"),
        ("delta", "required: 'delta' was skipped: no delta here"),
        ("epsilon", "required: 'epsilon' was skipped: *"),
        ("zeta", "required: no test of this run covers 'zeta'; covered are alpha, beta, delta, epsilon, gamma"),
    ],
)
def test_what_did_not_pass_fails_the_run(pytester: pytest.Pytester, name: str, line: str) -> None:
    result = run(pytester, "alpha", name)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert len([out for out in result.outlines if out.startswith("required:")]) == 1
    result.stdout.fnmatch_lines([line])


def test_what_failed_in_its_setup_fails_the_run(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = covers(*names)")
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def broken():
            raise RuntimeError

        @pytest.mark.covers("alpha")
        def test_alpha(broken):
            pass
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", plugins=[Required(["alpha"])])
    result.stdout.fnmatch_lines(["required: no test of 'alpha' passed"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
