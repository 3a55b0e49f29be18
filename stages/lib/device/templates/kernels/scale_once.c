/* Scales a value by multiplier / 2^shift and rounds to the nearest integer: those of a dense layer are so precise that
   they give what LiteRT computes there in float64. */
static inline int32_t scale_once(int32_t value, int64_t multiplier, int shift)
{
    return (int32_t)((value * multiplier + ((int64_t)1 << (shift - 1))) >> shift);
}
