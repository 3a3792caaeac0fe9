/* What JavaScript cannot do with cress.h by itself: fill a struct. */
#include "cress.h"

cress_translator *page_translator(const cress_model *model, const char *segmenter, int whole,
                                  int beam, int max_length, int no_repeat, char *message,
                                  size_t size);

/* NULL where it fails. */
cress_translator *page_translator(const cress_model *model, const char *segmenter, int whole,
                                  int beam, int max_length, int no_repeat, char *message,
                                  size_t size)
{
    struct cress_options options;
    cress_translator *translator = NULL;
    cress_default_options(&options);
    options.segmenter = segmenter;
    options.whole = whole;
    options.beam = beam;
    options.max_length = max_length;
    options.no_repeat = no_repeat;
    options.word_times = 1; /* subtitles need it */
    cress_translator_create(model, &options, &translator, message, size);
    return translator;
}
