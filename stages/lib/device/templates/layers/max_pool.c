{% set height, width, channels = step.output.shape %}
/* {{ name }}: max pool of 2x2 pixels, {{ inputs[0].step.output.shape | shape }} to {{ step.output.shape | shape }}. */
static void {{ name }}_row(const int8_t *in, int8_t *out)
{
    for (int i = 0; i < {{ channels }}; i++, in += {{ inputs[0].window.pitch }}, out += {{ window.pitch }})
        max_pool(out, {{ width }}, in, {{ inputs[0].window.row_bytes }});
}

{% include "layers/rows.c" %}
