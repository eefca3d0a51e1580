/* Many short trees in one launch, from the digests of their leaves: CUDA alone. */

/* One group per tree. `table` has the address of its leaves' digests, which lie back to back on a 16-byte boundary, and
 * their number, from 1 to 2 * GROUP_SIZE. */
KERNEL(NODE_BLOCKS) reduce_short_trees(const u64* table, const words* of_nodes, u32* roots, u32 one) {
    __shared__ u32x4 tree[2 * GROUP_SIZE * DIGEST_WORDS32 / 4];
    const u32x4* leaves = (const u32x4*)table[2 * GROUP];
    u32 width = (u32)table[2 * GROUP + 1];
    for (u32 i = THREAD_OF_GROUP; i < width * (DIGEST_WORDS32 / 4); i += GROUP_SIZE) tree[i] = leaves[i];
    __syncthreads();
    reduce_short_tree((u32*)tree, width, of_nodes, roots + GROUP * DIGEST_WORDS32, one);
}
