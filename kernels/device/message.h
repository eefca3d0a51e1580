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
 * told to fetch the 256 bytes around them: every thread reads on through a piece of memory of its own. */
DEVICE u32x4 load_message(GLOBAL const u32x4* source) {
#if PREFETCHED && ARCHITECTURE >= 80 /* before, there is no such load */
    u32x4 four;
    asm("ld.global.nc.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(four.x), "=r"(four.y), "=r"(four.z), "=r"(four.w)
        : "l"(source));
    return four;
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

/* H(data) or, where `tagged` is 1, the leaf hash H(0x00 || data) of RFC 9162 section 2.1.1, into
 * `state`. Messages of `usual_length` bytes on a 16-byte boundary are the ones hashed fast. */
DEVICE void hash_message(GLOBAL const u8* data, u64 length, u32 tagged, u64 usual_length, word state[8],
                         u32 one) {
    const u64 block_bytes = 4 * BLOCK_WORDS32;
    const u64 length_bytes = block_bytes / 8;
    u64 blocks = (tagged + length + length_bytes) / block_bytes + 1;
    u64 block = 0;

    /* Message word i lies in aligned[i - 1] and aligned[i], `shift` bytes into the former, or in
     * aligned[i] alone where shift is 0. */
    u32 shift = (u32)((u64)data - tagged) & 3;
    GLOBAL const u32* aligned = (GLOBAL const u32*)(data + ((shift != 0 ? 4 : 0) - (int)(tagged + shift)));
    u32 carry = 0; /* aligned[i - 1]: at first the tag, a zero byte, where the data is aligned */

    word w[16];
    initialise(state);

    /* Every thread takes the same number of turns here, which a compiler for CPUs needs to know to put
     * one thread in each lane of a vector. */
    if (length == usual_length && ((u64)data & 15) == 0 && !BYTEWISE) {
        u32 usual_shift = tagged ? 3 : 0;
        for (; block < usual_length / block_bytes; ++block) {
            GLOBAL const u32x4* source = (GLOBAL const u32x4*)(aligned + block * BLOCK_WORDS32);
            UNROLL for (int i = 0; i < BLOCK_WORDS32; i += 4) {
                u32x4 four = load_message(source + i / 4);
                set_four_words32(w, i, carry, four, usual_shift);
                carry = four.w;
            }
            compress(state, w, one);
        }
    }

    /* Of the rest, blocks first_inner to end_inner - 1 lie inside the data with every aligned word they touch;
     * the others, with the tag or the padding in them, are read byte by byte. */
    u64 first_inner = tagged && (shift != 3 || BYTEWISE);
    u64 end = (u64)data + length;
    u64 end_inner = end > (u64)aligned ? (end - (u64)aligned) / block_bytes : 0;
    for (; block < blocks; ++block) {
        if (block >= first_inner && block < end_inner) {
#if BYTEWISE
            GLOBAL const u8* source = data + block * block_bytes - tagged;
            UNROLL for (int i = 0; i < BLOCK_WORDS32; ++i, source += 4)
                set_word32(w, i, (u32)source[0] << 24 | (u32)source[1] << 16 | (u32)source[2] << 8 | source[3]);
#else
            GLOBAL const u32* source = aligned + block * BLOCK_WORDS32;
            if (shift != 0 && (block > 0 || !tagged)) carry = source[-1];
            UNROLL for (int i = 0; i < BLOCK_WORDS32; ++i) {
                u32 next = source[i];
                set_word32(w, i, big_endian_word(carry, next, shift));
                carry = next;
            }
#endif
        } else {
            UNROLL for (int i = 0; i < BLOCK_WORDS32; ++i)
                set_word32(w, i, padded_word32(data, length, tagged, block * block_bytes + 4 * i));
            if (block == blocks - 1) {
                u64 bits = (tagged + length) * 8;
                set_word32(w, BLOCK_WORDS32 - 2, (u32)(bits >> 32));
                set_word32(w, BLOCK_WORDS32 - 1, (u32)bits);
            }
        }
        compress(state, w, one);
    }
}
