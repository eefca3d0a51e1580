// Matrix instructions of a warp for `cuda_on_host.hpp`, with the layouts that PTX documents for them: each lane shows its
// elements to the others, and computes its own of the result. All warps of a block execute the same of them.

#include <cfenv>
#include <cmath>
#include <cstdint>

struct uint2 {
    unsigned int x, y;
};

inline double __hiloint2double(int high, int low) {
    std::uint64_t bits = (std::uint64_t)(std::uint32_t)high << 32 | (std::uint32_t)low;
    double result;
    std::memcpy(&result, &bits, 8);
    return result;
}

inline int __double2loint(double x) {
    std::uint64_t bits;
    std::memcpy(&bits, &x, 8);
    return (int)(std::uint32_t)bits;
}

namespace matrix_units {

constexpr unsigned WARPS = GROUP_SIZE / 32;
static double a_8x4[WARPS][8][4], b_4x8[WARPS][4][8];
static unsigned a_words[WARPS][16][8], b_words[WARPS][8][8];

inline void dmma_8x8x4(double d[2], double a, double b, const double c[2]) {
    unsigned warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4, column = threadIdx.x % 4;
    a_8x4[warp][row][column] = a;
    b_4x8[warp][column][row] = b;
    __syncthreads();
    int rounding = std::fegetround();
    std::fesetround(FE_TOWARDZERO);
    for (unsigned i = 0; i < 2; ++i) {
        volatile double sum = c[i];
        for (unsigned k = 0; k < 4; ++k) sum = std::fma(a_8x4[warp][row][k], b_4x8[warp][k][2 * column + i], sum);
        d[i] = sum;
    }
    std::fesetround(rounding);
    __syncthreads();
}

inline void bmma_16x8x256(unsigned d[4], const unsigned a[4], const unsigned b[2], const unsigned c[4]) {
    unsigned warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4, column = threadIdx.x % 4;
    for (unsigned i = 0; i < 4; ++i) a_words[warp][row + i % 2 * 8][column + i / 2 * 4] = a[i];
    for (unsigned i = 0; i < 2; ++i) b_words[warp][row][column + i * 4] = b[i];
    __syncthreads();
    for (unsigned i = 0; i < 4; ++i) {
        d[i] = c[i];
        for (unsigned k = 0; k < 8; ++k)
            d[i] += __builtin_popcount(a_words[warp][row + i / 2 * 8][k] & b_words[warp][2 * column + i % 2][k]);
    }
    __syncthreads();
}

}  // namespace matrix_units

#define DMMA_8(d, a, b, c) matrix_units::dmma_8x8x4(d, a, b, c)
#define BMMA(d, a, b, c) matrix_units::bmma_16x8x256(d, a, b, c)
#define MULTIPLY_ADD(d, x, y, z) ((d) = (x) * (y) + (z))
