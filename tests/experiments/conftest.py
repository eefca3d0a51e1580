"""Experiments are tested without writing pictures: `test_style.py` tests that."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawings import keep_figures
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Figures by a plain name go to a temporary folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that the test draws. Of their files only the table is written."""
    return keep_figures(monkeypatch)
