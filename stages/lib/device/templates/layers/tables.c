{% for part, table in layer.tables.items() %}
{{ table | table("%s %s_%s" | format("offset_t" if part == "steps" else table.dtype.name ~ "_t", name, part)) }}
{% endfor %}
