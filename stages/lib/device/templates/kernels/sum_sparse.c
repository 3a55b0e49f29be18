#if !defined(__AVX2__)
/* Sums one tile: seven neighbouring outputs, in registers. */
static OUT_OF_LINE void sum_sparse_tile(int32_t *sums, int32_t bias, const int8_t *in, const offset_t *steps,
                                        const int8_t *values, int count)
{
    int32_t s0 = bias, s1 = bias, s2 = bias, s3 = bias, s4 = bias, s5 = bias, s6 = bias;
    NOT_UNROLLED
    for (int i = 0; i < count; i++) {
        const int32_t weight = values[i];
        in += steps[i];
        {% for output in range(7) %}
        s{{ output }} += weight * in[{{ output }}];
        {% endfor %}
    }
    {% for output in range(7) %}
    sums[{{ output }}] = s{{ output }};
    {% endfor %}
}
#endif

/* Sums bias + weight * input over the weights of one kernel that are not zero, for `width` neighbouring outputs, in one
   line or in two lines. `in` is the window of the first output; `steps` lead from its start to the input of the first
   weight, and from each one's input to the next. Some outputs more are computed: their sums are nonsense, but lie within
   `sums`, and their inputs within the buffer. */
static OUT_OF_LINE void sum_sparse(int32_t *sums, int lines, int row_bytes, int width, int32_t bias, const int8_t *in,
                                   const offset_t *steps, const int8_t *values, int count)
{
#if defined(__AVX2__)
    for (int x = 0; x < width; x += lines == 2 ? 16 : 32) {
        const int second = lines == 2 ? row_bytes : width - x > 16 ? 16 : 0;
        struct tile tile = start_tile(bias);
        const int8_t *a = in + x;
        int i = 0;
        for (; i + 1 < count; i += 2) {
            const int8_t *b = (a += steps[i]) + steps[i + 1];
            add_products(&tile, a, b, second, pair(values[i], values[i + 1]));
            a = b;
        }
        if (i < count) {
            a += steps[i];
            add_products(&tile, a, a, second, pair(values[i], 0));
        }
        store_half(sums + x, tile.sums);
        store_half(sums + x + (lines == 2 ? LINE : 16), tile.sums + 2);
    }
#else
    for (int line = 0; line < lines; line++, in += row_bytes, sums += LINE)
        for (int x = 0; x < width; x += TILE)
            sum_sparse_tile(sums + x, bias, in + x, steps, values, count);
#endif
}
