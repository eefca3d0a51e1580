/* Digests of leaves in portions, each of which a launch beside another workload's brings: CUDA alone.
 *
 * A group has half a segment of at most 2 * GROUP_SIZE chunks, a chunk a thread. Each launch compresses some blocks of
 * every chunk, from a state that is kept between launches. What a launch does is decided by the last group of the one
 * before, so that all groups of a launch do the same, whenever the host writes.
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

/* This thread's chunk: its blocks in portion number `portion`. */
DEVICE void hash_portion_of_chunk(const u8* data, u64 length, u64 chunk_size, u64 portion, u32 blocks,
                                  const words* schedules, word* states, u32* digest, u32 one) {
    u64 threads = (u64)gridDim.x * GROUP_SIZE, last = block_count(length, 1);
    u64 from = portion * blocks, to = from + blocks;
    word state[8];
    if (from >= last) return;
    initialise(state);
    if (from > 0) UNROLL for (int i = 0; i < 8; ++i) state[i] = states[i * threads + THREAD];
    hash_blocks(data, length, 1, chunk_size, from, to, schedules, 1, state, one);
    if (to >= last)
        store_digest(digest, state);
    else
        UNROLL for (int i = 0; i < 8; ++i) states[i * threads + THREAD] = state[i];
}

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
            __threadfence_system(); /* the digests are there before it is told */
            told[0] = progress[DONE];
        }
    }
    progress[ACTIVE] = progress[POSTED] != progress[DONE];
}

/* `tables` has two tables, of which piece n has number n % 2: where its digests go; then address, length in bytes and
 * number of the first leaf of gridDim.x / 2 segments. `schedules` is the padding's table of message schedules. `states`
 * has room for a chunk of every thread. */
KERNEL(SHA == 256 ? 6 : 3)
hash_portion(u32* progress, const u64* tables, u64 chunk_size, u32 blocks, const words* schedules, word* states,
             u32* told, u32 one) {
    __shared__ u32 active, portion, piece;
    const u32 portions = (u32)((block_count(chunk_size, 1) - 1) / blocks + 1);
    if (THREAD_OF_GROUP == 0) {
        volatile u32* now = progress;
        atomicAdd(progress + INSIDE, 1);
        __threadfence();
        active = now[ACTIVE] && !now[STOPPED];
        portion = now[PORTION];
        piece = now[DONE] + 1;
    }
    __syncthreads();
    const u64* table = tables + (piece % 2) * (1 + 3 * (gridDim.x / 2));
    const u64* segment = table + 1 + 3 * (GROUP / 2);
    u64 length = segment[1], leaf = (GROUP % 2) * GROUP_SIZE + THREAD_OF_GROUP, begin = leaf * chunk_size;
    if (active && begin < length)
        hash_portion_of_chunk((const u8*)segment[0] + begin, length - begin < chunk_size ? length - begin : chunk_size,
                              chunk_size, portion, blocks, schedules, states,
                              (u32*)table[0] + (segment[2] + leaf) * DIGEST_WORDS32, one);
    __threadfence();
    __syncthreads();
    if (THREAD_OF_GROUP == 0) {
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
