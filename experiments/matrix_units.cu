/* SHA-256 with an NVIDIA GPU's matrix units (Tensor Cores), and the steps of their micro-benchmarks.
 *
 * The including program puts this text behind sha2.h or microbenchmarks.cu, and for SHA-256 defines FORM as one of
 * the forms below. Every instruction here is executed by whole warps. The layouts of its matrices are those of PTX:
 * with r = lane / 4 and q = lane % 4, lane (r, q) holds elements of rows r and r + 8 of A, in the columns or 32-bit
 * words q and q + 4; elements of column r of B, in the rows or words q and q + 4; and the elements (r, 2q),
 * (r, 2q + 1), (r + 8, 2q), (r + 8, 2q + 1) of the result. So a matrix B that is zero except in row q of columns 2q
 * and 2q + 1 gives each lane two functions of its own element of A, and nothing of the other lanes'. */

#define DMMA_8(d, a, b, c)                                                               \
    asm("mma.sync.aligned.m8n8k4.row.col.rz.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%4,%5};" \
        : "=d"((d)[0]), "=d"((d)[1])                                                      \
        : "d"(a), "d"(b), "d"((c)[0]), "d"((c)[1]))

/* since sm_90 */
#define DMMA_16(d, a, b, c)                                                                               \
    asm("mma.sync.aligned.m16n8k4.row.col.rz.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};" \
        : "=d"((d)[0]), "=d"((d)[1]), "=d"((d)[2]), "=d"((d)[3])                                           \
        : "d"((a)[0]), "d"((a)[1]), "d"(b), "d"((c)[0]), "d"((c)[1]), "d"((c)[2]), "d"((c)[3]))

#define MMA_OF_WORDS(instruction, d, a, b, c)                                                       \
    asm(instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"                    \
        : "=r"((d)[0]), "=r"((d)[1]), "=r"((d)[2]), "=r"((d)[3])                                    \
        : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "r"((b)[0]), "r"((b)[1]), "r"((c)[0]), \
          "r"((c)[1]), "r"((c)[2]), "r"((c)[3]))
#define BMMA(d, a, b, c) MMA_OF_WORDS("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc", d, a, b, c)
#define IMMA(d, a, b, c) MMA_OF_WORDS("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32", d, a, b, c)

/* x * y + z on the multiply-add pipe, if the compiler does not know that y is a power of two. */
#define MULTIPLY_ADD(d, x, y, z) asm("mad.lo.u32 %0, %1, %2, %3;" : "=r"(d) : "r"(x), "r"(y), "r"(z))

#ifdef FORM

#define DMMA_WORDS 1 /* both shifts of COUNT of 61 words, when a word is known */
#define BMMA_STEPS 2 /* both sigmas of COUNT of the 48 steps, the others without matrix units */

/* More registers than without matrix units, so fewer blocks per multiprocessor. */
#undef KERNEL
#define KERNEL(blocks) extern "C" __global__ void __launch_bounds__(GROUP_SIZE, MOST_BLOCKS)

DEVICE u32 lane_row(void) { return threadIdx.x % 32 / 4; }
DEVICE u32 lane_column(void) { return threadIdx.x % 4; }

/* A double whose lower word is x: 2^52 + x. The sum 2^52 + x / 2^n, rounded toward zero, is 2^52 + (x >> n). */
#define UPPER_OF_2_52 0x43300000
#define ADDEND(n) (4503599627370496.0 - 4503599627370496.0 / (double)(1u << (n)))
DEVICE double as_double(u32 x, u32 one) { return __hiloint2double(UPPER_OF_2_52 * one, x); }

/* Lane (r, q)'s element of B: 2^-3 in (q, 2q), 2^-10 in (q, 2q + 1). */
DEVICE double shifts_of_own_word(void) {
    u32 of_column = lane_row() - 2 * lane_column();
    return of_column == 0 ? 0x1p-3 : of_column == 1 ? 0x1p-10 : 0.0;
}

DEVICE void shift_one_word(u32 x, u32* by_3, u32* by_10, double b, u32 one) {
    double c[2] = {ADDEND(3), ADDEND(10)}, d[2];
    DMMA_8(d, as_double(x, one), b, c);
    *by_3 = __double2loint(d[0]);
    *by_10 = __double2loint(d[1]);
}

/* Whether matrix units shift W_t. */
#define HAS_SHIFTS(t) CHOSEN((t) - 1, 61)

/* Which bits of x bit i of a sigma is the exclusive or of. */
DEVICE constexpr u32 bits_of_small_sigma_0(u32 i) {
    return 1u << (i + 7) % 32 | 1u << (i + 18) % 32 | (i + 3 < 32 ? 1u << (i + 3) % 32 : 0);
}
DEVICE constexpr u32 bits_of_small_sigma_1(u32 i) {
    return 1u << (i + 17) % 32 | 1u << (i + 19) % 32 | (i + 10 < 32 ? 1u << (i + 10) % 32 : 0);
}

/* Each lane's elements of the 16 matrices B of a step. Number p counts in column 2q the ones among the bits of which
 * bit 2p is the exclusive or, and in column 2q + 1 those of bit 2p + 1: of sigma_0 in word q, of sigma_1 in word
 * q + 4. */
struct Selectors {
    uint2 of_lane[16][32];
    __device__ constexpr Selectors() : of_lane() {
        for (u32 p = 0; p < 16; ++p)
            for (u32 lane = 0; lane < 32; ++lane) {
                u32 bit = 2 * p + lane / 4 % 2, mine = lane / 8 == lane % 4;
                of_lane[p][lane].x = mine ? bits_of_small_sigma_0(bit) : 0;
                of_lane[p][lane].y = mine ? bits_of_small_sigma_1(bit) : 0;
            }
    }
};
static __device__ const Selectors selectors;

/* A word from the counts of its bits, each at most 3, from the highest pair of bits down: `even` has the counts of
 * bits 30, 28, ... so far, four times the last one for each new one, `odd` those of bits 31, 29, ... */
DEVICE u32 word_of_counts(u32 even, u32 odd, u32 one) {
    u32 doubled;
    MULTIPLY_ADD(doubled, odd, 2 * one, 0);
    return (even & 0x55555555u) | (doubled & 0xaaaaaaaau);
}

/* sigma_0(x) + sigma_1(y). */
DEVICE u32 sum_of_sigmas(u32 x, u32 y, u32 one) {
    const u32 a[4] = {x, 0, 0, y}, none[4] = {0, 0, 0, 0};
    const u32 four = 4 * one;
    u32 even_0 = 0, odd_0 = 0, even_1 = 0, odd_1 = 0;
    UNROLL for (int p = 15; p >= 0; --p) {
        uint2 mine = selectors.of_lane[p][threadIdx.x % 32];
        u32 b[2] = {mine.x, mine.y}, count[4];
        BMMA(count, a, b, none);
        if (p == 15) {
            even_0 = count[0], odd_0 = count[1], even_1 = count[2], odd_1 = count[3];
        } else {
            MULTIPLY_ADD(even_0, even_0, four, count[0]);
            MULTIPLY_ADD(odd_0, odd_0, four, count[1]);
            MULTIPLY_ADD(even_1, even_1, four, count[2]);
            MULTIPLY_ADD(odd_1, odd_1, four, count[3]);
        }
    }
    return ADD(word_of_counts(even_0, odd_0, one), word_of_counts(even_1, odd_1, one));
}

/* Whether item t is one of COUNT that are spread evenly over `items`. */
#define CHOSEN(t, items) ((t) * COUNT % (items) < COUNT)

#define SMALL_SIGMA_0_WITH(x, shifted) (ROTATE_RIGHT(x, 7) ^ ROTATE_RIGHT(x, 18) ^ (shifted))
#define SMALL_SIGMA_1_WITH(x, shifted) (ROTATE_RIGHT(x, 17) ^ ROTATE_RIGHT(x, 19) ^ (shifted))

/* compress() of sha2.h with another message schedule, whatever `early` is. */
DEVICE void compress_with_matrix_units(word state[8], word w[16], int early, u32 one) {
    word a = state[0], b = state[1], c = state[2], d = state[3];
    word e = state[4], f = state[5], g = state[6], h = state[7];
    double shifts = shifts_of_own_word();
    u32 by_3[16], by_10[16];
    UNROLL for (int t = 0; t < ROUNDS; ++t) {
        if (t >= 16) {
            word x = w[(t + 1) & 15], y = w[(t + 14) & 15], sum = ADD(w[t & 15], w[(t + 9) & 15]), sigmas;
#if FORM == BMMA_STEPS
            sigmas = CHOSEN(t - 16, 48) ? sum_of_sigmas(x, y, one) : ADD(SMALL_SIGMA_0(x), SMALL_SIGMA_1(y));
#else
            u32 x_by_3 = HAS_SHIFTS(t - 15) ? by_3[(t + 1) & 15] : x >> 3;
            u32 y_by_10 = HAS_SHIFTS(t - 2) ? by_10[(t + 14) & 15] : y >> 10;
            sigmas = ADD(SMALL_SIGMA_0_WITH(x, x_by_3), SMALL_SIGMA_1_WITH(y, y_by_10));
#endif
            w[t & 15] = ADD(sum, sigmas);
        }
#if FORM == DMMA_WORDS
        if (t >= 1 && t <= 61 && HAS_SHIFTS(t)) /* W_1 to W_61 are shifted; by_10 is unused up to W_13 */
            shift_one_word(w[t & 15], by_3 + (t & 15), by_10 + (t & 15), shifts, one);
#endif
        ROUND(K[t] + w[t & 15]);
    }
    add_to_state(state, a, b, c, d, e, f, g, h, one);
}
#define compress compress_with_matrix_units

#else /* steps of a chain for PIPE of microbenchmarks.cu, which leave x to other instructions */

#define DMMA_8_STEP(d, w)                                   \
    {                                                       \
        double sum[2] = {d, __longlong_as_double(w)};       \
        DMMA_8(sum, 0x1p-3, 0x1p-10, sum);                  \
        d = sum[0];                                         \
        w = __double_as_longlong(sum[1]);                   \
    }
#define DMMA_16_STEP(d, w, e, v)                                                                        \
    {                                                                                                   \
        const double factors[2] = {0x1p-3, 0x1p-10};                                                    \
        double sum[4] = {d, __longlong_as_double(w), e, __longlong_as_double(v)};                       \
        DMMA_16(sum, factors, 0x1p-5, sum);                                                             \
        d = sum[0];                                                                                     \
        w = __double_as_longlong(sum[1]);                                                               \
        e = sum[2];                                                                                     \
        v = __double_as_longlong(sum[3]);                                                               \
    }
#define STEP_OF_WORDS(INSTRUCTION, d, w)                                                                \
    {                                                                                                   \
        const u32 factors[4] = {b, b, b, b};                                                            \
        u32 sum[4] = {(u32)w, (u32)(w >> 32), (u32)__double2loint(d), (u32)__double2hiint(d)};          \
        INSTRUCTION(sum, factors, factors, sum);                                                        \
        w = (u64)sum[1] << 32 | sum[0];                                                                 \
        d = __hiloint2double(sum[3], sum[2]);                                                           \
    }

#endif
