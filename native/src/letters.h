/* Text as code points, and what is known of them. */
#ifndef CRESS_LETTERS_H
#define CRESS_LETTERS_H

#include "arena.h"

struct letters {
    int32_t *at;
    int64_t count;
};

/* Of UTF-8; what is none becomes U+FFFD. */
struct letters to_letters(struct arena *arena, const char *text, size_t length);

/* Appends a code point in UTF-8; where it ends. */
char *put_letter(char *to, int32_t letter);

int is_space(int32_t letter);          /* Python's str.isspace */
int is_without_spaces(int32_t letter); /* of a script that puts none between words */
int is_mark(int32_t letter);           /* belongs to the letter before it */
int is_control(int32_t letter);        /* or a code point that no text may hold */
int closes(int32_t letter);            /* belongs to the word before it: closing brackets, marks */
int opens(int32_t letter);             /* belongs to the word after it */
int32_t lower(int32_t letter);         /* of Latin, Greek and Cyrillic letters */

#endif
