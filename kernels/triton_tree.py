# ruff: noqa: RET505, RUF005, SIM108 - Triton compiles what comes after a return, but no unpacking
"""The device code in Triton: what `kernels/device` does, with a lane for a thread.

Like a C header, this module is executed once for each program that includes it, which first defines SHA (256 or 384),
BACKEND ("cuda", "hip" or "xpu", as Triton names them, or "interpreter") and ARCHITECTURE (90 for sm_90, 0 without
CUDA): see `triton_gpu.program`.

Triton has no branches for single lanes. So the lanes of a program take the fast path, for full and aligned chunks,
together, or else they all read words at any address, and mask what is not their message's. Addresses are uint64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hashbench.kernels.fips180 import constants
from hashbench.kernels.layout import GROUP_SIZE

SHA: int = globals()["SHA"]
BACKEND: str = globals()["BACKEND"]
ARCHITECTURE: int = globals()["ARCHITECTURE"]

_CONSTANTS = constants(f"sha{SHA}")

SIGNATURES = {
    "hash_chunks": ("u64", "u64", "u64", "u64", "u32", "u64", "u64", "u64", "u32", "u64"),
    "reduce": ("u64", "u64", "u64", "u32", "u32", "u64", "u32", "u64"),
    "gather_leaves": ("u64", "u64", "u64", "u64", "u64"),
    "gather_roots": ("u64", "u64", "u64", "u64"),
    "fill_random": ("u64", "u64", "u64"),
}
"""The kernels with the types of their arguments. Addresses are u64."""

# What Triton's compiler may read of a module are its functions, and these.
LANES = tl.constexpr(GROUP_SIZE)
WORD = tl.constexpr(tl.uint32 if SHA == 256 else tl.uint64)
WORD_BITS = tl.constexpr(_CONSTANTS.word_bits)
ROUNDS = tl.constexpr(len(_CONSTANTS.k))
K = tl.constexpr(_CONSTANTS.k)
INITIAL = tl.constexpr(_CONSTANTS.initial)
DIGEST_WORDS32 = tl.constexpr(SHA // 32)
BLOCK_WORDS32 = tl.constexpr(_CONSTANTS.word_bits // 2)
BLOCK_BYTES = tl.constexpr(2 * _CONSTANTS.word_bits)
LENGTH_BYTES = tl.constexpr(_CONSTANTS.word_bits // 4)
NODE_BYTES = tl.constexpr(1 + 2 * SHA // 8)
NODE_BLOCKS = tl.constexpr(2 if SHA == 256 else 1)

IS_CUDA = tl.constexpr(BACKEND == "cuda")
IS_HIP = tl.constexpr(BACKEND == "hip")
INTERPRETED = tl.constexpr(BACKEND == "interpreter")
# What runs on other pipes than those of logic and shifts: see `kernels/device/sha2.h`.
BALANCED = tl.constexpr(BACKEND == "cuda" and SHA == 256)
BALANCED_CONSTANTS = tl.constexpr(BACKEND == "cuda" and SHA == 256 and ARCHITECTURE not in (90, 100))
BALANCED_ROTATIONS = tl.constexpr(BACKEND == "cuda" and SHA == 384 and ARCHITECTURE < 120)
BALANCED_SHIFTS = tl.constexpr(SHA == 384 and ARCHITECTURE in (80, 90, 100))
PREFETCHED = tl.constexpr(BACKEND == "cuda" and ARCHITECTURE >= 80)
UNROLLED = tl.constexpr(SHA == 256)


def _funnel_shift(result: str, high: str, low: str, k: int) -> str:
    """PTX for high << k | low >> (32 - k) with 0 < k < 16 on the multiply-add pipe."""
    if k < 8:
        shifted = f"dp2a.lo.u32.u32 t, {low}, {0x100 << k}, 0; "
    else:
        shifted = f"dp2a.lo.u32.u32 t, {low}, 256, 0; mul.lo.u32 t, t, {1 << k}; "
    return f"{shifted} dp2a.lo.u32.u32 t, t, 256, 0; mad.lo.u32 {result}, {high}, {1 << k}, t; "


def _rotation(n: int) -> str:
    """PTX for a rotation of 64 bits to the right, where 64 - n is 1 to 15 modulo 32."""
    low, high = ("l", "h") if n > 32 else ("h", "l")
    k = (64 - n) % 32
    return (
        "{ .reg .b32 l, h, t, a, b; mov.b64 {l, h}, $1; "
        f"{_funnel_shift('a', low, high, k)}{_funnel_shift('b', high, low, k)}"
        "mov.b64 $0, {a, b}; }"
    )


def _shift(n: int) -> str:
    """PTX for a shift of 64 bits to the right, whose upper half is multiplied by 2^-n on the double-precision pipe."""
    factor = f"0d{(1023 - n) << 52:016X}"
    return (
        "{ .reg .b32 l, h, z; .reg .f64 f; mov.b64 {l, h}, $1; mov.b32 z, 0; mov.b64 f, {h, z}; "
        f"shf.r.wrap.b32 l, l, h, {n}; mul.rz.f64 f, f, {factor}; "
        "mov.b64 {h, z}, f; mov.b64 $0, {l, h}; }"
    )


ROTATION_18, ROTATION_28, ROTATION_61 = (tl.constexpr(_rotation(n)) for n in (18, 28, 61))
SHIFT_6, SHIFT_7 = (tl.constexpr(_shift(n)) for n in (6, 7))


# Memory --------------------------------------------------------------------------------------------------------------
#
# Triton's compiler looks for the best layout of what a lane loads and stores, for which it looks at all that depends on
# an address, and takes a minute. Here every lane has its own message, so that there is nothing to find. It does not
# look into inline assembly, nor beyond addresses that a loop computes.


@triton.jit
def once(one: tl.tensor) -> tl.tensor:
    """The turns of a loop around an access: 1. LLVM sees that, and removes the loop; Triton does not."""
    return tl.minimum(tl.maximum(one, 1), 1).to(tl.int32)


@triton.jit
def load_u64(address: tl.tensor, one: tl.tensor) -> tl.tensor:
    """A word of a table that no launch writes to."""
    if IS_CUDA:
        return tl.inline_asm_elementwise("ld.global.nc.u64 $0, [$1];", "=l,l", [address], tl.uint64, True, 1)
    elif INTERPRETED:
        return tl.load(address.to(tl.pointer_type(tl.uint64)))
    else:
        pointer, word = address.to(tl.pointer_type(tl.uint64)), address
        for _ in range(once(one)):
            word = tl.load(pointer)
            pointer += 1
        return word


@triton.jit
def load_u32(address: tl.tensor, one: tl.tensor) -> tl.tensor:
    if IS_CUDA:
        return tl.inline_asm_elementwise("ld.global.u32 $0, [$1];", "=r,l", [address], tl.uint32, False, 1)
    elif INTERPRETED:
        return tl.load(address.to(tl.pointer_type(tl.uint32)))
    else:
        pointer, word = address.to(tl.pointer_type(tl.uint32)), address.to(tl.uint32)
        for _ in range(once(one)):
            word = tl.load(pointer)
            pointer += 1
        return word


@triton.jit
def load_four(address: tl.tensor, one: tl.tensor) -> tl.tuple:
    """Sixteen bytes on a 16-byte boundary."""
    if IS_CUDA:
        return tl.inline_asm_elementwise(
            "ld.global.v4.u32 {$0, $1, $2, $3}, [$4];",
            "=r,=r,=r,=r,l",
            [address],
            (tl.uint32, tl.uint32, tl.uint32, tl.uint32),
            False,
            1,
        )
    else:
        return (
            load_u32(address, one),
            load_u32(address + 4, one),
            load_u32(address + 8, one),
            load_u32(address + 12, one),
        )


@triton.jit
def load_message(address: tl.tensor, one: tl.tensor) -> tl.tuple:
    """The same of a message, which must not change while it is hashed. Each lane reads its own piece of memory from
    start to end, so the L2 cache fetches the 256 bytes around them."""
    if PREFETCHED:
        return tl.inline_asm_elementwise(
            "ld.global.nc.L2::256B.v4.u32 {$0, $1, $2, $3}, [$4];",
            "=r,=r,=r,=r,l",
            [address],
            (tl.uint32, tl.uint32, tl.uint32, tl.uint32),
            True,
            1,
        )
    else:
        return load_four(address, one)


@triton.jit
def store_u32(address: tl.tensor, word: tl.tensor, where: tl.tensor, one: tl.tensor) -> None:
    if INTERPRETED:
        tl.store(address.to(tl.pointer_type(tl.uint32)), word, where)
    else:
        pointer = address.to(tl.pointer_type(tl.uint32))
        for _ in range(once(one)):
            tl.store(pointer, word, where)
            pointer += 1


@triton.jit
def store_four(
    address: tl.tensor, a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor, where: tl.tensor, one: tl.tensor
) -> None:
    """Stores sixteen bytes on a 16-byte boundary, in the lanes for which `where` is true."""
    if IS_CUDA:
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.u32 p, $6, 0; @p st.global.v4.u32 [$1], {$2, $3, $4, $5}; mov.u32 $0, 0; }",
            "=r,l,r,r,r,r,r",
            [address, a, b, c, d, where.to(tl.uint32)],
            tl.uint32,
            False,
            1,
        )
    else:
        store_u32(address, a, where, one)
        store_u32(address + 4, b, where, one)
        store_u32(address + 8, c, where, one)
        store_u32(address + 12, d, where, one)


# SHA-2 ---------------------------------------------------------------------------------------------------------------


@triton.jit
def multiply_add(x: tl.tensor, y: tl.tensor, z: tl.tensor) -> tl.tensor:
    return tl.inline_asm_elementwise("mad.lo.u32 $0, $1, $2, $3;", "=r,r,r,r", [x, y, z], tl.uint32, True, 1)


@triton.jit
def add(x: tl.tensor, y: tl.tensor, one: tl.tensor) -> tl.tensor:
    """The sum of x and y. On NVIDIA's GPUs, SHA-256's run on the multiply-add pipe: see `kernels/device/sha2.h`."""
    if BALANCED:
        return multiply_add(x, one, y)
    else:
        return x + y


@triton.jit
def add_constant(x: tl.tensor, k: tl.tensor, one: tl.tensor) -> tl.tensor:
    if BALANCED_CONSTANTS:
        return multiply_add(x, one, k)
    else:
        return x + k


@triton.jit
def rotate_right(x: tl.tensor, n: tl.constexpr) -> tl.tensor:
    if IS_HIP and WORD_BITS == 64:  # of which LLVM makes two shifts of 64 bits each, which AMD's GPUs do at half speed
        low, high = x.to(tl.uint32), (x >> 32).to(tl.uint32)
        if n >= 32:
            low, high = high, low
        m: tl.constexpr = n % 32
        upper, lower = (high >> m) | (low << (32 - m)), (low >> m) | (high << (32 - m))
        return upper.to(tl.uint64) << 32 | lower
    else:
        return (x >> n) | (x << (WORD_BITS - n))


if SHA == 256:

    @triton.jit
    def big_sigma_0(x: tl.tensor) -> tl.tensor:  # FIPS 180-4 (4.4)
        return rotate_right(x, 2) ^ rotate_right(x, 13) ^ rotate_right(x, 22)

    @triton.jit
    def big_sigma_1(x: tl.tensor) -> tl.tensor:  # (4.5)
        return rotate_right(x, 6) ^ rotate_right(x, 11) ^ rotate_right(x, 25)

    @triton.jit
    def small_sigma_0(x: tl.tensor) -> tl.tensor:  # (4.6)
        return rotate_right(x, 7) ^ rotate_right(x, 18) ^ (x >> 3)

    @triton.jit
    def small_sigma_1(x: tl.tensor) -> tl.tensor:  # (4.7)
        return rotate_right(x, 17) ^ rotate_right(x, 19) ^ (x >> 10)

else:

    @triton.jit
    def balanced_rotate_right(x: tl.tensor, n: tl.constexpr, ptx: tl.constexpr) -> tl.tensor:
        if BALANCED_ROTATIONS:
            return tl.inline_asm_elementwise(ptx, "=l,l", [x], tl.uint64, True, 1)
        else:
            return rotate_right(x, n)

    @triton.jit
    def balanced_shift_right(x: tl.tensor, n: tl.constexpr, ptx: tl.constexpr) -> tl.tensor:
        if BALANCED_SHIFTS:
            return tl.inline_asm_elementwise(ptx, "=l,l", [x], tl.uint64, True, 1)
        else:
            return x >> n

    @triton.jit
    def big_sigma_0(x: tl.tensor) -> tl.tensor:  # (4.10)
        return balanced_rotate_right(x, 28, ROTATION_28) ^ rotate_right(x, 34) ^ rotate_right(x, 39)

    @triton.jit
    def big_sigma_1(x: tl.tensor) -> tl.tensor:  # (4.11)
        return rotate_right(x, 14) ^ balanced_rotate_right(x, 18, ROTATION_18) ^ rotate_right(x, 41)

    @triton.jit
    def small_sigma_0(x: tl.tensor) -> tl.tensor:  # (4.12)
        return rotate_right(x, 1) ^ rotate_right(x, 8) ^ balanced_shift_right(x, 7, SHIFT_7)

    @triton.jit
    def small_sigma_1(x: tl.tensor) -> tl.tensor:  # (4.13)
        return rotate_right(x, 19) ^ balanced_rotate_right(x, 61, ROTATION_61) ^ balanced_shift_right(x, 6, SHIFT_6)


@triton.jit
def initial_state() -> tl.tuple:
    state = (tl.full((LANES,), INITIAL[0], WORD),)
    for i in tl.static_range(1, 8):
        state = state + (tl.full((LANES,), INITIAL[i], WORD),)
    return state


@triton.jit
def one_round(state: tl.tuple, w_plus_k: tl.tensor, one: tl.tensor) -> tl.tuple:
    a, b, c, d, e, f, g, h = state
    t1 = add(add(h, big_sigma_1(e), one), add(g ^ (e & (f ^ g)), w_plus_k, one), one)
    t2 = add(big_sigma_0(a), (a & b) | (c & (a | b)), one)
    return add(t1, t2, one), a, b, c, add(d, t1, one), e, f, g


@triton.jit
def next_word(w: tl.tuple, one: tl.tensor) -> tl.tensor:
    """W_t from the sixteen words before it."""
    return add(add(w[0], w[9], one), add(small_sigma_0(w[1]), small_sigma_1(w[14]), one), one)


@triton.jit
def sixteen_rounds(state: tl.tuple, w: tl.tuple, k: tl.tensor, one: tl.tensor) -> tl.tuple:
    """The next rounds, whose constants are at the address `k`, and the words of those after them."""
    pointer = k.to(tl.pointer_type(WORD))
    for t in tl.static_range(16):
        state = one_round(state, add_constant(w[0], tl.load(pointer + t), one), one)
        w = w[1:] + (next_word(w, one),)
    return state, w


@triton.jit
def sixteen_unrolled(state: tl.tuple, w: tl.tuple, turn: tl.constexpr, one: tl.tensor) -> tl.tuple:
    """The same of rounds that are known to the compiler."""
    for t in tl.static_range(16):
        state = one_round(state, add_constant(w[0], tl.full((), K[turn + t], WORD), one), one)
        w = w[1:] + (next_word(w, one),)
    return state, w


@triton.jit
def last_rounds(state: tl.tuple, w: tl.tuple, one: tl.tensor) -> tl.tuple:
    for t in tl.static_range(16):
        state = one_round(state, add_constant(w[t], tl.full((), K[ROUNDS - 16 + t], WORD), one), one)
    return state


@triton.jit
def compress(before: tl.tuple, w: tl.tuple, one: tl.tensor, k: tl.tensor) -> tl.tuple:
    """FIPS 180-4 sections 6.2.2 and 6.4.2: `before` updated with a block, of which `w` are the words."""
    state = before
    if UNROLLED:
        for turn in tl.static_range(0, ROUNDS - 16, 16):
            state, w = sixteen_unrolled(state, w, turn, one)
    else:
        for turn in range(0, ROUNDS - 16, 16):
            state, w = sixteen_rounds(state, w, k + turn * (WORD_BITS // 8), one)
    state = last_rounds(state, w, one)
    after = (add(before[0], state[0], one),)
    for i in tl.static_range(1, 8):
        after = after + (add(before[i], state[i], one),)
    return after


# Messages ------------------------------------------------------------------------------------------------------------


@triton.jit
def selector(shift: tl.tensor) -> tl.tensor:
    """What `big_endian` takes for a shift of 0 to 4 bytes."""
    if IS_CUDA:
        return shift * 0x1111 + 0x0123
    elif IS_HIP:
        return shift * 0x01010101 + 0x00010203
    else:
        return shift * 8


@triton.jit
def big_endian(low: tl.tensor, high: tl.tensor, select: tl.tensor) -> tl.tensor:
    """Bytes `shift` to `shift` + 3 of the eight bytes low || high, as a big-endian word."""
    if IS_CUDA:
        return tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, select], tl.uint32, True, 1
        )
    elif IS_HIP:
        return tl.inline_asm_elementwise(
            "v_perm_b32 $0, $2, $1, $3", "=v,v,v,v", [low, high, select], tl.uint32, True, 1
        )
    else:
        x = ((high.to(tl.uint64) << 32 | low) >> select).to(tl.uint32)
        return (x >> 24) | (x >> 8 & 0xFF00) | (x << 8 & 0xFF0000) | (x << 24)


@triton.jit
def words_of(words32: tl.tuple) -> tl.tuple:
    """The sixteen words of a block that is given as words of 32 bits."""
    if WORD_BITS == 32:
        return words32
    else:
        words = (words32[0].to(tl.uint64) << 32 | words32[1],)
        for i in tl.static_range(2, 32, 2):
            words = words + (words32[i].to(tl.uint64) << 32 | words32[i + 1],)
        return words


@triton.jit
def aligned_words(source: tl.tensor, before: tl.tensor, select: tl.tensor, one: tl.tensor) -> tl.tuple:
    """A block from its aligned words in memory and the one `before` them; and the last of them."""
    a, b, c, d = load_message(source, one)
    words = big_endian(before, a, select), big_endian(a, b, select), big_endian(b, c, select), big_endian(c, d, select)
    for i in tl.static_range(16, BLOCK_BYTES, 16):
        before = d
        a, b, c, d = load_message(source + i, one)
        words = words + (
            big_endian(before, a, select),
            big_endian(a, b, select),
            big_endian(b, c, select),
            big_endian(c, d, select),
        )
    return words, d


@triton.jit
def load_between(address: tl.tensor, first: tl.tensor, last: tl.tensor, one: tl.tensor) -> tl.tensor:
    return load_u32(tl.minimum(tl.maximum(address, first), last), one)


@triton.jit
def any_words(
    data: tl.tensor,
    length: tl.tensor,
    tagged: tl.tensor,
    block: tl.tensor,
    last_block: tl.tensor,
    spare: tl.tensor,
    one: tl.tensor,
) -> tl.tuple:
    """Any block of tag || data || padding. Of memory it reads the aligned words that have a byte of the data, and, for
    messages without data, the one at `spare`."""
    shift = (data - tagged) & 3
    source = data - tagged - shift + block * BLOCK_BYTES
    first = tl.where(length > 0, data - (data & 3), spare)
    last = tl.where(length > 0, data + length - 1 - (data + length - 1 & 3), spare)
    # bytes from the start of the block to the end of the data, as far as it matters
    left = (length + tagged - block * BLOCK_BYTES).to(tl.int64)
    left = tl.minimum(tl.maximum(left, -1), 2 * BLOCK_BYTES).to(tl.int32)
    select = selector(shift.to(tl.uint32))
    low = load_between(source, first, last, one)
    words = ()
    for i in tl.static_range(BLOCK_WORDS32):
        high = load_between(source + (4 * i + 4), first, last, one)
        word = big_endian(low, high, select)
        here = left - 4 * i
        kept = 8 * tl.minimum(tl.maximum(here, 0), 4)
        word = word & (tl.full((LANES,), 0xFFFFFFFF00000000, tl.uint64) >> kept.to(tl.uint64)).to(tl.uint32)
        ends = (here >= 0) & (here < 4)
        word = word | tl.where(ends, tl.full((LANES,), 0x80000000, tl.uint32) >> (kept & 31).to(tl.uint32), 0)
        if i == 0:
            word = word & tl.where((tagged == 1) & (block == 0), 0x00FFFFFF, 0xFFFFFFFF).to(tl.uint32)
        if i >= BLOCK_WORDS32 - 2:
            bits = 8 * (length + tagged)
            half = (bits >> 32 if i == BLOCK_WORDS32 - 2 else bits).to(tl.uint32)
            word = tl.where(block == last_block, half, word)
        words = words + (word,)
        low = high
    return words


# Chunks --------------------------------------------------------------------------------------------------------------


@triton.jit
def this_thread() -> tl.tensor:
    return tl.program_id(0).to(tl.uint64) * LANES + tl.arange(0, LANES).to(tl.uint64)


@triton.jit
def find_segment(
    first: tl.tensor, segments: tl.tensor, i: tl.tensor, shift: tl.tensor, spread: tl.constexpr, one: tl.tensor
) -> tl.tensor:
    """The last segment s with key(s) <= i: see `kernels/device/tree.h`."""
    found = tl.zeros_like(i)
    step = tl.full((), 1, tl.uint64)
    while step < segments:
        step *= 2
    while step > 0:
        next_one = found + step
        key = (load_u64(first + 8 * tl.minimum(next_one, segments - 1), one) >> shift) + next_one * spread
        found = tl.where((next_one < segments) & (key <= i), next_one, found)
        step = step >> 1
    return found


@triton.jit
def hash_chunks(
    base: tl.tensor,
    table: tl.tensor,
    segments: tl.tensor,
    chunk_size: tl.tensor,
    tagged: tl.tensor,
    partial_chunks: tl.tensor,
    chunks: tl.tensor,
    digests: tl.tensor,
    one: tl.tensor,
    k: tl.tensor,
) -> None:
    """A lane for each chunk: writes its digest, or its leaf hash if `tagged`, to its slot."""
    lengths, firsts = table + 8 * segments, table + 16 * segments
    full_before, with_partial = table + 24 * segments, table + 32 * segments
    thread = this_thread()
    chunk = tl.minimum(thread, chunks - 1)
    partial = chunk < partial_chunks
    of_partial = load_u64(tl.where(partial, with_partial + 8 * chunk, table), one)
    full = tl.where(partial, 0, chunk - partial_chunks)
    segment = tl.where(partial, of_partial, find_segment(full_before, segments, full, 0, 0, one))
    # a partial chunk comes after the full ones of its segment
    next_full = load_u64(full_before + 8 * tl.minimum(segment + 1, segments - 1), one)
    next_full = tl.where(segment + 1 < segments, next_full, chunks - partial_chunks)
    index = tl.where(partial, next_full, full) - load_u64(full_before + 8 * segment, one)

    length = tl.where(partial, load_u64(lengths + 8 * segment, one) - index * chunk_size, chunk_size)
    data = base + load_u64(table + 8 * segment, one) + index * chunk_size
    tags = tl.where(length == 0, 0, tagged).to(tl.uint64)  # an empty tree is H(""), without the leaf prefix
    last_block = ((length + tags + LENGTH_BYTES) // BLOCK_BYTES).to(tl.int64)
    blocks = tl.max(last_block, 0) + 1
    alike = tl.min(((length == chunk_size) & (data & 15 == 0)).to(tl.int32), 0)
    aligned_blocks = tl.where(alike == 1, chunk_size // BLOCK_BYTES, 0).to(tl.int64)

    state = initial_state()
    before = tl.zeros((LANES,), tl.uint32)
    select = selector(tl.where(tagged == 1, 3, 4).to(tl.uint32))
    for block in range(aligned_blocks):
        words, before = aligned_words(data + block * BLOCK_BYTES, before, select, one)
        state = compress(state, words_of(words), one, k)
    for block in range(aligned_blocks, blocks):
        words = any_words(data, length, tags, block, last_block, table, one)
        state = chosen(block <= last_block, compress(state, words_of(words), one, k), state, 8)

    slot = load_u64(firsts + 8 * segment, one) + index
    store_words(digests + slot * (4 * DIGEST_WORDS32), digest_words(state), thread < chunks, one)


@triton.jit
def chosen(condition: tl.tensor, these: tl.tuple, others: tl.tuple, count: tl.constexpr) -> tl.tuple:
    result = ()
    for i in tl.static_range(count):
        result = result + (tl.where(condition, these[i], others[i]),)
    return result


@triton.jit
def store_words(slot: tl.tensor, words: tl.tuple, where: tl.tensor, one: tl.tensor) -> None:
    for i in tl.static_range(0, DIGEST_WORDS32, 4):
        store_four(slot + 4 * i, words[i], words[i + 1], words[i + 2], words[i + 3], where, one)


@triton.jit
def digest_words(state: tl.tuple) -> tl.tuple:
    """A hash value as words of 32 bits in memory order."""
    swap = selector(tl.full((LANES,), 0, tl.uint32))
    words = ()
    for i in tl.static_range(DIGEST_WORDS32):
        if WORD_BITS == 32:
            word = state[i]
        else:
            word = (state[i // 2] >> (32 * (1 - i % 2))).to(tl.uint32)
        words = words + (big_endian(word, word, swap),)
    return words


# Trees ---------------------------------------------------------------------------------------------------------------


@triton.jit
def gather_leaves(base: tl.tensor, table: tl.tensor, segments: tl.tensor, slots: tl.tensor, digests: tl.tensor) -> None:
    """A lane for each 32-bit word of a leaf hash, for segments that consist of them: copies it to its slot."""
    firsts = table + 16 * segments
    thread, one = this_thread(), tl.full((), 1, tl.uint32)
    i = tl.minimum(thread, slots * DIGEST_WORDS32 - 1)
    segment = find_segment(firsts, segments, i // DIGEST_WORDS32, 0, 0, one)
    start = load_u64(firsts + 8 * segment, one)
    source = base + load_u64(table + 8 * segment, one) + 4 * (i - start * DIGEST_WORDS32)
    # the aligned words that have its first and its last byte: one and the same if it is aligned
    low = load_u32(source - (source & 3), one)
    high = load_u32(source + 3 - (source + 3 & 3), one)
    word = ((high.to(tl.uint64) << 32 | low) >> 8 * (source & 3)).to(tl.uint32)
    store_u32(digests + 4 * i, word, thread < slots * DIGEST_WORDS32, one)


@triton.jit
def reduce(
    table: tl.tensor,
    segments: tl.tensor,
    slots: tl.tensor,
    level: tl.tensor,
    levels: tl.tensor,
    digests: tl.tensor,
    one: tl.tensor,
    k: tl.tensor,
) -> None:
    """A tile of 2^levels nodes at `level`, reduced to one in place: a tile for each lane if `levels` is 1, and
    otherwise for each program."""
    firsts = table + 16 * segments
    thread = this_thread()
    alone = levels == 1
    tile = tl.where(alone, thread, thread // LANES)
    pair = tl.where(alone, 0, thread % LANES)
    shift = (level + levels).to(tl.uint64)
    segment = find_segment(firsts, segments, tile, shift, 1, one)
    start = load_u64(firsts + 8 * segment, one)
    end = load_u64(firsts + 8 * tl.minimum(segment + 1, segments - 1), one)
    leaves = tl.where(segment + 1 < segments, end, slots) - start
    nodes = (leaves - 1 >> level.to(tl.uint64)) + 1
    begin = (tile - (start >> shift) - segment) << levels.to(tl.uint64)
    width = tl.where(begin < nodes, tl.minimum(nodes - begin, tl.full((), 1, tl.uint64) << levels.to(tl.uint64)), 0)
    stride = tl.full((), 4 * DIGEST_WORDS32, tl.uint64) << level.to(tl.uint64)
    place = digests + (start + (begin << level.to(tl.uint64))) * (4 * DIGEST_WORDS32) + 2 * pair * stride
    reduced = (pair == 0) & (width > 1)
    left = load_digest(tl.where(2 * pair < width, place, digests), one)
    right = load_digest(tl.where(2 * pair + 1 < width, place + stride, digests), one)
    widest = tl.max(width.to(tl.int32), 0)
    while widest > 1:
        left = chosen(2 * pair + 1 < width, digest_words(hash_node(left, right, one, k)), left, DIGEST_WORDS32)
        width = (width + 1) // 2
        widest = (widest + 1) // 2
        if widest > 1:
            nodes_of = tl.minimum(2 * pair, LANES - 2).to(tl.int32)
            right = gathered(left, nodes_of + 1)
            left = gathered(left, nodes_of)
    store_words(place, left, reduced, one)


@triton.jit
def load_digest(slot: tl.tensor, one: tl.tensor) -> tl.tuple:
    words = ()
    for i in tl.static_range(0, DIGEST_WORDS32, 4):
        a, b, c, d = load_four(slot + 4 * i, one)
        words = words + (a, b, c, d)
    return words


@triton.jit
def gathered(words: tl.tuple, lanes: tl.tensor) -> tl.tuple:
    """The words of other lanes."""
    result = ()
    for i in tl.static_range(DIGEST_WORDS32):
        result = result + (tl.gather(words[i], lanes, 0),)
    return result


@triton.jit
def hash_node(left: tl.tuple, right: tl.tuple, one: tl.tensor, k: tl.tensor) -> tl.tuple:
    """The node hash H(0x01 || left || right), of the words of two digests."""
    select = selector(tl.full((LANES,), 3, tl.uint32))
    before = tl.full((LANES,), 0x01000000, tl.uint32)
    both = left + right
    words = ()
    for i in tl.static_range(2 * DIGEST_WORDS32):
        words = words + (big_endian(before, both[i], select),)
        before = both[i]
    # the last byte of `right`, padding and the length
    words = words + (big_endian(before, tl.full((LANES,), 0x80, tl.uint32), select),)
    for _ in tl.static_range(2 * DIGEST_WORDS32 + 1, NODE_BLOCKS * BLOCK_WORDS32 - 1):
        words = words + (tl.zeros((LANES,), tl.uint32),)
    words = words + (tl.full((LANES,), 8 * NODE_BYTES, tl.uint32),)
    state = initial_state()
    if NODE_BLOCKS == 1:
        return compress(state, words_of(words), one, k)
    else:
        for block in range(2):
            w = (tl.where(block == 0, words[0], words[16]),)
            for i in tl.static_range(1, 16):
                w = w + (tl.where(block == 0, words[i], words[16 + i]),)
            state = compress(state, w, one, k)
        return state


@triton.jit
def gather_roots(table: tl.tensor, segments: tl.tensor, digests: tl.tensor, roots: tl.tensor) -> None:
    """A lane for each 32-bit word of a root: copies the roots from the first slot of each segment."""
    thread, one = this_thread(), tl.full((), 1, tl.uint32)
    i = tl.minimum(thread, segments * DIGEST_WORDS32 - 1)
    slot = load_u64(table + 16 * segments + 8 * (i // DIGEST_WORDS32), one)
    word = load_u32(digests + 4 * (slot * DIGEST_WORDS32 + i % DIGEST_WORDS32), one)
    store_u32(roots + 4 * i, word, thread < segments * DIGEST_WORDS32, one)


@triton.jit
def fill_random(words: tl.tensor, count: tl.tensor, seed: tl.tensor) -> None:
    """A lane for each eight bytes: SplitMix64, as in `kernels/device/random.h`."""
    i = this_thread()
    z = seed + (i + 1) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    tl.store((words + 8 * i).to(tl.pointer_type(tl.uint64)), z ^ (z >> 31), i < count)
