/* The kernels: digests of chunks, and the Merkle Tree Hash of RFC 9162 section 2.1.1 over them.
 *
 * A call covers `segments` ranges of memory, described by a table of 64-bit words, in five columns: the offset of
 * each segment from `base` (modulo 2^64), its length in bytes, the slot of its first chunk in `digests`, and the
 * number of full chunks of the segments before it; then the segments whose last chunk is partial. `digests` has one
 * slot per chunk. The tree is reduced in place: a node is in the slot of its leftmost leaf. So an odd last node is
 * promoted by doing nothing, and the tree needs no memory besides one digest per leaf. */

/* The last segment s with key(s) <= i, where key(s) = (first[s] >> shift) + s * spread is non-decreasing and
 * key(0) = 0. */
DEVICE u64 find_segment(GLOBAL const u64* first, u64 segments, u64 i, u32 shift, u64 spread) {
    u64 low = 0, high = segments;
    while (high - low > 1) {
        u64 middle = low + (high - low) / 2;
        if ((first[middle] >> shift) + middle * spread <= i)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Slots are a multiple of 16 bytes long, on a 16-byte boundary. */
DEVICE void store_digest(GLOBAL u32* slot, const word state[8]) {
    UNROLL for (int i = 0; i < DIGEST_WORDS32; i += 4) {
        u32x4 four;
        four.x = digest_word32(state, i);
        four.y = digest_word32(state, i + 1);
        four.z = digest_word32(state, i + 2);
        four.w = digest_word32(state, i + 3);
        *(GLOBAL u32x4*)(slot + i) = four;
    }
}

/* The node hash H(0x01 || left || right). */
DEVICE void hash_node(GLOBAL const u32* left, GLOBAL const u32* right, GLOBAL const words* schedules, word state[8],
                      u32 one) {
    word w[16];
    u32 carry = 0x01000000u;
    initialise(state);
    UNROLL for (int i = 0; i < 2 * DIGEST_WORDS32; i += 4) {
        u32x4 four = *(GLOBAL const u32x4*)(i < DIGEST_WORDS32 ? left + i : right + (i - DIGEST_WORDS32));
        set_four_words32(w, i % BLOCK_WORDS32, carry, four, 3);
        carry = four.w;
    }
#if SHA == 256
    compress(state, w, 0, one);
#endif
#if SHA == 256 && TABLED
    compress_tabled(state, schedule_after(schedules, carry), 1, one);
#else
    /* the last byte of `right`, the padding, and the length of 1 + 2 digests in bits */
    UNROLL for (int i = 2 * DIGEST_WORDS32 % BLOCK_WORDS32; i < BLOCK_WORDS32; ++i)
        set_word32(w, i, i == 2 * DIGEST_WORDS32 % BLOCK_WORDS32 ? (carry & 0xff000000u) | 0x00800000u
                       : i == BLOCK_WORDS32 - 1                  ? 8 * (1 + 8 * DIGEST_WORDS32)
                                                                 : 0);
    compress(state, w, 0, one);
#endif
}

/* The segment of chunk number `chunk` of a call; `index` becomes the chunk's number in the segment. Partial chunks
 * are numbered first, longest first, then the full ones: so neighbouring threads take the same path, and slow
 * threads start early. */
DEVICE u64 segment_of_chunk(GLOBAL const u64* table, u64 segments, u64 partial_chunks, u64 chunks, u64 chunk,
                            u64* index) {
    GLOBAL const u64 *full_before = table + 3 * segments, *with_partial = table + 4 * segments;
    u64 segment;
    if (chunk < partial_chunks) {
        segment = with_partial[chunk];
        *index = (segment + 1 < segments ? full_before[segment + 1] : chunks - partial_chunks) - full_before[segment];
    } else {
        segment = find_segment(full_before, segments, chunk - partial_chunks, 0, 0);
        *index = chunk - partial_chunks - full_before[segment];
    }
    return segment;
}

/* The first byte of chunk number `chunk`. `length` becomes its size in bytes. `tagged` becomes 0 if it is empty: an
 * empty segment of a tree has one slot, for the root of the empty tree, H(""), which has no leaf prefix. */
DEVICE GLOBAL const u8* find_chunk(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size,
                                   u64 partial_chunks, u64 chunks, u64 chunk, u64* length, u32* tagged) {
    GLOBAL const u64 *offsets = table, *lengths = table + segments;
    u64 index, segment = segment_of_chunk(table, segments, partial_chunks, chunks, chunk, &index);
    *length = chunk < partial_chunks ? lengths[segment] - index * chunk_size : chunk_size;
    if (*length == 0) *tagged = 0;
    return base + offsets[segment] + index * chunk_size;
}

/* Its slot. It is computed again after the rounds, which need the registers that would keep it. The factor `one`
 * stops the compiler from seeing that it is the same computation. */
DEVICE GLOBAL u32* find_slot(GLOBAL u32* digests, GLOBAL const u64* table, u64 segments, u64 partial_chunks, u64 chunks,
                             u64 chunk, u32 one) {
    u64 index, segment = segment_of_chunk(table, segments, partial_chunks, chunks, chunk * one, &index);
    return digests + (table[2 * segments + segment] + index) * DIGEST_WORDS32;
}

DEVICE void hash_one_chunk(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size, u32 tagged,
                           u64 partial_chunks, u64 chunks, GLOBAL const words* schedules, GLOBAL u32* digests, int early,
                           u32 one) {
    u64 chunk = THREAD, length;
    if (chunk >= chunks) return;
    GLOBAL const u8* data =
        find_chunk(base, table, segments, chunk_size, partial_chunks, chunks, chunk, &length, &tagged);
    word state[8];
    hash_message(data, length, tagged, chunk_size, schedules, early, state, one);
    store_digest(find_slot(digests, table, segments, partial_chunks, chunks, chunk, one), state);
}

/* One thread per chunk: writes its digest, or its leaf hash if `tagged`, to its slot. */
KERNEL(CHUNK_BLOCKS)
hash_chunks(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size, u32 tagged,
            u64 partial_chunks, u64 chunks, GLOBAL const words* schedules, GLOBAL u32* digests, u32 one) {
    hash_one_chunk(base, table, segments, chunk_size, tagged, partial_chunks, chunks, schedules, digests, 0, one);
}

#if EARLY
/* Like hash_chunks, with more registers: each thread loads a block while it compresses the one before it. That is
 * faster if there are too few threads to hide the memory's latency. */
KERNEL(EARLY_BLOCKS)
hash_chunks_early(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size, u32 tagged,
                  u64 partial_chunks, u64 chunks, GLOBAL const words* schedules, GLOBAL u32* digests, u32 one) {
    hash_one_chunk(base, table, segments, chunk_size, tagged, partial_chunks, chunks, schedules, digests, 1, one);
}
#endif

#if SLICED && SHA == 256 && !(defined(__OPENCL_VERSION__) && !HAVE_PTX) /* OpenCL C 1.2 has no such loads and stores */
/* Like hash_chunks, with one thread for each slice of a chunk, of `slice_blocks` blocks: the last has the rest. So no
 * multiprocessor waits for long for others that have one group more.
 *
 * The first slices of all chunks come first, then all the second ones. A slice begins with the state that the one before
 * it leaves in `states`, once it has counted up the chunk's number in `done`. Devices start groups in order, so whoever
 * waits for a slice waits for a thread that has started; if the chunks are more than the threads that fit the device,
 * hardly any has to wait. `done` is all zero before and after. */
KERNEL(CHUNK_BLOCKS)
hash_chunks_sliced(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size, u32 tagged,
                   u64 partial_chunks, u64 chunks, GLOBAL const words* schedules, GLOBAL u32* digests, u32 slices,
                   u32 slice_blocks, GLOBAL word* states, GLOBAL u32* done, u32 one) {
    u32 groups = (u32)((chunks + GROUP_SIZE - 1) / GROUP_SIZE), slice = (u32)GROUP / groups;
    u64 chunk = (GROUP - slice * groups) * GROUP_SIZE + THREAD_OF_GROUP, length;
    if (chunk >= chunks) return;
    GLOBAL const u8* data =
        find_chunk(base, table, segments, chunk_size, partial_chunks, chunks, chunk, &length, &tagged);
    word state[8];
    initialise(state);
    if (slice > 0) {
        while (LOAD_ACQUIRE(done + chunk) != slice) continue;
        UNROLL for (int i = 0; i < 8; ++i) state[i] = states[8 * chunk + i];
    }
    u64 from = slice * slice_blocks, to = slice + 1 < slices ? from + slice_blocks : ~(u64)0;
    hash_blocks(data, length, tagged, chunk_size, from, to, schedules, 0, state, one);
    chunk *= one; /* like in find_slot */
    if (slice + 1 < slices) {
        UNROLL for (int i = 0; i < 8; ++i) states[8 * chunk + i] = state[i];
        STORE_RELEASE(done + chunk, slice + 1);
    } else {
        done[chunk] = 0;
        store_digest(find_slot(digests, table, segments, partial_chunks, chunks, chunk, one), state);
    }
}
#endif

/* OpenCL C requires all work-items of a group to meet at the same barrier in the text; with PTX they need not. */
#if PAIRED && !(defined(__OPENCL_VERSION__) && !HAVE_PTX)

#define PAIRS (GROUP_SIZE / 2)
#define STAGED (SHA == 256 ? 64 : 16) /* words of the schedule between two barriers */
#define STAGE words stage[2][STAGED / WORDS_OF_16_BYTES][PAIRS]

#define TURN 16 /* rounds, and words of the schedule, of one turn of a loop */
#define HALF_A_TURN (TURN / 2 / WORDS_OF_16_BYTES)

#if SHA == 256
#define STAGED_ROUND SHORT_ROUND
#else
#define STAGED_ROUND ROUND
#endif

/* Copies to shared memory that no thread waits for. In OpenCL C they were not tried. */
#if QUEUED && ARCHITECTURE >= 80 && !defined(__OPENCL_VERSION__)
#define HAVE_QUEUE 1
#define UNROLL_EXPANSION NO_UNROLL /* which is faster only if no load from memory is waited for */
#else
#define HAVE_QUEUE 0
#define UNROLL_EXPANSION UNROLL_SCHEDULE
#endif

/* The next blocks of each message on their way, in rows of 16 bytes a pair. */
#define QUEUE_LENGTH (SHA == 256 ? 4 : 2)
#define QUEUE u32x4 queue[QUEUE_LENGTH][BLOCK_WORDS32 / 4][PAIRS]

#if HAVE_QUEUE
/* Sends for a block, which may be past the last of the `blocks` ones. */
DEVICE void send_for_block(const u32x4* source, u64 block, u64 blocks, QUEUE, u32 pair) {
    u32x4(*place)[PAIRS] = queue[(u32)block % QUEUE_LENGTH];
    source += block * (BLOCK_WORDS32 / 4);
    if (block < blocks)
        UNROLL for (int i = 0; i < BLOCK_WORDS32 / 4; ++i)
            asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;"
                         :
                         : "r"((u32)__cvta_generic_to_shared(&place[i][pair])), "l"(source + i)
                         : "memory");
    asm volatile("cp.async.commit_group;" : : : "memory");
}

/* Waits for a block, after which QUEUE_LENGTH - 1 others were sent for. */
DEVICE void take_block(u64 block, const QUEUE, u32 pair, u32x4 raw[BLOCK_WORDS32 / 4]) {
    const u32x4(*place)[PAIRS] = queue[(u32)block % QUEUE_LENGTH];
    asm volatile("cp.async.wait_group %0;" : : "n"(QUEUE_LENGTH - 1) : "memory");
    UNROLL for (int i = 0; i < BLOCK_WORDS32 / 4; ++i) raw[i] = place[i][pair];
}
#endif

DEVICE void put_on_stage(const word w[16], int turn, LOCAL_POINTER words (*stage)[PAIRS], u32 pair, u32 one) {
    UNROLL for (int t = 0; t < TURN; t += WORDS_OF_16_BYTES) {
        words these;
        these.x = ADD_CONSTANT(w[t], K[turn + t]);
        these.y = ADD_CONSTANT(w[t + 1], K[turn + t + 1]);
#if SHA == 256
        these.z = ADD_CONSTANT(w[t + 2], K[turn + t + 2]);
        these.w = ADD_CONSTANT(w[t + 3], K[turn + t + 3]);
#endif
        stage[(turn % STAGED + t) / WORDS_OF_16_BYTES][pair] = these;
    }
}

/* The first thread of a pair: reads the blocks of the message and puts W_t + K_t on the stage, which is double-
 * buffered. It goes on for `longest` blocks, like its whole group. */
DEVICE void expand_message(GLOBAL const u8* data, u64 length, u32 tagged, u64 full_chunk_bytes, u64 longest,
                           LOCAL_POINTER STAGE, u32 pair, u32 one) {
    u64 blocks = block_count(length, tagged);
    int full = is_full_and_aligned(data, length, full_chunk_bytes);
    u64 wide = full ? length / (4 * BLOCK_WORDS32) : 0;
    GLOBAL const u32x4* source = (GLOBAL const u32x4*)aligned_words(data, tagged);
    u32x4 raw[BLOCK_WORDS32 / 4]; /* the next block, loaded long before it is needed */
    u32 before = 0, buffer = 0;
    word w[16];
#if HAVE_QUEUE
    LOCAL QUEUE;
    if (wide > 0) {
        UNROLL for (u64 block = 0; block < QUEUE_LENGTH; ++block) send_for_block(source, block, wide, queue, pair);
        take_block(0, queue, pair, raw);
    }
#else
    if (wide > 0) load_block(source, raw);
#endif
    for (u64 block = 0; block < longest; ++block) {
        if (block < wide) {
            cut_block(raw, tagged, &before, w);
#if HAVE_QUEUE
            send_for_block(source, block + QUEUE_LENGTH, wide, queue, pair);
            if (block + 1 < wide) take_block(block + 1, queue, pair, raw);
#else
            source += BLOCK_WORDS32 / 4;
            if (block + 1 < wide) load_block(source, raw);
#endif
        } else if (full && ends_with_padding_block(full_chunk_bytes)) {
            padding_block(length, tagged, before, w);
        } else if (block < blocks) {
            read_block(data, length, tagged, block, w);
        }
        put_on_stage(w, 0, stage[buffer], pair, one);
        UNROLL_EXPANSION for (int turn = TURN; turn < ROUNDS; turn += TURN) {
            if (turn % STAGED == 0) {
                LOCAL_BARRIER;
                buffer ^= 1;
            }
            UNROLL for (int t = 0; t < TURN; ++t) SCHEDULE(w, t);
            put_on_stage(w, turn, stage[buffer], pair, one);
        }
        LOCAL_BARRIER;
        buffer ^= 1;
    }
#if QUEUED
    LOCAL_BARRIER; /* the other thread's last one */
#endif
}

#if QUEUED
/* Half a turn's W_t + K_t, from a row of the stage. */
DEVICE void load_from_stage(LOCAL_POINTER words (*row)[PAIRS], u32 pair, words loaded[HALF_A_TURN]) {
    UNROLL for (int i = 0; i < HALF_A_TURN; ++i) loaded[i] = row[i][pair];
}

/* The second thread of a pair: runs the rounds over what the first one put on the stage, and has the hash value. It
 * loads words half a turn before they are needed. When it has the last ones of a buffer it comes to the barrier, after
 * which the first thread may overwrite them; so it meets one before its first round, and one after the last block. */
DEVICE void run_rounds(u64 blocks, u64 longest, LOCAL_POINTER STAGE, u32 pair, word state[8], u32 one) {
    words first[HALF_A_TURN], second[HALF_A_TURN];
    u32 buffer = 0;
    initialise(state);
    LOCAL_BARRIER;
    load_from_stage(stage[0], pair, first);
    load_from_stage(stage[0] + HALF_A_TURN, pair, second);
    for (u64 block = 0; block < longest;) {
        word a = state[0], b = state[1], c = state[2], d = state[3];
        word e = state[4], f = state[5], g = state[6], h = state[7];
        int present = block < blocks; /* later rounds are over what was left on the stage */
        ++block;
        NO_UNROLL for (int next = TURN; next <= ROUNDS; next += TURN) {
            UNROLL for (int i = 0; i < HALF_A_TURN; ++i) ROUNDS_OVER(first[i], STAGED_ROUND);
            if (next % STAGED == 0) {
                LOCAL_BARRIER;
                buffer ^= 1;
            }
            load_from_stage(stage[buffer] + next % STAGED / WORDS_OF_16_BYTES, pair, first);
            UNROLL for (int i = 0; i < HALF_A_TURN; ++i) ROUNDS_OVER(second[i], STAGED_ROUND);
            load_from_stage(stage[buffer] + next % STAGED / WORDS_OF_16_BYTES + HALF_A_TURN, pair, second);
        }
        if (present) add_to_state(state, a, b, c, d, e, f, g, h, one);
    }
}
#else
/* The same, with the barrier where the first words of a buffer are needed. */
DEVICE void run_rounds(u64 blocks, u64 longest, LOCAL_POINTER STAGE, u32 pair, word state[8], u32 one) {
    u32 buffer = 0;
    initialise(state);
    for (u64 block = 0; block < longest; ++block) {
        word a = state[0], b = state[1], c = state[2], d = state[3];
        word e = state[4], f = state[5], g = state[6], h = state[7];
        NO_UNROLL for (int turn = 0; turn < ROUNDS; turn += STAGED) {
            LOCAL_BARRIER;
            UNROLL for (int i = 0; i < STAGED / WORDS_OF_16_BYTES; ++i) {
                words these = stage[buffer][i][pair];
                ROUNDS_OVER(these, STAGED_ROUND);
            }
            buffer ^= 1;
        }
        if (block < blocks) /* later rounds were over what was left on the stage */
            add_to_state(state, a, b, c, d, e, f, g, h, one);
    }
}
#endif

/* Like hash_chunks with two threads per chunk, which is faster if there are too few chunks to occupy all schedulers
 * of a device. The two threads are in neighbouring warps, so on two schedulers of NVIDIA's multiprocessors. */
KERNEL(PAIRED_BLOCKS)
hash_chunks_paired(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size, u32 tagged,
                   u64 partial_chunks, u64 chunks, GLOBAL const words* schedules, GLOBAL u32* digests, u32 one) {
    LOCAL STAGE;
    u32 warp = THREAD_OF_GROUP / 32, pair = warp / 2 * 32 + THREAD_OF_GROUP % 32;
    u64 chunk = GROUP * PAIRS + pair, length;
    u64 longest = block_count(chunk_size, tagged); /* the same for all threads, so that all meet at every barrier */
    u64 present = chunk < chunks ? chunk : chunks - 1;
    GLOBAL const u8* data =
        find_chunk(base, table, segments, chunk_size, partial_chunks, chunks, present, &length, &tagged);
    if (warp % 2 == 0) {
        expand_message(data, length, tagged, chunk_size, longest, stage, pair, one);
    } else {
        word state[8];
        run_rounds(block_count(length, tagged), longest, stage, pair, state, one);
        if (chunk < chunks)
            store_digest(find_slot(digests, table, segments, partial_chunks, chunks, chunk, one), state);
    }
}

#endif

/* One thread per 32-bit word of a leaf hash, for segments that consist of them: copies it to its slot. */
KERNEL(1)
gather_leaves(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 slots, GLOBAL u32* digests) {
    GLOBAL const u64 *offsets = table, *first = table + 2 * segments;
    u64 i = THREAD;
    if (i >= slots * DIGEST_WORDS32) return;
    u64 slot = i / DIGEST_WORDS32, segment = find_segment(first, segments, slot, 0, 0);
    GLOBAL const u8* bytes = base + offsets[segment] + 4 * (i - first[segment] * DIGEST_WORDS32);
    digests[i] = bytes[0] | (u32)bytes[1] << 8 | (u32)bytes[2] << 16 | (u32)bytes[3] << 24;
}

/* Tile number `tile` of a call: up to 2^levels nodes at `level` of one segment's tree, with a common ancestor
 * `levels` higher. The tiles of segment s are numbered from (its first slot >> (level + levels)) + s. Returns the
 * number of nodes, 0 if there is no such tile; `slot` becomes the slot of the first node. `slots` is the number of
 * chunks of the call. */
DEVICE u32 find_tile(GLOBAL const u64* table, u64 segments, u64 slots, u32 level, u32 levels, u64 tile, u64* slot) {
    GLOBAL const u64* first = table + 2 * segments;
    u32 shift = level + levels;
    u64 segment = find_segment(first, segments, tile, shift, 1);
    u64 start = first[segment];
    u64 leaves = (segment + 1 < segments ? first[segment + 1] : slots) - start;
    u64 nodes = ((leaves - 1) >> level) + 1;
    u64 begin = (tile - (start >> shift) - segment) << levels;
    if (begin >= nodes) return 0;
    *slot = start + (begin << level);
    return nodes - begin < 1u << levels ? (u32)(nodes - begin) : 1u << levels;
}

/* Replaces `left` by the parent of it and of the node `stride` words after it. */
DEVICE void join_nodes(GLOBAL u32* left, u64 stride, GLOBAL const words* schedules, u32 one) {
    word state[8];
    hash_node(left, left + stride, schedules, state, one);
    store_digest(left, state);
}

/* One thread per node at `level` + 1 of any segment's tree, from its two children. No thread waits for another,
 * which is faster if there are many nodes or segments. */
KERNEL(NODE_BLOCKS)
hash_level(GLOBAL const u64* table, u64 segments, u64 slots, u32 level, GLOBAL const words* schedules, GLOBAL u32* digests,
           u32 one) {
    u64 slot;
    if (find_tile(table, segments, slots, level, 1, THREAD, &slot) == 2)
        join_nodes(digests + slot * DIGEST_WORDS32, (u64)DIGEST_WORDS32 << level, schedules, one);
}

/* One group per tile of 2 * GROUP_SIZE nodes at `level` of one segment's tree: all levels above it in the tile, in
 * place, in one launch. */
KERNEL(NODE_BLOCKS)
reduce_tiles(GLOBAL const u64* table, u64 segments, u64 slots, u32 level, GLOBAL const words* schedules, GLOBAL u32* digests,
             u32 one) {
    u64 slot;
    u32 width = find_tile(table, segments, slots, level, GROUP_SIZE_LOG2 + 1, GROUP, &slot);
    if (width == 0) return;
    u64 stride = (u64)DIGEST_WORDS32 << level;
    for (u32 pair = THREAD_OF_GROUP; width > 1; width = (width + 1) / 2, stride *= 2) {
        if (2 * pair + 1 < width) join_nodes(digests + slot * DIGEST_WORDS32 + 2 * pair * stride, stride, schedules, one);
        GROUP_BARRIER;
    }
}

/* One thread per 32-bit word of a root: copies the roots from the first slot of each segment. */
KERNEL(1) gather_roots(GLOBAL const u64* table, u64 segments, GLOBAL const u32* digests, GLOBAL u32* roots) {
    GLOBAL const u64* first = table + 2 * segments;
    u64 i = THREAD;
    if (i < segments * DIGEST_WORDS32)
        roots[i] = digests[first[i / DIGEST_WORDS32] * DIGEST_WORDS32 + i % DIGEST_WORDS32];
}
