"""Reads int8 LiteRT files (.tflite) into a plain list of operations. No TensorFlow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from stages.lib.errors import UserError

KINDS = {
    schema.BuiltinOperator.CONV_2D: "conv",
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: "depthwise",
    schema.BuiltinOperator.MAX_POOL_2D: "max_pool",
    schema.BuiltinOperator.AVERAGE_POOL_2D: "average_pool",
    schema.BuiltinOperator.MEAN: "mean",
    schema.BuiltinOperator.ADD: "add",
    schema.BuiltinOperator.RESHAPE: "flatten",
    schema.BuiltinOperator.FULLY_CONNECTED: "dense",
}
MOST_CHANNELS = 10_000
"""Of what a convolution takes: the generated code counts weights up to 98,303."""
KEEP_SCALE = ("max_pool", "average_pool", "flatten")
"""Kinds whose output has the scale and zero point of their input."""


@dataclass(frozen=True)
class Tensor:
    """What one operation hands to the next, for one image: int8 that stand for (value - zero_point) * scale.

    Attributes:
        shape: (height, width, channels) or (units,).
        scale: positive; a float32 in the file.
        zero_point: in [-128, 127].
    """

    shape: tuple[int, ...]
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Operation:
    """One operation of a file.

    Attributes:
        kind: conv, depthwise, max_pool (2x2, stride 2), average_pool or mean (over the whole image), add, flatten or
            dense. Convolutions have stride 1 and same padding.
        name: the kind and its number in the file, from 1, such as conv2; the last operation is called logits.
        inputs: numbers of the tensors that it takes: two for add, else one.
        output: number of the tensor that it makes.
        relu: whether negative results become 0.
        kernel: int8; of conv (outputs, size, size, inputs), of depthwise (channels, size, size, 1), of dense
            (outputs, inputs); empty for other kinds.
        kernel_scales: (outputs,) float64, positive: what a step of each output's weights stands for.
        bias: (outputs,) int32, in steps of the input's scale times the kernel's.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    output: int
    relu: bool = False
    kernel: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int8))
    kernel_scales: np.ndarray = field(default_factory=lambda: np.zeros(0))
    bias: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))


@dataclass(frozen=True)
class Network:
    """A file: tensors by number, operations in the order in which they run, the numbers of the image and the logits."""

    tensors: dict[int, Tensor]
    operations: list[Operation]
    image: int
    logits: int


def read_network(content: bytes) -> Network:
    """Reads the bytes of an int8 LiteRT file from square images to logits.

    Raises:
        UserError: if the bytes are no LiteRT file, or it has several subgraphs, inputs or outputs, an operation that
            is not known here, or one with a type, a shape or an option that is not known here.
    """
    try:
        # The schema trusts what it reads; the runtime verifies it.
        Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
        model = schema.ModelT.InitFromPackedBuf(content, 0)
    except (ValueError, RuntimeError) as error:  # the runtime raises both
        message = " ".join(str(error).split())
        raise UserError(f"expected a LiteRT file; got another or a damaged one: {message}; export it anew") from error
    _expect(len(model.subgraphs) == 1, "the file", "one subgraph", len(model.subgraphs))
    graph = model.subgraphs[0]
    got = f"{len(graph.inputs)} and {len(graph.outputs)}"
    _expect(len(graph.inputs) == len(graph.outputs) == 1, "the file", "one input and one output", got)
    image, logits = int(graph.inputs[0]), int(graph.outputs[0])
    tensors = {image: _read_tensor("the image", graph.tensors[image])}
    shape = tensors[image].shape
    _expect(len(shape) == 3 and shape[0] == shape[1], "the image", "a square one, (size, size, channels)", shape)
    operations: list[Operation] = []
    for number, operator in enumerate(graph.operators, start=1):
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        known = ", ".join(map(_name_operator, KINDS))
        _expect(code in KINDS, f"operation {number}", f"one of {known}", _name_operator(code))
        count = 1 + sum(operation.kind == KINDS[code] for operation in operations)
        is_last = number == len(graph.operators)
        name = "logits" if is_last else f"{KINDS[code]}{count}"
        where = f"{name} ({graph.tensors[operator.outputs[0]].name.decode(errors='replace')})"
        operation = _read_operation(KINDS[code], name, where, operator, graph.tensors, model.buffers)
        tensors[operation.output] = _read_tensor(where, graph.tensors[operation.output])
        unknown = [graph.tensors[index].name for index in operation.inputs if index not in tensors]
        _expect(not unknown, where, "inputs that earlier operations make", unknown)
        _check_shapes(where, operation, [tensors[index] for index in operation.inputs], tensors[operation.output])
        operations.append(operation)
    ends_well = bool(operations) and operations[-1].kind == "dense" and operations[-1].output == logits
    _expect(ends_well, "the last operation", "FULLY_CONNECTED, whose output is the file's", "another")
    return Network(tensors, operations, image, logits)


def _expect(holds: bool, where: str, expected: str, got: Any) -> None:
    if not holds:
        raise UserError(f"{where}: expected {expected}; got {got}; export a network that has it so, in int8")


def _name_operator(code: int) -> str:
    return next((name for name, value in vars(schema.BuiltinOperator).items() if value == code), str(code))


def _read_tensor(where: str, tensor: schema.TensorT) -> Tensor:
    _check_type(where, tensor, "INT8")
    quantization = tensor.quantization
    scales = [] if quantization is None or quantization.scale is None else list(quantization.scale)
    _expect(len(scales) == 1 and scales[0] > 0, where, "an output with one scale above 0", scales)
    shape = tuple(map(int, tensor.shape))
    is_known = len(shape) in (2, 4) and shape[0] == 1 and min(shape) > 0
    _expect(is_known, where, "a batch of one image or vector, (1, height, width, channels) or (1, units)", shape)
    return Tensor(shape[1:], float(scales[0]), int(quantization.zeroPoint[0]))


def _check_type(where: str, tensor: schema.TensorT, expected: str) -> None:
    name = next((name for name, value in vars(schema.TensorType).items() if value == tensor.type), str(tensor.type))
    _expect(name == expected, where, f"{expected} in tensor {tensor.name.decode(errors='replace')!r}", name)


def _read_constant(where: str, tensor: schema.TensorT, buffers: Sequence[schema.BufferT], dtype: type) -> np.ndarray:
    _check_type(where, tensor, np.dtype(dtype).name.upper())
    data = buffers[tensor.buffer].data
    shape = tuple(map(int, tensor.shape))
    num_bytes = 0 if data is None else len(data)
    expected = prod(shape) * np.dtype(dtype).itemsize
    name = tensor.name.decode(errors="replace")
    _expect(num_bytes == expected, where, f"{expected} bytes of constants in tensor {name!r}", num_bytes)
    return np.frombuffer(bytes(data), np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)


def _read_operation(
    kind: str,
    name: str,
    where: str,
    operator: schema.OperatorT,
    tensors: Sequence[schema.TensorT],
    buffers: Sequence[schema.BufferT],
) -> Operation:
    inputs = [int(index) for index in operator.inputs]
    options = operator.builtinOptions
    output = int(operator.outputs[0])
    activation = getattr(options, "fusedActivationFunction", schema.ActivationFunctionType.NONE)
    known = (schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU)
    _expect(activation in known, where, "no activation or ReLU", f"number {activation} of the schema")
    relu = activation == schema.ActivationFunctionType.RELU
    _expect(not relu or kind not in KEEP_SCALE, where, "no ReLU after a pool", "ReLU")
    if kind == "add":
        return Operation(kind, name, (inputs[0], inputs[1]), output, relu)
    if kind == "mean":
        axes = sorted(
            axis % 4 for axis in _read_constant(where, tensors[inputs[1]], buffers, np.int32).ravel().tolist()
        )
        _expect(axes == [1, 2], where, "a mean over the axes 1 and 2, height and width", axes)
    if kind in ("max_pool", "average_pool"):
        _check_pool(where, kind, options, tuple(map(int, tensors[inputs[0]].shape)))
    if kind not in ("conv", "depthwise", "dense"):
        return Operation(kind, name, (inputs[0],), output)
    kernel = _read_constant(where, tensors[inputs[1]], buffers, np.int8)
    if kind == "depthwise":
        kernel = np.moveaxis(kernel, 3, 0)[..., np.newaxis][:, 0] if kernel.ndim == 4 else kernel
    if kind != "dense":
        _check_convolution(where, kind, options, kernel.shape)
    num_outputs = len(kernel)
    scales = np.asarray(tensors[inputs[1]].quantization.scale, np.float64)
    _expect(len(scales) in (1, num_outputs), where, f"1 or {num_outputs} scales of weights", len(scales))
    _expect(bool((scales > 0).all()), where, "scales of weights above 0", scales.min())
    zero_points = np.asarray(tensors[inputs[1]].quantization.zeroPoint)
    _expect(not zero_points.any(), where, "weights whose zero point is 0", zero_points)
    bias = np.zeros(num_outputs, np.int32)
    if len(inputs) > 2 and inputs[2] >= 0:
        bias = _read_constant(where, tensors[inputs[2]], buffers, np.int32)
    _expect(bias.shape == (num_outputs,), where, f"{num_outputs} biases", bias.shape)
    scales = np.broadcast_to(scales, num_outputs)
    return Operation(kind, name, (inputs[0],), output, relu, kernel, scales, bias)


def _check_pool(where: str, kind: str, options: Any, input_shape: tuple[int, ...]) -> None:
    size, strides = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
    got = f"{size[0]}x{size[1]}, strides {strides}"
    if kind == "average_pool":
        _expect(size == input_shape[1:3], where, "an average over the whole image", got)
        return
    is_known = size == strides == (2, 2) and options.padding == schema.Padding.VALID
    _expect(is_known, where, "a 2x2 max pool of stride 2 without padding", got)


def _check_convolution(where: str, kind: str, options: Any, shape: tuple[int, ...]) -> None:
    sizes = (3,) if kind == "depthwise" else (1, 3)
    is_known = len(shape) == 4 and shape[1] == shape[2] and shape[1] in sizes
    _expect(is_known, where, f"a square kernel of {' or '.join(map(str, sizes))} pixels", shape)
    _expect(shape[3] <= MOST_CHANNELS, where, f"at most {MOST_CHANNELS} channels of its input", shape[3])
    steps = (options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor)
    _expect(steps == (1, 1, 1, 1), where, "strides and dilations of 1", steps)
    is_same = options.padding == schema.Padding.SAME or shape[1] == 1
    _expect(is_same, where, "same padding", "none")


def _check_shapes(where: str, operation: Operation, inputs: Sequence[Tensor], output: Tensor) -> None:
    shape, kernel = inputs[0].shape, operation.kernel.shape
    match operation.kind:
        case "conv" | "depthwise":
            is_known = len(shape) == 3 and kernel[3] == (shape[2] if operation.kind == "conv" else 1)
            is_known = is_known and (operation.kind == "conv" or kernel[0] == shape[2])
            expected: tuple[int, ...] = (*shape[:2], kernel[0])
        case "max_pool":
            is_known = len(shape) == 3
            expected = (shape[0] // 2, shape[1] // 2, shape[2]) if is_known else ()
        case "average_pool" | "mean":
            is_known = len(shape) == 3
            expected = (1, 1, shape[-1]) if len(output.shape) == 3 else shape[-1:]
        case "add":
            is_known = inputs[1].shape == shape and len(shape) == 3
            expected = shape
        case "flatten":
            is_known, expected = True, (prod(shape),)
        case _:
            is_known, expected = len(kernel) == 2 and kernel[1] == prod(shape), kernel[:1]
    got = f"{' and '.join(str(tensor.shape) for tensor in inputs)} to {output.shape}, kernel {kernel}"
    _expect(is_known and output.shape == expected, where, "shapes of input, kernel and output that fit", got)
    if operation.kind in KEEP_SCALE:
        scales = [(tensor.scale, tensor.zero_point) for tensor in (inputs[0], output)]
        _expect(scales[0] == scales[1], where, "the same scale and zero point before and after", scales)
