/* How translations are written: translation/output.py. */
#ifndef CRESS_OUTPUT_H
#define CRESS_OUTPUT_H

#include <stdio.h>

#include "cress.h"

/* A line on standard error; what its words quote stays in that line. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

enum format { FORMAT_TEXT, FORMAT_JSON_LINES, FORMAT_SRT, FORMAT_VTT };

/* The last segment of a translator, which is ``number`` of the recording ``source``; of JSON lines
 * and text all its hypotheses, of subtitles nothing.  ``words``: JSON lines have their times. */
void write_segment(FILE *stream, enum format format, const cress_model *model,
                   const cress_translator *translator, const char *source, int number,
                   int words);

#endif
