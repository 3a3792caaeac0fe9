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

#endif
