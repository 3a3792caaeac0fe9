/* Which instruction sets there are.  No other state is kept between calls. */
#include "runtime.h"

#ifdef CRESS_X86
#include <cpuid.h>
#endif
#if defined(CRESS_ARM) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(CRESS_ARM) && defined(__APPLE__)
#include <sys/sysctl.h>
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

#ifdef CRESS_X86
static int has_gfni(void)
{
    return cpu_feature(0, 2, 8);
}
#endif

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

#ifdef CRESS_ARM
/* The numbers of Linux's asm/hwcap.h, which older systems lack names for. */
enum { HAS_DOTPROD = 1 << 20, HAS_I8MM = 1 << 13 };

static int detect_arm(int isa)
{
#if defined(__linux__)
    int dotprod = (getauxval(AT_HWCAP) & HAS_DOTPROD) != 0;
    return isa == ISA_DOTPROD ? dotprod : dotprod && (getauxval(AT_HWCAP2) & HAS_I8MM) != 0;
#elif defined(__APPLE__)
    int found = 0;
    size_t size = sizeof found;
    const char *name = isa == ISA_DOTPROD ? "hw.optional.arm.FEAT_DotProd"
                                          : "hw.optional.arm.FEAT_I8MM";
    return !sysctlbyname(name, &found, &size, NULL, 0) && found;
#else
    (void)isa;
    return 0;
#endif
}
#endif

static int detect(int isa)
{
    if (isa == ISA_PORTABLE)
        return 1;
#ifdef CRESS_ARM
    if (isa == ISA_NEON) /* every aarch64 has it */
        return 1;
    if (isa == ISA_DOTPROD || isa == ISA_I8MM)
        return detect_arm(isa);
#endif
#ifdef __wasm_simd128__
    if (isa == ISA_WASM) /* else the module would not be loaded */
        return 1;
#endif
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

EXPORT const char *cress_isa_name(int isa)
{
    static const char *const names[ISA_COUNT] = {
        "portable", "avx2", "avx512_vnni", "amx", "neon", "neon_dotprod", "neon_i8mm", "wasm_simd",
    };
    return isa >= 0 && isa < ISA_COUNT ? names[isa] : NULL;
}

EXPORT const char *cress_source_digest(void)
{
    return SOURCE_DIGEST;
}
