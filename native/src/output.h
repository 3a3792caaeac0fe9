/* How translations are written: translation/output.py. */
#ifndef CRESS_OUTPUT_H
#define CRESS_OUTPUT_H

#include <stdio.h>

#include "cress.h"

enum format { FORMAT_TEXT, FORMAT_JSON_LINES };

/* The last segment of a translator, which is ``number`` of the recording ``source``; of JSON lines
 * all its hypotheses. */
void write_segment(FILE *stream, enum format format, const cress_model *model,
                   const cress_translator *translator, const char *source, int number);

#endif
