"""The style of figures: files are the same for the same figure, and bars show what they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer

from hashbench.bench.records import ResultsError
from hashbench.experiments import style
from hashbench.kernels import KERNELS

save = style.save
"""As it is before any fixture replaces it."""


def draw(folder: Path) -> list[Path]:
    with style.style():
        figure, ((panel,),) = style.panels([1])
        style.bar(panel, 0, (1, 2, 4), "2 GB/s", look=style.solid("cupy"))
        style.line(panel, [1, 2], [(1, 2, 3), (2, 3, 4)], label="a line")
        style.headline(figure, "It is drawn", "a bar and a line, of one $kernel$ and another $")
        style.legend_of_panels(figure)
    return save(figure, folder / "drawn", pd.DataFrame({"what": ["a", "b, c"], "speed": [0.1 + 0.2, None]}))


def test_the_same_figure_gives_the_same_files(tmp_path: Path) -> None:
    first, second = (draw(tmp_path / name) for name in "ab")
    assert [path.name for path in first] == ["drawn.png", "drawn.pdf", "drawn.svg", "drawn.csv"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[1].read_bytes().startswith(b"%PDF")
    assert first[3].read_bytes() == b'what,speed\na,0.30000000000000004\n"b, c",\n'


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultsError, match="results cannot be written to"):
        draw(tmp_path / "file")


def test_a_bar_has_its_value_its_quartiles_and_its_text() -> None:
    _, ((panel,),) = style.panels([1])
    style.bar(panel, 3, (1, 2, 4), "two", start=0.5, look={})
    ((x, y, width, height),) = [patch.get_bbox().bounds for patch in panel.patches]
    assert (x, width) == (0.5, 1.5)
    assert y + height / 2 == pytest.approx(3)
    (text,) = panel.texts
    assert text.get_text() == "two"
    assert text.xy == (4, 3)
    (container,) = (c for c in panel.containers if isinstance(c, ErrorbarContainer))
    (bars,) = container.lines[2]
    assert sorted(np.asarray(bars.get_paths()[0].vertices)[:, 0]) == [1, 4]


def test_panels_are_as_high_as_they_are_told_to_be() -> None:
    with style.style():
        figure, grid = style.panels([0.5, 1.25], columns=2)
        style.headline(figure, "A finding " * 9, "what was measured " * 9)
        grid[1, 0].set_xlabel("an axis")
        style.fit(figure)
        figure.draw_without_rendering()
    heights = [panel.get_position().height * figure.get_figheight() for panel in grid[:, 0]]
    assert heights == pytest.approx([0.5, 1.25], abs=0.02)


def test_lines_end_at_words_and_not_before_a_unit() -> None:
    width = style.text_width("about 904", 7) + 0.01
    assert style.wrapped("about 904 GB/s of it", width) == "about\n904 GB/s\nof it"
    assert style.wrapped("904 models", style.text_width("models", 7)) == "904\nmodels"


def test_groups_of_bars_are_stacked_under_their_names() -> None:
    places, headings = style.stacked({"one": 2, "two": 1})
    assert places == pytest.approx([1, 2, 4.1])
    assert {round(place, 3): name for place, name in headings.items()} == {0: "one", 3.1: "two"}


def test_a_tint_is_the_colour_mixed_with_white() -> None:
    assert style.kernel_colour("hashlib", 0) == "#ffffff"
    assert style.kernel_colour("hashlib") == style.KERNEL_COLOURS["hashlib"].lower()
    assert style.kernel_colour("hashlib", 0.5) == "#bfbfbf"


@pytest.mark.parametrize(("values", "linear"), [([], True), ([1, 20], True), ([1, 20.1], False)])
def test_an_axis_is_linear_up_to_a_ratio(values: list[float], linear: bool) -> None:
    assert style.is_linear(values) is linear


def test_every_kernel_has_a_colour_of_its_own() -> None:
    assert len({style.kernel_colour(name) for name in KERNELS}) == len(KERNELS)
