"""Layers of MRM-Net and baselines in operations that every runtime supports, for inference only.

Here batch norms and the average over kernel sizes are merged into the convolutions, long kernels
are convolved directly, and layers that only add a loss are removed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ecg_keras.export.export import float32_copy
from ecg_keras.model.backend import keras
from mrm_keras.layers import (
    EPSILON,
    AttentionFusion,
    BaseBlock,
    ChannelAttention,
    ConvBlock,
    MutualLearning,
    SpatialAttention,
)

layers = keras.layers


def conv_block(layer: Any, x: Any) -> Any:
    """``ConvBlock``: one ``Conv1D`` and its pool."""
    gamma, beta, mean, variance = map(
        np.asarray, (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )
    scale = gamma / np.sqrt(variance + EPSILON)
    kernel = np.asarray(layer.merged_kernel()) * scale
    if layer.strides > 1:  # Keras' "same" pads differently from PyTorch.
        x = layers.ZeroPadding1D(len(kernel) // 2)(x)
    conv = layers.Conv1D(
        layer.filters,
        len(kernel),
        strides=layer.strides,
        padding="same" if layer.strides == 1 else "valid",
        activation="relu" if layer.relu else None,
    )
    y = conv(x)
    conv.set_weights([kernel, beta - mean * scale])
    if layer.pool == "halve":
        return layers.MaxPooling1D(2)(y)
    if layer.pool == "overlap":
        # After ReLU, padding with zeros is as good as with minus infinity.
        assert layer.relu
        return layers.MaxPooling1D(2, strides=1)(layers.ZeroPadding1D(1)(y))
    return y


def base_block(layer: Any, x: Any) -> Any:
    """``BaseBlock``."""
    y = conv_block(layer.conv_2, conv_block(layer.conv_1, x))
    shortcut = x if layer.projection is None else conv_block(layer.projection, x)
    return layers.Activation("relu")(layers.Add()([y, shortcut]))


def channel_attention(layer: Any, z: Any) -> Any:
    """``ChannelAttention``."""
    reduce, expand = float32_copy(layer.reduce), float32_copy(layer.expand)
    average = expand(reduce(layers.GlobalAveragePooling1D(keepdims=True)(z)))
    maximum = expand(reduce(layers.GlobalMaxPooling1D(keepdims=True)(z)))
    return layers.Activation("sigmoid")(layers.Add()([average, maximum]))


def spatial_attention(layer: Any, z: Any) -> Any:
    """``SpatialAttention``; pooling with the channels "first" is pooling over the last axis."""
    over_channels = {"data_format": "channels_first", "keepdims": True}
    average = layers.GlobalAveragePooling1D(**over_channels)(z)
    maximum = layers.GlobalMaxPooling1D(**over_channels)(z)
    score = float32_copy(layer.conv)(layers.Concatenate()([average, maximum]))
    return layers.Activation("sigmoid")(score)


def attention_fusion(layer: Any, z: Any) -> Any:
    """``AttentionFusion``."""
    by_channel = layers.Multiply()([channel_attention(layer.channel, z), z])
    by_time = layers.Multiply()([spatial_attention(layer.spatial, z), z])
    return float32_copy(layer.norm)(layers.Concatenate()([by_channel, by_time]))


def mutual_learning(layer: Any, features: Sequence[Any]) -> list[Any]:
    """``MutualLearning``, which does nothing outside training."""
    return list(features)


PLAIN: dict[type, Callable[..., Any]] = {
    AttentionFusion: attention_fusion,
    BaseBlock: base_block,
    ChannelAttention: channel_attention,
    ConvBlock: conv_block,
    MutualLearning: mutual_learning,
    SpatialAttention: spatial_attention,
}
