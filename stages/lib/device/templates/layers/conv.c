{% set height, width, channels = step.output.shape %}
{% set lines = 2 if step.is_pooled else 1 %}
{% set form = layer.form.name %}
/* {{ name }}: {{ "depthwise " if step.kind == "depthwise" }}convolution of {{ layer.taps }}x{{ layer.taps }} pixels, {{ inputs[0].step.output.shape | shape }} to {{ step.output.shape | shape }}{{ " after a 2x2 max pool" if step.is_pooled }}{{ ", with ReLU" if step.operation.relu }}.
   {{ layer.macs | number }} of {{ layer.dense_macs | number }} MACs, {{ layer.weights_bytes | number }} bytes of tables. */
{% include "layers/tables.c" %}

static void {{ name }}_row(const int8_t *in, int8_t *out)
{
    int32_t sums[{{ lines }} * LINE];
{% if form == "steps" %}
    const offset_t *steps = {{ name }}_steps;
{% elif form == "gaps" %}
    offset_t steps[{{ [layer.form.counts.max(), 1] | max }}];
    const uint8_t *gaps = {{ name }}_gaps;
{% endif %}
    const int8_t *values = {{ name }}_values;
    for (int i = 0; i < {{ channels }}; i++) {
{% if form == "dense" %}
        sum_dense{{ layer.taps }}(sums, {{ lines }}, {{ inputs[0].window.row_bytes }}, {{ layer.sums_per_line }}, {{ name }}_bias[i], in, {{ layer.tap_pitch }}, values, {{ layer.form.counts[0] // layer.taps }});
        values += {{ layer.form.counts[0] }};
{% else %}
        const int count = {{ name }}_counts[i];
{% if form == "gaps" %}
        expand(steps, gaps, count, {{ layer.taps }}, {{ layer.tap_pitch }});
{% endif %}
        sum_sparse(sums, {{ lines }}, {{ inputs[0].window.row_bytes }}, {{ layer.sums_per_line }}, {{ name }}_bias[i], in, steps, values, count);
        {{ form }} += count;
        values += count;
{% endif %}
        store_{{ "pooled" if step.is_pooled else "line" }}(out, {{ width }}, sums, {{ name }}_multiplier[i], {{ name }}_shift[i], {{ step.output.zero_point }}, {{ layer.lowest }});
        out += {{ window.pitch }};
{% if step.kind == "depthwise" %}
        in += {{ inputs[0].window.pitch }};
{% endif %}
    }
}

{% include "layers/rows.c" %}
