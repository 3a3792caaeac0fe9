/* Live audio of a model in memory.  usage: live MODEL FILE.wav SEGMENTER PIECE_SECONDS
 *
 * Prints a segment a line: seconds heard so far, its beginning, its end, its words; then its subtitles.
 * Before that, a model of the first 100 bytes, and one of no bytes, must be refused. */
#include <stdio.h>
#include <stdlib.h>

#include "cress.h"

static char message[512];

static void stop(const char *reason)
{
    fprintf(stderr, "%s\n", reason);
    exit(1);
}

static void *read_all(const char *path, size_t *count)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        stop(path);
    fseek(file, 0, SEEK_END);
    *count = (size_t)ftell(file);
    rewind(file);
    void *bytes = malloc(*count);
    if (!bytes || fread(bytes, 1, *count, file) != *count)
        stop("cannot be read");
    fclose(file);
    return bytes;
}

static void print_segments(cress_translator *translator)
{
    int more;
    while ((more = cress_next(translator)) == 1)
        printf("%.2f\t%.3f\t%.3f\t%s\n", cress_seconds(translator), cress_start(translator),
               cress_end(translator), cress_text(translator, 0));
    if (more < 0)
        stop(cress_error(translator));
}

int main(int count_of_arguments, char **arguments)
{
    cress_model *model;
    cress_translator *translator;
    struct cress_options options;
    float *samples;
    size_t size, count;
    int rate;
    if (count_of_arguments != 5)
        return 2;
    void *bytes = read_all(arguments[1], &size);
    if (!cress_model_from_memory(bytes, 100, &model, message, sizeof message) || !*message ||
        !cress_model_from_memory(NULL, 0, &model, message, sizeof message) || model)
        stop("a damaged model was taken");
    cress_default_options(&options);
    options.word_times = 1;
    options.segmenter = arguments[3];
    if (cress_model_from_memory(bytes, size, &model, message, sizeof message) ||
        cress_translator_create(model, &options, &translator, message, sizeof message) ||
        cress_read_wav(arguments[2], &samples, &count, &rate, message, sizeof message))
        stop(message);
    if (cress_settle(translator) != -1)
        stop("settled before it began");
    size_t piece = (size_t)(rate * atof(arguments[4]));
    cress_begin(translator, rate);
    if (cress_next(translator) != -1)
        stop("a segment before anything was cut");
    for (size_t at = 0; at < count; at += piece) {
        if (cress_feed(translator, samples + at, count - at < piece ? count - at : piece) ||
            cress_settle(translator) < 0)
            stop(cress_error(translator));
        print_segments(translator);
    }
    if (cress_finish(translator))
        stop(cress_error(translator));
    print_segments(translator);
    if (cress_settle(translator) != -1)
        stop("settled after the end");
    printf("\n%s", cress_subtitles(translator, "srt"));
    cress_free_samples(samples);
    cress_translator_free(translator);
    cress_model_free(model);
    free(bytes);
    return 0;
}
