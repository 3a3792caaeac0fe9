#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "letters.h"

enum { DEEPEST = 64, MOST_VALUES = 1 << 20 }; /* each takes hundreds of bytes */

struct parser {
    struct arena *arena;
    const char *at, *end, *where;
    int values;
};

static _Noreturn void broken(struct parser *parser, const char *what)
{
    fail(parser->arena, "%s: is no JSON that can be read (%s)", parser->where, what);
}

static void skip_spaces(struct parser *parser)
{
    while (parser->at < parser->end && strchr(" \t\r\n", *parser->at) && *parser->at)
        parser->at++;
}

static int accept(struct parser *parser, char character)
{
    skip_spaces(parser);
    if (parser->at == parser->end || *parser->at != character)
        return 0;
    parser->at++;
    return 1;
}

static unsigned hexadecimal(struct parser *parser)
{
    unsigned value = 0;
    if (parser->end - parser->at < 4)
        broken(parser, "it ends in a string");
    for (int i = 0; i < 4; i++) {
        char c = *parser->at++;
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10)
                                                : 16;
        if (digit == 16)
            broken(parser, "a character's number");
        value = value * 16 + digit;
    }
    return value;
}

static char *put_escaped(struct parser *parser, char *to)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    if (parser->at == parser->end)
        broken(parser, "it ends in a string");
    char c = *parser->at++;
    if (c == 'u') {
        unsigned code = hexadecimal(parser);
        if (code >= 0xd800 && code < 0xdc00 && parser->end - parser->at >= 6 &&
            parser->at[0] == '\\' && parser->at[1] == 'u') {
            parser->at += 2;
            unsigned low = hexadecimal(parser);
            if (low < 0xdc00 || low > 0xdfff)
                broken(parser, "half a character");
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        return put_letter(to, (int32_t)code);
    }
    const char *found = c ? strchr(from, c) : NULL;
    if (!found)
        broken(parser, "an unknown escape");
    *to++ = into[found - from];
    return to;
}

/* After the quotation mark. */
static const char *parse_string(struct parser *parser, size_t *length)
{
    const char *end = parser->at;
    while (end < parser->end && *end != '"')
        end += *end == '\\' ? 2 : 1;
    if (end >= parser->end)
        broken(parser, "a string does not end");
    /* An escape is longer than what it stands for. */
    char *text = take(parser->arena, (size_t)(end - parser->at) + 1, 1), *to = text;
    while (parser->at < end) {
        char c = *parser->at++;
        if (c == '\\')
            to = put_escaped(parser, to);
        else
            *to++ = c;
    }
    parser->at++;
    *to = 0;
    *length = (size_t)(to - text);
    return text;
}

static void parse_number(struct parser *parser, struct json *value)
{
    char digits[64];
    size_t count = 0;
    while (parser->at < parser->end && count < sizeof digits - 1 && *parser->at &&
           strchr("+-.0123456789eE", *parser->at))
        digits[count++] = *parser->at++;
    digits[count] = 0;
    char *rest;
    value->kind = JSON_NUMBER;
    value->number = strtod(digits, &rest);
    if (!count || *rest)
        broken(parser, "an unknown value");
}

static void parse_word(struct parser *parser, struct json *value)
{
    static const struct {
        const char *word;
        enum json_kind kind;
    } words[] = {{"null", JSON_NULL}, {"true", JSON_TRUE}, {"false", JSON_FALSE}};
    for (size_t i = 0; i < 3; i++) {
        size_t length = strlen(words[i].word);
        if ((size_t)(parser->end - parser->at) >= length &&
            !memcmp(parser->at, words[i].word, length)) {
            parser->at += length;
            value->kind = words[i].kind;
            return;
        }
    }
    parse_number(parser, value);
}

static struct json *parse_value(struct parser *parser, int depth)
{
    struct json *value = take_zeros(parser->arena, 1, sizeof *value);
    if (depth > DEEPEST)
        broken(parser, "nested too deeply");
    if (++parser->values > MOST_VALUES)
        broken(parser, "too many values");
    skip_spaces(parser);
    if (parser->at == parser->end)
        broken(parser, "it ends too soon");
    char first = *parser->at;
    if (first == '"') {
        parser->at++;
        value->kind = JSON_STRING;
        value->text = parse_string(parser, &value->length);
        return value;
    }
    if (first != '[' && first != '{') {
        parse_word(parser, value);
        return value;
    }
    char close = first == '[' ? ']' : '}';
    value->kind = first == '[' ? JSON_LIST : JSON_OBJECT;
    parser->at++;
    if (accept(parser, close))
        return value;
    struct json **next = &value->items;
    do {
        const char *key = NULL;
        size_t length;
        if (first == '{') {
            if (!accept(parser, '"'))
                broken(parser, "a key is missing");
            key = parse_string(parser, &length);
            if (!accept(parser, ':'))
                broken(parser, "a colon is missing");
        }
        *next = parse_value(parser, depth + 1);
        (*next)->key = key;
        next = &(*next)->next;
        value->length++;
    } while (accept(parser, ','));
    if (!accept(parser, close))
        broken(parser, "a bracket is missing");
    return value;
}

struct json *json_parse(struct arena *arena, const char *text, size_t length, const char *where)
{
    struct parser parser = {arena, text, text + length, where, 0};
    struct json *value = parse_value(&parser, 0);
    skip_spaces(&parser);
    if (parser.at != parser.end)
        broken(&parser, "something follows it");
    return value;
}

const struct json *json_find(const struct json *object, const char *key)
{
    if (!object || object->kind != JSON_OBJECT)
        return NULL;
    for (const struct json *item = object->items; item; item = item->next)
        if (!strcmp(item->key, key))
            return item;
    return NULL;
}

const struct json *json_get(struct arena *arena, const struct json *object, const char *key,
                            enum json_kind kind)
{
    static const char *const kinds[] = {"null",     "false",  "true",     "a number",
                                        "a string", "a list", "an object"};
    const struct json *found = json_find(object, key);
    if (!found || found->kind != kind)
        fail(arena, "the file's plan lacks %s, %s", key, kinds[kind]);
    return found;
}

int64_t json_integer(struct arena *arena, const struct json *object, const char *key, int64_t low,
                     int64_t high)
{
    double number = json_get(arena, object, key, JSON_NUMBER)->number;
    if (!(number >= (double)low && number <= (double)high) || number != floor(number))
        fail(arena, "the file's plan has %s: %g, expected %lld to %lld", key, number,
             (long long)low, (long long)high);
    return (int64_t)number;
}

double json_real(struct arena *arena, const struct json *object, const char *key)
{
    double number = json_get(arena, object, key, JSON_NUMBER)->number;
    if (!isfinite(number))
        fail(arena, "the file's plan has %s: %g, expected a finite number", key, number);
    return number;
}

const char *json_string(struct arena *arena, const struct json *object, const char *key)
{
    return json_get(arena, object, key, JSON_STRING)->text;
}

int json_truth(struct arena *arena, const struct json *object, const char *key)
{
    const struct json *found = json_find(object, key);
    if (!found || (found->kind != JSON_TRUE && found->kind != JSON_FALSE))
        fail(arena, "the file's plan lacks %s, true or false", key);
    return found->kind == JSON_TRUE;
}

const struct json *json_object_or_null(struct arena *arena, const struct json *object,
                                       const char *key)
{
    const struct json *found = json_find(object, key);
    if (!found || (found->kind != JSON_NULL && found->kind != JSON_OBJECT))
        fail(arena, "the file's plan lacks %s, an object or null", key);
    return found->kind == JSON_NULL ? NULL : found;
}
