"""Figures that tests look at: laid out as they are drawn, but not written as pictures, which takes most of the time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from hashbench.experiments import style


def said(figure: Figure) -> str:
    """The title of a figure, on one line: what was found, and what was measured."""
    (below,) = (artist for artist in figure.artists if isinstance(artist, Annotation))
    return " ".join(f"{figure.get_suptitle()} {below.get_text()}".split())


def check_legible(figure: Figure) -> None:
    """Fails if a figure, in one column of a paper, has text that is small, outside it, or on other text."""
    with style.style():
        style.fit(figure)
        figure.draw_without_rendering()
    assert figure.get_figwidth() == style.WIDTH
    hidden = {label for panel in figure.axes for axis in (panel.xaxis, panel.yaxis) for label in _beyond(axis)}
    texts = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible() and t.get_text().strip()]
    boxes = [(text, Text.get_window_extent(text)) for text in texts if text not in hidden]  # without what it points to
    page = figure.bbox.padded(1)
    small = [text.get_text() for text, _ in boxes if float(text.get_fontsize()) < style.SMALL]
    outside = [text.get_text() for text, box in boxes if not (page.contains(*box.min) and page.contains(*box.max))]
    inner = [(text.get_text(), box.shrunk(0.9, 0.9)) for text, box in boxes if text.get_text() != figure.get_suptitle()]
    over = [(one, other) for (one, box), (other, second) in combinations(inner, 2) if box.overlaps(second)]
    assert (small, outside, over) == ([], [], []), f"small: {small}, outside the figure: {outside}, overlapping: {over}"
    for legend in figure.legends:
        assert not any(legend.get_window_extent().overlaps(panel.get_window_extent()) for panel in figure.axes)


def _beyond(axis: Axis) -> Iterator[Text]:
    """The labels of ticks beyond an axis, which are not drawn."""
    low, high = sorted(axis.get_view_interval())
    for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
        if not low <= tick.get_loc() <= high:
            yield from (tick.label1, tick.label2)


def keep_figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Makes `style.save` write nothing but the table.

    Returns:
        The figures that are drawn from now on.
    """
    kept: list[Figure] = []

    def save(figure: Figure, path: Path, table: pd.DataFrame) -> list[Path]:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path.with_suffix(".csv"), index=False)
        kept.append(figure)
        return [path.with_suffix(suffix) for suffix in (".png", ".pdf", ".svg", ".csv")]

    monkeypatch.setattr(style, "save", save)
    return kept
