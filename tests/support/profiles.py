"""How much a test run tries: Hypothesis's profiles, and the tests that only `make test-thorough` runs.

- `local`: the default. Every run tries new examples.
- `ci`: where the environment variable CI is set. Every run tries the same examples.
- `thorough`: with the option `--thorough`. Ten times as many examples, and the tests marked `thorough` too.
"""

from __future__ import annotations

import os

import hypothesis
import pytest

EXAMPLES = 50
THOROUGH_FACTOR = 10

# The first call of a kernel compiles it, and no test is about time.
hypothesis.settings.register_profile("local", deadline=None, max_examples=EXAMPLES)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=EXAMPLES, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=EXAMPLES * THOROUGH_FACTOR)


def examples(count: int) -> hypothesis.settings:
    """Settings for a test that needs another number of examples than the profile's.

    Args:
        count: examples in the short form; `--thorough` runs `THOROUGH_FACTOR` times as many.
    """
    return hypothesis.settings(max_examples=count * hypothesis.settings().max_examples // EXAMPLES)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="also run what the short form leaves out")


def pytest_configure(config: pytest.Config) -> None:
    short = "ci" if os.environ.get("CI") else "local"
    hypothesis.settings.load_profile("thorough" if config.getoption("--thorough") else short)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--thorough"):
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
