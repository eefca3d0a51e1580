"""The CID of a file in IPFS: UnixFS over raw leaves of 1 MiB, in CIDs of version 1."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from hashbench.merkle.digest_format import Blocks, DigestFormat, Fold

_RAW, _DAG_PB = 0x55, 0x70  # multicodec
_VERSION = 1
_SHA256 = b"\x12\x20"  # multihash: the algorithm and the size of its digest
_FILE = 2  # UnixFS Data.Type


@dataclass(frozen=True)
class UnixFs(DigestFormat):
    """The CID of a file as ipfs-car packs it, and as Kubo adds it with the profile unixfs-v1-2025.

    Args:
        block_size: bytes of a leaf.
        width: the most links of a node.
    """

    name = "unixfs"
    block_size: int = 1 << 20
    width: int = 1024

    @property
    def blocks(self) -> Blocks:
        """How a file is cut and its blocks hashed."""
        return Blocks(self.block_size)

    def fold(self) -> Fold:
        """A new fold, for one file."""
        return _UnixFsFold(self)


class _Node(NamedTuple):
    """A node of the graph.

    Attributes:
        cid: its binary CID.
        nbytes: bytes of the file below it.
        encoded: bytes of the node and of all nodes below it.
    """

    cid: bytes
    nbytes: int
    encoded: int


class _UnixFsFold(Fold):
    def __init__(self, parameters: UnixFs) -> None:
        self._parameters = parameters
        self._leaves = bytearray()

    def add(self, nodes: bytes, level: int = 0) -> None:
        self._leaves += nodes

    def digest(self, nbytes: int) -> str:
        block_size, width = self._parameters.block_size, self._parameters.width
        leaves = bytes(self._leaves) or hashlib.sha256().digest()
        count = len(leaves) // 32
        nodes: Iterator[_Node] = (
            _Node(_cid(_RAW, leaves[32 * number : 32 * number + 32]), size, size)
            for number in range(count)
            for size in [min(block_size, nbytes - number * block_size)]
        )
        while count > 1:
            nodes = map(_parent, _groups(nodes, width))
            count = -(-count // width)
        return "b" + base64.b32encode(next(nodes).cid).decode().lower().rstrip("=")


def _groups(nodes: Iterator[_Node], width: int) -> Iterator[Sequence[_Node]]:
    return iter(lambda: list(islice(nodes, width)), [])


def _parent(children: Sequence[_Node]) -> _Node:
    """The node of dag-pb that joins others."""
    nbytes = sum(child.nbytes for child in children)
    sizes = b"".join(_number(4, child.nbytes) for child in children)
    links = b"".join(_field(2, _field(1, child.cid) + _field(2, b"") + _number(3, child.encoded)) for child in children)
    encoded = links + _field(1, _number(1, _FILE) + _number(3, nbytes) + sizes)
    cid = _cid(_DAG_PB, hashlib.sha256(encoded).digest())
    return _Node(cid, nbytes, len(encoded) + sum(child.encoded for child in children))


def _cid(codec: int, digest: bytes) -> bytes:
    return bytes((_VERSION, codec)) + _SHA256 + digest


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf that holds bytes."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    """A field of protobuf that holds an integer."""
    return bytes([number << 3]) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
