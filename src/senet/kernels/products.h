/* Products of small matrices: a few rows (the samples of a batch) with the weights of a linear layer. */

/* One to four rows of a against row j of b: b is read once. */
INLINE void dot_rows(const float *a, const float *b, float *out, const int rows, long inner, long out_step)
{
    vf sum[4] = {splat(0), splat(0), splat(0), splat(0)};
    long c = 0;
    for (; c + LANES <= inner; c += LANES) {
        vf factor = load_float(b + c);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            sum[r] += load_float(a + r * inner + c) * factor;
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        float total = sum_lanes(sum[r]);
        for (long i = c; i < inner; i++)
            total += a[r * inner + i] * b[i];
        out[r * out_step] += total;
    }
}

static void product_a_bt(const float *a, const float *b, const float *bias, float *out, long n, long inner,
                         long columns, long from, long to)
{
    for (long j = from; j < to; j++) {
        long r = 0;
        for (long i = 0; i < n; i++)
            out[i * columns + j] = bias ? bias[j] : 0;
        for (; r + 4 <= n; r += 4)
            dot_rows(a + r * inner, b + j * inner, out + r * columns + j, 4, inner, columns);
        for (; r < n; r++)
            dot_rows(a + r * inner, b + j * inner, out + r * columns + j, 1, inner, columns);
    }
}

/* out[0..many) += factor * b[0..many) */
INLINE void add_scaled(float *out, const float *b, float factor, long many)
{
    long c = 0;
    for (; c + LANES <= many; c += LANES)
        store_float(out + c, load_float(out + c) + load_float(b + c) * factor);
    for (; c < many; c++)
        out[c] += b[c] * factor;
}

static void product_a_b(const float *a, const float *b, float *out, long n, long inner, long columns, long from,
                        long to)
{
    for (long r = 0; r < n; r++)
        memset(out + r * columns + from, 0, (size_t)(to - from) * sizeof *out);
    for (long j = 0; j < inner; j++)
        for (long r = 0; r < n; r++)
            add_scaled(out + r * columns + from, b + j * columns + from, a[r * inner + j], to - from);
}

static void product_at_b(const float *a, const float *b, float *out, float *sums, long n, long rows, long columns,
                         long from, long to)
{
    for (long i = from; i < to; i++) {
        memset(out + i * columns, 0, (size_t)columns * sizeof *out);
        float sum = 0;
        for (long r = 0; r < n; r++) {
            sum += a[r * rows + i];
            add_scaled(out + i * columns, b + r * columns, a[r * rows + i], columns);
        }
        if (sums)
            sums[i] = sum;
    }
}
