"""The multi-view multi-scale network (Yang 2023, 10.1109/TETCI.2023.3235374)."""

from typing import Any

from data_prep.errors import OptionError
from data_prep.labels import LEADS
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract
from mrm_keras.baselines.parts import (
    baseline,
    batch_norm,
    conv_norm,
    convolution,
    dense,
    linear_head,
)

layers, ops = keras.layers, keras.ops

# The views of MVMSNet: leads grouped by the direction from which they view the heart.
VIEWS = {
    "right": ("aVR",),
    "high_lateral": ("I", "aVL"),
    "septal": ("V1", "V2"),
    "anterior": ("V3", "V4"),
    "lateral": ("V5", "V6"),
    "inferior": ("II", "III", "aVF"),
}


@baseline("MVMSNet")
def build_mvmsnet(x: Any, contract: Contract) -> Any:
    """Build the multi-view multi-scale network (Yang 2023, 10.1109/TETCI.2023.3235374).

    The twelve leads form six views, each with its own network and weights: a convolution of 25,
    two Res2Net blocks with coordinate attention, mean over time.  The 128 features of the views are
    added, each view weighted by a sigmoid of its own features.  The paper is not openly available;
    layers and sizes are from its authors' published code, of whose two stages this is the first
    (the second distils these views into a network of one view).  As there, batch norm comes after
    the activation in the first convolution of a block, and no scale of a Res2Net block receives the
    previous one, since both blocks are strided.
    """
    if set(contract.leads) != set(LEADS):
        raise OptionError(
            f"MVMSNet looks at the heart by all twelve leads, not by {', '.join(contract.leads)};"
            " give it those."
        )
    views = []
    for name, leads in VIEWS.items():
        y = ops.take(x, [contract.leads.index(lead) for lead in leads], axis=-1)  # (1000, 1 to 3)
        y = convolution(y, 64, 25, name=f"{name}_stem")  # (976, 64)
        y = batch_norm(y, name=f"{name}_stem_norm")
        y = layers.Activation("mish", name=f"{name}_stem_mish")(y)
        for i in (1, 2):
            y = res2_block(y, 128, name=f"{name}_block_{i}")  # (488, 128), (244, 128)
        y = layers.GlobalAveragePooling1D(dtype="float32", name=f"{name}_pool")(y)  # (128)
        weight = dense(y, 1, activation="sigmoid", name=f"{name}_weight")  # (1)
        views.append(layers.Multiply(dtype="float32", name=name)([y, weight]))
    x = layers.Add(dtype="float32", name="views")(views)  # (128)
    return linear_head(x, contract)


def res2_block(x: Any, filters: int, *, name: str) -> Any:
    """A strided Res2Net block of four scales, kernel 15, with coordinate attention.

    Args:
        x: ``(batch, time, C)``.
        filters: output channels.
        name: of the block.

    Returns:
        ``(batch, (time - 1) // 2 + 1, filters)``.
    """
    width = filters * 26 // 64
    y = convolution(x, 4 * width, 1, name=f"{name}_widen")
    y = layers.Activation("mish", name=f"{name}_widen_mish")(y)
    y = batch_norm(y, name=f"{name}_widen_norm")
    scales = list(ops.split(y, 4, axis=-1))
    for i in range(3):
        part = conv_norm(scales[i], width, 15, strides=2, relu=False, name=f"{name}_scale_{i + 1}")
        scales[i] = layers.Activation("mish", name=f"{name}_scale_{i + 1}_mish")(part)
    # The average pool of three includes the padded zeros, as in PyTorch.
    last = layers.ZeroPadding1D(1, name=f"{name}_scale_4_pad")(scales[3])
    scales[3] = layers.AveragePooling1D(3, 2, name=f"{name}_scale_4")(last)
    y = layers.Concatenate(name=f"{name}_scales")(scales)
    y = conv_norm(y, filters, 1, relu=False, name=f"{name}_narrow")
    y = coordinate_attention(y, name=f"{name}_attention")
    shortcut = convolution(x, filters, 1, strides=2, use_bias=True, name=f"{name}_shortcut")
    shortcut = batch_norm(shortcut, name=f"{name}_shortcut_norm")
    y = layers.Add(name=f"{name}_add")([y, shortcut])
    return layers.Activation("mish", name=name)(y)


def coordinate_attention(x: Any, *, name: str) -> Any:
    """Weigh every channel overall and at each time step (Hou 2021, arXiv 2103.02907, in 1D).

    The mean over time is prepended as an extra time step, so that both go through the same narrow
    convolution and batch norm.

    Args:
        x: ``(batch, time, C)``.
        name: of the attention.

    Returns:
        ``(batch, time, C)``.
    """
    time, channels = x.shape[1:]
    mean = layers.GlobalAveragePooling1D(keepdims=True, name=f"{name}_mean")(x)
    y = layers.Concatenate(axis=1, name=f"{name}_steps")([mean, x])  # (1 + time, C)
    y = convolution(y, max(8, channels // 16), 1, use_bias=True, name=f"{name}_reduce")
    y = batch_norm(y, name=f"{name}_norm")
    y = layers.Activation("hard_swish", name=f"{name}_swish")(y)
    whole = layers.Cropping1D((0, time), name=f"{name}_whole")(y)  # (1, C / 16)
    steps = layers.Cropping1D((1, 0), name=f"{name}_each")(y)  # (time, C / 16)
    expand = {"use_bias": True, "activation": "sigmoid"}
    whole = convolution(whole, channels, 1, name=f"{name}_channel", **expand)
    steps = convolution(steps, channels, 1, name=f"{name}_time", **expand)
    return layers.Multiply(name=name)([x, steps, whole])
