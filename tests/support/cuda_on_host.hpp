// The words of CUDA C that the device code uses, for a C++20 compiler of the host, so that its logic can be run and
// watched by sanitizers where there is no GPU. A block is one host thread a CUDA thread, and blocks run one after
// another. Before this file comes nothing; after it come the device code and CUDA_ON_HOST_KERNELS(its kernels).

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

inline thread_local Index threadIdx, blockIdx;

namespace cuda_on_host {

inline thread_local std::barrier<>* barrier;
inline thread_local unsigned long barriers_passed;

// Runs `kernel` on `blocks` blocks of `threads`; `arguments` points to each argument, as for cuLaunchKernel. Returns
// whether every thread of the launch passed equally many barriers: where they do not, CUDA's result is undefined.
template <class... Arguments>
bool launch(void (*kernel)(Arguments...), unsigned threads, unsigned long blocks, void** arguments) {
    std::barrier<> shared(threads);
    std::vector<unsigned long> passed(threads);
    {
        std::vector<std::jthread> block;
        for (unsigned thread = 0; thread < threads; ++thread)
            block.emplace_back([&, thread] {
                barrier = &shared;
                threadIdx = {thread, 0, 0};
                for (unsigned long i = 0; i < blocks; ++i) {
                    blockIdx = {static_cast<unsigned>(i), 0, 0};
                    [&]<std::size_t... I>(std::index_sequence<I...>) {
                        kernel(*static_cast<Arguments*>(arguments[I])...);
                    }(std::index_sequence_for<Arguments...>());
                    shared.arrive_and_wait(); // what is shared belongs to one block
                }
                passed[thread] = barriers_passed;
                shared.arrive_and_drop();
            });
    }
    for (unsigned long count : passed)
        if (count != passed[0]) return false;
    return true;
}

}  // namespace cuda_on_host

inline void __syncthreads() {
    ++cuda_on_host::barriers_passed;
    cuda_on_host::barrier->arrive_and_wait();
}

// What the library offers: runs the kernel called `name`. 0: done; 1: no such kernel; 2: threads met different barriers.
#define CUDA_ON_HOST_KERNEL(kernel) \
    if (!std::strcmp(name, #kernel)) return cuda_on_host::launch(kernel, GROUP_SIZE, blocks, arguments) ? 0 : 2;
#define CUDA_ON_HOST_KERNELS(kernels) \
    extern "C" int launch(const char* name, unsigned long blocks, void** arguments) { kernels return 1; }
