"""The digest formats of other tools in plain Python, after their documentation and not after this project's code.

Checked against the tools themselves by the digests in tests/merkle/stock_digests.json, which the tools printed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hashbench.merkle.bittorrent import BitTorrentV2
from hashbench.merkle.digest_format import DigestFormat
from hashbench.merkle.s3 import S3
from hashbench.merkle.unixfs import UnixFs
from hashbench.merkle.verity import DmVerity, FsVerity


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _verity_root(data: bytes, block: int, algorithm: str, salt: bytes, width: int) -> bytes:
    """Documentation/filesystems/fsverity.rst, "Merkle tree", and Documentation/admin-guide/device-mapper/verity.rst."""
    hashes = [hashlib.new(algorithm, salt + part.ljust(block, b"\0")).digest() for part in cut(data, block)]
    if len(hashes) == 1:
        return hashes[0]
    return _verity_root(b"".join(one.ljust(width, b"\0") for one in hashes), block, algorithm, salt, width)


def fs_verity(data: bytes, block_size: int, salt: bytes) -> str:
    root = (
        _verity_root(data, block_size, "sha256", salt.ljust(-(-len(salt) // 64) * 64, b"\0"), 32) if data else bytes(32)
    )
    descriptor = bytes([1, 1, block_size.bit_length() - 1, len(salt), 0, 0, 0, 0]) + len(data).to_bytes(8, "little")
    descriptor += root.ljust(64, b"\0") + salt.ljust(32, b"\0")
    return "sha256:" + sha256(descriptor.ljust(256, b"\0")).hex()


def dm_verity(data: bytes, block_size: int, salt: bytes, algorithm: str) -> str:
    width = {"sha256": 32, "sha384": 64}[algorithm]
    return _verity_root(data, block_size, algorithm, salt, width).hex()


def bittorrent_v2(data: bytes) -> str:
    """BEP 52, "pieces root"."""
    hashes = [sha256(part) for part in cut(data, 16384)]
    while len(hashes) & (len(hashes) - 1):
        hashes.append(bytes(32))
    while len(hashes) > 1:
        hashes = [sha256(left + right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0].hex()


def s3(data: bytes, part_size: int) -> str:
    if len(data) < part_size:
        return base64.b64encode(sha256(data)).decode()
    parts = [sha256(part) for part in cut(data, part_size)]
    return f"{base64.b64encode(sha256(b''.join(parts))).decode()}-{len(parts)}"


def unixfs(data: bytes, block_size: int, width: int) -> str:
    """The specifications of UnixFS (balanced layout), dag-pb and CID."""

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)

    def text(tag: int, content: bytes) -> bytes:
        return bytes([tag]) + varint(len(content)) + content

    # Of each node: its CID, the bytes of the file below it, and the bytes of all nodes from it down.
    leaves = cut(data, block_size) or [b""]
    level = [(bytes([1, 0x55, 0x12, 32]) + sha256(leaf), len(leaf), len(leaf)) for leaf in leaves]
    while len(level) > 1:
        above = []
        for start in range(0, len(level), width):
            children = level[start : start + width]
            links = b"".join(text(0x12, text(0x0A, cid) + b"\x12\0\x18" + varint(tree)) for cid, _, tree in children)
            size = sum(below for _, below, _ in children)
            unix = b"\x08\x02\x18" + varint(size) + b"".join(b"\x20" + varint(below) for _, below, _ in children)
            node = links + text(0x0A, unix)
            tree = len(node) + sum(tree for _, _, tree in children)
            above.append((bytes([1, 0x70, 0x12, 32]) + sha256(node), size, tree))
        level = above
    return "b" + base64.b32encode(level[0][0]).decode().lower().rstrip("=")


REFERENCE: dict[str, Callable[..., str]] = {
    "fs-verity": fs_verity,
    "dm-verity": dm_verity,
    "bittorrent-v2": bittorrent_v2,
    "s3": s3,
    "unixfs": unixfs,
}
"""The digest of data in each format, with the parameters of its `DigestFormat`."""

FORMATS: dict[str, type[DigestFormat]] = {cls.name: cls for cls in (FsVerity, DmVerity, BitTorrentV2, S3, UnixFs)}


class Printed(NamedTuple):
    """What a tool printed for bytes of `boundaries.painted`."""

    name: str
    options: dict[str, Any]
    nbytes: int
    digest: str

    @property
    def format(self) -> DigestFormat:
        """The format, with the tool's parameters."""
        return FORMATS[self.name](**self.options)

    def __str__(self) -> str:
        given = (value.hex()[:8] if isinstance(value, bytes) else str(value) for value in self.options.values())
        return "-".join([self.name, *given, str(self.nbytes)])


def printed() -> list[Printed]:
    """What the tools printed: fsverity 1.5, veritysetup 2.6.1, libtorrent 2.1.1, boto3 with moto 5.2, ipfs-car 3.1."""
    rows = json.loads((Path(__file__).parent.parent / "merkle" / "stock_digests.json").read_text())
    found = []
    for row in rows:
        options = row["options"]
        if "salt" in options:
            options["salt"] = bytes.fromhex(options["salt"])
        found.append(Printed(row["format"], options, row["bytes"], row["digest"]))
    return found


def reference(digest_format: DigestFormat, data: bytes) -> str:
    """The digest of data by plain Python."""
    return REFERENCE[digest_format.name](data, **vars(digest_format))
