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

/* For the files that are included once for each storage type: T, OF, LOAD and STORE are those of the file. */
#define LOAD_PART OF(load_part_)
#define STORE_PART OF(store_part_)

/* The coefficient of column `j`, or that of the whole plane; the numbers of that column in the row that starts at
 * `row`. A `part` that isn't 0 is how many lanes there are. */
#define AT(array) (plane ? splat(*(array)) : part ? load_part_float((array) + j, part) : load_float((array) + j))
#define READ(array) (part ? LOAD_PART((const T *)(array) + row + j, part) : LOAD((const T *)(array) + row + j))
#define WRITE(array, value) \
    (part ? STORE_PART((T *)(array) + row + j, value, part) : STORE((T *)(array) + row + j, value))

/* `call` at each vector of a row of `many` numbers. */
#define EACH_VECTOR(many, call) \
    do { \
        long j = 0, part = 0; \
        for (; j + LANES <= (many); j += LANES) \
            call; \
        part = (many) - j; \
        if (part) \
            call; \
    } while (0)

#define EACH_ROW(call) \
    for (long row = 0; row < numbers; row += width) \
    EACH_VECTOR(numbers - row < width ? numbers - row : width, call)
