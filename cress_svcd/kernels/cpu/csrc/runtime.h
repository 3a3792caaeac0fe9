/* What all operations share: instruction sets, threads, scratch memory. */
#ifndef CRESS_RUNTIME_H
#define CRESS_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define CRESS_X86 1
/* Older compilers do not know the instructions; other systems hand out the registers otherwise. */
#if defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define CRESS_AMX 1
#endif
#endif

#if defined(__aarch64__) && defined(__GNUC__) && !defined(__AARCH64EB__)
#define CRESS_ARM 1
#endif
#if defined(CRESS_ARM) || defined(__wasm_simd128__)
#define CRESS_SIMD128 1
#endif

#define EXPORT __attribute__((visibility("default")))

/* Instruction sets, from the plainest.  Python knows these numbers (kernels/cpu/sign_gemm.py). */
enum {
    ISA_PORTABLE, ISA_AVX2, ISA_AVX512_VNNI, ISA_AMX, ISA_NEON, ISA_DOTPROD, ISA_I8MM, ISA_WASM,
    ISA_COUNT
};

/* What an exported function returns when it has not computed anything. */
enum { OUT_OF_MEMORY = -1, NOT_SUPPORTED = -2 };

/* GOMP_parallel of the OpenMP runtime that torch has loaded, so that no second one is needed. */
typedef void parallel_function(void (*work)(void *), void *data, unsigned threads, unsigned flags);

/* Whether this processor, and this process, can use an instruction set. */
EXPORT int cress_supported(int isa);

/* Its name, such as "avx2"; NULL where there is none of this number. */
EXPORT const char *cress_isa_name(int isa);

/* On AMD's cores (Zen 4) GFNI competes with vpdpbusd for its ports; shifts and masks do not. */
int gfni_is_fast(void);

/* Bit ``bit`` of register ``word`` (0: eax ... 3: edx) of the extended features, leaf ``leaf``. */
int cpu_feature(int leaf, int word, int bit);

/* Whether this process may use AMX; asks the kernel for it once. */
int amx_permitted(void);

/* ``bytes`` rounded up to whole cache lines. */
static inline size_t cache_lines(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

#endif
