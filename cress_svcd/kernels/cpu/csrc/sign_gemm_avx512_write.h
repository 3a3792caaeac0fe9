/* What AVX-512-VNNI and AMX do with their sums: scale, add the bias, write. */
#ifndef CRESS_AVX512_WRITE_H
#define CRESS_AVX512_WRITE_H

#include <immintrin.h>

#include "sign_gemm.h"

#define AVX512_BASE "avx512f,avx512bw,avx512vl,avx512dq"

__attribute__((target(AVX512_BASE))) static inline __m512 signed_sums(const int32_t *acc,
                                                                      int32_t level_sum)
{
    __m512i sums = _mm512_loadu_si512(acc);
    sums = _mm512_sub_epi32(_mm512_add_epi32(sums, sums), _mm512_set1_epi32(level_sum));
    return _mm512_cvtepi32_ps(sums);
}

/* Sums of ``tiles`` x 16 outputs from output ``o`` on, for q rows first .. first + rows.
 *
 * acc: rows x ``acc_stride`` of sums of bit * q. */
__attribute__((target(AVX512_BASE))) static inline void write_rows(
    const int32_t *acc, int64_t acc_stride, int64_t first, int64_t rows, int tiles,
    const struct quantized *quantized, int64_t o, const struct outputs *outputs)
{
    int num_parts = quantized->num_parts;
    for (int tile = 0; tile < tiles; tile++, o += TILE_OUT, acc += TILE_OUT) {
        int64_t left = outputs->out - o;
        if (left <= 0)
            return;
        __mmask16 mask = left >= TILE_OUT ? 0xffff : (__mmask16)((1u << left) - 1);
        __m512 h = outputs->h ? _mm512_maskz_loadu_ps(mask, outputs->h + o) : _mm512_set1_ps(1);
        __m512 bias =
            outputs->bias ? _mm512_maskz_loadu_ps(mask, outputs->bias + o) : _mm512_setzero_ps();
        for (int64_t r = 0; r < rows; r += num_parts) {
            int64_t row = (first + r) / num_parts;
            const int32_t *sums = acc + r * acc_stride;
            __m512 product = signed_sums(sums, quantized->sums[first + r]);
            if (num_parts == 2) {
                __m512 low = signed_sums(sums + acc_stride, quantized->sums[first + r + 1]);
                product = _mm512_add_ps(_mm512_mul_ps(product, _mm512_set1_ps(256)), low);
            }
            product = _mm512_mul_ps(product, _mm512_set1_ps(quantized->scales[row]));
            product = _mm512_add_ps(_mm512_mul_ps(product, h), bias);
            _mm512_mask_storeu_ps(outputs->y + row * outputs->y_stride + o, mask, product);
        }
    }
}

#endif
