/* Which instruction sets there are.  No other state is kept between calls. */
#include "runtime.h"

#ifdef CRESS_X86
#include <cpuid.h>
#endif

#ifndef SOURCE_DIGEST
#define SOURCE_DIGEST "none"
#endif

static int isa_supported[ISA_COUNT]; /* 0: not known yet, 1: yes, 2: no; the same for all threads */
static int gfni_pays;

int cpu_feature(int leaf, int word, int bit)
{
#ifdef CRESS_X86
    unsigned words[4];
    if (__get_cpuid_count(7, (unsigned)leaf, &words[0], &words[1], &words[2], &words[3]))
        return words[word] >> bit & 1;
#endif
    (void)leaf, (void)word, (void)bit;
    return 0;
}

static int has_gfni(void)
{
    return cpu_feature(0, 2, 8);
}

int gfni_is_fast(void)
{
    return __atomic_load_n(&gfni_pays, __ATOMIC_RELAXED);
}

static int has_fast_gfni(void)
{
#ifdef CRESS_X86
    __builtin_cpu_init();
    return has_gfni() && !__builtin_cpu_is("amd");
#else
    return 0;
#endif
}

static int detect(int isa)
{
    if (isa == ISA_PORTABLE)
        return 1;
#ifdef CRESS_X86
    __builtin_cpu_init();
    int vnni = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vnni");
    if (isa == ISA_AVX2)
        return __builtin_cpu_supports("avx2") != 0;
    if (isa == ISA_AVX512_VNNI)
        return vnni;
    if (isa == ISA_AMX) /* AMX-TILE and AMX-INT8 */
        return vnni && has_gfni() && cpu_feature(0, 3, 24) && cpu_feature(0, 3, 25) &&
               amx_permitted();
#endif
    return 0;
}

int cress_supported(int isa)
{
    if (isa < 0 || isa >= ISA_COUNT)
        return 0;
    int known = __atomic_load_n(&isa_supported[isa], __ATOMIC_RELAXED);
    if (!known) {
        known = detect(isa) ? 1 : 2;
        __atomic_store_n(&gfni_pays, has_fast_gfni(), __ATOMIC_RELAXED);
        __atomic_store_n(&isa_supported[isa], known, __ATOMIC_RELEASE);
    }
    return known == 1;
}

EXPORT const char *cress_source_digest(void)
{
    return SOURCE_DIGEST;
}
