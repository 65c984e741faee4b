/* norm -> activation -> gate for one storage type: included once for float, once for bf16, with T, OF(name), LOAD and
 * STORE defined. `act` is an activation, known at compile time. */

INLINE void OF(gated_apply_vector)(struct piece at, struct gated of, const int act, long row, long j, const int plane,
                               long part)
{
    vf slope, a = activated((READ(at.x) - AT(of.pivot)) * AT(of.scale) + AT(of.offset), &slope, act);
    WRITE(at.out, a * AT(of.gate));
}

INLINE void OF(gated_grad_vector)(struct piece at, struct gated of, const int act, const int training, long row, long j,
                                      const int plane, long part)
{
    const vf t = READ(at.x) - AT(of.pivot), scale = AT(of.scale);
    vf slope;
    activated(t * scale + AT(of.offset), &slope, act);
    vf dx = (READ(at.dy) * AT(of.gate) + AT(of.of_mean)) * slope * scale;
    if (training)
        dx -= AT(of.level) + t * AT(of.slope);
    WRITE(at.out, dx);
}

/* The terms of one vector, added to `sums`. `lanes` is 1 where there is a number. */
INLINE void OF(gated_terms)(struct piece at, struct gated of, const int act, const int kinds, long row, long j, const int plane,
                                long part, vf *sums, vf lanes)
{
    const vf t = READ(at.x) - AT(of.pivot);
    vf slope, a = activated(t * AT(of.scale) + AT(of.offset), &slope, act);
    if (kinds == MEAN_SUMS) {
        sums[0] += plane && part ? a * lanes : a;
        return;
    }
    const vf dy = READ(at.dy);
    if (plane && part)
        slope *= lanes;
    const vf both = dy * slope;
    sums[0] += dy * a;
    sums[1] += both;
    sums[2] += slope;
    sums[3] += both * t;
    sums[4] += slope * t;
}

INLINE void OF(gated_columns)(struct piece at, long row, long rows, long width, struct gated of, const int act,
                              const int kinds, long j, const int vectors, long part, float *found, long apart)
{
    vf sums[4][GRADIENT_SUMS];
UNROLLED
    for (int v = 0; v < vectors; v++)
UNROLLED
        for (int k = 0; k < kinds; k++)
            sums[v][k] = splat(0);
    for (long i = 0; i < rows; i++, row += width)
UNROLLED
        for (int v = 0; v < vectors; v++)
            OF(gated_terms)(at, of, act, kinds, row, j + v * LANES, 0, part, sums[v], splat(1));
UNROLLED
    for (int v = 0; v < vectors; v++)
UNROLLED
        for (int k = 0; k < kinds; k++) {
            float *to = found + k * apart + j + v * LANES;
            if (part)
                store_part_float(to, load_part_float(to, part) + sums[v][k], part);
            else
                store_float(to, load_float(to) + sums[v][k]);
        }
}

INLINE void OF(gated_rows)(struct piece at, long numbers, long width, struct gated of, const int act,
                           const int kinds, const int vectors, float *found, long apart)
{
    const long panel = 16;
    for (int k = 0; k < kinds; k++)
        memset(found + k * apart, 0, (size_t)width * sizeof *found);
    for (long row = 0; row < numbers;) {
        long rows = (numbers - row) / width, columns = width, j = 0;
        if (rows == 0) {
            rows = 1;
            columns = numbers - row;
        }
        if (rows > panel)
            rows = panel;
        for (; j + vectors * LANES <= columns; j += vectors * LANES)
            OF(gated_columns)(at, row, rows, width, of, act, kinds, j, vectors, 0, found, apart);
        for (; j + LANES <= columns; j += LANES)
            OF(gated_columns)(at, row, rows, width, of, act, kinds, j, 1, 0, found, apart);
        if (j < columns)
            OF(gated_columns)(at, row, rows, width, of, act, kinds, j, 1, columns - j, found, apart);
        row += rows * width;
    }
}

INLINE void OF(gated_run)(struct piece at, long numbers, struct gated of, const int act, const int kinds, float *found,
                          long apart)
{
    const long row = 0, panel = 4096; /* sums of sums: exact enough for long runs */
    float total[GRADIENT_SUMS] = {0};
    for (long start = 0; start < numbers; start += panel) {
        const long end = numbers - start < panel ? numbers : start + panel;
        vf sums[GRADIENT_SUMS], lanes = splat(0);
        long j = start;
        for (int k = 0; k < kinds; k++)
            sums[k] = splat(0);
        for (; j + LANES <= end; j += LANES)
            OF(gated_terms)(at, of, act, kinds, row, j, 1, 0, sums, lanes);
        if (j < end) {
            for (long i = j; i < end; i++)
                lanes[i - j] = 1;
            OF(gated_terms)(at, of, act, kinds, row, j, 1, end - j, sums, lanes);
        }
        for (int k = 0; k < kinds; k++)
            total[k] += sum_lanes(sums[k]);
    }
    for (int k = 0; k < kinds; k++)
        found[k * apart] = total[k];
}

/* The functions of one activation. */
#define GATED_FUNCTIONS(act)                                                                                            \
    static void OF(gated_mean_##act)(struct piece at, long numbers, long width, struct gated of, float *found, long apart)\
    {                                                                                                                   \
        OF(gated_rows)(at, numbers, width, of, act, MEAN_SUMS, 4, found, apart);                                        \
    }                                                                                                                   \
    static void OF(gated_mean_plane_##act)(struct piece at, long numbers, long width, struct gated of, float *found,    \
                                           long apart)                                                                  \
    {                                                                                                                   \
        (void)width;                                                                                                    \
        OF(gated_run)(at, numbers, of, act, MEAN_SUMS, found, apart);                                                   \
    }                                                                                                                   \
    static void OF(gated_sums_##act)(struct piece at, long numbers, long width, struct gated of, float *found, long apart)\
    {                                                                                                                   \
        OF(gated_rows)(at, numbers, width, of, act, GRADIENT_SUMS, 2, found, apart);                                    \
    }                                                                                                                   \
    static void OF(gated_sums_plane_##act)(struct piece at, long numbers, long width, struct gated of, float *found,    \
                                           long apart)                                                                  \
    {                                                                                                                   \
        (void)width;                                                                                                    \
        OF(gated_run)(at, numbers, of, act, GRADIENT_SUMS, found, apart);                                               \
    }                                                                                                                   \
    static void OF(gated_apply_##act)(struct piece at, long numbers, long width, struct gated of)                       \
    {                                                                                                                   \
        EACH_ROW(OF(gated_apply_vector)(at, of, act, row, j, 0, part));                                                 \
    }                                                                                                                   \
    static void OF(gated_apply_plane_##act)(struct piece at, long numbers, long width, struct gated of)                 \
    {                                                                                                                   \
        const long row = 0;                                                                                             \
        (void)width;                                                                                                    \
        EACH_VECTOR(numbers, OF(gated_apply_vector)(at, of, act, row, j, 1, part));                                     \
    }                                                                                                                   \
    static void OF(gated_grad_##act)(struct piece at, long numbers, long width, struct gated of)                        \
    {                                                                                                                   \
        if (of.slope)                                                                                                   \
            EACH_ROW(OF(gated_grad_vector)(at, of, act, 1, row, j, 0, part));                                           \
        else                                                                                                            \
            EACH_ROW(OF(gated_grad_vector)(at, of, act, 0, row, j, 0, part));                                           \
    }                                                                                                                   \
    static void OF(gated_grad_plane_##act)(struct piece at, long numbers, long width, struct gated of)                  \
    {                                                                                                                   \
        const long row = 0;                                                                                             \
        (void)width;                                                                                                    \
        if (of.slope)                                                                                                   \
            EACH_VECTOR(numbers, OF(gated_grad_vector)(at, of, act, 1, row, j, 1, part));                               \
        else                                                                                                            \
            EACH_VECTOR(numbers, OF(gated_grad_vector)(at, of, act, 0, row, j, 1, part));                               \
    }

GATED_FUNCTIONS(IDENTITY)
GATED_FUNCTIONS(RELU_1)
GATED_FUNCTIONS(RELU6)
GATED_FUNCTIONS(SILU)
GATED_FUNCTIONS(HARD_SWISH)
GATED_FUNCTIONS(GELU)

#define GATED_ROW(act)                                                                                                  \
    [act] = {OF(gated_mean_##act), OF(gated_mean_plane_##act), OF(gated_sums_##act), OF(gated_sums_plane_##act),        \
             OF(gated_apply_##act), OF(gated_apply_plane_##act), OF(gated_grad_##act), OF(gated_grad_plane_##act)}

static const struct gated_passes OF(gated_passes_)[ACTIVATIONS] = {
    GATED_ROW(IDENTITY), GATED_ROW(RELU_1), GATED_ROW(RELU6), GATED_ROW(SILU), GATED_ROW(HARD_SWISH), GATED_ROW(GELU),
};

#undef GATED_FUNCTIONS
#undef GATED_ROW
