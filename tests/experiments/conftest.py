"""Experiments are tested without writing pictures: `test_style.py` tests that."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawings import keep_figures
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Figure]:
    """The figures that the test draws. Of their files only the table is written, to the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return keep_figures(monkeypatch)
