/* Messages that lie anywhere in device memory, hashed by one thread.
 *
 * A message is `length` bytes at any address, with or without the leaf prefix of RFC 9162 before them.
 * Its big-endian words are cut from the aligned words of memory by a byte permutation that takes four
 * bytes from two neighbours: the byte swap that SHA-2 needs anyway, so neither the alignment of the
 * first byte nor the shift by the prefix costs an operation. */

/* Bytes `shift` to `shift` + 3 of the eight bytes low || high, as a big-endian word. A shift of 0 means
 * the four bytes of `high`. */
DEVICE u32 big_endian_word(u32 low, u32 high, u32 shift) {
#if HAVE_PTX
    u32 result;
    u32 selector = shift == 0 ? 0x4567u : 0x0123u + shift * 0x1111u;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
    return result;
#else
    u32 x = shift == 0 ? high : low >> 8 * shift | high << (32 - 8 * shift);
    return (ROTATE_RIGHT_32(x, 8) & 0xff00ff00u) | (ROTATE_RIGHT_32(x, 24) & 0x00ff00ffu);
#endif
}

/* Sixteen bytes of a message, which nothing writes to while it is hashed. With PREFETCHED, the L2 cache is
 * told to fetch the 256 bytes around them: every thread reads on through a piece of memory of its own.
 * Intel's compiler for CPUs, known by an extension of its own, keeps a volatile load whole and shuffles
 * it into the lanes; any other it splits into words and gathers each, which takes nearly as long as the
 * arithmetic. */
DEVICE u32x4 load_message(GLOBAL const u32x4* source) {
#if PREFETCHED && ARCHITECTURE >= 80 /* before, there is no such load */
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

/* Stores the i-th 32-bit half or whole of the block's words. */
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

/* The i-th 32 bits of the hash value, as they lie in memory. */
DEVICE u32 digest_word32(const word state[8], int i) {
#if SHA == 256
    u32 value = state[i];
#else
    u32 value = (u32)(i & 1 ? state[i >> 1] : state[i >> 1] >> 32);
#endif
    return big_endian_word(0, value, 0);
}

/* The four message bytes from `position` on, as a big-endian word, of the message tag || data ||
 * padding (FIPS 180-4 section 5.1): byte by byte, so nothing outside the data is read. */
DEVICE u32 padded_word32(GLOBAL const u8* data, u64 length, u32 tagged, u64 position) {
    u32 result = 0;
    if (position >= tagged + length + 1) return 0;
    UNROLL for (u32 k = 0; k < 4; ++k) {
        u64 i = position + k - tagged; /* wraps to the largest number for the tag itself, whose byte is 0 */
        u32 byte = i < length ? data[i] : i == length ? 0x80u : 0u;
        result = result << 8 | byte;
    }
    return result;
}

/* The blocks of the message tag || data || padding. */
DEVICE u64 block_count(u64 length, u32 tagged) {
    const u64 length_bytes = BLOCK_WORDS32 / 2;
    return (tagged + length + length_bytes) / (4 * BLOCK_WORDS32) + 1;
}

/* A block's 32-bit words i lie in the aligned words of memory aligned[i - 1] and aligned[i], `shift` bytes into
 * the former, or in aligned[i] alone where shift is 0. This is `shift`, */
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

    /* Blocks first_inner to end_inner - 1 lie inside the data with every aligned word they touch; the others,
     * with the tag or the padding in them, are read byte by byte. */
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

/* Whether the whole blocks of a message can be read 16 bytes at a time, and their number is the usual one. */
DEVICE int is_usual(GLOBAL const u8* data, u64 length, u64 usual_length) {
    return length == usual_length && ((u64)data & 15) == 0 && !BYTEWISE;
}

/* Cuts the words of a block from its aligned words in memory and the one `before` them, which then is the last. */
DEVICE void cut_block(const u32x4 raw[BLOCK_WORDS32 / 4], u32 tagged, u32* before, word w[16]) {
    UNROLL for (int i = 0; i < BLOCK_WORDS32; i += 4) {
        set_four_words32(w, i, *before, raw[i / 4], tagged ? 3 : 0);
        *before = raw[i / 4].w;
    }
}

DEVICE void load_block(GLOBAL const u32x4* source, u32x4 raw[BLOCK_WORDS32 / 4]) {
    UNROLL for (int i = 0; i < BLOCK_WORDS32 / 4; ++i) raw[i] = load_message(source + i);
}

/* Whether the usual message is whole blocks of data, and then padding in a block of its own. */
DEVICE int ends_with_padding_block(u64 usual_length) { return usual_length % (4 * BLOCK_WORDS32) == 0; }

/* That block: few of its words are unknown to the compiler. `before` is the last aligned word of the data. */
DEVICE void padding_block(u64 length, u32 tagged, u32 before, word w[16]) {
    u64 bits = (tagged + length) * 8;
    UNROLL for (int i = 0; i < BLOCK_WORDS32; ++i)
        set_word32(w, i, i == 0                 ? (tagged ? (before & 0xff000000u) | 0x00800000u : 0x80000000u)
                       : i == BLOCK_WORDS32 - 2 ? (u32)(bits >> 32)
                       : i == BLOCK_WORDS32 - 1 ? (u32)bits
                                                : 0);
}

/* H(data) or, where `tagged` is 1, the leaf hash H(0x00 || data) of RFC 9162 section 2.1.1, into
 * `state`. Messages of `usual_length` bytes on a 16-byte boundary are the ones hashed fast. */
DEVICE void hash_message(GLOBAL const u8* data, u64 length, u32 tagged, u64 usual_length, word state[8],
                         u32 one) {
    u64 blocks = block_count(length, tagged);
    u64 block = 0;
    u32 before = 0; /* the tag */
    int usual = is_usual(data, length, usual_length);
    word w[16];
    initialise(state);

    /* Every thread takes the same number of turns here, which a compiler for CPUs needs to know to put
     * one thread in each lane of a vector. */
    if (usual) {
        GLOBAL const u32* aligned = aligned_words(data, tagged);
        for (; block < usual_length / (4 * BLOCK_WORDS32); ++block) {
            u32x4 raw[BLOCK_WORDS32 / 4];
            load_block((GLOBAL const u32x4*)(aligned + block * BLOCK_WORDS32), raw);
            cut_block(raw, tagged, &before, w);
            compress(state, w, one);
        }
        /* That holds for the padding too; a GPU is faster with one copy less of the rounds. */
        if (!HAVE_PTX && ends_with_padding_block(usual_length)) {
            padding_block(length, tagged, before, w);
            compress(state, w, one);
            ++block;
        }
    }
    for (; block < blocks; ++block) {
        if (usual && ends_with_padding_block(usual_length))
            padding_block(length, tagged, before, w);
        else
            read_block(data, length, tagged, block, w);
        compress(state, w, one);
    }
}
