/* The image. */
static void image_row(const struct run *run, int y, int8_t *out)
{
{% set height, width, channels = step.output.shape %}
    for (int channel = 0; channel < {{ channels }}; channel++, out += {{ window.pitch }})
        for (int x = 0; x < {{ width }}; x++) {
            const int place = (y * {{ width }} + x) * {{ channels }} + channel;
            out[x] = run->pixels ? quantized[run->pixels[place]] : run->given[place];
        }
}

{% include "layers/rows.c" %}
