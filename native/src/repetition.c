/* Hypotheses that go in circles: translation/repetition.py. */
#include <string.h>

#include "translate.h"

enum { SIZE = 3, MOST = 3 };

static const char WORD_START[] = "\xe2\x96\x81"; /* sentencepiece's */

struct item {
    const char *text;
    size_t length;
};

/* Letters are all bytes beyond ASCII, too. */
static int is_figures(const struct item *items)
{
    int digits = 0;
    for (int i = 0; i < SIZE; i++)
        for (size_t at = 0; at < items[i].length; at++) {
            unsigned char c = (unsigned char)items[i].text[at];
            digits |= c >= '0' && c <= '9';
            if (c >= 128 || (c | 32u) - 'a' < 26u)
                return 0;
        }
    return digits;
}

static int same(const struct item *a, const struct item *b)
{
    for (int i = 0; i < SIZE; i++)
        if (a[i].length != b[i].length || memcmp(a[i].text, b[i].text, a[i].length))
            return 0;
    return 1;
}

/* Whether SIZE items in a row come more than MOST times. */
static int too_often(const struct item *items, int count)
{
    for (int i = 0; i + SIZE <= count; i++) {
        int times = 1;
        for (int j = i + 1; j + SIZE <= count; j++)
            times += same(items + i, items + j);
        if (times > MOST && !is_figures(items + i))
            return 1;
    }
    return 0;
}

static int is_word_start(const struct item *item)
{
    size_t length = sizeof WORD_START - 1;
    return item->length >= length && !memcmp(item->text, WORD_START, length);
}

int repeats_itself(struct run *run, const struct hypothesis *hypothesis, const char *text)
{
    const struct cress_model *model = run->model;
    size_t most = strlen(text) + (size_t)hypothesis->count;
    struct item *items = take(run->arena, most + 1, sizeof *items);
    int count = 0, starts = 0;
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, " \t\r\n");
        if (length)
            items[count++] = (struct item){at, length};
        at += length + (at[length] != 0);
    }
    if (too_often(items, count))
        return 1;
    count = 0;
    for (int pass = 0; pass < 2; pass++) /* is any a word's start? then the tokens of each word */
        for (int i = 0; i < hypothesis->count; i++) {
            const int32_t *offset = model->token_offsets + hypothesis->tokens[i];
            struct item item = {model->tokens + offset[0], (size_t)(offset[1] - offset[0])};
            int begins = is_word_start(&item);
            starts |= begins;
            if (!pass || !starts)
                continue;
            if (begins) {
                if (too_often(items, count))
                    return 1;
                count = 0;
                item.text += sizeof WORD_START - 1;
                item.length -= sizeof WORD_START - 1;
            }
            if (item.length)
                items[count++] = item;
        }
    return too_often(items, count);
}
