/* The activations between a norm and an attention layer, and their slopes. */

/* ACTIVATIONS of senet.ops.activation_functions in their order. */
enum activation { IDENTITY, RELU_1, RELU6, SILU, HARD_SWISH, GELU, ACTIVATIONS };

INLINE vf blend(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }

/* Phi(v) and phi(v) of the normal distribution; erf is Abramowitz & Stegun 7.1.26, to 1.5e-7. */
INLINE vf normal(vf v, vf *density)
{
    const vf size = blend((vi)(v < 0), -v, v) * 0.70710678f;
    const vf bell = exponential(-size * size), k = 1.0f / (1.0f + 0.3275911f * size);
    vf p = splat(1.061405429f);
    p = p * k - 1.453152027f;
    p = p * k + 1.421413741f;
    p = p * k - 0.284496736f;
    p = p * k + 0.254829592f;
    const vf half = 0.5f * p * k * bell;
    *density = 0.39894228f * bell;
    return blend((vi)(v < 0), half, 1.0f - half);
}

/* a(v), and a'(v) into `slope`; where one of the two isn't used, the compiler leaves it out. */
INLINE vf activated(vf v, vf *slope, const int kind)
{
    const vf zero = splat(0), one = splat(1);
    vf s, density;
    switch (kind) {
    case RELU_1:
        *slope = where_positive(v, one);
        return where_positive(v, v);
    case RELU6:
        *slope = blend((vi)(v >= 6.0f), zero, where_positive(v, one));
        return blend((vi)(v > 6.0f), splat(6), where_positive(v, v));
    case SILU:
        s = 1.0f / (1.0f + exponential(-v));
        *slope = s * (1.0f + v * (1.0f - s));
        return v * s;
    case HARD_SWISH:
        s = blend((vi)(v < -3.0f), zero, blend((vi)(v > 3.0f), one, (v + 3.0f) * (1.0f / 6)));
        *slope = blend((vi)(v < -3.0f), zero, blend((vi)(v > 3.0f), one, v * (1.0f / 3) + 0.5f));
        return v * s;
    case GELU:
        s = normal(v, &density);
        *slope = s + v * density;
        return v * s;
    default:
        *slope = one;
        return v;
    }
}

/* a(v) for an activation that is known at run time only. */
INLINE vf activation_of(vf v, int kind)
{
    vf slope;
    switch (kind) {
    case RELU_1:
        return activated(v, &slope, RELU_1);
    case RELU6:
        return activated(v, &slope, RELU6);
    case SILU:
        return activated(v, &slope, SILU);
    case HARD_SWISH:
        return activated(v, &slope, HARD_SWISH);
    case GELU:
        return activated(v, &slope, GELU);
    default:
        return v;
    }
}
