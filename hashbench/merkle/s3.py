"""The SHA-256 checksum of an object in Amazon S3."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from hashbench.merkle.digest_format import Blocks, DigestError, DigestFormat, Fold

MIN_PART, MAX_PART = 5 << 20, 5 << 30
"""Bytes of a part that S3 accepts, but for an object's last."""

MAX_PARTS = 10_000
"""The most parts of an object."""


@dataclass(frozen=True)
class S3(DigestFormat):
    """The ChecksumSHA256 of an object, as S3 gives it after an upload by its command line or SDK.

    Objects of at least one part are uploaded in parts, and have a checksum of their parts' checksums, and the number of
    parts after it. Smaller ones have their plain SHA-256.

    Args:
        part_size: bytes of a part, and the size from which on an object is uploaded in parts.

    Raises:
        ValueError: S3 does not accept parts of that size.
    """

    name = "s3"
    part_size: int = 8 << 20

    def __post_init__(self) -> None:
        if not MIN_PART <= self.part_size <= MAX_PART:
            raise ValueError(f"parts of {self.part_size} bytes are not accepted for s3: 5MiB to 5GiB are")

    @property
    def blocks(self) -> Blocks:
        """How an object is cut and its parts hashed."""
        return Blocks(self.part_size)

    def check_size(self, nbytes: int) -> None:
        """Checks that an object is not in too many parts.

        Raises:
            DigestError: it is.
        """
        parts = -(-nbytes // self.part_size)
        if parts > MAX_PARTS:
            raise DigestError(f"s3 has no objects of {parts:,} parts: up to {MAX_PARTS:,} are accepted")

    def fold(self) -> Fold:
        """A new fold, for one object."""
        return _S3Fold(self)


class _S3Fold(Fold):
    def __init__(self, parameters: S3) -> None:
        self._parameters = parameters
        self._parts = bytearray()

    def add(self, nodes: bytes, level: int = 0) -> None:
        self._parts += nodes
        self._parameters.check_size(len(self._parts) // 32 * self._parameters.part_size)

    def digest(self, nbytes: int) -> str:
        if nbytes < self._parameters.part_size:
            return _base64(bytes(self._parts) or hashlib.sha256().digest())
        return f"{_base64(hashlib.sha256(self._parts).digest())}-{len(self._parts) // 32}"


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
