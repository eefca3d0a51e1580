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

/* One thread a chunk: its digest, or with `tagged` its leaf hash, into its slot. A tagged segment of no
 * bytes has one slot, which gets the root of the empty tree, H(""). */
KERNEL hash_chunks(GLOBAL const u8* base, GLOBAL const u64* table, u64 segments, u64 chunk_size,
                   u32 tagged, u64 chunks, GLOBAL u32* digests, u32 one) {
    GLOBAL const u64 *offsets = table, *lengths = table + segments, *first = table + 2 * segments;
    u64 chunk = THREAD;
    if (chunk >= chunks) return;
    u64 segment = find_segment(first, segments, chunk, 0, 0);
    u64 length = lengths[segment];
    u64 start = (chunk - first[segment]) * chunk_size;
    u64 rest = length - start;
    word state[8];
    hash_message(base + offsets[segment] + start, rest < chunk_size ? rest : chunk_size,
                 length == 0 ? 0 : tagged, chunk_size, state, one);
    store_digest(digests + chunk * DIGEST_WORDS32, state);
}

/* One group a tile of GROUP_SIZE * 2^alone nodes at `level` of one segment's tree: all the levels above it
 * that lie in the tile, in place. Each thread takes the first `alone` (1 or more) of them by itself, so
 * that no thread of the group is idle; then the group takes the others together. `slots` is the number
 * of chunks of the whole call. */
KERNEL reduce_tiles(GLOBAL const u64* table, u64 segments, u64 slots, u32 level, u32 alone, GLOBAL u32* digests,
                    u32 one) {
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
KERNEL gather_roots(GLOBAL const u64* table, u64 segments, GLOBAL const u32* digests, GLOBAL u32* roots) {
    GLOBAL const u64* first = table + 2 * segments;
    u64 i = THREAD;
    if (i < segments * DIGEST_WORDS32)
        roots[i] = digests[first[i / DIGEST_WORDS32] * DIGEST_WORDS32 + i % DIGEST_WORDS32];
}
