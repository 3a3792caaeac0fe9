/* AVX-512-VNNI: 16 outputs in the lanes, four inputs a step by vpdpbusd. */
#include "sign_gemm.h"

#ifdef CRESS_X86
#include "sign_gemm_avx512_write.h"
#include "quantize.h"

__attribute__((target(AVX512_BASE))) void quantize_avx512(const float *x, int64_t x_stride,
                                                          int64_t in, const float *g,
                                                          struct quantized *quantized)
{
    quantize_rows(x, x_stride, in, g, quantized);
}

#define TARGET __attribute__((target(AVX512_BASE ",avx512vnni")))
#define EXTRACT(v, b) _mm512_and_si512(_mm512_srli_epi16(v, b), _mm512_set1_epi8(1))
#define MULTIPLY multiply_avx512
#include "sign_gemm_avx512_block.h"
#endif
