/* The kernel, compiled once for each instruction set; SET names which one this is. */

#include "kernel.h"

#include <math.h>
#include <stdlib.h>

#include "vector.h"

#include "passes.h"
#include "excite.h"
#include "activation.h"
#include "gated_passes.h"
#define JOIN(a, b) a##b

#define T float
#define OF(name) JOIN(name, float)
#define LOAD load_float
#define STORE store_float
#include "passes_of.h"
#include "gated_passes_of.h"
#undef T
#undef OF
#undef LOAD
#undef STORE

#define T bf16
#define OF(name) JOIN(name, bf16)
#define LOAD load_bf16
#define STORE store_bf16
#include "passes_of.h"
#include "gated_passes_of.h"

#include "products.h"

/* --- how a step is divided -------------------------------------------------------------------------------------- */

/* The division depends on the shape alone, never on the threads: so do the sums, bit by bit. */
struct layout {
    long fold, width; /* pixels in a row of coefficients, numbers in it; a plane needs one pixel's */
    long parts, pixels; /* pieces of a sample (table), pixels in each but the last */
    long planes;        /* planes in a task (contiguous) */
    long tasks;
};

static long greatest_divisor(long a, long b)
{
    return b ? greatest_divisor(b, a % b) : a;
}

static long divided(long a, long by)
{
    return (a + by - 1) / by;
}

static struct layout layout_of(const struct senet_step *step)
{
    const long piece = 1 << 16; /* numbers in a task: far more than what starting one costs, and many of them */
    struct layout l = {1, step->c, 1, step->hw, 1, 1};
    if (!step->channels_last) {
        l.planes = step->hw >= piece ? 1 : piece / step->hw;
        l.tasks = divided(step->n * step->c, l.planes);
        return l;
    }
    if (step->c < 128) {
        l.fold = LANES / greatest_divisor(step->c, LANES);
        if (l.fold * step->c < 8 * LANES)
            l.fold *= 8 * LANES / (l.fold * step->c);
    }
    l.width = l.fold * step->c;
    l.pixels = divided(divided(piece, step->c), l.fold) * l.fold;
    l.parts = divided(step->hw, l.pixels);
    l.tasks = step->n * l.parts;
    return l;
}

/* The range of task `i`. */
struct range {
    long sample, part, from, numbers; /* table */
    long first, last;                 /* planes [first, last) */
};

static struct range range_of(const struct senet_step *step, const struct layout *l, long i)
{
    struct range r = {0};
    if (step->channels_last) {
        long start = i % l->parts * l->pixels, left = step->hw - start;
        r.sample = i / l->parts;
        r.part = i % l->parts;
        r.from = (r.sample * step->hw + start) * step->c;
        r.numbers = (left < l->pixels ? left : l->pixels) * step->c;
    } else {
        long all = step->n * step->c;
        r.first = i * l->planes;
        r.last = r.first + l->planes < all ? r.first + l->planes : all;
    }
    return r;
}

static struct piece piece_at(const struct piece *maps, long number, long size)
{
    long by = number * size;
    struct piece at = *maps;
    at.x = (const char *)at.x + by;
    at.shortcut = at.shortcut ? (const char *)at.shortcut + by : NULL;
    at.y = at.y ? (const char *)at.y + by : NULL;
    at.dy = at.dy ? (const char *)at.dy + by : NULL;
    at.out = at.out ? (char *)at.out + by : NULL;
    return at;
}

/* --- one pass over the feature maps ------------------------------------------------------------------------------- */

enum pass { MOMENTS, APPLY, SUMS, GRAD };

struct run {
    const struct senet_step *step;
    const struct layout *layout;
    const struct passes *passes;
    enum pass pass;
    struct piece maps;
    /* One row of coefficients, or one a sample: `a_sample` apart (0: all samples have the same). */
    struct coefficients of, sign;
    long a_sample;
    int masked; /* GRAD: dy isn't masked yet */
    /* MOMENTS, SUMS: what each task found, a column (table) or a plane. */
    float *first, *second;
    int backwards; /* start with what the pass before had last: it is still in the cache */
};

static struct coefficients moved(struct coefficients of, long pivots, long by)
{
    of.pivot += pivots;
    of.scale = of.scale ? of.scale + by : NULL;
    of.offset = of.offset ? of.offset + by : NULL;
    of.slope = of.slope ? of.slope + pivots : NULL;
    return of;
}

static void run_table(const struct run *run, struct range r, long i)
{
    const struct passes *p = run->passes;
    const long width = run->layout->width;
    struct piece at = piece_at(&run->maps, r.from, p->size);
    struct coefficients of = moved(run->of, 0, r.sample * run->a_sample);
    float *first = run->first ? run->first + i * width : NULL, *second = run->second ? run->second + i * width : NULL;
    if (run->pass == MOMENTS)
        p->moments(at, r.numbers, width, of.pivot, first, second);
    else if (run->pass == APPLY)
        p->apply(at, r.numbers, width, of);
    else if (run->pass == SUMS)
        p->sums(at, r.numbers, width, of, first, second);
    else if (run->masked)
        p->masked_grad(at, r.numbers, width, of, moved(run->sign, 0, r.sample * run->a_sample));
    else
        p->grad(at, r.numbers, width, of);
}

static void run_plane(const struct run *run, long plane)
{
    const struct passes *p = run->passes;
    const long hw = run->step->hw, c = plane % run->step->c, sample = plane / run->step->c;
    const long by = sample * run->a_sample + c;
    struct piece at = piece_at(&run->maps, plane * hw, p->size);
    struct coefficients of = moved(run->of, c, by);
    if (run->pass == MOMENTS)
        p->moments_plane(at, hw, 1, of.pivot, run->first + plane, run->second + plane);
    else if (run->pass == APPLY)
        p->apply_plane(at, hw, 1, of);
    else if (run->pass == SUMS)
        p->sums_plane(at, hw, 1, of, run->first + plane, run->second + plane);
    else if (run->masked)
        p->masked_grad_plane(at, hw, 1, of, moved(run->sign, c, by));
    else
        p->grad_plane(at, hw, 1, of);
}

static void run_task(const void *context, int64_t i)
{
    const struct run *run = context;
    if (run->backwards)
        i = run->layout->tasks - 1 - i;
    struct range r = range_of(run->step, run->layout, i);
    if (run->step->channels_last)
        run_table(run, r, i);
    else
        for (long plane = r.first; plane < r.last; plane++)
            run_plane(run, plane);
}

/* Fewer numbers than this are done before a second thread is awake. */
static long threads_for(const struct senet_step *step, long numbers)
{
    return numbers < 1 << 14 ? 1 : step->threads;
}

static void go(struct run *run, enum pass pass, int backwards)
{
    const struct senet_step *step = run->step;
    run->pass = pass;
    run->backwards = backwards;
    senet_parallel(run_task, run, run->layout->tasks, threads_for(step, step->n * step->c * step->hw));
}

/* --- small products, divided among threads ------------------------------------------------------------------------ */

struct product {
    void (*block)(const struct product *, long from, long to);
    const float *a, *b, *bias;
    float *out, *sums;
    long n, inner, columns, size, count;
};

static void block_a_bt(const struct product *p, long from, long to)
{
    product_a_bt(p->a, p->b, p->bias, p->out, p->n, p->inner, p->columns, from, to);
}

static void block_a_b(const struct product *p, long from, long to)
{
    product_a_b(p->a, p->b, p->out, p->n, p->inner, p->columns, from, to);
}

static void block_at_b(const struct product *p, long from, long to)
{
    product_at_b(p->a, p->b, p->out, p->sums, p->n, p->inner, p->columns, from, to);
}

static void product_task(const void *context, int64_t i)
{
    const struct product *p = context;
    long from = i * p->size, to = from + p->size;
    p->block(p, from, to < p->count ? to : p->count);
}

/* `count` columns (or rows) of the result; every number is computed by one task, always in the same order. */
static void multiply(long threads, struct product p, long count)
{
    const long work = p.n * p.inner * p.columns;
    p.count = count;
    p.size = work < 1 << 16 ? count : divided(divided(count, 8), 16) * 16;
    senet_parallel(product_task, &p, divided(count, p.size), threads);
}

#include "excitation.h"

/* --- coefficients ------------------------------------------------------------------------------------------------- */

/* Repeat rows of `c` values `fold` times each. `to` may not be `from`. */
static void repeat(const float *from, float *to, long rows, long c, long fold)
{
    for (long r = 0; r < rows; r++)
        for (long f = 0; f < fold; f++)
            memcpy(to + (r * fold + f) * c, from + r * c, (size_t)c * sizeof *to);
}

/* The values saved for the backward pass, by name. */
struct saved {
    float *pivot, *shift, *inverse, *mean, *gate, *hidden;
};

static struct saved saved_in(const struct senet_step *step, float *at)
{
    struct saved s = {at, at + step->c, at + 2 * step->c, NULL, NULL, NULL};
    if (step->hidden) {
        s.mean = at + 3 * step->c;
        s.gate = s.mean + step->n * step->c;
        s.hidden = s.gate + step->n * step->c;
    }
    return s;
}

/* v = t * scale + offset. */
static void affine(const struct senet_step *step, struct saved s, float *scale, float *offset)
{
    for (long c = 0; c < step->c; c++) {
        scale[c] = (step->gamma ? step->gamma[c] : 1) * s.inverse[c];
        offset[c] = (step->beta ? step->beta[c] : 0) - scale[c] * s.shift[c];
    }
}

/* to[n][c] = gate[n][c] * from[c] */
static void gated(const struct senet_step *step, const float *gate, const float *from, float *to)
{
    for (long n = 0; n < step->n; n++)
        for (long j = 0; j < step->c; j++)
            to[n * step->c + j] = gate[n * step->c + j] * from[j];
}

static const struct passes *passes_for(const struct senet_step *step)
{
    return step->bf16 ? &passes_bf16 : &passes_float;
}

/* --- forward pass --------------------------------------------------------------------------------------------------- */

static void first_pixel(const struct senet_step *step, const void *x, float *pivot)
{
    const long apart = step->channels_last ? 1 : step->hw;
    for (long c = 0; c < step->c; c++)
        pivot[c] = step->bf16 ? load_part_bf16((const bf16 *)x + c * apart, 1)[0] : ((const float *)x)[c * apart];
}

/* What is known of the norm before x is read: the pivot, and without training its shift and 1 / sqrt(var + eps). Without
 * mean and var there is no norm. */
static void begin_norm(const struct senet_step *step, const void *x, struct saved s)
{
    if (step->training) {
        first_pixel(step, x, s.pivot);
        return;
    }
    for (long i = 0; i < step->c; i++) {
        s.pivot[i] = step->mean ? step->mean[i] : 0;
        s.shift[i] = 0;
        s.inverse[i] = step->var ? (float)(1 / sqrt((double)step->var[i] + step->eps)) : 1;
    }
}

/* How many pixels column-group `folded` of a task had. */
static long pixels_in(const struct senet_step *step, const struct layout *l, long part, long folded)
{
    long start = part * l->pixels, left = step->hw - start, pixels = left < l->pixels ? left : l->pixels;
    return pixels / l->fold + (folded < pixels % l->fold);
}

/* From the results of a table's tasks to the mean of each sample, and the sum of squared deviations from it of all. */
static void join_moments(const struct senet_step *step, const struct layout *l, const float *mean, const float *m2,
                         float *sample_mean, double *square)
{
    const long c = step->c;
    for (long n = 0; n < step->n; n++) {
        float *to = sample_mean + n * c;
        memset(to, 0, (size_t)c * sizeof *to);
        for (long part = 0; part < l->parts; part++)
            for (long f = 0; f < l->fold; f++) {
                const float share = (float)pixels_in(step, l, part, f) / (float)step->hw;
                const float *from = mean + ((n * l->parts + part) * l->fold + f) * c;
                for (long i = 0; i < c; i++)
                    to[i] += share * from[i];
            }
        for (long part = 0; part < l->parts; part++)
            for (long f = 0; f < l->fold; f++) {
                const float count = (float)pixels_in(step, l, part, f);
                const long at = ((n * l->parts + part) * l->fold + f) * c;
                for (long i = 0; i < c; i++) {
                    float off = mean[at + i] - to[i];
                    square[i] += m2[at + i] + count * off * off;
                }
            }
    }
}

/* Mean of each sample; statistics of all. */
static void statistics_of(const struct senet_step *step, const struct layout *l, const float *mean, const float *m2,
                          float *sample_mean, double *sum, double *square, struct saved s, float *statistics)
{
    const long c = step->c, all = step->n * step->hw;
    memset(sum, 0, (size_t)c * sizeof *sum);
    memset(square, 0, (size_t)c * sizeof *square);
    if (step->channels_last)
        join_moments(step, l, mean, m2, sample_mean, square);
    else {
        memcpy(sample_mean, mean, (size_t)(step->n * c) * sizeof *mean);
        for (long n = 0; n < step->n; n++)
            for (long i = 0; i < c; i++)
                square[i] += m2[n * c + i];
    }
    if (!step->training)
        return;
    for (long n = 0; n < step->n; n++)
        for (long i = 0; i < c; i++)
            sum[i] += sample_mean[n * c + i];
    for (long i = 0; i < c; i++)
        sum[i] /= (double)step->n;
    for (long n = 0; n < step->n; n++)
        for (long i = 0; i < c; i++) {
            double off = sample_mean[n * c + i] - sum[i];
            square[i] += (double)step->hw * off * off;
        }
    for (long i = 0; i < c; i++) {
        s.shift[i] = (float)sum[i];
        s.inverse[i] = (float)(1 / sqrt(square[i] / (double)all + step->eps));
        statistics[i] = (float)(s.pivot[i] + sum[i]);
        statistics[c + i] = (float)(square[i] / (double)(all - 1));
    }
}

/* The gate of each sample and channel into s.gate. `work` is workspace for (n, c) and (n, hidden). */
static void excite(const struct senet_step *step, struct saved s, const float *scale, const float *offset, float *work)
{
    const long n = step->n, c = step->c;
    float *z = work, *a = work + n * c;
    for (long i = 0; i < n; i++)
        for (long j = 0; j < c; j++)
            z[i * c + j] = s.mean[i * c + j] * scale[j] + offset[j];
    excitation(step, RELU_1, z, s.hidden, a, s.gate);
}

/* Workspace of `floats`, taken from one allocation. */
static float *take(float **room, long floats)
{
    float *taken = *room;
    *room += floats;
    return taken;
}

/* Coefficients as the passes read them: rows of `width`. */
static const float *widened(const struct layout *l, const float *from, float **room, long rows, long c)
{
    float *to = take(room, rows * l->width);
    repeat(from, to, rows, c, l->fold);
    return to;
}

static int forward(const struct senet_step *step, const void *x, const void *shortcut, void *y, float *statistics,
                   float *saved)
{
    const struct layout l = layout_of(step);
    const long c = step->c, nc = step->n * c, rows = step->hidden ? step->n : 1;
    const long found = step->channels_last ? l.tasks * l.width : nc;
    const long floats = 2 * c + 2 * nc + 2 * rows * c + step->n * step->hidden + (1 + 2 * rows) * l.width + 2 * found;
    double *sums = malloc((size_t)(2 * c) * sizeof *sums + (size_t)floats * sizeof(float));
    if (!sums)
        return 1;
    float *room = (float *)(sums + 2 * c);
    float *scale = take(&room, c), *offset = take(&room, c), *sample_mean = take(&room, nc);
    struct saved s = saved_in(step, saved);
    struct run run = {.step = step, .layout = &l, .passes = passes_for(step), .maps = {.x = x, .shortcut = shortcut}};
    run.a_sample = step->hidden ? l.width : 0;

    begin_norm(step, x, s);
    run.of.pivot = widened(&l, s.pivot, &room, 1, c);
    if (step->training || step->hidden) {
        run.first = take(&room, found);
        run.second = take(&room, found);
        go(&run, MOMENTS, 0);
        statistics_of(step, &l, run.first, run.second, s.mean ? s.mean : sample_mean, sums, sums + c, s, statistics);
    }
    affine(step, s, scale, offset);
    if (step->hidden) {
        float *scales = take(&room, nc), *offsets = take(&room, nc);
        excite(step, s, scale, offset, take(&room, nc + step->n * step->hidden));
        gated(step, s.gate, scale, scales);
        gated(step, s.gate, offset, offsets);
        scale = scales;
        offset = offsets;
    }
    run.of.scale = widened(&l, scale, &room, rows, c);
    run.of.offset = widened(&l, offset, &room, rows, c);
    run.maps.out = y;
    go(&run, APPLY, 1);
    free(sums);
    return 0;
}

/* --- backward pass -------------------------------------------------------------------------------------------------- */

/* The results of the tasks, summed per sample. */
static void join_sums(const struct senet_step *step, const struct layout *l, const float *found, float *sum)
{
    const long c = step->c, rows = l->parts * l->fold;
    if (!step->channels_last) {
        memcpy(sum, found, (size_t)(step->n * c) * sizeof *sum);
        return;
    }
    memset(sum, 0, (size_t)(step->n * c) * sizeof *sum);
    for (long n = 0; n < step->n; n++)
        for (long row = 0; row < rows; row++)
            for (long i = 0; i < c; i++)
                sum[n * c + i] += found[(n * rows + row) * c + i];
}

/* From the sums of g and g * t of each sample to the gradients of the linear layers, and of the mean of v: into `dz`,
 * divided by the pixels. `work` is workspace for (n, c) twice and (n, hidden) twice. */
static void excite_back(const struct senet_step *step, struct saved s, const float *scale, const float *offset,
                        const float *g, const float *gt, const struct senet_gradients *to, float *dz, float *work)
{
    const long n = step->n, c = step->c;
    float *z = take(&work, n * c), *dgate = take(&work, n * c);
    for (long r = 0; r < n; r++)
        for (long j = 0, i = r * c; j < c; j++, i++) {
            z[i] = s.mean[i] * scale[j] + offset[j];
            dgate[i] = scale[j] * gt[i] + offset[j] * g[i];
        }
    excitation_back(step, RELU_1, z, s.hidden, s.gate, dgate, to, dz, work);
    for (long i = 0; i < n * c; i++)
        dz[i] /= (float)step->hw;
}

/* Sums over all of the gradient of v (dv), and of that times t - shift (dvt). Of one sample and channel they are, of
 * the part that comes straight: gate * g, gate * (gt - shift * g); by way of the gate: pixels * e, and with that
 * pixels * e * (mean - shift), where e is the gradient of v at each pixel. */
static void sums_of_v(const struct senet_step *step, struct saved s, const float *g, const float *gt, const float *e,
                      double *dv, double *dvt)
{
    const long c = step->c;
    const float *shift = s.shift;
    const double hw = (double)step->hw;
    memset(dv, 0, (size_t)c * sizeof *dv);
    memset(dvt, 0, (size_t)c * sizeof *dvt);
    for (long n = 0; n < step->n; n++, g += c, gt += c) {
        if (!step->hidden) {
            for (long j = 0; j < c; j++) {
                dv[j] += g[j];
                dvt[j] += gt[j] - (double)shift[j] * g[j];
            }
            continue;
        }
        const float *gate = s.gate + n * c, *mean = s.mean + n * c, *en = e + n * c;
        for (long j = 0; j < c; j++) {
            dv[j] += (double)gate[j] * g[j] + hw * en[j];
            dvt[j] += gate[j] * (gt[j] - (double)shift[j] * g[j]) + hw * en[j] * (mean[j] - shift[j]);
        }
    }
}

/* Gradients of gamma and beta, and the coefficients of dx = g * scales + offsets - t * slope. `offsets` holds the
 * gradient of v by way of the gate, a pixel; `level` is workspace for c. */
static void norm_back(const struct senet_step *step, struct saved s, const float *scale, const double *dv,
                      const double *dvt, float *scales, float *offsets, float *slope, float *level,
                      const struct senet_gradients *to)
{
    const long c = step->c;
    const double one = 1 / ((double)step->n * (double)step->hw);
    for (long j = 0; j < c; j++) {
        slope[j] = (float)(one * scale[j] * s.inverse[j] * s.inverse[j] * dvt[j]);
        level[j] = step->training ? (float)(one * scale[j] * dv[j]) - slope[j] * s.shift[j] : 0;
    }
    for (long j = 0; to->gamma && j < c; j++)
        to->gamma[j] = (float)(dvt[j] * s.inverse[j]);
    for (long j = 0; to->beta && j < c; j++)
        to->beta[j] = (float)dv[j];
    if (!step->hidden) {
        memcpy(scales, scale, (size_t)c * sizeof *scale);
        for (long j = 0; j < c; j++)
            offsets[j] = -level[j];
        return;
    }
    gated(step, s.gate, scale, scales);
    for (long n = 0; n < step->n; n++)
        for (long j = 0; j < c; j++)
            offsets[n * c + j] = scale[j] * offsets[n * c + j] - level[j];
}

static int backward(const struct senet_step *step, const void *dy, const void *x, const void *y, const float *saved,
                    void *dx, void *dshortcut, const struct senet_gradients *to)
{
    const struct layout l = layout_of(step);
    const long c = step->c, nc = step->n * c, rows = step->hidden ? step->n : 1;
    const long found = step->channels_last ? l.tasks * l.width : nc;
    const long floats = 4 * c + 8 * nc + 2 * step->n * step->hidden + (2 + 4 * rows) * l.width + 2 * found;
    double *sums = malloc((size_t)(2 * c) * sizeof *sums + (size_t)floats * sizeof(float));
    if (!sums)
        return 1;
    float *room = (float *)(sums + 2 * c);
    float *scale = take(&room, c), *offset = take(&room, c), *slope = take(&room, c), *level = take(&room, c);
    float *g = take(&room, nc), *gt = take(&room, nc), *scales = take(&room, nc), *offsets = take(&room, nc);
    struct saved s = saved_in(step, (float *)saved);
    struct run run = {.step = step, .layout = &l, .passes = passes_for(step)};
    run.maps = (struct piece){.x = x, .y = y, .dy = dy, .out = dshortcut};
    run.a_sample = step->hidden ? l.width : 0;
    run.of.pivot = run.sign.pivot = widened(&l, s.pivot, &room, 1, c);

    affine(step, s, scale, offset);
    if (!y) { /* the sign of the output comes from x */
        if (step->hidden) {
            gated(step, s.gate, scale, scales);
            gated(step, s.gate, offset, offsets);
        }
        run.of.scale = run.sign.scale = widened(&l, step->hidden ? scales : scale, &room, rows, c);
        run.of.offset = run.sign.offset = widened(&l, step->hidden ? offsets : offset, &room, rows, c);
    }
    run.first = take(&room, found);
    run.second = take(&room, found);
    go(&run, SUMS, 0);
    join_sums(step, &l, run.first, g);
    join_sums(step, &l, run.second, gt);
    if (step->hidden)
        excite_back(step, s, scale, offset, g, gt, to, offsets, take(&room, 2 * (nc + step->n * step->hidden)));
    sums_of_v(step, s, g, gt, offsets, sums, sums + c);
    norm_back(step, s, scale, sums, sums + c, scales, offsets, slope, level, to);
    run.of.scale = widened(&l, scales, &room, rows, c);
    run.of.offset = widened(&l, offsets, &room, rows, c);
    run.of.slope = step->training ? widened(&l, slope, &room, 1, c) : NULL;
    run.masked = !y;
    run.maps = (struct piece){.x = x, .dy = y ? dshortcut : dy, .out = dx};
    go(&run, GRAD, 1);
    free(sums);
    return 0;
}

/* --- inference ----------------------------------------------------------------------------------------------------- */

static int rescale(const struct senet_step *step, const void *x, const float *gate, const void *shortcut, void *y)
{
    const struct layout l = layout_of(step);
    const long rows = step->n;
    float *zeros = calloc((size_t)(2 * rows) * (size_t)l.width, sizeof *zeros), *room = zeros + rows * l.width;
    if (!zeros)
        return 1;
    struct run run = {.step = step, .layout = &l, .passes = passes_for(step), .a_sample = l.width};
    run.maps = (struct piece){.x = x, .shortcut = shortcut, .out = y};
    run.of.pivot = zeros;
    run.of.scale = widened(&l, gate, &room, rows, step->c);
    run.of.offset = zeros;
    go(&run, APPLY, 1);
    free(zeros);
    return 0;
}

#include "gated.h"
#include "squeeze.h"
#include "convolution.h"
#include "convolution_bf16.h"
#include "depthwise.h"

#define TEXT(name) #name
#define NAME(set) TEXT(set)
#define SYMBOL_(set) JOIN(senet_, set)
#define SYMBOL(set) SYMBOL_(set)

#ifndef __AMX_BF16__
#define convolution_bf16 NULL
#endif

const struct senet_instruction_set SYMBOL(SET) = {
    NAME(SET),   forward,    backward,          rescale,        gated_forward, gated_excite,
    gated_apply, gated_sums, gated_excite_back, gated_backward, convolution,   convolution_bf16,
    depthwise_pass, excite_pass,
};
