/* What convolutions do with their sums: scale, add the bias, GELU, write. */
#ifndef CRESS_CONV1D_WRITE_H
#define CRESS_CONV1D_WRITE_H

#include "sign_gemm_avx512_write.h"
#include "conv1d.h"

enum { ACROSS = 2 * TILE_OUT }; /* outputs of a row of sums: two tiles */

#define WRITE_INLINE __attribute__((target(AVX512_BASE))) static inline

/* e^v for v <= 0: 2^n times a Taylor polynomial of the rest, which is within +- ln(2) / 2.
 * Not below e^-60: products with denormal numbers take a hundred times as long. */
WRITE_INLINE __attribute__((always_inline)) __m512 exponential(__m512 v)
{
    v = _mm512_max_ps(v, _mm512_set1_ps(-60));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(v, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), v);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 720);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, n);
}

/* x * Phi(x), by Abramowitz and Stegun's 7.1.26: an error of 1.5e-7 of the error function. */
WRITE_INLINE __attribute__((always_inline)) __m512 gelu(__m512 x)
{
    __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f));
    __m512 d = _mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), _mm512_set1_ps(1));
    __m512 t = _mm512_rcp14_ps(d);
    t = _mm512_mul_ps(t, _mm512_fnmadd_ps(d, t, _mm512_set1_ps(2))); /* one step of Newton's */
    __m512 p = _mm512_set1_ps(1.061405429f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
    p = _mm512_mul_ps(p, t);
    /* 2 Phi(-|x|) */
    __m512 tail = _mm512_mul_ps(p, exponential(_mm512_sub_ps(_mm512_setzero_ps(),
                                                             _mm512_mul_ps(z, z))));
    __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
    __m512 twice = _mm512_mask_blend_ps(negative, _mm512_sub_ps(_mm512_set1_ps(2), tail), tail);
    return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.5f)), twice);
}

/* ``rows`` output frames from ``first`` on, ``tiles`` of outputs from ``tile`` on. */
WRITE_INLINE void write(const struct conv1d *w, int64_t utterance, int64_t group, int64_t first,
                        int64_t rows, int64_t tile, int tiles, const float *sums)
{
    int64_t across = w->groups * w->out;
    for (int t = 0; t < tiles; t++) {
        int64_t o = (tile + t) * TILE_OUT, left = w->out - o;
        __mmask16 mask = left >= TILE_OUT ? 0xffff : (__mmask16)((1u << left) - 1);
        int64_t place = group * w->out + o, entry = utterance * w->scale_stride + place;
        __m512 scale = _mm512_maskz_loadu_ps(mask, w->scale + entry);
        __m512 bias =
            w->bias ? _mm512_maskz_loadu_ps(mask, w->bias + entry) : _mm512_setzero_ps();
        float *y = w->y + utterance * w->y_batch_stride + first * across + place;
        for (int64_t r = 0; r < rows; r++, y += across) {
            __m512 sum = _mm512_loadu_ps(sums + r * ACROSS + t * TILE_OUT);
            sum = _mm512_fmadd_ps(sum, scale, bias);
            _mm512_mask_storeu_ps(y, mask, w->gelu ? gelu(sum) : sum);
        }
    }
}

#endif
