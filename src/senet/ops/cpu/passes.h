/* The passes over the feature maps of one storage type, as a table of functions.
 *
 * A feature map in channels_last memory is a table of pixels x channels. Each column has its own coefficients, and several
 * pixels count as one row, so that narrow tables fill the vectors. A feature map in contiguous memory is a plane: a run
 * of numbers with equal coefficients, where `width` isn't used.
 *
 * Everywhere t = x - pivot, with a value of the feature map itself as the pivot: exact where the mean is large.
 */

/* Arrays of one value a column (table) or one value (plane). */
struct coefficients {
    const float *pivot, *scale, *offset, *slope;
};

/* Pieces of the feature maps of one step. */
struct piece {
    const void *x, *shortcut, *y, *dy;
    void *out;
};

typedef void moments_pass(struct piece, long numbers, long width, const float *pivot, float *mean, float *m2);
typedef void apply_pass(struct piece, long numbers, long width, struct coefficients);
typedef void sums_pass(struct piece, long numbers, long width, struct coefficients, float *g, float *gt);
typedef void grad_pass(struct piece, long numbers, long width, struct coefficients);
typedef void masked_grad_pass(struct piece, long numbers, long width, struct coefficients, struct coefficients sign);

struct passes {
    /* Mean and sum of squared deviations of t, a column: of `numbers` in rows of `width`, the last perhaps short. */
    moments_pass *moments, *moments_plane;
    /* out = relu(t * scale + offset + shortcut); shortcut may be NULL. */
    apply_pass *apply, *apply_plane;
    /* g = dy where the output is positive; sums of g and of g * t. With y: by its sign, and out = g. Without it there
     * was no shortcut: by the sign of t * scale + offset. */
    sums_pass *sums, *sums_plane;
    /* out = dy * scale + offset - t * slope; slope may be NULL. */
    grad_pass *grad, *grad_plane;
    /* The same, dy masked by the sign of t * scale + offset of the last argument. */
    masked_grad_pass *masked_grad, *masked_grad_plane;
    long size; /* bytes a number */
};
