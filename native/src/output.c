#include "output.h"

#include <string.h>

static void write_string(FILE *stream, const char *text, size_t length)
{
    fputc('"', stream);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        const char *place = c ? strchr("\"\\\n\r\t\b\f", c) : NULL;
        if (place)
            fprintf(stream, "\\%c", "\"\\nrtbf"[place - "\"\\\n\r\t\b\f"]);
        else if (c < 32)
            fprintf(stream, "\\u%04x", c);
        else
            fputc(c, stream);
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
