/* The command: cress translate MODEL FILE.wav... */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cress.h"
#include "output.h"
#include "runtime.h"

#define BYTE_ORDER_MARK "\xef\xbb\xbf"

static const char usage[] =
    "usage: cress translate [options] MODEL [FILE.wav[:FIRST:COUNT]...]\n"
    "\n"
    "Translates speech: WAV files of any rate and length, of up to 64 channels; \"-\", or none, is\n"
    "standard input.  FIRST and COUNT are samples of the file, as in the manifests of cress-svcd.\n"
    "\n"
    "  --tgt-lang XX             target language, of a model of several\n"
    "  --beam N                  hypotheses in the search (5)\n"
    "  --lenpen X                length penalty (1)\n"
    "  --max-len-b N             tokens at most (200)\n"
    "  --no-repeat-ngram-size N  let no N tokens in a row come twice (0: they may)\n"
    "  --nbest N                 print so many hypotheses of each segment (1)\n"
    "  --no-segmentation         translate each recording as one segment\n"
    "  --max-segment-seconds S   longest segment (20)\n"
    "  --min-segment-seconds S   shorter speech joins its neighbour (the segmenter's own)\n"
    "  --pause-seconds S         silence that separates segments (the segmenter's own)\n"
    "  --threshold-db DB         for energy: speech begins at most so far above the noise (10)\n"
    "  --segmenter NAME          energy: by loudness; learnt: the model's; auto: the model's if it\n"
    "                            carries one, by loudness where that hears nothing (auto)\n"
    "  --output-format NAME      text, jsonl, srt or vtt, which are of one recording (text)\n"
    "  --word-times              jsonl has the times of words\n"
    "  --raw RATE                the inputs have no header: 16 bits, one channel, RATE a second\n"
    "  --list FILE               further inputs, one a line\n"
    "  --threads N               (1)\n"
    "  --isa NAME                portable, avx2, avx512_vnni, amx, neon, neon_dotprod, neon_i8mm\n"
    "                            (default: the fastest that there is)\n"
    "  --trace DIR               write what each stage gives: rows and columns (int64), float32\n"
    "\n"
    "  cress --version           version of the library, and the fastest --isa of this processor\n"
    "\n"
    "The status is 0 if all went well, 1 if something could not be translated or nothing is heard\n"
    "in any recording, 2 if the command is wrong.\n";

struct command {
    struct cress_options options;
    enum format format;
    const char *model_path, *list, *trace;
    int raw, word_times, recordings, failed, silent, untraced;
    cress_model *model;
    cress_translator *translator;
};

static void write_stage(void *data, const char *stage, const float *values, size_t rows,
                        size_t columns)
{
    struct command *command = data;
    char path[4096];
    int64_t shape[] = {(int64_t)rows, (int64_t)columns};
    if (command->untraced)
        return;
    snprintf(path, sizeof path, "%s/%s.bin", command->trace, stage);
    FILE *file = fopen(path, "wb");
    int whole = file && fwrite(shape, sizeof shape, 1, file) == 1 &&
                fwrite(values, sizeof *values, rows * columns, file) == rows * columns;
    if ((file && fclose(file)) || !whole) {
        say("error: --trace: %s: cannot be written (%s)", path, strerror(errno));
        command->untraced = 1;
    }
}

/* A mapped page is gone: the system says so by a signal, whatever the program was at. */
static void explain_lost_page(int number)
{
    static const char reason[] = "cress: error: the model's file was cut, or its disk failed, while it "
                                 "was in use: export or copy it again under another name\n";
    (void)number;
    ssize_t written = write(STDERR_FILENO, reason, sizeof reason - 1);
    _exit(written < 0 ? 2 : 1);
}

/* The whole number after the last colon of a path, which is cut off; 0 where there is none. */
static int cut_number(char *path, size_t *number)
{
    char *colon = strrchr(path, ':'), *end;
    if (!colon || colon[1] < '0' || colon[1] > '9')
        return 0;
    unsigned long long value = strtoull(colon + 1, &end, 10);
    if (*end)
        return 0;
    *number = value < SIZE_MAX / 2 ? (size_t)value : SIZE_MAX / 2; /* more than any file has */
    *colon = 0;
    return 1;
}

/* "file.wav:first:count" -> its parts; any other name is that of a whole file. */
static int divide(const char *input, char *path, size_t size, size_t *first, size_t *count)
{
    if (strlen(input) >= size)
        return -1;
    strcpy(path, input);
    if (cut_number(path, count) && cut_number(path, first))
        return 0;
    strcpy(path, input);
    *first = 0;
    *count = (size_t)-1;
    return 0;
}

static int fail(struct command *command, const char *input, const char *reason)
{
    say("error: %s: %s", input, reason);
    command->failed++;
    return -1;
}

/* Samples of a recording; 0 where they can be had. */
static int read_samples(const struct command *command, const char *path, float **samples,
                        size_t *count, int *rate, char *message, size_t size)
{
    *rate = command->raw;
    if (command->raw)
        return cress_read_raw(path, samples, count, message, size);
    return cress_read_wav(path, samples, count, rate, message, size);
}

static int translate_samples(struct command *command, const char *input, const float *samples,
                             size_t count, int rate)
{
    cress_translator *translator = command->translator;
    int more = 0;
    if (cress_begin(translator, rate) || cress_feed(translator, samples, count) ||
        cress_finish(translator))
        return fail(command, input, cress_error(translator));
    if (cress_cut_by_loudness(translator))
        say("%s: the model's segmenter hears no speech in it; cut by its loudness "
            "instead (--segmenter learnt leaves it out)", input);
    for (int number = 0; !ferror(stdout) && (more = cress_next(translator)) == 1; number++)
        write_segment(stdout, command->format, command->model, translator, input, number,
                      command->word_times);
    if (more < 0)
        return fail(command, input, cress_error(translator));
    if (!cress_segments(translator)) {
        say("%s: nothing is heard above its noise; --no-segmentation translates "
            "it all the same, a --threshold-db below %g hears what is less loud",
            input, command->options.threshold_db);
        command->silent++;
    }
    if (command->format < FORMAT_SRT)
        return 0;
    const char *subtitles =
        cress_subtitles(translator, command->format == FORMAT_SRT ? "srt" : "vtt");
    if (!subtitles)
        return fail(command, input, cress_error(translator));
    fputs(subtitles, stdout);
    return 0;
}

static void translate_input(struct command *command, const char *input)
{
    char message[512] = "", path[4096];
    size_t first, wanted, count;
    float *samples;
    int rate;
    command->recordings++;
    if (divide(input, path, sizeof path, &first, &wanted)) {
        fail(command, input, "the path is too long");
        return;
    }
    if (read_samples(command, path, &samples, &count, &rate, message, sizeof message)) {
        say("error: %s", message);
        command->failed++;
        return;
    }
    if (*message)
        say("%s", message);
    if (wanted != (size_t)-1 && (first >= count || wanted > count - first)) {
        snprintf(message, sizeof message, "%s after the recording's end; it has %zu samples",
                 first >= count ? "begins" : "ends", count);
        fail(command, input, message);
    } else {
        wanted = wanted > count - first ? count - first : wanted;
        translate_samples(command, strcmp(input, "-") ? input : "standard input", samples + first,
                          wanted, rate);
    }
    cress_free_samples(samples);
}

static int translate_list(struct command *command)
{
    char line[4096];
    const char *problem = NULL;
    int before = command->recordings;
    FILE *file = fopen(command->list, "r");
    for (int number = 0; file && !problem && !ferror(stdout) && fgets(line, sizeof line, file);) {
        char *input = !number++ && !strncmp(line, BYTE_ORDER_MARK, 3) ? line + 3 : line;
        if (!strchr(input, '\n') && !feof(file))
            problem = "a line of it is longer than 4,000 bytes, or holds a zero; expected the path of a "
                      "recording a line";
        input[strcspn(input, "\r\n")] = 0;
        if (*input && !problem)
            translate_input(command, input);
    }
    if (!file || ferror(file))
        problem = strerror(errno);
    else if (!problem && before == command->recordings)
        problem = "names no recording; expected one a line";
    if (file)
        fclose(file);
    if (!problem)
        return 0;
    say("error: %s: %s", command->list, problem);
    return -1;
}

/* Ends the command, whose option has another value than is expected. */
static _Noreturn void refuse(const char *option, const char *found, const char *expected)
{
    say("error: %s: found %s, expected %s", option, found, expected);
    exit(2);
}

/* The whole number after an option; exits where it is none. */
static int number(const char *option, const char *text)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || *end || end == text || value < 1 || value > 1000000)
        refuse(option, text, "a number from 1 to 1,000,000");
    return (int)value;
}

static double real(const char *option, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text)
        refuse(option, text, "a number");
    return value;
}

/* Options of the search and of cutting, and their names in cress.h. */
static const struct {
    const char *name, *field;
    enum { WHOLE, WHOLE_OR_0, REAL, FLOAT, NAME } kind;
    size_t offset;
} search_options[] = {
#define FIELD(option, field, kind) {option, #field, kind, offsetof(struct cress_options, field)}
    FIELD("--beam", beam, WHOLE),
    FIELD("--max-len-b", max_length, WHOLE),
    FIELD("--nbest", best, WHOLE),
    FIELD("--threads", threads, WHOLE),
    FIELD("--no-repeat-ngram-size", no_repeat, WHOLE_OR_0),
    FIELD("--lenpen", length_penalty, FLOAT),
    FIELD("--max-segment-seconds", max_seconds, REAL),
    FIELD("--min-segment-seconds", min_seconds, REAL),
    FIELD("--pause-seconds", pause_seconds, REAL),
    FIELD("--threshold-db", threshold_db, REAL),
    FIELD("--isa", isa, NAME),
    FIELD("--tgt-lang", language, NAME),
    FIELD("--segmenter", segmenter, NAME),
#undef FIELD
};
enum { SEARCH_OPTIONS = sizeof search_options / sizeof *search_options };

/* Whether there is such an option. */
static int set_search_option(struct cress_options *options, const char *name, const char *value)
{
    for (int i = 0; i < SEARCH_OPTIONS; i++) {
        void *field = (char *)options + search_options[i].offset;
        if (strcmp(name, search_options[i].name))
            continue;
        if (search_options[i].kind == NAME)
            *(const char **)field = value;
        else if (search_options[i].kind == REAL)
            *(double *)field = real(name, value);
        else if (search_options[i].kind == FLOAT)
            *(float *)field = (float)real(name, value);
        else
            *(int *)field = search_options[i].kind == WHOLE_OR_0 && !strcmp(value, "0")
                                ? 0 : number(name, value);
        return 1;
    }
    return 0;
}

/* The library's message of an option, which begins with the field: the command's name instead. */
static void complain_of_option(const char *message)
{
    size_t length = strcspn(message, ": ");
    for (int i = 0; i < SEARCH_OPTIONS; i++)
        if (strlen(search_options[i].field) == length &&
            !strncmp(message, search_options[i].field, length)) {
            say("error: %s%s", search_options[i].name, message + length);
            return;
        }
    say("error: %s", message);
}

static void set_format(struct command *command, const char *name)
{
    static const char *const names[] = {"text", "jsonl", "srt", "vtt"};
    for (int format = FORMAT_TEXT; format <= FORMAT_VTT; format++)
        if (!strcmp(name, names[format])) {
            command->format = (enum format)format;
            return;
        }
    refuse("--output-format", name, "text, jsonl, srt or vtt");
}

/* Whether there is such an option. */
static int set_option(struct command *command, const char *name, const char *value)
{
    if (!strcmp(name, "--list"))
        command->list = value;
    else if (!strcmp(name, "--trace"))
        command->trace = value;
    else if (!strcmp(name, "--raw"))
        command->raw = number(name, value);
    else if (!strcmp(name, "--output-format"))
        set_format(command, value);
    else
        return set_search_option(&command->options, name, value);
    return 1;
}

/* "--name value" and "--name=value"; ``next``: NULL at the end.  How many arguments it takes. */
static int read_option(struct command *command, char *argument, char *next)
{
    struct command scratch = {0};
    char *equals = strchr(argument, '=');
    if (equals)
        *equals = 0;
    char *value = equals ? equals + 1 : next;
    if (value && set_option(command, argument, value))
        return equals ? 1 : 2;
    if (!value && set_option(&scratch, argument, strcmp(argument, "--output-format") ? "1" : "text"))
        say("error: %s: its value is missing; see cress --help", argument);
    else
        say("error: %s: no such option; see cress --help", argument);
    exit(2);
}

static int translate(struct command *command, char **inputs, int count)
{
    char message[512], standard_input[] = "-", *only[] = {standard_input};
    if (cress_model_load(command->model_path, &command->model, message, sizeof message)) {
        say("error: %s", message);
        return 2;
    }
    int status = cress_translator_create(command->model, &command->options, &command->translator,
                                         message, sizeof message);
    if (!count && !command->list)
        inputs = only, count = 1;
    if (status)
        complain_of_option(message);
    if (!status && command->trace)
        cress_set_trace(command->translator, write_stage, command);
    for (int i = 0; i < count && !status && !ferror(stdout); i++)
        translate_input(command, inputs[i]);
    if (!status && command->list)
        status = translate_list(command);
    cress_translator_free(command->translator);
    cress_model_free(command->model);
    if (fflush(stdout) || ferror(stdout)) {
        say("error: the output cannot be written");
        return 1;
    }
    if (status || (command->failed && command->failed == command->recordings))
        return 2;
    return command->failed || command->untraced || (command->silent && command->silent == command->recordings);
}

static int print_version(void)
{
    int isa = ISA_COUNT - 1;
    while (!cress_supported(isa))
        isa--;
    printf("cress %s, %s\n", CRESS_VERSION, cress_isa_name(isa));
    return 0;
}

/* What is asked for before a translation; -1: a translation. */
static int read_command(int count, char **arguments)
{
    for (int at = 1; at < count; at++)
        if (!strcmp(arguments[at], "--help") || !strcmp(arguments[at], "-h"))
            return fputs(usage, stdout) < 0 || fflush(stdout);
    if (count > 1 && !strcmp(arguments[1], "translate"))
        return -1;
    if (count == 2 && !strcmp(arguments[1], "--version"))
        return print_version();
    if (count > 1)
        say("error: %s: no such command; expected translate, see cress --help",
                arguments[1]);
    else
        fputs(usage, stderr);
    return 2;
}

int main(int count, char **arguments)
{
    struct command command = {0};
    int positional = 0, status = read_command(count, arguments);
    if (status >= 0)
        return status;
    cress_default_options(&command.options);
    for (int at = 2; at < count;) {
        if (arguments[at][0] != '-' || !arguments[at][1])
            arguments[positional++] = arguments[at++];
        else if (!strcmp(arguments[at], "--no-segmentation"))
            command.options.whole = 1, at++;
        else if (!strcmp(arguments[at], "--word-times"))
            command.word_times = 1, at++;
        else
            at += read_option(&command, arguments[at], at + 1 < count ? arguments[at + 1] : NULL);
    }
    const char *problem = NULL;
    if (!positional)
        problem = "no model is named; see cress --help";
    else if (command.format >= FORMAT_SRT && (positional > 2 || command.list))
        problem = "--output-format srt and vtt are of one recording: call it once for each";
    else if (positional == 1 && !command.list && isatty(STDIN_FILENO))
        problem = "no recording is named, and standard input is a terminal; see cress --help";
    if (problem) {
        say("error: %s", problem);
        return 2;
    }
    command.options.word_times = command.word_times || command.format >= FORMAT_SRT;
    command.model_path = arguments[0];
    signal(SIGBUS, explain_lost_page);
    return translate(&command, arguments + 1, positional - 1);
}
