/* Makes rows of {{ name }} until there are `end`, those above and below the image included. */
static void {{ name }}_until(struct run *run, int end)
{
    while (run->{{ name }}.end < end) {
        const int y = run->{{ name }}.end{{ " - 1" if window.padding }};
        int8_t *out;
{% if window.padding %}
        if (y == {{ step.output.shape[0] }}) {
            out = push_row(&run->{{ name }}, {{ window.row_bytes }}, {{ window.capacity }}, {{ window.keep }});
            fill(out, {{ step.output.zero_point }}, {{ window.row_bytes }});
            continue;
        }
{% endif %}
{% for taken in inputs if not taken.is_whole %}
        {{ taken.step.name }}_until(run, {{ step.stride | row(taken.end) }});
{% endfor %}
        out = push_row(&run->{{ name }}, {{ window.row_bytes }}, {{ window.capacity }}, {{ window.keep }}){{ " + 1" if window.padding }};
{% if step.kind == "image" %}
        image_row(run, y, out);
{% else %}
        {{ name }}_row(
{%- for taken in inputs -%}
get_row(&run->{{ taken.step.name }}, {{ step.stride | row(taken.first) }}, {{ taken.window.row_bytes }}){{ " + %d" | format(taken.column) if taken.column }}, {% endfor %}out);
{% endif %}
    }
}
