"""Chunks and nodes on a processor's lanes, in Python that Numba compiles: each lane has a message of its own, and takes
the next one as soon as it has finished.

This module is executed once for each program, which first defines SHA (256 or 384) and METHOD, as `numba_cpu.program`
does. All numbers are int64, since Numba makes uint64 beside a signed number a float64; addresses fit.

A message consists of a tag (or none) and bytes somewhere in memory. Its blocks are compressed where they lie, but for
the first if there is a tag, and for the last one or two, which hold the padding: these are put together in memory of
the lane's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
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
WORD: Any = np.uint32 if SHA == 256 else np.uint64
WORD_BYTES = _CONSTANTS.word_bits // 8
DIGEST_BYTES, BLOCK_BYTES = _ALGORITHM.digest_size, _ALGORITHM.block_size
LENGTH_BYTES = 2 * WORD_BYTES
LANES, LANE_STRIDE = METHOD.lanes, METHOD.lane_stride
INITIAL, PLACES = np.array(_CONSTANTS.initial, WORD), np.array(METHOD.places)

# What is known of each lane: the address of its next block, how many follow there, its message, where its digest goes,
# and its stage.
NEXT, BLOCKS, DATA, NBYTES, TAGGED, DIGEST, STAGE, FIELDS = range(8)
# The stages of a message: its first block, put together behind the tag; blocks where they lie; its last ones.
FIRST, MIDDLE, LAST = range(3)

LEAF_TAG, NODE_TAG = 0, 1
MADE_BYTES = 2 * BLOCK_BYTES  # of memory of a lane's own

_OPTIONS = {"nogil": True, "error_model": "numpy"}
_device = njit(**_OPTIONS)


@intrinsic
def _compress(typing_context: Any, active: Any, states: Any, places: Any, blocks: Any) -> Any:
    """Compresses a number of blocks on the first `active` lanes: see `sha2_llvm.define_compression`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.call(sha2_llvm.define_compression(builder.module, _ALGORITHM, METHOD), arguments)
        return context.get_dummy_value()

    return types.void(int64, int64, int64, int64), generate


@intrinsic
def _copy(typing_context: Any, target: Any, source: Any, nbytes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (builder.inttoptr(address, cgutils.voidptr_t) for address in arguments[:2])
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(int64, int64, int64), generate


@intrinsic
def _store_big_endian(typing_context: Any, address: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, word = arguments
        builder.store(builder.bswap(word), builder.inttoptr(address, word.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(int64, word), generate


@_device
def _pad(made: Any, start: Any, nbytes: Any) -> Any:
    """Pads a message of `nbytes` whose last bytes lie in `made`, of a lane's own, before `start`; returns its blocks."""
    end = BLOCK_BYTES if start + 1 + LENGTH_BYTES <= BLOCK_BYTES else 2 * BLOCK_BYTES
    made[start] = 0x80
    made[start + 1 : end - 8] = 0
    _store_big_endian(made.ctypes.data + end - 8, np.uint64(8 * nbytes))
    return end // BLOCK_BYTES


@_device
def _begin(lanes: Any, states: Any, lane: Any, digest: Any) -> None:
    lanes[DIGEST, lane] = digest
    for i in range(8):
        states[lane * LANE_STRIDE + PLACES[i]] = INITIAL[i]


@_device
def _begin_chunk(lanes: Any, states: Any, made: Any, lane: Any, data: Any, nbytes: Any, tagged: Any, digest: Any) -> None:
    """Gives a chunk to a lane."""
    _begin(lanes, states, lane, digest)
    own = made[lane]
    lanes[DATA, lane], lanes[NBYTES, lane], lanes[TAGGED, lane] = data, nbytes, tagged
    lanes[NEXT, lane] = own.ctypes.data
    if tagged:
        own[0] = LEAF_TAG
    if tagged + nbytes + 1 + LENGTH_BYTES <= MADE_BYTES:
        _copy(own.ctypes.data + tagged, data, nbytes)
        lanes[BLOCKS, lane] = _pad(own, tagged + nbytes, tagged + nbytes)
        lanes[STAGE, lane] = LAST
    elif tagged:
        _copy(own.ctypes.data + 1, data, BLOCK_BYTES - 1)
        lanes[BLOCKS, lane] = 1
        lanes[STAGE, lane] = FIRST
    else:
        lanes[NEXT, lane] = data
        lanes[BLOCKS, lane] = nbytes // BLOCK_BYTES
        lanes[STAGE, lane] = MIDDLE


@_device
def _begin_node(lanes: Any, states: Any, made: Any, lane: Any, left: Any, right: Any) -> None:
    """Gives a node to a lane; its digest takes the place of its left child's."""
    _begin(lanes, states, lane, left)
    own = made[lane]
    own[0] = NODE_TAG
    _copy(own.ctypes.data + 1, left, DIGEST_BYTES)
    _copy(own.ctypes.data + 1 + DIGEST_BYTES, right, DIGEST_BYTES)
    lanes[NEXT, lane] = own.ctypes.data
    lanes[BLOCKS, lane] = _pad(own, 1 + 2 * DIGEST_BYTES, 1 + 2 * DIGEST_BYTES)
    lanes[STAGE, lane] = LAST


@_device
def _goes_on(lanes: Any, states: Any, made: Any, lane: Any) -> Any:
    """Gives the next blocks of its message to a lane that has none left, or else stores its digest."""
    if lanes[STAGE, lane] == LAST:
        for i in range(DIGEST_BYTES // WORD_BYTES):
            word = states[lane * LANE_STRIDE + PLACES[i]]
            _store_big_endian(lanes[DIGEST, lane] + WORD_BYTES * i, word)
        return False
    own = made[lane]
    total = lanes[TAGGED, lane] + lanes[NBYTES, lane]
    end = lanes[DATA, lane] + lanes[NBYTES, lane]
    rest = total % BLOCK_BYTES
    if lanes[STAGE, lane] == FIRST and total >= 2 * BLOCK_BYTES:
        lanes[NEXT, lane] = lanes[DATA, lane] + BLOCK_BYTES - 1
        lanes[BLOCKS, lane] = total // BLOCK_BYTES - 1
        lanes[STAGE, lane] = MIDDLE
    else:
        _copy(own.ctypes.data, end - rest, rest)
        lanes[NEXT, lane] = own.ctypes.data
        lanes[BLOCKS, lane] = _pad(own, rest, total)
        lanes[STAGE, lane] = LAST
    return True


@_device
def _move(lanes: Any, states: Any, made: Any, source: Any, target: Any) -> None:
    """Moves what one lane is doing to another."""
    lanes[:, target] = lanes[:, source]
    if lanes[STAGE, source] != MIDDLE:
        lanes[NEXT, target] += made[target].ctypes.data - made[source].ctypes.data
    made[target] = made[source]
    for i in range(8):
        states[target * LANE_STRIDE + PLACES[i]] = states[source * LANE_STRIDE + PLACES[i]]


@_device
def _hash_level(
    addresses: Any, lengths: Any, firsts: Any, chunk_size: Any, tagged: Any, begin: Any, end: Any, step: Any, digests: Any
) -> None:
    """Hashes the chunks of some slots (step 1), or the nodes that have `step` slots: see `hash_slots`."""
    lanes = np.zeros((FIELDS, LANES), np.int64)
    states = np.zeros(8 * LANES, WORD)
    made = np.empty((LANES, MADE_BYTES), np.uint8)
    segment = np.searchsorted(firsts, begin, side="right") - 1
    slot = begin
    active = 0
    while True:
        while active < LANES and slot < end:
            while slot >= firsts[segment + 1]:
                segment += 1
            digest = digests + slot * DIGEST_BYTES
            if step == 1:
                start = (slot - firsts[segment]) * chunk_size
                nbytes = min(chunk_size, lengths[segment] - start)
                tag = tagged if nbytes else 0  # the root of the empty tree has no tag
                _begin_chunk(lanes, states, made, active, addresses[segment] + start, nbytes, tag, digest)
                active += 1
            elif slot + step // 2 < firsts[segment + 1]:
                _begin_node(lanes, states, made, active, digest, digest + step // 2 * DIGEST_BYTES)
                active += 1
            slot = min(slot + step, firsts[segment + 1])
        if active == 0:
            return

        blocks = lanes[BLOCKS, :active].min()
        lanes[NEXT, active:] = lanes[NEXT, 0]
        _compress(active, states.ctypes.data, lanes[NEXT].ctypes.data, blocks)
        lane = 0
        while lane < active:
            lanes[NEXT, lane] += blocks * BLOCK_BYTES
            lanes[BLOCKS, lane] -= blocks
            if lanes[BLOCKS, lane] or _goes_on(lanes, states, made, lane):
                lane += 1
            else:
                active -= 1
                if lane < active:
                    _move(lanes, states, made, active, lane)


def hash_slots(
    addresses: Any,
    lengths: Any,
    firsts: Any,
    chunk_size: Any,
    tagged: Any,
    begin: Any,
    end: Any,
    lowest: Any,
    highest: Any,
    digests: Any,
) -> None:
    """Hashes the levels `lowest` to `highest` of some slots, one after the other, to their places in `digests`.

    Level 0 are chunks, with or without the leaf's tag. A node of level n has 2^n slots and stays in the first of them;
    a node without a right child is its left child.

    Args:
        addresses: of each segment.
        lengths: of each segment, in bytes.
        firsts: each segment's first slot, and the number of slots.
        chunk_size: bytes of a full chunk.
        tagged: 1 if chunks get the leaf's tag, else 0.
        begin: the first slot, a multiple of 2^highest from the first of its segment.
        end: the slot after the last one, likewise.
        lowest: the first level.
        highest: the last level.
        digests: the address of the first slot.
    """
    for level in range(lowest, highest + 1):
        _hash_level(addresses, lengths, firsts, chunk_size, tagged, begin, end, 1 << level, digests)


hash_slots = cached(njit, hash_slots, **_OPTIONS)
_TABLE = int64[::1]
SIGNATURE = (_TABLE, _TABLE, _TABLE, *(int64,) * 7)
"""The types of the arguments of `hash_slots`."""
