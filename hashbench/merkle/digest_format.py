"""What the digest formats of other tools have in common: plain digests of a file's blocks, folded to one digest."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar


class DigestError(ValueError):
    """A format has no digest of a file of that size; the message says why."""


class Fold(ABC):
    """What the blocks of one file come to, as their digests arrive."""

    @abstractmethod
    def add(self, nodes: bytes, level: int = 0) -> None:
        """Takes the next nodes of a level, one after another; those of level 0 are the digests of blocks.

        Nodes of a higher level stand for all blocks below them, and follow on blocks that are a whole number of nodes.
        """

    @abstractmethod
    def digest(self, nbytes: int) -> str:
        """The digest of a file of `nbytes`, as the format's own tool prints it. Nothing can be added afterwards.

        Raises:
            DigestError: the format has none.
        """


@dataclass(frozen=True)
class Blocks:
    """How a file is cut and its blocks hashed.

    Attributes:
        size: bytes of a block; the last of a file may be short.
        algorithm: "sha256" or "sha384".
        salt: is hashed before every block.
        padded: whether zeros make the last block a whole one.
        arity: how many nodes are hashed, joined and with nothing before them, to one of the next level, wherever that
            many are there; None if nodes are not.
    """

    size: int
    algorithm: str = "sha256"
    salt: bytes = b""
    padded: bool = False
    arity: int | None = None


class DigestFormat(ABC):
    """A digest format with its parameters.

    Attributes:
        name: what the format is called.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def blocks(self) -> Blocks:
        """How a file is cut and its blocks hashed."""

    @abstractmethod
    def fold(self) -> Fold:
        """A new fold, for one file."""

    def check_size(self, nbytes: int) -> None:  # noqa: B027  # most formats take every size
        """Checks that files of `nbytes` have a digest, before they are read.

        Raises:
            DigestError: they have none.
        """

    def line(self, digest: str, name: str) -> str:
        """The line of a file, as the format's own tool prints it, or else in the form of sha256sum."""
        return f"{digest}  {name}"


class FixedArityTree:
    """A tree in which groups of `arity` nodes are hashed to one of the next level, until one is left.

    It needs memory for one group of each level.

    Args:
        algorithm: "sha256" or "sha384".
        arity: the nodes of a group.
        salt: is hashed before every group.
        width: bytes of a node in a group; zeros follow its digest. None is the size of the digest.
        fills_with_nodes: how a last group that is too short is filled up: with the nodes of a tree over leaves of zeros
            if True, and with zeros at every level if False.
    """

    def __init__(
        self, algorithm: str, arity: int, salt: bytes = b"", width: int | None = None, fills_with_nodes: bool = False
    ) -> None:
        self._state = hashlib.new(algorithm, salt)
        self._padding = bytes((width or self._state.digest_size) - self._state.digest_size)
        self._width = self._state.digest_size + len(self._padding)
        self._group = arity * self._width
        self._fills_with_nodes = fills_with_nodes
        self._levels = [bytearray()]  # the nodes of each level that are not hashed yet

    def add(self, nodes: bytes, level: int = 0) -> None:
        """Takes the next nodes of a level: their digests, joined."""
        size = self._state.digest_size
        if self._padding:
            nodes = b"".join(nodes[start : start + size] + self._padding for start in range(0, len(nodes), size))
        if not nodes:
            return
        self._levels += [bytearray() for _ in range(len(self._levels), level + 1)]
        waiting = self._levels[level]
        waiting += nodes
        whole = len(waiting) - len(waiting) % self._group
        if whole:
            parents = [self._hash(waiting[start : start + self._group]) for start in range(0, whole, self._group)]
            del waiting[:whole]
            self.add(b"".join(parents), level + 1)

    def root(self) -> bytes:
        """The root; zeros if there are no leaves. Nothing can be added afterwards."""
        filler = bytes(self._width)
        level = 0
        while level + 1 < len(self._levels) or len(self._levels[level]) > self._width:
            waiting = self._levels[level]
            if waiting:
                missing = (self._group - len(waiting)) // self._width
                self.add(filler[: self._state.digest_size] * missing, level)
            if self._fills_with_nodes:
                filler = self._hash(filler * (self._group // self._width))
            level += 1
        return bytes(self._levels[level] or filler)[: self._state.digest_size]

    def _hash(self, group: bytes | bytearray) -> bytes:
        state = self._state.copy()
        state.update(group)
        return state.digest()
