/* OpenCL C for AMD's GPUs without ROCm's libraries: the built-in functions that the device code calls, as the compiler's
 * own. A plain clang has none of them, and defines no __OPENCL_VERSION__. */

#define __OPENCL_VERSION__ 200
typedef unsigned char uchar;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef uint uint2 __attribute__((ext_vector_type(2)));
typedef uint uint4 __attribute__((ext_vector_type(4)));
typedef ulong ulong2 __attribute__((ext_vector_type(2)));

#define OVERLOADED static inline __attribute__((overloadable, always_inline))
OVERLOADED uint rotate(uint x, uint n) { return __builtin_rotateleft32(x, n); }
OVERLOADED ulong rotate(ulong x, ulong n) { return __builtin_rotateleft64(x, n); }

/* One dimension, no offset, and groups of GROUP_SIZE. */
#define get_local_id(dimension) ((ulong)__builtin_amdgcn_workitem_id_x())
#define get_group_id(dimension) ((ulong)__builtin_amdgcn_workgroup_id_x())
#define get_global_id(dimension) (get_group_id(0) * GROUP_SIZE + get_local_id(0))

#define barrier(fence)                                        \
    do {                                                      \
        __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup"); \
        __builtin_amdgcn_s_barrier();                         \
        __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup"); \
    } while (0)

