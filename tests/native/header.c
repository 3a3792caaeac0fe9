/* What cress.h promises.  usage: header MODEL FILE.wav; prints each promise that is not kept. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cress.h"

static int broken;

static void require(int holds, const char *promise)
{
    if (!holds)
        broken = 1, puts(promise);
}

/* Made with strings and options that go at once. */
static cress_translator *make(const cress_model *model)
{
    cress_translator *translator = NULL;
    struct cress_options *options = malloc(sizeof *options);
    char *segmenter = strdup("energy"), *isa = strdup("portable");
    cress_default_options(options);
    options->segmenter = segmenter;
    options->isa = isa;
    options->word_times = 1;
    options->best = 2;
    cress_translator_create(model, options, &translator, NULL, 0);
    memset(options, 1, sizeof *options);
    memset(segmenter, 1, 6);
    memset(isa, 1, 8);
    free(options);
    free(segmenter);
    free(isa);
    return translator;
}

static void check_hypotheses(const cress_translator *translator)
{
    int count = cress_count(translator), tokens;
    require(count == 2, "two hypotheses are kept");
    require(cress_score(translator, 0) >= cress_score(translator, 1), "the best is the first");
    require(cress_tokens(translator, 0, &tokens) && tokens > 0, "a hypothesis has tokens");
    require(!cress_text(translator, count) && !cress_text(translator, -1), "no text is NULL");
    require(isnan(cress_score(translator, count)), "no score is NaN");
    require(!cress_tokens(translator, count, &tokens) && !tokens, "no tokens are NULL, and 0");
}

static void check_recordings(cress_translator *translator, const float *samples, size_t count,
                             int rate)
{
    require(cress_begin(translator, 1) == -1 && *cress_error(translator), "a rate may be wrong");
    require(cress_begin(translator, rate) == 0 && cress_feed(translator, samples, count) == 0 &&
            cress_finish(translator) == 0, "it is used on after an error");
    require(cress_next(translator) == 1, "something is said");
    check_hypotheses(translator);
    require(cress_word_count(translator) > 0, "words have times");
    require(cress_subtitles(translator, "srt") != NULL, "a recording has subtitles");
    require(cress_count(translator) == 0, "subtitles replace the last segment");
    require(cress_subtitles(translator, "text") == NULL, "text is no form of subtitles");
    require(cress_translate(translator, samples, count) == 0, "a segment is translated alone");
    check_hypotheses(translator);
    require(cress_start(translator) == 0 && cress_end(translator) == 0, "it has no times");
    require(cress_seconds(translator) == 0 && cress_segments(translator) == 0 &&
            cress_next(translator) == -1 && cress_feed(translator, samples, count) == -1,
            "the recording that was begun has ended");
}

int main(int count_of_arguments, char **arguments)
{
    cress_model *model = NULL;
    float *samples;
    size_t count, length;
    int rate;
    if (count_of_arguments != 3 || cress_model_load(arguments[1], &model, NULL, 0) ||
        cress_read_wav(arguments[2], &samples, &count, &rate, NULL, 0))
        return 2;
    char few[8];
    cress_model *none = model;
    require(cress_model_load("missing", &none, few, sizeof few) == -1 && !none && strlen(few) == 7,
            "a message is cut to its place");
    require(cress_token(model, 0, &length) && !cress_token(model, -1, &length) && !length,
            "there is no token -1");
    cress_translator *translator = make(model);
    require(translator != NULL, "a translator is made");
    check_recordings(translator, samples, count, rate);
    cress_translator_free(translator);
    cress_model_free(model);
    cress_translator_free(NULL);
    cress_model_free(NULL);
    cress_free_samples(samples);
    return broken;
}
