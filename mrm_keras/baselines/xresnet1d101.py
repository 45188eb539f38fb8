"""xresnet1d101: the bag of tricks' ResNet-101 (He 2019, arXiv 1812.01187) over time."""

from typing import Any

from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract
from mrm_keras.baselines.parts import baseline, concat_pool_head, conv_norm, mean_pool_head

layers = keras.layers


@baseline("xresnet1d101")
def build_xresnet1d101(x: Any, contract: Contract) -> Any:
    """Build ``xresnet1d101`` as in MVMSNet's published comparison: kernel 3, linear head.

    MRM-Net's code is a fork of that comparison.  Up to the head it is the network of the benchmark
    except for the kernel; see :func:`build_xresnet1d101_benchmark`.
    """
    return mean_pool_head(features(x, 3), contract)


@baseline("xresnet1d101_benchmark")
def build_xresnet1d101_benchmark(x: Any, contract: Contract) -> Any:
    """Build ``xresnet1d101`` of the PTB-XL benchmark (Strodthoff 2021, arXiv 2004.13701).

    Following the benchmark's code, with kernel 5 and, instead of 64 to 512, 64 filters (four times
    as many between blocks) in every stage, which its paper does not mention.
    """
    return concat_pool_head(features(x, 5), contract)


def features(x: Any, kernel: int) -> Any:
    """A stem of three convolutions, and stages of 3, 4, 23 and 3 bottleneck blocks.

    Args:
        x: ``(batch, time, lead)``.
        kernel: of the stem and of the middle convolution of each block, odd.

    Returns:
        ``(batch, time', 256)``, 32 steps for 1,000 samples.
    """
    x = conv_norm(x, 32, kernel, strides=2, name="stem_1")  # (500, 32)
    x = conv_norm(x, 32, kernel, name="stem_2")  # (500, 32)
    x = conv_norm(x, 64, kernel, name="stem_3")  # (500, 64)
    # After ReLU, padding with zeros is as good as with minus infinity.
    x = layers.ZeroPadding1D(1, name="stem_pad")(x)
    x = layers.MaxPooling1D(3, 2, name="stem_pool")(x)  # (250, 64)
    for stage, blocks in enumerate((3, 4, 23, 3), start=1):  # (250, 256), 125, 63, (32, 256)
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            name = f"stage_{stage}_block_{block}"
            x = bottleneck(x, 64, kernel=kernel, strides=strides, name=name)
    return x


def bottleneck(x: Any, filters: int, *, kernel: int, strides: int, name: str) -> Any:
    """Convolutions of 1, ``kernel`` and 1 with a shortcut (He 2019, ResNet-B and -D).

    Args:
        x: ``(batch, time, C)``.
        filters: of the first two convolutions; the third has four times as many.
        kernel: of the middle convolution.
        strides: of the middle convolution and of the average pool in the shortcut.
        name: of the block.

    Returns:
        ``(batch, ceil(time / strides), 4 * filters)``.
    """
    y = conv_norm(x, filters, 1, name=f"{name}_conv_1")
    y = conv_norm(y, filters, kernel, strides=strides, name=f"{name}_conv_2")
    y = conv_norm(y, 4 * filters, 1, relu=False, name=f"{name}_conv_3")
    if strides > 1:
        # A last sample without a neighbour is its own average.
        x = layers.AveragePooling1D(strides, padding="same", name=f"{name}_pool")(x)
    if x.shape[-1] != 4 * filters:
        x = conv_norm(x, 4 * filters, 1, relu=False, name=f"{name}_shortcut")
    y = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=name)(y)
