/* Finds one of the rows that a window holds; it is counted as `end` is. */
static inline const int8_t *get_row(const struct window *window, int row, int row_bytes)
{
    return window->rows + (row - (window->end - window->held)) * row_bytes;
}
