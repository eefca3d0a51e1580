"""Chunks and nodes on a processor's lanes, in Python that Numba compiles: each lane has a message of its own, and takes
the next one as soon as it has finished.

This module is executed once for each program, which first defines SHA (256 or 384) and METHOD, as `numba_cpu.program`
does. A message consists of a tag (or none) and bytes somewhere in memory. Its blocks are compressed where they lie, but
for the first if there is a tag, and for the last one or two, which hold the padding: these are put together in memory
of the lane's own.

All numbers are int64, also addresses, which fit: Numba makes uint64 beside a signed number a float64. All memory is
reached by address: Numba takes seconds to compile operations on arrays.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from hashbench.kernels import sha2_llvm
from hashbench.kernels.contract import ALGORITHMS
from hashbench.kernels.fips180 import constants
from hashbench.kernels.numba_programs import cached

SHA: int = globals()["SHA"]
METHOD: sha2_llvm.Method = globals()["METHOD"]

_ALGORITHM = ALGORITHMS[f"sha{SHA}"]
_CONSTANTS = constants(_ALGORITHM.name)
_WORD, _I64 = ir.IntType(_CONSTANTS.word_bits), ir.IntType(64)
WORD_BYTES = _CONSTANTS.word_bits // 8
DIGEST_BYTES, BLOCK_BYTES = _ALGORITHM.digest_size, _ALGORITHM.block_size
LENGTH_BYTES = 2 * WORD_BYTES
LANES, LANE_STRIDE = METHOD.lanes, WORD_BYTES * METHOD.lane_stride
_PLACES = [WORD_BYTES * place for place in METHOD.places]

LINE, FETCHED = sha2_llvm.LINE, sha2_llvm.AHEAD * BLOCK_BYTES + sha2_llvm.LINE

LEAF_TAG, NODE_TAG, PADDING = 0, 1, 0x80
MADE_BYTES = 2 * BLOCK_BYTES

# The stages of a message: its first block, put together behind the tag; blocks where they lie; its last ones.
FIRST, MIDDLE, LAST = range(3)

# Where in a thread's memory the lanes have their states, then a number each: the address of the next block, how many
# blocks there are from there on, the message, where its digest goes, and its stage. Then two blocks each.
STATES = 0
NEXT, BLOCKS, DATA, NBYTES, TAGGED, DIGEST, STAGE, MADE = (8 * LANES * (WORD_BYTES + field) for field in range(8))
MEMORY_BYTES = MADE + MADE_BYTES * LANES

_OPTIONS = {"nogil": True, "error_model": "numpy"}


def _device(function: Any) -> Any:
    """A function that is compiled into those that call it."""
    return njit(function, **_OPTIONS)


def _intrinsic(function: Any) -> Any:
    """A function that is defined by its types and instructions."""
    return intrinsic(function)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _word(builder: Any, address: Any, offset: int) -> Any:
    return _at(builder, builder.add(address, _I64(offset)), _WORD)


@_intrinsic
def _load(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_at(builder, arguments[0], _I64), align=8)

    return int64(int64), generate


@_intrinsic
def _store(typing_context: Any, address: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], _at(builder, arguments[0], _I64), align=8)
        return context.get_dummy_value()

    return types.void(int64, int64), generate


@_intrinsic
def _prefetch(typing_context: Any, address: Any) -> Any:
    """Brings the line at an address, which need not exist, to the processor's first cache."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sha2_llvm.prefetch(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(int64), generate


@_intrinsic
def _store_byte(typing_context: Any, address: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8)
        builder.store(builder.trunc(arguments[1], byte), _at(builder, arguments[0], byte))
        return context.get_dummy_value()

    return types.void(int64, int64), generate


@_intrinsic
def _store_big_endian(typing_context: Any, address: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(builder.bswap(arguments[1]), _at(builder, arguments[0], _I64), align=1)
        return context.get_dummy_value()

    return types.void(int64, int64), generate


@_intrinsic
def _copy(typing_context: Any, target: Any, source: Any, nbytes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (builder.inttoptr(address, cgutils.voidptr_t) for address in arguments[:2])
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(int64, int64, int64), generate


@_intrinsic
def _clear(typing_context: Any, made: Any) -> Any:
    """Clears the blocks that are a lane's own. Their number of bytes is known, so that takes a few instructions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cgutils.memset(builder, builder.inttoptr(arguments[0], cgutils.voidptr_t), _I64(MADE_BYTES), 0)
        return context.get_dummy_value()

    return types.void(int64), generate


@_intrinsic
def _set_initial(typing_context: Any, state: Any) -> Any:
    """Sets a lane's state to that before the first block."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for place, word in zip(_PLACES, _CONSTANTS.initial, strict=True):
            builder.store(_WORD(word), _word(builder, arguments[0], place))
        return context.get_dummy_value()

    return types.void(int64), generate


@_intrinsic
def _move_state(typing_context: Any, target: Any, source: Any) -> Any:
    """Copies a lane's state."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = arguments
        for place in _PLACES:
            builder.store(builder.load(_word(builder, source, place)), _word(builder, target, place))
        return context.get_dummy_value()

    return types.void(int64, int64), generate


@_intrinsic
def _store_digest(typing_context: Any, target: Any, state: Any) -> Any:
    """Stores the digest that a lane's state is, at any address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, state = arguments
        for i in range(DIGEST_BYTES // WORD_BYTES):
            word = builder.bswap(builder.load(_word(builder, state, _PLACES[i])))
            builder.store(word, _word(builder, target, WORD_BYTES * i), align=1)
        return context.get_dummy_value()

    return types.void(int64, int64), generate


@_intrinsic
def _compress(typing_context: Any, active: Any, states: Any, places: Any, blocks: Any) -> Any:
    """Compresses a number of blocks on the first `active` lanes: see `sha2_llvm.define_compression`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.call(sha2_llvm.define_compression(builder.module, _ALGORITHM, METHOD), arguments)
        return context.get_dummy_value()

    return types.void(int64, int64, int64, int64), generate


@_device
def _pad(made: Any, start: Any, nbytes: Any) -> Any:
    """Pads a message of `nbytes` whose last bytes lie in `made`, a lane's own memory that was cleared, before `start`.

    Returns:
        The number of blocks from `made` on.
    """
    end = BLOCK_BYTES if start + 1 + LENGTH_BYTES <= BLOCK_BYTES else 2 * BLOCK_BYTES
    _store_byte(made + start, PADDING)
    _store_big_endian(made + end - 8, 8 * nbytes)
    return end // BLOCK_BYTES


@_device
def _begin_chunk(lane: Any, made: Any, data: Any, nbytes: Any, tagged: Any) -> None:
    """Gives a chunk to a lane, of which `lane` is the address of its first number."""
    total = tagged + nbytes
    _store(lane + DATA, data)
    _store(lane + NBYTES, nbytes)
    _store(lane + TAGGED, tagged)
    if total + 1 + LENGTH_BYTES <= MADE_BYTES:
        _clear(made)  # LEAF_TAG is 0
        _copy(made + tagged, data, nbytes)
        _store(lane + NEXT, made)
        _store(lane + BLOCKS, _pad(made, total, total))
        _store(lane + STAGE, LAST)
    elif tagged:
        _store_byte(made, LEAF_TAG)
        _copy(made + 1, data, BLOCK_BYTES - 1)
        _store(lane + NEXT, made)
        _store(lane + BLOCKS, 1)
        _store(lane + STAGE, FIRST)
    else:
        _store(lane + NEXT, data)
        _store(lane + BLOCKS, nbytes // BLOCK_BYTES)
        _store(lane + STAGE, MIDDLE)


@_device
def _begin_node(lane: Any, made: Any, left: Any, right: Any) -> None:
    """Gives a node to a lane."""
    _clear(made)
    _store_byte(made, NODE_TAG)
    _copy(made + 1, left, DIGEST_BYTES)
    _copy(made + 1 + DIGEST_BYTES, right, DIGEST_BYTES)
    _store(lane + NEXT, made)
    _store(lane + BLOCKS, _pad(made, 1 + 2 * DIGEST_BYTES, 1 + 2 * DIGEST_BYTES))
    _store(lane + STAGE, LAST)


@_device
def _go_on(lane: Any, made: Any) -> None:
    """Gives the next blocks of its message to a lane that has none left."""
    total = _load(lane + TAGGED) + _load(lane + NBYTES)
    if _load(lane + STAGE) == FIRST and total >= 2 * BLOCK_BYTES:
        _store(lane + NEXT, _load(lane + DATA) + BLOCK_BYTES - 1)
        _store(lane + BLOCKS, total // BLOCK_BYTES - 1)
        _store(lane + STAGE, MIDDLE)
    else:
        rest = total % BLOCK_BYTES
        _clear(made)
        if rest:
            _copy(made, _load(lane + DATA) + _load(lane + NBYTES) - rest, rest)
        _store(lane + NEXT, made)
        _store(lane + BLOCKS, _pad(made, rest, total))
        _store(lane + STAGE, LAST)


@_device
def _move(memory: Any, source: Any, target: Any) -> None:
    """Moves what one lane is doing to another."""
    for field in range(NEXT, MADE, 8 * LANES):
        _store(memory + field + 8 * target, _load(memory + field + 8 * source))
    if _load(memory + STAGE + 8 * source) != MIDDLE:  # its blocks are in its own memory
        next_block = memory + NEXT + 8 * target
        _store(next_block, _load(next_block) + MADE_BYTES * (target - source))
    _copy(memory + MADE + MADE_BYTES * target, memory + MADE + MADE_BYTES * source, MADE_BYTES)
    _move_state(memory + STATES + LANE_STRIDE * target, memory + STATES + LANE_STRIDE * source)


@_device
def _hash_level(
    addresses: Any,
    lengths: Any,
    firsts: Any,
    chunk_size: Any,
    tagged: Any,
    digests: Any,
    segment: Any,
    begin: Any,
    end: Any,
    level: Any,
    memory: Any,
) -> None:
    """`hash_slots` for one level."""
    step = 1 << level
    slot = begin
    active = 0
    while True:
        while active < LANES and slot < end:
            while slot >= _load(firsts + 8 * (segment + 1)):
                segment += 1
            lane, made = memory + 8 * active, memory + MADE + MADE_BYTES * active
            following = _load(firsts + 8 * (segment + 1))
            digest = digests + slot * DIGEST_BYTES
            begun = True
            if level == 0:
                start = (slot - _load(firsts + 8 * segment)) * chunk_size
                nbytes = min(chunk_size, _load(lengths + 8 * segment) - start)
                tag = tagged if nbytes else 0  # the root of the empty tree has no tag
                data = _load(addresses + 8 * segment) + start
                _begin_chunk(lane, made, data, nbytes, tag)
                for line in range(0, FETCHED, LINE):  # of the chunk that the lane is likely to get next
                    _prefetch(data + LANES * chunk_size + line)
            elif slot + (step >> 1) < following:
                _begin_node(lane, made, digest, digest + (step >> 1) * DIGEST_BYTES)
            else:
                begun = False
            if begun:
                _store(lane + DIGEST, digest)
                _set_initial(memory + STATES + LANE_STRIDE * active)
                active += 1
            slot = min(slot + step, following)
        if active == 0:
            return

        blocks = _load(memory + BLOCKS)
        for i in range(1, active):
            blocks = min(blocks, _load(memory + BLOCKS + 8 * i))
        for i in range(active, LANES):
            _store(memory + NEXT + 8 * i, _load(memory + NEXT))
        _compress(active, memory + STATES, memory + NEXT, blocks)
        for i in range(active - 1, -1, -1):  # so that what is moved to a place that is free has had its turn
            lane, made = memory + 8 * i, memory + MADE + MADE_BYTES * i
            _store(lane + NEXT, _load(lane + NEXT) + blocks * BLOCK_BYTES)
            _store(lane + BLOCKS, _load(lane + BLOCKS) - blocks)
            if _load(lane + BLOCKS) == 0 and _load(lane + STAGE) == LAST:
                _store_digest(_load(lane + DIGEST), memory + STATES + LANE_STRIDE * i)
                active -= 1
                if i < active:
                    _move(memory, active, i)
            elif _load(lane + BLOCKS) == 0:
                _go_on(lane, made)


def hash_slots(
    addresses: Any,
    lengths: Any,
    firsts: Any,
    chunk_size: Any,
    tagged: Any,
    digests: Any,
    segment: Any,
    begin: Any,
    end: Any,
    lowest: Any,
    highest: Any,
    memory: Any,
) -> None:
    """Hashes chunks or nodes of some slots to their places in `digests`, level by level.

    Level 0 are the chunks. A node of level n has 2^n slots, and its hash stays in the first of them; a node without a
    right child is its left child. All levels are one call, as each call waits for the interpreter's lock.

    Args:
        addresses: of each segment: here and below, the address of a table of numbers.
        lengths: of each segment, in bytes.
        firsts: each segment's first slot, and the number of slots.
        chunk_size: bytes of a full chunk.
        tagged: 1 if chunks get the leaf's tag, else 0.
        digests: the address of the first slot.
        segment: that of the slot `begin`.
        begin: the first slot, a multiple of 2^highest from its segment's first.
        end: the slot after the last, likewise, or the segment's end.
        lowest: the first level.
        highest: the last level.
        memory: the address of MEMORY_BYTES of the thread's own, a multiple of 8.
    """
    for level in range(lowest, highest + 1):
        _hash_level(addresses, lengths, firsts, chunk_size, tagged, digests, segment, begin, end, level, memory)


SIGNATURE = types.void(*(int64,) * 12)
"""The types of `hash_slots`."""

hash_slots = cached(njit, hash_slots, **_OPTIONS)
