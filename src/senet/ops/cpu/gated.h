/* norm -> activation -> gate: the calls that kernel.h describes, on the passes of gated_passes.h. */

enum gated_pass { GATED_MEAN, GATED_SUMS, GATED_APPLY, GATED_GRAD };

struct gated_run {
    const struct senet_step *step;
    const struct layout *layout;
    const struct gated_passes *passes;
    long size; /* bytes a number */
    enum gated_pass pass;
    struct piece maps;
    struct gated of; /* gate and of_mean are `a_sample` apart from sample to sample */
    long a_sample;
    float *found; /* MEAN, SUMS: what each task found, a column (table) or a plane; of one kind `apart` numbers */
    long apart;
    int backwards;
};

static void gated_task(const void *context, int64_t i)
{
    const struct gated_run *run = context;
    const struct senet_step *step = run->step;
    const struct gated_passes *p = run->passes;
    if (run->backwards)
        i = run->layout->tasks - 1 - i;
    const struct range r = range_of(step, run->layout, i);
    if (step->channels_last) {
        const long width = run->layout->width;
        const struct piece at = piece_at(&run->maps, r.from, run->size);
        struct gated of = run->of;
        of.gate = of.gate ? of.gate + r.sample * run->a_sample : NULL;
        of.of_mean = of.of_mean ? of.of_mean + r.sample * run->a_sample : NULL;
        if (run->pass == GATED_MEAN)
            p->mean(at, r.numbers, width, of, run->found + i * width, run->apart);
        else if (run->pass == GATED_SUMS)
            p->sums(at, r.numbers, width, of, run->found + i * width, run->apart);
        else
            (run->pass == GATED_APPLY ? p->apply : p->grad)(at, r.numbers, width, of);
        return;
    }
    for (long plane = r.first; plane < r.last; plane++) {
        const long c = plane % step->c;
        const struct piece at = piece_at(&run->maps, plane * step->hw, run->size);
        struct gated of = run->of;
        of.pivot += c;
        of.scale += c;
        of.offset += c;
        of.level = of.level ? of.level + c : NULL;
        of.slope = of.slope ? of.slope + c : NULL;
        of.gate = of.gate ? of.gate + plane : NULL;
        of.of_mean = of.of_mean ? of.of_mean + plane : NULL;
        if (run->pass == GATED_MEAN)
            p->mean_plane(at, step->hw, 1, of, run->found + plane, run->apart);
        else if (run->pass == GATED_SUMS)
            p->sums_plane(at, step->hw, 1, of, run->found + plane, run->apart);
        else
            (run->pass == GATED_APPLY ? p->apply_plane : p->grad_plane)(at, step->hw, 1, of);
    }
}

static void gated_go(struct gated_run *run, enum gated_pass pass, int backwards)
{
    const struct senet_step *step = run->step;
    run->pass = pass;
    run->backwards = backwards;
    senet_parallel(gated_task, run, run->layout->tasks, threads_for(step, step->n * step->c * step->hw));
}

/* Rows of coefficients: as they are in contiguous memory, repeated for each pixel of a row in channels_last memory. */
static const float *spread(const struct senet_step *step, const struct layout *l, const float *from, float **room,
                           long rows)
{
    return step->channels_last && l->fold > 1 ? widened(l, from, room, rows, step->c) : from;
}

/* v = t * scale + offset from what was saved. */
static struct gated_run gated_run_of(const struct senet_step *step, const struct layout *l, int64_t activation,
                                     struct saved s, float **room)
{
    float *scale = take(room, step->c), *offset = take(room, step->c);
    struct gated_run run = {.step = step, .layout = l, .a_sample = l->width};
    run.passes = (step->bf16 ? gated_passes_bf16 : gated_passes_float) + activation;
    run.size = step->bf16 ? sizeof(bf16) : sizeof(float);
    affine(step, s, scale, offset);
    run.of.pivot = spread(step, l, s.pivot, room, 1);
    run.of.scale = spread(step, l, scale, room, 1);
    run.of.offset = spread(step, l, offset, room, 1);
    return run;
}

static long gated_floats(const struct senet_step *step, const struct layout *l)
{
    return 2 * step->c + 3 * l->width;
}

static int gated_forward(const struct senet_step *step, int64_t activation, const void *x, float *statistics,
                         float *saved, float *z)
{
    const struct layout l = layout_of(step);
    const long c = step->c, nc = step->n * c, found = step->channels_last ? l.tasks * l.width : nc;
    const int straight = activation == IDENTITY; /* the mean of v follows from that of x */
    const long floats = gated_floats(step, &l) + nc + l.width + 2 * found;
    double *sums = malloc((size_t)(2 * c) * sizeof *sums + (size_t)floats * sizeof(float));
    if (!sums)
        return 1;
    float *room = (float *)(sums + 2 * c), *sample_mean = take(&room, nc), *first = take(&room, found);
    float *second = take(&room, found);
    struct saved s = saved_in(step, saved);
    begin_norm(step, x, s);
    if (step->training || straight) {
        struct run run = {.step = step, .layout = &l, .passes = passes_for(step), .maps = {.x = x}};
        run.of.pivot = widened(&l, s.pivot, &room, 1, c);
        run.first = first;
        run.second = second;
        go(&run, MOMENTS, 0);
        statistics_of(step, &l, first, second, sample_mean, sums, sums + c, s, statistics);
    }
    struct gated_run run = gated_run_of(step, &l, activation, s, &room);
    if (straight)
        for (long n = 0; n < step->n; n++)
            for (long j = 0; j < c; j++)
                z[n * c + j] = sample_mean[n * c + j] * run.of.scale[j] + run.of.offset[j];
    else {
        run.maps.x = x;
        run.found = first;
        run.apart = found;
        gated_go(&run, GATED_MEAN, 1);
        join_sums(step, &l, first, z);
        for (long i = 0; i < nc; i++)
            z[i] /= (float)step->hw;
    }
    free(sums);
    return 0;
}

static int gated_excite(const struct senet_step *step, int64_t activation, const float *z, float *units, float *gate)
{
    float *a = malloc((size_t)(step->n * step->hidden) * sizeof *a);
    if (!a)
        return 1;
    excitation(step, (int)activation, z, units, a, gate);
    free(a);
    return 0;
}

static int gated_excite_back(const struct senet_step *step, int64_t activation, const float *z, const float *units,
                             const float *gate, const float *dgate, float *dz, const struct senet_gradients *to)
{
    const long nc = step->n * step->c;
    float *du = malloc((size_t)(nc + 2 * step->n * step->hidden) * sizeof *du);
    if (!du)
        return 1;
    memcpy(du, dgate, (size_t)nc * sizeof *du);
    excitation_back(step, (int)activation, z, units, gate, du, to, dz, du + nc);
    free(du);
    return 0;
}

static int gated_apply(const struct senet_step *step, int64_t activation, const void *x, const float *saved,
                       const float *gate, void *y)
{
    const struct layout l = layout_of(step);
    float *all = malloc((size_t)(gated_floats(step, &l) + step->n * l.width) * sizeof *all), *room = all;
    if (!all)
        return 1;
    struct gated_run run = gated_run_of(step, &l, activation, saved_in(step, (float *)saved), &room);
    run.of.gate = spread(step, &l, gate, &room, step->n);
    run.maps = (struct piece){.x = x, .out = y};
    gated_go(&run, GATED_APPLY, 0);
    free(all);
    return 0;
}

static int gated_sums(const struct senet_step *step, int64_t activation, const void *dy, const void *x,
                      const float *saved, float *sums)
{
    const struct layout l = layout_of(step);
    const long nc = step->n * step->c, found = step->channels_last ? l.tasks * l.width : nc;
    float *all = malloc((size_t)(gated_floats(step, &l) + GRADIENT_SUMS * found) * sizeof *all), *room = all;
    if (!all)
        return 1;
    struct gated_run run = gated_run_of(step, &l, activation, saved_in(step, (float *)saved), &room);
    run.maps = (struct piece){.x = x, .dy = dy};
    run.found = take(&room, GRADIENT_SUMS * found);
    run.apart = found;
    gated_go(&run, GATED_SUMS, 0);
    for (int kind = 0; kind < GRADIENT_SUMS; kind++)
        join_sums(step, &l, run.found + kind * found, sums + kind * nc);
    free(all);
    return 0;
}

/* With dv = (gate dy + m) a', m = dz / pixels: the sums over all of dv and dv (t - shift) give the norm's gradients. */
static int gated_backward(const struct senet_step *step, int64_t activation, const void *dy, const void *x,
                          const float *saved, const float *gate, const float *dz, const float *sums, void *dx,
                          const struct senet_gradients *to)
{
    const struct layout l = layout_of(step);
    const long c = step->c, nc = step->n * c;
    const long floats = gated_floats(step, &l) + 2 * c + nc + 2 * l.width + 2 * step->n * l.width;
    double *dv = calloc((size_t)(2 * c) + ((size_t)floats + 1) / 2, sizeof *dv), *dvt = dv + c;
    if (!dv)
        return 1;
    float *room = (float *)(dv + 2 * c), *level = take(&room, c), *slope = take(&room, c), *m = take(&room, nc);
    const struct saved s = saved_in(step, (float *)saved);
    struct gated_run run = gated_run_of(step, &l, activation, s, &room);
    for (long n = 0, i = 0; n < step->n; n++)
        for (long j = 0; j < c; j++, i++) {
            const float *of = sums + i;
            m[i] = dz[i] / (float)step->hw;
            dv[j] += (double)gate[i] * of[nc] + (double)m[i] * of[2 * nc];
            dvt[j] += gate[i] * (of[3 * nc] - (double)s.shift[j] * of[nc]) +
                      m[i] * (of[4 * nc] - (double)s.shift[j] * of[2 * nc]);
        }
    const double one = 1 / ((double)step->n * (double)step->hw);
    for (long j = 0; j < c; j++) {
        const float scale = run.of.scale[j];
        slope[j] = (float)(one * scale * s.inverse[j] * s.inverse[j] * dvt[j]);
        level[j] = (float)(one * scale * dv[j]) - slope[j] * s.shift[j];
        if (to->gamma)
            to->gamma[j] = (float)(dvt[j] * s.inverse[j]);
        if (to->beta)
            to->beta[j] = (float)dv[j];
    }
    run.of.level = spread(step, &l, level, &room, 1);
    run.of.slope = step->training ? spread(step, &l, slope, &room, 1) : NULL;
    run.of.gate = spread(step, &l, gate, &room, step->n);
    run.of.of_mean = spread(step, &l, m, &room, step->n);
    run.maps = (struct piece){.x = x, .dy = dy, .out = dx};
    gated_go(&run, GATED_GRAD, 1);
    free(dv);
    return 0;
}
