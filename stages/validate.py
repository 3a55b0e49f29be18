"""Is params.yaml sound? Checks it before any other stage runs, so that a slip costs a second and not a training.

Reads params.yaml; writes nothing. Every other stage checks the file again when it starts. This one also runs where a
change concerns no other stage, such as a misspelt key, and says now whether each model of the study can be shrunk,
whichever will be chosen.
"""

import itertools

from stages.lib.cost.filters import scale_architecture
from stages.lib.params.load import load_params
from stages.lib.running.runner import run_stage


def main() -> None:
    """Runs the stage."""
    params = load_params()
    for model, share in itertools.product(params.study.models, params.shrink.macs_shares):
        scale_architecture(
            params.models[model].model_dump(),
            image_size_px=params.dataset.image_size_px,
            channels=params.dataset.channels,
            num_classes=len(params.dataset.class_names),
            macs_share=share,
            multiple=params.shrink.multiple,
        )
    num_models, num_augmentations = len(params.study.models), len(params.study.augmentations)
    num_rungs = len(params.prune.sparsities) + len(params.shrink.macs_shares)
    print(
        f"params.yaml: sound; {num_models} models x {num_augmentations} augmentations, {num_rungs} steps of compression"
    )


if __name__ == "__main__":
    run_stage(main)
