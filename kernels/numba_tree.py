# ruff: noqa: RUF005 - Numba compiles sums of tuples directly, but not unpacking
"""The device code in Python: a translation of `kernels/device`, function by function.

Like a C header, this module is executed once for each program that includes it, which first defines SHA (256 or 384),
ARCHITECTURE (90 for sm_90) and the macros of a variant: see `numba_cuda.program`.

Numba promotes uint32 arithmetic to uint64, and uint64 mixed with signed integers to float64. So every constant here is
typed, and every result is cast back to `word`, the 32 or 64 bits that the algorithm works on. Loops that C unrolls are
functions called once per step: the compiler inlines them, and Numba infers the types of each only once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, uint32, uint64

from hashbench.kernels.fips180 import constants
from hashbench.kernels.layout import GROUP_SIZE, GROUP_SIZE_LOG2, WARP_SIZE
from hashbench.kernels.numba_dialect import (
    byte_permute,
    device,
    dot_product,
    fp64_shift_right,
    kernel,
    load_acquire,
    load_message_u32x4,
    load_shared_u32x4,
    load_shared_u64x2,
    load_u8,
    load_u32,
    load_u32x4,
    load_u64,
    load_u64x2,
    multiply_add,
    prefetch_message,
    rotate_right,
    shared_memory,
    store_release,
    store_shared_u32x4,
    store_shared_u64x2,
    store_u32,
    store_u64,
)

SHA: int = globals()["SHA"]
ARCHITECTURE: int = globals()["ARCHITECTURE"]
BALANCED: int = globals()["BALANCED"]
PREFETCHED: int = globals()["PREFETCHED"]
PAIRED: int = globals()["PAIRED"]
ROTATED: int = globals()["ROTATED"]
EARLY: int = globals()["EARLY"]
HELD: int = globals()["HELD"]
TABLED: int = globals()["TABLED"]
SLICED: int = globals()["SLICED"]

HAVE_FP64_PIPE = ARCHITECTURE in (80, 90, 100)

_HASH_CHUNKS = (uint64, uint64, uint64, uint64, uint32, uint64, uint64, uint64, uint64, uint32)
SIGNATURES = {
    "hash_chunks": _HASH_CHUNKS,
    **({"hash_chunks_paired": _HASH_CHUNKS} if PAIRED else {}),
    **({"hash_chunks_early": _HASH_CHUNKS} if EARLY else {}),
    **(
        {"hash_chunks_sliced": (*_HASH_CHUNKS[:-1], uint32, uint32, uint64, uint64, uint32)}
        if SLICED and SHA == 256
        else {}
    ),
    **dict.fromkeys(("hash_level", "reduce_tiles"), (uint64, uint64, uint64, uint32, uint64, uint64, uint32)),
    "gather_leaves": (uint64, uint64, uint64, uint64, uint64),
    "gather_roots": (uint64, uint64, uint64, uint64),
    "fill_random": (uint64, uint64, uint64),
}
"""The kernels with the types of their arguments. Addresses are uint64."""

# Threads per block, and blocks per multiprocessor.
CHUNK_BOUNDS = (GROUP_SIZE, globals()["CHUNK_BLOCKS"])
EARLY_BOUNDS = (GROUP_SIZE, globals()["EARLY_BLOCKS"])
NODE_BOUNDS = (GROUP_SIZE, globals()["NODE_BLOCKS"])
PAIRED_BOUNDS = (GROUP_SIZE, globals()["PAIRED_BLOCKS"])

_0, _1, _2, _3, _4, _5, _6, _7, _8 = (np.uint64(n) for n in range(9))
_12, _15, _16, _20, _24, _27, _28 = map(np.uint64, (12, 15, 16, 20, 24, 27, 28))
_30, _31, _32, _48, _64 = map(np.uint64, (30, 31, 32, 48, 64))
_GROUP_SIZE, _GROUP_SIZE_LOG2, _WARP_SIZE = np.uint64(GROUP_SIZE), np.uint64(GROUP_SIZE_LOG2), np.uint64(WARP_SIZE)


_CONSTANTS = constants(f"sha{SHA}")
_WORD_BITS = _CONSTANTS.word_bits
_ROUNDS = len(_CONSTANTS.k)


def _words(values: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(map(np.uint32 if SHA == 256 else np.uint64, values))


K, INITIAL = _words(_CONSTANTS.k), _words(_CONSTANTS.initial)

WORD_BYTES = np.uint64(_WORD_BITS // 8)
DIGEST_BYTES = np.uint64(SHA // 8)
DIGEST_WORDS32 = np.uint64(SHA // 32)
BLOCK_BYTES = np.uint64(16 * _WORD_BITS // 8)
LENGTH_BYTES = np.uint64(2 * _WORD_BITS // 8)

# Selectors of byte permutation for the big-endian word of bytes `shift` to `shift` + 3 of two words. A shift of 0
# selects the second word.
SELECT_ALIGNED, SELECT_SHIFTED, SELECT_STEP = np.uint32(0x4567), np.uint32(0x0123), np.uint32(0x1111)
SELECT_AFTER_TAG = np.uint32(0x3456)

# A message schedule in a table.
SCHEDULE_BYTES = WORD_BYTES * np.uint64(_ROUNDS)
SIXTEEN_WORDS = WORD_BYTES * _16

# The words between the first and the last two of a block of padding and length alone.
PADDING = np.uint32(0x80000000)
NO_PADDING_WORDS = (np.uint32(0),) * (_WORD_BITS // 2 - 3)
NO_BLOCK = (np.uint32(0),) * (_WORD_BITS // 2)

BLOCKS_AHEAD = np.uint64(8)
ALL_BLOCKS = np.uint64(2**64 - 1)

# The message of a node: the tag in the word before the digests; after them their last byte, padding, length in bits.
NODE_TAG = np.uint32(0x01000000)
LAST_BYTE, PADDING_AFTER_BYTE = np.uint32(0xFF000000), np.uint32(0x00800000)
_NODE_BYTES = 1 + 2 * SHA // 8
NODE_TAIL = tuple(np.uint32(n) for n in [0] * (-(_NODE_BYTES + 3) % (2 * _WORD_BITS) // 4 - 1) + [8 * _NODE_BYTES])

NOTHING = np.uint32(0)

# SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014)
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

if SHA == 256:
    word = uint32

    @device
    def big_sigma_0(x: Any) -> Any:  # FIPS 180-4 (4.4)
        return word(rotate_right(x, 2) ^ rotate_right(x, 13) ^ rotate_right(x, 22))

    @device
    def big_sigma_1(x: Any) -> Any:  # (4.5)
        return word(rotate_right(x, 6) ^ rotate_right(x, 11) ^ rotate_right(x, 25))

    @device
    def small_sigma_0(x: Any) -> Any:  # (4.6)
        return word(rotate_right(x, 7) ^ rotate_right(x, 18) ^ (x >> 3))

    @device
    def small_sigma_1(x: Any) -> Any:  # (4.7)
        return word(rotate_right(x, 17) ^ rotate_right(x, 19) ^ (x >> 10))

else:
    word = uint64

    def multiplied_funnel_shift(k: int) -> Any:
        """The function of (high, low) that is high << k | low >> (32 - k) for 0 < k < 16, on the multiply-add pipe.

        `kernels/device/sha2.h` explains it.
        """
        upper_half, factor, factors = np.uint32(0x100), np.uint32(1 << k), np.uint32(0x100 << k)

        if k < 8:

            @device
            def shifted(low: Any) -> Any:
                return dot_product(low, factors, NOTHING)

        else:

            @device
            def shifted(low: Any) -> Any:
                return multiply_add(dot_product(low, upper_half, NOTHING), factor, NOTHING)

        @device
        def funnel_shift(high: Any, low: Any) -> Any:
            return multiply_add(high, factor, dot_product(shifted(low), upper_half, NOTHING))

        return funnel_shift

    def balanced_rotate_right(n: int) -> Any:
        """The function that rotates right by `n`, where 64 - n is 1 to 15 modulo 32."""
        if not ROTATED or ARCHITECTURE >= 120:
            distance = np.uint64(n)

            @device
            def rotate(x: Any) -> Any:
                return rotate_right(x, distance)

            return rotate
        funnel_shift = multiplied_funnel_shift((64 - n) % 32)
        start = np.uint64(0 if n > 32 else 32)

        @device
        def rotate_by_multiplying(x: Any) -> Any:
            high, low = uint32(x >> (start ^ _32)), uint32(x >> start)
            return word(word(funnel_shift(high, low)) << 32 | funnel_shift(low, high))

        return rotate_by_multiplying

    rotate_right_18, rotate_right_28, rotate_right_61 = map(balanced_rotate_right, (18, 28, 61))

    if BALANCED and HAVE_FP64_PIPE:

        @device
        def shift_right(x: Any, n: Any) -> Any:
            """X >> n, with the upper half on the double-precision pipe."""
            high = fp64_shift_right(uint32(x >> 32), n)
            return word(word(high) << 32 | uint32(x >> n))

    else:

        @device
        def shift_right(x: Any, n: Any) -> Any:
            return word(x >> n)

    @device
    def big_sigma_0(x: Any) -> Any:  # FIPS 180-4 (4.10)
        return word(rotate_right_28(x) ^ rotate_right(x, 34) ^ rotate_right(x, 39))

    @device
    def big_sigma_1(x: Any) -> Any:  # (4.11)
        return word(rotate_right(x, 14) ^ rotate_right_18(x) ^ rotate_right(x, 41))

    @device
    def small_sigma_0(x: Any) -> Any:  # (4.12)
        return word(rotate_right(x, 1) ^ rotate_right(x, 8) ^ shift_right(x, 7))

    @device
    def small_sigma_1(x: Any) -> Any:  # (4.13)
        return word(rotate_right(x, 19) ^ rotate_right_61(x) ^ shift_right(x, 6))


@device
def choose(x: Any, y: Any, z: Any) -> Any:
    """Ch, FIPS 180-4 (4.2) and (4.8)."""
    return word(z ^ (x & (y ^ z)))


@device
def majority(x: Any, y: Any, z: Any) -> Any:
    """Maj, FIPS 180-4 (4.3) and (4.9)."""
    return word((x & y) | (z & (x | y)))


if BALANCED and SHA == 256:

    @device
    def add(x: Any, y: Any, one: Any) -> Any:
        """The sum, on the multiply-add pipe: `one` is a kernel argument, so the compiler cannot simplify it."""
        return multiply_add(x, one, y)

else:

    @device
    def add(x: Any, y: Any, one: Any) -> Any:
        return word(x + y)


if ARCHITECTURE in (90, 100):

    @device
    def add_constant(w: Any, k: Any, one: Any) -> Any:
        """The sum, in the compiler's addition of a constant, which is not the logic pipe's for these alone."""
        return word(k + w)

else:
    add_constant = add


@device
def one_round(v: Any, w_plus_k: Any, one: Any) -> Any:
    """The working variables a to h after one round of FIPS 180-4 sections 6.2.2 and 6.4.2, with W_t + K_t."""
    a, b, c, d, e, f, g, h = v
    t1 = add(add(h, big_sigma_1(e), one), add(choose(e, f, g), w_plus_k, one), one)
    t2 = add(big_sigma_0(a), majority(a, b, c), one)
    return add(t1, t2, one), a, b, c, add(d, t1, one), e, f, g


@device
def short_round(v: Any, w_plus_k: Any, one: Any) -> Any:
    """The same with more additions, one of which lies between two values of e instead of two.

    That is faster for a thread without others beside it.
    """
    a, b, c, d, e, f, g, h = v
    total = add(add(h, w_plus_k, one), choose(e, f, g), one)
    sigma = big_sigma_1(e)
    rest = add(add(add(total, sigma, one), majority(a, b, c), one), big_sigma_0(a), one)
    return rest, a, b, c, add(add(d, total, one), sigma, one), e, f, g


@device
def next_word(w: Any, one: Any) -> Any:
    """The latest 16 words of the message schedule, advanced by one word."""
    new = add(add(w[0], w[9], one), add(small_sigma_0(w[1]), small_sigma_1(w[14]), one), one)
    return w[1:] + (new,)


@device
def scheduling_round(v: Any, w: Any, k: Any, one: Any) -> Any:
    """One round before the last 16, over w[0], and the next 16 words of the message schedule."""
    return one_round(v, add_constant(w[0], k, one), one), next_word(w, one)


@device
def sixteen_words(w: Any, one: Any) -> Any:
    """The next 16 words of the message schedule after `w`."""
    w = next_word(next_word(next_word(next_word(w, one), one), one), one)
    w = next_word(next_word(next_word(next_word(w, one), one), one), one)
    w = next_word(next_word(next_word(next_word(w, one), one), one), one)
    return next_word(next_word(next_word(next_word(w, one), one), one), one)


@device
def last_rounds(v: Any, w: Any, k: Any, one: Any) -> Any:
    v = one_round(v, add_constant(w[0], k[0], one), one)
    v = one_round(v, add_constant(w[1], k[1], one), one)
    v = one_round(v, add_constant(w[2], k[2], one), one)
    v = one_round(v, add_constant(w[3], k[3], one), one)
    v = one_round(v, add_constant(w[4], k[4], one), one)
    v = one_round(v, add_constant(w[5], k[5], one), one)
    v = one_round(v, add_constant(w[6], k[6], one), one)
    v = one_round(v, add_constant(w[7], k[7], one), one)
    v = one_round(v, add_constant(w[8], k[8], one), one)
    v = one_round(v, add_constant(w[9], k[9], one), one)
    v = one_round(v, add_constant(w[10], k[10], one), one)
    v = one_round(v, add_constant(w[11], k[11], one), one)
    v = one_round(v, add_constant(w[12], k[12], one), one)
    v = one_round(v, add_constant(w[13], k[13], one), one)
    v = one_round(v, add_constant(w[14], k[14], one), one)
    return one_round(v, add_constant(w[15], k[15], one), one)


@device
def scheduling_rounds(v: Any, w: Any, k: Any, one: Any) -> Any:
    v, w = scheduling_round(v, w, k[0], one)
    v, w = scheduling_round(v, w, k[1], one)
    v, w = scheduling_round(v, w, k[2], one)
    v, w = scheduling_round(v, w, k[3], one)
    v, w = scheduling_round(v, w, k[4], one)
    v, w = scheduling_round(v, w, k[5], one)
    v, w = scheduling_round(v, w, k[6], one)
    v, w = scheduling_round(v, w, k[7], one)
    v, w = scheduling_round(v, w, k[8], one)
    v, w = scheduling_round(v, w, k[9], one)
    v, w = scheduling_round(v, w, k[10], one)
    v, w = scheduling_round(v, w, k[11], one)
    v, w = scheduling_round(v, w, k[12], one)
    v, w = scheduling_round(v, w, k[13], one)
    v, w = scheduling_round(v, w, k[14], one)
    return scheduling_round(v, w, k[15], one)


if SHA == 256:

    @device
    def all_rounds(v: Any, w: Any, one: Any) -> Any:
        v, w = scheduling_rounds(v, w, K[:16], one)
        v, w = scheduling_rounds(v, w, K[16:32], one)
        v, w = scheduling_rounds(v, w, K[32:48], one)
        return last_rounds(v, w, K[48:], one)

else:
    K_BY_SIXTEEN = np.array(K).reshape(5, 16)

    @device
    def all_rounds(v: Any, w: Any, one: Any) -> Any:
        """A loop, because 80 rounds of 64-bit code do not fit into the instruction cache."""
        k = cuda.const.array_like(K_BY_SIXTEEN)
        for turn in range(_4):
            v, w = scheduling_rounds(v, w, k[turn], one)
        return last_rounds(v, w, K[64:], one)


@device
def compress(state: Any, w: Any, one: Any) -> Any:
    """FIPS 180-4 sections 6.2.2 and 6.4.2: `state` updated with the message block of the 16 words `w`."""
    return add_to_state(state, all_rounds(state, w, one), one)


if HELD and SHA == 256:

    @device
    def compress_early(state: Any, w: Any, one: Any) -> Any:
        """`compress` after loads that the compiler would delay. It moves none past this branch, never taken."""
        v, w = scheduling_rounds(state, w, K[:16], one)
        if one == uint32(0):
            return state
        v, w = scheduling_rounds(v, w, K[16:32], one)
        v, w = scheduling_rounds(v, w, K[32:48], one)
        return add_to_state(state, last_rounds(v, w, K[48:], one), one)

else:
    compress_early = compress


@device
def add_to_state(state: Any, v: Any, one: Any) -> Any:
    a, b, c, d, e, f, g, h = v
    return (
        add(state[0], a, one),
        add(state[1], b, one),
        add(state[2], c, one),
        add(state[3], d, one),
        add(state[4], e, one),
        add(state[5], f, one),
        add(state[6], g, one),
        add(state[7], h, one),
    )


if SHA == 256:

    @device
    def load_16_words(source: Any) -> Any:
        return load_u32x4(source) + load_u32x4(source + _16) + load_u32x4(source + _32) + load_u32x4(source + _48)

else:

    @device
    def load_8_words(source: Any) -> Any:
        return load_u64x2(source) + load_u64x2(source + _16) + load_u64x2(source + _32) + load_u64x2(source + _48)

    @device
    def load_16_words(source: Any) -> Any:
        return load_8_words(source) + load_8_words(source + _64)


@device
def sixteen_rounds(v: Any, w_plus_k: Any, one: Any) -> Any:
    v = one_round(v, w_plus_k[0], one)
    v = one_round(v, w_plus_k[1], one)
    v = one_round(v, w_plus_k[2], one)
    v = one_round(v, w_plus_k[3], one)
    v = one_round(v, w_plus_k[4], one)
    v = one_round(v, w_plus_k[5], one)
    v = one_round(v, w_plus_k[6], one)
    v = one_round(v, w_plus_k[7], one)
    v = one_round(v, w_plus_k[8], one)
    v = one_round(v, w_plus_k[9], one)
    v = one_round(v, w_plus_k[10], one)
    v = one_round(v, w_plus_k[11], one)
    v = one_round(v, w_plus_k[12], one)
    v = one_round(v, w_plus_k[13], one)
    v = one_round(v, w_plus_k[14], one)
    return one_round(v, w_plus_k[15], one)


@device
def compress_tabled(state: Any, schedules: Any, byte: Any, one: Any) -> Any:
    """`compress` with row number `byte` of a table of W_t + K_t."""
    schedule = schedules + uint64(byte) * SCHEDULE_BYTES
    end = schedule + SCHEDULE_BYTES
    v = state
    while schedule < end:
        v = sixteen_rounds(v, load_16_words(schedule), one)
        schedule += SIXTEEN_WORDS
    return add_to_state(state, v, one)


@device
def compress_tabled_early(state: Any, schedules: Any, byte: Any, one: Any) -> Any:
    """The same. The words are loaded 16 rounds before they are needed."""
    schedule = schedules + uint64(byte) * SCHEDULE_BYTES
    end = schedule + SCHEDULE_BYTES
    v, following = state, load_16_words(schedule)
    while schedule < end:
        these = following
        schedule += SIXTEEN_WORDS
        if schedule < end:
            following = load_16_words(schedule)
        v = sixteen_rounds(v, these, one)
    return add_to_state(state, v, one)


# Messages anywhere in device memory. `kernels/device/message.h` explains how their words come from aligned words of
# memory. A block is a tuple of 32-bit words until it is compressed.


@device
def four_from_one(source: Any) -> Any:
    return load_u32(source), load_u32(source + _4), load_u32(source + _8), load_u32(source + _12)


load_four = load_message_u32x4 if PREFETCHED and ARCHITECTURE >= 80 else load_u32x4


@device
def wide_64(source: Any) -> Any:
    """The 64 bytes at `source`, a multiple of 16, as 16 words."""
    return load_four(source) + load_four(source + _16) + load_four(source + _32) + load_four(source + _48)


@device
def narrow_64(source: Any) -> Any:
    """The 64 bytes at `source`, a multiple of 4, as 16 words."""
    return (
        four_from_one(source) + four_from_one(source + _16) + four_from_one(source + _32) + four_from_one(source + _48)
    )


@device
def padded_word(data: Any, length: Any, tagged: Any, position: Any) -> Any:
    """The four bytes at `position` of the message tag || data || padding, as a big-endian word.

    Padding is that of FIPS 180-4 section 5.1. Bytes are read one by one, so that nothing outside the data is read.
    """
    result = uint32(0)
    if position < tagged + length + _1:
        i = position - tagged  # wraps around for the tag, whose byte is 0
        result = padded_byte(data, length, i)
        result = uint32(result << 8 | padded_byte(data, length, i + _1))
        result = uint32(result << 8 | padded_byte(data, length, i + _2))
        result = uint32(result << 8 | padded_byte(data, length, i + _3))
    return result


@device
def padded_byte(data: Any, length: Any, i: Any) -> Any:
    byte = uint32(0)
    if i < length:
        byte = load_u8(data + i)
    elif i == length:
        byte = uint32(0x80)
    return byte


@device
def four_padded(data: Any, length: Any, tagged: Any, position: Any) -> Any:
    return (
        padded_word(data, length, tagged, position),
        padded_word(data, length, tagged, position + _4),
        padded_word(data, length, tagged, position + _8),
        padded_word(data, length, tagged, position + _12),
    )


@device
def padded_64(data: Any, length: Any, tagged: Any, position: Any) -> Any:
    return (
        four_padded(data, length, tagged, position)
        + four_padded(data, length, tagged, position + _16)
        + four_padded(data, length, tagged, position + _32)
        + four_padded(data, length, tagged, position + _48)
    )


@device
def cut_four(before: Any, raw: Any, selector: Any) -> Any:
    """The big-endian words in four aligned words of memory and the word before them."""
    return (
        byte_permute(before, raw[0], selector),
        byte_permute(raw[0], raw[1], selector),
        byte_permute(raw[1], raw[2], selector),
        byte_permute(raw[2], raw[3], selector),
    )


@device
def cut_64(before: Any, raw: Any, selector: Any) -> Any:
    return (
        cut_four(before, raw[:4], selector)
        + cut_four(raw[3], raw[4:8], selector)
        + cut_four(raw[7], raw[8:12], selector)
        + cut_four(raw[11], raw[12:], selector)
    )


if SHA == 256:
    wide_block, narrow_block, padded_block, cut_block = wide_64, narrow_64, padded_64, cut_64

    @device
    def block_words(block: Any) -> Any:
        """The words that the algorithm works on."""
        return block

    @device
    def load_digest(slot: Any) -> Any:
        return load_u32x4(slot) + load_u32x4(slot + _16)

    @device
    def store_word(address: Any, value: Any) -> None:
        store_u32(address, byte_permute(value, value, SELECT_ALIGNED))

else:

    @device
    def wide_block(source: Any) -> Any:
        return wide_64(source) + wide_64(source + _64)

    @device
    def narrow_block(source: Any) -> Any:
        return narrow_64(source) + narrow_64(source + _64)

    @device
    def padded_block(data: Any, length: Any, tagged: Any, position: Any) -> Any:
        return padded_64(data, length, tagged, position) + padded_64(data, length, tagged, position + _64)

    @device
    def cut_block(before: Any, raw: Any, selector: Any) -> Any:
        return cut_64(before, raw[:16], selector) + cut_64(raw[15], raw[16:], selector)

    @device
    def join(high: Any, low: Any) -> Any:
        return word(word(high) << 32 | word(low))

    @device
    def pairs(block: Any) -> Any:
        return (
            join(block[0], block[1]),
            join(block[2], block[3]),
            join(block[4], block[5]),
            join(block[6], block[7]),
        )

    @device
    def block_words(block: Any) -> Any:
        return pairs(block[:8]) + pairs(block[8:16]) + pairs(block[16:24]) + pairs(block[24:])

    @device
    def load_digest(slot: Any) -> Any:
        return load_u32x4(slot) + load_u32x4(slot + _16) + load_u32x4(slot + _32)

    @device
    def store_word(address: Any, value: Any) -> None:
        high, low = uint32(value >> 32), uint32(value)
        store_u32(address, byte_permute(high, high, SELECT_ALIGNED))
        store_u32(address + _4, byte_permute(low, low, SELECT_ALIGNED))


@device
def block_count(length: Any, tagged: Any) -> Any:
    """The number of blocks of the message tag || data || padding."""
    return (tagged + length + LENGTH_BYTES) // BLOCK_BYTES + _1


@device
def read_block(data: Any, length: Any, tagged: Any, block: Any) -> Any:
    """Any block of the message tag || data || padding, as 32-bit words."""
    # Message word i starts `shift` bytes into aligned word i - 1 and ends in word i. If `shift` is 0 it is word i.
    shift = (data - tagged) & _3
    aligned = data - tagged - shift
    selector = SELECT_ALIGNED
    if shift != _0:
        aligned += _4
        selector = uint32(SELECT_SHIFTED + uint32(shift) * SELECT_STEP)

    # All aligned words that blocks first_inner to end_inner - 1 touch are inside the data. The other blocks, which
    # contain the tag or padding, are read byte by byte.
    first_inner = _0
    if shift != _3:
        first_inner = tagged
    end = data + length
    end_inner = _0
    if end > aligned:
        end_inner = (end - aligned) // BLOCK_BYTES
    if block >= first_inner and block < end_inner:
        source = aligned + block * BLOCK_BYTES
        before = uint32(0)  # the tag
        if shift != _0 and (block > _0 or tagged == _0):
            before = load_u32(source - _4)
        return cut_block(before, narrow_block(source), selector)
    message = padded_block(data, length, tagged, block * BLOCK_BYTES)
    if block == block_count(length, tagged) - _1:
        bits = (tagged + length) * _8
        message = message[:-2] + (uint32(bits >> _32), uint32(bits))
    return message


@device
def is_full_and_aligned(data: Any, length: Any, full_chunk_bytes: Any) -> Any:
    """Whether the message is a full chunk that can be read 16 bytes at a time."""
    return length == full_chunk_bytes and data & _15 == _0


@device
def full_chunk_selector(tagged: Any) -> Any:
    """The selector for a message whose data is at a multiple of 16."""
    selector = SELECT_ALIGNED
    if tagged != _0:
        selector = SELECT_AFTER_TAG
    return selector


@device
def padding_block(length: Any, tagged: Any, before: Any) -> Any:
    """The block of padding after data of whole blocks, whose last aligned word is `before`."""
    bits = (tagged + length) * _8
    first = PADDING
    if tagged != _0:
        first = uint32(before & LAST_BYTE | PADDING_AFTER_BYTE)
    return (first,) + NO_PADDING_WORDS + (uint32(bits >> _32), uint32(bits))


@device
def word_before(data: Any, first: Any) -> Any:
    """The aligned word before block `first` of a message whose data is at a multiple of 16."""
    before = NOTHING  # the tag
    if first > _0:
        before = load_u32(data + first * BLOCK_BYTES - _4)
    return before


@device
def compress_blocks(state: Any, data: Any, first: Any, end: Any, selector: Any, one: Any) -> Any:
    """`state` updated with blocks `first` to `end` - 1 of a message, and the last word of their data."""
    before = word_before(data, first)
    block = first
    while block < end:
        raw = wide_block(data + block * BLOCK_BYTES)
        state = compress(state, block_words(cut_block(before, raw, selector)), one)
        before = raw[-1]
        block += _1
    return state, before


@device
def compress_blocks_early(state: Any, data: Any, first: Any, end: Any, selector: Any, one: Any) -> Any:
    """The same. Each block is loaded while the one before it is compressed."""
    before = word_before(data, first)
    block = first
    raw = NO_BLOCK
    if first < end:
        raw = wide_block(data + first * BLOCK_BYTES)
    while block < end:
        message = cut_block(before, raw, selector)
        before = raw[-1]
        block += _1
        if block < end:
            raw = wide_block(data + block * BLOCK_BYTES)
        if SHA == 256 and block + BLOCKS_AHEAD < end:
            prefetch_message(data + (block + BLOCKS_AHEAD) * BLOCK_BYTES)
        state = compress_early(state, block_words(message), one)
    return state, before


@device
def hash_blocks(
    state: Any,
    data: Any,
    length: Any,
    tagged: Any,
    full_chunk_bytes: Any,
    first: Any,
    end: Any,
    schedules: Any,
    compress_full: Any,
    one: Any,
) -> Any:
    """`state` updated with the blocks `first` to `end` - 1 of the message tag || data || padding, if it has that many.

    Messages of `full_chunk_bytes` at a multiple of 16 are read 16 bytes at a time, by `compress_full`.
    """
    block = first
    before = NOTHING
    full = is_full_and_aligned(data, length, full_chunk_bytes)
    if full:
        whole = full_chunk_bytes // BLOCK_BYTES
        block = min(whole, end)
        state, before = compress_full(state, data, first, block, full_chunk_selector(tagged), one)
        if TABLED and full_chunk_bytes % BLOCK_BYTES == _0:
            block = end  # nothing is left
            if end > whole:
                byte = NOTHING
                if tagged != _0:
                    byte = uint32(before >> 24)
                state = compress_tabled(state, schedules, byte, one)
    blocks = min(block_count(length, tagged), end)  # only now, so that no registers keep it in the loop above
    while block < blocks:
        if not TABLED and full and full_chunk_bytes % BLOCK_BYTES == _0:
            message = padding_block(length, tagged, before)
        else:
            message = read_block(data, length, tagged, block)
        state = compress(state, block_words(message), one)
        block += _1
    return state


# The kernels (`kernels/device/tree.h`)


@device
def find_segment(first: Any, segments: Any, i: Any, shift: Any, spread: Any) -> Any:
    """The last segment s with key(s) <= i, where key(s) = (first[s] >> shift) + s * spread and key(0) = 0."""
    low, high = _0, segments
    while high - low > _1:
        middle = low + (high - low) // _2
        if (load_u64(first + _8 * middle) >> shift) + middle * spread <= i:
            low = middle
        else:
            high = middle
    return low


@device
def store_digest(slot: Any, state: Any) -> None:
    store_word(slot, state[0])
    store_word(slot + WORD_BYTES, state[1])
    store_word(slot + _2 * WORD_BYTES, state[2])
    store_word(slot + _3 * WORD_BYTES, state[3])
    store_word(slot + _4 * WORD_BYTES, state[4])
    store_word(slot + _5 * WORD_BYTES, state[5])
    if SHA == 256:
        store_word(slot + _6 * WORD_BYTES, state[6])
        store_word(slot + _7 * WORD_BYTES, state[7])


@device
def hash_node(left: Any, right: Any, schedules: Any, one: Any) -> Any:
    """The node hash H(0x01 || left || right) of two digests at addresses that are multiples of 16, as eight words."""
    raw = load_digest(left) + load_digest(right)
    start = cut_64(NODE_TAG, raw[:16], SELECT_AFTER_TAG)
    padding = (uint32(raw[-1] & LAST_BYTE | PADDING_AFTER_BYTE),)
    if SHA == 256:
        state = compress(INITIAL, start, one)
        if TABLED:
            return compress_tabled_early(state, schedules, raw[-1] >> 24, one)
        return compress(state, padding + NODE_TAIL, one)
    rest = cut_four(raw[15], raw[16:20], SELECT_AFTER_TAG) + cut_four(raw[19], raw[20:], SELECT_AFTER_TAG)
    return compress(INITIAL, block_words(start + rest + padding + NODE_TAIL), one)


@device
def thread() -> Any:
    return uint64(cuda.blockIdx.x) * _GROUP_SIZE + uint64(cuda.threadIdx.x)


@device
def segment_of_chunk(table: Any, segments: Any, partial_chunks: Any, chunks: Any, chunk: Any) -> Any:
    """The segment of chunk number `chunk` of a call, and the chunk's number in the segment.

    Partial chunks are numbered first, longest first, then the full ones: so neighbouring threads take the same path,
    and slow threads start early.
    """
    full_before = table + _24 * segments
    if chunk < partial_chunks:
        segment = load_u64(full_before + _8 * (segments + chunk))
        end = chunks - partial_chunks
        if segment + _1 < segments:
            end = load_u64(full_before + _8 * (segment + _1))
        return segment, end - load_u64(full_before + _8 * segment)
    segment = find_segment(full_before, segments, chunk - partial_chunks, _0, _0)
    return segment, chunk - partial_chunks - load_u64(full_before + _8 * segment)


@device
def find_chunk(
    base: Any, table: Any, segments: Any, chunk_size: Any, partial_chunks: Any, chunks: Any, chunk: Any, tagged: Any
) -> Any:
    """The first byte of chunk number `chunk`, its length, and whether it has the leaf prefix.

    An empty segment of a tree has one slot, for the root of the empty tree, H(""), which has no leaf prefix.
    """
    segment, index = segment_of_chunk(table, segments, partial_chunks, chunks, chunk)
    start = index * chunk_size
    length = chunk_size
    if chunk < partial_chunks:
        length = load_u64(table + _8 * (segments + segment)) - start
    tag = uint64(tagged)
    if length == _0:
        tag = _0
    return base + load_u64(table + _8 * segment) + start, length, tag


@device
def find_slot(digests: Any, table: Any, segments: Any, partial_chunks: Any, chunks: Any, chunk: Any, one: Any) -> Any:
    """The chunk's slot. It is computed again after the rounds, which need the registers that would keep it.

    The factor `one` stops the compiler from seeing that it is the same computation.
    """
    segment, index = segment_of_chunk(table, segments, partial_chunks, chunks, chunk * uint64(one))
    return digests + (load_u64(table + _8 * (_2 * segments + segment)) + index) * DIGEST_BYTES


@device
def hash_chunk(
    base: Any,
    table: Any,
    segments: Any,
    chunk_size: Any,
    tagged: Any,
    partial_chunks: Any,
    chunks: Any,
    schedules: Any,
    digests: Any,
    compress_full: Any,
    one: Any,
) -> None:
    chunk = thread()
    if chunk >= chunks:
        return
    data, length, tag = find_chunk(base, table, segments, chunk_size, partial_chunks, chunks, chunk, tagged)
    state = hash_blocks(INITIAL, data, length, tag, chunk_size, _0, ALL_BLOCKS, schedules, compress_full, one)
    store_digest(find_slot(digests, table, segments, partial_chunks, chunks, chunk, one), state)


@kernel(CHUNK_BOUNDS)
def hash_chunks(
    base: Any,
    table: Any,
    segments: Any,
    chunk_size: Any,
    tagged: Any,
    partial_chunks: Any,
    chunks: Any,
    schedules: Any,
    digests: Any,
    one: Any,
) -> None:
    """One thread per chunk: writes its digest, or its leaf hash if `tagged`, to its slot."""
    hash_chunk(
        base, table, segments, chunk_size, tagged, partial_chunks, chunks, schedules, digests, compress_blocks, one
    )


if EARLY:

    @kernel(EARLY_BOUNDS)
    def hash_chunks_early(
        base: Any,
        table: Any,
        segments: Any,
        chunk_size: Any,
        tagged: Any,
        partial_chunks: Any,
        chunks: Any,
        schedules: Any,
        digests: Any,
        one: Any,
    ) -> None:
        """Like `hash_chunks`, with more registers: each thread loads a block while it compresses the one before it.

        That is faster if there are too few threads to hide the memory's latency.
        """
        hash_chunk(
            base,
            table,
            segments,
            chunk_size,
            tagged,
            partial_chunks,
            chunks,
            schedules,
            digests,
            compress_blocks_early,
            one,
        )


if SLICED and SHA == 256:

    @device
    def store_state(address: Any, state: Any) -> None:
        store_u32(address, state[0])
        store_u32(address + _4, state[1])
        store_u32(address + _8, state[2])
        store_u32(address + _12, state[3])
        store_u32(address + _16, state[4])
        store_u32(address + _20, state[5])
        store_u32(address + _24, state[6])
        store_u32(address + _28, state[7])

    @kernel(CHUNK_BOUNDS)
    def hash_chunks_sliced(
        base: Any,
        table: Any,
        segments: Any,
        chunk_size: Any,
        tagged: Any,
        partial_chunks: Any,
        chunks: Any,
        schedules: Any,
        digests: Any,
        slices: Any,
        slice_blocks: Any,
        states: Any,
        done: Any,
        one: Any,
    ) -> None:
        """Like `hash_chunks`, with one thread for each slice of a chunk. `kernels/device/tree.h` explains it."""
        groups = (chunks + _GROUP_SIZE - _1) // _GROUP_SIZE
        part = uint64(uint32(cuda.blockIdx.x) // uint32(groups))
        chunk = thread() - part * groups * _GROUP_SIZE
        if chunk >= chunks:
            return
        data, length, tag = find_chunk(base, table, segments, chunk_size, partial_chunks, chunks, chunk, tagged)
        state = INITIAL
        if part > _0:
            while load_acquire(done + _4 * chunk) != uint32(part):
                pass
            state = load_digest(states + _32 * chunk)
        first = part * uint64(slice_blocks)
        end = ALL_BLOCKS
        if part + _1 < uint64(slices):
            end = first + uint64(slice_blocks)
        state = hash_blocks(state, data, length, tag, chunk_size, first, end, schedules, compress_blocks, one)
        chunk = chunk * uint64(one)  # as in `find_slot`
        if part + _1 < uint64(slices):
            store_state(states + _32 * chunk, state)
            store_release(done + _4 * chunk, uint32(part + _1))
        else:
            store_u32(done + _4 * chunk, NOTHING)
            store_digest(find_slot(digests, table, segments, partial_chunks, chunks, chunk, one), state)


if PAIRED:
    PAIRS = np.uint64(GROUP_SIZE // 2)
    STAGED = 64 if SHA == 256 else 16  # words of the schedule between two barriers
    ROW = np.uint64(16) * PAIRS  # 16 bytes of W_t + K_t for every pair
    BUFFER = np.uint64(STAGED) * WORD_BYTES * PAIRS

    stage_memory = shared_memory(2 * int(BUFFER))

    if SHA == 256:

        @device
        def put_on_stage(stage: Any, w: Any, k: Any, one: Any) -> None:
            """W_t + K_t of 16 rounds."""
            store_shared_u32x4(
                stage,
                (
                    add_constant(w[0], k[0], one),
                    add_constant(w[1], k[1], one),
                    add_constant(w[2], k[2], one),
                    add_constant(w[3], k[3], one),
                ),
            )
            stage += ROW
            store_shared_u32x4(
                stage,
                (
                    add_constant(w[4], k[4], one),
                    add_constant(w[5], k[5], one),
                    add_constant(w[6], k[6], one),
                    add_constant(w[7], k[7], one),
                ),
            )
            stage += ROW
            store_shared_u32x4(
                stage,
                (
                    add_constant(w[8], k[8], one),
                    add_constant(w[9], k[9], one),
                    add_constant(w[10], k[10], one),
                    add_constant(w[11], k[11], one),
                ),
            )
            stage += ROW
            store_shared_u32x4(
                stage,
                (
                    add_constant(w[12], k[12], one),
                    add_constant(w[13], k[13], one),
                    add_constant(w[14], k[14], one),
                    add_constant(w[15], k[15], one),
                ),
            )

        @device
        def expand_block(stage: Any, buffer: Any, w: Any, one: Any) -> Any:
            """Puts the message schedule of one block on the stage, and returns the next buffer."""
            stage += buffer
            put_on_stage(stage, w, K[:16], one)
            w = sixteen_words(w, one)
            put_on_stage(stage + _4 * ROW, w, K[16:32], one)
            w = sixteen_words(w, one)
            put_on_stage(stage + _8 * ROW, w, K[32:48], one)
            w = sixteen_words(w, one)
            put_on_stage(stage + _12 * ROW, w, K[48:], one)
            cuda.syncthreads()
            return BUFFER - buffer

        @device
        def four_staged_rounds(v: Any, stage: Any, one: Any) -> Any:
            these = load_shared_u32x4(stage)
            v = short_round(v, these[0], one)
            v = short_round(v, these[1], one)
            v = short_round(v, these[2], one)
            return short_round(v, these[3], one)

        @device
        def sixteen_staged_rounds(v: Any, stage: Any, one: Any) -> Any:
            v = four_staged_rounds(v, stage, one)
            v = four_staged_rounds(v, stage + ROW, one)
            v = four_staged_rounds(v, stage + _2 * ROW, one)
            return four_staged_rounds(v, stage + _3 * ROW, one)

        @device
        def staged_rounds(v: Any, stage: Any, buffer: Any, one: Any) -> Any:
            """All rounds of one block over what is on the stage, and the next buffer."""
            cuda.syncthreads()
            stage += buffer
            v = sixteen_staged_rounds(v, stage, one)
            v = sixteen_staged_rounds(v, stage + _4 * ROW, one)
            v = sixteen_staged_rounds(v, stage + _8 * ROW, one)
            v = sixteen_staged_rounds(v, stage + _12 * ROW, one)
            return v, BUFFER - buffer

    else:

        @device
        def put_on_stage(stage: Any, w: Any, k: Any, one: Any) -> None:
            """W_t + K_t of 16 rounds."""
            store_shared_u64x2(stage, (add_constant(w[0], k[0], one), add_constant(w[1], k[1], one)))
            store_shared_u64x2(stage + ROW, (add_constant(w[2], k[2], one), add_constant(w[3], k[3], one)))
            store_shared_u64x2(stage + _2 * ROW, (add_constant(w[4], k[4], one), add_constant(w[5], k[5], one)))
            store_shared_u64x2(stage + _3 * ROW, (add_constant(w[6], k[6], one), add_constant(w[7], k[7], one)))
            stage += _4 * ROW
            store_shared_u64x2(stage, (add_constant(w[8], k[8], one), add_constant(w[9], k[9], one)))
            store_shared_u64x2(stage + ROW, (add_constant(w[10], k[10], one), add_constant(w[11], k[11], one)))
            store_shared_u64x2(stage + _2 * ROW, (add_constant(w[12], k[12], one), add_constant(w[13], k[13], one)))
            store_shared_u64x2(stage + _3 * ROW, (add_constant(w[14], k[14], one), add_constant(w[15], k[15], one)))

        @device
        def expand_block(stage: Any, buffer: Any, w: Any, one: Any) -> Any:
            """Puts the message schedule of one block on the stage, and returns the next buffer."""
            k = cuda.const.array_like(K_BY_SIXTEEN)
            put_on_stage(stage + buffer, w, K[:16], one)
            for turn in range(_1, _5):
                cuda.syncthreads()
                buffer = BUFFER - buffer
                w = sixteen_words(w, one)
                put_on_stage(stage + buffer, w, k[turn], one)
            cuda.syncthreads()
            return BUFFER - buffer

        @device
        def two_staged_rounds(v: Any, stage: Any, one: Any) -> Any:
            these = load_shared_u64x2(stage)
            v = one_round(v, these[0], one)
            return one_round(v, these[1], one)

        @device
        def staged_rounds(v: Any, stage: Any, buffer: Any, one: Any) -> Any:
            """All rounds of one block over what is on the stage, and the next buffer."""
            for _ in range(_5):
                cuda.syncthreads()
                row = stage + buffer
                v = two_staged_rounds(v, row, one)
                v = two_staged_rounds(v, row + ROW, one)
                v = two_staged_rounds(v, row + _2 * ROW, one)
                v = two_staged_rounds(v, row + _3 * ROW, one)
                row += _4 * ROW
                v = two_staged_rounds(v, row, one)
                v = two_staged_rounds(v, row + ROW, one)
                v = two_staged_rounds(v, row + _2 * ROW, one)
                v = two_staged_rounds(v, row + _3 * ROW, one)
                buffer = BUFFER - buffer
            return v, buffer

    @device
    def expand_message(
        data: Any, length: Any, tagged: Any, full_chunk_bytes: Any, longest: Any, stage: Any, one: Any
    ) -> None:
        """The first thread of a pair: reads the blocks of the message and puts W_t + K_t on the double-buffered stage.

        It goes on for `longest` blocks, like its whole group.
        """
        blocks = block_count(length, tagged)
        full = is_full_and_aligned(data, length, full_chunk_bytes)
        wide = _0
        if full:
            wide = length // BLOCK_BYTES
        selector = full_chunk_selector(tagged)
        source = data
        raw = NO_BLOCK  # the next block, loaded long before it is needed
        if wide > _0:
            raw = wide_block(source)
        message = NO_BLOCK
        before = uint32(0)
        block, buffer = _0, _0
        while block < longest:
            if block < wide:
                message = cut_block(before, raw, selector)
                before = raw[-1]
                source += BLOCK_BYTES
                if block + _1 < wide:
                    raw = wide_block(source)
            elif full and full_chunk_bytes % BLOCK_BYTES == _0:
                message = padding_block(length, tagged, before)
            elif block < blocks:
                message = read_block(data, length, tagged, block)
            buffer = expand_block(stage, buffer, block_words(message), one)
            block += _1

    @device
    def run_rounds(blocks: Any, longest: Any, stage: Any, one: Any) -> Any:
        """The second thread of a pair: runs the rounds over what the first one put on the stage."""
        state = INITIAL
        block, buffer = _0, _0
        while block < longest:
            v, buffer = staged_rounds(state, stage, buffer, one)
            if block < blocks:  # later rounds were over what was left on the stage
                state = add_to_state(state, v, one)
            block += _1
        return state

    @kernel(PAIRED_BOUNDS)
    def hash_chunks_paired(
        base: Any,
        table: Any,
        segments: Any,
        chunk_size: Any,
        tagged: Any,
        partial_chunks: Any,
        chunks: Any,
        schedules: Any,
        digests: Any,
        one: Any,
    ) -> None:
        """Like `hash_chunks` with two threads per chunk, for calls of few chunks.

        The two threads are in neighbouring warps, so on two schedulers of a multiprocessor. All threads go through
        `longest` blocks, so that they meet at every barrier.
        """
        member = uint64(cuda.threadIdx.x)
        warp = member // _WARP_SIZE
        pair = warp // _2 * _WARP_SIZE + member % _WARP_SIZE
        chunk = uint64(cuda.blockIdx.x) * PAIRS + pair
        longest = block_count(chunk_size, uint64(tagged))
        present = min(chunk, chunks - _1)
        data, length, tag = find_chunk(base, table, segments, chunk_size, partial_chunks, chunks, present, tagged)
        stage = stage_memory() + _16 * pair
        if warp % _2 == _0:
            expand_message(data, length, tag, chunk_size, longest, stage, one)
        else:
            state = run_rounds(block_count(length, tag), longest, stage, one)
            if chunk < chunks:
                store_digest(find_slot(digests, table, segments, partial_chunks, chunks, chunk, one), state)


@kernel(GROUP_SIZE)
def gather_leaves(base: Any, table: Any, segments: Any, slots: Any, digests: Any) -> None:
    """One thread per 32-bit word of a leaf hash, for segments that consist of them: copies it to its slot."""
    i = thread()
    if i < slots * DIGEST_WORDS32:
        first = table + _16 * segments
        segment = find_segment(first, segments, i // DIGEST_WORDS32, _0, _0)
        place = i - load_u64(first + _8 * segment) * DIGEST_WORDS32
        source = base + load_u64(table + _8 * segment) + _4 * place
        word = load_u8(source) | load_u8(source + _1) << _8 | load_u8(source + _2) << _16
        store_u32(digests + _4 * i, uint32(word | load_u8(source + _3) << _24))


@device
def find_tile(table: Any, segments: Any, slots: Any, level: Any, levels: Any, tile: Any) -> Any:
    """Tile number `tile` of a call: up to 2^levels nodes at `level` with a common ancestor `levels` higher.

    The tiles of segment s are numbered from (its first slot >> (level + levels)) + s. Returns the slot of the first
    node, and the number of nodes, 0 if there is no such tile. `slots` is the number of chunks of the call.
    """
    first = table + _16 * segments
    shift = level + levels
    segment = find_segment(first, segments, tile, shift, _1)
    start = load_u64(first + _8 * segment)
    leaves = slots - start
    if segment + _1 < segments:
        leaves = load_u64(first + _8 * (segment + _1)) - start
    nodes = ((leaves - _1) >> level) + _1
    begin = (tile - (start >> shift) - segment) << levels
    if begin >= nodes:
        return start, _0
    return start + (begin << level), min(nodes - begin, _1 << levels)


@device
def join_nodes(left: Any, stride: Any, schedules: Any, one: Any) -> None:
    """Replaces `left` by the parent of it and of the node `stride` bytes after it."""
    store_digest(left, hash_node(left, left + stride, schedules, one))


@kernel(NODE_BOUNDS)
def hash_level(table: Any, segments: Any, slots: Any, level: Any, schedules: Any, digests: Any, one: Any) -> None:
    """One thread per node at `level` + 1 of any segment's tree, from its two children.

    No thread waits for another, which is faster if there are many nodes or segments.
    """
    low = uint64(level)
    slot, width = find_tile(table, segments, slots, low, _1, thread())
    if width == _2:
        join_nodes(digests + slot * DIGEST_BYTES, DIGEST_BYTES << low, schedules, one)


@kernel(NODE_BOUNDS)
def reduce_tiles(table: Any, segments: Any, slots: Any, level: Any, schedules: Any, digests: Any, one: Any) -> None:
    """One group per tile of 2 * GROUP_SIZE nodes at `level` of one segment's tree.

    It computes all levels above it in the tile, in place, in one launch.
    """
    low, pair = uint64(level), uint64(cuda.threadIdx.x)
    slot, width = find_tile(table, segments, slots, low, _GROUP_SIZE_LOG2 + _1, uint64(cuda.blockIdx.x))
    if width == _0:
        return
    tile = digests + slot * DIGEST_BYTES
    stride = DIGEST_BYTES << low
    while width > _1:
        if _2 * pair + _1 < width:
            join_nodes(tile + _2 * pair * stride, stride, schedules, one)
        width = (width + _1) // _2
        stride += stride
        cuda.syncthreads()


@kernel(GROUP_SIZE)
def gather_roots(table: Any, segments: Any, digests: Any, roots: Any) -> None:
    """One thread per 32-bit word of a root: copies the roots from the first slot of each segment."""
    i = thread()
    if i < segments * DIGEST_WORDS32:
        slot = load_u64(table + _16 * segments + _8 * (i // DIGEST_WORDS32))
        store_u32(roots + _4 * i, load_u32(digests + slot * DIGEST_BYTES + _4 * (i % DIGEST_WORDS32)))


@kernel(GROUP_SIZE)
def fill_random(words: Any, count: Any, seed: Any) -> None:
    """One thread per eight bytes: word i of the SplitMix64 sequence of `seed`, stored little-endian."""
    i = thread()
    if i < count:
        z = seed + (i + _1) * GOLDEN_GAMMA
        z = (z ^ (z >> _30)) * MIX_1
        z = (z ^ (z >> _27)) * MIX_2
        store_u64(words + _8 * i, z ^ (z >> _31))
