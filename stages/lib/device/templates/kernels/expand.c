/* Turns the gaps between the places of a kernel's weights into the steps between their inputs, in bytes: each line of
   the input has `taps` weights, 3 or 1, and lines are `pitch` bytes apart. */
static OUT_OF_LINE void expand(offset_t *steps, const uint8_t *gaps, int count, uint32_t taps, uint32_t pitch)
{
    uint32_t place = 0, last = 0;
    for (int i = 0; i < count; i++) {
        uint32_t line, offset;
        place += gaps[i];
        line = taps == 3 ? place * 43691 >> 17 : place; /* place / taps, as long as place is below 98,304 */
        offset = place + line * (pitch - taps);
        steps[i] = (offset_t)(offset - last);
        last = offset;
    }
}
