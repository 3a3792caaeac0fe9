/* Calls that a careful program does not make.  usage: misuse MODEL FILE.wav
 *
 * Each must be refused, and change nothing for the translator, whose words are printed: in the
 * process, and in a child of it that has none of the translator's threads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cress.h"

#define EXPECT(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "%s\n", #what); \
            exit(1); \
        } \
    } while (0)

static char message[512];

static void give_nothing(void)
{
    const float sample = 0;
    cress_model *model;
    cress_translator *translator;
    float *mixed;
    size_t count;
    int rate;
    cress_default_options(NULL);
    EXPECT(cress_model_load(NULL, &model, message, sizeof message) == -1 && *message);
    EXPECT(cress_model_load("model", NULL, NULL, 0) == -1);
    EXPECT(cress_model_from_memory(NULL, 0, &model, message, sizeof message) == -1 && !model);
    EXPECT(cress_model_from_memory(NULL, 100, &model, message, sizeof message) == -1 && !model);
    EXPECT(cress_translator_create(NULL, NULL, &translator, message, sizeof message) == -1);
    EXPECT(strstr(message, "no model"));
    EXPECT(cress_read_wav(NULL, &mixed, &count, &rate, message, sizeof message) == -1);
    EXPECT(cress_read_raw(NULL, &mixed, &count, message, sizeof message) == -1);
    EXPECT(cress_mix(NULL, 10, 1, 16000, &mixed, message, sizeof message) == -1);
    EXPECT(cress_translate(NULL, &sample, 1) == -1 && cress_begin(NULL, 16000) == -1);
    EXPECT(cress_feed(NULL, &sample, 1) == -1 && cress_finish(NULL) == -1 && cress_next(NULL) == -1);
    EXPECT(cress_settle(NULL) == -1 && cress_segments(NULL) == 0 && cress_count(NULL) == 0);
    EXPECT(cress_span(NULL, 0, NULL, NULL) == -1 && !cress_word(NULL, 0, NULL, NULL));
    EXPECT(!cress_seconds(NULL) && !cress_start(NULL) && !cress_end(NULL));
    EXPECT(!cress_cut_by_loudness(NULL) && !cress_decoded_again(NULL) && !cress_word_count(NULL));
    EXPECT(!cress_text(NULL, 0) && !cress_tokens(NULL, 0, NULL) && !cress_token(NULL, 0, NULL));
    EXPECT(!cress_subtitles(NULL, "srt") && *cress_error(NULL));
    cress_set_trace(NULL, NULL, NULL);
    cress_translator_free(NULL);
    cress_model_free(NULL);
    cress_free_samples(NULL);
}

static void misuse(cress_translator *translator)
{
    EXPECT(cress_feed(translator, NULL, 0) == -1 && cress_finish(translator) == -1);
    EXPECT(cress_translate(translator, NULL, 5) == -1 && *cress_error(translator));
    EXPECT(!cress_subtitles(translator, NULL) && !cress_text(translator, 0));
    EXPECT(!cress_begin(translator, 16000) && cress_feed(translator, NULL, 5) == -1);
    EXPECT(!cress_feed(translator, NULL, 0) && cress_next(translator) == -1);
}

static void show(cress_translator *translator, const float *samples, size_t count)
{
    EXPECT(!cress_translate(translator, samples, count) && cress_count(translator) == 1);
    EXPECT(cress_tokens(translator, 0, NULL) && !cress_text(translator, 1));
    puts(cress_text(translator, 0));
    fflush(stdout);
}

int main(int count, char **arguments)
{
    struct cress_options options;
    cress_model *model;
    cress_translator *translator;
    float *samples;
    size_t length;
    int rate, status;
    if (count != 3)
        return 2;
    give_nothing();
    cress_default_options(&options);
    options.threads = 2;
    EXPECT(!cress_model_load(arguments[1], &model, message, sizeof message));
    EXPECT(!cress_translator_create(model, &options, &translator, message, sizeof message));
    EXPECT(!cress_read_wav(arguments[2], &samples, &length, &rate, message, sizeof message));
    misuse(translator);
    show(translator, samples, length);
    pid_t child = fork();
    if (!child)
        alarm(60);
    else
        EXPECT(waitpid(child, &status, 0) == child && !status);
    if (!child)
        show(translator, samples, length);
    cress_free_samples(samples);
    cress_model_free(model); /* the wrong way round: it was used last above */
    cress_translator_free(translator);
    return 0;
}
