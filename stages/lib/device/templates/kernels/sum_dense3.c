#if !defined(__AVX2__)
static OUT_OF_LINE void sum_dense3_tile(int32_t *sums, int32_t bias, const int8_t *in, int pitch, const int8_t *values,
                                    int taps)
{
    int32_t s0 = bias, s1 = bias, s2 = bias, s3 = bias, s4 = bias, s5 = bias, s6 = bias;
    NOT_UNROLLED
    for (int i = 0; i < taps; i++, in += pitch) {
        const int32_t a = values[0], b = values[1], c = values[2];
        int32_t input = in[0];
        s0 += a * input;
        input = in[1];
        s0 += b * input;
        s1 += a * input;
        input = in[2];
        s0 += c * input;
        s1 += b * input;
        s2 += a * input;
        input = in[3];
        s1 += c * input;
        s2 += b * input;
        s3 += a * input;
        input = in[4];
        s2 += c * input;
        s3 += b * input;
        s4 += a * input;
        input = in[5];
        s3 += c * input;
        s4 += b * input;
        s5 += a * input;
        input = in[6];
        s4 += c * input;
        s5 += b * input;
        s6 += a * input;
        input = in[7];
        s5 += c * input;
        s6 += b * input;
        input = in[8];
        s6 += c * input;
        values += 3;
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
    sums[4] = s4;
    sums[5] = s5;
    sums[6] = s6;
}
#endif

/* As sum_sparse, for a kernel with all its weights: three neighbours for each of `taps` lines of the input, which are
   `pitch` bytes apart. */
static OUT_OF_LINE void sum_dense3(int32_t *sums, int lines, int row_bytes, int width, int32_t bias, const int8_t *in,
                               int pitch, const int8_t *values, int taps)
{
#if defined(__AVX2__)
    for (int x = 0; x < width; x += lines == 2 ? 16 : 32) {
        const int second = lines == 2 ? row_bytes : width - x > 16 ? 16 : 0;
        struct tile tile = start_tile(bias);
        const int8_t *inputs = in + x;
        for (int i = 0; i < 3 * taps; i += 3, inputs += pitch) {
            add_products(&tile, inputs, inputs + 1, second, pair(values[i], values[i + 1]));
            add_products(&tile, inputs + 2, inputs + 2, second, pair(values[i + 2], 0));
        }
        store_half(sums + x, tile.sums);
        store_half(sums + x + (lines == 2 ? LINE : 16), tile.sums + 2);
    }
#else
    for (int line = 0; line < lines; line++, in += row_bytes, sums += LINE)
        for (int x = 0; x < width; x += TILE)
            sum_dense3_tile(sums + x, bias, in + x, pitch, values, taps);
#endif
}
