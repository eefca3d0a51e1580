/* The kernels: digests of chunks, and the Merkle Tree Hash of RFC 9162 section 2.1.1 over them.
 *
 * A call covers `segments` ranges of memory, described by a table of 64-bit words: their offsets from
 * `base` (modulo 2^64), their lengths in bytes, the slot of each one's first chunk in `digests`, which has
 * a slot for each chunk, the number of whole chunks before each one's, and the segments whose last chunk is
 * short. The tree is reduced in place: a node lies in the slot of its leftmost leaf, so a last node without
 * a neighbour is promoted by doing nothing, and no memory is needed beside one digest a leaf. */

/* The last segment s with key(s) <= i, where key(s) = (first[s] >> shift) + s * spread never falls and
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

/* Slots are multiples of 16 bytes, on a 16-byte boundary. */
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
DEVICE void hash_node(GLOBAL const u32* left, GLOBAL const u32* right, word state[8], u32 one) {
    word w[16];
    u32 carry = 0x01000000u;
    initialise(state);
    UNROLL for (int i = 0; i < 2 * DIGEST_WORDS32; i += 4) {
        u32x4 four = *(GLOBAL const u32x4*)(i < DIGEST_WORDS32 ? left + i : right + (i - DIGEST_WORDS32));
        set_four_words32(w, i % BLOCK_WORDS32, carry, four, 3);
        carry = four.w;
    }
#if SHA == 256
    compress(state, w, one);
#endif
    /* the last byte of `right`, the padding, and the length of 1 + 2 digests in bits */
    UNROLL for (int i = 2 * DIGEST_WORDS32 % BLOCK_WORDS32; i < BLOCK_WORDS32; ++i)
        set_word32(w, i, i == 2 * DIGEST_WORDS32 % BLOCK_WORDS32 ? (carry & 0xff000000u) | 0x00800000u
                       : i == BLOCK_WORDS32 - 1                  ? 8 * (1 + 8 * DIGEST_WORDS32)
                                                                 : 0);
    compress(state, w, one);
}

/* The segment of chunk number `chunk` of a call; the chunk's place among the segment's goes to `index`. Short chunks come
 * first, the longest before the others, and whole ones after them: neighbouring threads take the same way, and none that
 * takes long begins late. */
DEVICE u64 segment_of_chunk(GLOBAL const u64* table, u64 segments, u64 shorts, u64 chunks, u64 chunk, u64* index) {
    GLOBAL const u64 *wholes_before = table + 3 * segments, *with_short = table + 4 * segments;
    u64 segment;
    if (chunk < shorts) {
        segment = with_short[chunk];
        *index = (segment + 1 < segments ? wholes_before[segment + 1] : chunks - shorts) - wholes_before[segment];
    } else {
        segment = find_segment(wholes_before, segments, chunk - shorts, 0, 0);
        *index = chunk - shorts - wholes_before[segment];
    }
    return segment;
}

/* Where chunk number `chunk` begins. Its bytes go to `length`, and to `tagged` whether it gets the leaf prefix: a tagged
 * segment of no bytes has one slot, which gets the root of the empty tree, H(""). */
DEVICE GLOBAL const u8* find_chunk(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size,
                                   u64 shorts, u64 chunks, u64 chunk, u64* length, u32* tagged) {
    GLOBAL const u64 *offsets = table, *lengths = table + segments;
    u64 index, segment = segment_of_chunk(table, segments, shorts, chunks, chunk, &index);
    *length = chunk < shorts ? lengths[segment] - index * chunk_size : chunk_size;
    if (*length == 0) *tagged = 0;
    return base + offsets[segment] + index * chunk_size;
}

/* Its slot. After the rounds it is looked for again, not kept: they want the registers. `one` keeps from the compiler
 * that it has been there before. */
DEVICE GLOBAL u32* find_slot(GLOBAL u32* digests, GLOBAL const u64* table, u64 segments, u64 shorts, u64 chunks,
                             u64 chunk, u32 one) {
    u64 index, segment = segment_of_chunk(table, segments, shorts, chunks, chunk * one, &index);
    return digests + (table[2 * segments + segment] + index) * DIGEST_WORDS32;
}

/* One thread a chunk: its digest, or with `tagged` its leaf hash, into its slot. */
KERNEL(SHA == 256 ? 7 : 3)
hash_chunks(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size, u32 tagged, u64 shorts,
            u64 chunks, GLOBAL u32* digests, u32 one) {
    u64 chunk = THREAD, length;
    if (chunk >= chunks) return;
    GLOBAL const u8* data = find_chunk(base, table, segments, chunk_size, shorts, chunks, chunk, &length, &tagged);
    word state[8];
    hash_message(data, length, tagged, chunk_size, state, one);
    store_digest(find_slot(digests, table, segments, shorts, chunks, chunk, one), state);
}

/* In OpenCL C on NVIDIA's devices alone: elsewhere all work-items must meet at one and the same barrier. */
#if PAIRED && !(defined(__OPENCL_VERSION__) && !HAVE_PTX)

#define PAIRS (GROUP_SIZE / 2)
#define STAGED (SHA == 256 ? 64 : 16) /* words of the schedule between two barriers */
#define STAGE words stage[2][STAGED / WORDS_OF_16_BYTES][PAIRS]

/* What passes through the stage at once: 16 bytes of W_t + K_t. */
#if SHA == 256
typedef u32x4 words;
#define WORDS_OF_16_BYTES 4
#define ROUNDS_OVER(these) \
    do {                   \
        ROUND((these).x);  \
        ROUND((these).y);  \
        ROUND((these).z);  \
        ROUND((these).w);  \
    } while (0)
#else
typedef u64x2 words;
#define WORDS_OF_16_BYTES 2
#define ROUNDS_OVER(these) \
    do {                   \
        ROUND((these).x);  \
        ROUND((these).y);  \
    } while (0)
#endif

DEVICE void put_on_stage(const word w[16], int turn, LOCAL_POINTER words (*stage)[PAIRS], u32 pair) {
    UNROLL for (int t = 0; t < 16; t += WORDS_OF_16_BYTES) {
        words these;
        these.x = K[turn + t] + w[t];
        these.y = K[turn + t + 1] + w[t + 1];
#if SHA == 256
        these.z = K[turn + t + 2] + w[t + 2];
        these.w = K[turn + t + 3] + w[t + 3];
#endif
        stage[(turn % STAGED + t) / WORDS_OF_16_BYTES][pair] = these;
    }
}

/* The first thread of a pair: reads the message's blocks and puts W_t + K_t on the stage, in two buffers that
 * take turns. It goes on to `longest` blocks with the rest of its group. */
DEVICE void expand_message(GLOBAL const u8* data, u64 length, u32 tagged, u64 usual_length, u64 longest,
                           LOCAL_POINTER STAGE, u32 pair, u32 one) {
    u64 blocks = block_count(length, tagged);
    int usual = is_usual(data, length, usual_length);
    u64 wide = usual ? length / (4 * BLOCK_WORDS32) : 0;
    GLOBAL const u32x4* source = (GLOBAL const u32x4*)aligned_words(data, tagged);
    u32x4 raw[BLOCK_WORDS32 / 4]; /* of the next block, fetched long before it is needed */
    u32 before = 0, buffer = 0;
    word w[16];
    if (wide > 0) load_block(source, raw);
    for (u64 block = 0; block < longest; ++block) {
        if (block < wide) {
            cut_block(raw, tagged, &before, w);
            source += BLOCK_WORDS32 / 4;
            if (block + 1 < wide) load_block(source, raw);
        } else if (usual && ends_with_padding_block(usual_length)) {
            padding_block(length, tagged, before, w);
        } else if (block < blocks) {
            read_block(data, length, tagged, block, w);
        }
        put_on_stage(w, 0, stage[buffer], pair);
        UNROLL_SCHEDULE for (int turn = 16; turn < ROUNDS; turn += 16) {
            if (turn % STAGED == 0) {
                LOCAL_BARRIER;
                buffer ^= 1;
            }
            UNROLL for (int t = 0; t < 16; ++t) SCHEDULE(w, t);
            put_on_stage(w, turn, stage[buffer], pair);
        }
        LOCAL_BARRIER;
        buffer ^= 1;
    }
}

/* The second thread of a pair: the rounds over what the first one put on the stage, and the hash value. */
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
                ROUNDS_OVER(these);
            }
            buffer ^= 1;
        }
        if (block < blocks) /* else the rounds went over what was left there */
            add_to_state(state, a, b, c, d, e, f, g, h, one);
    }
}

/* Two threads a chunk, to the same result, in less time a chunk: it counts where there are too few chunks for all
 * of a device's schedulers. The two are in neighbouring warps of 32, so on two of NVIDIA's schedulers. */
KERNEL(3)
hash_chunks_paired(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size, u32 tagged,
                   u64 shorts, u64 chunks, GLOBAL u32* digests, u32 one) {
    LOCAL STAGE;
    u32 warp = THREAD_OF_GROUP / 32, pair = warp / 2 * 32 + THREAD_OF_GROUP % 32;
    u64 chunk = GROUP * PAIRS + pair, length;
    u64 longest = block_count(chunk_size, tagged); /* the same for all threads, which meet at every barrier */
    u64 present = chunk < chunks ? chunk : chunks - 1;
    GLOBAL const u8* data = find_chunk(base, table, segments, chunk_size, shorts, chunks, present, &length, &tagged);
    if (warp % 2 == 0) {
        expand_message(data, length, tagged, chunk_size, longest, stage, pair, one);
    } else {
        word state[8];
        run_rounds(block_count(length, tagged), longest, stage, pair, state, one);
        if (chunk < chunks) store_digest(find_slot(digests, table, segments, shorts, chunks, chunk, one), state);
    }
}

#endif

/* Tile number `tile` of a call: up to 2^levels nodes at `level` of one segment's tree that have one node above them,
 * `levels` higher. Segment s's tiles are numbered from (its first slot >> (level + levels)) + s on. Returns the number of
 * nodes, 0 where there is no such tile; the first one's slot goes to `slot`. `slots` is the number of chunks of the
 * whole call. */
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

/* The node above `left`, and the node that lies `stride` words behind it, takes its place. */
DEVICE void join_nodes(GLOBAL u32* left, u64 stride, u32 one) {
    word state[8];
    hash_node(left, left + stride, state, one);
    store_digest(left, state);
}

/* One thread a node at `level` + 1 of any segment's tree, from the two below it: no thread waits for another, which counts
 * where there are many nodes or segments. */
KERNEL(SHA == 256 ? 7 : 3)
hash_level(GLOBAL const u64* table, u64 segments, u64 slots, u32 level, GLOBAL u32* digests, u32 one) {
    u64 slot;
    if (find_tile(table, segments, slots, level, 1, THREAD, &slot) == 2)
        join_nodes(digests + slot * DIGEST_WORDS32, (u64)DIGEST_WORDS32 << level, one);
}

/* One group a tile of 2 * GROUP_SIZE nodes at `level` of one segment's tree: all the levels above it that lie in the tile,
 * in place, in one launch. */
KERNEL(SHA == 256 ? 7 : 3)
reduce_tiles(GLOBAL const u64* table, u64 segments, u64 slots, u32 level, GLOBAL u32* digests, u32 one) {
    u64 slot;
    u32 width = find_tile(table, segments, slots, level, GROUP_SIZE_LOG2 + 1, GROUP, &slot);
    if (width == 0) return;
    u64 stride = (u64)DIGEST_WORDS32 << level;
    for (u32 pair = THREAD_OF_GROUP; width > 1; width = (width + 1) / 2, stride *= 2) {
        if (2 * pair + 1 < width) join_nodes(digests + slot * DIGEST_WORDS32 + 2 * pair * stride, stride, one);
        GROUP_BARRIER;
    }
}

/* One thread a 32-bit word of a root: the roots, gathered from each segment's first slot. */
KERNEL(1) gather_roots(GLOBAL const u64* table, u64 segments, GLOBAL const u32* digests, GLOBAL u32* roots) {
    GLOBAL const u64* first = table + 2 * segments;
    u64 i = THREAD;
    if (i < segments * DIGEST_WORDS32)
        roots[i] = digests[first[i / DIGEST_WORDS32] * DIGEST_WORDS32 + i % DIGEST_WORDS32];
}
