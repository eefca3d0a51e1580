// The parts of CUDA C that the device code uses, for a C++20 compiler: its logic can run, also under sanitizers, on
// machines without a GPU. Blocks run one after another. The including program has this file first, then the device
// code, then CUDA_ON_HOST_KERNELS(its kernels).

#include <atomic>
#include <barrier>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#define __device__
#define __constant__
#define __global__
#define __forceinline__ inline
#define __shared__ static  // one block runs at a time
#define __launch_bounds__(...)

struct alignas(16) uint4 {
    unsigned int x, y, z, w;
};

struct alignas(16) ulonglong2 {
    unsigned long long x, y;
};

struct Index {
    unsigned int x, y, z;
};

inline thread_local Index threadIdx, blockIdx, gridDim;

namespace cuda_on_host {

inline thread_local std::barrier<>* barrier;
inline thread_local unsigned long barriers_passed;

// How a launch ended.
enum Status { DONE = 0, NO_SUCH_KERNEL = 1, UNEQUAL_BARRIERS = 2, BARRIER_ALONE = 3 };

// One CUDA thread. `arguments` points to each argument, as for cuLaunchKernel.
template <class... Arguments>
void call(void (*kernel)(Arguments...), unsigned thread, unsigned long block, unsigned long blocks, void** arguments) {
    threadIdx = {thread, 0, 0};
    gridDim = {static_cast<unsigned>(blocks), 1, 1};
    blockIdx = {static_cast<unsigned>(block), 0, 0};
    [&]<std::size_t... I>(std::index_sequence<I...>) {
        kernel(*static_cast<Arguments*>(arguments[I])...);
    }(std::index_sequence_for<Arguments...>());
}

// Runs a kernel without barriers: one thread after another, which is much faster.
template <class... Arguments>
Status launch_alone(void (*kernel)(Arguments...), unsigned threads, unsigned long blocks, void** arguments) {
    barrier = nullptr;
    barriers_passed = 0;
    for (unsigned long block = 0; block < blocks; ++block)
        for (unsigned thread = 0; thread < threads; ++thread) call(kernel, thread, block, blocks, arguments);
    return barriers_passed ? BARRIER_ALONE : DONE;
}

// Runs the threads of a block at the same time. All of them must pass the same number of barriers, or CUDA's result is
// undefined.
template <class... Arguments>
Status launch_together(void (*kernel)(Arguments...), unsigned threads, unsigned long blocks, void** arguments) {
    std::barrier<> shared(threads);
    std::vector<unsigned long> passed(threads);
    {
        std::vector<std::jthread> block;
        for (unsigned thread = 0; thread < threads; ++thread)
            block.emplace_back([&, thread] {
                barrier = &shared;
                for (unsigned long i = 0; i < blocks; ++i) {
                    call(kernel, thread, i, blocks, arguments);
                    shared.arrive_and_wait();  // shared memory belongs to one block at a time
                }
                passed[thread] = barriers_passed;
                shared.arrive_and_drop();
            });
    }
    for (unsigned long count : passed)
        if (count != passed[0]) return UNEQUAL_BARRIERS;
    return DONE;
}

}  // namespace cuda_on_host

inline void __syncthreads() {
    ++cuda_on_host::barriers_passed;
    if (cuda_on_host::barrier) cuda_on_host::barrier->arrive_and_wait();
}

inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_system() { __threadfence(); }
inline unsigned atomicAdd(unsigned* word, unsigned value) { return std::atomic_ref(*word).fetch_add(value); }
inline unsigned atomicSub(unsigned* word, unsigned value) { return std::atomic_ref(*word).fetch_sub(value); }
inline unsigned atomicInc(unsigned* word, unsigned last) {  // of one launch at a time
    unsigned before = *word;
    *word = before >= last ? 0 : before + 1;
    return before;
}

#ifdef __SANITIZE_THREAD__  // which finds races between threads that run at the same time
#define CUDA_ON_HOST_ALONE(kernel) CUDA_ON_HOST_TOGETHER(kernel)
#else
#define CUDA_ON_HOST_ALONE(kernel) CUDA_ON_HOST_KERNEL(kernel, launch_alone)
#endif
#define CUDA_ON_HOST_TOGETHER(kernel) CUDA_ON_HOST_KERNEL(kernel, launch_together)
#define CUDA_ON_HOST_KERNEL(kernel, how) \
    if (!std::strcmp(name, #kernel)) return cuda_on_host::how(kernel, threads, blocks, arguments);

// Defines the library's one function, which runs the kernel called `name` and returns a status. `kernels` lists them
// all, each as CUDA_ON_HOST_ALONE(kernel), or as CUDA_ON_HOST_TOGETHER(kernel) if it has barriers.
#define CUDA_ON_HOST_KERNELS(kernels)                                                                   \
    extern "C" int launch(const char* name, unsigned threads, unsigned long blocks, void** arguments) { \
        kernels return cuda_on_host::NO_SUCH_KERNEL;                                                    \
    }
