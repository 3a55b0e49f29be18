/* Clips a value to int8, and to `lowest` or more: the zero point where there is a ReLU, else -128. */
static inline int8_t clip(int32_t value, int32_t lowest)
{
    value = value < -128 ? -128 : value > 127 ? 127 : value;
    return (int8_t)(value < lowest ? lowest : value);
}
