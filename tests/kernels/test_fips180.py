"""The tables of message schedules, by what hashlib makes of messages of one block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest

from hashbench.kernels.contract import ALGORITHMS
from hashbench.kernels.fips180 import Constants, constants, last_schedules


def digest(parameters: Constants, schedule: Iterable[int], size: int) -> bytes:
    """The digest of a message of one block (FIPS 180-4 sections 6.2.2 and 6.4.2), from its W_t + K_t."""
    bits = parameters.word_bits
    mask = (1 << bits) - 1

    def sigma(x: int, distances: Iterable[int]) -> int:
        result = 0
        for n in distances:
            result ^= x >> n | x << (bits - n) & mask
        return result

    a, b, c, d, e, f, g, h = parameters.initial
    for w_plus_k in schedule:
        t1 = h + sigma(e, parameters.big_sigma_1) + (e & f ^ ~e & g) + w_plus_k
        t2 = sigma(a, parameters.big_sigma_0) + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = t1 + t2 & mask, a, b, c, d + t1 & mask, e, f, g
    words = [x + y & mask for x, y in zip(parameters.initial, (a, b, c, d, e, f, g, h), strict=True)]
    return b"".join(word.to_bytes(bits // 8, "big") for word in words)[:size]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_schedules_of_short_messages_give_their_digests(algorithm: str) -> None:
    size = ALGORITHMS[algorithm].digest_size
    for messages in ([b""], [bytes([byte]) for byte in range(256)]):
        rows = last_schedules(algorithm, len(messages[0])).tolist()
        found = [digest(constants(algorithm), row, size) for row in rows]
        assert found == [hashlib.new(algorithm, message).digest() for message in messages]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_length_of_a_long_message_is_in_its_schedule(algorithm: str) -> None:
    block, k = ALGORITHMS[algorithm].block_size, constants(algorithm).k
    bits = 8 * block
    for length in (block << 40, (block << 40) + 1):
        for row in last_schedules(algorithm, length).tolist():
            high, low = ((row[t] - k[t]) % (1 << bits // 16) for t in (14, 15))
            assert high << bits // 16 | low == 8 * length


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_blocks_with_more_than_one_byte_have_no_table(algorithm: str) -> None:
    for length in (2, ALGORITHMS[algorithm].block_size - 1):
        with pytest.raises(ValueError, match="pass 0 or 1"):
            last_schedules(algorithm, length)
