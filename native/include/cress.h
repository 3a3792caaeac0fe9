/* libcress: speech translation with packed 1-bit models, from C.
 *
 * A model is loaded once and may be used by any number of translators, each in one thread at a
 * time.  There is no global state.  A function that can fail returns 0, or -1 with a message in
 * words.  Samples are mono, 16,000 a second, full scale 1. */
#ifndef CRESS_H
#define CRESS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CRESS_API __attribute__((visibility("default")))
#else
#define CRESS_API
#endif

typedef struct cress_model cress_model;
typedef struct cress_translator cress_translator;

struct cress_options {
    int beam;             /* hypotheses in the search (5) */
    float length_penalty; /* as fairseq's --lenpen (1) */
    int max_length;       /* tokens at most, as --max-len-b (200) */
    int best;             /* hypotheses to keep (1) */
    int threads;          /* of a product (1) */
    const char *isa;      /* "portable", "avx2", "avx512_vnni", "amx"; NULL: the fastest here */
};

CRESS_API void cress_default_options(struct cress_options *options);

/* Maps a file of "cress-svcd export"; its weights stay there.  ``message`` gets the reason of a
 * failure, ``size`` bytes at most. */
CRESS_API int cress_model_load(const char *path, cress_model **model, char *message, size_t size);
CRESS_API void cress_model_free(cress_model *model);

/* The model must outlive its translators.  NULL options: the defaults. */
CRESS_API int cress_translator_create(const cress_model *model, const struct cress_options *options,
                                      cress_translator **translator, char *message, size_t size);
CRESS_API void cress_translator_free(cress_translator *translator);

/* Translates one segment; its hypotheses are kept until the next call. */
CRESS_API int cress_translate(cress_translator *translator, const float *samples, size_t count);

/* Why the last call of cress_translate failed. */
CRESS_API const char *cress_error(const cress_translator *translator);

/* Hypotheses, the best first: how many, text (UTF-8), score (base 2, as fairseq-generate prints
 * it), tokens without the end of sentence. */
CRESS_API int cress_count(const cress_translator *translator);
CRESS_API const char *cress_text(const cress_translator *translator, int number);
CRESS_API double cress_score(const cress_translator *translator, int number);
CRESS_API const int32_t *cress_tokens(const cress_translator *translator, int number, int *count);

/* Have ``trace`` called with what each stage gives, rows x columns; for tests.  NULL: no more. */
typedef void cress_trace(void *data, const char *stage, const float *values, size_t rows,
                         size_t columns);
CRESS_API void cress_set_trace(cress_translator *translator, cress_trace *trace, void *data);

/* The samples of a WAV file (8 to 32 bits, or float; channels are averaged), to be freed with
 * cress_free_samples. */
CRESS_API int cress_read_wav(const char *path, float **samples, size_t *count, char *message,
                             size_t size);
CRESS_API void cress_free_samples(float *samples);

#ifdef __cplusplus
}
#endif
#endif
