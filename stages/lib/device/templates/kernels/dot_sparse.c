/* Sums bias + weight * input over the weights of one output that are not zero; a gap leads from one's input to the next. */
static OUT_OF_LINE int32_t dot_sparse(int32_t sum, const int8_t *in, const uint8_t *gaps, const int8_t *values, int count)
{
    while (count--) {
        in += *gaps++;
        sum += *values++ * *in;
    }
    return sum;
}
