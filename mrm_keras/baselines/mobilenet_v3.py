"""MobileNetV3 over time (Howard 2019, arXiv 1905.02244)."""

from typing import Any

from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract
from mrm_keras.baselines.parts import baseline, batch_norm, conv_norm, dense, linear_head

layers = keras.layers

# MobileNetV3, Table 2 (Small): kernel, expansion, output, squeeze-and-excite, hard swish, stride.
SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


@baseline("MobileNetV3")
def build_mobilenet_v3(x: Any, contract: Contract) -> Any:
    """Build MobileNetV3-Small over time (Howard 2019, arXiv 1905.02244, Table 2).

    Every k x k kernel becomes one of k.  The paper is about images, and the MRM-Net paper does not
    say how it was adapted to ECGs.  This is the version in MVMSNet's published comparison on the
    same data, of which MRM-Net's code is a fork: Small, a stem of kernel 15, and squeeze-and-excite
    before the activation in the blocks that expand (the paper has it after).  Dropout of 0.2 before
    the last layer is the rate of its reference code; the paper states 0.8, the fraction kept.
    """
    x = conv_norm(x, 16, 15, strides=2, relu=False, name="stem")  # (500, 16)
    x = layers.Activation("hard_swish", name="stem_swish")(x)
    for i, (kernel, expansion, filters, squeeze, swish, strides) in enumerate(
        SMALL, start=1
    ):  # (250, 16), (125, 24) x 2, (63, 40) x 3, (63, 48) x 2, (32, 96) x 3
        x = inverted_residual(
            x,
            filters,
            kernel=kernel,
            expansion=expansion,
            squeeze=squeeze,
            swish=swish,
            strides=strides,
            name=f"block_{i}",
        )
    x = conv_norm(x, 576, 1, relu=False, name="last")  # (32, 576)
    x = layers.Activation("hard_swish", name="last_swish")(x)
    x = layers.GlobalAveragePooling1D(dtype="float32", name="head_pool")(x)  # (576)
    x = dense(x, 1024, activation="hard_swish", name="head_hidden")  # (1024)
    x = layers.Dropout(0.2, dtype="float32", name="head_dropout")(x)
    return linear_head(x, contract)


def inverted_residual(
    x: Any,
    filters: int,
    *,
    kernel: int,
    expansion: int,
    squeeze: bool,
    swish: bool,
    strides: int,
    name: str,
) -> Any:
    """Expand, filter each channel separately, weigh the channels, project (MobileNetV3, Fig. 4).

    Args:
        x: ``(batch, time, C)``.
        filters: output channels.
        kernel: of the depthwise convolution.
        expansion: channels of the depthwise convolution.
        squeeze: whether squeeze-and-excite weighs the channels.
        swish: whether hard swish replaces ReLU.
        strides: of the depthwise convolution.
        name: of the block.

    Returns:
        ``(batch, ceil(time / strides), filters)``.
    """
    activation = "hard_swish" if swish else "relu"
    y, widens = x, expansion != x.shape[-1]
    if widens:
        y = conv_norm(y, expansion, 1, relu=not swish, name=f"{name}_expand")
        if swish:
            y = layers.Activation(activation, name=f"{name}_expand_swish")(y)
    y = layers.ZeroPadding1D(kernel // 2, name=f"{name}_pad")(y)
    # Fan-in of one channel: PyTorch's bound is 1/sqrt(kernel); VarianceScaling would count all.
    bound = kernel**-0.5
    y = layers.DepthwiseConv1D(
        kernel,
        strides,
        use_bias=False,
        depthwise_initializer=keras.initializers.RandomUniform(-bound, bound),
        name=f"{name}_depth",
    )(y)
    y = batch_norm(y, name=f"{name}_depth_norm")
    if squeeze and widens:
        y = squeeze_and_excite(y, name=f"{name}_squeeze")
    y = layers.Activation(activation, name=f"{name}_depth_{activation}")(y)
    if squeeze and not widens:
        y = squeeze_and_excite(y, name=f"{name}_squeeze")
    y = conv_norm(y, filters, 1, relu=False, name=f"{name}_narrow")
    if strides == 1 and filters == x.shape[-1]:
        y = layers.Add(name=name)([x, y])
    return y


def squeeze_and_excite(x: Any, *, name: str) -> Any:
    """Weigh each channel by a hard sigmoid of the means of all channels (MobileNetV3, 5.3).

    The hidden layer has a quarter of the channels, rounded to a multiple of 8 (at least 8, never
    less than nine tenths of the quarter), as in its reference code.
    """
    channels = x.shape[-1]
    hidden = max(8, (channels // 4 + 4) // 8 * 8)
    hidden += 8 * (hidden < 0.9 * (channels // 4))
    weights = layers.GlobalAveragePooling1D(keepdims=True, dtype="float32", name=f"{name}_mean")(x)
    weights = dense(weights, hidden, activation="relu", name=f"{name}_reduce")
    weights = dense(weights, channels, activation="hard_sigmoid", name=f"{name}_expand")
    return layers.Multiply(name=name)([x, weights])
