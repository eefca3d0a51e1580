/* Messages anywhere in device memory, hashed by one thread.
 *
 * A message is `length` bytes at any address, with or without the leaf prefix of RFC 9162 before them. A byte
 * permutation takes the four bytes of each big-endian word from two neighbouring aligned words of memory. SHA-2
 * needs a byte swap anyway, so neither the alignment of the first byte nor the prefix costs an operation. */

/* Bytes `shift` to `shift` + 3 of the eight bytes low || high, as a big-endian word. A shift of 0 selects the four
 * bytes of `high`. */
DEVICE u32 big_endian_word(u32 low, u32 high, u32 shift) {
#if HAVE_PTX
    u32 result;
    u32 selector = shift == 0 ? 0x4567u : 0x0123u + shift * 0x1111u;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
    return result;
#elif HAVE_AMD
    return __builtin_amdgcn_perm(high, low, shift == 0 ? 0x04050607u : 0x00010203u + shift * 0x01010101u);
#else
    u32 x = shift == 0 ? high : low >> 8 * shift | high << (32 - 8 * shift);
    return (ROTATE_RIGHT_32(x, 8) & 0xff00ff00u) | (ROTATE_RIGHT_32(x, 24) & 0x00ff00ffu);
#endif
}

/* Sixteen bytes of a message, which must not change while it is hashed. With PREFETCHED, the load also makes the L2
 * cache fetch the 256 bytes around them, since each thread reads its own piece of memory from start to end. Intel's
 * CPU compiler, detected by one of its extensions, keeps a volatile load in one piece and shuffles it into the lanes;
 * it splits any other load into words and gathers each, which takes nearly as long as the arithmetic. */
DEVICE u32x4 load_message(GLOBAL const u32x4* source) {
#if PREFETCHED && ARCHITECTURE >= 80 /* the first with that load */
    u32x4 four;
    asm("ld.global.nc.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(four.x), "=r"(four.y), "=r"(four.z), "=r"(four.w)
        : "l"(source));
    return four;
#elif defined(cl_intel_vec_len_hint)
    return *(volatile GLOBAL const u32x4*)source;
#else
    return *source;
#endif
}

/* Stores the i-th 32 bits of the block: a word of SHA-256, half a word of SHA-384. */
DEVICE void set_word32(word w[16], int i, u32 value) {
#if SHA == 256
    w[i] = value;
#else
    w[i >> 1] = i & 1 ? w[i >> 1] | value : (u64)value << 32;
#endif
}

/* Sets words i to i + 3 from four aligned words of memory and the one `before` them. */
DEVICE void set_four_words32(word w[16], int i, u32 before, u32x4 four, u32 shift) {
    set_word32(w, i, big_endian_word(before, four.x, shift));
    set_word32(w, i + 1, big_endian_word(four.x, four.y, shift));
    set_word32(w, i + 2, big_endian_word(four.y, four.z, shift));
    set_word32(w, i + 3, big_endian_word(four.z, four.w, shift));
}

/* The i-th 32 bits of the hash value, in memory order. */
DEVICE u32 digest_word32(const word state[8], int i) {
#if SHA == 256
    u32 value = state[i];
#else
    u32 value = (u32)(i & 1 ? state[i >> 1] : state[i >> 1] >> 32);
#endif
    return big_endian_word(0, value, 0);
}

/* The four bytes at `position` of the message tag || data || padding (FIPS 180-4 section 5.1), as a big-endian word.
 * They are read byte by byte, so that nothing outside the data is read. */
DEVICE u32 padded_word32(GLOBAL const u8* data, u64 length, u32 tagged, u64 position) {
    u32 result = 0;
    if (position >= tagged + length + 1) return 0;
    UNROLL for (u32 k = 0; k < 4; ++k) {
        u64 i = position + k - tagged; /* wraps around for the tag, whose byte is 0 */
        u32 byte = i < length ? data[i] : i == length ? 0x80u : 0u;
        result = result << 8 | byte;
    }
    return result;
}

/* The number of blocks of the message tag || data || padding. */
DEVICE u64 block_count(u64 length, u32 tagged) {
    const u64 length_bytes = BLOCK_WORDS32 / 2;
    return (tagged + length + length_bytes) / (4 * BLOCK_WORDS32) + 1;
}

/* The i-th 32 bits of a block start `shift` bytes into the aligned word aligned[i - 1] of memory and end in
 * aligned[i]. If `shift` is 0 they are aligned[i]. This is `shift`, */
DEVICE u32 byte_shift(GLOBAL const u8* data, u32 tagged) { return (u32)((u64)data - tagged) & 3; }

/* and this is `aligned` of block 0. */
DEVICE GLOBAL const u32* aligned_words(GLOBAL const u8* data, u32 tagged) {
    u32 shift = byte_shift(data, tagged);
    return (GLOBAL const u32*)(data + ((shift != 0 ? 4 : 0) - (int)(tagged + shift)));
}

/* The words of any block of the message tag || data || padding. */
DEVICE void read_block(GLOBAL const u8* data, u64 length, u32 tagged, u64 block, word w[16]) {
    const u64 block_bytes = 4 * BLOCK_WORDS32;
    u32 shift = byte_shift(data, tagged);
    GLOBAL const u32* aligned = aligned_words(data, tagged);
    u64 end = (u64)data + length;

    /* All aligned words that blocks first_inner to end_inner - 1 touch are inside the data. The other blocks, which
     * contain the tag or padding, are read byte by byte. */
    u64 first_inner = tagged && (shift != 3 || BYTEWISE);
    u64 end_inner = end > (u64)aligned ? (end - (u64)aligned) / block_bytes : 0;
    if (block >= first_inner && block < end_inner) {
#if BYTEWISE
        GLOBAL const u8* source = data + block * block_bytes - tagged;
        UNROLL for (int i = 0; i < BLOCK_WORDS32; ++i, source += 4)
            set_word32(w, i, (u32)source[0] << 24 | (u32)source[1] << 16 | (u32)source[2] << 8 | source[3]);
#else
        GLOBAL const u32* source = aligned + block * BLOCK_WORDS32;
        u32 before = shift != 0 && (block > 0 || !tagged) ? source[-1] : 0; /* 0 is the tag */
        UNROLL for (int i = 0; i < BLOCK_WORDS32; ++i) {
            u32 next = source[i];
            set_word32(w, i, big_endian_word(before, next, shift));
            before = next;
        }
#endif
        return;
    }
    UNROLL for (int i = 0; i < BLOCK_WORDS32; ++i)
        set_word32(w, i, padded_word32(data, length, tagged, block * block_bytes + 4 * i));
    if (block == block_count(length, tagged) - 1) {
        u64 bits = (tagged + length) * 8;
        set_word32(w, BLOCK_WORDS32 - 2, (u32)(bits >> 32));
        set_word32(w, BLOCK_WORDS32 - 1, (u32)bits);
    }
}

/* Whether the message is a full chunk that can be read 16 bytes at a time. */
DEVICE int is_full_and_aligned(GLOBAL const u8* data, u64 length, u64 full_chunk_bytes) {
    return length == full_chunk_bytes && ((u64)data & 15) == 0 && !BYTEWISE;
}

/* The words of a block, from its aligned words in memory and the one `before` them, which becomes the last of them. */
DEVICE void cut_block(const u32x4 raw[BLOCK_WORDS32 / 4], u32 tagged, u32* before, word w[16]) {
    UNROLL for (int i = 0; i < BLOCK_WORDS32; i += 4) {
        set_four_words32(w, i, *before, raw[i / 4], tagged ? 3 : 0);
        *before = raw[i / 4].w;
    }
}

DEVICE void load_block(GLOBAL const u32x4* source, u32x4 raw[BLOCK_WORDS32 / 4]) {
    UNROLL for (int i = 0; i < BLOCK_WORDS32 / 4; ++i) raw[i] = load_message(source + i);
}

/* Makes the L2 cache fetch a line of a message that is read some blocks later. SHA-384 takes longer for a block than
 * memory for a load, and is slower with it. */
DEVICE void prefetch_message(GLOBAL const u32x4* source) {
#if HAVE_PTX && SHA == 256
    asm volatile("prefetch.global.L2 [%0];" : : "l"(source));
#endif
}
#define BLOCKS_AHEAD 8

/* Whether a full chunk is a number of whole blocks, followed by a block of padding alone. */
DEVICE int ends_with_padding_block(u64 full_chunk_bytes) { return full_chunk_bytes % (4 * BLOCK_WORDS32) == 0; }

/* That block, most of whose words are constants. `before` is the last aligned word of the data. */
DEVICE void padding_block(u64 length, u32 tagged, u32 before, word w[16]) {
    u64 bits = (tagged + length) * 8;
    UNROLL for (int i = 0; i < BLOCK_WORDS32; ++i)
        set_word32(w, i, i == 0                 ? (tagged ? (before & 0xff000000u) | 0x00800000u : 0x80000000u)
                       : i == BLOCK_WORDS32 - 2 ? (u32)(bits >> 32)
                       : i == BLOCK_WORDS32 - 1 ? (u32)bits
                                                : 0);
}

#if TABLED
/* The schedule of the block that begins with the last byte of `before`, in a table with one for each byte. */
DEVICE GLOBAL const words* schedule_after(GLOBAL const words* schedules, u32 before) {
    return schedules + (before >> 24) * (ROUNDS / WORDS_OF_16_BYTES);
}
#endif

/* Updates `state` with the blocks `from` to `to` - 1 of the message tag || data || padding, if it has that many. Messages
 * of `full_chunk_bytes` on a 16-byte boundary take the fast path: there each block is loaded while the one before it is
 * compressed if `early`, a constant, is 1. */
DEVICE void hash_blocks(GLOBAL const u8* data, u64 length, u32 tagged, u64 full_chunk_bytes, u64 from, u64 to,
                        GLOBAL const words* schedules, int early, word state[8], u32 one) {
    u64 block = from;
    u32 before = 0; /* the tag */
    int full = is_full_and_aligned(data, length, full_chunk_bytes);
    word w[16];

    /* The number of iterations is the same for all threads. Compilers for CPUs need that to put one thread in each lane
     * of a vector without masks. */
    if (full) {
        const u64 units = BLOCK_WORDS32 / 4, whole = full_chunk_bytes / (4 * BLOCK_WORDS32);
        u64 wide = whole < to ? whole : to;
        GLOBAL const u32x4* source = (GLOBAL const u32x4*)aligned_words(data, tagged);
        u32x4 raw[BLOCK_WORDS32 / 4];
        if (from > 0) before = ((GLOBAL const u32*)(source + from * units))[-1];
        if (early && from < wide) load_block(source + from * units, raw);
        for (; block < wide; ++block) {
            if (!early) load_block(source + block * units, raw);
            cut_block(raw, tagged, &before, w);
            if (early && block + 1 < wide) load_block(source + (block + 1) * units, raw);
            if (early && block + BLOCKS_AHEAD < wide) prefetch_message(source + (block + BLOCKS_AHEAD) * units);
            compress(state, w, early, one);
        }
#if TABLED
        if (ends_with_padding_block(full_chunk_bytes)) {
            if (to > whole) compress_tabled(state, schedule_after(schedules, tagged ? before : 0), 0, one);
            block = to; /* nothing is left */
        }
#elif !HAVE_PTX
        /* The same is true of the padding. GPUs are faster with one copy of the rounds less. */
        if (ends_with_padding_block(full_chunk_bytes)) {
            padding_block(length, tagged, before, w);
            compress(state, w, 0, one);
            ++block;
        }
#endif
    }
    /* Only now, so that no registers keep it in the loop above. */
    u64 blocks = block_count(length, tagged) < to ? block_count(length, tagged) : to;
    for (; block < blocks; ++block) {
        /* With TABLED there is no such block here, but SHA-384 is 1 % faster if the compiler does not know that. */
        if ((!TABLED || (SHA == 384 && !early)) && full && ends_with_padding_block(full_chunk_bytes))
            padding_block(length, tagged, before, w);
        else
            read_block(data, length, tagged, block, w);
        compress(state, w, 0, one);
    }
}

#define ALL_BLOCKS 0, ~(u64)0

/* H(data) or, if `tagged` is 1, the leaf hash H(0x00 || data) of RFC 9162 section 2.1.1, into `state`. */
DEVICE void hash_message(GLOBAL const u8* data, u64 length, u32 tagged, u64 full_chunk_bytes,
                         GLOBAL const words* schedules, int early, word state[8], u32 one) {
    initialise(state);
    hash_blocks(data, length, tagged, full_chunk_bytes, ALL_BLOCKS, schedules, early, state, one);
}
