"""The constants of SHA-256 and SHA-384, computed as FIPS 180-4 defines them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Constants:
    """What the algorithms differ in.

    Attributes:
        word_bits: bits of a word; a block has 16 words.
        k: the constant of each round (sections 4.2.2 and 4.2.3).
        initial: the first eight words of state (sections 5.3.3 and 5.3.4).
        big_sigma_0: rotations to the right (sections 4.1.2 and 4.1.3).
        big_sigma_1: rotations to the right.
        small_sigma_0: two rotations to the right and a shift.
        small_sigma_1: two rotations to the right and a shift.
    """

    word_bits: int
    k: tuple[int, ...]
    initial: tuple[int, ...]
    big_sigma_0: tuple[int, int, int]
    big_sigma_1: tuple[int, int, int]
    small_sigma_0: tuple[int, int, int]
    small_sigma_1: tuple[int, int, int]


@cache
def constants(algorithm: str) -> Constants:
    """Those of "sha256" or "sha384"."""
    if algorithm == "sha256":
        primes = _first_primes(64)
        return Constants(
            word_bits=32,
            k=_fractions(32, [_cube_root(prime << 192) for prime in primes]),
            initial=_fractions(32, [isqrt(prime << 128) for prime in primes[:8]]),
            big_sigma_0=(2, 13, 22),
            big_sigma_1=(6, 11, 25),
            small_sigma_0=(7, 18, 3),
            small_sigma_1=(17, 19, 10),
        )
    primes = _first_primes(80)
    return Constants(
        word_bits=64,
        k=_fractions(64, [_cube_root(prime << 192) for prime in primes]),
        initial=_fractions(64, [isqrt(prime << 128) for prime in primes[8:16]]),
        big_sigma_0=(28, 34, 39),
        big_sigma_1=(14, 18, 41),
        small_sigma_0=(1, 8, 7),
        small_sigma_1=(19, 61, 6),
    )


def last_schedules(algorithm: str, length: int) -> npt.NDArray[Any]:
    """W_t + K_t (sections 6.2.2 and 6.4.2) of the last block of messages of `length` bytes.

    Args:
        algorithm: "sha256" or "sha384".
        length: a number of blocks, whose last block is padding alone; or that and one byte, with which it begins.

    Returns:
        A row of one word per round: a single one for padding alone, else one for each value of the byte.

    Raises:
        ValueError: the length is another.
    """
    parameters = constants(algorithm)
    bits, rounds = parameters.word_bits, len(parameters.k)
    bytes_of_data = length % (2 * bits)
    if bytes_of_data > 1:
        raise ValueError(f"a last block with {bytes_of_data} bytes of data is not accepted: pass 0 or 1 beyond a block")
    word = np.dtype(f"u{bits // 8}")
    w = np.zeros((rounds, 256 if bytes_of_data else 1), word)
    w[0] = 0x80 << (bits - 8)
    if bytes_of_data:
        w[0] = (np.arange(256, dtype=word) << word.type(bits - 8)) | (w[0] >> word.type(8))
    w[14], w[15] = divmod(8 * length, 1 << bits)

    def small_sigma(x: npt.NDArray[Any], distances: tuple[int, int, int]) -> npt.NDArray[Any]:
        first, second = ((x >> word.type(n)) | (x << word.type(bits - n)) for n in distances[:2])
        result: npt.NDArray[Any] = first ^ second ^ (x >> word.type(distances[2]))
        return result

    for t in range(16, rounds):
        sigma_0 = small_sigma(w[t - 15], parameters.small_sigma_0)
        w[t] = w[t - 16] + sigma_0 + w[t - 7] + small_sigma(w[t - 2], parameters.small_sigma_1)
    rows: npt.NDArray[Any] = np.ascontiguousarray((w + np.array(parameters.k, word)[:, None]).T)
    return rows


def _first_primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found


def _cube_root(n: int) -> int:
    root = 1 << -(-n.bit_length() // 3)
    while (better := (2 * root + n // (root * root)) // 3) < root:
        root = better
    return root


def _fractions(bits: int, roots: list[int]) -> tuple[int, ...]:
    """The first bits of the fractional parts of `roots`, in units of 2^-64."""
    return tuple((root % (1 << 64)) >> (64 - bits) for root in roots)
