/* The gate functions, from the excitation's output to the factor. */

/* GATES of senet.nn.gate in their order, each plain and centred. */
enum gate { SIGMOID, SIGMOID_CENTRED, HARD, HARD_CENTRED, TANH, TANH_CENTRED, RELU, RELU_CENTRED };

/* e^x to about two units in the last place: 2^k e^r with |r| <= log(2) / 2. NaN stays NaN. */
INLINE vf exponential(vf x)
{
    const vf given = x;
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    x = (vf)(((vi)x & ~(vi)(x > 88.0f)) | ((vi)splat(88.0f) & (vi)(x > 88.0f)));
    x = (vf)(((vi)x & ~(vi)(x < -87.0f)) | ((vi)splat(-87.0f) & (vi)(x < -87.0f)));
    vf shifted = x * 1.44269504f + magic;
    vf k = shifted - magic;
    vf r = x - k * 0.693359375f + k * 2.12194440e-4f;
    vf p = splat(1.9841270e-4f);
    p = p * r + 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666668e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    const vi number = (vi)(given == given);
    return (vf)((((vi)p + ((vi)shifted << 23)) & number) | ((vi)given & ~number));
}

static void sigmoids(float *u, long many, float factor)
{
    long i = 0;
    for (; i + LANES <= many; i += LANES)
        store_float(u + i, factor / (1.0f + exponential(-load_float(u + i))));
    if (i < many)
        store_part_float(u + i, factor / (1.0f + exponential(-load_part_float(u + i, many - i))), many - i);
}

static float one_gate(float u, enum gate kind)
{
    float sixth;
    switch (kind) {
    case HARD:
    case HARD_CENTRED:
        sixth = (u < -3 ? 0 : u > 3 ? 6 : u + 3) / 6;
        return kind == HARD ? sixth : 2 * sixth;
    case TANH:
        return tanhf(u);
    case TANH_CENTRED:
        return 1 + tanhf(u);
    case RELU:
        return u < 0 ? 0 : u;
    default:
        return 1 + u < 0 ? 0 : 1 + u;
    }
}

/* u becomes the gate. */
static void gates(float *u, long many, enum gate kind)
{
    if (kind == SIGMOID || kind == SIGMOID_CENTRED)
        sigmoids(u, many, kind == SIGMOID ? 1 : 2);
    else
        for (long i = 0; i < many; i++)
            u[i] = one_gate(u[i], kind);
}

/* d gate / d u, known from the gate itself. */
INLINE float gate_slope(float s, enum gate kind)
{
    switch (kind) {
    case SIGMOID:
        return s * (1 - s);
    case SIGMOID_CENTRED:
        return s * (1 - s / 2);
    case HARD:
        return s > 0 && s < 1 ? 1.0f / 6 : 0;
    case HARD_CENTRED:
        return s > 0 && s < 2 ? 2.0f / 6 : 0;
    case TANH:
        return 1 - s * s;
    case TANH_CENTRED:
        return 1 - (s - 1) * (s - 1);
    default:
        return s > 0;
    }
}

/* du times the slope of the gate. */
static void through_gates(float *du, const float *s, long many, enum gate kind)
{
    if (kind == SIGMOID)
        for (long i = 0; i < many; i++)
            du[i] *= gate_slope(s[i], SIGMOID);
    else
        for (long i = 0; i < many; i++)
            du[i] *= gate_slope(s[i], kind);
}
