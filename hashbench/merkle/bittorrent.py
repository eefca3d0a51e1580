"""The root of a file in BitTorrent v2 (BEP 52)."""

from __future__ import annotations

from dataclasses import dataclass

from hashbench.merkle.digest_format import Blocks, DigestError, DigestFormat, FixedArityTree, Fold


@dataclass(frozen=True)
class BitTorrentV2(DigestFormat):
    """The "pieces root" of a file: a binary tree over blocks of 16 KiB, with zeros for leaves up to a power of two."""

    name = "bittorrent-v2"

    @property
    def blocks(self) -> Blocks:
        """How a file is cut and its blocks hashed."""
        return Blocks(16384, arity=2)

    def check_size(self, nbytes: int) -> None:
        """Checks that a file is not empty.

        Raises:
            DigestError: it is.
        """
        if nbytes == 0:
            raise DigestError("bittorrent-v2 has no root of an empty file")

    def fold(self) -> Fold:
        """A new fold, for one file."""
        return _BitTorrentFold(self)


class _BitTorrentFold(Fold):
    def __init__(self, parameters: BitTorrentV2) -> None:
        self._parameters = parameters
        self._tree = FixedArityTree("sha256", 2, fills_with_nodes=True)

    def add(self, nodes: bytes, level: int = 0) -> None:
        self._tree.add(nodes, level)

    def digest(self, nbytes: int) -> str:
        self._parameters.check_size(nbytes)
        return self._tree.root().hex()
