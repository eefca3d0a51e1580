/* Random input, generated on the device. */

/* One thread per eight bytes: word i of the SplitMix64 sequence of `seed` (Steele, Lea, Flood: Fast Splittable
 * Pseudorandom Number Generators, OOPSLA 2014), stored little-endian. */
KERNEL(1) fill_random(GLOBAL u64* words, u64 count, u64 seed) {
    u64 i = THREAD;
    if (i >= count) return;
    u64 z = seed + (i + 1) * 0x9e3779b97f4a7c15ul;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ul;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebul;
    words[i] = z ^ (z >> 31);
}
