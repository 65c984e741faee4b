/* A convolution of bfloat16 feature maps by the tile instructions (AMX): see `senet_convolution_bf16` of kernel.h.
 *
 * A tile holds 16 pixels x 32 channels of x, or 32 channels of x x 16 channels of y. Four tiles of sums stay in registers:
 * 32 pixels and one panel of 32 channels. A 1x1 convolution reads its pixels where they are. For other kernels the pixels
 * of a task are gathered once for all panels, tap after tap, with zeros beyond the border and beyond the channels. */

#ifdef __AMX_BF16__
#include <immintrin.h>

enum { TILE_ROWS = 16, TILE_DEPTH = 32, BF16_COLUMNS = 256, BF16_GATHERED = 1 << 18 };

struct convolution_bf16 {
    const struct senet_convolution_bf16 *layer;
    long n, h, w, oh, ow;
    long chunks, depth; /* of 32 channels of x, for one tap and for all */
    long tile_rows, row_tiles, column_tiles;
    const bf16 *x, *added;
    bf16 *y;
    const float *scale, *offset; /* (n, c), or NULL and (c) */
    long offsets;
    float *sums; /* of y in each tile, of each of the `spans` samples that a tile may touch, or NULL */
    long spans, sums_step;
    int *failed;
};

/* 16 pixels for the tile instructions: the first chunk, bytes between pixels, numbers between chunks. */
struct pixels {
    const bf16 *first;
    long stride, step;
};

struct tile_config {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};

static void gather(const struct convolution_bf16 *p, long row, long rows, bf16 *to)
{
    const struct senet_convolution_bf16 *l = p->layer;
    const long inner = l->inner, whole = inner / TILE_DEPTH, rest = inner % TILE_DEPTH;
    const __mmask32 some = (__mmask32)((1ul << rest) - 1);
    for (long r = 0; r < TILE_ROWS; r++, row++) {
        const long oy = row / p->ow % p->oh, ox = row % p->ow;
        const bf16 *image = p->x + row / (p->oh * p->ow) * p->h * p->w * inner;
        bf16 *at = to + r * TILE_DEPTH;
        for (long ky = 0; ky < l->kernel_y; ky++)
            for (long kx = 0; kx < l->kernel_x; kx++) {
                const long y = oy * l->stride_y - l->pad_y + ky * l->dilation_y;
                const long x = ox * l->stride_x - l->pad_x + kx * l->dilation_x;
                if (r < rows && y >= 0 && y < p->h && x >= 0 && x < p->w) {
                    const bf16 *from = image + (y * p->w + x) * inner;
                    for (long k = 0; k < whole; k++, from += TILE_DEPTH, at += TILE_ROWS * TILE_DEPTH)
                        _mm512_storeu_si512(at, _mm512_loadu_si512(from));
                    if (rest) {
                        _mm512_storeu_si512(at, _mm512_maskz_loadu_epi16(some, from));
                        at += TILE_ROWS * TILE_DEPTH;
                    }
                } else
                    for (long k = 0; k < p->chunks; k++, at += TILE_ROWS * TILE_DEPTH)
                        _mm512_storeu_si512(at, _mm512_setzero_si512());
            }
    }
}

INLINE float widened_bf16(bf16 value)
{
    const uint32_t bits = (uint32_t)value << 16;
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

INLINE void store_rounded(bf16 *to, vf v, long many)
{
    const __m256i half = (__m256i)_mm512_cvtneps_pbh((__m512)v);
    if (many >= LANES)
        _mm256_storeu_si256((__m256i *)to, half);
    else
        _mm256_mask_storeu_epi16(to, (__mmask16)((1u << many) - 1), half);
}

/* Where the sums over a tile's part of a sample stand. */
INLINE float *sums_at(const struct convolution_bf16 *p, long tile, long sample, long column)
{
    const long first = tile * p->tile_rows / (p->oh * p->ow);
    return p->sums + (tile * p->spans + sample - first) * p->sums_step + column;
}

/* y = a(sums * scale + offset + added) for up to 16 pixels and 16 channels. */
static void finish_bf16(const struct convolution_bf16 *p, const float *sums, long row, long rows, long column)
{
    const long c = p->layer->c, left = c - column, pixels = p->oh * p->ow;
    const __mmask16 some = left >= LANES ? 0xffff : (__mmask16)((1u << left) - 1);
    const int activation = (int)p->layer->activation, by_sample = p->offsets || p->sums;
    const long tile = row / p->tile_rows;
    for (const long end = row + rows; row < end;) {
        const long sample = by_sample ? row / pixels : 0, of = sample * p->offsets + column;
        const long last = by_sample && (sample + 1) * pixels < end ? (sample + 1) * pixels : end;
        const vf offset = (vf)_mm512_maskz_loadu_ps(some, p->offset + of);
        const vf scale = p->scale ? (vf)_mm512_maskz_loadu_ps(some, p->scale + of) : splat(1);
        vf total = splat(0);
        for (; row < last; row++, sums += LANES) {
            vf v = load_float(sums) * scale + offset;
            if (p->added) {
                const __m256i half = _mm256_maskz_loadu_epi16(some, p->added + row * c + column);
                v += (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
            }
            v = activation_of(v, activation);
            total += v;
            store_rounded(p->y + row * c + column, v, left);
        }
        if (p->sums) {
            float *to = sums_at(p, tile, sample, column);
            store_float(to, load_float(to) + total);
        }
    }
}

/* Up to 32 pixels and one panel. */
static void block_bf16(const struct convolution_bf16 *p, const struct pixels *at, const bf16 *panel, long row, long rows,
                       long column)
{
    float sums[4][TILE_ROWS * LANES] __attribute__((aligned(64)));
    const bf16 *a = at[0].first, *b = at[1].first;
    const int both = rows > TILE_ROWS, wide = p->layer->c - column > LANES;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long k = 0; k < p->depth; k++, panel += TILE_DEPTH * PANEL, a += at[0].step, b += at[1].step) {
        _tile_loadd(6, panel, 4 * PANEL);
        _tile_loadd(4, a, at[0].stride);
        _tile_dpbf16ps(0, 4, 6);
        if (wide) {
            _tile_loadd(7, panel + PANEL, 4 * PANEL);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (both) {
            _tile_loadd(5, b, at[1].stride);
            _tile_dpbf16ps(2, 5, 6);
            if (wide)
                _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (int i = 0; i < (both ? 4 : 2); i++) {
        const long from = row + i / 2 * TILE_ROWS, many = row + rows - from < TILE_ROWS ? row + rows - from : TILE_ROWS;
        if (i % 2 == 0 || wide)
            finish_bf16(p, sums[i], from, many, column + i % 2 * LANES);
    }
}

static void convolution_bf16_task(const void *context, int64_t i)
{
    const struct convolution_bf16 *p = context;
    const struct senet_convolution_bf16 *l = p->layer;
    const long all = p->n * p->oh * p->ow, c = l->c, inner = l->inner;
    const long tile = i % p->row_tiles, group = i / p->row_tiles;
    const long from = tile * p->tile_rows, to = from + p->tile_rows < all ? from + p->tile_rows : all;
    const long end = (group + 1) * BF16_COLUMNS < c ? (group + 1) * BF16_COLUMNS : c;
    if (p->sums) {
        const size_t bytes = (size_t)(divided(end, PANEL) * PANEL - group * BF16_COLUMNS) * sizeof *p->sums;
        for (long k = 0; k < p->spans; k++)
            memset(p->sums + (tile * p->spans + k) * p->sums_step + group * BF16_COLUMNS, 0, bytes);
        fetch(l->w1, l->hidden * c * (long)sizeof *l->w1, i, p->row_tiles * p->column_tiles);
        fetch(l->w2, l->hidden * l->gates * (long)sizeof *l->w2, i, p->row_tiles * p->column_tiles);
    }
    const int in_place = l->kernel_y * l->kernel_x == 1 && l->stride_y * l->stride_x == 1 && l->pad_y + l->pad_x == 0 &&
                         inner % TILE_DEPTH == 0;
    const long blocks = divided(to - from, TILE_ROWS), size = TILE_ROWS * TILE_DEPTH * p->depth;
    const long gathered = !in_place ? blocks : (to - from) % TILE_ROWS ? 1 : 0;
    bf16 *room = gathered ? aligned_alloc(64, (size_t)(gathered * size) * sizeof *room) : NULL;
    struct pixels *at = malloc((size_t)(blocks + 1) * sizeof *at);
    if ((gathered && !room) || !at) {
        __atomic_store_n(p->failed, 1, __ATOMIC_RELAXED);
        free(room);
        free(at);
        return;
    }
    for (long k = 0; k < blocks; k++) {
        const long row = from + k * TILE_ROWS, rows = to - row < TILE_ROWS ? to - row : TILE_ROWS;
        if (in_place && rows == TILE_ROWS)
            at[k] = (struct pixels){p->x + row * inner, 2 * inner, TILE_DEPTH};
        else {
            bf16 *space = in_place ? room : room + k * size;
            gather(p, row, rows, space);
            at[k] = (struct pixels){space, 2 * TILE_DEPTH, TILE_ROWS * TILE_DEPTH};
        }
    }
    at[blocks] = at[blocks - 1];
    struct tile_config config = {.palette = 1}, before;
    for (int t = 0; t < 8; t++) {
        config.bytes[t] = 64;
        config.rows[t] = 16;
    }
    _tile_storeconfig(&before); /* others' code may count on its own */
    _tile_loadconfig(&config);
    for (long column = group * BF16_COLUMNS; column < end; column += PANEL) {
        const bf16 *panel = l->panels + column / PANEL * (p->depth * TILE_DEPTH * PANEL);
        for (long k = 0; k < blocks; k += 2) {
            const long row = from + k * TILE_ROWS, rows = to - row < 2 * TILE_ROWS ? to - row : 2 * TILE_ROWS;
            block_bf16(p, at + k, panel, row, rows, column);
        }
    }
    if (before.palette)
        _tile_loadconfig(&before);
    else
        _tile_release();
    free(room);
    free(at);
}

/* --- the gate --------------------------------------------------------------------------------------------------------- */

struct gate_bf16 {
    long n, inner, columns;
    const bf16 *weight, *bias;
    const float *from;
    float *to;
};

/* Means (n, c) of y from the sums of the tiles. */
static void means_bf16(const struct convolution_bf16 *p, float *means)
{
    const long c = p->layer->c, pixels = p->oh * p->ow, all = p->n * pixels;
    const float one = 1 / (float)pixels;
    memset(means, 0, (size_t)(p->n * c) * sizeof *means);
    for (long tile = 0; tile < p->row_tiles; tile++) {
        const long from = tile * p->tile_rows, to = from + p->tile_rows < all ? from + p->tile_rows : all;
        for (long sample = from / pixels; sample * pixels < to; sample++) {
            const float *sums = sums_at(p, tile, sample, 0);
            for (long j = 0; j < c; j++)
                means[sample * c + j] += sums[j];
        }
    }
    for (long j = 0; j < p->n * c; j++)
        means[j] *= one;
}

/* Column j of `to` (n, columns) = weight (columns, inner) times `from` (n, inner), and the bias; 16 columns a task. */
static void layer_bf16_task(const void *context, int64_t i)
{
    const struct gate_bf16 *p = context;
    const long end = (i + 1) * 16 < p->columns ? (i + 1) * 16 : p->columns;
    for (long j = i * 16; j < end; j++) {
        const bf16 *weight = p->weight + j * p->inner;
        for (long r = 0; r < p->n; r++) {
            const float *from = p->from + r * p->inner;
            vf sum[2] = {splat(0), splat(0)};
            long k = 0;
            for (; k + 2 * LANES <= p->inner; k += 2 * LANES) {
                sum[0] += load_float(from + k) * load_bf16(weight + k);
                sum[1] += load_float(from + k + LANES) * load_bf16(weight + k + LANES);
            }
            for (; k < p->inner; k += LANES) {
                const long left = p->inner - k;
                sum[0] += left >= LANES ? load_float(from + k) * load_bf16(weight + k)
                                        : load_part_float(from + k, left) * load_part_bf16(weight + k, left);
            }
            p->to[r * p->columns + j] = sum_lanes(sum[0] + sum[1]) + (p->bias ? widened_bf16(p->bias[j]) : 0);
        }
    }
}

static void layer_bf16(long threads, struct gate_bf16 p)
{
    senet_parallel(layer_bf16_task, &p, divided(p.columns, 16), p.n * p.inner * p.columns < 1 << 15 ? 1 : threads);
}

static int convolution_bf16(const struct senet_convolution_bf16 *l, int64_t n, int64_t h, int64_t w, int64_t oh,
                            int64_t ow, int64_t threads, const uint16_t *x, const float *scale, const uint16_t *added,
                            uint16_t *y, float *s)
{
    const long c = l->c, inner = l->inner, pixels = oh * ow, rows = n * pixels;
    int failed = 0;
    struct convolution_bf16 p = {.layer = l, .n = n, .h = h, .w = w, .oh = oh, .ow = ow, .x = x, .added = added, .y = y,
                                 .scale = scale, .failed = &failed};
    p.chunks = divided(inner, TILE_DEPTH);
    p.depth = l->kernel_y * l->kernel_x * p.chunks;
    /* The pixels of a task stay in the cache for all panels. */
    long most = BF16_GATHERED / (p.depth * TILE_DEPTH), tiles = rows / 96 < 16 ? rows / 96 : 16;
    most = most < 32 ? 32 : most > 768 ? 768 : most;
    tiles = tiles > divided(rows, most) ? tiles : divided(rows, most);
    p.tile_rows = divided(divided(rows, tiles), TILE_ROWS) * TILE_ROWS;
    p.row_tiles = divided(rows, p.tile_rows);
    p.column_tiles = divided(c, BF16_COLUMNS);
    p.spans = (p.tile_rows - 1) / pixels + 2;
    p.sums_step = divided(c, PANEL) * PANEL;
    const long sums = l->hidden ? p.row_tiles * p.spans * p.sums_step : 0;
    const long gated = l->hidden ? sums + n * (c + l->hidden) : 0;
    float *room = malloc((size_t)(c + (scale ? n * c : 0) + gated) * sizeof *room), *all = room;
    if (!room)
        return 1;
    float *bias = take(&room, c);
    for (long j = 0; j < c; j++)
        bias[j] = widened_bf16(l->bias[j]);
    p.offset = bias;
    if (scale) {
        p.offset = scaled_bias(scale, bias, n, c, take(&room, n * c));
        p.offsets = c;
    }
    if (l->hidden)
        p.sums = take(&room, sums);
    senet_parallel(convolution_bf16_task, &p, p.row_tiles * p.column_tiles, threads);
    if (l->hidden && !failed) {
        float *means = take(&room, n * c), *units = take(&room, n * l->hidden);
        means_bf16(&p, means);
        layer_bf16(threads, (struct gate_bf16){.n = n, .inner = c, .columns = l->hidden, .weight = l->w1, .bias = l->b1,
                                               .from = means, .to = units});
        activate(units, units, n * l->hidden, (int)l->hidden_activation);
        layer_bf16(threads, (struct gate_bf16){.n = n, .inner = l->hidden, .columns = l->gates, .weight = l->w2,
                                               .bias = l->b2, .from = units, .to = s});
        gates(s, n * l->gates, (enum gate)l->gate);
    }
    free(all);
    return failed;
}
#endif
