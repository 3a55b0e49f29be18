"""Is params.yaml sound? Checks it for all stages, before any other, so that a slip costs a second and not a training.

Reads params.yaml; writes nothing. Every stage checks the sections that it reads again when it starts: this one also
runs when a change concerns no other stage, such as a misspelt key, and before DVC looks up the models and augmentations
that the study names. And it tells now whether the model that will be chosen can be shrunk, whichever that is.
"""

import itertools

from stages.lib.cost.filters import scale_architecture
from stages.lib.params.load import load_params
from stages.lib.running.runner import run_stage


def main() -> None:
    """Runs the stage."""
    params = load_params()
    for model, share in itertools.product(params.study.models, params.shrink.macs_shares):
        sizes = (params.dataset.image_size_px, len(params.dataset.class_names))
        scale_architecture(params.models[model].model_dump(), *sizes, share, params.shrink.multiple)
    num_models, num_augmentations = len(params.study.models), len(params.study.augmentations)
    num_rungs = len(params.prune.sparsities) + len(params.shrink.macs_shares)
    print(
        f"params.yaml: sound; {num_models} models x {num_augmentations} augmentations, {num_rungs} steps of compression"
    )


if __name__ == "__main__":
    run_stage(main)
