{% set units = step.output.shape[0] %}
{% set is_dense = layer.form.name == "dense" %}
/* {{ name }}: dense layer, {{ inputs[0].step.output.shape | shape }} to {{ units }}{{ ", with ReLU" if step.operation.relu }}.
   {{ layer.macs | number }} of {{ layer.dense_macs | number }} MACs, {{ layer.weights_bytes | number }} bytes of tables. */
{% include "layers/tables.c" %}

static void {{ name }}_all(const int8_t *in, int8_t *out)
{
{% if not is_dense %}
    const uint8_t *gaps = {{ name }}_gaps;
{% endif %}
    const int8_t *values = {{ name }}_values;
    for (int i = 0; i < {{ units }}; i++) {
        const int count = {{ layer.form.counts[0] if is_dense else name ~ "_counts[i]" }};
        const int32_t sum = dot_{{ "dense" if is_dense else "sparse" }}({{ name }}_bias[i], in, {{ "gaps, " if not is_dense }}values, count);
        out[i] = clip(scale_once(sum, {{ name }}_multiplier[i], {{ name }}_shift[i]) + {{ step.output.zero_point | c_int }}, {{ layer.lowest }});
{% if not is_dense %}
        gaps += count;
{% endif %}
        values += count;
    }
}
