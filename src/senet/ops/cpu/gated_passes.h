/* The passes of norm -> activation -> gate over the maps of one storage type; `passes.h` says how maps are divided. */

/* Arrays of one value a column (table) or one value (plane); gate and of_mean are those of the sample. */
struct gated {
    const float *pivot, *scale, *offset, *level, *slope, *gate, *of_mean;
};

/* What is added up: a(v); or dy a(v), dy a'(v), a'(v), dy a'(v) t, a'(v) t. */
enum { MEAN_SUMS = 1, GRADIENT_SUMS = 5 };

/* The sums of one kind lie `apart` numbers after those of another. */
typedef void gated_sums_pass(struct piece, long numbers, long width, struct gated, float *found, long apart);
typedef void gated_map_pass(struct piece, long numbers, long width, struct gated);

/* For one activation. */
struct gated_passes {
    gated_sums_pass *mean, *mean_plane, *sums, *sums_plane;
    /* out = gate * a(v) */
    gated_map_pass *apply, *apply_plane;
    /* out = (gate * dy + of_mean) * a'(v) * scale - level - t * slope; without `slope` only the first. */
    gated_map_pass *grad, *grad_plane;
};
