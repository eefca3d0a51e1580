/* SHA-256 and SHA-384 (FIPS 180-4), one block at a time, in registers.
 *
 * The two algorithms differ in their words and constants. The including program defines SHA as 256 or 384; this file
 * defines word, ROUNDS, BLOCK_WORDS32 and DIGEST_WORDS32 (sizes in 32-bit words) accordingly. */

#if SHA == 256

typedef u32 word;
typedef u32x4 words; /* 16 bytes of words */
#define WORDS_OF_16_BYTES 4
#define ROUNDS 64
#define UNROLL_SCHEDULE UNROLL
#define BLOCK_WORDS32 16
#define DIGEST_WORDS32 8
#define ROTATE_RIGHT ROTATE_RIGHT_32
/* FIPS 180-4 (4.4) to (4.7) */
#define BIG_SIGMA_0(x) PARITY(ROTATE_RIGHT(x, 2), ROTATE_RIGHT(x, 13), ROTATE_RIGHT(x, 22))
#define BIG_SIGMA_1(x) PARITY(ROTATE_RIGHT(x, 6), ROTATE_RIGHT(x, 11), ROTATE_RIGHT(x, 25))
#define SMALL_SIGMA_0(x) PARITY(ROTATE_RIGHT(x, 7), ROTATE_RIGHT(x, 18), (x) >> 3)
#define SMALL_SIGMA_1(x) PARITY(ROTATE_RIGHT(x, 17), ROTATE_RIGHT(x, 19), (x) >> 10)

/* FIPS 180-4 section 4.2.2 */
TABLE u32 K[ROUNDS] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
    0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
    0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
    0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
    0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
    0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
    0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};

/* FIPS 180-4 section 5.3.3 */
TABLE u32 INITIAL[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                        0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};

#elif SHA == 384

typedef u64 word;
typedef u64x2 words;
#define WORDS_OF_16_BYTES 2
#define ROUNDS 80
#if ROLLED /* 80 rounds of 64-bit code do not fit into the instruction cache */
#define UNROLL_SCHEDULE NO_UNROLL
#else
#define UNROLL_SCHEDULE UNROLL
#endif
#define BLOCK_WORDS32 32
#define DIGEST_WORDS32 12
#define ROTATE_RIGHT ROTATE_RIGHT_64
/* FIPS 180-4 (4.10) to (4.13) */
#define BIG_SIGMA_0(x) PARITY(BALANCED_ROTATE_RIGHT(x, 28), ROTATE_RIGHT(x, 34), ROTATE_RIGHT(x, 39))
#define BIG_SIGMA_1(x) PARITY(ROTATE_RIGHT(x, 14), BALANCED_ROTATE_RIGHT(x, 18), ROTATE_RIGHT(x, 41))
#define SMALL_SIGMA_0(x) PARITY(ROTATE_RIGHT(x, 1), ROTATE_RIGHT(x, 8), SHIFT_RIGHT(x, 7))
#define SMALL_SIGMA_1(x) PARITY(ROTATE_RIGHT(x, 19), BALANCED_ROTATE_RIGHT(x, 61), SHIFT_RIGHT(x, 6))

/* FIPS 180-4 section 4.2.3 */
TABLE u64 K[ROUNDS] = {
    0x428a2f98d728ae22ul, 0x7137449123ef65cdul, 0xb5c0fbcfec4d3b2ful, 0xe9b5dba58189dbbcul,
    0x3956c25bf348b538ul, 0x59f111f1b605d019ul, 0x923f82a4af194f9bul, 0xab1c5ed5da6d8118ul,
    0xd807aa98a3030242ul, 0x12835b0145706fbeul, 0x243185be4ee4b28cul, 0x550c7dc3d5ffb4e2ul,
    0x72be5d74f27b896ful, 0x80deb1fe3b1696b1ul, 0x9bdc06a725c71235ul, 0xc19bf174cf692694ul,
    0xe49b69c19ef14ad2ul, 0xefbe4786384f25e3ul, 0x0fc19dc68b8cd5b5ul, 0x240ca1cc77ac9c65ul,
    0x2de92c6f592b0275ul, 0x4a7484aa6ea6e483ul, 0x5cb0a9dcbd41fbd4ul, 0x76f988da831153b5ul,
    0x983e5152ee66dfabul, 0xa831c66d2db43210ul, 0xb00327c898fb213ful, 0xbf597fc7beef0ee4ul,
    0xc6e00bf33da88fc2ul, 0xd5a79147930aa725ul, 0x06ca6351e003826ful, 0x142929670a0e6e70ul,
    0x27b70a8546d22ffcul, 0x2e1b21385c26c926ul, 0x4d2c6dfc5ac42aedul, 0x53380d139d95b3dful,
    0x650a73548baf63deul, 0x766a0abb3c77b2a8ul, 0x81c2c92e47edaee6ul, 0x92722c851482353bul,
    0xa2bfe8a14cf10364ul, 0xa81a664bbc423001ul, 0xc24b8b70d0f89791ul, 0xc76c51a30654be30ul,
    0xd192e819d6ef5218ul, 0xd69906245565a910ul, 0xf40e35855771202aul, 0x106aa07032bbd1b8ul,
    0x19a4c116b8d2d0c8ul, 0x1e376c085141ab53ul, 0x2748774cdf8eeb99ul, 0x34b0bcb5e19b48a8ul,
    0x391c0cb3c5c95a63ul, 0x4ed8aa4ae3418acbul, 0x5b9cca4f7763e373ul, 0x682e6ff3d6b2b8a3ul,
    0x748f82ee5defb2fcul, 0x78a5636f43172f60ul, 0x84c87814a1f0ab72ul, 0x8cc702081a6439ecul,
    0x90befffa23631e28ul, 0xa4506cebde82bde9ul, 0xbef9a3f7b2c67915ul, 0xc67178f2e372532bul,
    0xca273eceea26619cul, 0xd186b8c721c0c207ul, 0xeada7dd6cde0eb1eul, 0xf57d4f7fee6ed178ul,
    0x06f067aa72176fbaul, 0x0a637dc5a2c898a6ul, 0x113f9804bef90daeul, 0x1b710b35131c471bul,
    0x28db77f523047d84ul, 0x32caab7b40c72493ul, 0x3c9ebe0a15c9bebcul, 0x431d67c49c100d4cul,
    0x4cc5d4becb3e42b6ul, 0x597f299cfc657e2aul, 0x5fcb6fab3ad6faecul, 0x6c44198c4a475817ul};

/* FIPS 180-4 section 5.3.4 */
TABLE u64 INITIAL[8] = {0xcbbb9d5dc1059ed8ul, 0x629a292a367cd507ul, 0x9159015a3070dd17ul, 0x152fecd8f70e5939ul,
                        0x67332667ffc00b31ul, 0x8eb44a8768581511ul, 0xdb0c2e0d64f98fa7ul, 0x47b5481dbefa4fa4ul};

#else
#error "SHA must be 256 or 384"
#endif

/* FIPS 180-4 (4.2), (4.3), (4.8), (4.9), and the exclusive or of the sigmas, bit by bit, with the fewest operations */
#if HAVE_BITOP3
#define PARITY_BITS(x, y, z) __builtin_amdgcn_bitop3_b32((x), (y), (z), 0x96)
#define CH_BITS(x, y, z) __builtin_amdgcn_bitop3_b32((x), (y), (z), 0xca)
#define MAJ_BITS(x, y, z) __builtin_amdgcn_bitop3_b32((x), (y), (z), 0xe8)
#else
#define PARITY_BITS(x, y, z) XOR3(x, y, z)
#define CH_BITS(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJ_BITS(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))
#endif

/* The same of words. AMD's GPUs have instructions for three inputs of 32 bits. */
#if HAVE_AMD && SHA == 384
#define BY_HALVES(f, x, y, z) \
    of_halves(f(LOWER_HALF(x), LOWER_HALF(y), LOWER_HALF(z)), f(UPPER_HALF(x), UPPER_HALF(y), UPPER_HALF(z)))
DEVICE u64 parity(u64 x, u64 y, u64 z) { return BY_HALVES(PARITY_BITS, x, y, z); }
DEVICE u64 ch(u64 x, u64 y, u64 z) { return BY_HALVES(CH_BITS, x, y, z); }
DEVICE u64 maj(u64 x, u64 y, u64 z) { return BY_HALVES(MAJ_BITS, x, y, z); }
#define PARITY(x, y, z) parity((x), (y), (z))
#define CH(x, y, z) ch((x), (y), (z))
#define MAJ(x, y, z) maj((x), (y), (z))
#else
#define PARITY PARITY_BITS
#define CH CH_BITS
#define MAJ MAJ_BITS
#endif

/* BALANCED: logic, shifts and additions compete for one execution pipe of NVIDIA's multiprocessors, while the others
 * are idle. Part of the work is moved there. `one` is a kernel argument with the value 1, so that the compiler
 * cannot simplify the arithmetic. */

/* The lower word of x * y + z, on the multiply-add pipe. */
#if HAVE_PTX
DEVICE u32 multiply_add(u32 x, u32 y, u32 z) {
    u32 result;
    asm("mad.lo.u32 %0, %1, %2, %3;" : "=r"(result) : "r"(x), "r"(y), "r"(z));
    return result;
}
#endif

/* x + y. SHA-256's additions run on the multiply-add pipe, as x * one + y. */
#if BALANCED && HAVE_PTX && SHA == 256
#define ADD(x, y) multiply_add((x), one, (y))
#else
#define ADD(x, y) ((x) + (y))
#endif

/* W_t + K_t. The compiler has an addition of a constant that is not the logic pipe's for sm_90 and sm_100 alone. */
#if ARCHITECTURE == 90 || ARCHITECTURE == 100
#define ADD_CONSTANT(w, k) ((k) + (w)) /* in this order, with which SHA-384 is 3 % faster */
#else
#define ADD_CONSTANT(w, k) ADD((w), (k))
#endif

/* x >> n. In SHA-384, the shift of the upper half runs on the double-precision pipe: the double whose lower word is x
 * and whose upper word is 0 is x * 2^-1074, and its product with 2^-n, rounded toward zero, is (x >> n) * 2^-1074. */
#if BALANCED && HAVE_FP64_PIPE && SHA == 384
DEVICE u64 balanced_shift_right(u64 x, u32 n) {
    u32 low = (u32)x, high = (u32)(x >> 32);
    u64 result;
    asm("{\n\t"
        ".reg .f64 shifted;\n\t"
        ".reg .u32 low, high, rest;\n\t"
        "mov.b64 shifted, {%2, %5};\n\t"
        "mul.rz.f64 shifted, shifted, %3;\n\t"
        "mov.b64 {high, rest}, shifted;\n\t"
        "shf.r.wrap.b32 low, %1, %2, %4;\n\t"
        "mov.b64 %0, {low, high};\n\t"
        "}"
        : "=l"(result)
        : "r"(low), "r"(high), "d"(1.0 / (double)(1u << n)), "r"(n), "r"(0));
    return result;
}
#define SHIFT_RIGHT(x, n) balanced_shift_right((x), (n))
#elif HAVE_AMD && SHA == 384
#define SHIFT_RIGHT(x, n) of_halves(FUNNEL_SHIFT_RIGHT(UPPER_HALF(x), LOWER_HALF(x), n), UPPER_HALF(x) >> (n))
#else
#define SHIFT_RIGHT(x, n) ((x) >> (n))
#endif

/* x rotated right by n, where 64 - n is 1 to 15 modulo 32. With ROTATED, SHA-384's run on the multiply-add pipe, except
 * on the architectures from sm_120 on, which have 64-bit additions there. */
#if ROTATED && HAVE_PTX && ARCHITECTURE < 120 && SHA == 384
/* `sum` + (lower half of x) * (byte 0 of `bytes`) + (upper half of x) * (byte 1 of `bytes`) */
DEVICE u32 dot_product(u32 x, u32 bytes, u32 sum) {
    u32 result;
    asm("dp2a.lo.u32.u32 %0, %1, %2, %3;" : "=r"(result) : "r"(x), "r"(bytes), "r"(sum));
    return result;
}

/* high << k | low >> (32 - k) for 0 < k < 16. The second is the upper half of (low >> 16) << k. */
DEVICE u32 multiplied_funnel_shift(u32 high, u32 low, u32 k) {
    u32 shifted = k < 8 ? dot_product(low, 0x100u << k, 0) : multiply_add(dot_product(low, 0x100u, 0), 1u << k, 0);
    return multiply_add(high, 1u << k, dot_product(shifted, 0x100u, 0));
}

DEVICE u64 balanced_rotate_right(u64 x, u32 n) {
    u64 turned = n > 32 ? x : x >> 32 | x << 32;
    u32 low = (u32)turned, high = (u32)(turned >> 32), k = (64 - n) % 32;
    return (u64)multiplied_funnel_shift(high, low, k) << 32 | multiplied_funnel_shift(low, high, k);
}
#define BALANCED_ROTATE_RIGHT(x, n) balanced_rotate_right((x), (n))
#else
#define BALANCED_ROTATE_RIGHT(x, n) ROTATE_RIGHT(x, n)
#endif

DEVICE void initialise(word state[8]) {
    UNROLL for (int i = 0; i < 8; ++i) state[i] = INITIAL[i];
}

/* One round of compress() below, with W_t + K_t. The working variables are not an array, and this is a macro, because
 * Intel's CPU compiler would otherwise keep them in memory, which is ten times slower. */
#if HAVE_XAD && SHA == 256 /* each sigma's last exclusive or adds something too; a and e share no sum of two */
#define ROUND(w_plus_k)                                                               \
    do {                                                                              \
        word sum = BIG_SIGMA_1(e) + as_written(h + (w_plus_k)), chosen = CH(e, f, g); \
        word t2 = BIG_SIGMA_0(a) + MAJ(a, b, c);                                      \
        MOVE_ON(add3(d, sum, chosen), add3(t2, sum, chosen));                         \
    } while (0)
#else
#define ROUND(w_plus_k)                                                      \
    do {                                                                     \
        word t1 = ADD(ADD(h, BIG_SIGMA_1(e)), ADD(CH(e, f, g), (w_plus_k))); \
        word t2 = ADD(BIG_SIGMA_0(a), MAJ(a, b, c));                         \
        MOVE_ON(ADD(d, t1), ADD(t1, t2));                                    \
    } while (0)
#endif

/* The same with more additions, one of which lies between two values of e instead of two. That is faster for a thread
 * without others beside it. */
#define SHORT_ROUND(w_plus_k)                                     \
    do {                                                          \
        word sum = ADD(ADD(h, (w_plus_k)), CH(e, f, g));          \
        word sigma = BIG_SIGMA_1(e);                              \
        word t1 = ADD(sum, sigma);                                \
        word next_e = ADD(ADD(d, sum), sigma);                    \
        word next_a = ADD(ADD(t1, MAJ(a, b, c)), BIG_SIGMA_0(a)); \
        MOVE_ON(next_e, next_a);                                  \
    } while (0)

/* The end of a round. `next_e` may contain d, no other of the variables. */
#define MOVE_ON(next_e, next_a) \
    h = g;                      \
    g = f;                      \
    f = e;                      \
    e = (next_e);               \
    d = c;                      \
    c = b;                      \
    b = a;                      \
    a = (next_a)

/* The rounds, each a ROUND or a SHORT_ROUND, over 16 bytes of W_t + K_t. */
#if SHA == 256
#define ROUNDS_OVER(these, EACH_ROUND) \
    do {                               \
        EACH_ROUND((these).x);         \
        EACH_ROUND((these).y);         \
        EACH_ROUND((these).z);         \
        EACH_ROUND((these).w);         \
    } while (0)
#else
#define ROUNDS_OVER(these, EACH_ROUND) \
    do {                               \
        EACH_ROUND((these).x);         \
        EACH_ROUND((these).y);         \
    } while (0)
#endif

/* Replaces W_(t - 16) by W_t; t is modulo 16. */
#if HAVE_XAD && SHA == 256
#define SCHEDULE(w, t)                                                               \
    ((w)[t] = add3((w)[t], SMALL_SIGMA_0((w)[((t) + 1) & 15]) + (w)[((t) + 9) & 15], \
                   SMALL_SIGMA_1((w)[((t) + 14) & 15])))
#elif REORDERED && HAVE_PTX && SHA == 256 /* in this order, with which it is 0.4 % faster */
#define SCHEDULE(w, t)                                                            \
    ((w)[t] = ADD(ADD((w)[((t) + 9) & 15], SMALL_SIGMA_1((w)[((t) + 14) & 15])), \
                  ADD((w)[t], SMALL_SIGMA_0((w)[((t) + 1) & 15]))))
#else
#define SCHEDULE(w, t)                                  \
    ((w)[t] = ADD(ADD((w)[t], (w)[((t) + 9) & 15]), \
                  ADD(SMALL_SIGMA_0((w)[((t) + 1) & 15]), SMALL_SIGMA_1((w)[((t) + 14) & 15]))))
#endif

DEVICE void add_to_state(word state[8], word a, word b, word c, word d, word e, word f, word g, word h, u32 one) {
    state[0] = ADD(state[0], a);
    state[1] = ADD(state[1], b);
    state[2] = ADD(state[2], c);
    state[3] = ADD(state[3], d);
    state[4] = ADD(state[4], e);
    state[5] = ADD(state[5], f);
    state[6] = ADD(state[6], g);
    state[7] = ADD(state[7], h);
}

/* FIPS 180-4 sections 6.2.2 and 6.4.2: updates `state` with one message block. `w` holds the 16 words of the block
 * and is overwritten by the latest 16 words of the message schedule. BYTEWISE keeps the whole schedule in an array,
 * as FIPS 180-4 describes it.
 *
 * `early`, a constant, is 1 if the next block has just been loaded. The compiler would move these loads to shortly before
 * their first use, and memory takes longer; but it moves none past a branch. HELD: here is one, which is never taken. */
DEVICE void compress(word state[8], word w[16], int early, u32 one) {
    word a = state[0], b = state[1], c = state[2], d = state[3];
    word e = state[4], f = state[5], g = state[6], h = state[7];
#if BYTEWISE
    word schedule[ROUNDS];
    NO_UNROLL for (int t = 0; t < ROUNDS; ++t)
        schedule[t] = t < 16 ? w[t]
                             : SMALL_SIGMA_1(schedule[t - 2]) + schedule[t - 7] + SMALL_SIGMA_0(schedule[t - 15]) +
                                   schedule[t - 16];
    NO_UNROLL for (int t = 0; t < ROUNDS; ++t) ROUND(K[t] + schedule[t]);
#else
    UNROLL_SCHEDULE for (int turn = 0; turn < ROUNDS - 16; turn += 16) {
        UNROLL for (int t = 0; t < 16; ++t) {
            ROUND(ADD_CONSTANT(w[t], K[turn + t]));
            SCHEDULE(w, t);
        }
#if HELD && HAVE_PTX && SHA == 256
        if (early && turn == 0 && one == 0) return;
#endif
    }
    UNROLL for (int t = 0; t < 16; ++t) ROUND(ADD_CONSTANT(w[t], K[ROUNDS - 16 + t]));
#endif
    add_to_state(state, a, b, c, d, e, f, g, h, one);
}

#if TABLED
#define LOADS_OF_16_WORDS (16 / WORDS_OF_16_BYTES)

DEVICE void load_16_words(GLOBAL const words* source, words loaded[LOADS_OF_16_WORDS]) {
    UNROLL for (int i = 0; i < LOADS_OF_16_WORDS; ++i) loaded[i] = source[i];
}

/* Like compress(), with a block whose W_t + K_t are in memory. If `early`, a constant, is 1, they are loaded 16 rounds
 * before they are needed. */
DEVICE void compress_tabled(word state[8], GLOBAL const words* schedule, int early, u32 one) {
    word a = state[0], b = state[1], c = state[2], d = state[3];
    word e = state[4], f = state[5], g = state[6], h = state[7];
    words next[LOADS_OF_16_WORDS], these[LOADS_OF_16_WORDS];
    if (early) load_16_words(schedule, next);
    NO_UNROLL for (int turn = 0; turn < ROUNDS; turn += 16) {
        if (!early) load_16_words(schedule, next);
        UNROLL for (int i = 0; i < LOADS_OF_16_WORDS; ++i) these[i] = next[i];
        schedule += LOADS_OF_16_WORDS;
        if (early && turn < ROUNDS - 16) load_16_words(schedule, next);
        UNROLL for (int i = 0; i < LOADS_OF_16_WORDS; ++i) ROUNDS_OVER(these[i], ROUND);
    }
    add_to_state(state, a, b, c, d, e, f, g, h, one);
}
#endif
