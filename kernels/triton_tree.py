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

_HASHING = ("u64", "u64", "u64", "u64", "u32", "u64", "u64", "u64", "u64", "u32", "u64")

SIGNATURES = {
    "hash_chunks": _HASHING,
    "reduce": ("u64", "u64", "u64", "u32", "u32", "u64", "u64", "u32", "u64"),
    "gather_leaves": ("u64", "u64", "u64", "u64", "u64"),
    "gather_roots": ("u64", "u64", "u64", "u64"),
    "fill_random": ("u64", "u64", "u64"),
}
"""The kernels with the types of their arguments. Addresses are u64."""

if BACKEND == "cuda" and ARCHITECTURE >= 80:
    SIGNATURES |= {"hash_chunks_early": _HASHING, "hash_chunks_paired": _HASHING}

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
SIGMAS_IN_PTX = tl.constexpr(BACKEND == "cuda" and SHA == 384)
CONSTANT_MEMORY = tl.constexpr(BACKEND == "cuda" and SHA == 384)
BALANCED_ROTATIONS = ARCHITECTURE < 120
BALANCED_SHIFTS = ARCHITECTURE in (80, 90, 100)
PREFETCHED = tl.constexpr(BACKEND == "cuda" and ARCHITECTURE >= 80)
UNROLLED = tl.constexpr(SHA == 256)
BLOCKS_AHEAD = tl.constexpr(8 if SHA == 256 else 0)

# Two lanes for a chunk: see `hash_chunks_paired`. A turn is sixteen rounds; it has as many words as a block, here in
# bytes for all pairs of a program. The stage has two parts, of TURNS_STAGED each; the queue has blocks.
PAIRS = tl.constexpr(GROUP_SIZE // 2)
TURNS = tl.constexpr(len(_CONSTANTS.k) // 16)
TURN_BYTES = tl.constexpr(2 * _CONSTANTS.word_bits * GROUP_SIZE // 2)
TURNS_STAGED = tl.constexpr(4 if SHA == 256 else 1)
STAGE_BYTES = tl.constexpr(2 * TURNS_STAGED.value * TURN_BYTES.value)
QUEUE_LENGTH = tl.constexpr(3 if SHA == 256 else 2)


def _funnel_shift(result: str, high: str, low: str, k: int) -> str:
    """PTX for high << k | low >> (32 - k) with 0 < k < 16 on the multiply-add pipe."""
    if k < 8:
        shifted = f"dp2a.lo.u32.u32 t, {low}, {0x100 << k}, 0; "
    else:
        shifted = f"dp2a.lo.u32.u32 t, {low}, 256, 0; mul.lo.u32 t, t, {1 << k}; "
    return f"{shifted} dp2a.lo.u32.u32 t, t, 256, 0; mad.lo.u32 {result}, {high}, {1 << k}, t; "


def _rotation(result: str, n: int) -> str:
    """PTX for x rotated right by n, whose halves are h and l."""
    low, high = ("l", "h") if n < 32 else ("h", "l")
    if BALANCED_ROTATIONS and n in (18, 28, 61):
        k = (64 - n) % 32
        halves = _funnel_shift("a", high, low, k) + _funnel_shift("b", low, high, k)
    else:
        k = n % 32
        halves = f"shf.r.wrap.b32 a, {low}, {high}, {k}; shf.r.wrap.b32 b, {high}, {low}, {k}; "
    return f"{halves}mov.b64 {result}, {{a, b}}; "


def _shift(result: str, n: int) -> str:
    """PTX for x shifted right by n. Its upper half can be multiplied by 2^-n on the double-precision pipe."""
    if not BALANCED_SHIFTS:
        return f"shr.u64 {result}, $1, {n}; "
    factor = f"0d{(1023 - n) << 52:016X}"
    return (
        f"shf.r.wrap.b32 a, l, h, {n}; mov.b32 c, 0; mov.b64 f, {{h, c}}; mul.rz.f64 f, f, {factor}; "
        f"mov.b64 {{b, c}}, f; mov.b64 {result}, {{a, b}}; "
    )


def _sigma(first: int, second: int, third: int, *, shifted: bool = False) -> tl.constexpr:
    """A sigma of FIPS 180-4: three rotations, or two and a shift; and PTX for one of 64 bits."""
    last = _shift("x2", third) if shifted else _rotation("x2", third)
    ptx = (
        "{ .reg .b32 l, h, t, a, b, c; .reg .f64 f; .reg .b64 x<3>; mov.b64 {l, h}, $1; "
        f"{_rotation('x0', first)}{_rotation('x1', second)}{last}xor.b64 x0, x0, x1; xor.b64 $0, x0, x2; }}"
    )
    return tl.constexpr((first, second, third, ptx))


if SHA == 256:  # (4.4) to (4.7)
    BIG_SIGMA_0, BIG_SIGMA_1 = _sigma(2, 13, 22), _sigma(6, 11, 25)
    SMALL_SIGMA_0, SMALL_SIGMA_1 = _sigma(7, 18, 3, shifted=True), _sigma(17, 19, 10, shifted=True)
else:  # (4.10) to (4.13)
    BIG_SIGMA_0, BIG_SIGMA_1 = _sigma(28, 34, 39), _sigma(14, 18, 41)
    SMALL_SIGMA_0, SMALL_SIGMA_1 = _sigma(1, 8, 7, shifted=True), _sigma(19, 61, 6, shifted=True)


def _constants() -> str:
    """PTX for K_t in constant memory, and their address."""
    words = ", ".join(map(str, K.value))
    return f"{{ .const .align 16 .b{WORD_BITS.value} k[{ROUNDS.value}] = {{{words}}}; mov.u64 $0, k; }}"


def _copies() -> str:
    """PTX for copies of a block to shared memory, if $3 is not zero."""
    row = 16 * PAIRS.value
    copies = (
        f"@p cp.async.cg.shared.global.L2::256B [$1 + {row * i}], [$2 + {16 * i}], 16; "
        for i in range(BLOCK_BYTES.value // 16)
    )
    return f"{{ .reg .pred p; setp.ne.u32 p, $3, 0; {''.join(copies)} cp.async.commit_group; mov.u32 $0, 0; }}"


def _shared_memory(nbytes: int) -> str:
    """PTX for memory of a program, and its address."""
    return f"{{ .shared .align 16 .b8 memory[{nbytes}]; mov.u32 $0, memory; }}"


CONSTANTS = tl.constexpr(_constants())
COPIES = tl.constexpr(_copies())
STAGE_AND_QUEUE = tl.constexpr(_shared_memory(STAGE_BYTES.value + QUEUE_LENGTH.value * TURN_BYTES.value))
NODES = tl.constexpr(_shared_memory(GROUP_SIZE * SHA // 8))
WAIT_FOR_COPIES = tl.constexpr(f"cp.async.wait_group {QUEUE_LENGTH.value - 1}; mov.u32 $0, 0;")


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


@triton.jit
def load_shared(address: tl.tensor) -> tl.tuple:
    """Sixteen bytes of shared memory."""
    return tl.inline_asm_elementwise(
        "ld.shared.v4.u32 {$0, $1, $2, $3}, [$4];",
        "=r,=r,=r,=r,r",
        [address],
        (tl.uint32, tl.uint32, tl.uint32, tl.uint32),
        False,
        1,
    )


@triton.jit
def store_shared(address: tl.tensor, a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor) -> None:
    tl.inline_asm_elementwise(
        "st.shared.v4.u32 [$1], {$2, $3, $4, $5}; mov.u32 $0, 0;",
        "=r,r,r,r,r,r",
        [address, a, b, c, d],
        tl.uint32,
        False,
        1,
    )


@triton.jit
def prefetch(address: tl.tensor) -> None:
    """Makes the L2 cache fetch the line."""
    tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [address], tl.uint32, False, 1)


@triton.jit
def thread_of_group(like: tl.tensor) -> tl.tensor:
    """The number of this thread: for each lane, or, if `like` is a number, one that differs from thread to thread, of
    which Triton knows nothing."""
    return tl.inline_asm_elementwise("mov.u32 $0, %tid.x;", "=r,r", [like], tl.uint32, True, 1)


@triton.jit
def barrier(one: tl.tensor) -> None:
    tl.inline_asm_elementwise("bar.sync 1; mov.u32 $0, 0;", "=r,r", [one], tl.uint32, False, 1)


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


@triton.jit
def big_sigma(x: tl.tensor, sigma: tl.constexpr) -> tl.tensor:
    if SIGMAS_IN_PTX:
        return tl.inline_asm_elementwise(sigma[3], "=l,l", [x], tl.uint64, True, 1)
    else:
        return rotate_right(x, sigma[0]) ^ rotate_right(x, sigma[1]) ^ rotate_right(x, sigma[2])


@triton.jit
def small_sigma(x: tl.tensor, sigma: tl.constexpr) -> tl.tensor:
    if SIGMAS_IN_PTX:
        return tl.inline_asm_elementwise(sigma[3], "=l,l", [x], tl.uint64, True, 1)
    else:
        return rotate_right(x, sigma[0]) ^ rotate_right(x, sigma[1]) ^ (x >> sigma[2])


@triton.jit
def initial_state() -> tl.tuple:
    state = (tl.full((LANES,), INITIAL[0], WORD),)
    for i in tl.static_range(1, 8):
        state = state + (tl.full((LANES,), INITIAL[i], WORD),)
    return state


@triton.jit
def one_round(state: tl.tuple, w_plus_k: tl.tensor, one: tl.tensor) -> tl.tuple:
    a, b, c, d, e, f, g, h = state
    t1 = add(add(h, big_sigma(e, BIG_SIGMA_1), one), add(g ^ (e & (f ^ g)), w_plus_k, one), one)
    t2 = add(big_sigma(a, BIG_SIGMA_0), (a & b) | (c & (a | b)), one)
    return add(t1, t2, one), a, b, c, add(d, t1, one), e, f, g


@triton.jit
def short_round(state: tl.tuple, w_plus_k: tl.tensor, one: tl.tensor) -> tl.tuple:
    """The same with more additions, one of which lies between two values of e instead of two: for lone warps."""
    a, b, c, d, e, f, g, h = state
    sum = add(add(h, w_plus_k, one), g ^ (e & (f ^ g)), one)
    sigma = big_sigma(e, BIG_SIGMA_1)
    t1 = add(sum, sigma, one)
    next_e = add(add(d, sum, one), sigma, one)
    next_a = add(add(t1, (a & b) | (c & (a | b)), one), big_sigma(a, BIG_SIGMA_0), one)
    return next_a, a, b, c, next_e, e, f, g


@triton.jit
def next_word(w: tl.tuple, one: tl.tensor) -> tl.tensor:
    """W_t from the sixteen words before it."""
    return add(
        add(w[0], w[9], one),
        add(
            small_sigma(w[1], SMALL_SIGMA_0),
            small_sigma(w[14], SMALL_SIGMA_1),
            one,
        ),
        one,
    )


@triton.jit
def words_in_order(words32: tl.tuple) -> tl.tuple:
    """Words from their halves as they lie in memory, the lower one first."""
    if WORD_BITS == 32:
        return words32
    else:
        words = ()
        for i in tl.static_range(0, len(words32), 2):
            words = words + (words32[i + 1].to(tl.uint64) << 32 | words32[i],)
        return words


@triton.jit
def halves_in_order(words: tl.tuple) -> tl.tuple:
    """The opposite."""
    if WORD_BITS == 32:
        return words
    else:
        words32 = ()
        for i in tl.static_range(len(words)):
            words32 = words32 + (words[i].to(tl.uint32), (words[i] >> 32).to(tl.uint32))
        return words32


@triton.jit
def constants_at(k: tl.tensor) -> tl.tensor:
    """The address of the constants K_t, which are in memory at `k`, for `load_constants`."""
    if CONSTANT_MEMORY:
        return tl.inline_asm_elementwise(CONSTANTS, "=l,l", [k], tl.uint64, False, 1)
    else:
        return k


@triton.jit
def load_constants(k: tl.tensor) -> tl.tuple:
    """Sixteen constants."""
    constants = ()
    if CONSTANT_MEMORY:
        for i in tl.static_range(0, 128, 16):
            constants = constants + tl.inline_asm_elementwise(
                "ld.const.v2.u64 {$0, $1}, [$2];", "=l,=l,l", [k + i], (tl.uint64, tl.uint64), True, 1
            )
    elif IS_CUDA:
        constants = load_words(k)
    else:
        for t in tl.static_range(16):
            constants = constants + (tl.load(k.to(tl.pointer_type(WORD)) + t),)
    return constants


@triton.jit
def load_words(address: tl.tensor) -> tl.tuple:
    """Sixteen words that no launch writes to."""
    words = ()
    for i in tl.static_range(0, 2 * WORD_BITS, 16):
        if WORD_BITS == 32:
            words = words + tl.inline_asm_elementwise(
                "ld.global.nc.v4.u32 {$0, $1, $2, $3}, [$4];",
                "=r,=r,=r,=r,l",
                [address + i],
                (tl.uint32, tl.uint32, tl.uint32, tl.uint32),
                True,
                1,
            )
        else:
            words = words + tl.inline_asm_elementwise(
                "ld.global.nc.v2.u64 {$0, $1}, [$2];", "=l,=l,l", [address + i], (tl.uint64, tl.uint64), True, 1
            )
    return words


@triton.jit
def sixteen_rounds(state: tl.tuple, w: tl.tuple, k: tl.tensor, one: tl.tensor) -> tl.tuple:
    """The next rounds, whose constants are at the address `k`, and the words of those after them."""
    constants = load_constants(k)
    for t in tl.static_range(16):
        state = one_round(state, add_constant(w[0], constants[t], one), one)
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
def compress(before: tl.tuple, w: tl.tuple, unrolled: tl.constexpr, one: tl.tensor, k: tl.tensor) -> tl.tuple:
    """FIPS 180-4 sections 6.2.2 and 6.4.2: `before` updated with a block, of which `w` are the words. Unrolled, SHA-256
    is faster, and takes longer to compile."""
    state = before
    if unrolled:
        for turn in tl.static_range(0, ROUNDS - 16, 16):
            state, w = sixteen_unrolled(state, w, turn, one)
    else:
        for turn in range(0, ROUNDS - 16, 16):
            state, w = sixteen_rounds(state, w, k + turn * (WORD_BITS // 8), one)
    return added(before, last_rounds(state, w, one), one)


@triton.jit
def added(before: tl.tuple, state: tl.tuple, one: tl.tensor) -> tl.tuple:
    after = (add(before[0], state[0], one),)
    for i in tl.static_range(1, 8):
        after = after + (add(before[i], state[i], one),)
    return after


@triton.jit
def load_schedule(address: tl.tensor, one: tl.tensor) -> tl.tuple:
    """W_t + K_t of sixteen rounds, from a table."""
    if IS_CUDA:
        return load_words(address)
    else:
        words = ()
        for t in tl.static_range(16):
            if WORD_BITS == 32:
                words = words + (load_u32(address + 4 * t, one),)
            else:
                words = words + (load_u64(address + 8 * t, one),)
        return words


@triton.jit
def compress_tabled(
    before: tl.tuple, schedules: tl.tensor, byte: tl.tensor, early: tl.constexpr, one: tl.tensor
) -> tl.tuple:
    """`before` updated with a block that begins with `byte`, whose schedule is in a table with one for each byte.
    If `early`, each load is sixteen rounds before its use."""
    schedule = schedules + byte.to(tl.uint64) * (ROUNDS * WORD_BITS // 8)
    state = before
    if early:
        coming = load_schedule(schedule, one)
        for turn in range(TURNS):
            words = coming
            coming = load_schedule(schedule + tl.minimum(turn + 1, TURNS - 1) * (2 * WORD_BITS), one)
            for t in tl.static_range(16):
                state = one_round(state, words[t], one)
    else:
        for turn in range(TURNS):
            words = load_schedule(schedule + turn * (2 * WORD_BITS), one)
            for t in tl.static_range(16):
                state = one_round(state, words[t], one)
    return added(before, state, one)


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
def load_block(source: tl.tensor, one: tl.tensor) -> tl.tuple:
    """The aligned words of a block."""
    words = ()
    for i in tl.static_range(0, BLOCK_BYTES, 16):
        words = words + load_message(source + i, one)
    return words


@triton.jit
def cut_block(raw: tl.tuple, before: tl.tensor, select: tl.tensor) -> tl.tuple:
    """A block from its aligned words in memory and the one `before` them."""
    words = (big_endian(before, raw[0], select),)
    for i in tl.static_range(1, BLOCK_WORDS32):
        words = words + (big_endian(raw[i - 1], raw[i], select),)
    return words


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
def find_chunk(
    base: tl.tensor,
    table: tl.tensor,
    segments: tl.tensor,
    chunk_size: tl.tensor,
    tagged: tl.tensor,
    partial_chunks: tl.tensor,
    chunks: tl.tensor,
    chunk: tl.tensor,
    one: tl.tensor,
) -> tl.tuple:
    """The address of a chunk, its length, its tag's length, and its slot: see `kernels/device/tree.h`."""
    lengths, firsts = table + 8 * segments, table + 16 * segments
    full_before, with_partial = table + 24 * segments, table + 32 * segments
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
    return data, length, tags, load_u64(firsts + 8 * segment, one) + index


@triton.jit
def blocks_of(data: tl.tensor, length: tl.tensor, tags: tl.tensor, chunk_size: tl.tensor) -> tl.tuple:
    """The number of each lane's last block, of the program's blocks, and of those that all lanes can read 16 bytes at a
    time, because their chunks are full and aligned."""
    last_block = ((length + tags + LENGTH_BYTES) // BLOCK_BYTES).to(tl.int64)
    alike = tl.min(((length == chunk_size) & (data & 15 == 0)).to(tl.int32), 0)
    return last_block, tl.max(last_block, 0) + 1, tl.where(alike == 1, chunk_size // BLOCK_BYTES, 0).to(tl.int64)


@triton.jit
def hash_one_chunk(
    base: tl.tensor,
    table: tl.tensor,
    segments: tl.tensor,
    chunk_size: tl.tensor,
    tagged: tl.tensor,
    partial_chunks: tl.tensor,
    chunks: tl.tensor,
    schedules: tl.tensor,
    digests: tl.tensor,
    one: tl.tensor,
    k: tl.tensor,
    early: tl.constexpr,
) -> None:
    thread = this_thread()
    data, length, tags, _ = find_chunk(
        base, table, segments, chunk_size, tagged, partial_chunks, chunks, tl.minimum(thread, chunks - 1), one
    )
    last_block, blocks, aligned_blocks = blocks_of(data, length, tags, chunk_size)

    k = constants_at(k)
    state = initial_state()
    before = tl.zeros((LANES,), tl.uint32)
    select = selector(tl.where(tagged == 1, 3, 4).to(tl.uint32))
    if early:
        if aligned_blocks > 0:
            raw = load_block(data, one)
            for block in range(aligned_blocks):
                words = cut_block(raw, before, select)
                before = raw[BLOCK_WORDS32 - 1]
                raw = load_block(data + tl.minimum(block + 1, aligned_blocks - 1) * BLOCK_BYTES, one)
                if BLOCKS_AHEAD > 0:
                    prefetch(data + tl.minimum(block + BLOCKS_AHEAD, aligned_blocks - 1) * BLOCK_BYTES)
                state = compress(state, words_of(words), UNROLLED, one, k)
    else:
        for block in range(aligned_blocks):
            raw = load_block(data + block * BLOCK_BYTES, one)
            words = cut_block(raw, before, select)
            before = raw[BLOCK_WORDS32 - 1]
            state = compress(state, words_of(words), UNROLLED, one, k)
    if (aligned_blocks > 0) & (chunk_size % BLOCK_BYTES == 0):
        state = compress_tabled(state, schedules, tl.where(tagged == 1, before >> 24, 0), False, one)
    else:
        for block in range(aligned_blocks, blocks):
            words = any_words(data, length, tags, block, last_block, table, one)
            state = chosen(block <= last_block, compress(state, words_of(words), False, one, k), state, 8)

    # found again, from what the compiler cannot see to be the same: the rounds need the registers that would keep it
    _, _, _, slot = find_chunk(
        base, table, segments, chunk_size, tagged, partial_chunks, chunks, tl.minimum(thread * one, chunks - 1), one
    )
    store_words(digests + slot * (4 * DIGEST_WORDS32), digest_words(state), thread < chunks, one)


@triton.jit
def hash_chunks(
    base: tl.tensor,
    table: tl.tensor,
    segments: tl.tensor,
    chunk_size: tl.tensor,
    tagged: tl.tensor,
    partial_chunks: tl.tensor,
    chunks: tl.tensor,
    schedules: tl.tensor,
    digests: tl.tensor,
    one: tl.tensor,
    k: tl.tensor,
) -> None:
    """A lane for each chunk: writes its digest, or its leaf hash if `tagged`, to its slot."""
    hash_one_chunk(base, table, segments, chunk_size, tagged, partial_chunks, chunks, schedules, digests, one, k, False)


@triton.jit
def hash_chunks_early(
    base: tl.tensor,
    table: tl.tensor,
    segments: tl.tensor,
    chunk_size: tl.tensor,
    tagged: tl.tensor,
    partial_chunks: tl.tensor,
    chunks: tl.tensor,
    schedules: tl.tensor,
    digests: tl.tensor,
    one: tl.tensor,
    k: tl.tensor,
) -> None:
    """The same, but each lane loads a block while it compresses the one before it: for few chunks."""
    hash_one_chunk(base, table, segments, chunk_size, tagged, partial_chunks, chunks, schedules, digests, one, k, True)


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


# Chunks, two lanes for each -------------------------------------------------------------------------------------------


@triton.jit
def hash_chunks_paired(
    base: tl.tensor,
    table: tl.tensor,
    segments: tl.tensor,
    chunk_size: tl.tensor,
    tagged: tl.tensor,
    partial_chunks: tl.tensor,
    chunks: tl.tensor,
    schedules: tl.tensor,
    digests: tl.tensor,
    one: tl.tensor,
    k: tl.tensor,
) -> None:
    """Like hash_chunks with two lanes for a chunk, in neighbouring warps, so on two schedulers: one expands the
    schedule, the other runs the rounds over it.

    Triton has no branches for single warps. But what tells the warps apart is a number here of which Triton knows
    nothing, so that it takes it to be the same in all lanes. In the branches nothing may go from lane to lane but
    through inline assembly.
    """
    thread = thread_of_group(tl.full((LANES,), 0, tl.uint32))
    pair = (thread >> 6 << 5) + (thread & 31)
    chunk = tl.program_id(0).to(tl.uint64) * PAIRS + pair
    data, length, tags, slot = find_chunk(
        base, table, segments, chunk_size, tagged, partial_chunks, chunks, tl.minimum(chunk, chunks - 1), one
    )
    last_block, blocks, aligned_blocks = blocks_of(data, length, tags, chunk_size)
    stage = tl.inline_asm_elementwise(STAGE_AND_QUEUE, "=r,r", [one], tl.uint32, False, 1) + pair * 16
    if thread_of_group(one) >> 5 & 1 == 0:
        k = constants_at(k)
        expand_message(data, length, tags, tagged, last_block, aligned_blocks, blocks, table, stage, one, k)
    else:
        state = run_rounds(last_block, blocks, stage, one)
        store_words(digests + slot * (4 * DIGEST_WORDS32), digest_words(state), chunk < chunks, one)


@triton.jit
def expand_message(
    data: tl.tensor,
    length: tl.tensor,
    tags: tl.tensor,
    tagged: tl.tensor,
    last_block: tl.tensor,
    aligned_blocks: tl.tensor,
    blocks: tl.tensor,
    spare: tl.tensor,
    stage: tl.tensor,
    one: tl.tensor,
    k: tl.tensor,
) -> None:
    """Puts W_t + K_t of all blocks on the stage. The blocks come through a queue in shared memory."""
    before = tl.zeros((LANES,), tl.uint32)
    select = selector(tl.where(tagged == 1, 3, 4).to(tl.uint32))
    queue = stage + STAGE_BYTES
    for block in tl.static_range(QUEUE_LENGTH):
        send_for_block(data, tl.full((), block, tl.int64), aligned_blocks, queue)
    raw = take_block(tl.full((), 0, tl.int64), queue, one)
    for block in range(aligned_blocks):
        words = cut_block(raw, before, select)
        before = raw[BLOCK_WORDS32 - 1]
        send_for_block(data, block + QUEUE_LENGTH, aligned_blocks, queue)
        raw = take_block(block + 1, queue, one)
        expand_block(words_of(words), block, stage, one, k)
    for block in range(aligned_blocks, blocks):
        words = any_words(data, length, tags, block, last_block, spare, one)
        expand_block(words_of(words), block, stage, one, k)
    barrier(one)  # the other lanes' last one


@triton.jit
def send_for_block(data: tl.tensor, block: tl.tensor, blocks: tl.tensor, queue: tl.tensor) -> None:
    """Starts to copy a block, if there is such a one."""
    place = queue + (block % QUEUE_LENGTH).to(tl.uint32) * TURN_BYTES
    present = tl.full((LANES,), 1, tl.uint32) * (block < blocks).to(tl.uint32)
    tl.inline_asm_elementwise(COPIES, "=r,r,l,r", [place, data + block * BLOCK_BYTES, present], tl.uint32, False, 1)


@triton.jit
def take_block(block: tl.tensor, queue: tl.tensor, one: tl.tensor) -> tl.tuple:
    """Waits for a block, after which QUEUE_LENGTH - 1 others were sent for."""
    place = queue + (block % QUEUE_LENGTH).to(tl.uint32) * TURN_BYTES
    tl.inline_asm_elementwise(WAIT_FOR_COPIES, "=r,r", [one], tl.uint32, False, 1)
    words = ()
    for i in tl.static_range(BLOCK_BYTES // 16):
        words = words + load_shared(place + i * (16 * PAIRS))
    return words


@triton.jit
def expand_block(w: tl.tuple, block: tl.tensor, stage: tl.tensor, one: tl.tensor, k: tl.tensor) -> None:
    turn = block * TURNS
    put_on_stage(w, k, turn, stage, one)
    for i in range(1, TURNS):
        if TURNS_STAGED == 1:
            barrier(one)
        for _ in tl.static_range(16):
            w = w[1:] + (next_word(w, one),)
        put_on_stage(w, k + i * (2 * WORD_BITS), turn + i, stage, one)
    barrier(one)


@triton.jit
def put_on_stage(w: tl.tuple, k: tl.tensor, turn: tl.tensor, stage: tl.tensor, one: tl.tensor) -> None:
    place = stage + (turn % (2 * TURNS_STAGED)).to(tl.uint32) * TURN_BYTES
    constants = load_constants(k)
    these = ()
    for t in tl.static_range(16):
        these = these + (add_constant(w[t], constants[t], one),)
    halves = halves_in_order(these)
    for i in tl.static_range(0, WORD_BITS // 2, 4):
        store_shared(place + i * (4 * PAIRS), halves[i], halves[i + 1], halves[i + 2], halves[i + 3])


@triton.jit
def half_a_turn(place: tl.tensor) -> tl.tuple:
    """Eight words from the stage."""
    words = ()
    for i in tl.static_range(0, WORD_BITS // 4, 4):
        words = words + load_shared(place + i * (4 * PAIRS))
    return words_in_order(words)


@triton.jit
def run_rounds(last_block: tl.tensor, blocks: tl.tensor, stage: tl.tensor, one: tl.tensor) -> tl.tuple:
    """The hash value, by what is on the stage. Words are loaded half a turn before they are needed. When the last ones
    of a half of the stage are there, it comes to the barrier, after which they may be overwritten."""
    state = initial_state()
    barrier(one)
    first = half_a_turn(stage)
    second = half_a_turn(stage + TURN_BYTES // 2)
    for block in range(blocks):
        before = state
        for i in range(TURNS):
            state = eight_rounds(state, first, one)
            if TURNS_STAGED == 1 or i == TURNS - 1:
                barrier(one)
            place = stage + ((block * TURNS + i + 1) % (2 * TURNS_STAGED)).to(tl.uint32) * TURN_BYTES
            first = half_a_turn(place)
            state = eight_rounds(state, second, one)
            second = half_a_turn(place + TURN_BYTES // 2)
        state = chosen(block <= last_block, added(before, state, one), before, 8)
    return state


@triton.jit
def eight_rounds(state: tl.tuple, w: tl.tuple, one: tl.tensor) -> tl.tuple:
    for t in tl.static_range(8):
        state = short_round(state, w[t], one)
    return state


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
    schedules: tl.tensor,
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
    shared, k = shared_nodes(one), constants_at(k)
    while widest > 1:
        left = chosen(
            2 * pair + 1 < width, digest_words(hash_node(left, right, schedules, one, k)), left, DIGEST_WORDS32
        )
        width = (width + 1) // 2
        widest = (widest + 1) // 2
        if widest > 1:
            left, right = children(left, pair.to(tl.uint32), shared, one)
    store_words(place, left, reduced, one)


@triton.jit
def load_digest(slot: tl.tensor, one: tl.tensor) -> tl.tuple:
    words = ()
    for i in tl.static_range(0, DIGEST_WORDS32, 4):
        a, b, c, d = load_four(slot + 4 * i, one)
        words = words + (a, b, c, d)
    return words


@triton.jit
def shared_nodes(one: tl.tensor) -> tl.tensor:
    """The address of shared memory for a node of each lane."""
    if IS_CUDA:
        return tl.inline_asm_elementwise(NODES, "=r,r", [one], tl.uint32, False, 1)
    else:
        return one


@triton.jit
def children(nodes: tl.tuple, pair: tl.tensor, shared: tl.tensor, one: tl.tensor) -> tl.tuple:
    """The nodes of lanes 2 * pair and 2 * pair + 1, where there are such ones."""
    first = tl.minimum(2 * pair, LANES - 2)
    if IS_CUDA:  # tl.gather takes a barrier or two for each word
        for i in tl.static_range(0, DIGEST_WORDS32, 4):
            store_shared(shared + 16 * pair + (4 * LANES) * i, nodes[i], nodes[i + 1], nodes[i + 2], nodes[i + 3])
        barrier(one)
        left, right = (), ()
        for i in tl.static_range(0, DIGEST_WORDS32, 4):
            left = left + load_shared(shared + 16 * first + (4 * LANES) * i)
            right = right + load_shared(shared + 16 * first + 16 + (4 * LANES) * i)
        barrier(one)
        return left, right
    else:
        return gathered(nodes, first.to(tl.int32)), gathered(nodes, first.to(tl.int32) + 1)


@triton.jit
def gathered(words: tl.tuple, lanes: tl.tensor) -> tl.tuple:
    """The words of other lanes."""
    result = ()
    for i in tl.static_range(DIGEST_WORDS32):
        result = result + (tl.gather(words[i], lanes, 0),)
    return result


@triton.jit
def hash_node(left: tl.tuple, right: tl.tuple, schedules: tl.tensor, one: tl.tensor, k: tl.tensor) -> tl.tuple:
    """The node hash H(0x01 || left || right), of the words of two digests."""
    select = selector(tl.full((LANES,), 3, tl.uint32))
    before = tl.full((LANES,), 0x01000000, tl.uint32)
    both = left + right
    words = ()
    for i in tl.static_range(2 * DIGEST_WORDS32):
        words = words + (big_endian(before, both[i], select),)
        before = both[i]
    state = initial_state()
    if NODE_BLOCKS == 2:  # the second one has a byte of `right`, padding and the length
        state = compress(state, words_of(words), UNROLLED, one, k)
        return compress_tabled(state, schedules, before >> 24, True, one)
    else:
        words = words + (big_endian(before, tl.full((LANES,), 0x80, tl.uint32), select),)
        for _ in tl.static_range(2 * DIGEST_WORDS32 + 1, BLOCK_WORDS32 - 1):
            words = words + (tl.zeros((LANES,), tl.uint32),)
        words = words + (tl.full((LANES,), 8 * NODE_BYTES, tl.uint32),)
        return compress(state, words_of(words), UNROLLED, one, k)


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
