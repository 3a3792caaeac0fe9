/* What vpdpbusd reaches without any memory; kernels.py compiles and runs it. */
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

enum { CHAINS = 12, PRODUCTS = 64 };

__attribute__((target("avx512f,avx512vnni"))) static int64_t loop(int64_t steps)
{
    __m512i sums[CHAINS], bits = _mm512_set1_epi8(1), levels = _mm512_set1_epi8(2);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        sums[i] = _mm512_set1_epi32(i);
    for (int64_t step = 0; step < steps; step++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            sums[i] = _mm512_dpbusd_epi32(sums[i], bits, levels);
            __asm__ volatile("" : "+v"(sums[i])); /* so that no step is left out */
        }
    }
    return steps * CHAINS * PRODUCTS;
}

/* Does ``steps`` steps and returns how many products they were. */
int64_t cress_vnni_peak(int64_t steps)
{
    return __builtin_cpu_supports("avx512vnni") ? loop(steps) : 0;
}
#else
int64_t cress_vnni_peak(int64_t steps)
{
    (void)steps;
    return 0;
}
#endif
