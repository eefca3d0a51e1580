"""What the short form of a run leaves out, and `--thorough` runs."""

from __future__ import annotations

import hypothesis
import pytest
from profiles import THOROUGH_FACTOR

TESTS = """
    import pytest
    from hypothesis import given, strategies as st
    from profiles import examples

    count = 0

    @given(st.integers())
    @examples(3)
    def test_counted(number):
        global count
        count += 1

    def test_count():
        print(f"{count} examples")

    @pytest.mark.thorough
    def test_slow():
        pass

    @pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.thorough)])
    def test_sizes(size):
        pass
"""


@pytest.mark.parametrize(("option", "passed", "left_out", "examples"), [(None, 3, 2, 3), ("--thorough", 5, 0, 30)])
def test_the_marker_and_the_examples(
    pytester: pytest.Pytester, option: str | None, passed: int, left_out: int, examples: int
) -> None:
    assert THOROUGH_FACTOR == 10
    profile = hypothesis.settings.get_current_profile_name()
    pytester.makeini("[pytest]\nmarkers = thorough")
    pytester.makepyfile(TESTS)
    try:
        result = pytester.runpytest_inprocess("-s", "-p", "no:cacheprovider", "-p", "profiles", *filter(None, [option]))
    finally:
        hypothesis.settings.load_profile(profile)
    result.assert_outcomes(passed=passed, deselected=left_out)
    result.stdout.fnmatch_lines([f"*{examples} examples*"])
