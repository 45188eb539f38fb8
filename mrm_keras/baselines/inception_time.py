"""InceptionTime (Ismail Fawaz 2020, arXiv 1909.04939)."""

from typing import Any

from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract
from mrm_keras.baselines.parts import baseline, conv_norm, convolution, mean_pool_head

layers = keras.layers


@baseline("InceptionTime")
def build_inception_time(x: Any, contract: Contract) -> Any:
    """Build one InceptionTime network (Ismail Fawaz 2020, arXiv 1909.04939, Fig. 1 and 2).

    Six inception modules of 4 x 32 filters with a bottleneck of 32, a residual over every three,
    mean over time, one dense layer.  The paper's kernels of 40, 20 and 10 become 39, 19 and 9, as
    in all implementations for PTB-XL, since even kernels cannot be centred.  The paper averages
    five such networks; the MRM-Net paper does not say whether it did; here one is built.
    """
    residual = x
    for depth in range(1, 7):
        x = inception_module(x, name=f"inception_{depth}")  # (1000, 128)
        if depth % 3 == 0:
            residual = conv_norm(residual, 128, 1, relu=False, name=f"shortcut_{depth}")
            x = layers.Add(name=f"add_{depth}")([x, residual])
            x = residual = layers.ReLU(name=f"residual_{depth}")(x)
    return mean_pool_head(x, contract)


def inception_module(x: Any, *, name: str) -> Any:
    """Three kernel sizes on a bottleneck and a convolution on a max-pool, side by side.

    One batch norm over all of them equals one over each, since it treats every channel separately.

    Args:
        x: ``(batch, time, C)``.
        name: of the module.

    Returns:
        ``(batch, time, 128)``.
    """
    narrow = convolution(x, 32, 1, name=f"{name}_bottleneck")
    pooled = layers.MaxPooling1D(3, 1, padding="same", name=f"{name}_pool")(x)
    parts = [conv_norm(narrow, 32, k, name=f"{name}_conv_{k}") for k in (39, 19, 9)]
    parts.append(conv_norm(pooled, 32, 1, name=f"{name}_conv_pool"))
    return layers.Concatenate(name=name)(parts)
