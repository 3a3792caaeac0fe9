#include "output.h"

#include <stdarg.h>
#include <string.h>

void say(const char *format, ...)
{
    char text[16384];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fputs("cress: ", stderr);
    for (const char *at = text; *at; at++) {
        unsigned char c = (unsigned char)*at;
        if (c == '\n' || c == '\r' || c == '\t')
            fprintf(stderr, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c < 32 || c == 127)
            fprintf(stderr, "\\x%02x", c);
        else
            fputc(c, stderr);
    }
    fputc('\n', stderr);
}

/* The bytes of the character of UTF-8 at ``text``; 0 if there is none. */
static size_t character(const unsigned char *text, size_t length)
{
    unsigned char c = text[0];
    size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2
                  : c >= 0xf0 && c < 0xf5 ? 3 : 4;
    if (more == 4 || more >= length)
        return 0;
    for (size_t i = 1; i <= more; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    /* Longer than needed, half of a pair, beyond the last one. */
    if ((c == 0xe0 && text[1] < 0xa0) || (c == 0xed && text[1] > 0x9f) ||
        (c == 0xf0 && text[1] < 0x90) || (c == 0xf4 && text[1] > 0x8f))
        return 0;
    return more + 1;
}

/* In JSON; of a name that is no UTF-8, the bytes as Python has them. */
static void write_string(FILE *stream, const char *text, size_t length)
{
    fputc('"', stream);
    for (size_t i = 0, size; i < length; i += size) {
        unsigned char c = (unsigned char)text[i];
        size = character((const unsigned char *)text + i, length - i);
        const char *place = c ? strchr("\"\\\n\r\t\b\f", c) : NULL;
        if (place)
            fprintf(stream, "\\%c", "\"\\nrtbf"[place - "\"\\\n\r\t\b\f"]);
        else if (c < 32)
            fprintf(stream, "\\u%04x", c);
        else if (size)
            fwrite(text + i, 1, size, stream);
        else
            fprintf(stream, "\\udc%02x", c);
        size = size ? size : 1;
    }
    fputc('"', stream);
}

/* Rounded, without zeros at its end, as Python writes it. */
static void write_number(FILE *stream, double number, int places)
{
    char text[64];
    snprintf(text, sizeof text, "%.*f", places, number);
    size_t length = strlen(text);
    while (length > 2 && text[length - 1] == '0' && text[length - 2] != '.')
        text[--length] = 0;
    fputs(text, stream);
}

static void write_words(FILE *stream, const cress_translator *translator)
{
    fputs(", \"words\": [", stream);
    for (int i = 0; i < cress_word_count(translator); i++) {
        double start, end;
        const char *word = cress_word(translator, i, &start, &end);
        fputs(i ? ", {\"word\": " : "{\"word\": ", stream);
        write_string(stream, word, strlen(word));
        fputs(", \"start\": ", stream);
        write_number(stream, start, 3);
        fputs(", \"end\": ", stream);
        write_number(stream, end, 3);
        fputc('}', stream);
    }
    fputc(']', stream);
}

static void write_json(FILE *stream, const cress_model *model, const cress_translator *translator,
                       const char *source, int number, int hypothesis, int words)
{
    int count;
    const int32_t *tokens = cress_tokens(translator, hypothesis, &count);
    const char *text = cress_text(translator, hypothesis);
    fputs("{\"source\": ", stream);
    write_string(stream, source, strlen(source));
    fprintf(stream, ", \"segment\": %d, \"start\": ", number);
    write_number(stream, cress_start(translator), 3);
    fputs(", \"end\": ", stream);
    write_number(stream, cress_end(translator), 3);
    if (hypothesis)
        fprintf(stream, ", \"hypothesis\": %d", hypothesis);
    fputs(", \"text\": ", stream);
    write_string(stream, text, strlen(text));
    fputs(", \"score\": ", stream);
    write_number(stream, cress_score(translator, hypothesis), 4);
    fputs(", \"tokens\": [", stream);
    for (int i = 0; i < count; i++) {
        size_t length;
        const char *token = cress_token(model, tokens[i], &length);
        fputs(i ? ", " : "", stream);
        write_string(stream, token, length);
    }
    fprintf(stream, "]%s", cress_decoded_again(translator) ? ", \"decoded_again\": true" : "");
    if (words && !hypothesis)
        write_words(stream, translator);
    fputs("}\n", stream);
}

/* In one line, however many spaces the words have between them. */
static void write_line(FILE *stream, const char *text)
{
    for (const char *gap = ""; *(text += strspn(text, " \t\r\n")); gap = " ") {
        size_t length = strcspn(text, " \t\r\n");
        fprintf(stream, "%s%.*s", gap, (int)length, text);
        text += length;
    }
    fputc('\n', stream);
}

void write_segment(FILE *stream, enum format format, const cress_model *model,
                   const cress_translator *translator, const char *source, int number,
                   int words)
{
    for (int i = 0; i < cress_count(translator); i++)
        if (format == FORMAT_JSON_LINES)
            write_json(stream, model, translator, source, number, i, words);
        else if (format == FORMAT_TEXT)
            write_line(stream, cress_text(translator, i));
    fflush(stream);
}
