"""A range of a file, and what the file was when its size or header was read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class FileRange:
    """Bytes of a file.

    Attributes:
        path: of the file.
        offset: of the first byte.
        nbytes: how many.
        status: what the file was when its header or its size was looked at, against which every read is held; None
            where nothing was taken from the file before its bytes.
    """

    path: Path
    offset: int
    nbytes: int
    status: os.stat_result | None = field(default=None, compare=False)
