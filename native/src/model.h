/* A model as its file's plan describes it: which tensors make which step. */
#ifndef CRESS_MODEL_H
#define CRESS_MODEL_H

#include "file.h"

/* (x - mean) / sqrt(variance + eps) * weight + bias, over ``width`` channels (0: there is no norm). */
struct norm {
    int64_t width;
    const float *weight, *bias; /* or NULL */
    float eps;
    int is_rms; /* the mean is taken for 0 */
};

/* What a method does to the input of a packed product: see docs/native.md. */
enum input_step { INPUT_PLAIN, INPUT_STEPS, INPUT_SIGNS, INPUT_ROTATION, INPUT_ROTATED_GRID };

enum linear_kind { LINEAR_PACKED, LINEAR_INT8, LINEAR_DENSE };

struct linear {
    const char *name;
    enum linear_kind kind;
    int64_t in, out;
    const float *bias; /* or NULL */
    /* packed */
    const uint8_t *tiles;
    const float *g, *h; /* or NULL; h of all planes */
    int planes;
    int num_parts;    /* of a rounded input: 1 is 8 bits, 2 the hi/lo split of 16 */
    struct norm norm; /* before the product */
    enum input_step input;
    float low, high, step; /* of the input's values, in steps */
    int output_norm;       /* over the outputs, before the bias */
    /* int8, dense */
    const struct tensor *weight;
    const float *scale;
};

struct convolution {
    int64_t out, channels, kernel, groups, stride, padding; /* out of all, channels of a group */
    const struct tensor *weight; /* (out, kernel, channels), or NULL where ``normalised`` is set */
    const float *normalised;     /* a weight of which direction and length stand apart, multiplied */
    const float *scale, *bias;   /* scale: ones where the file has none; bias may be NULL */
    struct norm norm;            /* after it, over time or channels; width 0: none */
    int norm_over_time;
};

enum block_kind { BLOCK_SELF, BLOCK_SOURCE, BLOCK_FEED_FORWARD };

struct block_plan {
    enum block_kind kind;
    struct norm norm;
    int heads;
    struct linear q, k, v, output;   /* attention */
    struct linear first, second;     /* feed-forward */
};

enum activation { RELU, GELU };

struct layer {
    int pre_norm;
    enum activation activation;
    int count;
    struct block_plan *blocks;
};

enum positions { POSITIONS_NONE, POSITIONS_SINUSOIDAL, POSITIONS_LEARNED };

/* An encoder's or decoder's stack of layers. */
struct stack {
    int64_t width;
    float scale;
    enum positions positions;
    int64_t first_position;
    const struct tensor *places; /* learned: (positions, width) */
    struct norm embedding_norm, norm;
    int count;
    struct layer *layers;
};

/* A target language of several, and the token that translations begin with. */
struct language {
    const char *code;
    int32_t tag;
};

enum { MOST_CONVOLUTIONS = 64 }; /* of speech */

struct cress_model {
    struct arena arena;
    struct file file;
    int normalize;
    int64_t pad, eos, unk, bos, vocabulary;
    int languages; /* 0: of one, whose translations begin with eos */
    struct language *language;
    /* speech */
    int convolutions, subsamplings;
    struct convolution *convolution, *subsampling, positions;
    struct norm features_norm;
    struct linear projection; /* in 0: none */
    int norm_first;
    struct stack speech, encoder, decoder;
    /* decoder */
    const struct tensor *embedding, *embedding_scale; /* scale: NULL where it is floating */
    struct linear output;
    int64_t most_positions;
    const char *tokens;
    const int32_t *token_offsets; /* vocabulary + 1 */
    struct hearing *hearing; /* the segmenter that it carries, or NULL */
};

/* Whether a token is shown: it is neither begin nor end of a sentence, nor the tag of a language. */
int is_shown(const struct cress_model *model, int32_t token);

/* Fills in a model whose arena is empty and whose file is open. */
void model_read(struct cress_model *model);

#endif
