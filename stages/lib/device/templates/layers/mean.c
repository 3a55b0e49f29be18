{% set taken = inputs[0] %}
{% set height, width, channels = taken.step.output.shape %}
{% set count = height * width %}
/* {{ name }}: average over the image, {{ taken.step.output.shape | shape }} to {{ channels }}. */
static void {{ name }}_all(struct run *run, int8_t *out)
{
    int32_t sums[{{ channels }}];
    for (int i = 0; i < {{ channels }}; i++)
        sums[i] = {{ -count * taken.step.output.zero_point if step.kind == "mean" else 0 }};
    for (int y = 0; y < {{ height }}; y++) {
        const int8_t *in;
{% if not taken.is_whole %}
        {{ taken.step.name }}_until(run, {{ 1 | row(taken.end) }});
{% endif %}
        in = get_row(&run->{{ taken.step.name }}, {{ 1 | row(taken.first) }}, {{ taken.window.row_bytes }}){{ " + %d" | format(taken.column) if taken.column }};
        for (int i = 0; i < {{ channels }}; i++, in += {{ taken.window.pitch }})
            for (int x = 0; x < {{ width }}; x++)
                sums[i] += in[x];
    }
    for (int i = 0; i < {{ channels }}; i++)
{% if step.kind == "mean" %}
        out[i] = clip(scale(sums[i], {{ layer.scalings[0].multiplier }}, {{ layer.scalings[0].shift }}) + {{ step.output.zero_point | c_int }}, -128);
{% else %}
        out[i] = (int8_t)((sums[i] > 0 ? sums[i] + {{ count // 2 }} : sums[i] - {{ count // 2 }}) / {{ count }});
{% endif %}
}
