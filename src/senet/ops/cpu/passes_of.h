/* The passes over the feature maps for one storage type. Included once for float and once for bf16, with T, OF(name), LOAD
 * and STORE defined. `struct passes` describes them. */

/* --- moments ------------------------------------------------------------------------------------------------ */

/* `vectors` * LANES columns from `x` on, or the first `part` lanes of one vector. Panels of rows stay in the cache for
 * the second look, which makes the sum of squares exact to rounding; then they join what came before (Chan et al.). */
INLINE void OF(moments_columns)(const T *x, long rows, long width, long before, const int vectors, long part,
                                const float *pivot, float *mean, float *m2)
{
    const long panel = 32;
    vf p[8], sum[8], square[8];
    for (int v = 0; v < vectors; v++)
        p[v] = part ? load_part_float(pivot, part) : load_float(pivot + v * LANES);
    for (long start = 0; start < rows; start += panel) {
        long many = rows - start < panel ? rows - start : panel;
        const T *from = x + start * width;
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            sum[v] = square[v] = splat(0);
        for (long i = 0; i < many; i++)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) {
                const T *at = from + i * width + v * LANES;
                sum[v] += (part ? LOAD_PART(at, part) : LOAD(at)) - p[v];
            }
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            sum[v] *= 1.0f / (float)many;
        for (long i = 0; i < many; i++)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) {
                const T *at = from + i * width + v * LANES;
                vf off = (part ? LOAD_PART(at, part) : LOAD(at)) - p[v] - sum[v];
                square[v] += off * off;
            }
        float share = (float)many / (float)(before + many), both = share * (float)before;
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            float *m = mean + v * LANES, *s = m2 + v * LANES;
            vf old = part ? load_part_float(m, part) : load_float(m);
            vf so_far = part ? load_part_float(s, part) : load_float(s);
            vf step = sum[v] - old;
            vf now = old + step * share, spread = so_far + square[v] + step * step * both;
            if (part) {
                store_part_float(m, now, part);
                store_part_float(s, spread, part);
            } else {
                store_float(m, now);
                store_float(s, spread);
            }
        }
        before += many;
    }
}

INLINE void OF(moments_rows)(const T *x, long rows, long width, long columns, long before, const float *pivot,
                             float *mean, float *m2)
{
    long j = 0;
    for (; j + 8 * LANES <= columns; j += 8 * LANES)
        OF(moments_columns)(x + j, rows, width, before, 8, 0, pivot + j, mean + j, m2 + j);
    for (; j + LANES <= columns; j += LANES)
        OF(moments_columns)(x + j, rows, width, before, 1, 0, pivot + j, mean + j, m2 + j);
    if (j < columns)
        OF(moments_columns)(x + j, rows, width, before, 1, columns - j, pivot + j, mean + j, m2 + j);
}

static void OF(moments_)(struct piece at, long numbers, long width, const float *pivot, float *mean, float *m2)
{
    const T *x = at.x;
    long rows = numbers / width, rest = numbers % width, panel = 32;
    memset(mean, 0, (size_t)width * sizeof *mean);
    memset(m2, 0, (size_t)width * sizeof *m2);
    /* Panel by panel over all columns: memory is read in its own order. */
    for (long done = 0; done < rows; done += panel) {
        long many = rows - done < panel ? rows - done : panel;
        OF(moments_rows)(x + done * width, many, width, width, done, pivot, mean, m2);
    }
    if (rest)
        OF(moments_rows)(x + rows * width, 1, width, rest, rows, pivot, mean, m2);
}

static void OF(moments_plane_)(struct piece at, long numbers, long width, const float *pivot, float *mean, float *m2)
{
    const T *x = at.x;
    const long panel = 4096;
    vf p = splat(*pivot);
    float middle = 0, spread = 0;
    (void)width;
    for (long start = 0; start < numbers; start += panel) {
        long many = numbers - start < panel ? numbers - start : panel, j = 0;
        const T *from = x + start;
        vf sum[4] = {splat(0), splat(0), splat(0), splat(0)}, square[4] = {splat(0), splat(0), splat(0), splat(0)};
        vf lanes = splat(0);
        for (; j + 4 * LANES <= many; j += 4 * LANES)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++)
                sum[v] += LOAD(from + j + v * LANES) - p;
        for (; j + LANES <= many; j += LANES)
            sum[0] += LOAD(from + j) - p;
        vf last = j < many ? LOAD_PART(from + j, many - j) - p : splat(0);
        for (long i = j; i < many; i++)
            lanes[i - j] = 1;
        sum[1] += last * lanes;
        vf centre = splat(sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)many);
        for (j = 0; j + 4 * LANES <= many; j += 4 * LANES)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) {
                vf off = LOAD(from + j + v * LANES) - p - centre;
                square[v] += off * off;
            }
        for (; j + LANES <= many; j += LANES) {
            vf off = LOAD(from + j) - p - centre;
            square[0] += off * off;
        }
        vf off = (last - centre) * lanes;
        square[1] += off * off;
        float share = (float)many / (float)(start + many), step = centre[0] - middle;
        middle += step * share;
        spread += sum_lanes((square[0] + square[1]) + (square[2] + square[3])) + step * step * share * (float)start;
    }
    *mean = middle;
    *m2 = spread;
}

/* --- one number after the other ------------------------------------------------------------------------------- */

INLINE void OF(apply_vector)(struct piece at, struct coefficients of, const int add, long row, long j,
                             const int plane, long part)
{
    vf v = (READ(at.x) - AT(of.pivot)) * AT(of.scale) + AT(of.offset);
    if (add)
        v += READ(at.shortcut);
    WRITE(at.out, where_positive(v, v));
}

static void OF(apply_)(struct piece at, long numbers, long width, struct coefficients of)
{
    if (at.shortcut)
        EACH_ROW(OF(apply_vector)(at, of, 1, row, j, 0, part));
    else
        EACH_ROW(OF(apply_vector)(at, of, 0, row, j, 0, part));
}

static void OF(apply_plane_)(struct piece at, long numbers, long width, struct coefficients of)
{
    const long row = 0;
    (void)width;
    if (at.shortcut)
        EACH_VECTOR(numbers, OF(apply_vector)(at, of, 1, row, j, 1, part));
    else
        EACH_VECTOR(numbers, OF(apply_vector)(at, of, 0, row, j, 1, part));
}

INLINE void OF(grad_vector)(struct piece at, struct coefficients of, const struct coefficients *sign, const int slope,
                            long row, long j, const int plane, long part)
{
    vf g = READ(at.dy), t = splat(0);
    if (slope || sign)
        t = READ(at.x) - AT(of.pivot);
    if (sign)
        g = where_positive(t * AT(sign->scale) + AT(sign->offset), g);
    vf dx = g * AT(of.scale) + AT(of.offset);
    if (slope)
        dx -= t * AT(of.slope);
    WRITE(at.out, dx);
}

static void OF(grad_)(struct piece at, long numbers, long width, struct coefficients of)
{
    if (of.slope)
        EACH_ROW(OF(grad_vector)(at, of, 0, 1, row, j, 0, part));
    else
        EACH_ROW(OF(grad_vector)(at, of, 0, 0, row, j, 0, part));
}

static void OF(grad_plane_)(struct piece at, long numbers, long width, struct coefficients of)
{
    const long row = 0;
    (void)width;
    if (of.slope)
        EACH_VECTOR(numbers, OF(grad_vector)(at, of, 0, 1, row, j, 1, part));
    else
        EACH_VECTOR(numbers, OF(grad_vector)(at, of, 0, 0, row, j, 1, part));
}

static void OF(masked_grad_)(struct piece at, long numbers, long width, struct coefficients of,
                             struct coefficients sign)
{
    if (of.slope)
        EACH_ROW(OF(grad_vector)(at, of, &sign, 1, row, j, 0, part));
    else
        EACH_ROW(OF(grad_vector)(at, of, &sign, 0, row, j, 0, part));
}

static void OF(masked_grad_plane_)(struct piece at, long numbers, long width, struct coefficients of,
                                   struct coefficients sign)
{
    const long row = 0;
    (void)width;
    if (of.slope)
        EACH_VECTOR(numbers, OF(grad_vector)(at, of, &sign, 1, row, j, 1, part));
    else
        EACH_VECTOR(numbers, OF(grad_vector)(at, of, &sign, 0, row, j, 1, part));
}

/* --- sums ----------------------------------------------------------------------------------------------------- */

/* The gradient behind the activation, and t, of one vector. `added`: by the sign of y, and it is also written. */
INLINE vf OF(masked)(struct piece at, struct coefficients of, const int added, long row, long j, const int plane,
                     long part, vf *t)
{
    vf g = READ(at.dy);
    *t = READ(at.x) - AT(of.pivot);
    if (!added)
        return where_positive(*t * AT(of.scale) + AT(of.offset), g);
    g = where_positive(READ(at.y), g);
    WRITE(at.out, g);
    return g;
}

INLINE void OF(sums_columns)(struct piece at, long row, long rows, long width, struct coefficients of,
                             const int added, long j, const int vectors, long part, float *g, float *gt)
{
    vf sum[4], product[4];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
        sum[v] = product[v] = splat(0);
    for (long i = 0; i < rows; i++, row += width)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            vf t, masked = OF(masked)(at, of, added, row, j + v * LANES, 0, part, &t);
            sum[v] += masked;
            product[v] += masked * t;
        }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        float *to = g + j + v * LANES, *to_product = gt + j + v * LANES;
        if (part) {
            store_part_float(to, load_part_float(to, part) + sum[v], part);
            store_part_float(to_product, load_part_float(to_product, part) + product[v], part);
        } else {
            store_float(to, load_float(to) + sum[v]);
            store_float(to_product, load_float(to_product) + product[v]);
        }
    }
}

INLINE void OF(sums_rows)(struct piece at, long numbers, long width, struct coefficients of, const int added,
                          float *g, float *gt)
{
    const long panel = 16;
    for (long row = 0; row < numbers;) {
        long rows = (numbers - row) / width, columns = width, j = 0;
        if (rows == 0) {
            rows = 1;
            columns = numbers - row;
        }
        if (rows > panel)
            rows = panel;
        for (; j + 4 * LANES <= columns; j += 4 * LANES)
            OF(sums_columns)(at, row, rows, width, of, added, j, 4, 0, g, gt);
        for (; j + LANES <= columns; j += LANES)
            OF(sums_columns)(at, row, rows, width, of, added, j, 1, 0, g, gt);
        if (j < columns)
            OF(sums_columns)(at, row, rows, width, of, added, j, 1, columns - j, g, gt);
        row += rows * width;
    }
}

static void OF(sums_)(struct piece at, long numbers, long width, struct coefficients of, float *g, float *gt)
{
    memset(g, 0, (size_t)width * sizeof *g);
    memset(gt, 0, (size_t)width * sizeof *gt);
    if (at.y)
        OF(sums_rows)(at, numbers, width, of, 1, g, gt);
    else
        OF(sums_rows)(at, numbers, width, of, 0, g, gt);
}

INLINE void OF(sums_run)(struct piece at, long numbers, struct coefficients of, const int added, float *g, float *gt)
{
    vf sum[2] = {splat(0), splat(0)}, product[2] = {splat(0), splat(0)}, t, masked;
    const long row = 0;
    long j = 0;
    for (; j + 2 * LANES <= numbers; j += 2 * LANES)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            masked = OF(masked)(at, of, added, row, j + v * LANES, 1, 0, &t);
            sum[v] += masked;
            product[v] += masked * t;
        }
    for (; j < numbers; j += LANES) {
        /* Lanes beyond the end have dy = 0 and so don't count. */
        masked = OF(masked)(at, of, added, row, j, 1, numbers - j < LANES ? numbers - j : 0, &t);
        sum[0] += masked;
        product[0] += masked * t;
    }
    *g = sum_lanes(sum[0] + sum[1]);
    *gt = sum_lanes(product[0] + product[1]);
}

static void OF(sums_plane_)(struct piece at, long numbers, long width, struct coefficients of, float *g, float *gt)
{
    (void)width;
    if (at.y)
        OF(sums_run)(at, numbers, of, 1, g, gt);
    else
        OF(sums_run)(at, numbers, of, 0, g, gt);
}

static const struct passes OF(passes_) = {
    OF(moments_), OF(moments_plane_), OF(apply_), OF(apply_plane_), OF(sums_), OF(sums_plane_),
    OF(grad_), OF(grad_plane_), OF(masked_grad_), OF(masked_grad_plane_), sizeof(T),
};
