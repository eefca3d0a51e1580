"""Figures that tests look at: laid out as they are drawn, but not written as pictures, which takes most of the time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from hashbench.experiments import style


def said(figure: Figure) -> str:
    """The title of a figure, on one line: what was found, and what was measured."""
    (below,) = (artist for artist in figure.artists if isinstance(artist, Annotation))
    return " ".join(f"{figure.get_suptitle()} {below.get_text()}".split())


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
