#if !defined(__AVX2__)
static OUT_OF_LINE void sum_dense1_tile(int32_t *sums, int32_t bias, const int8_t *in, int pitch, const int8_t *values,
                                    int taps)
{
    int32_t s0 = bias, s1 = bias, s2 = bias, s3 = bias, s4 = bias, s5 = bias, s6 = bias;
    NOT_UNROLLED
    for (int i = 0; i < taps; i++, in += pitch) {
        const int32_t weight = values[i];
        {% for output in range(7) %}
        s{{ output }} += weight * in[{{ output }}];
        {% endfor %}
    }
    {% for output in range(7) %}
    sums[{{ output }}] = s{{ output }};
    {% endfor %}
}
#endif

/* As sum_dense3, with one weight for each line. */
static OUT_OF_LINE void sum_dense1(int32_t *sums, int lines, int row_bytes, int width, int32_t bias, const int8_t *in,
                               int pitch, const int8_t *values, int taps)
{
#if defined(__AVX2__)
    for (int x = 0; x < width; x += lines == 2 ? 16 : 32) {
        const int second = lines == 2 ? row_bytes : width - x > 16 ? 16 : 0;
        struct tile tile = start_tile(bias);
        const int8_t *inputs = in + x;
        int i = 0;
        for (; i + 1 < taps; i += 2, inputs += 2 * pitch)
            add_products(&tile, inputs, inputs + pitch, second, pair(values[i], values[i + 1]));
        if (i < taps)
            add_products(&tile, inputs, inputs, second, pair(values[i], 0));
        store_half(sums + x, tile.sums);
        store_half(sums + x + (lines == 2 ? LINE : 16), tile.sums + 2);
    }
#else
    for (int line = 0; line < lines; line++, in += row_bytes, sums += LINE)
        for (int x = 0; x < width; x += TILE)
            sum_dense1_tile(sums + x, bias, in + x, pitch, values, taps);
#endif
}
