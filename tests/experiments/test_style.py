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
        figure = style.new_figure(2, 1)
        panel = figure.subplots()
        style.bar(panel, 0, (1, 2, 4), "2 GB/s", look=style.solid("cupy"))
        style.line(panel, [1, 2], [(1, 2, 3), (2, 3, 4)], label="a line")
        style.legend_below(figure, columns=1)
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


@pytest.mark.parametrize("vertical", [False, True])
def test_a_bar_has_its_value_its_quartiles_and_its_text(vertical: bool) -> None:
    panel = style.new_figure(2, 1).subplots()
    style.bar(panel, 3, (1, 2, 4), "two", vertical=vertical, start=0.5, look={})
    ((x, y, width, height),) = [patch.get_bbox().bounds for patch in panel.patches]  # type: ignore[attr-defined]
    along, across = ((y, height), (x, width)) if vertical else ((x, width), (y, height))
    assert along == (0.5, 1.5)
    assert across[0] + across[1] / 2 == pytest.approx(3)
    (text,) = panel.texts
    assert text.get_text() == "two"
    assert text.xy == ((3, 4) if vertical else (4, 3))  # type: ignore[attr-defined]
    (container,) = (c for c in panel.containers if isinstance(c, ErrorbarContainer))
    (bars,) = container.lines[2]
    ends = np.asarray(bars.get_paths()[0].vertices)[:, 1 if vertical else 0]
    assert sorted(ends) == [1, 4]


@pytest.mark.parametrize(("values", "linear"), [([], True), ([1, 20], True), ([1, 20.1], False)])
def test_an_axis_is_linear_up_to_a_ratio(values: list[float], linear: bool) -> None:
    assert style.is_linear(values) is linear


def test_every_kernel_has_a_colour_of_its_own() -> None:
    assert len({style.kernel_colour(name) for name in KERNELS}) == len(KERNELS)
