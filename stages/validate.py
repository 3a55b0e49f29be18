"""Is params.yaml sound? Checks all of it, first of all stages, so that a slip costs a second and not a training.

Reads params.yaml; writes nothing. Every stage checks it again when it starts: this one also runs when a change concerns
no other stage, such as a misspelt key, and before DVC looks up the models and augmentations that the study names.
"""

from stages.lib.params import load_params
from stages.lib.runner import run_stage


def main() -> None:
    """Runs the stage."""
    params = load_params()
    num_models, num_augmentations = len(params.study.models), len(params.study.augmentations)
    print(f"params.yaml: sound; {num_models} models x {num_augmentations} augmentations")


if __name__ == "__main__":
    run_stage(main)
