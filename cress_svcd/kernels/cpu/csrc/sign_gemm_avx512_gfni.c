/* AVX-512-VNNI again, with GFNI: one instruction takes a bit out of every byte, where a shift and a
 * mask are two.  Intel's cores issue all of these on the two ports of vpdpbusd, so it shows; AMD's
 * issue shifts and masks at the same time, and are slower by GFNI: see has_fast_gfni. */
#include "sign_gemm.h"

#ifdef CRESS_X86
#include <string.h>

#include "sign_gemm_avx512_write.h"

#define TARGET __attribute__((target(AVX512_BASE ",avx512vnni,gfni")))
/* The 8 x 8 bit matrix whose only one, in its last byte, sends bit b to bit 0. */
#define EXTRACT(v, b) \
    _mm512_gf2p8affine_epi64_epi8(v, _mm512_set1_epi64((long long)(1ULL << (56 + (b)))), 0)
#define MULTIPLY multiply_avx512_gfni
#include "sign_gemm_avx512_block.h"
#endif
