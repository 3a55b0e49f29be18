/* Scales a line of sums to int8. */
static OUT_OF_LINE void store_line(int8_t *restrict out, int width, const int32_t *restrict sums, int32_t multiplier,
                                   int shift, int32_t zero_point, int32_t lowest)
{
{% if not is_wide %}
#if defined(__AVX2__)
    for (int x = 0; x < width; x += 8) {
        const int start = get_start(x, width);
        store_eight(out + start, width, scale_eight(load_eight(sums + start), multiplier, shift, zero_point, lowest));
    }
#else
{% endif %}
    for (int x = 0; x < width; x++)
        out[x] = clip(scale(sums[x], multiplier, shift) + zero_point, lowest);
{% if not is_wide %}
#endif
{% endif %}
}
