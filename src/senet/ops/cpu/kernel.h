/* norm -> Squeeze-and-Excitation -> add -> ReLU, the residual epilogue, forward and backward.
 *
 *     v = gamma * (x - mean) / sqrt(var + eps) + beta        per channel
 *     s = gate(w2 relu(w1 mean(v) + b1) + b2)                per sample and channel; 1 without w1
 *     y = relu(s * v + shortcut)                             shortcut is 0 if NULL
 *
 * The same bits come out for any number of threads. Nothing is kept between calls.
 */
#ifndef SENET_KERNEL_H
#define SENET_KERNEL_H

#include <stdint.h>

/* Changes with every change of the functions below; the caller compares it with its own. */
#define SENET_ABI 9

/* The shape and options of a step. */
struct senet_step {
    int64_t n, c, hw;      /* samples, channels, pixels */
    int64_t hidden;        /* units between the two linear layers; 0: no Squeeze-and-Excitation */
    int64_t bf16;          /* feature maps are bfloat16, else float; all else is float */
    int64_t channels_last; /* feature maps are (n, hw, c) in memory, else (n, c, hw) */
    int64_t training;      /* the statistics are the batch's, else the given ones */
    int64_t gate;          /* see excite.h */
    int64_t threads;
    double eps;
    /* Parameters. gamma, beta, b1, b2 may be NULL; mean and var are those of evaluation. */
    const float *gamma, *beta, *mean, *var, *w1, *b1, *w2, *b2;
};

/* Floats that the backward pass needs besides the feature maps: pivot, shift, 1/sqrt(var + eps) (c each);
 * with hidden: mean of x (n, c), s (n, c), hidden units (n, hidden). */
#define SENET_SAVED(n, c, hidden) (3 * (c) + ((hidden) ? 2 * (n) * (c) + (n) * (hidden) : 0))

/* Gradients of the parameters; NULL where `struct senet_step` has none. */
struct senet_gradients {
    float *gamma, *beta, *w1, *b1, *w2, *b2;
};

/* `statistics` gets mean and unbiased variance of the batch (2, c) if training. Returns 0, or 1 without memory. */
typedef int senet_forward(const struct senet_step *, const void *x, const void *shortcut, void *y, float *statistics,
                          float *saved);
/* `y` is NULL if there was no shortcut, else `dshortcut` gets the shortcut's gradient. */
typedef int senet_backward(const struct senet_step *, const void *dy, const void *x, const void *y, const float *saved,
                           void *dx, void *dshortcut, const struct senet_gradients *);
/* y = relu(gate * x + shortcut) with the gate (n, c); y may be x. Of the step only shape, storage and threads count. */
typedef int senet_rescale(const struct senet_step *, const void *x, const float *gate, const void *shortcut, void *y);

/* norm -> activation a -> channel gate, in four calls; the caller computes the gate from the means, and its gradient.
 *
 *     z = mean(a(v))     per sample and channel
 *     y = gate * a(v)
 *
 * Of the step shape, storage, training, eps, threads, gamma, beta, mean and var count. `saved` is SENET_SAVED without
 * hidden. `sums`: of dy a, dy a', a', dy a' t, a' t with t = x - pivot (5, n, c); the first are the gate's gradient. */
typedef int senet_gated_forward(const struct senet_step *, int64_t activation, const void *x, float *statistics,
                                float *saved, float *z);
/* The gate from the means, for an excitation of two linear layers with `activation` between them: hidden, gate and w1 to
 * b2 count. `units` gets the first layer's result (n, hidden). */
typedef int senet_gated_excite(const struct senet_step *, int64_t activation, const float *z, float *units, float *gate);
typedef int senet_gated_excite_back(const struct senet_step *, int64_t activation, const float *z, const float *units,
                                    const float *gate, const float *dgate, float *dz, const struct senet_gradients *);
typedef int senet_gated_apply(const struct senet_step *, int64_t activation, const void *x, const float *saved,
                              const float *gate, void *y);
typedef int senet_gated_sums(const struct senet_step *, int64_t activation, const void *dy, const void *x,
                             const float *saved, float *sums);
/* `dz` is the gradient of z. Of `senet_gradients` gamma and beta are used. */
typedef int senet_gated_backward(const struct senet_step *, int64_t activation, const void *dy, const void *x,
                                 const float *saved, const float *gate, const float *dz, const float *sums, void *dx,
                                 const struct senet_gradients *);

/* A convolution and what follows it, in inference; feature maps are float, channels_last.
 *
 *     v = a(scale * (weight * (factors * x) + bias) + added)     for a see activation.h
 *     s = gate(w2 hidden_activation(w1 mean(v) + b1) + b2)       with `hidden` units, for `gates` channels
 *
 * `factors` (n, inner) and `scale` (n, c) are 1 if NULL, `added` 0. Without `hidden`, y is v. With it `scale` is NULL.
 * If the call's `s` (n, gates) isn't NULL, y is v, and s is written there. Else y is last(s * v + added), where `added`
 * isn't part of v, and `last` is none if it is NULL. `panels` holds `weight` as (panels, kernel_y, kernel_x, inner,
 * 32 channels); the last panel is filled up. */
struct senet_convolution {
    int64_t c, inner; /* channels of y, of x */
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    int64_t activation;
    int64_t hidden, gates, hidden_activation, gate, last_activation;
    const float *panels, *bias, *w1, *b1, *w2, *b2; /* w1 (hidden, c), w2 (gates, hidden); b1 and b2 may be NULL */
};

typedef int senet_convolution_pass(const struct senet_convolution *, int64_t n, int64_t h, int64_t w, int64_t oh,
                                   int64_t ow, int64_t threads, const float *x, const float *factors,
                                   const float *scale, const float *added, float *y, float *s);

/* The same of bfloat16 feature maps and parameters, without factors, and always with the call's `s` where there are
 * hidden units. `panels` holds (panels, kernel_y, kernel_x, inner / 32 filled up, 16, 32 channels of y, 2): pairs of
 * channels of x stand together. */
struct senet_convolution_bf16 {
    int64_t c, inner;
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    int64_t activation;
    int64_t hidden, gates, hidden_activation, gate;
    const uint16_t *panels, *bias, *w1, *b1, *w2, *b2;
};

typedef int senet_convolution_bf16_pass(const struct senet_convolution_bf16 *, int64_t n, int64_t h, int64_t w,
                                        int64_t oh, int64_t ow, int64_t threads, const uint16_t *x, const float *scale,
                                        const uint16_t *added, uint16_t *y, float *s);

/* A depthwise convolution, y = a(weight * (factors * x) + bias), and the means of y (n, c) unless NULL; in inference,
 * float, channels_last. `factors` (n, c) is 1 if NULL. */
struct senet_depthwise {
    int64_t c, kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    int64_t activation;
    const float *weight, *bias; /* (kernel_y, kernel_x, c), (c) */
};

typedef int senet_depthwise_pass(const struct senet_depthwise *, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow,
                                 int64_t threads, const float *x, const float *factors, float *y, float *means);

/* Squeeze-and-Excitation in inference, float, channels_last: gate (n, gates) = gate(w2 a(w1 mean(x) + b1) + b2), and
 * y = gate * x unless y is NULL, for as many gates as channels; y may be x. With `means` (n, c), x is read for y only. */
struct senet_excitation {
    int64_t c, gates, hidden, activation, gate;
    const float *w1, *b1, *w2, *b2; /* (hidden, c), (hidden) or NULL, (gates, hidden), (gates) or NULL */
};

typedef int senet_excite_pass(const struct senet_excitation *, int64_t n, int64_t hw, int64_t threads, const float *x,
                              const float *means, float *gate, float *y);

struct senet_instruction_set {
    const char *name;
    senet_forward *forward;
    senet_backward *backward;
    senet_rescale *rescale;
    senet_gated_forward *gated_forward;
    senet_gated_excite *gated_excite;
    senet_gated_apply *gated_apply;
    senet_gated_sums *gated_sums;
    senet_gated_excite_back *gated_excite_back;
    senet_gated_backward *gated_backward;
    senet_convolution_pass *convolution;
    senet_convolution_bf16_pass *convolution_bf16; /* NULL without instructions for it */
    senet_depthwise_pass *depthwise;
    senet_excite_pass *excite;
};

/* Run `task(context, i)` for i in [0, tasks), each once, on up to `threads` threads. */
void senet_parallel(void (*task)(const void *context, int64_t i), const void *context, int64_t tasks, int64_t threads);

#endif
