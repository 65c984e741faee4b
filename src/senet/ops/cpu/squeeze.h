/* The parts of Squeeze-and-Excitation in inference, on float feature maps in channels_last memory: see `senet_excite` of
 * kernel.h. */

struct squeeze {
    long c, hw, parts; /* pieces of a sample */
    const float *x, *gate;
    float *sums, *y; /* sums (n, parts, c) */
};

/* From the sums of the parts of each sample to means (n, c). */
static void join_parts(const float *sums, long n, long parts, long c, long hw, float *means)
{
    const float one = 1 / (float)hw;
    for (long i = 0; i < n; i++, means += c) {
        memset(means, 0, (size_t)c * sizeof *means);
        for (long part = 0; part < parts; part++, sums += c)
            for (long j = 0; j < c; j++)
                means[j] += sums[j];
        for (long j = 0; j < c; j++)
            means[j] *= one;
    }
}

INLINE void squeeze_columns(const float *x, long rows, long c, const int vectors, long part, float *sums)
{
    vf sum[8];
UNROLLED
    for (int v = 0; v < vectors; v++)
        sum[v] = splat(0);
    for (long r = 0; r < rows; r++, x += c)
UNROLLED
        for (int v = 0; v < vectors; v++)
            sum[v] += part ? load_part_float(x, part) : load_float(x + v * LANES);
UNROLLED
    for (int v = 0; v < vectors; v++)
        if (part)
            store_part_float(sums, sum[v], part);
        else
            store_float(sums + v * LANES, sum[v]);
}

static void squeeze_task(const void *context, int64_t i)
{
    const struct squeeze *p = context;
    const long c = p->c, part = i % p->parts, from = part * p->hw / p->parts, to = (part + 1) * p->hw / p->parts;
    const float *x = p->x + (i / p->parts * p->hw + from) * c;
    float *sums = p->sums + i * c;
    long j = 0;
    for (; j + 8 * LANES <= c; j += 8 * LANES)
        squeeze_columns(x + j, to - from, c, 8, 0, sums + j);
    for (; j + LANES <= c; j += LANES)
        squeeze_columns(x + j, to - from, c, 1, 0, sums + j);
    if (j < c && c >= LANES)
        squeeze_columns(x + c - LANES, to - from, c, 1, 0, sums + c - LANES);
    else if (j < c)
        squeeze_columns(x, to - from, c, 1, c, sums);
}

static void scale_task(const void *context, int64_t i)
{
    const struct squeeze *p = context;
    const long c = p->c, part = i % p->parts, from = part * p->hw / p->parts, to = (part + 1) * p->hw / p->parts;
    const long start = (i / p->parts * p->hw + from) * c;
    const float *x = p->x + start, *gate = p->gate + i / p->parts * c;
    float *y = p->y + start;
    for (long r = 0; r < to - from; r++, x += c, y += c)
        for (long j = 0; j < c; j++)
            y[j] = x[j] * gate[j];
}

static int excite_pass(const struct senet_excitation *e, int64_t n, int64_t hw, int64_t threads, const float *x,
                       const float *means, float *gate, float *y)
{
    const long c = e->c, hidden = e->hidden, parts = divided(hw * c, 1 << 15) < hw ? divided(hw * c, 1 << 15) : hw;
    const long some = n * hw * c < 1 << 14 ? 1 : threads;
    const long sums = means ? 0 : n * (parts + 1) * c;
    float *room = malloc((size_t)(sums + n * hidden + 1) * sizeof *room), *all = room;
    if (!room)
        return 1;
    struct squeeze p = {.c = c, .hw = hw, .parts = parts, .x = x, .y = y, .gate = gate};
    if (!means) {
        float *found = take(&room, n * c);
        p.sums = take(&room, n * parts * c);
        senet_parallel(squeeze_task, &p, n * parts, some);
        join_parts(p.sums, n, parts, c, hw, found);
        means = found;
    }
    float *units = take(&room, n * hidden);
    multiply(threads, (struct product){block_a_bt, means, e->w1, e->b1, units, NULL, n, c, hidden, 0, 0}, hidden);
    for (long i = 0; i < n * hidden; i += LANES) {
        const long left = n * hidden - i, part = left < LANES ? left : 0;
        const vf unit = activation_of(part ? load_part_float(units + i, part) : load_float(units + i), (int)e->activation);
        if (part)
            store_part_float(units + i, unit, part);
        else
            store_float(units + i, unit);
    }
    multiply(threads, (struct product){block_a_bt, units, e->w2, e->b2, gate, NULL, n, hidden, c, 0, 0}, c);
    gates(gate, n * c, (enum gate)e->gate);
    if (y)
        senet_parallel(scale_task, &p, n * parts, some);
    free(all);
    return 0;
}
