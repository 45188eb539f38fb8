"""MRM-Net as one would plainly write it in Keras: what ``mrm_keras`` must equal, and outrun.

Only layers of Keras, four convolutions that are averaged, pools that are padded, one call for
each box of the paper's figures.
"""

from typing import Any

from ecg_keras.model.backend import keras
from mrm_keras.layers import MutualLearning

layers = keras.layers
Pool = str | None


def build_plain_model(
    *,
    num_classes: int = 9,
    input_length: int = 1000,
    num_leads: int = 12,
    low_channels: int = 128,
    high_channels: int = 256,
    alpha: float = 0.01,
    beta: float = 0.01,
    gamma: float = 0.1,
    temperature: float = 4.0,
    dropout: float = 0.2,
) -> keras.Model:
    """Build MRM-Net with the arguments and heads of ``mrm_keras.build_model``.

    Returns:
        A model from ``signal`` ``(batch, time, lead)``, standardised, to the dict of probabilities.
    """
    signal = keras.Input((input_length, num_leads), name="signal")
    x = signal
    widths = (max(1, low_channels // 4), max(1, low_channels // 2), low_channels, low_channels)
    for i, (size, filters) in enumerate(zip((11, 7, 5, 3), widths, strict=True), start=1):
        x = conv_norm(x, filters, (size,), name=f"trunk_{i}")
        x = layers.ReLU()(x)
        # Padded with zeros instead of minus infinity: the same for what ReLU made.
        x = layers.MaxPooling1D(2, strides=1)(layers.ZeroPadding1D(1)(x))

    pair = []
    for name, channels, strides in (("low", low_channels, 1), ("high", high_channels, 2)):
        scales = conv_norm(
            x, channels, (3, 13, 23, 33), strides=strides, name=f"{name}_multi_scale"
        )
        scales = layers.Dropout(dropout)(layers.MaxPooling1D(2)(layers.ReLU()(scales)))
        parallel = conv_norm(x, channels, (3,), strides=strides, name=f"{name}_conv_block")
        parallel = layers.MaxPooling1D(2)(layers.ReLU()(parallel))
        pair.append(layers.Add()([scales, parallel]))
    pair = MutualLearning(alpha, temperature)(pair)

    for side, name in enumerate(("low", "high")):
        z = pair[side]
        channels = z.shape[-1]
        for i in (1, 2, 3):
            z = base_block(z, channels, name=f"{name}_block_{i}")
        weighed = [
            layers.Multiply()([channel_attention(z, name=f"{name}_attention.channel"), z]),
            layers.Multiply()([spatial_attention(z, name=f"{name}_attention.spatial"), z]),
        ]
        z = layers.Concatenate()(weighed)
        z = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_attention.norm")(z)
        pair[side] = base_block(z, channels, name=f"{name}_fusion")
    pair = MutualLearning(beta, temperature)(pair)

    for side, name in enumerate(("low", "high")):
        z = layers.GlobalAveragePooling1D(dtype="float32")(pair[side])
        z = layers.LayerNormalization(epsilon=1e-5, dtype="float32", name=f"{name}_head_norm")(z)
        pair[side] = layers.Dense(num_classes, dtype="float32", name=f"{name}_head_linear")(z)
    pair = MutualLearning(gamma, temperature, dtype="float32")(pair)
    low, high = (
        layers.Activation("sigmoid", dtype="float32", name=name)(out)
        for name, out in zip(("low", "high"), pair, strict=True)
    )
    diagnosis = layers.Average(dtype="float32", name="diagnosis")([low, high])
    return keras.Model(signal, {"diagnosis": diagnosis, "low": low, "high": high})


def conv_norm(x: Any, filters: int, sizes: tuple[int, ...], *, strides: int = 1, name: str) -> Any:
    """The mean of one convolution of each size, padded k//2 on both sides, then batch norm."""
    scales = [
        layers.Conv1D(filters, size, strides=strides, use_bias=False, name=f"{name}.kernel_{size}")(
            layers.ZeroPadding1D(size // 2)(x)
        )
        for size in sizes
    ]
    y = layers.Average()(scales) if len(scales) > 1 else scales[0]
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(y)


def base_block(x: Any, filters: int, *, name: str) -> Any:
    """Two 3-wide convolutions with batch norm, and a residual."""
    y = layers.ReLU()(conv_norm(x, filters, (3,), name=f"{name}.conv_1"))
    y = conv_norm(y, filters, (3,), name=f"{name}.conv_2")
    if x.shape[-1] != filters:
        x = conv_norm(x, filters, (1,), name=f"{name}.projection")
    return layers.ReLU()(layers.Add()([y, x]))


def channel_attention(z: Any, *, name: str) -> Any:
    """Eq. 1, ``(batch, 1, channel)``."""
    channels = z.shape[-1]
    reduce = layers.Dense(max(1, channels // 8), activation="relu", name=f"{name}.reduce")
    expand = layers.Dense(channels, name=f"{name}.expand")
    average = expand(reduce(layers.GlobalAveragePooling1D(keepdims=True)(z)))
    maximum = expand(reduce(layers.GlobalMaxPooling1D(keepdims=True)(z)))
    return layers.Activation("sigmoid")(layers.Add()([average, maximum]))


def spatial_attention(z: Any, *, name: str) -> Any:
    """Eq. 2, ``(batch, time, 1)``."""
    average = keras.ops.mean(z, axis=-1, keepdims=True)
    maximum = keras.ops.max(z, axis=-1, keepdims=True)
    both = layers.Concatenate()([average, maximum])
    return layers.Conv1D(1, 3, padding="same", activation="sigmoid", name=f"{name}.conv")(both)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Give the plain model the weights of one of ``mrm_keras``.

    Args:
        source: from ``mrm_keras.build_model``.
        target: from :func:`build_plain_model` with the same arguments.
    """
    values = {plain_path(weight.path): weight for weight in source.weights}
    assert len(values) == len(target.weights)
    for weight in target.weights:
        weight.assign(values[weight.path])


def plain_path(path: str) -> str:
    """The path in the plain model of a weight of ``mrm_keras``."""
    *layer, weight = path.split("/")
    if weight.startswith("kernel_"):
        layer, weight = [*layer, weight], "kernel"
    return f"{'.'.join(layer)}/{weight}"
