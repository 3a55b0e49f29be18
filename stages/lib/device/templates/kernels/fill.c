static OUT_OF_LINE void fill(int8_t *out, int8_t value, int bytes)
{
    while (bytes--)
        *out++ = value;
}
