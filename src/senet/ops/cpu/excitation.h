/* The excitation: two linear layers with an activation between them, and the gate's function, on (n, c) numbers. */

static void activate(const float *from, float *to, long many, const int kind)
{
    vf slope;
    long i = 0;
    for (; i + LANES <= many; i += LANES)
        store_float(to + i, activated(load_float(from + i), &slope, kind));
    if (i < many)
        store_part_float(to + i, activated(load_part_float(from + i, many - i), &slope, kind), many - i);
}

/* du times the slope of the activation at u. */
static void through_activation(float *du, const float *u, long many, const int kind)
{
    vf slope;
    long i = 0;
    for (; i + LANES <= many; i += LANES) {
        activated(load_float(u + i), &slope, kind);
        store_float(du + i, load_float(du + i) * slope);
    }
    if (i < many) {
        activated(load_part_float(u + i, many - i), &slope, kind);
        store_part_float(du + i, load_part_float(du + i, many - i) * slope, many - i);
    }
}

/* From z (n, c) to the gate (n, c). `units` (n, hidden) gets the first layer's result, `a` its activation. */
static void excitation(const struct senet_step *step, int kind, const float *z, float *units, float *a, float *gate)
{
    const long n = step->n, c = step->c, hidden = step->hidden;
    multiply(step->threads, (struct product){block_a_bt, z, step->w1, step->b1, units, NULL, n, c, hidden, 0, 0}, hidden);
    activate(units, a, n * hidden, kind);
    multiply(step->threads, (struct product){block_a_bt, a, step->w2, step->b2, gate, NULL, n, hidden, c, 0, 0}, c);
    gates(gate, n * c, (enum gate)step->gate);
}

/* From the gate's gradient to those of the linear layers and of z. `du` holds the gate's gradient and is overwritten;
 * `work` is workspace for (n, hidden) twice. */
static void excitation_back(const struct senet_step *step, int kind, const float *z, const float *units,
                            const float *gate, float *du, const struct senet_gradients *to, float *dz, float *work)
{
    const long n = step->n, c = step->c, hidden = step->hidden;
    float *a = work, *dh = work + n * hidden;
    activate(units, a, n * hidden, kind);
    through_gates(du, gate, n * c, (enum gate)step->gate);
    multiply(step->threads, (struct product){block_at_b, du, a, NULL, to->w2, to->b2, n, c, hidden, 0, 0}, c);
    multiply(step->threads, (struct product){block_a_b, du, step->w2, NULL, dh, NULL, n, c, hidden, 0, 0}, hidden);
    through_activation(dh, units, n * hidden, kind);
    multiply(step->threads, (struct product){block_at_b, dh, z, NULL, to->w1, to->b1, n, hidden, c, 0, 0}, hidden);
    multiply(step->threads, (struct product){block_a_b, dh, step->w1, NULL, dz, NULL, n, hidden, c, 0, 0}, c);
}
