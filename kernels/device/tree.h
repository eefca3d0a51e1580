/* The kernels: digests of chunks, and the Merkle Tree Hash of RFC 9162 section 2.1.1 over them.
 *
 * A call covers `segments` ranges of memory, described by a table of 64-bit words: their offsets from
 * `base` (modulo 2^64), their lengths in bytes, and the index of each one's first chunk among all
 * chunks of the call. Each chunk has one slot in `digests`. The tree is reduced in place: a node lies in
 * the slot of its leftmost leaf, so a last node without a neighbour is promoted by doing nothing, and
 * no memory is needed beside one digest a leaf. */

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

/* Where chunk number `chunk` of a call begins. Its bytes go to `length`, and to `tagged` whether it gets the leaf
 * prefix: a tagged segment of no bytes has one slot, which gets the root of the empty tree, H(""). */
DEVICE GLOBAL const u8* find_chunk(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size,
                                   u64 chunk, u64* length, u32* tagged) {
    GLOBAL const u64 *offsets = table, *lengths = table + segments, *first = table + 2 * segments;
    u64 segment = find_segment(first, segments, chunk, 0, 0);
    u64 start = (chunk - first[segment]) * chunk_size;
    u64 rest = lengths[segment] - start;
    if (lengths[segment] == 0) *tagged = 0;
    *length = rest < chunk_size ? rest : chunk_size;
    return base + offsets[segment] + start;
}

/* One thread a chunk: its digest, or with `tagged` its leaf hash, into its slot. */
KERNEL(SHA == 256 ? 7 : 3)
hash_chunks(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size, u32 tagged, u64 chunks,
            GLOBAL u32* digests, u32 one) {
    u64 chunk = THREAD, length;
    if (chunk >= chunks) return;
    GLOBAL const u8* data = find_chunk(base, table, segments, chunk_size, chunk, &length, &tagged);
    word state[8];
    hash_message(data, length, tagged, chunk_size, state, one);
    store_digest(digests + chunk * DIGEST_WORDS32, state);
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
                   u64 chunks, GLOBAL u32* digests, u32 one) {
    LOCAL STAGE;
    u32 warp = THREAD_OF_GROUP / 32, pair = warp / 2 * 32 + THREAD_OF_GROUP % 32;
    u64 chunk = GROUP * PAIRS + pair, length;
    u64 longest = block_count(chunk_size, tagged); /* the same for all threads, which meet at every barrier */
    u64 present = chunk < chunks ? chunk : chunks - 1;
    GLOBAL const u8* data = find_chunk(base, table, segments, chunk_size, present, &length, &tagged);
    if (warp % 2 == 0) {
        expand_message(data, length, tagged, chunk_size, longest, stage, pair, one);
    } else {
        word state[8];
        run_rounds(block_count(length, tagged), longest, stage, pair, state, one);
        if (chunk < chunks) store_digest(digests + chunk * DIGEST_WORDS32, state);
    }
}

#endif

/* One group a tile of GROUP_SIZE * 2^alone nodes at `level` of one segment's tree: all the levels above it
 * that lie in the tile, in place. Each thread takes the first `alone` (1 or more) of them by itself, so
 * that no thread of the group is idle; then the group takes the others together. `slots` is the number
 * of chunks of the whole call. */
KERNEL(SHA == 256 ? 7 : 3)
reduce_tiles(GLOBAL const u64* table, u64 segments, u64 slots, u32 level, u32 alone, GLOBAL u32* digests, u32 one) {
    GLOBAL const u64* first = table + 2 * segments;
    u32 tile_log2 = GROUP_SIZE_LOG2 + alone;
    u32 shift = level + tile_log2;
    u64 segment = find_segment(first, segments, GROUP, shift, 1);
    u64 slot = first[segment];
    u64 leaves = (segment + 1 < segments ? first[segment + 1] : slots) - slot;
    u64 nodes = ((leaves - 1) >> level) + 1;
    u64 begin = (GROUP - (slot >> shift) - segment) << tile_log2;
    if (begin >= nodes) return;
    u64 rest = nodes - begin;
    u32 width = rest < 1u << tile_log2 ? (u32)rest : 1u << tile_log2;
    GLOBAL u32* tile = digests + (slot + (begin << level)) * DIGEST_WORDS32;
    u32 pairs = 1u << (alone - 1); /* of one thread */
    for (u32 step = 0; width > 1; ++step) {
        u64 stride = (u64)DIGEST_WORDS32 << (level + step);
        for (u32 i = 0; i < pairs; ++i) {
            u32 pair = THREAD_OF_GROUP * pairs + i;
            if (2 * pair + 1 >= width) break;
            GLOBAL u32* left = tile + 2 * pair * stride;
            word state[8];
            hash_node(left, left + stride, state, one);
            store_digest(left, state);
        }
        width = (width + 1) / 2;
        if (pairs > 1) pairs /= 2;
        GROUP_BARRIER; /* also where each thread works alone: PoCL 5 crashes on a conditional one */
    }
}

/* One thread a 32-bit word of a root: the roots, gathered from each segment's first slot. */
KERNEL(1) gather_roots(GLOBAL const u64* table, u64 segments, GLOBAL const u32* digests, GLOBAL u32* roots) {
    GLOBAL const u64* first = table + 2 * segments;
    u64 i = THREAD;
    if (i < segments * DIGEST_WORDS32)
        roots[i] = digests[first[i / DIGEST_WORDS32] * DIGEST_WORDS32 + i % DIGEST_WORDS32];
}
