"""The digests of fs-verity and dm-verity, with which Linux checks every read of a file or of a block device.

Both hash blocks, fill blocks with the digests, hash those, and so on to one root. The root is dm-verity's root hash,
and fs-verity hashes it once more, with the file's size and the parameters.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from hashbench.kernels import algorithm_named
from hashbench.merkle.digest_format import Blocks, DigestError, DigestFormat, FixedArityTree, Fold

_FS_VERITY_ALGORITHM = 1  # SHA-256; its other one is SHA-512
_DESCRIPTOR = struct.Struct("<BBBB4xQ64s32s144x")  # struct fsverity_descriptor without a signature
_MAX_FS_VERITY_SALT = 32
_MAX_DM_VERITY_SALT = 256
_BLOCK_SIZES = [1 << log2 for log2 in range(10, 17)]


@dataclass(frozen=True)
class FsVerity(DigestFormat):
    """The digest of a file that `fsverity digest` prints, and that Linux checks reads against once it is enabled.

    Args:
        block_size: bytes of a block of the file, and of the tree.
        salt: up to 32 bytes.

    Raises:
        ValueError: an argument is not accepted.
    """

    name = "fs-verity"
    block_size: int = 4096
    salt: bytes = b""

    def __post_init__(self) -> None:
        _check(self.name, self.block_size, self.salt, _MAX_FS_VERITY_SALT)

    @property
    def blocks(self) -> Blocks:
        """How a file is cut and its blocks hashed. The salt is filled up to a block of SHA-256."""
        salt = self.salt and self.salt.ljust(64, b"\0")
        return Blocks(self.block_size, salt=salt, padded=True, arity=None if salt else self.block_size // 32)

    def fold(self) -> Fold:
        """A new fold, for one file."""
        return _FsVerityFold(self)

    def line(self, digest: str, name: str) -> str:
        """The line that `fsverity digest` prints."""
        return f"{digest} {name}"


class _FsVerityFold(Fold):
    def __init__(self, parameters: FsVerity) -> None:
        self._parameters = parameters
        self._tree = FixedArityTree("sha256", parameters.block_size // 32, parameters.blocks.salt)

    def add(self, nodes: bytes, level: int = 0) -> None:
        self._tree.add(nodes, level)

    def digest(self, nbytes: int) -> str:
        salt, log2 = self._parameters.salt, self._parameters.block_size.bit_length() - 1
        fields = 1, _FS_VERITY_ALGORITHM, log2, len(salt), nbytes, self._tree.root(), salt
        return f"sha256:{hashlib.sha256(_DESCRIPTOR.pack(*fields)).hexdigest()}"


@dataclass(frozen=True)
class DmVerity(DigestFormat):
    """The root hash of a block device or image that `veritysetup format` prints, for hash type 1.

    Args:
        block_size: bytes of a block of data, and of the tree.
        salt: up to 256 bytes.
        algorithm: "sha256" or "sha384".

    Raises:
        ValueError: an argument is not accepted.
    """

    name = "dm-verity"
    block_size: int = 4096
    salt: bytes = b""
    algorithm: str = "sha256"

    def __post_init__(self) -> None:
        algorithm_named(self.algorithm)
        _check(self.name, self.block_size, self.salt, _MAX_DM_VERITY_SALT)

    @property
    def blocks(self) -> Blocks:
        """How an image is cut and its blocks hashed. In the tree, zeros follow a digest of SHA-384."""
        plain = not self.salt and self.algorithm == "sha256"
        return Blocks(self.block_size, self.algorithm, self.salt, arity=self.block_size // 32 if plain else None)

    def check_size(self, nbytes: int) -> None:
        """Checks that an image is whole blocks, as those are all that dm-verity covers.

        Raises:
            DigestError: it is not.
        """
        if nbytes == 0:
            raise DigestError("dm-verity has no root hash of an empty image")
        if rest := nbytes % self.block_size:
            raise DigestError(
                f"dm-verity does not cover the last {rest} of {nbytes} bytes: images are blocks of {self.block_size} "
                "bytes"
            )

    def fold(self) -> Fold:
        """A new fold, for one image."""
        return _DmVerityFold(self)


class _DmVerityFold(Fold):
    def __init__(self, parameters: DmVerity) -> None:
        self._parameters = parameters
        width = 1 << (algorithm_named(parameters.algorithm).digest_size - 1).bit_length()
        arity = parameters.block_size // width
        self._tree = FixedArityTree(parameters.algorithm, arity, parameters.salt, width)

    def add(self, nodes: bytes, level: int = 0) -> None:
        self._tree.add(nodes, level)

    def digest(self, nbytes: int) -> str:
        self._parameters.check_size(nbytes)
        return self._tree.root().hex()


def _check(name: str, block_size: int, salt: bytes, max_salt: int) -> None:
    if block_size not in _BLOCK_SIZES:
        raise ValueError(f"block size {block_size} is not accepted for {name}: a power of two from 1KiB to 64KiB is")
    if len(salt) > max_salt:
        raise ValueError(f"a salt of {len(salt)} bytes is not accepted for {name}: up to {max_salt} bytes are")
