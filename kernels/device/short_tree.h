/* Trees that a group keeps in its shared memory: CUDA alone. */

/* The root of `width` leaves, whose digests are overwritten; nothing of none. All threads of a group take part, also for
 * several trees at a time: the threads of each are numbered from 0, at least half as many as its leaves. `most`, the same
 * for all, is the width of the widest or more. `of_nodes` is the nodes' table of message schedules. */
DEVICE void reduce_short_tree(u32* digests, u32 thread, u32 width, u32 most, const words* of_nodes, u32* root, u32 one) {
    u32 stride = DIGEST_WORDS32;
    for (u32 left = width; most > 1; most = (most + 1) / 2, left = (left + 1) / 2, stride *= 2) {
        if (2 * thread + 1 < left) join_nodes(digests + 2 * thread * stride, stride, of_nodes, one);
        __syncthreads();
    }
    if (width > 0 && thread < DIGEST_WORDS32) root[thread] = digests[thread];
}
