"""Networks of Keras' own layers written as ONNX graphs.

Each kind of layer has a rule of a few lines that writes the ONNX operators it consists of, so the
graph reads like the network and holds nothing that a converter left behind; a GRU is one operator
and not a loop.  Keras has the channels last and ONNX' convolutions have them first: a rule asks
for the order it needs, and a transposition is written only where the order changes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.errors import OptionError
from ecg_keras.model.backend import keras

# The first opset with LayerNormalization, and a file version that runtimes of 2022 read.
OPSET, IR_VERSION = 17, 8

Rule = Callable[..., None]


class OnnxGraph:
    """An ONNX graph while it is being written.

    Every tensor of the Keras network is known by the name of its value in the graph, apart for
    channels last, ``(batch, time, channel)``, and channels first, ``(batch, channel, time)``;
    tensors of other ranks count as channels last.

    Attributes:
        rules: for each kind of layer, by the name of its class, the function that writes it; it
            is called with the graph, the layer, its inputs and its output.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.rules = rules
        self._last: dict[int, str] = {}
        self._first: dict[int, str] = {}
        self._kept: list[Any] = []  # A tensor's id is its own only while the tensor lives.
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def write(self, op: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any) -> Any:
        """Add an operator.

        Args:
            op: its name in ONNX.
            inputs: names of values.
            outputs: how many values it gives.
            **attributes: of the operator.

        Returns:
            The name of the value it gives, or the list of their names.
        """
        import onnx

        names = [f"{op}_{len(self._nodes)}_{i}" if outputs > 1 else f"{op}_{len(self._nodes)}"
                 for i in range(outputs)]  # fmt: skip
        self._nodes.append(onnx.helper.make_node(op, inputs, names, name=names[0], **attributes))
        return names if outputs > 1 else names[0]

    def constant(self, value: Any) -> str:
        """Add a constant: float32, or int64 where ``value`` is of integers.

        Returns:
            Its name.
        """
        import onnx

        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"constant_{len(self._constants)}"
        self._constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def last(self, tensor: Any) -> str:
        """The value of a tensor, channels last."""
        if id(tensor) not in self._last:
            self._last[id(tensor)] = self.write(
                "Transpose", [self._first[id(tensor)]], perm=[0, 2, 1]
            )
        return self._last[id(tensor)]

    def first(self, tensor: Any) -> str:
        """The value of a tensor of rank 3, channels first."""
        if id(tensor) not in self._first:
            self._first[id(tensor)] = self.write(
                "Transpose", [self._last[id(tensor)]], perm=[0, 2, 1]
            )
        return self._first[id(tensor)]

    def as_written(self, *tensors: Any) -> tuple[list[str], bool]:
        """The values of tensors, all in the order of axes that the first of them has.

        Returns:
            Their names, and whether the channels are first.
        """
        channels_first = id(tensors[0]) not in self._last
        order = self.first if channels_first else self.last
        return [order(tensor) for tensor in tensors], channels_first

    def name(self, tensor: Any, value: str, *, channels_first: bool = False) -> None:
        """Say which value a tensor of the network is."""
        (self._first if channels_first else self._last)[id(tensor)] = value
        self._kept.append(tensor)

    def follow(self, network: Any, signal: Any) -> Any:
        """Write a functional model, layer by layer.

        Args:
            network: the model; models within it are followed, too.
            signal: the tensor to start from.

        Returns:
            The tensors of its answer, as ``network.output``.

        Raises:
            OptionError: where a layer has no rule.
        """

        def call(layer: Any, *inputs: Any, **options: Any) -> Any:
            if isinstance(layer, keras.Model):
                return self.follow(layer, *inputs)
            kind = type(layer).__name__
            if kind not in self.rules:
                raise OptionError(
                    f"a layer of kind {kind} cannot be written as ONNX yet; add a rule for it, or"
                    " export to the other formats."
                )
            output = layer(*inputs, **options)
            self.rules[kind](self, layer, *inputs, output)
            return output

        return keras.models.clone_model(
            network,
            input_tensors=signal,
            clone_function=lambda layer: layer,
            call_function=call,
        ).output

    def model(self, *, signal: tuple[int, int], answer: str, width: int, facts: Any) -> Any:
        """Finish the graph.

        Args:
            signal: time steps and leads of the input.
            answer: the value that is to be given as ``diagnosis``.
            width: how many numbers it has a record.
            facts: metadata of the file, texts by their names.

        Returns:
            An ``onnx.ModelProto``, checked.
        """
        import onnx

        from_signal, to_answer = (
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])
            for name, shape in (("signal", signal), ("diagnosis", (width,)))
        )
        self._nodes.append(onnx.helper.make_node("Identity", [answer], ["diagnosis"]))
        graph = onnx.helper.make_graph(
            self._nodes, "network", [from_signal], [to_answer], self._constants
        )
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.helper.set_model_props(model, facts)
        onnx.checker.check_model(model, full_check=True)
        return model


def to_onnx(network: Any, facts: dict[str, str], rules: Mapping[str, Rule]) -> Any:
    """Write a network as ONNX.

    Args:
        network: from ``signal`` ``(batch, time, lead)`` to ``{"diagnosis": (batch, classes)}``,
            of layers for which there are rules.
        facts: metadata of the file, texts by their names.
        rules: beyond those of this module; see :attr:`OnnxGraph.rules`.

    Returns:
        An ``onnx.ModelProto`` whose first dimension is free.

    Raises:
        OptionError: where a layer has no rule.
    """
    graph = OnnxGraph({**RULES, **rules})
    signal = keras.Input(network.input.shape[1:], name="signal")
    graph.name(signal, "signal")
    answer = graph.follow(network, signal)["diagnosis"]
    return graph.model(
        signal=network.input.shape[1:],
        answer=graph.last(answer),
        width=answer.shape[-1],
        facts=facts,
    )


ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softmax": "Softmax"}


def activated(graph: OnnxGraph, value: str, function: Any) -> str:
    """Apply an activation function of Keras to a value.

    Raises:
        OptionError: where it is none of those known here.
    """
    name = function.__name__
    if name == "linear":
        return value
    if name == "hard_sigmoid":
        return graph.write("HardSigmoid", [value], alpha=1 / 6, beta=0.5)
    if name == "hard_silu":  # hard swish
        return graph.write("HardSwish", [value])
    if name == "mish":
        return graph.write("Mul", [value, graph.write("Tanh", [graph.write("Softplus", [value])])])
    if name not in ACTIVATIONS:
        raise OptionError(
            f"the activation {name} cannot be written as ONNX yet; add it to"
            " ecg_keras.export.onnx_graph.activated, or export to the other formats."
        )
    return graph.write(ACTIVATIONS[name], [value])


def same_pads(layer: Any, x: Any, y: Any, *, reach: int) -> list[int]:
    """The samples that a convolution or pool stands in front of and behind its input.

    Args:
        layer: with ``padding`` and ``strides``.
        x: its input.
        y: its output.
        reach: samples of the input that one of the output is made of, from first to last.

    Returns:
        Two numbers, the second larger where they cannot be equal; zeros where nothing is padded.
    """
    if layer.padding != "same":
        return [0, 0]
    missing = max(0, (y.shape[1] - 1) * layer.strides[0] + reach - x.shape[1])
    return [missing // 2, missing - missing // 2]


def conv1d(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``Conv1D``, padded ``same`` or ``valid``."""
    kernel, *bias = layer.get_weights()
    convolved(graph, layer, x, y, kernel=kernel.transpose(2, 1, 0), bias=bias, groups=layer.groups)


def depthwise_conv1d(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``DepthwiseConv1D``: each channel by itself is a group."""
    kernel, *bias = layer.get_weights()  # (taps, channels, multiplier)
    taps, channels, multiplier = kernel.shape
    by_channel = kernel.transpose(1, 2, 0).reshape(channels * multiplier, 1, taps)
    convolved(graph, layer, x, y, kernel=by_channel, bias=bias, groups=channels)


def convolved(
    graph: OnnxGraph,
    layer: Any,
    x: Any,
    y: Any,
    *,
    kernel: np.ndarray,
    bias: Sequence[np.ndarray],
    groups: int,
) -> None:
    """Write a convolution with its activation.

    Args:
        graph: to write to.
        layer: with ``padding``, ``strides``, ``dilation_rate`` and ``activation``.
        x: its input.
        y: its output.
        kernel: ``(filters, channels of a group, taps)``, as ONNX has it.
        bias: nothing, or ``(filters,)``.
        groups: of channels that are convolved by themselves.
    """
    (dilation,) = layer.dilation_rate
    value = graph.write(
        "Conv",
        [graph.first(x), graph.constant(kernel), *map(graph.constant, bias)],
        pads=same_pads(layer, x, y, reach=(kernel.shape[-1] - 1) * dilation + 1),
        strides=list(layer.strides),
        dilations=[dilation],
        group=groups,
    )
    graph.name(y, activated(graph, value, layer.activation), channels_first=True)


def dense(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``Dense``, over the last axis."""
    kernel, *bias = layer.get_weights()
    value = graph.write("MatMul", [graph.last(x), graph.constant(kernel)])
    for offset in bias:
        value = graph.write("Add", [value, graph.constant(offset)])
    graph.name(y, activated(graph, value, layer.activation))


def relu(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``ReLU`` without further arguments."""
    (value,), channels_first = graph.as_written(x)
    graph.name(y, graph.write("Relu", [value]), channels_first=channels_first)


def activation(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``Activation``; a softmax runs over the channels, so they are put last."""
    (value,), channels_first = graph.as_written(x)
    if layer.activation.__name__ == "softmax":
        value, channels_first = graph.last(x), False
    graph.name(y, activated(graph, value, layer.activation), channels_first=channels_first)


def prelu(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``PReLU``."""
    (slope,) = layer.get_weights()
    graph.name(y, graph.write("PRelu", [graph.last(x), graph.constant(slope)]))


def leaky_relu(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``LeakyReLU``."""
    (value,), channels_first = graph.as_written(x)
    value = graph.write("LeakyRelu", [value], alpha=float(layer.negative_slope))
    graph.name(y, value, channels_first=channels_first)


def softmax(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``Softmax`` over any one axis."""
    graph.name(y, graph.write("Softmax", [graph.last(x)], axis=layer.axis))


def rescaling(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``Rescaling``."""
    (value,), channels_first = graph.as_written(x)
    value = graph.write("Mul", [value, graph.constant(np.float32(layer.scale))])
    value = graph.write("Add", [value, graph.constant(np.float32(layer.offset))])
    graph.name(y, value, channels_first=channels_first)


def zero_padding(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``ZeroPadding1D``.

    ONNX Runtime makes one operator of a padding and the max-pool behind it, which then pads with
    minus infinity: that is the same only where nothing is below zero, as behind a ReLU.
    """
    before, after = layer.padding
    pads = graph.constant([0, 0, before, 0, 0, after])
    graph.name(y, graph.write("Pad", [graph.first(x), pads]), channels_first=True)


def cropping(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``Cropping1D``."""
    before, after = layer.cropping
    ends = [graph.constant([n]) for n in (before, x.shape[1] - after, 2)]
    graph.name(y, graph.write("Slice", [graph.first(x), *ends]), channels_first=True)


def pooling(operator: str) -> Rule:
    """``MaxPooling1D`` and ``AveragePooling1D``; what is padded counts for nothing."""

    def rule(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
        value = graph.write(
            operator,
            [graph.first(x)],
            kernel_shape=list(layer.pool_size),
            strides=list(layer.strides),
            pads=same_pads(layer, x, y, reach=layer.pool_size[0]),
        )
        graph.name(y, value, channels_first=True)

    return rule


def global_pooling(operator: str) -> Rule:
    """``GlobalAveragePooling1D`` and ``GlobalMaxPooling1D``, over time or over channels."""

    def rule(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
        (value,), channels_first = graph.as_written(x)
        over_time = layer.data_format == "channels_last"
        axis = 1 if over_time != channels_first else 2
        value = graph.write(operator, [value], axes=[axis], keepdims=int(layer.keepdims))
        graph.name(y, value, channels_first=channels_first and layer.keepdims)

    return rule


def batch_normalisation(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``BatchNormalization`` of the last axis with fixed statistics: a scale and an offset."""
    gamma, beta, mean, variance = layer.get_weights()
    scale = gamma / np.sqrt(variance + layer.epsilon)
    value = graph.write("Mul", [graph.last(x), graph.constant(scale)])
    graph.name(y, graph.write("Add", [value, graph.constant(beta - mean * scale)]))


def layer_normalisation(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``LayerNormalization`` of the last axis."""
    weights = map(graph.constant, layer.get_weights())
    value = graph.write(
        "LayerNormalization", [graph.last(x), *weights], axis=-1, epsilon=layer.epsilon
    )
    graph.name(y, value)


def elementwise(operator: str) -> Rule:
    """``Add`` and ``Multiply``."""

    def rule(graph: OnnxGraph, layer: Any, tensors: Sequence[Any], y: Any) -> None:
        values, channels_first = graph.as_written(*tensors)
        total = values[0]
        for value in values[1:]:
            total = graph.write(operator, [total, value])
        graph.name(y, total, channels_first=channels_first)

    return rule


def average(graph: OnnxGraph, layer: Any, tensors: Sequence[Any], y: Any) -> None:
    """``Average``."""
    values, channels_first = graph.as_written(*tensors)
    graph.name(y, graph.write("Mean", values), channels_first=channels_first)


def concatenate(graph: OnnxGraph, layer: Any, tensors: Sequence[Any], y: Any) -> None:
    """``Concatenate`` along the channels or along time."""
    values, channels_first = graph.as_written(*tensors)
    over_channels = layer.axis in (-1, len(y.shape) - 1)
    axis = (1 if channels_first else -1) if over_channels else (2 if channels_first else 1)
    value = graph.write("Concat", values, axis=axis)
    graph.name(y, value, channels_first=channels_first)


def take(graph: OnnxGraph, operation: Any, x: Any, indices: Sequence[int], y: Any) -> None:
    """``keras.ops.take`` of some channels."""
    value = graph.write("Gather", [graph.first(x), graph.constant(indices)], axis=1)
    graph.name(y, value, channels_first=True)


def split(graph: OnnxGraph, operation: Any, x: Any, parts: Sequence[Any]) -> None:
    """``keras.ops.split`` along the channels, into equal parts."""
    values = graph.write("Split", [graph.first(x)], outputs=len(parts), axis=1)
    for part, value in zip(parts, values, strict=True):
        graph.name(part, value, channels_first=True)


def reshape(graph: OnnxGraph, layer: Any, x: Any, y: Any) -> None:
    """``Reshape`` and ``Flatten``; ONNX takes a 0 for "as it was", here the batch."""
    graph.name(y, graph.write("Reshape", [graph.last(x), graph.constant([0, *y.shape[1:]])]))


def dot(graph: OnnxGraph, layer: Any, pair: Sequence[Any], y: Any) -> None:
    """``Dot`` over time: ``(batch, time, a)`` and ``(batch, time, b)`` give ``(batch, a, b)``."""
    graph.name(y, graph.write("MatMul", [graph.first(pair[0]), graph.last(pair[1])]))


RULES: dict[str, Rule] = {
    "Activation": activation,
    "Add": elementwise("Add"),
    "Average": average,
    "AveragePooling1D": pooling("AveragePool"),
    "BatchNormalization": batch_normalisation,
    "Concatenate": concatenate,
    "Conv1D": conv1d,
    "Cropping1D": cropping,
    "Dense": dense,
    "DepthwiseConv1D": depthwise_conv1d,
    "Dot": dot,
    "Flatten": reshape,
    "GlobalAveragePooling1D": global_pooling("ReduceMean"),
    "GlobalMaxPooling1D": global_pooling("ReduceMax"),
    "LayerNormalization": layer_normalisation,
    "LeakyReLU": leaky_relu,
    "MaxPooling1D": pooling("MaxPool"),
    "Multiply": elementwise("Mul"),
    "PReLU": prelu,
    "ReLU": relu,
    "Rescaling": rescaling,
    "Reshape": reshape,
    "Softmax": softmax,
    "Split": split,
    "Take": take,
    "ZeroPadding1D": zero_padding,
}
