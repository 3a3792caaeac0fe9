/* Two translators of one model at once, each with two threads, for the thread sanitizer: they find
 * the same.  usage: two_translators MODEL FILE.wav */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cress.h"

static const cress_model *model;
static const char *wav;

static void *translate(void *text)
{
    char message[512];
    struct cress_options options;
    cress_translator *translator;
    float *samples;
    size_t count;
    int rate;
    cress_default_options(&options);
    options.threads = 2;
    options.beam = 2;
    options.max_length = 8;
    if (cress_translator_create(model, &options, &translator, message, sizeof message) ||
        cress_read_wav(wav, &samples, &count, &rate, message, sizeof message)) {
        fprintf(stderr, "%s\n", message);
        exit(1);
    }
    for (int turn = 0; turn < 2; turn++) {
        cress_begin(translator, rate);
        for (size_t at = 0; at < count; at += 4000)
            cress_feed(translator, samples + at, count - at < 4000 ? count - at : 4000);
        ((char *)text)[0] = 0;
        for (cress_finish(translator); cress_next(translator) == 1;)
            strncat(text, cress_text(translator, 0), 300);
    }
    cress_free_samples(samples);
    cress_translator_free(translator);
    return NULL;
}

int main(int count, char **arguments)
{
    static char texts[2][100000];
    char message[512];
    pthread_t threads[2];
    cress_model *loaded;
    wav = arguments[count - 1];
    if (cress_model_load(arguments[count - 2], &loaded, message, sizeof message)) {
        fprintf(stderr, "%s\n", message);
        return 1;
    }
    model = loaded;
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, translate, texts[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    cress_model_free(loaded);
    puts(texts[0]);
    return !texts[0][0] || strcmp(texts[0], texts[1]);
}
