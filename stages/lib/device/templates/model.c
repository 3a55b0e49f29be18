/* A neural network; model.h says how to use it.

   layer          MACs done      of all  bytes of tables
{% for cost in costs %}
   {{ "%-12s %11s %11s %16s" | format(cost.name, cost.macs | number, cost.dense_macs | number, cost.weights_bytes | number) }}  {{ cost.form }}
{% endfor %}

   A row of a tensor is made when a later layer needs it, and overwritten when none does any more: of most tensors only
   a few rows exist at any time. A row holds one line for each channel. The arithmetic is that of LiteRT's reference
   kernels, bit for bit. */
#include "model.h"

#if defined(__GNUC__)
#define OUT_OF_LINE __attribute__((noinline)) /* one copy of each kernel: flash is small */
#else
#define OUT_OF_LINE
#endif

#if defined(__clang__)
#define NOT_UNROLLED _Pragma("clang loop unroll(disable)") /* all registers are taken */
#else
#define NOT_UNROLLED
#endif

#if defined(__AVX2__)
#include <immintrin.h>
#define TILE 32 /* outputs of a line that are computed together */
#else
#define TILE 7 /* outputs of a line that are computed together: their sums fit into registers */
#endif
#define LINE (({{ widest }} + TILE - 1) / TILE * TILE) /* place for the sums of a line */

typedef {{ offset_type }} offset_t; /* bytes from the start of a window */

const char *const model_class_names[MODEL_NUM_CLASSES] = {
{% for name in class_names %}
    {{ name | c_string }},
{% endfor %}
};

/* The int8 that stands for each value of a pixel. */
{{ quantized | table("int8_t quantized") }}

{% for kernel in kernels %}
{% include "kernels/" ~ kernel ~ ".c" %}

{% endfor %}
struct run {
    const int8_t *given;   /* quantized, or 0 */
    const uint8_t *pixels; /* or 0 */
{% for layer in layers if layer.step.is_image_like %}
    struct window {{ layer.step.name }};
{% endfor %}
};

{% for layer in layers %}
{% with step = layer.step, window = layer.window, inputs = layer.inputs, name = layer.step.name %}
{% include "layers/" ~ {"depthwise": "conv", "average_pool": "mean"}.get(step.kind, step.kind) ~ ".c" %}

{% endwith %}
{% endfor %}
static void run_model(struct run *run, int8_t *logits, int8_t *memory)
{
{% for phase in phases %}
{% set last = phase[-1] %}
    /* {{ phase | map(attribute="step.name") | join(", ") | wordwrap(112, wrapstring="\n       ") }} */
{% for layer in phase if layer.step.is_image_like %}
{% if layer.window.padding %}
    fill(memory + {{ layer.window.address }}, {{ layer.step.output.zero_point }}, {{ layer.window.size_bytes }});
{% endif %}
    open_window(&run->{{ layer.step.name }}, memory + {{ layer.window.address }}, {{ layer.window.padding }});
{% endfor %}
{% if last.step.is_image_like %}
    {{ last.step.name }}_until(run, {{ last.window.capacity }});
{% else %}
    {{ last.step.name }}_all({{ "memory + %d" | format(last.source_address) if last.step.kind == "dense" else "run" }}, {{ "memory + %d" | format(last.window.address) if last.window else "logits" }});
{% endif %}
{% endfor %}
}

void model_run(const int8_t *image, int8_t *logits, void *buffer)
{
    struct run run;
    run.given = image;
    run.pixels = 0;
    run_model(&run, logits, buffer);
}

int model_classify(const uint8_t *pixels, void *buffer)
{
    struct run run;
    int8_t logits[MODEL_NUM_CLASSES];
    int best = 0;
    run.given = 0;
    run.pixels = pixels;
    run_model(&run, logits, buffer);
    for (int i = 1; i < MODEL_NUM_CLASSES; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}
