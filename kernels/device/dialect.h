/* The keywords in which CUDA C, HIP, OpenCL C and host C++ differ, and the instructions of AMD GPUs.
 *
 * Everything after this file is written in the common subset of the four languages, so that the SHA-2 device code
 * exists once. The including program defines GROUP_SIZE, the number of threads (work-items) of a block (work-group);
 * for OpenCL C on NVIDIA's devices ARCHITECTURE; and on Intel's GPUs SUB_GROUP_SIZE, the number of work-items in a
 * hardware thread. */

/* What a kernel may take of a device. On AMD's CDNA 2 to 4, which have 512 registers, the code for messages that are
 * not aligned would take so many that one wave fits a SIMD, or two. On Intel's GPUs the compiler would put so many
 * work-items into a hardware thread that their words do not fit its registers. */
#if defined(__gfx90a__) || defined(__gfx942__) || defined(__gfx950__)
#define RESOURCES __attribute__((amdgpu_waves_per_eu(4)))
#elif defined(SUB_GROUP_SIZE)
#define RESOURCES __attribute__((intel_reqd_sub_group_size(SUB_GROUP_SIZE)))
#else
#define RESOURCES
#endif

#if defined(__OPENCL_VERSION__) /* OpenCL C, also as SYCL builds it */

typedef uchar u8;
typedef uint u32;
typedef ulong u64;
#define DEVICE inline __attribute__((always_inline))
#define GLOBAL __global
#define TABLE __constant
#define KERNEL(blocks) __kernel __attribute__((reqd_work_group_size(GROUP_SIZE, 1, 1))) RESOURCES void
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
#define THREAD ((u64)get_global_id(0))
#define THREAD_OF_GROUP ((u32)get_local_id(0))
#define GROUP ((u64)get_group_id(0))
#define LOCAL __local
#define LOCAL_POINTER __local
#define GROUP_BARRIER barrier(CLK_GLOBAL_MEM_FENCE)
typedef uint4 u32x4;
typedef ulong2 u64x2;

#else /* CUDA C under nvcc or NVRTC, HIP under hipcc or hipRTC; host C++ supplies the same names */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
#define DEVICE static __device__ __forceinline__
#define GLOBAL
#define TABLE static __constant__ const
/* `blocks`: the number of blocks per multiprocessor that must fit its registers. HIP's second bound has another
 * meaning. */
#if defined(__HIP__) || defined(__HIP_PLATFORM_AMD__)
#define KERNEL(blocks) extern "C" __global__ RESOURCES void __launch_bounds__(GROUP_SIZE)
#else
#define KERNEL(blocks) extern "C" __global__ void __launch_bounds__(GROUP_SIZE, blocks)
#endif
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
#define THREAD ((u64)blockIdx.x * GROUP_SIZE + threadIdx.x)
#define THREAD_OF_GROUP ((u32)threadIdx.x)
#define GROUP ((u64)blockIdx.x)
#define LOCAL __shared__
#define LOCAL_POINTER
#define GROUP_BARRIER __syncthreads()
typedef uint4 u32x4;
typedef ulonglong2 u64x2;

#endif

/* The number of NVIDIA's architecture (90 for sm_90), 0 elsewhere. NVIDIA's CUDA and OpenCL compilers accept PTX. */
#if defined(__CUDA_ARCH__)
#define ARCHITECTURE (__CUDA_ARCH__ / 10)
#elif !defined(ARCHITECTURE)
#define ARCHITECTURE 0
#endif
#define HAVE_PTX (ARCHITECTURE > 0)

/* A barrier for all warps of a group. In PTX (bar.sync) each warp may wait at a different place in the text, which
 * neither OpenCL C nor CUDA C allows. */
#if HAVE_PTX
#define LOCAL_BARRIER asm volatile("bar.sync 0;" : : : "memory")
#elif defined(__OPENCL_VERSION__)
#define LOCAL_BARRIER barrier(CLK_LOCAL_MEM_FENCE)
#else
#define LOCAL_BARRIER __syncthreads()
#endif

/* A word that one thread stores for another after all else that it stored, and loads before all else that it loads. */
#if HAVE_PTX
DEVICE u32 load_acquire(GLOBAL const u32* address) {
    u32 value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}
#define LOAD_ACQUIRE(address) load_acquire(address)
#define STORE_RELEASE(address, value) \
    asm volatile("st.release.gpu.global.u32 [%0], %1;" : : "l"(address), "r"(value) : "memory")
#else
#define LOAD_ACQUIRE(address) __atomic_load_n((address), __ATOMIC_ACQUIRE)
#define STORE_RELEASE(address, value) __atomic_store_n((address), (value), __ATOMIC_RELEASE)
#endif

/* Whether the double-precision pipe is as fast as the others: A100, H100, H200, B200. */
#define HAVE_FP64_PIPE (ARCHITECTURE == 80 || ARCHITECTURE == 90 || ARCHITECTURE == 100)

/* AMD's GPUs, from GCN 3 on, have registers of 32 bits and instructions for three of them: a shift of two as one, a
 * permutation of their bytes, and, by architecture, any logic (v_bitop3_b32), an exclusive or (v_xor3_b32), an
 * exclusive or with a sum (v_xad_u32), and a sum (v_add3_u32). clang has built-in functions for the first three. It
 * uses the others by itself, but not wherever they fit. */
#if defined(__AMDGCN__) && !defined(__GFX6__) && !defined(__GFX7__)
#define HAVE_AMD 1
#if defined(__gfx950__)
#define HAVE_BITOP3 1
#elif defined(__GFX9__)
#define HAVE_XAD 1
#elif defined(__GFX10__) || defined(__GFX11__) || defined(__GFX12__)
#define HAVE_XOR3 1
#endif
#endif

#if HAVE_AMD

#define FUNNEL_SHIFT_RIGHT(high, low, n) __builtin_amdgcn_alignbit((high), (low), (n))
#define ROTATE_RIGHT_32(x, n) FUNNEL_SHIFT_RIGHT((x), (x), (n))
#define ROTATE_RIGHT_64(x, n) rotate_right_64((x), (n))
#define LOWER_HALF(x) ((u32)(x))
#define UPPER_HALF(x) ((u32)((x) >> 32))

typedef u32 u32x2 __attribute__((ext_vector_type(2)));

/* The value with those halves: a vector, since clang would move shifts and an or into sums. */
DEVICE u64 of_halves(u32 lower, u32 upper) {
    union {
        u32x2 halves;
        u64 whole;
    } value;
    value.halves.x = lower;
    value.halves.y = upper;
    return value.whole;
}

DEVICE u64 rotate_right_64(u64 x, u32 n) {
    u32 lower = n < 32 ? LOWER_HALF(x) : UPPER_HALF(x), upper = n < 32 ? UPPER_HALF(x) : LOWER_HALF(x);
    return of_halves(FUNNEL_SHIFT_RIGHT(upper, lower, n % 32), FUNNEL_SHIFT_RIGHT(lower, upper, n % 32));
}

#elif defined(__OPENCL_VERSION__)
#define ROTATE_RIGHT_32(x, n) rotate((x), (u32)(32 - (n)))
#define ROTATE_RIGHT_64(x, n) rotate((x), (u64)(64 - (n)))
#else
#define ROTATE_RIGHT_32(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define ROTATE_RIGHT_64(x, n) ((x) >> (n) | (x) << (64 - (n)))
#endif

#if HAVE_XOR3
DEVICE u32 xor3(u32 x, u32 y, u32 z) {
    u32 result;
    __asm__("v_xor3_b32 %0, %1, %2, %3" : "=v"(result) : "v"(x), "v"(y), "v"(z));
    return result;
}
#define XOR3(x, y, z) xor3((x), (y), (z))
#else
#define XOR3(x, y, z) ((x) ^ (y) ^ (z))
#endif

#if HAVE_XAD
DEVICE u32 add3(u32 x, u32 y, u32 z) {
    u32 result;
    __asm__("v_add3_u32 %0, %1, %2, %3" : "=v"(result) : "v"(x), "v"(y), "v"(z));
    return result;
}

/* x, a sum that clang does not merge with the sum that it is part of. It takes no instruction. */
DEVICE u32 as_written(u32 x) {
    __asm__("" : "+v"(x));
    return x;
}
#endif
