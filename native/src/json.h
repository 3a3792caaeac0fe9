/* JSON as it stands in a file's header and plan. */
#ifndef CRESS_JSON_H
#define CRESS_JSON_H

#include "arena.h"

enum json_kind { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_LIST, JSON_OBJECT };

/* A value; items of lists and objects are chained by ``next``. */
struct json {
    enum json_kind kind;
    double number;
    const char *text; /* of a string: UTF-8, ends with a zero */
    size_t length;    /* of a string; items of a list or an object */
    const char *key;  /* where it is an entry of an object */
    struct json *items, *next;
};

/* Fails with ``where`` in the message if it is no JSON, or nested too deeply. */
struct json *json_parse(struct arena *arena, const char *text, size_t length, const char *where);

/* An entry of an object, or NULL. */
const struct json *json_find(const struct json *object, const char *key);

/* Entries that must be there, of a kind; integers lie in low .. high. */
const struct json *json_get(struct arena *arena, const struct json *object, const char *key,
                            enum json_kind kind);
int64_t json_integer(struct arena *arena, const struct json *object, const char *key, int64_t low,
                     int64_t high);
double json_real(struct arena *arena, const struct json *object, const char *key);
const char *json_string(struct arena *arena, const struct json *object, const char *key);
int json_truth(struct arena *arena, const struct json *object, const char *key);
/* NULL where the entry is null. */
const struct json *json_object_or_null(struct arena *arena, const struct json *object,
                                       const char *key);

#endif
