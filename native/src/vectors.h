/* Code that is compiled for each kind of vectors; which runs is chosen when the program starts. */
#ifndef CRESS_VECTORS_H
#define CRESS_VECTORS_H

#include "runtime.h"

#if defined(CRESS_X86) && defined(__linux__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTORS
#endif

/* Sixteen floats in registers: in one, which AVX2 takes for two, or in four. */
enum { LANES = 16 };
#ifdef CRESS_X86
enum { PIECE = 16 };
typedef float piece __attribute__((vector_size(64), aligned(4), may_alias));
#else
enum { PIECE = 4 };
typedef float piece __attribute__((vector_size(16), aligned(4), may_alias));
#endif
enum { PIECES = LANES / PIECE };

#endif
