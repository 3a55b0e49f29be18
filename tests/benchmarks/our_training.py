"""Rows (c) of the benchmark, ours: the model, the batches and the call of `fit` of stages/train.py.

Left out are the files that stages/train.py writes after an epoch. Every epoch is augmented: no clean ones at the end.
"""

from measuring import Clock, print_result, read_task

EPOCHS = 10_000
"""More than will ever be trained here."""


def main() -> None:
    """Trains for the seconds of the task and prints the speed."""
    from stages.lib.network.architecture import list_layers
    from stages.lib.network.keras2 import keras
    from stages.lib.network.model import build_model
    from stages.lib.params.load import load_params
    from stages.lib.storage.files import read_split
    from stages.lib.training.batches import count_steps, training_batches, validation_batches
    from stages.lib.training.cluster import ALONE
    from stages.lib.training.loop import VAL_BATCH_SIZE, build_compiled_model
    from stages.lib.training.precision import choose_policy
    from stages.lib.training.recipe import Recipe
    from stages.lib.training.workers import build_strategy
    from stages.train import SOURCES

    task, params = read_task(), load_params()
    clock = Clock(task["seconds"])
    recipe = Recipe(
        train=params.train.model_copy(update={"epochs": EPOCHS, "clean_epochs": 0}),
        augmentation=params.augmentations[task["augmentation"]],
        seed=params.seed,
        policy=choose_policy(task["precision"]),
    )
    num_classes = len(params.dataset.class_names)
    layers = list_layers(params.dataset.image_size_px, num_classes, **params.models[task["model"]].model_dump())
    (images, labels), (val_images, val_labels) = map(read_split, SOURCES)
    images, labels = images[: task["num_images"]], labels[: task["num_images"]]
    val_images, val_labels = val_images[: task["num_val_images"]], val_labels[: task["num_val_images"]]
    steps = count_steps(len(images), recipe.train.batch_size)
    strategy = build_strategy(ALONE)
    model = build_compiled_model(
        lambda step: build_model(layers, recipe.seed, recipe.policy, step), recipe.train, EPOCHS * steps, strategy
    )
    batches = strategy.distribute_datasets_from_function(
        lambda _: training_batches(images, labels, num_classes, recipe)
    )
    validation = {
        "validation_data": strategy.distribute_datasets_from_function(
            lambda _: validation_batches(val_images, val_labels, num_classes, VAL_BATCH_SIZE)
        ),
        "validation_steps": count_steps(len(val_images), VAL_BATCH_SIZE),
    }

    def end_epoch(*_: object) -> None:
        model.stop_training = clock.end_epoch()

    model.fit(
        batches,
        epochs=EPOCHS,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)],
        **(validation if len(val_images) else {}),
    )
    print_result(clock.report(len(images)) | {"precision": recipe.policy.removeprefix("mixed_")})


if __name__ == "__main__":
    main()
