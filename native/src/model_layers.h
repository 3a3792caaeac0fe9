/* The layers of a plan with their tensors, every type, shape and width checked; each fails with a
 * message where one does not fit. */
#ifndef CRESS_MODEL_LAYERS_H
#define CRESS_MODEL_LAYERS_H

#include "model.h"

enum { WIDEST = 1 << 16 }; /* channels of a layer */

static inline struct arena *arena_of(struct cress_model *model)
{
    return &model->arena;
}

/* Over ``width`` channels; of no plan, no norm. */
struct norm read_norm(struct cress_model *model, const struct json *plan, int64_t width);

/* The layer of a name, of any width where ``in`` or ``out`` is -1. */
struct linear read_linear(struct cress_model *model, const char *name, int64_t in, int64_t out);

/* One that is given ``width`` channels. */
struct convolution read_convolution(struct cress_model *model, const struct json *plan,
                                    int64_t width);

#endif
