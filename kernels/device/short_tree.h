/* Trees that one group keeps in its shared memory: CUDA alone. */

/* The root of up to 2 * GROUP_SIZE leaves, whose digests are overwritten. `of_nodes` is the nodes' table of message
 * schedules. All threads of a group take part. */
DEVICE void reduce_short_tree(u32* digests, u32 width, const words* of_nodes, u32* root, u32 one) {
    u32 stride = DIGEST_WORDS32;
    for (u32 pair = THREAD_OF_GROUP; width > 1; width = (width + 1) / 2, stride *= 2) {
        if (2 * pair + 1 < width) join_nodes(digests + 2 * pair * stride, stride, of_nodes, one);
        __syncthreads();
    }
    if (THREAD_OF_GROUP < DIGEST_WORDS32) root[THREAD_OF_GROUP] = digests[THREAD_OF_GROUP];
}
