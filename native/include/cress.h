/* libcress: speech translation with packed 1-bit models, from C.
 *
 *     cress_model_load("model.cress", &model, message, sizeof message);
 *     cress_translator_create(model, NULL, &translator, message, sizeof message);
 *     cress_begin(translator, 44100);
 *     while (more())
 *         cress_feed(translator, samples, count);
 *     for (cress_finish(translator); cress_next(translator) == 1;)
 *         puts(cress_text(translator, 0));
 *     cress_translator_free(translator);
 *     cress_model_free(model);
 *
 * These functions and cress_error are all that most programs need; the others tell more.
 * native/examples/talk.c is a whole program, with its errors.
 *
 * Errors.  A function that can fail returns -1, or NULL where it returns text, and else 0 or what is
 * said there.  The reason is one line of words: in ``message`` (``size`` bytes, the last a zero; NULL:
 * nowhere) where there is no translator yet, else in cress_error.  A translator can be used on; one
 * that is NULL is an error as well.  The library prints nothing and ends no program.
 *
 * Threads.  There is no global state.  A model is never written to: any number of threads may use it.
 * A translator is one thread's at a time; several translators of one model work at once.
 *
 * Memory.  Who makes a model or a translator frees it, translators before their model.  Text, words,
 * tokens and subtitles belong to the translator: copy them before its next call of cress_begin,
 * cress_settle, cress_finish, cress_next, cress_translate or cress_subtitles, or its end.  Samples
 * and strings that are given are read during the call alone.
 *
 * Samples are mono, finite, full scale 1.  Times are seconds from the beginning of the recording.
 * Text is UTF-8. */
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

#define CRESS_VERSION "0.1.0"

typedef struct cress_model cress_model;
typedef struct cress_translator cress_translator;

/* Models */

/* Maps a file of "cress-svcd export"; its weights stay there, and no one may change it meanwhile. */
CRESS_API int cress_model_load(const char *path, cress_model **model, char *message, size_t size);
/* The same of a file's ``count`` bytes in memory, at a multiple of 8, which must outlive the model. */
CRESS_API int cress_model_from_memory(const void *bytes, size_t count, cress_model **model,
                                      char *message, size_t size);
/* NULL: nothing. */
CRESS_API void cress_model_free(cress_model *model);

/* An entry of the vocabulary, ``length`` bytes of UTF-8 without a zero behind them, as long as the
 * model lives; NULL where there is none of this number. */
CRESS_API const char *cress_token(const cress_model *model, int32_t token, size_t *length);

/* Translators */

/* Begin with cress_default_options; what is in brackets is the default. */
struct cress_options {
    int beam;             /* hypotheses in the search, 1 to 1000 (5) */
    float length_penalty; /* as fairseq's --lenpen (1) */
    int max_length;       /* tokens at most, as --max-len-b (200) */
    int best;             /* hypotheses to keep (1) */
    int threads;          /* that compute, with the one that calls; 65 at most, and fewer where the
                             system starts no more (1) */
    const char *isa;      /* "portable", "avx2", "avx512_vnni", "amx", "neon", "neon_dotprod",
                             "neon_i8mm", "wasm_simd"; NULL: the fastest here (NULL) */
    int no_repeat;        /* let no so many tokens in a row come twice; 0: they may (0) */
    int word_times;       /* find when each word is said; subtitles need it (0) */
    /* How recordings are cut. */
    int whole;            /* not at all: a recording is one segment, whatever is in it (0) */
    double max_seconds;   /* no segment is longer (20) */
    double min_seconds;   /* shorter speech joins its neighbour; -1: the segmenter's own (-1) */
    double pause_seconds; /* silence that separates segments; -1: the segmenter's own (-1) */
    double threshold_db;  /* for energy: speech begins at most so far above the noise (10) */
    const char *segmenter; /* "energy": by loudness; "learnt": the model's; NULL, "auto": the model's
                              if it carries one, by loudness where that hears nothing (NULL) */
    const char *language; /* to translate to, of a model of several; NULL: its only one (NULL) */
};

CRESS_API void cress_default_options(struct cress_options *options);

/* NULL options: the defaults. */
CRESS_API int cress_translator_create(const cress_model *model, const struct cress_options *options,
                                      cress_translator **translator, char *message, size_t size);
/* NULL: nothing. */
CRESS_API void cress_translator_free(cress_translator *translator);

/* Why the last call that failed did so. */
CRESS_API const char *cress_error(const cress_translator *translator);

/* Recordings, in blocks: begin (``rate``: samples a second), feed any number of times, finish.  Then
 * cress_next translates one segment after the other, with the words and times of "cress-svcd
 * translate"; it returns 1, or 0 when there is none left (none at all: nothing is heard). */
CRESS_API int cress_begin(cress_translator *translator, int rate);
CRESS_API int cress_feed(cress_translator *translator, const float *samples, size_t count);
CRESS_API int cress_finish(cress_translator *translator);
CRESS_API int cress_next(cress_translator *translator);

/* Live audio, and the first words of a long recording: called between feeds, it cuts what has been fed
 * so far, and returns how many segments are new.  cress_next translates these, and returns 0 until
 * there are more.  "energy" takes next to no time; "learnt" takes that of some 10 seconds of speech
 * more, each time.  The words may differ from those of a recording that is cut as a whole. */
CRESS_API int cress_settle(cress_translator *translator);

/* Of the recording: how many segments it has, its seconds so far. */
CRESS_API int cress_segments(const cress_translator *translator);
CRESS_API double cress_seconds(const cress_translator *translator);
/* Where a segment of a finished recording begins, and how long it is, in samples of the recording. */
CRESS_API int cress_span(const cress_translator *translator, int number, int64_t *first,
                         int64_t *count);
/* 1: the model's segmenter heard nothing in it, and it is cut by loudness. */
CRESS_API int cress_cut_by_loudness(const cress_translator *translator);

/* Translates one segment, of 16,000 samples a second, which is no part of a recording: one that was
 * begun ends. */
CRESS_API int cress_translate(cress_translator *translator, const float *samples, size_t count);

/* The last segment */

/* When it begins and ends; 0 after cress_translate. */
CRESS_API double cress_start(const cress_translator *translator);
CRESS_API double cress_end(const cress_translator *translator);
/* 1: its first translation repeated itself, and this is the second. */
CRESS_API int cress_decoded_again(const cress_translator *translator);

/* Its hypotheses, the best first: how many, text, score (base 2, as fairseq-generate prints it),
 * tokens without the end of sentence.  NULL and NaN where there is none of this number. */
CRESS_API int cress_count(const cress_translator *translator);
CRESS_API const char *cress_text(const cress_translator *translator, int number);
CRESS_API double cress_score(const cress_translator *translator, int number);
CRESS_API const int32_t *cress_tokens(const cress_translator *translator, int number, int *count);

/* Words and subtitles, of recordings; with ``word_times`` only */

/* The words of the last segment's best hypothesis, and when each is said. */
CRESS_API int cress_word_count(const cress_translator *translator);
CRESS_API const char *cress_word(const cress_translator *translator, int number, double *start,
                                 double *end);

/* Subtitles of the segments of a recording so far, as "srt" or "vtt".  They replace what was kept of
 * the last segment. */
CRESS_API const char *cress_subtitles(cress_translator *translator, const char *format);

/* Samples of files */

/* The samples of a WAV file (8 to 32 bits, or float; "-": standard input), its channels mixed; to be
 * freed with cress_free_samples.  Of a file that was cut what there is: ``message`` says so, and is empty
 * otherwise. */
CRESS_API int cress_read_wav(const char *path, float **samples, size_t *count, int *rate,
                             char *message, size_t size);
/* Those of a file without a header: 16 bits, little-endian, one channel. */
CRESS_API int cress_read_raw(const char *path, float **samples, size_t *count, char *message,
                             size_t size);
/* Samples in memory, frame after frame of ``channels``, mixed as those of a file: ``frames`` then. */
CRESS_API int cress_mix(const float *samples, size_t frames, int channels, int rate, float **mixed,
                        char *message, size_t size);
CRESS_API void cress_free_samples(float *samples);

/* For tests */

/* Has ``trace`` called with what each stage gives, rows x columns, which stay for the call alone.
 * NULL: no more. */
typedef void cress_trace(void *data, const char *stage, const float *values, size_t rows,
                         size_t columns);
CRESS_API void cress_set_trace(cress_translator *translator, cress_trace *trace, void *data);

#ifdef __cplusplus
}
#endif
#endif
