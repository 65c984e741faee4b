/* A depthwise convolution with its activation, and the means of the result: see `senet_depthwise` of kernel.h.
 *
 * The sums of a few pixels of one row and a few vectors of channels stay in registers. Taps beyond the border are left
 * out: rows by their range, columns by computing the pixels near the border one by one. */

enum { RUN = LANES == 16 ? 8 : 4 }; /* pixels of a block, with two vectors of channels */

struct depthwise {
    const struct senet_depthwise *layer;
    long n, h, w, oh, ow;
    long bands, band_rows; /* pieces of a sample */
    const float *x, *factors; /* factors (n, c), or NULL */
    float *y, *sums;          /* sums (n, bands, c) */
};

/* The taps inside the image, of the kernel's rows and columns. */
struct taps {
    long first_y, last_y, first_x, last_x;
};

/* Taps [*first, *last) of one dimension for output position `at`. */
INLINE void taps_inside(long at, long stride, long pad, long dilation, long kernel, long size, long *first, long *last)
{
    const long start = at * stride - pad;
    *first = start < 0 ? divided(-start, dilation) : 0;
    *last = start >= size ? 0 : divided(size - start, dilation);
    if (*last > kernel)
        *last = kernel;
}

/* `pixels` of a row from `ox` on, `vectors` of channels from `j` on. Of the only vector `part` lanes exist if that isn't
 * 0, and the first `known` lanes were computed before, so that the sums have them already. */
INLINE void depthwise_block(const struct depthwise *p, const float *x, float *y, float *sums, long oy, long ox,
                            struct taps taps, const float *factors, long j, const int pixels, const int vectors, long part,
                            long known)
{
    const struct senet_depthwise *l = p->layer;
    const long c = l->c, step = l->stride_x * c;
    vf sum[16], total[8];
UNROLLED
    for (int v = 0; v < vectors; v++) {
        const vf bias = part ? load_part_float(l->bias + j, part) : load_float(l->bias + j + v * LANES);
        total[v] = splat(0);
UNROLLED
        for (int r = 0; r < pixels; r++)
            sum[r * vectors + v] = bias;
    }
    for (long ky = taps.first_y; ky < taps.last_y; ky++) {
        const long row = (oy * l->stride_y - l->pad_y + ky * l->dilation_y) * p->w;
        for (long kx = taps.first_x; kx < taps.last_x; kx++) {
            const float *from = x + (row + ox * l->stride_x - l->pad_x + kx * l->dilation_x) * c + j;
            const float *weight = l->weight + (ky * l->kernel_x + kx) * c + j;
UNROLLED
            for (int v = 0; v < vectors; v++) {
                vf factor = part ? load_part_float(weight, part) : load_float(weight + v * LANES);
                if (factors) /* cheaper on the weight than on each pixel */
                    factor *= part ? load_part_float(factors + j, part) : load_float(factors + j + v * LANES);
UNROLLED
                for (int r = 0; r < pixels; r++)
                    sum[r * vectors + v] +=
                        factor * (part ? load_part_float(from + r * step, part) : load_float(from + r * step + v * LANES));
            }
        }
    }
    float *to = y + (oy * p->ow + ox) * c + j;
UNROLLED
    for (int r = 0; r < pixels; r++)
UNROLLED
        for (int v = 0; v < vectors; v++) {
            const vf value = activation_of(sum[r * vectors + v], (int)l->activation);
            total[v] += value;
            if (part)
                store_part_float(to + r * c, value, part);
            else
                store_float(to + r * c + v * LANES, value);
        }
    if (!sums)
        return;
    if (part || known) {
        const long many = part ? part : LANES;
        for (long i = known; i < many; i++)
            sums[j + i] += total[0][i];
        return;
    }
UNROLLED
    for (int v = 0; v < vectors; v++)
        store_float(sums + j + v * LANES, load_float(sums + j + v * LANES) + total[v]);
}

/* All channels of `pixels` pixels. */
INLINE void depthwise_run(const struct depthwise *p, const float *x, float *y, float *sums, long oy, long ox,
                          struct taps taps, const float *factors, const int pixels, const int vectors)
{
    const long c = p->layer->c;
    long j = 0;
    for (; j + vectors * LANES <= c; j += vectors * LANES)
        depthwise_block(p, x, y, sums, oy, ox, taps, factors, j, pixels, vectors, 0, 0);
    for (; j + LANES <= c; j += LANES)
        depthwise_block(p, x, y, sums, oy, ox, taps, factors, j, pixels, 1, 0, 0);
    if (j < c && c >= LANES)
        depthwise_block(p, x, y, sums, oy, ox, taps, factors, c - LANES, pixels, 1, 0, LANES - (c - j));
    else if (j < c)
        depthwise_block(p, x, y, sums, oy, ox, taps, factors, 0, pixels, 1, c, 0);
}

static void depthwise_task(const void *context, int64_t i)
{
    const struct depthwise *p = context;
    const struct senet_depthwise *l = p->layer;
    const long c = l->c, sample = i / p->bands, start = i % p->bands * p->band_rows;
    const long end = start + p->band_rows < p->oh ? start + p->band_rows : p->oh;
    const float *x = p->x + sample * p->h * p->w * c;
    float *y = p->y + sample * p->oh * p->ow * c, *sums = p->sums ? p->sums + i * c : NULL;
    const float *factors = p->factors ? p->factors + sample * c : NULL;
    if (sums)
        memset(sums, 0, (size_t)c * sizeof *sums);
    for (long oy = start; oy < end; oy++) {
        struct taps taps;
        taps_inside(oy, l->stride_y, l->pad_y, l->dilation_y, l->kernel_y, p->h, &taps.first_y, &taps.last_y);
        for (long ox = 0; ox < p->ow;) {
            taps_inside(ox, l->stride_x, l->pad_x, l->dilation_x, l->kernel_x, p->w, &taps.first_x, &taps.last_x);
            long run = 1;
            if (taps.first_x == 0 && taps.last_x == l->kernel_x) {
                const long last = (p->w - 1 - (l->kernel_x - 1) * l->dilation_x + l->pad_x) / l->stride_x;
                run = (last < p->ow - 1 ? last : p->ow - 1) - ox + 1;
            }
            if (run >= RUN) {
                depthwise_run(p, x, y, sums, oy, ox, taps, factors, RUN, 2);
                ox += RUN;
            } else if (run >= 4) {
                depthwise_run(p, x, y, sums, oy, ox, taps, factors, 4, 2);
                ox += 4;
            } else if (run >= 2) {
                depthwise_run(p, x, y, sums, oy, ox, taps, factors, 2, 4);
                ox += 2;
            } else {
                depthwise_run(p, x, y, sums, oy, ox, taps, factors, 1, 8);
                ox++;
            }
        }
    }
}

static int depthwise_pass(const struct senet_depthwise *layer, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow,
                          int64_t threads, const float *x, const float *factors, float *y, float *means)
{
    const long c = layer->c, piece = 1 << 17; /* products of a task */
    const long bands = divided(oh * ow * c * layer->kernel_y * layer->kernel_x, piece);
    struct depthwise p = {.layer = layer, .n = n, .h = h, .w = w, .oh = oh, .ow = ow, .x = x, .factors = factors, .y = y};
    p.band_rows = divided(oh, bands < oh ? bands : oh);
    p.bands = divided(oh, p.band_rows);
    if (means && !(p.sums = malloc((size_t)(n * p.bands * c) * sizeof *p.sums)))
        return 1;
    senet_parallel(depthwise_task, &p, n * p.bands, threads);
    if (means)
        join_parts(p.sums, n, p.bands, c, c, oh * ow, means);
    free(p.sums);
    return 0;
}
