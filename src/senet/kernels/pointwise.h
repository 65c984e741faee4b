/* A 1x1 convolution with all that follows it in a residual unit, for inference: see `senet_pointwise` of tail.h.
 *
 * The product is the BLAS library's that PyTorch brings, a tile of rows (pixels) and columns (channels) at a time; what
 * follows is done to a tile while it is still in the cache. */

/* Measured with MKL's product; the shape alone decides. Fewer rows would pack the weight too often, more would leave
 * processors without work. */
enum { TILE_COLUMNS = 256, LEAST_ROWS = 96, MOST_ROWS = 768, ROW_TILES = 16 };

struct pointwise {
    const struct senet_pointwise *step;
    senet_sgemm *sgemm;
    const float *x, *shortcut;
    float *y;
    float *scale, *offset; /* (n, c) */
    long tile_rows, row_tiles;
    float *sums; /* of each part of a sample */
    long parts;
};

/* y = relu(y * scale + offset + shortcut) in a piece of one sample. */
static void finish(const struct pointwise *p, long row, long rows, long column, long columns)
{
    const long c = p->step->c, of = row / p->step->hw * c + column;
    const float *scale = p->scale + of, *offset = p->offset + of, *shortcut = p->shortcut + row * c + column;
    float *y = p->y + row * c + column;
    for (long r = 0; r < rows; r++, y += c, shortcut += c) {
        long j = 0;
        for (; j + LANES <= columns; j += LANES) {
            vf v = load_float(y + j) * load_float(scale + j) + load_float(offset + j) + load_float(shortcut + j);
            store_float(y + j, where_positive(v, v));
        }
        const long part = columns - j;
        if (part) {
            vf v = load_part_float(y + j, part) * load_part_float(scale + j, part);
            v += load_part_float(offset + j, part) + load_part_float(shortcut + j, part);
            store_part_float(y + j, where_positive(v, v), part);
        }
    }
}

static void pointwise_task(const void *context, int64_t i)
{
    const struct pointwise *p = context;
    const long all = p->step->n * p->step->hw, hw = p->step->hw, c = p->step->c;
    const long row = i % p->row_tiles * p->tile_rows, column = i / p->row_tiles * TILE_COLUMNS;
    const long end = row + p->tile_rows < all ? row + p->tile_rows : all;
    const int rows = (int)(end - row), columns = (int)(c - column < TILE_COLUMNS ? c - column : TILE_COLUMNS);
    const int inner = (int)p->step->inner, wide = (int)c;
    const float one = 1, zero = 0;
    if (p->step->weight)
        p->sgemm("T", "N", &columns, &rows, &inner, &one, p->step->weight + column * inner, &inner,
                 p->x + row * inner, &inner, &zero, p->y + row * c + column, &wide);
    for (long from = row; from < end;) {
        const long next = (from / hw + 1) * hw, to = next < end ? next : end;
        finish(p, from, to - from, column, columns);
        from = to;
    }
}

/* Sums over the pixels of one part of a sample. */
static void sums_task(const void *context, int64_t i)
{
    const struct pointwise *p = context;
    const long inner = p->step->inner, hw = p->step->hw, part = i % p->parts;
    const long from = part * hw / p->parts, to = (part + 1) * hw / p->parts;
    const float *x = p->x + (i / p->parts * hw + from) * inner;
    float *sums = p->sums + i * inner;
    for (long j = 0; j < inner; j += LANES) {
        const long some = inner - j < LANES ? inner - j : 0;
        vf sum = splat(0);
        for (long r = 0; r < to - from; r++)
            sum += some ? load_part_float(x + r * inner + j, some) : load_float(x + r * inner + j);
        if (some)
            store_part_float(sums + j, sum, some);
        else
            store_float(sums + j, sum);
    }
}

/* The gate of each sample and channel, and what it makes of the bias. `mean` is room for (n, inner), `units` for
 * (n, hidden). */
static void early_gate(const struct pointwise *p, float *mean, float *units)
{
    const struct senet_pointwise *step = p->step;
    const long n = step->n, c = step->c, inner = step->inner, hidden = step->hidden;
    senet_parallel(sums_task, p, n * p->parts, n * step->hw * inner < 1 << 14 ? 1 : step->threads);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < inner; j++) {
            float sum = 0;
            for (long part = 0; part < p->parts; part++)
                sum += p->sums[(i * p->parts + part) * inner + j];
            mean[i * inner + j] = sum / (float)step->hw;
        }
    multiply(step->threads, (struct product){block_a_bt, mean, step->w1, step->b1, units, NULL, n, inner, hidden, 0, 0},
             hidden);
    for (long i = 0; i < n * hidden; i++)
        units[i] = units[i] < 0 ? 0 : units[i];
    multiply(step->threads, (struct product){block_a_bt, units, step->w2, step->b2, p->scale, NULL, n, hidden, c, 0, 0},
             c);
    gates(p->scale, n * c, (enum gate)step->gate);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < c; j++)
            p->offset[i * c + j] = step->weight ? p->scale[i * c + j] * step->bias[j] : 0;
}

static long tile_rows(long rows)
{
    const long some = divided(divided(rows, ROW_TILES), 16) * 16;
    return some < LEAST_ROWS ? LEAST_ROWS : some > MOST_ROWS ? MOST_ROWS : some;
}

static int pointwise(const struct senet_pointwise *step, senet_sgemm *sgemm, const float *x, const float *shortcut,
                     float *y)
{
    const long n = step->n, c = step->c, inner = step->inner, rows = n * step->hw, parts = divided(step->hw, 128);
    const long floats = n * ((parts + 1) * inner + step->hidden + 2 * c);
    float *all = malloc((size_t)floats * sizeof *all), *room = all;
    if (!all)
        return 1;
    struct pointwise p = {.step = step, .sgemm = sgemm, .x = x, .shortcut = shortcut, .y = y, .parts = parts};
    p.tile_rows = tile_rows(rows);
    p.row_tiles = divided(rows, p.tile_rows);
    p.scale = take(&room, n * c);
    p.offset = take(&room, n * c);
    p.sums = take(&room, n * parts * inner);
    float *mean = take(&room, n * inner);
    early_gate(&p, mean, take(&room, n * step->hidden));
    senet_parallel(pointwise_task, &p, p.row_tiles * divided(c, TILE_COLUMNS), step->threads);
    free(all);
    return 0;
}
