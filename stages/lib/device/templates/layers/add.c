{% set height, width, channels = step.output.shape %}
{% macro term(name, index) %}
{% set scaling = layer.scalings[index] %}
{% set value = "(%s[x] - %s)" | format(name, inputs[index].step.output.zero_point | c_int) %}
{% if scaling.shift < 1 %}{{ value }} * {{ 2 ** 19 }}{% else %}scale({{ value }} * {{ 2 ** 20 }}, {{ scaling.multiplier }}, {{ scaling.shift }}){% endif %}
{% endmacro %}
/* {{ name }}: sum of {{ inputs[0].step.name }} and {{ inputs[1].step.name }}, {{ step.output.shape | shape }}{{ ", with ReLU" if step.operation.relu }}. */
static void {{ name }}_row(const int8_t *a, const int8_t *b, int8_t *out)
{
    for (int i = 0; i < {{ channels }}; i++) {
        for (int x = 0; x < {{ width }}; x++) {
            const int32_t from_a = {{ term("a", 0) }};
            const int32_t from_b = {{ term("b", 1) }};
            const int32_t sum = scale(from_a + from_b, {{ layer.scalings[2].multiplier }}, {{ layer.scalings[2].shift }});
            out[x] = clip(sum + {{ step.output.zero_point | c_int }}, {{ layer.lowest }});
        }
        a += {{ inputs[0].window.pitch }};
        b += {{ inputs[1].window.pitch }};
        out += {{ window.pitch }};
    }
}

{% include "layers/rows.c" %}
