import re

import pytest

from stages.lib.network.architecture import Layer, list_layers

EVERYTHING = ("conv", "flatten", "dense")


def list_names(**spec: object) -> list[str]:
    return [layer.name for layer in list_small(**spec)]


def list_small(**spec: object) -> list[Layer]:
    """Lists the layers of a small network without shortcuts, changed by `spec`."""
    plain: dict[str, object] = {"blocks": [[4]], "separable": False, "residual": False, "global_pool": False}
    small: dict[str, object] = plain | {"dense": [5], "batch_norm": [], "dropout": 0}
    return list_layers(4, 3, **(small | spec))  # type: ignore[arg-type]  # any value, on purpose


def test_layers_of_a_tiny_network_are_listed_in_full() -> None:
    layers = list_small(blocks=[[2]], batch_norm=EVERYTHING, dropout=0.1)
    assert layers == [
        Layer("conv1", "conv", (4, 4, 1), (4, 4, 2), kernel_size=3),
        Layer("conv1_bn", "batch_norm", (4, 4, 2), (4, 4, 2)),
        Layer("conv1_relu", "relu", (4, 4, 2), (4, 4, 2)),
        Layer("pool1", "max_pool", (4, 4, 2), (2, 2, 2), kernel_size=2, strides=2),
        Layer("flatten", "flatten", (2, 2, 2), (8,)),
        Layer("flatten_bn", "batch_norm", (8,), (8,)),
        Layer("dense1", "dense", (8,), (5,)),
        Layer("dense1_bn", "batch_norm", (5,), (5,)),
        Layer("dense1_relu", "relu", (5,), (5,)),
        Layer("dense1_dropout", "dropout", (5,), (5,), rate=0.1),
        Layer("logits", "dense", (5,), (3,)),
    ]


def test_the_channels_of_the_image_are_those_of_the_first_layer_and_of_no_other() -> None:
    grey, colored = list_small(blocks=[[2, 3]]), list_small(blocks=[[2, 3]], channels=3)
    assert (grey[0].input_shape, colored[0].input_shape) == ((4, 4, 1), (4, 4, 3))
    assert colored[0].output_shape == (4, 4, 2)
    assert colored[1:] == grey[1:]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("conv", ["conv1_bn", "conv2_bn"]), ("flatten", ["flatten_bn"]), ("dense", ["dense1_bn", "dense2_bn"])],
)
def test_batch_norm_follows_each_layer_of_its_kind_alone_and_never_the_logits(kind: str, expected: list[str]) -> None:
    names = list_names(blocks=[[4, 4]], dense=[5, 6], batch_norm=[kind])
    assert [name for name in names if name.endswith("_bn")] == expected


@pytest.mark.parametrize(("image_size_px", "num_blocks"), [(1, 1), (2, 2), (3, 2), (28, 5), (32, 6)])
def test_pool_to_below_one_pixel_is_refused_with_the_number_of_blocks_that_fits(
    image_size_px: int, num_blocks: int
) -> None:
    expected = (
        rf"^blocks: block {num_blocks} of {num_blocks} pools an image of 1 x 1 pixels to below 1 pixel; "
        rf"use at most {num_blocks - 1} blocks for an image of {image_size_px} pixels"
    )
    with pytest.raises(ValueError, match=expected):
        list_layers(image_size_px, 3, [[2]] * num_blocks, False, False, False, [], [], 0)


def test_without_blocks_the_image_goes_straight_to_the_dense_layers() -> None:
    assert list_names(blocks=[]) == ["flatten", "dense1", "dense1_relu", "logits"]


# Shortcuts


def test_layers_of_a_tiny_residual_network_are_listed_in_full() -> None:
    layers = list_small(blocks=[[2, 3, 2]], residual=True, global_pool=True, dense=[], batch_norm=["conv"])
    assert layers == [
        Layer("conv1", "conv", (4, 4, 1), (4, 4, 2), kernel_size=3),
        Layer("conv1_bn", "batch_norm", (4, 4, 2), (4, 4, 2)),
        Layer("conv1_relu", "relu", (4, 4, 2), (4, 4, 2)),
        Layer("conv2", "conv", (4, 4, 2), (4, 4, 3), kernel_size=3),
        Layer("conv2_bn", "batch_norm", (4, 4, 3), (4, 4, 3)),
        Layer("conv2_relu", "relu", (4, 4, 3), (4, 4, 3)),
        Layer("conv3", "conv", (4, 4, 3), (4, 4, 2), kernel_size=3),
        Layer("conv3_bn", "batch_norm", (4, 4, 2), (4, 4, 2)),
        Layer("conv3_add", "add", (4, 4, 2), (4, 4, 2), shortcut="conv1_relu"),
        Layer("conv3_relu", "relu", (4, 4, 2), (4, 4, 2)),
        Layer("global_pool", "global_average_pool", (4, 4, 2), (2,)),
        Layer("logits", "dense", (2,), (3,)),
    ]


def test_every_pair_of_every_block_is_bypassed_by_its_own_input() -> None:
    layers = list_small(blocks=[[4, 4, 4, 4, 4], [6], [8, 8, 8]], residual=True, global_pool=True)
    shortcuts = {layer.name: layer.shortcut for layer in layers if layer.shortcut}
    assert shortcuts == {"conv3_add": "conv1_relu", "conv5_add": "conv3_relu", "conv9_add": "conv7_relu"}
    assert {layer.name for layer in layers if layer.kind == "add"} == set(shortcuts)


@pytest.mark.parametrize("block", [[4, 4], [], [4, 4, 4, 4]])
def test_a_block_without_whole_pairs_is_refused_where_residual_is_true(block: list[int]) -> None:
    expected = rf"^blocks: block 2 of 2: expected an odd number of convolutions .*; got {re.escape(str(block))}$"
    with pytest.raises(ValueError, match=expected):
        list_small(blocks=[[4], block], residual=True)
    assert list_small(blocks=[[4], block])


@pytest.mark.parametrize(("block", "position"), [([4, 4, 8], 3), ([4, 8, 8], 3), ([4, 8, 4, 4, 5], 5)])
def test_a_pair_that_ends_with_other_filters_than_enter_it_is_refused(block: list[int], position: int) -> None:
    expected = rf"^blocks: block 1 of 1: expected 4 filters in convolution {position} .*; got {re.escape(str(block))}$"
    with pytest.raises(ValueError, match=expected):
        list_small(blocks=[block], residual=True)
    assert list_small(blocks=[block])


# Depthwise-separable convolutions


def test_layers_of_a_tiny_separable_network_are_listed_in_full() -> None:
    layers = list_small(blocks=[[2, 3]], separable=True, dense=[], batch_norm=["conv"])
    assert layers == [
        Layer("conv1", "conv", (4, 4, 1), (4, 4, 2), kernel_size=3),
        Layer("conv1_bn", "batch_norm", (4, 4, 2), (4, 4, 2)),
        Layer("conv1_relu", "relu", (4, 4, 2), (4, 4, 2)),
        Layer("conv2_depthwise", "depthwise_conv", (4, 4, 2), (4, 4, 2), kernel_size=3),
        Layer("conv2_depthwise_bn", "batch_norm", (4, 4, 2), (4, 4, 2)),
        Layer("conv2_depthwise_relu", "relu", (4, 4, 2), (4, 4, 2)),
        Layer("conv2", "conv", (4, 4, 2), (4, 4, 3), kernel_size=1),
        Layer("conv2_bn", "batch_norm", (4, 4, 3), (4, 4, 3)),
        Layer("conv2_relu", "relu", (4, 4, 3), (4, 4, 3)),
        Layer("pool1", "max_pool", (4, 4, 3), (2, 2, 3), kernel_size=2, strides=2),
        Layer("flatten", "flatten", (2, 2, 3), (12,)),
        Layer("logits", "dense", (12,), (3,)),
    ]


def test_only_the_very_first_convolution_is_not_separable() -> None:
    layers = list_small(blocks=[[2], [2, 2]], separable=True)
    sizes = {layer.name: layer.kernel_size for layer in layers if layer.kind == "conv"}
    assert sizes == {"conv1": 3, "conv2": 1, "conv3": 1}


def test_a_shortcut_bypasses_both_parts_of_both_separable_convolutions() -> None:
    names = list_names(blocks=[[2, 3, 2]], separable=True, residual=True, global_pool=True, dense=[])
    assert names == [
        *("conv1", "conv1_relu"),
        *("conv2_depthwise", "conv2_depthwise_relu", "conv2", "conv2_relu"),
        *("conv3_depthwise", "conv3_depthwise_relu", "conv3", "conv3_add", "conv3_relu"),
        *("global_pool", "logits"),
    ]
    layers = list_small(blocks=[[2, 3, 2]], separable=True, residual=True, global_pool=True, dense=[])
    assert [layer.shortcut for layer in layers if layer.kind == "add"] == ["conv1_relu"]


# Global pool


def test_global_pool_ends_the_last_block_alone_and_nothing_is_flattened() -> None:
    names = list_names(blocks=[[4], [4]], global_pool=True)
    assert names == ["conv1", "conv1_relu", "pool1", "conv2", "conv2_relu", "global_pool", *names[6:]]
    assert names[6:] == ["dense1", "dense1_relu", "logits"]


def test_dropout_follows_the_global_pool_only_where_no_hidden_dense_layer_does() -> None:
    layers = list_small(global_pool=True, dense=[], dropout=0.25)
    assert layers[-2] == Layer("global_pool_dropout", "dropout", (4,), (4,), rate=0.25)
    assert list_names(global_pool=True, dense=[], dropout=0)[-2:] == ["global_pool", "logits"]
    names = list_names(global_pool=True, dropout=0.25)
    assert [name for name in names if "dropout" in name] == ["dense1_dropout"]


@pytest.mark.parametrize(("image_size_px", "most_blocks"), [(1, 1), (2, 2), (3, 2), (28, 5)])
def test_global_pool_leaves_room_for_one_more_block(image_size_px: int, most_blocks: int) -> None:
    layers = list_layers(image_size_px, 3, [[2]] * most_blocks, False, False, True, [], [], 0)
    assert (layers[-2].kind, layers[-2].output_shape) == ("global_average_pool", (2,))
    with pytest.raises(ValueError, match=rf"below 1 pixel; use at most {most_blocks} blocks for an image of"):
        list_layers(image_size_px, 3, [[2]] * (most_blocks + 1), False, False, True, [], [], 0)


def test_batch_norm_of_what_a_global_pool_leaves_unflattened_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^batch_norm: expected no flatten .*; got \['conv', 'flatten'\]$"):
        list_small(global_pool=True, batch_norm=("conv", "flatten"))


def test_global_pool_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^blocks: expected at least one block with global_pool.*; got \[\]$"):
        list_small(global_pool=True, blocks=[])
