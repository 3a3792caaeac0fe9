/* The command: cress translate MODEL FILE.wav... */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cress.h"

static const char usage[] =
    "usage: cress translate [options] MODEL FILE.wav[:FIRST:COUNT]...\n"
    "\n"
    "Translates speech: WAV files of 16,000 samples a second, \"-\" for standard input.  FIRST and\n"
    "COUNT are samples, as in the manifests of cress-svcd.\n"
    "\n"
    "  --beam N       hypotheses in the search (5)\n"
    "  --lenpen X     length penalty (1)\n"
    "  --max-len-b N  tokens at most (200)\n"
    "  --nbest N      print so many hypotheses (1)\n"
    "  --threads N    (1)\n"
    "  --isa NAME     portable, avx2, avx512_vnni or amx (default: the fastest)\n"
    "  --format NAME  text or json (text)\n"
    "  --list FILE    further inputs, one a line\n"
    "  --trace DIR    write what each stage gives: rows and columns (int64), then float32\n";

struct command {
    struct cress_options options;
    const char *model, *list, *trace;
    int json, printed;
};

static void complain(const char *message)
{
    fprintf(stderr, "cress: error: %s\n", message);
}

static void write_stage(void *data, const char *stage, const float *values, size_t rows,
                        size_t columns)
{
    char path[4096];
    int64_t shape[] = {(int64_t)rows, (int64_t)columns};
    snprintf(path, sizeof path, "%s/%s.bin", (const char *)data, stage);
    FILE *file = fopen(path, "wb");
    if (!file)
        return;
    fwrite(shape, sizeof shape, 1, file);
    fwrite(values, sizeof *values, rows * columns, file);
    fclose(file);
}

static void print_json_string(const char *text)
{
    putchar('"');
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 32)
            printf("\\u%04x", (unsigned)*text);
        else
            putchar(*text);
    putchar('"');
}

static void print_found(const struct command *command, const char *input,
                        const cress_translator *translator)
{
    for (int i = 0; i < cress_count(translator); i++) {
        if (!command->json) {
            printf("%s\n", cress_text(translator, i));
            continue;
        }
        printf("{\"input\": ");
        print_json_string(input);
        printf(", \"number\": %d, \"score\": %.6f, \"text\": ", i, cress_score(translator, i));
        print_json_string(cress_text(translator, i));
        printf("}\n");
    }
    fflush(stdout);
}

/* "file.wav:first:count" -> its parts. */
static int divide(const char *input, char *path, size_t size, size_t *first, size_t *count)
{
    char *colon, *end;
    *first = 0;
    *count = (size_t)-1;
    if (strlen(input) >= size)
        return -1;
    strcpy(path, input);
    for (int i = 0; i < 2; i++) {
        colon = strrchr(path, ':');
        if (!colon || !colon[1])
            break;
        unsigned long long value = strtoull(colon + 1, &end, 10);
        if (*end || colon[1] == '-')
            break;
        *(i ? first : count) = (size_t)value;
        if (i)
            *colon = 0;
        else
            *colon = '\0';
        if (i)
            return 0;
    }
    strcpy(path, input);
    *first = 0;
    *count = (size_t)-1;
    return 0;
}

/* Speech far too quiet or loud is brought to -26 dB: translation/loudness.py. */
static void at_usual_loudness(float *samples, size_t count)
{
    double squares = 0, mean = 0, peak = 0;
    for (size_t i = 0; i < count; i++) {
        squares += (double)samples[i] * samples[i];
        mean += samples[i];
    }
    if (!count)
        return;
    for (size_t i = 0; i < count; i++)
        peak = fmax(peak, fabs(samples[i] - mean / (double)count));
    double level = 20 * log10(fmax(1e-12, sqrt(squares / (double)count)));
    if ((level >= -40 && level <= -12) || peak < 1e-4)
        return;
    float gain = (float)pow(10, (-26 - level) / 20);
    for (size_t i = 0; i < count; i++)
        samples[i] *= gain;
}

static int translate_input(struct command *command, cress_translator *translator,
                           const char *input)
{
    char message[512], path[4096];
    size_t first, wanted, count;
    float *samples;
    if (divide(input, path, sizeof path, &first, &wanted)) {
        complain("a path is too long");
        return -1;
    }
    if (cress_read_wav(path, &samples, &count, message, sizeof message)) {
        complain(message);
        return -1;
    }
    if (first > count)
        first = count;
    if (wanted > count - first)
        wanted = count - first;
    at_usual_loudness(samples + first, wanted);
    int status = cress_translate(translator, samples + first, wanted);
    if (status) {
        snprintf(message, sizeof message, "%.200s: %.300s", input, cress_error(translator));
        complain(message);
    } else {
        print_found(command, input, translator);
    }
    cress_free_samples(samples);
    return status;
}

static int translate_list(struct command *command, cress_translator *translator)
{
    char line[4096];
    int status = 0;
    FILE *file = fopen(command->list, "r");
    if (!file) {
        complain("the list cannot be read");
        return -1;
    }
    while (!status && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        if (*line)
            status = translate_input(command, translator, line);
    }
    fclose(file);
    return status;
}

/* The whole number after an option; exits where it is none. */
static int number(const char *option, const char *text)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || *end || end == text || value < 1 || value > 1000000) {
        fprintf(stderr, "cress: error: %s: found %s, expected a number from 1 on\n", option, text);
        exit(2);
    }
    return (int)value;
}

static int set_option(struct command *command, const char *name, const char *value)
{
    char *end;
    if (!strcmp(name, "--beam"))
        command->options.beam = number(name, value);
    else if (!strcmp(name, "--max-len-b"))
        command->options.max_length = number(name, value);
    else if (!strcmp(name, "--nbest"))
        command->options.best = number(name, value);
    else if (!strcmp(name, "--threads"))
        command->options.threads = number(name, value);
    else if (!strcmp(name, "--isa"))
        command->options.isa = value;
    else if (!strcmp(name, "--list"))
        command->list = value;
    else if (!strcmp(name, "--trace"))
        command->trace = value;
    else if (!strcmp(name, "--format") && (!strcmp(value, "json") || !strcmp(value, "text")))
        command->json = !strcmp(value, "json");
    else if (!strcmp(name, "--lenpen"))
        command->options.length_penalty = strtof(value, &end);
    else
        return -1;
    return 0;
}

static int translate(struct command *command, char **inputs, int count)
{
    char message[512];
    cress_model *model;
    cress_translator *translator;
    if (cress_model_load(command->model, &model, message, sizeof message)) {
        complain(message);
        return 1;
    }
    int status = cress_translator_create(model, &command->options, &translator, message,
                                         sizeof message);
    if (status)
        complain(message);
    if (!status && command->trace)
        cress_set_trace(translator, write_stage, (void *)command->trace);
    for (int i = 0; i < count && !status; i++)
        status = translate_input(command, translator, inputs[i]);
    if (!status && command->list)
        status = translate_list(command, translator);
    cress_translator_free(translator);
    cress_model_free(model);
    return status ? 1 : 0;
}

int main(int count, char **arguments)
{
    struct command command = {0};
    int at = 2, positional = 0;
    cress_default_options(&command.options);
    if (count < 2 || strcmp(arguments[1], "translate")) {
        int asked = count > 1 && !strcmp(arguments[1], "--help");
        fputs(usage, asked ? stdout : stderr);
        return asked ? 0 : 2;
    }
    for (; at < count; at++) {
        if (arguments[at][0] != '-' || !arguments[at][1]) {
            arguments[positional++] = arguments[at];
        } else if (at + 1 == count || set_option(&command, arguments[at], arguments[at + 1])) {
            fprintf(stderr, "cress: error: %s: no such option or value\n%s", arguments[at], usage);
            return 2;
        } else {
            at++;
        }
    }
    if (positional < 1 || (positional < 2 && !command.list)) {
        fputs(usage, stderr);
        return 2;
    }
    command.model = arguments[0];
    return translate(&command, arguments + 1, positional - 1);
}
