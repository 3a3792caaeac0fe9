/* A whole program: translates a WAV file, or 16-bit samples as they come, and prints each segment
 * with its times.
 *
 *     cc talk.c -I$HOME/.local/include $HOME/.local/lib/libcress.a -lm -pthread -o talk
 *     ./talk model.cress talk.wav
 *     arecord -t raw -f S16_LE -r 16000 | ./talk model.cress
 */
#include <stdint.h>
#include <stdio.h>

#include "cress.h"

enum { RATE = 16000, PIECE = RATE / 2 };

static int complain(const char *message)
{
    fprintf(stderr, "talk: %s\n", message);
    return 1;
}

/* Translates what is cut so far; 0, or -1. */
static int print_segments(cress_translator *translator)
{
    int more;
    while ((more = cress_next(translator)) == 1) {
        printf("%7.2f %7.2f  %s\n", cress_start(translator), cress_end(translator),
               cress_text(translator, 0) ? cress_text(translator, 0) : "");
        fflush(stdout);
    }
    return more;
}

static int translate_file(cress_translator *translator, const char *path)
{
    char message[512];
    float *samples;
    size_t count;
    int rate;
    if (cress_read_wav(path, &samples, &count, &rate, message, sizeof message))
        return complain(message);
    int failed = cress_begin(translator, rate) || cress_feed(translator, samples, count) ||
                 cress_finish(translator) || print_segments(translator);
    cress_free_samples(samples);
    return failed ? complain(cress_error(translator)) : 0;
}

static int translate_stream(cress_translator *translator, FILE *stream)
{
    int16_t integers[PIECE];
    float samples[PIECE];
    size_t count;
    if (cress_begin(translator, RATE))
        return complain(cress_error(translator));
    while ((count = fread(integers, sizeof *integers, PIECE, stream))) {
        for (size_t i = 0; i < count; i++)
            samples[i] = (float)integers[i] / 32768;
        if (cress_feed(translator, samples, count) || cress_settle(translator) < 0 ||
            print_segments(translator))
            return complain(cress_error(translator));
    }
    if (cress_finish(translator) || print_segments(translator))
        return complain(cress_error(translator));
    return 0;
}

int main(int count, char **arguments)
{
    char message[512];
    cress_model *model;
    cress_translator *translator;
    struct cress_options options;
    if (count != 2 && count != 3)
        return complain("usage: talk MODEL [FILE.wav]");
    if (cress_model_load(arguments[1], &model, message, sizeof message))
        return complain(message);
    cress_default_options(&options);
    options.threads = 2;
    if (count == 2)
        options.segmenter = "energy"; /* live audio is cut at every piece: see cress_settle */
    if (cress_translator_create(model, &options, &translator, message, sizeof message)) {
        cress_model_free(model);
        return complain(message);
    }
    int status = count == 3 ? translate_file(translator, arguments[2])
                            : translate_stream(translator, stdin);
    cress_translator_free(translator);
    cress_model_free(model);
    return status;
}
