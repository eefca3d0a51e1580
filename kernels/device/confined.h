/* Roots of short segments on few multiprocessors, which hash beside other work: CUDA alone.
 *
 * Each group takes one segment after another, of at most 2 * GROUP_SIZE chunks, so that a whole tree is in its shared
 * memory and nothing but the roots is written. Groups stay only on the first `pairs` pairs of neighbouring
 * multiprocessors that a group of the call came to, and leave all others at once: those were idle, so that what runs
 * on the others goes on as it is. Pairs, since clusters of groups are placed on pairs. */

/* Whether this group stays. `claims` are zeros before a call. */
DEVICE u32 claim_multiprocessor(u32* claims, u32 pairs) {
    u32 multiprocessor;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(multiprocessor));
    u32 mine = multiprocessor / 2 + 1;
    for (u32 i = 0; i < pairs; ++i) {
        u32 before = atomicCAS(claims + i, 0, mine);
        if (before == 0 || before == mine) return 1;
    }
    return 0;
}

/* `of_padding` and `of_nodes` are tables of message schedules. `table` has the address and the length in bytes of each segment. `control` has the number of the next segment, and
 * then the claims. */
KERNEL(NODE_BLOCKS)
hash_confined(const u64* table, u32 segments, u64 chunk_size, const words* of_padding, const words* of_nodes,
              u32* control, u32 pairs, u32* roots, u32 one) {
    __shared__ u32x4 tree[2 * GROUP_SIZE * DIGEST_WORDS32 / 4];
    __shared__ u32 shared;
    u32* digests = (u32*)tree;
    if (THREAD_OF_GROUP == 0) shared = claim_multiprocessor(control + 1, pairs);
    __syncthreads();
    if (!shared) return;
    for (;;) {
        __syncthreads();
        if (THREAD_OF_GROUP == 0) shared = atomicAdd(control, 1);
        __syncthreads();
        u32 segment = shared;
        if (segment >= segments) return;
        const u8* data = (const u8*)table[2 * segment];
        u64 length = table[2 * segment + 1];
        u32 width = length ? (u32)((length - 1) / chunk_size + 1) : 1;
        for (u32 leaf = THREAD_OF_GROUP; leaf < width; leaf += GROUP_SIZE) {
            u64 begin = leaf * chunk_size;
            word state[8];
            hash_message(data + begin, length - begin < chunk_size ? length - begin : chunk_size, length != 0,
                         chunk_size, of_padding, 0, state, one);
            store_digest(digests + leaf * DIGEST_WORDS32, state);
        }
        __syncthreads();
        reduce_short_tree(digests, width, of_nodes, roots + segment * DIGEST_WORDS32, one);
    }
}
