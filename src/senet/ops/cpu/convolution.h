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
    const float *x, *added, *zeros;
    float *y;
    const float *scale, *offset; /* (n, c); or NULL and (c) */
    long offsets;                /* between the offsets of two samples */
    long tile_rows, row_tiles, column_tiles;
    int columns_first; /* neighbouring tasks share the columns: the weight is larger than x */
};

/* y = activation(sums * scale + offset + added) in WIDE channels of one pixel. */
INLINE void finish(const struct convolution *p, const float *sums, long sample, long row, long column)
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
            store_float(p->y + at + v, activation_of(sum, activation));
        } else if (left > 0) {
            vf sum = load_float(sums + v);
            if (p->scale)
                sum *= load_part_float(p->scale + of + v, left);
            sum += load_part_float(p->offset + of + v, left);
            if (p->added)
                sum += load_part_float(p->added + at + v, left);
            store_part_float(p->y + at + v, activation_of(sum, activation), left);
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

/* `rows` pixels from `row` on, WIDE channels from `column` on, or only the first half of them. With `factors`, one a channel of x, all are of one sample. */
INLINE void block(const struct convolution *p, const float *panel, const float *factors, long row, long column,
                  const int rows, const int both)
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
#pragma GCC unroll 1
    for (int r = 0; r < rows; r++) {
        finish(p, sums + r * WIDE, at.sample, row + r, column);
        step_position(p, &at);
    }
}

static void convolution_task(const void *context, int64_t i)
{
    const struct convolution *p = context;
    const struct senet_convolution *layer = p->layer;
    const long pixels = p->oh * p->ow, all = p->n * pixels, c = layer->c;
    const long each = layer->kernel_y * layer->kernel_x * layer->inner; /* rows of a panel */
    const long tile = p->columns_first ? i % p->row_tiles : i / p->column_tiles;
    const long group = p->columns_first ? i / p->row_tiles : i % p->column_tiles;
    const long from = tile * p->tile_rows, to = from + p->tile_rows < all ? from + p->tile_rows : all;
    const long end = (group + 1) * TILE_COLUMNS < c ? (group + 1) * TILE_COLUMNS : c;
    /* Weights of many taps are long: one panel at a time stays in the cache, else one block of pixels. */
    const int panels_first = layer->kernel_y * layer->kernel_x > 1;
    const long columns = panels_first ? PANEL : end - group * TILE_COLUMNS;
    for (long first = group * TILE_COLUMNS; first < end; first += columns)
        for (long row = from; row < to;) {
            const float *factors = layer->factors ? layer->factors + row / pixels * layer->inner : NULL;
            /* Blocks with factors end where their sample ends. */
            const long first_row = factors && row / pixels * pixels > from ? row / pixels * pixels : from;
            const long last_row = factors && (row / pixels + 1) * pixels < to ? (row / pixels + 1) * pixels : to;
            const long left = last_row - row;
            const int whole = left >= BLOCK_ROWS || last_row - first_row >= BLOCK_ROWS;
            const long at = left >= BLOCK_ROWS ? row : last_row - BLOCK_ROWS; /* at the end some once more, the same */
            for (long column = first; column < first + columns && column < end; column += WIDE) {
                const float *panel = layer->panels + column / PANEL * PANEL * each + column % PANEL;
                const int both = c - column > LANES;
                if (!whole)
                    block(p, panel, factors, row, column, 1, 1);
                else if (factors && both)
                    block(p, panel, factors, at, column, BLOCK_ROWS, 1);
                else if (factors)
                    block(p, panel, factors, at, column, BLOCK_ROWS, 0);
                else if (both)
                    block(p, panel, NULL, at, column, BLOCK_ROWS, 1);
                else
                    block(p, panel, NULL, at, column, BLOCK_ROWS, 0);
            }
            row += !whole ? 1 : left < BLOCK_ROWS ? left : BLOCK_ROWS;
        }
}

/* Tiles of about the same height. */
static long tile_rows(long rows)
{
    const long least = divided(rows, MOST_ROWS), some = rows / LEAST_ROWS < ROW_TILES ? rows / LEAST_ROWS : ROW_TILES;
    const long tiles = some > least ? some : least;
    return divided(rows, tiles);
}

static int convolution(const struct senet_convolution *layer, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow,
                       int64_t threads, const float *x, const float *added, float *y)
{
    const long c = layer->c, inner = layer->inner, rows = n * oh * ow;
    const int late = layer->hidden && layer->late;
    /* What the gate is computed from. */
    const long channels = late ? c : inner, hw = late ? oh * ow : h * w;
    const long gated = layer->hidden ? squeeze_floats(n, hw, channels) + n * (channels + layer->hidden + 2 * c) : 0;
    float *room = calloc((size_t)(inner + gated), sizeof *room), *all = room;
    if (!room)
        return 1;
    struct convolution p = {.layer = layer, .n = n, .h = h, .w = w, .oh = oh, .ow = ow, .threads = threads,
                            .x = x, .added = late ? NULL : added, .y = y};
    const struct senet_excitation e = {channels, layer->hidden, layer->hidden_activation, layer->gate,
                                       layer->w1, layer->b1, layer->w2, layer->b2};
    p.tile_rows = tile_rows(rows);
    p.row_tiles = divided(rows, p.tile_rows);
    p.column_tiles = divided(c, TILE_COLUMNS);
    p.columns_first = c > rows;
    p.zeros = take(&room, inner);
    p.offset = layer->bias;
    float *scale = take(&room, n * c), *means = take(&room, n * channels), *units = take(&room, n * layer->hidden);
    if (layer->hidden && !late) {
        float *offset = take(&room, n * c);
        means_of(x, n, hw, channels, threads, room, means);
        gate_of_means(means, n, channels, c, &e, threads, units, scale);
        for (long i = 0; i < n; i++)
            for (long j = 0; j < c; j++)
                offset[i * c + j] = scale[i * c + j] * layer->bias[j];
        p.scale = scale;
        p.offset = offset;
        p.offsets = c;
    }
    senet_parallel(convolution_task, &p, p.row_tiles * p.column_tiles, threads);
    if (late) {
        means_of(y, n, hw, channels, threads, room, means);
        gate_of_means(means, n, channels, c, &e, threads, units, scale);
        scale_map(y, scale, added, y, n, hw, c, (int)layer->last_activation, threads);
    }
    free(all);
    return 0;
}
