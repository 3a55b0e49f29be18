/* Some neighbouring rows of a tensor. A row holds one line for each channel, one after the other. Where the tensor is
   padded, the first and the last row of its image stand for what is above and below, and each line starts with the pixel
   on its left, which also is the one on the right of the line before. */
struct window {
    int8_t *rows; /* the held ones, in order */
    int end;      /* rows that were made so far, padding included */
    int held;     /* the last ones of them, which are still there */
};

static void open_window(struct window *window, int8_t *rows, int padding)
{
    window->rows = rows;
    window->end = window->held = padding;
}

/* Copies one row, of a multiple of four bytes or not; compilers make words or vectors of the four. */
static OUT_OF_LINE void copy_row(int8_t *restrict to, const int8_t *restrict from, int bytes)
{
    for (; bytes >= 4; bytes -= 4, to += 4, from += 4) {
        to[0] = from[0];
        to[1] = from[1];
        to[2] = from[2];
        to[3] = from[3];
    }
    while (bytes--)
        *to++ = *from++;
}

/* Makes place for one more row and returns it. If there is none, the last `keep` rows move to the front. */
static OUT_OF_LINE int8_t *push_row(struct window *window, int row_bytes, int capacity, int keep)
{
    if (window->held == capacity) {
        for (int row = 0; row < keep; row++)
            copy_row(window->rows + row * row_bytes, window->rows + (capacity - keep + row) * row_bytes, row_bytes);
        window->held = keep;
    }
    window->end++;
    return window->rows + window->held++ * row_bytes;
}
