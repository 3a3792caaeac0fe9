/* Percentiles of numbers, as numpy computes them. */
#ifndef CRESS_PERCENTILE_H
#define CRESS_PERCENTILE_H

#include <stdint.h>

/* For qsort. */
int compare_doubles(const void *left, const void *right);

/* Of ``count`` sorted numbers, one at least; between neighbours in proportion. */
double percentile(const double *sorted, int64_t count, double percent);

#endif
