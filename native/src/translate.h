/* From samples to hypotheses. */
#ifndef CRESS_TRANSLATE_H
#define CRESS_TRANSLATE_H

#include "compute.h"

struct hypothesis {
    int32_t *tokens; /* without beginning and end of a sentence, once stripped */
    int count;
    int32_t *raw;    /* as they were found */
    int raw_count;
    double score;    /* natural logarithm, over count + 1 to the power of the length penalty */
};

/* Waveform -> features of HuBERT (frames x its width). */
float *encode_speech(struct run *run, const float *samples, int64_t count, int normalize,
                     int64_t *frames);

/* Waveform -> the encoder's states (frames x width of the encoder). */
const float *encode(struct run *run, const float *samples, int64_t count, int64_t *frames);

/* The decoder's keys and values, and the search over it. */
struct decoder;
struct decoder *decoder_begin(struct run *run, const float *states, int64_t frames, int beams,
                              int64_t most_tokens);
/* Log-probabilities (beams x vocabulary) after one more token of each beam; the past of beam b is
 * that of beam sources[b] (NULL: its own). */
const float *decoder_step(struct run *run, struct decoder *decoder, const int32_t *tokens,
                          const int32_t *sources);

/* What each token of a hypothesis attends to (count x frames). */
float *attention_of(struct run *run, const float *states, int64_t frames, const int32_t *tokens,
                    int count);

/* fairseq's beam search, in which no ``no_repeat`` tokens in a row come twice (0: they may);
 * hypotheses in memory of the run's arena, the best first. */
int search(struct run *run, const float *states, int64_t frames, const struct cress_options *options,
           int no_repeat, struct hypothesis **found);

/* Whether a hypothesis repeats itself: translation/repetition.py. */
int repeats_itself(struct run *run, const struct hypothesis *hypothesis, const char *text);

/* The text of tokens, as fairseq-generate prints it, in memory of the arena. */
char *detokenise(struct run *run, const struct hypothesis *hypothesis);

/* x (rows x width) with the positions from ``first`` on added. */
void add_positions(struct run *run, const struct stack *stack, float *x, int64_t rows,
                   int64_t first);

#endif
