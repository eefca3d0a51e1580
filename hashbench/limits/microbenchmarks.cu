/* Micro-benchmarks of an NVIDIA GPU: instruction rates of a multiprocessor, and memory bandwidth.
 *
 * The including program defines BLOCK, the threads per block, BLOCKS, the blocks per multiprocessor, CHAINS and
 * LOADS, and adds a line PIPE(..) for each instruction rate.
 *
 * In the kernel of a pipe each thread runs CHAINS independent chains through `turns` iterations of a loop, whose
 * body is `steps` steps of every chain. Values depend on a kernel argument and on the thread, so that the compiler
 * cannot compute them. Nor can it merge two steps: the next value of a chain also depends on its neighbour, or the
 * chain alternates between instructions that do not commute. */

typedef unsigned int u32;
typedef unsigned long long u64;
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")

/* One step of a chain. x and y have 32 bits, w and v 64, d is a double; y and v are a neighbour's. PTX is used where
 * C would compile to another instruction. Products of IMAD_HI and IMAD_WIDE soon become zero, which does not change
 * their rates. With an addend ptxas would add moves to IMAD_HI, and compile IMAD_WIDE to three instructions up to
 * sm_100. DMUL is the shift by 7 of SHIFT_RIGHT in sha2.h, and also ends at zero. */
#define LOP3(x, y) asm("lop3.b32 %0, %0, %1, %2, 0xe8;" : "+r"(x) : "r"(y), "r"(b))
#define SHF(x, y) asm("shf.l.wrap.b32 %0, %0, %1, 7;" : "+r"(x) : "r"(y))
#define PRMT(x, y) asm("prmt.b32 %0, %0, %1, 0x4321;" : "+r"(x) : "r"(y))
#define IADD3(x, y, z) x = x + y + z
#define ADD(x, y) x = x + y
#define ADD64(w, v) w = w + v
#define IMAD(x, y) asm("mad.lo.u32 %0, %0, %2, %1;" : "+r"(x) : "r"(y), "r"(b))
#define IMAD_HI(x, y) asm("mul.hi.u32 %0, %0, %1;" : "+r"(x) : "r"(y))
#define IMAD_WIDE(w, v) asm("mul.wide.u32 %0, %1, %2;" : "=l"(w) : "r"((u32)w), "r"((u32)(v >> 32)))
#define IDP(x, y) asm("dp2a.lo.u32.u32 %0, %0, %2, %1;" : "+r"(x) : "r"(y), "r"(b))
#define BREV(x) asm("brev.b32 %0, %0;" : "+r"(x))
#define DMUL(d) asm("mul.rz.f64 %0, %0, %1;" : "+d"(d) : "d"(0x1p-7))
#define DFMA(d) asm("fma.rz.f64 %0, %0, %1, %2;" : "+d"(d) : "d"(0x1p-7), "d"(0x1p52 - 0x1p45))

/* The same instructions for mixtures: each reads one register and a constant in the instruction itself. With more
 * registers to read, instructions of several pipes would wait for the register file. DFMA_CONSTANT keeps its value. */
#define LOP3_CONSTANT(x) x = x ^ 0x9e3779b9u
#define SHF_CONSTANT(x) asm("shf.l.wrap.b32 %0, %0, %0, 7;" : "+r"(x))
#define ADD_CONSTANT(x) x = x + 0x9e3779b9u
#define IMAD_CONSTANT(x) asm("mul.lo.u32 %0, %0, 0x9e3779b1;" : "+r"(x))
#define IDP_CONSTANT(x) asm("dp2a.lo.u32.u32 %0, %0, 0x103, %0;" : "+r"(x))
#define DFMA_CONSTANT(d) asm("fma.rz.f64 %0, %0, %1, %0;" : "+d"(d) : "d"(0x1p-60))

/* The GPU's timer. */
static __device__ __forceinline__ u64 nanoseconds() {
    u64 now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

/* Each warp writes its multiprocessor, and the multiprocessor's clock and the GPU's timer at both ends of its loop. */
#define PIPE(name, steps, step)                                                                          \
    extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS)                                          \
        name(u32 turns, u32 b, u64* spans, u32* sink) {                                                  \
        u32 thread = blockIdx.x * BLOCK + threadIdx.x, x[CHAINS];                                        \
        u64 w[CHAINS];                                                                                   \
        double d[CHAINS];                                                                                \
        UNROLL for (u32 i = 0; i < CHAINS; ++i) {                                                        \
            x[i] = (thread + i) * b;                                                                     \
            w[i] = (u64)x[i] * x[i];                                                                     \
            d[i] = 0x1p52 + x[i];                                                                        \
        }                                                                                                \
        __syncthreads();                                                                                 \
        u64 began = nanoseconds(), start = clock64();                                                    \
        NO_UNROLL for (u32 turn = 0; turn < turns; ++turn) {                                             \
            UNROLL for (u32 t = 0; t < steps; ++t) {                                                     \
                UNROLL for (u32 i = 0; i < CHAINS; ++i) {                                                \
                    u32 next = (i + 1) % CHAINS, third = (i + 3) % CHAINS;                               \
                    step;                                                                                \
                }                                                                                        \
            }                                                                                            \
        }                                                                                                \
        u64 end = clock64(), ended = nanoseconds();                                                      \
        u32 mixed = 0, multiprocessor;                                                                   \
        UNROLL for (u32 i = 0; i < CHAINS; ++i) {                                                        \
            mixed ^= x[i] ^ (u32)w[i] ^ (u32)(w[i] >> 32) ^ __double2loint(d[i]);                        \
        }                                                                                                \
        sink[thread] = mixed;                                                                            \
        if (threadIdx.x % 32 == 0) {                                                                     \
            asm("mov.u32 %0, %%smid;" : "=r"(multiprocessor));                                           \
            u64* span = spans + 5 * (thread / 32);                                                       \
            span[0] = multiprocessor;                                                                    \
            span[1] = start;                                                                             \
            span[2] = end;                                                                               \
            span[3] = began;                                                                             \
            span[4] = ended;                                                                             \
        }                                                                                                \
    }

/* Reads `count` times 16 bytes, coalesced, with LOADS loads in flight per thread, and stores almost nothing. */
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS) read_all(const uint4* memory, u64 count, u32* sink) {
    u64 thread = blockIdx.x * BLOCK + threadIdx.x, threads = gridDim.x * BLOCK, i = thread;
    u32 mixed = 0;
    for (; i + (LOADS - 1) * threads < count; i += LOADS * threads) {
        UNROLL for (u32 load = 0; load < LOADS; ++load) {
            uint4 four = memory[i + load * threads];
            mixed ^= four.x ^ four.y ^ four.z ^ four.w;
        }
    }
    for (; i < count; i += threads) mixed ^= memory[i].x ^ memory[i].y ^ memory[i].z ^ memory[i].w;
    sink[thread] = mixed;
}
