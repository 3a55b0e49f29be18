/* Takes the largest of every 2x2 pixels of one line; the line below is `row_bytes` further on. */
static OUT_OF_LINE void max_pool(int8_t *restrict out, int width, const int8_t *restrict in, int row_bytes)
{
    for (int x = 0; x < width; x++) {
        const int8_t *upper = in + 2 * x, *lower = upper + row_bytes;
        const int8_t above = upper[0] > upper[1] ? upper[0] : upper[1];
        const int8_t below = lower[0] > lower[1] ? lower[0] : lower[1];
        out[x] = above > below ? above : below;
    }
}
