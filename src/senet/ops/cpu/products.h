/* Products of small matrices: a few rows (the samples of a batch) with the weights of a linear layer.
 *
 * Each computes a range of the result's columns or rows, with up to 16 vectors of it in registers. */

/* rows x columns numbers of a b^T: rows of a from `a` on, rows of b from `b` on. */
INLINE void dots(const float *a, const float *b, float *out, const int rows, const int columns, long inner,
                 long out_step)
{
    vf sum[16];
    long c = 0;
UNROLLED
    for (int v = 0; v < rows * columns; v++)
        sum[v] = splat(0);
    for (; c + LANES <= inner; c += LANES)
UNROLLED
        for (int j = 0; j < columns; j++) {
            vf factor = load_float(b + j * inner + c);
UNROLLED
            for (int r = 0; r < rows; r++)
                sum[j * rows + r] += load_float(a + r * inner + c) * factor;
        }
    for (int j = 0; j < columns; j++)
        for (int r = 0; r < rows; r++) {
            float total = sum_lanes(sum[j * rows + r]);
            for (long i = c; i < inner; i++)
                total += a[r * inner + i] * b[j * inner + i];
            out[r * out_step + j] = total;
        }
}

/* out[r][j] = bias[j] + sum over c of a[r][c] * b[j][c], j in [from, to); bias may be NULL. */
static void product_a_bt(const float *a, const float *b, const float *bias, float *out, long n, long inner,
                         long columns, long from, long to)
{
    for (long j = from; j < to;) {
        const int wide = j + 4 <= to;
        for (long r = 0; r < n;) {
            const int high = r + 4 <= n;
            const float *ar = a + r * inner, *bj = b + j * inner;
            float *at = out + r * columns + j;
            if (high && wide)
                dots(ar, bj, at, 4, 4, inner, columns);
            else if (high)
                dots(ar, bj, at, 4, 1, inner, columns);
            else if (wide)
                dots(ar, bj, at, 1, 4, inner, columns);
            else
                dots(ar, bj, at, 1, 1, inner, columns);
            r += high ? 4 : 1;
        }
        j += wide ? 4 : 1;
    }
    for (long r = 0; bias && r < n; r++)
        for (long j = from; j < to; j++)
            out[r * columns + j] += bias[j];
}

/* rows x (vectors * LANES) numbers of a sum of outer products: of a's columns (`a_row` between the rows of the result,
 * `a_step` between the terms) with b's rows. A `part` that isn't 0 is how many columns there are, with one vector. */
INLINE void outer(const float *a, long a_row, long a_step, const float *b, float *out, const int rows,
                  const int vectors, long part, long terms, long columns)
{
    vf sum[16];
UNROLLED
    for (int v = 0; v < rows * vectors; v++)
        sum[v] = splat(0);
    for (long i = 0; i < terms; i++)
UNROLLED
        for (int v = 0; v < vectors; v++) {
            const float *from = b + i * columns + v * LANES;
            vf right = part ? load_part_float(from, part) : load_float(from);
UNROLLED
            for (int r = 0; r < rows; r++)
                sum[r * vectors + v] += right * a[r * a_row + i * a_step];
        }
UNROLLED
    for (int r = 0; r < rows; r++)
UNROLLED
        for (int v = 0; v < vectors; v++) {
            float *to = out + r * columns + v * LANES;
            if (part)
                store_part_float(to, sum[r * vectors + v], part);
            else
                store_float(to, sum[r * vectors + v]);
        }
}

/* Rows [first, last) and columns [from, to) of such a sum. */
static void outer_block(const float *a, long a_row, long a_step, const float *b, float *out, long first, long last,
                        long from, long to, long terms, long columns)
{
    for (long c = from; c < to;) {
        const int wide = c + 4 * LANES <= to;
        const long part = to - c < LANES ? to - c : 0;
        for (long r = first; r < last;) {
            const int high = r + 4 <= last;
            const float *left = a + r * a_row;
            float *at = out + r * columns + c;
            if (high && wide)
                outer(left, a_row, a_step, b + c, at, 4, 4, 0, terms, columns);
            else if (wide)
                outer(left, a_row, a_step, b + c, at, 1, 4, 0, terms, columns);
            else if (high)
                outer(left, a_row, a_step, b + c, at, 4, 1, part, terms, columns);
            else
                outer(left, a_row, a_step, b + c, at, 1, 1, part, terms, columns);
            r += high ? 4 : 1;
        }
        c += wide ? 4 * LANES : LANES;
    }
}

/* out[r][c] = sum over j of a[r][j] * b[j][c], c in [from, to). */
static void product_a_b(const float *a, const float *b, float *out, long n, long inner, long columns, long from,
                        long to)
{
    outer_block(a, inner, 1, b, out, 0, n, from, to, inner, columns);
}

/* out[i][c] = sum over r of a[r][i] * b[r][c], and sums[i] that of a[r][i]; i in [from, to); sums may be NULL. */
static void product_at_b(const float *a, const float *b, float *out, float *sums, long n, long rows, long columns,
                         long from, long to)
{
    outer_block(a, 1, rows, b, out, from, to, 0, columns, n, columns);
    for (long i = from; sums && i < to; i++)
        sums[i] = 0;
    for (long r = 0; sums && r < n; r++)
        for (long i = from; i < to; i++)
            sums[i] += a[r * rows + i];
}
