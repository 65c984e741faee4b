/* The parts of Squeeze-and-Excitation in inference, on float feature maps in channels_last memory: see `senet_excite` of
 * kernel.h. */

struct squeeze {
    long c, hw, parts; /* pieces of a sample */
    const float *x, *gate, *added;
    float *sums, *y; /* sums (n, parts, c) */
    int activation;
};

/* From the sums of the parts of each sample, `step` numbers apart, to means (n, c). */
static void join_parts(const float *sums, long n, long parts, long step, long c, long hw, float *means)
{
    const float one = 1 / (float)hw;
    for (long i = 0; i < n; i++, means += c) {
        memset(means, 0, (size_t)c * sizeof *means);
        for (long part = 0; part < parts; part++, sums += step)
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

INLINE void scale_vector(const float *x, const float *gate, const float *added, float *y, long part, int activation)
{
    vf v = part ? load_part_float(x, part) * load_part_float(gate, part) : load_float(x) * load_float(gate);
    if (added)
        v = activation_of(v + (part ? load_part_float(added, part) : load_float(added)), activation);
    if (part)
        store_part_float(y, v, part);
    else
        store_float(y, v);
}

INLINE void scale_rows(const float *x, const float *gate, const float *added, float *y, long rows, long c,
                       const int adds, int activation)
{
    for (long r = 0; r < rows; r++, x += c, y += c, added += adds ? c : 0) {
        long j = 0;
        for (; j + LANES <= c; j += LANES)
            scale_vector(x + j, gate + j, adds ? added + j : NULL, y + j, 0, activation);
        if (j < c)
            scale_vector(x + j, gate + j, adds ? added + j : NULL, y + j, c - j, activation);
    }
}

static void scale_task(const void *context, int64_t i)
{
    const struct squeeze *p = context;
    const long c = p->c, part = i % p->parts, from = part * p->hw / p->parts, to = (part + 1) * p->hw / p->parts;
    const long start = (i / p->parts * p->hw + from) * c;
    const float *x = p->x + start, *gate = p->gate + i / p->parts * c;
    float *y = p->y + start;
    if (p->added)
        scale_rows(x, gate, p->added + start, y, to - from, c, 1, p->activation);
    else
        scale_rows(x, gate, NULL, y, to - from, c, 0, IDENTITY);
}

static long squeeze_parts(long hw, long c)
{
    const long parts = divided(hw * c, 1 << 15);
    return parts < hw ? parts : hw;
}

/* Floats of workspace for `means_of`. */
static long squeeze_floats(long n, long hw, long c) { return n * squeeze_parts(hw, c) * c; }

/* Means (n, c) of x (n, hw, c). */
static void means_of(const float *x, long n, long hw, long c, long threads, float *sums, float *means)
{
    const struct squeeze p = {.c = c, .hw = hw, .parts = squeeze_parts(hw, c), .x = x, .sums = sums};
    senet_parallel(squeeze_task, &p, n * p.parts, n * hw * c < 1 << 14 ? 1 : threads);
    join_parts(sums, n, p.parts, c, c, hw, means);
}

/* Gate (n, gates) of means (n, c); workspace: units (n, hidden). */
static void gate_of_means(const float *means, long n, const struct senet_excitation *e, long threads, float *units,
                          float *gate)
{
    const long hidden = e->hidden, all = e->gates;
    multiply(threads, (struct product){block_a_bt, means, e->w1, e->b1, units, NULL, n, e->c, hidden, 0, 0}, hidden);
    activate(units, units, n * hidden, (int)e->activation);
    multiply(threads, (struct product){block_a_bt, units, e->w2, e->b2, gate, NULL, n, hidden, all, 0, 0}, all);
    gates(gate, n * all, (enum gate)e->gate);
}

/* y = a(gate * x + added), or gate * x without `added`. */
static void scale_map(const float *x, const float *gate, const float *added, float *y, long n, long hw, long c,
                      int activation, long threads)
{
    const struct squeeze p = {.c = c, .hw = hw, .parts = squeeze_parts(hw, c), .x = x, .gate = gate, .added = added,
                              .y = y, .activation = activation};
    senet_parallel(scale_task, &p, n * p.parts, n * hw * c < 1 << 14 ? 1 : threads);
}

static int excite_pass(const struct senet_excitation *e, int64_t n, int64_t hw, int64_t threads, const float *x,
                       const float *means, float *gate, float *y)
{
    const long c = e->c, sums = means ? 0 : n * c + squeeze_floats(n, hw, c);
    float *room = malloc((size_t)(sums + n * e->hidden) * sizeof *room), *all = room;
    if (!room)
        return 1;
    if (!means) {
        float *found = take(&room, n * c);
        means_of(x, n, hw, c, threads, take(&room, squeeze_floats(n, hw, c)), found);
        means = found;
    }
    gate_of_means(means, n, e, threads, room, gate);
    if (y)
        scale_map(x, gate, NULL, y, n, hw, c, IDENTITY, threads);
    free(all);
    return 0;
}
