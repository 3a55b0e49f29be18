{% if scales_lines_alone %}
#if !defined(__AVX2__)
{% endif %}
/* Scales a value by multiplier / 2^(31 + shift). It rounds twice, as LiteRT does: the product to 31 bits less, halves up,
   and the result of the shift, halves away from zero. */
static inline int32_t scale(int32_t value, int32_t multiplier, int shift)
{
{% if is_wide %}
    /* This network has factors of 1/2 and more, with a shift below 1, or sums of 31 bits. */
    const int64_t lifted = shift < 1 ? (int64_t)value * ((int64_t)1 << -shift) : value;
    const int64_t product = (lifted * multiplier + ((int64_t)1 << 30)) >> 31;
    if (shift < 1)
        return (int32_t)product;
    return (int32_t)((product + (product >> 63) + ((int64_t)1 << (shift - 1))) >> shift);
{% else %}
    const int32_t product = (int32_t)(((int64_t)(2 * value) * multiplier + ((int64_t)1 << 31)) >> 32);
    return (product + (product >> 31) + ((int32_t)1 << (shift - 1))) >> shift;
{% endif %}
}
{% if scales_lines_alone %}
#endif
{% endif %}
