/* The keywords in which CUDA C, HIP, OpenCL C and host C++ differ.
 *
 * Everything after this file is written in the common subset of the four languages, so that the SHA-2 device code
 * exists once. The including program defines GROUP_SIZE, the number of threads (work-items) of a block (work-group),
 * and, for OpenCL C on NVIDIA's devices, ARCHITECTURE. */

#if defined(__OPENCL_VERSION__) /* OpenCL C, also as SYCL builds it */

typedef uchar u8;
typedef uint u32;
typedef ulong u64;
#define DEVICE inline __attribute__((always_inline))
#define GLOBAL __global
#define TABLE __constant
#define KERNEL(blocks) __kernel __attribute__((reqd_work_group_size(GROUP_SIZE, 1, 1))) void
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
#define THREAD ((u64)get_global_id(0))
#define THREAD_OF_GROUP ((u32)get_local_id(0))
#define GROUP ((u64)get_group_id(0))
#define LOCAL __local
#define LOCAL_POINTER __local
#define GROUP_BARRIER barrier(CLK_GLOBAL_MEM_FENCE)
#define ROTATE_RIGHT_32(x, n) rotate((x), (u32)(32 - (n)))
#define ROTATE_RIGHT_64(x, n) rotate((x), (u64)(64 - (n)))
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
#define KERNEL(blocks) extern "C" __global__ void __launch_bounds__(GROUP_SIZE)
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
#define ROTATE_RIGHT_32(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define ROTATE_RIGHT_64(x, n) ((x) >> (n) | (x) << (64 - (n)))
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
