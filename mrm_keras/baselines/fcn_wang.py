"""The fully convolutional network of Wang et al. 2017 (arXiv 1611.06455)."""

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


@baseline("fcn_wang")
def build_fcn_wang(x: Any, contract: Contract) -> Any:
    """Build the fully convolutional network of Wang et al. 2017 (arXiv 1611.06455, Fig. 1b).

    Mean over time and one linear layer, as in its paper, with a sigmoid for several labels; this is
    the version in MVMSNet's published comparison, of which MRM-Net's code is a fork.
    """
    return mean_pool_head(features(x), contract)


@baseline("fcn_wang_benchmark")
def build_fcn_wang_benchmark(x: Any, contract: Contract) -> Any:
    """Build ``fcn_wang`` as in the PTB-XL benchmark (Strodthoff 2021, arXiv 2004.13701).

    The same convolutions with the head of the benchmark; see :func:`concat_pool_head`.
    """
    return concat_pool_head(features(x), contract)


def features(x: Any) -> Any:
    """Three convolutions with kernels of 8, 5 and 3, each with batch norm and ReLU.

    The paper does not give the padding of the kernel of 8; both published codes pad three zeros on
    each side, which makes the signal one sample shorter.

    Args:
        x: ``(batch, time, lead)``.

    Returns:
        ``(batch, time - 1, 128)``.
    """
    x = layers.ZeroPadding1D(3, name="pad_1")(x)
    x = convolution(x, 128, 8, name="conv_1")  # (999, 128)
    x = batch_norm(x, name="norm_1")
    x = layers.ReLU(name="relu_1")(x)
    x = conv_norm(x, 256, 5, name="conv_2")  # (999, 256)
    return conv_norm(x, 128, 3, name="conv_3")  # (999, 128)
