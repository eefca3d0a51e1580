"""Where the bytes of one tensor are in a file."""

from __future__ import annotations

from typing import NamedTuple


class TensorRange(NamedTuple):
    """A tensor's bytes in its file. A header may describe millions, so this is the cheapest immutable kind of object.

    Attributes:
        name: The tensor's name.
        dtype: Its dtype, as `hashbench.model.dtypes` names it.
        shape: Its shape, row-major: the last dimension varies fastest.
        offset: Its first byte, counted from the beginning of the file.
        nbytes: The number of its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
