"""Two residual networks called ``resnet1d_wang``, after Wang et al. 2017 (arXiv 1611.06455)."""

from typing import Any

from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract
from mrm_keras.baselines.parts import (
    baseline,
    batch_norm,
    concat_pool_head,
    conv_norm,
    convolution,
    mean_pool_head,
)

layers = keras.layers


@baseline("resnet1d_wang")
def build_resnet1d_wang(x: Any, contract: Contract) -> Any:
    """Build ``resnet1d_wang`` as in MVMSNet's published comparison.

    MRM-Net's code is a fork of that comparison.  A stem of kernel 8 and a max-pool reduce the time
    steps to a quarter; then come three blocks of two convolutions (5, 3) with 64, 128 and 128
    filters, mean over time and one linear layer.  (The original has three convolutions per block,
    of 8, 5 and 3, and no stem.)
    """
    x = layers.ZeroPadding1D(3, name="stem_pad")(x)
    x = convolution(x, 64, 8, strides=2, name="stem")  # (500, 64)
    x = batch_norm(x, name="stem_norm")
    x = layers.ReLU(name="stem_relu")(x)
    # After ReLU, padding with zeros is as good as with minus infinity.
    x = layers.ZeroPadding1D(1, name="stem_pool_pad")(x)
    x = layers.MaxPooling1D(3, 2, name="stem_pool")(x)  # (250, 64)
    for i, (filters, strides) in enumerate(((64, 1), (128, 2), (128, 2)), start=1):
        x = residual(x, filters, strides=strides, name=f"block_{i}")
    # (250, 64), (125, 128), (63, 128)
    return mean_pool_head(x, contract)


@baseline("resnet1d_wang_benchmark")
def build_resnet1d_wang_benchmark(x: Any, contract: Contract) -> Any:
    """Build ``resnet1d_wang`` of the PTB-XL benchmark (Strodthoff 2021, arXiv 2004.13701).

    A stem of kernel 7, three blocks of two convolutions (5, 3) with 128 filters, of which the
    second and third halve the time steps, and the head of the benchmark.
    """
    x = conv_norm(x, 128, 7, name="stem")  # (1000, 128)
    for i, strides in enumerate((1, 2, 2), start=1):  # (1000, 128), (500, 128), (250, 128)
        x = residual(x, 128, strides=strides, name=f"block_{i}")
    return concat_pool_head(x, contract)


def residual(x: Any, filters: int, *, strides: int, name: str) -> Any:
    """Two convolutions of 5 and 3 with a shortcut, which is a convolution of 1 if sizes differ.

    Args:
        x: ``(batch, time, C)``.
        filters: output channels; if different from C, strides must be above 1.
        strides: of the first convolution, in samples.
        name: of the block.

    Returns:
        ``(batch, (time - 1) // strides + 1, filters)``.
    """
    y = conv_norm(x, filters, 5, strides=strides, name=f"{name}_conv_1")
    y = conv_norm(y, filters, 3, relu=False, name=f"{name}_conv_2")
    if strides > 1:
        x = conv_norm(x, filters, 1, strides=strides, relu=False, name=f"{name}_shortcut")
    x = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=name)(x)
