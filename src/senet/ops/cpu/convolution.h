/* A convolution with what follows it in a block, for inference: see `senet_convolution` of kernel.h.
 *
 * The product is computed in blocks of BLOCK_ROWS pixels and PANEL channels, which stay in registers until scale, sum
 * and activation are done. For each tap of the kernel a block reads its pixels through a list of addresses, so that stride,
 * dilation and padding cost nothing in the inner loop: beyond the border stands a pixel of zeros. */

/* Channels of a panel in memory, the same on every machine; those and the pixels of a block: so many sums as registers
 * hold beside a row of the panel and a number of x. */
enum { PANEL = 32, WIDE = 2 * LANES, BLOCK_ROWS = LANES == 16 ? 14 : 6 };

/* The size of a task; measured, and from the shape alone. Fewer rows would read the weight too often, more would leave
 * CPUs without work. */
enum { TILE_COLUMNS = 256, LEAST_ROWS = 96, MOST_ROWS = 768, ROW_TILES = 16 };

struct convolution {
    const struct senet_convolution *layer;
    long n, h, w, oh, ow, threads;
    const float *x, *factors, *added, *zeros;
    float *y;
    const float *scale, *offset; /* (n, c); or NULL and (c) */
    long offsets;                /* between the offsets of two samples */
    long unit_rows, tiles;       /* pixels that tiles don't go across (of a sample, or all), their tiles */
    long tile_rows, row_tiles, column_tiles;
    int columns_first; /* neighbouring tasks share the columns: the weight is larger than x */
    float *sums;       /* of y over each tile, unless NULL */
    long sums_step;
};

/* y = activation(sums * scale + offset + added) in WIDE channels of one pixel; it is also added to `total`. */
INLINE void finish(const struct convolution *p, const float *sums, long sample, long row, long column, vf *total)
{
    const long c = p->layer->c, of = sample * p->offsets + column, at = row * c + column;
    const int activation = (int)p->layer->activation;
    for (int v = 0; v < WIDE; v += LANES) {
        const long left = c - column - v;
        if (left >= LANES) {
            vf sum = load_float(sums + v);
            if (p->scale)
                sum *= load_float(p->scale + of + v);
            sum += load_float(p->offset + of + v);
            if (p->added)
                sum += load_float(p->added + at + v);
            sum = activation_of(sum, activation);
            total[v / LANES] += sum;
            store_float(p->y + at + v, sum);
        } else if (left > 0) {
            vf sum = load_float(sums + v);
            if (p->scale)
                sum *= load_part_float(p->scale + of + v, left);
            sum += load_part_float(p->offset + of + v, left);
            if (p->added)
                sum += load_part_float(p->added + at + v, left);
            sum = activation_of(sum, activation);
            total[v / LANES] += sum;
            store_part_float(p->y + at + v, sum, left);
        }
    }
}

/* Where each pixel of a block begins for one tap. */
struct position {
    long sample, y, x;
};

INLINE void step_position(const struct convolution *p, struct position *at)
{
    if (++at->x == p->ow) {
        at->x = 0;
        if (++at->y == p->oh) {
            at->y = 0;
            at->sample++;
        }
    }
}

/* `rows` pixels from `row` on, WIDE channels from `column` on, or only the first half of them. With `factors`, one a channel of x, all are of one sample. The results
 * are added to `found` unless it is NULL, without the first `known` pixels. */
INLINE void block(const struct convolution *p, const float *panel, const float *factors, float *found, long known,
                  long row, long column, const int rows, const int both)
{
    const struct senet_convolution *layer = p->layer;
    const long inner = layer->inner, c = layer->c;
    const struct position start = {row / (p->oh * p->ow), row / p->ow % p->oh, row % p->ow};
    struct position at = start;
    long top[BLOCK_ROWS], side[BLOCK_ROWS];
    const float *base[BLOCK_ROWS], *from[BLOCK_ROWS];
    vf left[BLOCK_ROWS], right[BLOCK_ROWS];
    for (int r = 0; r < rows; r++) {
        top[r] = at.y * layer->stride_y - layer->pad_y;
        side[r] = at.x * layer->stride_x - layer->pad_x;
        base[r] = p->x + at.sample * p->h * p->w * inner;
        step_position(p, &at);
        if (p->added) { /* meanwhile, what comes after the product is fetched */
            __builtin_prefetch(p->added + (row + r) * c + column);
            __builtin_prefetch(p->added + (row + r) * c + column + LANES);
        }
    }
UNROLLED
    for (int r = 0; r < rows; r++)
        left[r] = right[r] = splat(0);
    for (long ky = 0; ky < layer->kernel_y; ky++)
        for (long kx = 0; kx < layer->kernel_x; kx++) {
            for (int r = 0; r < rows; r++) {
                const long y = top[r] + ky * layer->dilation_y, x = side[r] + kx * layer->dilation_x;
                const int inside = y >= 0 && y < p->h && x >= 0 && x < p->w;
                from[r] = inside ? base[r] + (y * p->w + x) * inner : p->zeros;
            }
            for (long i = 0; i < inner; i++, panel += PANEL) {
                vf first = load_float(panel), second = both ? load_float(panel + LANES) : splat(0);
                if (factors) { /* cheaper on the weight than on each pixel */
                    first *= factors[i];
                    second *= factors[i];
                }
UNROLLED
                for (int r = 0; r < rows; r++) {
                    left[r] += first * from[r][i];
                    if (both)
                        right[r] += second * from[r][i];
                }
            }
        }
    float sums[BLOCK_ROWS * WIDE];
UNROLLED
    for (int r = 0; r < rows; r++) {
        store_float(sums + r * WIDE, left[r]);
        store_float(sums + r * WIDE + LANES, right[r]);
    }
    at = start;
    vf total[2] = {splat(0), splat(0)};
#pragma GCC unroll 1
    for (int r = 0; r < rows; r++) {
        if (r == known)
            total[0] = total[1] = splat(0);
        finish(p, sums + r * WIDE, at.sample, row + r, column, total);
        step_position(p, &at);
    }
    if (found) {
        store_float(found + column, load_float(found + column) + total[0]);
        store_float(found + column + LANES, load_float(found + column + LANES) + total[1]);
    }
}

/* The part of `task` of some bytes, from memory into the cache. */
static void fetch(const void *from, long bytes, long task, long tasks)
{
    const long each = divided(bytes, tasks), end = (task + 1) * each < bytes ? (task + 1) * each : bytes;
    for (long i = task * each; i < end; i += 64) /* a cache line */
        __builtin_prefetch((const char *)from + i, 0, 2);
}

/* (n, c) of scale (n, c) and bias (c). */
static const float *scaled_bias(const float *scale, const float *bias, long n, long c, float *to)
{
    for (long i = 0; i < n; i++)
        for (long j = 0; j < c; j++)
            to[i * c + j] = scale[i * c + j] * bias[j];
    return to;
}

/* The weights of the gate come from memory while the convolution computes. */
static void fetch_gate(const struct convolution *p, long task)
{
    const struct senet_convolution *layer = p->layer;
    const long tasks = p->row_tiles * p->column_tiles;
    fetch(layer->w1, layer->hidden * layer->c * (long)sizeof *layer->w1, task, tasks);
    fetch(layer->w2, layer->hidden * layer->gates * (long)sizeof *layer->w2, task, tasks);
}

static void convolution_task(const void *context, int64_t i)
{
    const struct convolution *p = context;
    const struct senet_convolution *layer = p->layer;
    const long c = layer->c;
    if (p->sums)
        fetch_gate(p, i);
    const long each = layer->kernel_y * layer->kernel_x * layer->inner; /* rows of a panel */
    const long tile = p->columns_first ? i % p->row_tiles : i / p->column_tiles;
    const long group = p->columns_first ? i / p->row_tiles : i % p->column_tiles;
    const long unit = tile / p->tiles, from = unit * p->unit_rows + tile % p->tiles * p->tile_rows;
    const long to = from + p->tile_rows < (unit + 1) * p->unit_rows ? from + p->tile_rows : (unit + 1) * p->unit_rows;
    const long end = (group + 1) * TILE_COLUMNS < c ? (group + 1) * TILE_COLUMNS : c;
    const float *factors = p->factors ? p->factors + unit * layer->inner : NULL;
    float *found = p->sums ? p->sums + tile * p->sums_step : NULL;
    if (found)
        memset(found + group * TILE_COLUMNS, 0, (size_t)(divided(end, WIDE) * WIDE - group * TILE_COLUMNS) * sizeof *found);
    /* Weights of many taps are long: one panel at a time stays in the cache, else one block of pixels. */
    const int panels_first = layer->kernel_y * layer->kernel_x > 1;
    const long columns = panels_first ? PANEL : end - group * TILE_COLUMNS;
    for (long first = group * TILE_COLUMNS; first < end; first += columns)
        for (long row = from; row < to;) {
            const long left = to - row;
            const int whole = left >= BLOCK_ROWS || to - from >= BLOCK_ROWS;
            const long at = left >= BLOCK_ROWS ? row : to - BLOCK_ROWS; /* at the end some once more, the same */
            for (long column = first; column < first + columns && column < end; column += WIDE) {
                const float *panel = layer->panels + column / PANEL * PANEL * each + column % PANEL;
                const int both = c - column > LANES;
                if (!whole)
                    block(p, panel, factors, found, 0, row, column, 1, 1);
                else if (factors && both)
                    block(p, panel, factors, NULL, 0, at, column, BLOCK_ROWS, 1);
                else if (factors)
                    block(p, panel, factors, NULL, 0, at, column, BLOCK_ROWS, 0);
                else if (both)
                    block(p, panel, NULL, found, row - at, at, column, BLOCK_ROWS, 1);
                else
                    block(p, panel, NULL, found, row - at, at, column, BLOCK_ROWS, 0);
            }
            row += whole ? BLOCK_ROWS : 1;
        }
}

/* Tiles of about the same height. */
static long tile_rows(long rows)
{
    const long least = divided(rows, MOST_ROWS), some = rows / LEAST_ROWS < ROW_TILES ? rows / LEAST_ROWS : ROW_TILES;
    const long tiles = some > least ? some : least;
    return divided(rows, tiles);
}

/* A call for several samples with a late gate, which is the same as one for each of them. */
struct by_sample {
    const struct senet_convolution *layer;
    long h, w, oh, ow, threads;
    const float *x, *added;
    float *y;
    int *failed;
};

static int convolution(const struct senet_convolution *layer, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow,
                       int64_t threads, const float *x, const float *factors, const float *scale, const float *added,
                       float *y, float *s);

static void sample_task(const void *context, int64_t i)
{
    const struct by_sample *p = context;
    const long to = i * p->oh * p->ow * p->layer->c;
    if (convolution(p->layer, 1, p->h, p->w, p->oh, p->ow, p->threads, p->x + i * p->h * p->w * p->layer->inner,
                    NULL, NULL, p->added ? p->added + to : NULL, p->y + to, NULL))
        __atomic_store_n(p->failed, 1, __ATOMIC_RELAXED);
}

/* Whether the weight is so small that each sample can read it again. Then a sample is scaled while it is in the cache. */
static int weight_is_small(const struct senet_convolution *layer, long pixels)
{
    const long each = layer->kernel_y * layer->kernel_x * layer->inner;
    return each * layer->c <= 1 << 16 || each < pixels;
}

enum { LARGE_SAMPLE = 1 << 17 };

static int convolution(const struct senet_convolution *layer, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow,
                       int64_t threads, const float *x, const float *factors, const float *scale, const float *added,
                       float *y, float *s)
{
    const long c = layer->c, inner = layer->inner, pixels = oh * ow, hidden = layer->hidden;
    const int rescales = hidden && !s;
    if (rescales && n > 1 && weight_is_small(layer, pixels)) {
        /* All threads on one sample where it fills their caches, else a sample a thread. */
        const int large = pixels * c >= LARGE_SAMPLE;
        int failed = 0;
        if (large || n >= 2 * threads) {
            const struct by_sample all = {layer, h, w, oh, ow, large ? threads : 1, x, added, y, &failed};
            senet_parallel(sample_task, &all, n, large ? 1 : threads);
            return failed;
        }
    }
    struct convolution p = {.layer = layer, .n = n, .h = h, .w = w, .oh = oh, .ow = ow, .threads = threads, .x = x,
                            .factors = factors, .scale = scale, .added = rescales ? NULL : added, .y = y};
    const int alone = hidden || factors;
    p.unit_rows = alone ? pixels : n * pixels;
    p.tile_rows = tile_rows(p.unit_rows);
    p.tiles = divided(p.unit_rows, p.tile_rows);
    p.row_tiles = (alone ? n : 1) * p.tiles;
    p.column_tiles = divided(c, TILE_COLUMNS);
    p.columns_first = c > n * pixels;
    p.sums_step = divided(c, WIDE) * WIDE;
    const long gated = hidden ? p.row_tiles * p.sums_step + n * (c + hidden + layer->gates) : 0;
    float *room = calloc((size_t)(inner + (scale ? n * c : 0) + gated), sizeof *room), *all = room;
    if (!room)
        return 1;
    p.zeros = take(&room, inner);
    p.offset = layer->bias;
    if (scale) {
        p.offset = scaled_bias(scale, layer->bias, n, c, take(&room, n * c));
        p.offsets = c;
    }
    if (hidden)
        p.sums = take(&room, p.row_tiles * p.sums_step);
    senet_parallel(convolution_task, &p, p.row_tiles * p.column_tiles, threads);
    if (hidden) {
        const struct senet_excitation e = {c, layer->gates, hidden, layer->hidden_activation, layer->gate,
                                           layer->w1, layer->b1, layer->w2, layer->b2};
        float *means = take(&room, n * c), *units = take(&room, n * hidden), *gate = s ? s : room;
        join_parts(p.sums, n, p.tiles, p.sums_step, c, pixels, means);
        gate_of_means(means, n, &e, threads, units, gate);
        if (rescales)
            scale_map(y, gate, added, y, n, pixels, c, (int)layer->last_activation, threads);
    }
    free(all);
    return 0;
}
