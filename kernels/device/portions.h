/* Roots of short segments in portions, each of which a launch beside another workload's brings: CUDA alone.
 *
 * Each SEGMENT_THREADS neighbouring threads have a segment of at most as many chunks, a chunk a thread; a group has
 * PORTION_THREADS. Each launch compresses some blocks of every chunk, from a state that is kept between launches; the
 * last also reduces the trees, in shared memory. What a launch does is decided by the last group of the one before, so
 * that all groups of a launch do the same, whenever the host writes.
 *
 * `progress` has these words. The host writes POSTED, and STOPPED before it writes others. */
#define POSTED 0   /* the number of the last piece that is to be hashed */
#define DONE 1     /* of the last that was hashed */
#define ACTIVE 2   /* whether the next launch hashes piece DONE + 1 */
#define PORTION 3  /* which portion of it */
#define ARRIVED 4  /* how many groups of this launch came to its end */
#define INSIDE 5   /* how many groups may be reading, or deciding */
#define STOPPED 6  /* nothing may be read */
#define LAUNCHES 7 /* how many launches came to their end */

#define SEGMENT_THREADS (2 * GROUP_SIZE)

/* Decides what the next launch does, at the end of this one. `told` is in the host's memory: DONE, and LAUNCHES. */
DEVICE void turn_over(volatile u32* progress, u32 portions, volatile u32* told) {
    told[1] = progress[LAUNCHES] = progress[LAUNCHES] + 1;
    if (progress[STOPPED]) return;
    if (progress[ACTIVE]) {
        if (progress[PORTION] + 1 < portions) {
            progress[PORTION] = progress[PORTION] + 1;
        } else {
            progress[PORTION] = 0;
            progress[DONE] = progress[DONE] + 1;
            __threadfence_system(); /* the roots are there before it is told */
            told[0] = progress[DONE];
        }
    }
    progress[ACTIVE] = progress[POSTED] != progress[DONE];
}

/* `tables` has two tables, of which piece n has number n % 2: the address of each segment and its length in bytes, which
 * is 0 where there is none, and then where the roots go. `of_padding` and `of_nodes` are tables of message schedules.
 * `states` has room for a state of every thread. */
extern "C" __global__ void __launch_bounds__(PORTION_THREADS, 1)
hash_portion(u32* progress, const u64* tables, u64 chunk_size, u32 blocks, const words* of_padding, const words* of_nodes,
             word* states, u32* told, u32 one) {
    __shared__ u32 active, portion, piece;
    __shared__ u32x4 trees[PORTION_THREADS * DIGEST_WORDS32 / 4];
    const u32 portions = (u32)((block_count(chunk_size, 1) - 1) / blocks + 1);
    if (threadIdx.x == 0) {
        volatile u32* now = progress;
        atomicAdd(progress + INSIDE, 1);
        __threadfence();
        active = now[ACTIVE] && !now[STOPPED];
        portion = now[PORTION];
        piece = now[DONE] + 1;
    }
    __syncthreads();
    if (active) {
        const u64 threads = (u64)gridDim.x * PORTION_THREADS, thread = (u64)blockIdx.x * PORTION_THREADS + threadIdx.x;
        const u64 segments = threads / SEGMENT_THREADS, segment = thread / SEGMENT_THREADS;
        const u64* table = tables + piece % 2 * (2 * segments + 1);
        u64 length = table[2 * segment + 1], begin = thread % SEGMENT_THREADS * chunk_size;
        u32 leaf = threadIdx.x % SEGMENT_THREADS, width = (u32)((length + chunk_size - 1) / chunk_size);
        u32* digests = (u32*)trees + (threadIdx.x - leaf) * DIGEST_WORDS32;
        if (leaf < width) {
            u64 rest = length - begin < chunk_size ? length - begin : chunk_size, from = (u64)portion * blocks;
            word state[8];
            initialise(state);
            if (from > 0) UNROLL for (int i = 0; i < 8; ++i) state[i] = states[i * threads + thread];
            if (from < block_count(rest, 1))
                hash_blocks((const u8*)table[2 * segment] + begin, rest, 1, chunk_size, from, from + blocks, of_padding, 1,
                            state, one);
            if (portion + 1 < portions)
                UNROLL for (int i = 0; i < 8; ++i) states[i * threads + thread] = state[i];
            else
                store_digest(digests + leaf * DIGEST_WORDS32, state);
        }
        if (portion + 1 == portions) {
            __syncthreads();
            reduce_short_tree(digests, leaf, width, SEGMENT_THREADS, of_nodes,
                              (u32*)table[2 * segments] + segment * DIGEST_WORDS32, one);
        }
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        if (atomicInc(progress + ARRIVED, gridDim.x - 1) == gridDim.x - 1) turn_over(progress, portions, told);
        __threadfence();
        atomicSub(progress + INSIDE, 1);
    }
}

/* Lets time pass, with so few registers that any other work finds room beside it. */
KERNEL(1) let_pass(u32 nanoseconds) {
#if HAVE_PTX
    u32 begin, now;
    asm volatile("mov.u32 %0, %%globaltimer_lo;" : "=r"(begin));
    do {
        asm volatile("nanosleep.u32 200;");
        asm volatile("mov.u32 %0, %%globaltimer_lo;" : "=r"(now));
    } while (now - begin < nanoseconds);
#endif
}
