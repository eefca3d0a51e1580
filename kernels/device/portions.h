/* Roots of short segments in portions, each of which a launch beside another workload's brings: CUDA alone.
 *
 * Each group has a segment of at most GROUP_SIZE chunks, a chunk a thread, and then the next of a few rounds. A launch
 * compresses some blocks of every chunk, from a state that is kept between launches; the last one of a round also
 * reduces the trees, in shared memory. What a launch does is decided by the last group of the one before, so that all
 * groups of a launch do the same, whenever the host writes.
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

/* `tables` has two tables, of which piece n has number n % 2: the address of each segment and its length in bytes, 0
 * where there is none; then where the roots go. `of_padding` and `of_nodes` are tables of message schedules. `states` has
 * room for a state of every thread. */
KERNEL(SHA == 256 ? 5 : 3)
hash_portion(u32* progress, const u64* tables, u64 chunk_size, u32 rounds, u32 blocks, const words* of_padding,
             const words* of_nodes, word* states, u32* told, u32 one) {
    __shared__ u32 active, portion, piece;
    __shared__ u32x4 tree[GROUP_SIZE * DIGEST_WORDS32 / 4];
    const u32 of_round = (u32)((block_count(chunk_size, 1) - 1) / blocks + 1);
    if (THREAD_OF_GROUP == 0) {
        volatile u32* now = progress;
        atomicAdd(progress + INSIDE, 1);
        __threadfence();
        active = now[ACTIVE] && !now[STOPPED];
        portion = now[PORTION];
        piece = now[DONE] + 1;
    }
    __syncthreads();
    if (active) {
        const u64 threads = (u64)gridDim.x * GROUP_SIZE, segments = (u64)gridDim.x * rounds;
        const u64* table = tables + piece % 2 * (2 * segments + 1);
        u64 segment = portion / of_round * gridDim.x + GROUP, from = (u64)(portion % of_round) * blocks;
        u64 length = table[2 * segment + 1], begin = THREAD_OF_GROUP * chunk_size;
        u32 last = portion % of_round + 1 == of_round, width = (u32)((length + chunk_size - 1) / chunk_size);
        u32* digests = (u32*)tree;
        if (THREAD_OF_GROUP < width) {
            u64 rest = length - begin < chunk_size ? length - begin : chunk_size;
            word state[8];
            initialise(state);
            if (from > 0) UNROLL for (int i = 0; i < 8; ++i) state[i] = states[i * threads + THREAD];
            if (from < block_count(rest, 1))
                hash_blocks((const u8*)table[2 * segment] + begin, rest, 1, chunk_size, from, from + blocks, of_padding,
                            1, state, one);
            if (last)
                store_digest(digests + THREAD_OF_GROUP * DIGEST_WORDS32, state);
            else
                UNROLL for (int i = 0; i < 8; ++i) states[i * threads + THREAD] = state[i];
        }
        if (last && width > 0) {
            __syncthreads();
            reduce_short_tree(digests, width, of_nodes, (u32*)table[2 * segments] + segment * DIGEST_WORDS32, one);
        }
    }
    __threadfence();
    __syncthreads();
    if (THREAD_OF_GROUP == 0) {
        if (atomicInc(progress + ARRIVED, gridDim.x - 1) == gridDim.x - 1) turn_over(progress, rounds * of_round, told);
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
