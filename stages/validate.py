"""Is params.yaml sound? Checks it for all stages, before any other, so that a slip costs a second and not a training.

Reads params.yaml; writes nothing. Every stage checks the sections that it reads again when it starts: this one also
runs when a change concerns no other stage, such as a misspelt key, and before DVC looks up the models and augmentations
that the study names. And it tells now whether the model that will be chosen can be shrunk, whichever that is.
"""

import itertools
from dataclasses import asdict, fields

from stages.lib.compression_params import CompressionParams, load_compression_params
from stages.lib.filters import scale_architecture
from stages.lib.params import Params, check_section_names, load_params
from stages.lib.runner import run_stage

TOOL_SECTIONS = ("search",)
"""Which no stage reads: their tools check them, and a slip there does not stop the pipeline."""


def main() -> None:
    """Runs the stage."""
    stage_sections = [field.name for kind in (Params, CompressionParams) for field in fields(kind)]
    check_section_names([*stage_sections, *TOOL_SECTIONS])
    params, compression = load_params(), load_compression_params()
    for model, share in itertools.product(params.study.models, compression.shrink.macs_shares):
        sizes = (params.dataset.image_size_px, len(params.dataset.class_names))
        scale_architecture(asdict(params.models[model]), *sizes, share, compression.shrink.multiple)
    num_models, num_augmentations = len(params.study.models), len(params.study.augmentations)
    num_rungs = len(compression.prune.sparsities) + len(compression.shrink.macs_shares)
    print(
        f"params.yaml: sound; {num_models} models x {num_augmentations} augmentations, {num_rungs} steps of compression"
    )


if __name__ == "__main__":
    run_stage(main)
