"""Row (d) of the benchmark, PyTorch: eager, channels_last, images in memory. Needs torch and numpy, nothing else.

torch.compile is not used: it needs a C++ compiler. The optimizer is AdamW, or SGD where params.yaml says sgd.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from measuring import Clock, print_result, read_images, read_task

BATCH_SIZE = 256


def build_module(layer: Mapping[str, Any]) -> Any:
    """Builds the module of one entry of the list; the fields are those of `stages.lib.network.architecture.Layer`."""
    from torch import nn  # type: ignore[import-not-found, unused-ignore]  # an environment of its own

    channels_in, channels_out = layer["input_shape"][-1], layer["output_shape"][-1]
    match layer["kind"]:
        case "conv":
            size = layer["kernel_size"]
            conv = nn.Conv2d(channels_in, channels_out, size, stride=layer["strides"], padding=size // 2)
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            return conv
        case "dense":
            linear = nn.Linear(channels_in, channels_out)
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
            return linear
        case "batch_norm":
            return nn.BatchNorm2d(channels_in) if len(layer["input_shape"]) == 3 else nn.BatchNorm1d(channels_in)
        case "relu":
            return nn.ReLU()
        case "add":
            return nn.Identity()  # the shortcut is added in `compute_logits`
        case "max_pool":
            return nn.MaxPool2d(layer["kernel_size"], stride=layer["strides"])
        case "global_average_pool":
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case "flatten":
            return nn.Flatten()
        case "dropout":
            return nn.Dropout(layer["rate"])
        case kind:
            raise ValueError(f"layer {layer['name']}: no PyTorch module is known for kind {kind!r}")


def compute_logits(network: Any, layers: Sequence[Mapping[str, Any]], x: Any) -> Any:
    """Runs the modules in their order; x is (N, 1, size, size) in [0, 1], the result (N, classes)."""
    outputs: dict[str, Any] = {}
    for layer, module in zip(layers, network, strict=True):
        x = module(x + outputs[layer["shortcut"]] if layer["shortcut"] else x)
        outputs[layer["name"]] = x
    return x


def build_optimizer(name: str, network: Any) -> Any:
    """Builds the optimizer; its constants do not change the speed."""
    import torch

    if name == "sgd":
        return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.1, fused=True)


def read_tensors(path: str, num_images: int, device: str) -> tuple[Any, Any]:
    """Reads the first images of a split: (N, 1, size, size) float32 in [0, 1], channels_last, and (N,) int64 labels."""
    import torch

    x, y = (torch.from_numpy(array).to(device) for array in read_images(path, num_images))
    return x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last), y


def main() -> None:
    """Trains for the seconds of the task and prints the speed."""
    import torch

    task = read_task()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(task["seed"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock, layers = Clock(task["seconds"]), task["layers"]
    x, y = read_tensors(task["train_path"], task["num_images"], device)
    x_val, y_val = read_tensors(task["val_path"], task["num_val_images"], device)
    network = torch.nn.ModuleList(map(build_module, layers)).to(device, memory_format=torch.channels_last)
    optimizer = build_optimizer(task["optimizer"], network)
    autocast = torch.autocast(device, torch.bfloat16, enabled=task["precision"] == "bfloat16")

    def train_epoch() -> None:
        network.train()
        for index in torch.randperm(len(x), device=device).split(BATCH_SIZE):
            with autocast:
                logits = compute_logits(network, layers, x[index])
            loss = torch.nn.functional.cross_entropy(logits.float(), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        float(loss)  # waits for the device

    def validate() -> None:
        network.eval()
        with torch.no_grad(), autocast:
            for batch, labels in zip(x_val.split(500), y_val.split(500), strict=True):
                float((compute_logits(network, layers, batch).argmax(1) == labels).sum())

    is_done = False
    while not is_done:
        train_epoch()
        if len(x_val):
            validate()
        is_done = clock.end_epoch()
    print_result(clock.report(len(x)) | {"precision": task["precision"], "device": device})


if __name__ == "__main__":
    main()
