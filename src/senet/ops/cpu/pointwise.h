/* A 1x1 convolution with all that follows it in a residual unit, for inference: see `senet_pointwise` of kernel.h.
 *
 * The product is computed in blocks of BLOCK_ROWS pixels and PANEL channels, which stay in registers until scale, sum
 * and ReLU are done. The weight lies in panels: PANEL channels of each input, one input after the other. */

/* So many sums as registers hold beside a row of the panel and a number of x. */
enum { PANEL = 2 * LANES, BLOCK_ROWS = LANES == 16 ? 14 : 6 };

/* What a task computes; measured, and from the shape alone. Fewer rows would read the weight too often, more would leave
 * processors without work. */
enum { TILE_COLUMNS = 256, LEAST_ROWS = 96, MOST_ROWS = 768, ROW_TILES = 16 };

struct pointwise {
    const struct senet_pointwise *layer;
    long n, hw, threads;
    const float *x, *shortcut;
    float *y;
    float *scale, *offset; /* (n, c) */
    long tile_rows, row_tiles, column_tiles;
    int columns_first; /* neighbouring tasks share the columns: the weight is larger than x */
    float *sums;       /* of each part of a sample */
    long parts;
};

/* y = relu(sums * scale + offset + shortcut) in one panel of one pixel. */
INLINE void finish(const struct pointwise *p, const float *sums, long sample, long row, long column)
{
    const long c = p->layer->c, of = sample * c + column, at = row * c + column;
    for (int v = 0; v < PANEL; v += LANES) {
        const long left = c - column - v;
        if (left >= LANES) {
            vf sum = load_float(sums + v) * load_float(p->scale + of + v) + load_float(p->offset + of + v);
            sum += load_float(p->shortcut + at + v);
            store_float(p->y + at + v, where_positive(sum, sum));
        } else if (left > 0) {
            vf sum = load_float(sums + v) * load_part_float(p->scale + of + v, left);
            sum += load_part_float(p->offset + of + v, left) + load_part_float(p->shortcut + at + v, left);
            store_part_float(p->y + at + v, where_positive(sum, sum), left);
        }
    }
}

/* `rows` pixels from `row` on, one panel of channels from `column` on. */
INLINE void block(const struct pointwise *p, const float *panel, long row, long column, const int rows)
{
    const long inner = p->layer->inner, c = p->layer->c;
    const float *x = p->x + row * inner;
    float sums[BLOCK_ROWS * PANEL];
    vf left[BLOCK_ROWS], right[BLOCK_ROWS];
UNROLLED
    for (int r = 0; r < rows; r++) {
        /* Meanwhile, what comes after the product is fetched. */
        __builtin_prefetch(p->shortcut + (row + r) * c + column);
        __builtin_prefetch(p->shortcut + (row + r) * c + column + LANES);
        left[r] = right[r] = splat(0);
    }
    for (long i = 0; i < inner; i++, panel += PANEL) {
        const vf first = load_float(panel), second = load_float(panel + LANES);
UNROLLED
        for (int r = 0; r < rows; r++) {
            left[r] += first * x[r * inner + i];
            right[r] += second * x[r * inner + i];
        }
    }
UNROLLED
    for (int r = 0; r < rows; r++) {
        store_float(sums + r * PANEL, left[r]);
        store_float(sums + r * PANEL + LANES, right[r]);
    }
    long sample = row / p->hw, pixel = row % p->hw;
#pragma GCC unroll 1
    for (int r = 0; r < rows; r++) {
        finish(p, sums + r * PANEL, sample, row + r, column);
        if (++pixel == p->hw) {
            pixel = 0;
            sample++;
        }
    }
}

/* `rows` pixels from `row` on, the channels of a task. */
INLINE void strip(const struct pointwise *p, long row, long column, long end, const int rows)
{
    for (; column < end; column += PANEL)
        block(p, p->layer->panels + column * p->layer->inner, row, column, rows);
}

static void pointwise_task(const void *context, int64_t i)
{
    const struct pointwise *p = context;
    const long all = p->n * p->hw, c = p->layer->c;
    const long tile = p->columns_first ? i % p->row_tiles : i / p->column_tiles;
    const long group = p->columns_first ? i / p->row_tiles : i % p->column_tiles;
    const long from = tile * p->tile_rows, to = from + p->tile_rows < all ? from + p->tile_rows : all;
    const long end = (group + 1) * TILE_COLUMNS < c ? (group + 1) * TILE_COLUMNS : c;
    const long column = group * TILE_COLUMNS;
    long row = from;
    for (; row + BLOCK_ROWS <= to; row += BLOCK_ROWS)
        strip(p, row, column, end, BLOCK_ROWS);
    if (row < to && to - from >= BLOCK_ROWS)
        strip(p, to - BLOCK_ROWS, column, end, BLOCK_ROWS); /* some once more, the same */
    else
        for (; row < to; row++)
            strip(p, row, column, end, 1);
}

/* Sums over the pixels of one part of a sample. */
static void sums_task(const void *context, int64_t i)
{
    const struct pointwise *p = context;
    const long inner = p->layer->inner, hw = p->hw, part = i % p->parts;
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
    const struct senet_pointwise *layer = p->layer;
    const long n = p->n, hw = p->hw, c = layer->c, inner = layer->inner, hidden = layer->hidden;
    senet_parallel(sums_task, p, n * p->parts, n * hw * inner < 1 << 14 ? 1 : p->threads);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < inner; j++) {
            float sum = 0;
            for (long part = 0; part < p->parts; part++)
                sum += p->sums[(i * p->parts + part) * inner + j];
            mean[i * inner + j] = sum / (float)hw;
        }
    multiply(p->threads, (struct product){block_a_bt, mean, layer->w1, layer->b1, units, NULL, n, inner, hidden, 0, 0},
             hidden);
    for (long i = 0; i < n * hidden; i++)
        units[i] = units[i] < 0 ? 0 : units[i];
    multiply(p->threads, (struct product){block_a_bt, units, layer->w2, layer->b2, p->scale, NULL, n, hidden, c, 0, 0},
             c);
    gates(p->scale, n * c, (enum gate)layer->gate);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < c; j++)
            p->offset[i * c + j] = p->scale[i * c + j] * layer->bias[j];
}

/* Tiles of about the same height. */
static long tile_rows(long rows)
{
    const long least = divided(rows, MOST_ROWS), some = rows / LEAST_ROWS < ROW_TILES ? rows / LEAST_ROWS : ROW_TILES;
    const long tiles = some > least ? some : least;
    return divided(rows, tiles);
}

static int pointwise(const struct senet_pointwise *layer, int64_t n, int64_t hw, int64_t threads, const float *x,
                     const float *shortcut, float *y)
{
    const long c = layer->c, inner = layer->inner, rows = n * hw, parts = divided(hw, 128);
    const long floats = n * ((parts + 1) * inner + layer->hidden + 2 * c);
    float *all = malloc((size_t)floats * sizeof *all), *room = all;
    if (!all)
        return 1;
    struct pointwise p = {.layer = layer, .n = n, .hw = hw, .threads = threads, .parts = parts,
                          .x = x, .shortcut = shortcut, .y = y};
    p.tile_rows = tile_rows(rows);
    p.row_tiles = divided(rows, p.tile_rows);
    p.column_tiles = divided(c, TILE_COLUMNS);
    p.columns_first = c > rows;
    p.scale = take(&room, n * c);
    p.offset = take(&room, n * c);
    p.sums = take(&room, n * parts * inner);
    float *mean = take(&room, n * inner);
    early_gate(&p, mean, take(&room, n * layer->hidden));
    senet_parallel(pointwise_task, &p, p.row_tiles * p.column_tiles, threads);
    free(all);
    return 0;
}
