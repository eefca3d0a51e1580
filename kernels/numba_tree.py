# ruff: noqa: RUF005 - a sum of tuples is what Numba types and compiles without a detour
"""The device code in Python: what `kernels/device` says in C, function for function.

Like a C header, this text is executed once for each program that includes it, which defines SHA (256 or 384),
ARCHITECTURE (90 for sm_90) and the macros of a variant before: see `numba_cuda.program`.

Numba computes with uint32 in uint64, and with uint64 beside a signed number in float64: so every number has its type
here, and every result is cast back to `word`, the 32 or 64 bits that the algorithm works on. Loops that C unrolls are
functions called once for each step: the compiler inlines them, and types each of them only once.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np
from numba import cuda, uint32, uint64

from hashbench.kernels.layout import GROUP_SIZE, GROUP_SIZE_LOG2
from hashbench.kernels.numba_dialect import (
    byte_permute,
    device,
    fp64_shift_right,
    kernel,
    load_message_u32x4,
    load_u8,
    load_u32,
    load_u32x4,
    load_u64,
    multiply_add,
    rotate_right,
    store_u32,
    store_u64,
)

SHA: int = globals()["SHA"]
ARCHITECTURE: int = globals()["ARCHITECTURE"]
BALANCED: int = globals()["BALANCED"]
PREFETCHED: int = globals()["PREFETCHED"]

HAVE_FP64_PIPE = ARCHITECTURE in (80, 90, 100)

SIGNATURES = {
    "hash_chunks": (uint64, uint64, uint64, uint64, uint32, uint64, uint64, uint32),
    "reduce_tiles": (uint64, uint64, uint64, uint32, uint32, uint64, uint32),
    "gather_roots": (uint64, uint64, uint64, uint64),
    "fill_random": (uint64, uint64, uint64),
}
"""The kernels, and the types of their arguments: addresses are uint64."""

# Of SHA-384, with three blocks a multiprocessor asked for, every thread has the registers it wants.
LAUNCH_BOUNDS = GROUP_SIZE if SHA == 256 else (GROUP_SIZE, 3)

_0, _1, _2, _3, _4, _5, _6, _7, _8 = (np.uint64(n) for n in range(9))
_12, _15, _16, _27, _30, _31, _32, _48, _64 = (np.uint64(n) for n in (12, 15, 16, 27, 30, 31, 32, 48, 64))
_GROUP_SIZE, _GROUP_SIZE_LOG2 = np.uint64(GROUP_SIZE), np.uint64(GROUP_SIZE_LOG2)


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


_WORD_BITS = 32 if SHA == 256 else 64
_ROUNDS = 64 if SHA == 256 else 80
_PRIMES = _first_primes(_ROUNDS)


def _words(roots: list[int]) -> tuple[Any, ...]:
    """The first bits of the fractional parts of roots that are given in units of 2^-64."""
    dtype = np.uint32 if SHA == 256 else np.uint64
    return tuple(dtype((root % (1 << 64)) >> (64 - _WORD_BITS)) for root in roots)


# FIPS 180-4 sections 4.2.2 and 4.2.3: the cube roots of the first primes
K = _words([_cube_root(prime << 192) for prime in _PRIMES])
# FIPS 180-4 sections 5.3.3 and 5.3.4: the square roots of the first eight primes, or of the next eight
INITIAL = _words([isqrt(prime << 128) for prime in (_PRIMES[:8] if SHA == 256 else _PRIMES[8:16])])

WORD_BYTES = np.uint64(_WORD_BITS // 8)
DIGEST_BYTES = np.uint64(SHA // 8)
DIGEST_WORDS32 = np.uint64(SHA // 32)
BLOCK_BYTES = np.uint64(16 * _WORD_BITS // 8)
LENGTH_BYTES = np.uint64(2 * _WORD_BITS // 8)

# Selectors of byte permutation: of the bytes `shift` to `shift` + 3 of two words the big-endian word. With a shift of 0
# that is the second word's.
SELECT_ALIGNED, SELECT_SHIFTED, SELECT_STEP = np.uint32(0x4567), np.uint32(0x0123), np.uint32(0x1111)
SELECT_AFTER_TAG = np.uint32(0x3456)

# A node's message: the tag in the word before the digests; after them their last byte, padding and the length in bits.
NODE_TAG = np.uint32(0x01000000)
LAST_BYTE, PADDING_AFTER_BYTE = np.uint32(0xFF000000), np.uint32(0x00800000)
_NODE_BYTES = 1 + 2 * SHA // 8
NODE_TAIL = tuple(np.uint32(n) for n in [0] * (-(_NODE_BYTES + 3) % (2 * _WORD_BITS) // 4 - 1) + [8 * _NODE_BYTES])

UPPER_OF_2_52 = np.uint32(0x43300000)  # as a double

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
    def small_sigma_0(x: Any, one: Any) -> Any:  # (4.6)
        return word(rotate_right(x, 7) ^ rotate_right(x, 18) ^ (x >> 3))

    @device
    def small_sigma_1(x: Any, one: Any) -> Any:  # (4.7)
        return word(rotate_right(x, 17) ^ rotate_right(x, 19) ^ (x >> 10))

else:
    word = uint64

    @device
    def big_sigma_0(x: Any) -> Any:  # FIPS 180-4 (4.10)
        return word(rotate_right(x, 28) ^ rotate_right(x, 34) ^ rotate_right(x, 39))

    @device
    def big_sigma_1(x: Any) -> Any:  # (4.11)
        return word(rotate_right(x, 14) ^ rotate_right(x, 18) ^ rotate_right(x, 41))

    if BALANCED and HAVE_FP64_PIPE:

        @device
        def shift_right(x: Any, n: Any, one: Any) -> Any:
            """X >> n, of the upper half on the double-precision pipe."""
            high = fp64_shift_right(uint32(x >> 32), n, uint32(UPPER_OF_2_52 * one))
            return word(word(high) << 32 | uint32(x >> n))

    else:

        @device
        def shift_right(x: Any, n: Any, one: Any) -> Any:
            return word(x >> n)

    @device
    def small_sigma_0(x: Any, one: Any) -> Any:  # (4.12)
        return word(rotate_right(x, 1) ^ rotate_right(x, 8) ^ shift_right(x, 7, one))

    @device
    def small_sigma_1(x: Any, one: Any) -> Any:  # (4.13)
        return word(rotate_right(x, 19) ^ rotate_right(x, 61) ^ shift_right(x, 6, one))


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
        """The sum, on the multiply-add pipe: `one` is a kernel argument, so no compiler sees through the product."""
        return multiply_add(x, one, y)

else:

    @device
    def add(x: Any, y: Any, one: Any) -> Any:
        return word(x + y)


@device
def one_round(v: Any, w_plus_k: Any, one: Any) -> Any:
    """The working variables a to h after one round of FIPS 180-4 sections 6.2.2 and 6.4.2, with W_t + K_t."""
    a, b, c, d, e, f, g, h = v
    t1 = add(add(h, big_sigma_1(e), one), add(choose(e, f, g), w_plus_k, one), one)
    t2 = add(big_sigma_0(a), majority(a, b, c), one)
    return add(t1, t2, one), a, b, c, add(d, t1, one), e, f, g


@device
def scheduled_round(v: Any, w: Any, k: Any, one: Any) -> Any:
    """One round after the first 16. `w` are the latest 16 words of the message schedule, before the round and after."""
    new = add(add(w[0], w[9], one), add(small_sigma_0(w[1], one), small_sigma_1(w[14], one), one), one)
    return one_round(v, word(k + new), one), w[1:] + (new,)


@device
def first_rounds(v: Any, w: Any, k: Any, one: Any) -> Any:
    v = one_round(v, word(k[0] + w[0]), one)
    v = one_round(v, word(k[1] + w[1]), one)
    v = one_round(v, word(k[2] + w[2]), one)
    v = one_round(v, word(k[3] + w[3]), one)
    v = one_round(v, word(k[4] + w[4]), one)
    v = one_round(v, word(k[5] + w[5]), one)
    v = one_round(v, word(k[6] + w[6]), one)
    v = one_round(v, word(k[7] + w[7]), one)
    v = one_round(v, word(k[8] + w[8]), one)
    v = one_round(v, word(k[9] + w[9]), one)
    v = one_round(v, word(k[10] + w[10]), one)
    v = one_round(v, word(k[11] + w[11]), one)
    v = one_round(v, word(k[12] + w[12]), one)
    v = one_round(v, word(k[13] + w[13]), one)
    v = one_round(v, word(k[14] + w[14]), one)
    return one_round(v, word(k[15] + w[15]), one)


@device
def sixteen_rounds(v: Any, w: Any, k: Any, one: Any) -> Any:
    v, w = scheduled_round(v, w, k[0], one)
    v, w = scheduled_round(v, w, k[1], one)
    v, w = scheduled_round(v, w, k[2], one)
    v, w = scheduled_round(v, w, k[3], one)
    v, w = scheduled_round(v, w, k[4], one)
    v, w = scheduled_round(v, w, k[5], one)
    v, w = scheduled_round(v, w, k[6], one)
    v, w = scheduled_round(v, w, k[7], one)
    v, w = scheduled_round(v, w, k[8], one)
    v, w = scheduled_round(v, w, k[9], one)
    v, w = scheduled_round(v, w, k[10], one)
    v, w = scheduled_round(v, w, k[11], one)
    v, w = scheduled_round(v, w, k[12], one)
    v, w = scheduled_round(v, w, k[13], one)
    v, w = scheduled_round(v, w, k[14], one)
    return scheduled_round(v, w, k[15], one)


if SHA == 256:

    @device
    def all_rounds(v: Any, w: Any, one: Any) -> Any:
        v = first_rounds(v, w, K[:16], one)
        v, w = sixteen_rounds(v, w, K[16:32], one)
        v, w = sixteen_rounds(v, w, K[32:48], one)
        v, w = sixteen_rounds(v, w, K[48:], one)
        return v

else:
    K_BY_SIXTEEN = np.array(K).reshape(5, 16)

    @device
    def all_rounds(v: Any, w: Any, one: Any) -> Any:
        """A loop, since 80 rounds of 64-bit code are more than an instruction cache holds."""
        v = first_rounds(v, w, K[:16], one)
        k = cuda.const.array_like(K_BY_SIXTEEN)
        for turn in range(_1, _5):
            v, w = sixteen_rounds(v, w, k[turn], one)
        return v


@device
def compress(state: Any, w: Any, one: Any) -> Any:
    """FIPS 180-4 sections 6.2.2 and 6.4.2: `state` after one more message block, of the 16 words `w`."""
    a, b, c, d, e, f, g, h = all_rounds(state, w, one)
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


# Messages that lie anywhere in device memory. `kernels/device/message.h` tells how their words are cut from the aligned
# words of memory. A block is a tuple of 32-bit words until it is compressed.


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
    """The four message bytes from `position` on, as a big-endian word, of the message tag || data || padding.

    Padding is that of FIPS 180-4 section 5.1. It goes byte by byte, so nothing outside the data is read.
    """
    result = uint32(0)
    if position < tagged + length + _1:
        i = position - tagged  # wraps to the largest number for the tag itself, whose byte is 0
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
    """The big-endian words in four aligned words of memory and the one before them."""
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
def hash_message(data: Any, length: Any, tagged: Any, usual_length: Any, one: Any) -> Any:
    """H(data) or, where `tagged` is 1, the leaf hash H(0x00 || data) of RFC 9162 section 2.1.1, as eight words.

    `usual_length` bytes at a multiple of 16 are read 16 at a time.
    """
    blocks = (tagged + length + LENGTH_BYTES) // BLOCK_BYTES + _1
    block = _0

    # Message word i lies in the aligned words i - 1 and i, `shift` bytes into the former, or in word i alone where
    # shift is 0.
    shift = (data - tagged) & _3
    aligned = data - tagged - shift
    selector = SELECT_ALIGNED
    if shift != _0:
        aligned += _4
        selector = uint32(SELECT_SHIFTED + uint32(shift) * SELECT_STEP)
    carry = uint32(0)  # the word before: at first the tag, a zero byte, where the data is aligned

    state = INITIAL
    if length == usual_length and data & _15 == _0:
        while block < usual_length // BLOCK_BYTES:
            raw = wide_block(aligned + block * BLOCK_BYTES)
            state = compress(state, block_words(cut_block(carry, raw, selector)), one)
            carry = raw[-1]
            block += _1

    # Of the rest, blocks first_inner to end_inner - 1 lie inside the data with every aligned word they touch; the
    # others, with the tag or the padding in them, are read byte by byte.
    first_inner = _0
    if shift != _3:
        first_inner = tagged
    end = data + length
    end_inner = _0
    if end > aligned:
        end_inner = (end - aligned) // BLOCK_BYTES
    while block < blocks:
        if block >= first_inner and block < end_inner:
            source = aligned + block * BLOCK_BYTES
            if shift != _0 and (block > _0 or tagged == _0):
                carry = load_u32(source - _4)
            message = cut_block(carry, narrow_block(source), selector)
        else:
            message = padded_block(data, length, tagged, block * BLOCK_BYTES)
            if block == blocks - _1:
                bits = (tagged + length) * _8
                message = message[:-2] + (uint32(bits >> _32), uint32(bits))
        state = compress(state, block_words(message), one)
        block += _1
    return state


# The kernels (`kernels/device/tree.h`)


@device
def find_segment(first: Any, segments: Any, i: Any, shift: Any, spread: Any) -> Any:
    """The last segment s with key(s) <= i, where key(s) = (first[s] >> shift) + s * spread rises from 0."""
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
def hash_node(left: Any, right: Any, one: Any) -> Any:
    """The node hash H(0x01 || left || right) of two digests at addresses that are multiples of 16, as eight words."""
    raw = load_digest(left) + load_digest(right)
    start = cut_64(NODE_TAG, raw[:16], SELECT_AFTER_TAG)
    padding = (uint32(raw[-1] & LAST_BYTE | PADDING_AFTER_BYTE),)
    if SHA == 256:
        state = compress(INITIAL, start, one)
        return compress(state, padding + NODE_TAIL, one)
    rest = cut_four(raw[15], raw[16:20], SELECT_AFTER_TAG) + cut_four(raw[19], raw[20:], SELECT_AFTER_TAG)
    return compress(INITIAL, block_words(start + rest + padding + NODE_TAIL), one)


@device
def thread() -> Any:
    return uint64(cuda.blockIdx.x) * _GROUP_SIZE + uint64(cuda.threadIdx.x)


@kernel(LAUNCH_BOUNDS)
def hash_chunks(
    base: Any, table: Any, segments: Any, chunk_size: Any, tagged: Any, chunks: Any, digests: Any, one: Any
) -> None:
    """One thread a chunk: its digest, or with `tagged` its leaf hash, into its slot.

    A tagged segment of no bytes has one slot, which gets the root of the empty tree, H("").
    """
    chunk = thread()
    if chunk >= chunks:
        return
    lengths = table + _8 * segments
    first = lengths + _8 * segments
    segment = find_segment(first, segments, chunk, _0, _0)
    offset = load_u64(table + _8 * segment)
    length = load_u64(lengths + _8 * segment)
    start = (chunk - load_u64(first + _8 * segment)) * chunk_size
    tag = uint64(tagged)
    if length == _0:
        tag = _0
    state = hash_message(base + offset + start, min(length - start, chunk_size), tag, chunk_size, one)
    store_digest(digests + chunk * DIGEST_BYTES, state)


@kernel(LAUNCH_BOUNDS)
def reduce_tiles(table: Any, segments: Any, slots: Any, level: Any, alone: Any, digests: Any, one: Any) -> None:
    """One group a tile of GROUP_SIZE * 2^alone nodes at `level` of one segment's tree: all the levels in the tile.

    The nodes are reduced in place. Each thread takes the first `alone` (1 or more) levels by itself, so that no thread
    of the group is idle; then the group takes the others together. `slots` is the number of chunks of the whole call.
    """
    group, member = uint64(cuda.blockIdx.x), uint64(cuda.threadIdx.x)
    first = table + _16 * segments
    low = uint64(level)
    tile_log2 = _GROUP_SIZE_LOG2 + uint64(alone)
    shift = low + tile_log2
    segment = find_segment(first, segments, group, shift, _1)
    slot = load_u64(first + _8 * segment)
    leaves = slots - slot
    if segment + _1 < segments:
        leaves = load_u64(first + _8 * (segment + _1)) - slot
    nodes = ((leaves - _1) >> low) + _1
    begin = (group - (slot >> shift) - segment) << tile_log2
    if begin >= nodes:
        return
    width = min(nodes - begin, _1 << tile_log2)
    tile = digests + (slot + (begin << low)) * DIGEST_BYTES
    stride = DIGEST_BYTES << low
    pairs = _1 << (uint64(alone) - _1)  # of one thread
    while width > _1:
        pair = member * pairs
        end = pair + pairs
        while pair < end and _2 * pair + _1 < width:
            left = tile + _2 * pair * stride
            store_digest(left, hash_node(left, left + stride, one))
            pair += _1
        width = (width + _1) // _2
        stride += stride
        if pairs > _1:
            pairs //= _2
        cuda.syncthreads()


@kernel(LAUNCH_BOUNDS)
def gather_roots(table: Any, segments: Any, digests: Any, roots: Any) -> None:
    """One thread a 32-bit word of a root: the roots, gathered from each segment's first slot."""
    i = thread()
    if i < segments * DIGEST_WORDS32:
        slot = load_u64(table + _16 * segments + _8 * (i // DIGEST_WORDS32))
        store_u32(roots + _4 * i, load_u32(digests + slot * DIGEST_BYTES + _4 * (i % DIGEST_WORDS32)))


@kernel(LAUNCH_BOUNDS)
def fill_random(words: Any, count: Any, seed: Any) -> None:
    """One thread eight bytes: word i of the SplitMix64 sequence of `seed`, stored little-endian."""
    i = thread()
    if i < count:
        z = seed + (i + _1) * GOLDEN_GAMMA
        z = (z ^ (z >> _30)) * MIX_1
        z = (z ^ (z >> _27)) * MIX_2
        store_u64(words + _8 * i, z ^ (z >> _31))
