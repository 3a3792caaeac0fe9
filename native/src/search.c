/* fairseq's beam search (sequence_generator.py, search.py: BeamSearch), on one utterance. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "translate.h"

struct candidate {
    float score;
    int32_t beam, token;
};

/* One utterance's search; rows are beams. */
struct beams {
    int beam, columns;       /* of tokens and scores */
    int32_t *tokens;      /* beam x columns; column 0 is what translations begin with */
    float *scores;        /* beam x columns: sums up to each token */
    int32_t *old_tokens;
    float *old_scores;
    char *ignored;        /* beams that have nothing left to continue */
    struct hypothesis *found;
    int count;
};

/* The best of all beams' continuations, the best first; at equal scores the lower place. */
static int best_candidates(const float *log_probs, const float *sums, int columns, int step, int rows,
                           int64_t vocabulary, int wanted, struct candidate *best)
{
    int count = 0;
    for (int b = 0; b < rows; b++) {
        float sum = step ? sums[b * columns + step - 1] : 0;
        const float *row = log_probs + b * vocabulary;
        for (int32_t token = 0; token < vocabulary; token++) {
            float score = step ? row[token] + sum : row[token];
            if (count == wanted && !(score > best[count - 1].score))
                continue;
            int place = count < wanted ? count++ : count - 1;
            for (; place > 0 && score > best[place - 1].score; place--)
                best[place] = best[place - 1];
            best[place] = (struct candidate){score, b, token};
        }
    }
    return count;
}

/* What fairseq forbids: padding always, the end at first, all else at last. */
static void forbid(const struct cress_model *model, float *log_probs, int rows, int step, int most)
{
    for (int b = 0; b < rows; b++) {
        float *row = log_probs + b * model->vocabulary;
        for (int64_t i = 0; i < model->vocabulary; i++)
            if (isnan(row[i]) || (step >= most && i != model->eos))
                row[i] = -INFINITY;
        row[model->pad] = -INFINITY;
        if (step < 1)
            row[model->eos] = -INFINITY;
    }
}

/* Forbids what would make ``size`` tokens in a row come twice: class NoRepeat in
 * translation/search.py.  ``tokens`` begin with what no hypothesis holds. */
static void forbid_repeats(const int32_t *tokens, int count, int size, float *log_probs)
{
    int32_t first = tokens[0];
    float first_log_prob = log_probs[first];
    for (int next = size > 1 ? size - 1 : 1; next < count; next++) {
        const int32_t *before = tokens + next - (size - 1);
        if (!memcmp(before, tokens + count - (size - 1), (size_t)(size - 1) * sizeof *tokens))
            log_probs[tokens[next]] = -INFINITY;
    }
    log_probs[first] = first_log_prob;
}

static void finish(struct run *run, struct beams *all, const struct candidate *candidate, int step,
                   float length_penalty)
{
    if (all->count == all->beam)
        return;
    struct hypothesis *hypothesis = &all->found[all->count++];
    hypothesis->count = step;
    hypothesis->tokens = take(run->arena, (size_t)step + 1, sizeof *hypothesis->tokens);
    memcpy(hypothesis->tokens, all->tokens + candidate->beam * all->columns + 1,
           (size_t)step * sizeof *hypothesis->tokens);
    hypothesis->score = candidate->score / powf((float)(step + 1), length_penalty);
}

/* The candidates that go on: the first that neither ended nor are to be ignored. */
static void carry_on(struct beams *all, const struct candidate *candidates, const char *ended,
                     int count, int step, int32_t *sources)
{
    int kept = 0;
    memcpy(all->old_tokens, all->tokens, (size_t)(all->beam * all->columns) * sizeof *all->tokens);
    memcpy(all->old_scores, all->scores, (size_t)(all->beam * all->columns) * sizeof *all->scores);
    for (int pass = 0; pass < 2; pass++) /* then the others, to be ignored */
        for (int i = 0; i < count && kept < all->beam; i++) {
            if (ended[i] != pass)
                continue;
            const struct candidate *candidate = &candidates[i];
            memcpy(all->tokens + kept * all->columns, all->old_tokens + candidate->beam * all->columns,
                   (size_t)(step + 1) * sizeof *all->tokens);
            memcpy(all->scores + kept * all->columns, all->old_scores + candidate->beam * all->columns,
                   (size_t)step * sizeof *all->scores);
            all->tokens[kept * all->columns + step + 1] = candidate->token;
            all->scores[kept * all->columns + step] = candidate->score;
            all->ignored[kept] = (char)pass;
            sources[kept++] = candidate->beam;
        }
    for (; kept < all->beam; kept++) { /* a vocabulary smaller than the beam */
        size_t cells = (size_t)all->columns;
        memcpy(all->tokens + kept * all->columns, all->tokens, cells * sizeof *all->tokens);
        memcpy(all->scores + kept * all->columns, all->scores, cells * sizeof *all->scores);
        all->ignored[kept] = 1;
        sources[kept] = sources[0];
    }
}

static void sort(struct hypothesis *found, int count)
{
    for (int i = 1; i < count; i++)
        for (int j = i; j > 0 && found[j].score > found[j - 1].score; j--) {
            struct hypothesis swapped = found[j];
            found[j] = found[j - 1];
            found[j - 1] = swapped;
        }
}

int search(struct run *run, const float *states, int64_t frames,
           const struct cress_options *options, int no_repeat, struct hypothesis **found)
{
    const struct cress_model *model = run->model;
    int beam = options->beam, most = options->max_length;
    if (most > model->most_positions - 1)
        most = (int)model->most_positions - 1;
    int wanted = 2 * beam < beam * model->vocabulary - 1 ? 2 * beam
                                                         : (int)(beam * model->vocabulary - 1);
    struct beams all = {.beam = beam, .columns = most + 2};
    size_t cells = (size_t)beam * (size_t)all.columns;
    all.tokens = take_zeros(run->arena, cells, sizeof *all.tokens);
    all.old_tokens = take_zeros(run->arena, cells, sizeof *all.tokens);
    all.scores = take_zeros(run->arena, cells, sizeof *all.scores);
    all.old_scores = take_zeros(run->arena, cells, sizeof *all.scores);
    all.ignored = take_zeros(run->arena, (size_t)beam, 1);
    all.found = take_zeros(run->arena, (size_t)beam, sizeof *all.found);
    struct candidate *candidates = take(run->arena, (size_t)wanted + 1, sizeof *candidates);
    char *ended = take_zeros(run->arena, (size_t)wanted + 1, 1);
    int32_t *last = take(run->arena, (size_t)beam, sizeof *last);
    int32_t *sources = take_zeros(run->arena, (size_t)beam, sizeof *sources);
    for (int b = 0; b < beam; b++)
        all.tokens[b * all.columns] = run->first;
    struct decoder *decoder = decoder_begin(run, states, frames, beam, most + 1);
    for (int step = 0; step <= most; step++) {
        for (int b = 0; b < beam; b++)
            last[b] = all.tokens[b * all.columns + step];
        float *log_probs = (float *)decoder_step(run, decoder, last, step ? sources : NULL);
        int rows = step ? beam : 1;
        forbid(model, log_probs, beam, step, most);
        for (int b = 0; b < beam && no_repeat; b++)
            forbid_repeats(all.tokens + b * all.columns, step + 1, no_repeat,
                           log_probs + b * model->vocabulary);
        int count = best_candidates(log_probs, all.scores, all.columns, step, rows,
                                    model->vocabulary, wanted, candidates);
        for (int i = 0; i < count; i++) {
            int ends = candidates[i].token == model->eos && candidates[i].score != -INFINITY;
            int ignored = i < beam && all.ignored[i];
            if (i < beam && ends && !ignored)
                finish(run, &all, &candidates[i], step, options->length_penalty);
            ended[i] = (char)(ends || ignored);
        }
        if (all.count == beam || step == most)
            break;
        carry_on(&all, candidates, ended, count, step, sources);
    }
    sort(all.found, all.count);
    *found = all.found;
    return all.count < options->best ? all.count : options->best;
}

char *detokenise(struct run *run, const struct hypothesis *hypothesis)
{
    const struct cress_model *model = run->model;
    size_t length = 0;
    for (int i = 0; i < hypothesis->count; i++) {
        int32_t token = hypothesis->tokens[i];
        length += (size_t)(model->token_offsets[token + 1] - model->token_offsets[token]);
    }
    char *text = take(run->arena, length + 1, 1), *to = text;
    for (int i = 0; i < hypothesis->count; i++) {
        int32_t token = hypothesis->tokens[i];
        const char *at = model->tokens + model->token_offsets[token];
        const char *end = model->tokens + model->token_offsets[token + 1];
        while (at < end) {
            if (end - at >= 3 && !memcmp(at, "\xe2\x96\x81", 3)) { /* a word begins */
                *to++ = ' ';
                at += 3;
            } else if (*at == ' ') {
                at++;
            } else {
                *to++ = *at++;
            }
        }
    }
    while (to > text && to[-1] == ' ')
        to--;
    *to = 0;
    while (*text == ' ')
        text++;
    return text;
}
