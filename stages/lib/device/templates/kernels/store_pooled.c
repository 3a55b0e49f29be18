/* Scales the largest of every 2x2 sums to int8: as scaling keeps their order, it is the largest int8, too. */
static OUT_OF_LINE void store_pooled(int8_t *restrict out, int width, const int32_t *restrict sums, int32_t multiplier,
                                     int shift, int32_t zero_point, int32_t lowest)
{
{% if not is_wide %}
#if defined(__AVX2__)
    for (int x = 0; x < width; x += 8) {
        const int start = get_start(x, width);
        const int32_t *upper = sums + 2 * start, *lower = upper + LINE;
        const __m256i first = _mm256_max_epi32(load_eight(upper), load_eight(lower));
        const __m256i second = _mm256_max_epi32(load_eight(upper + 8), load_eight(lower + 8));
        const __m256i largest = max_of_pairs(first, second);
        store_eight(out + start, width, scale_eight(largest, multiplier, shift, zero_point, lowest));
    }
#else
{% endif %}
    for (int x = 0; x < width; x++) {
        const int32_t *upper = sums + 2 * x, *lower = upper + LINE;
        const int32_t above = upper[0] > upper[1] ? upper[0] : upper[1];
        const int32_t below = lower[0] > lower[1] ? lower[0] : lower[1];
        const int32_t sum = above > below ? above : below;
        out[x] = clip(scale(sum, multiplier, shift) + zero_point, lowest);
    }
{% if not is_wide %}
#endif
{% endif %}
}
