/* Code that is compiled for each kind of vectors; which runs is chosen when the program starts. */
#ifndef CRESS_VECTORS_H
#define CRESS_VECTORS_H

#include "runtime.h"

/* -DCRESS_NO_AVX512: for measuring what processors without it would take. */
#ifdef CRESS_NO_AVX512
#define FOR_KINDS "arch=x86-64-v3", "default"
#else
#define FOR_KINDS "arch=x86-64-v4", "arch=x86-64-v3", "default"
#endif
#if defined(CRESS_X86) && defined(__linux__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define VECTORS __attribute__((target_clones(FOR_KINDS)))
#else
#define VECTORS
#endif

/* Outputs, keys or channels at a time: a register of floats, or some. */
enum { LANES = 16 };

#endif
