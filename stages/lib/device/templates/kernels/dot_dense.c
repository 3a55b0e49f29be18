/* Sums bias + weight * input over all inputs. */
static OUT_OF_LINE int32_t dot_dense(int32_t sum, const int8_t *in, const int8_t *values, int count)
{
    while (count--)
        sum += *values++ * *in++;
    return sum;
}
