"""Streams with a salt before every block."""

from __future__ import annotations

import numpy as np

from hashbench.hashing.sources import Stream


class Salted(Stream):
    """A stream's blocks, each after the salt; zeros make the last one whole.

    Args:
        stream: the blocks.
        salt: stands before every block.
        block_size: bytes of a block.

    Attributes:
        nbytes: the bytes with salts and zeros; None where the stream's length is unknown.
        unsalted: the bytes of the stream that were read so far.
    """

    def __init__(self, stream: Stream, salt: bytes, block_size: int) -> None:
        self._stream = stream
        self._salt = np.frombuffer(salt, np.uint8)
        self._block_size = block_size
        blocks = None if stream.nbytes is None else -(-stream.nbytes // block_size)
        self.nbytes = None if blocks is None else blocks * (len(salt) + block_size)
        self.unsalted = 0

    def fill(self, host: memoryview) -> int:
        """Reads until `host`, which has room for whole blocks with their salts, is full or the stream ends."""
        message = self._salt.size + self._block_size
        read = np.empty(len(host) // message * self._block_size, np.uint8)
        nbytes = self._stream.fill(read.data)
        self.unsalted += nbytes
        count = -(-nbytes // self._block_size)
        blocks = read[: count * self._block_size]
        blocks[nbytes:] = 0
        salted = np.frombuffer(host, np.uint8)[: count * message].reshape(count, message)
        salted[:, : self._salt.size] = self._salt
        salted[:, self._salt.size :] = blocks.reshape(count, self._block_size)
        return count * message

    def stop(self) -> None:
        """Ends a `fill` that runs in another thread."""
        self._stream.stop()

    def check_unchanged(self) -> None:
        """Checks, after the end, that a file is still what it was.

        Raises:
            ChangedWhileReadError: it is not.
        """
        self._stream.check_unchanged()
