"""The blocks of MRM-Net that have weights or add a loss, named as in the paper.

What the paper does not state follows PyTorch, in which the network was written: convolutions are
padded with k//2 zeros on both sides for any stride, batch norm has epsilon 1e-5 and keeps 0.9 of
its moving statistics at each step, pools pad with minus infinity, and initial weights are uniform
within 1/sqrt(fan-in).  Convolutions followed by batch norm have no bias, everything else has one.
"""

from collections.abc import Sequence
from typing import Any, Literal

from data_prep.errors import OptionError
from ecg_keras.model.backend import keras, tf
from mrm_keras.convolution import convolve

ops = keras.ops

BATCH_NORM_MOMENTUM = 0.9
EPSILON = 1e-5

Shape = tuple[int | None, ...]


def torch_uniform() -> keras.initializers.Initializer:
    """PyTorch's initial weights, uniform within 1/sqrt(fan-in)."""
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


@keras.saving.register_keras_serializable("ecg_keras")
class ConvBlock(keras.layers.Layer):
    """Convolution, batch norm, and optionally ReLU and max-pooling (MRM-Net, Fig. 2).

    With several kernel sizes the result is the average of one convolution of each size: the
    multi-scale fusion of MRM-Net, section III-B.  A convolution is linear in its kernel, and
    with k//2 padding all (odd) kernels are centred on the same sample; so the average of the
    convolutions is one convolution with the average of the kernels, the shorter ones padded
    with zeros: 33 taps instead of 3 + 13 + 23 + 33 = 72.  At inference, batch norm is only a scale
    and an offset and is merged into the kernel.

    Args:
        filters: C, the number of output channels.
        kernel_sizes: k of each convolution that is averaged, in samples, odd.
        strides: of the convolution, in samples.
        relu: whether ReLU follows the batch norm.
        pool: the max-pool of kernel 2 at the end: ``"none"``; ``"overlap"`` has stride 1 and
            padding 1, so that the length grows by one; ``"halve"`` has stride 2.

    Raises:
        OptionError: if a kernel size is even.

    Call arguments:
        x: ``(batch, time, channel)``.
        training: whether to normalise by the batch and update the moving statistics.

    Returns:
        ``(batch, time', C)``; time' = (time - 1) // strides + 1, then +1 or // 2 by ``pool``.
    """

    def __init__(
        self,
        filters: int,
        kernel_sizes: Sequence[int],
        *,
        strides: int = 1,
        relu: bool = True,
        pool: Literal["none", "overlap", "halve"] = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if any(size % 2 == 0 for size in kernel_sizes):
            raise OptionError(f"kernel sizes must be odd to be centred, not {kernel_sizes}.")
        self.filters = filters
        self.kernel_sizes = tuple(kernel_sizes)
        self.strides = strides
        self.relu = relu
        self.pool = pool

    def build(self, input_shape: Shape) -> None:
        """Create one kernel per size, and scale, offset and moving statistics."""
        self.kernels = [
            self.add_weight(
                name=f"kernel_{size}",
                shape=(size, input_shape[-1], self.filters),
                initializer=torch_uniform(),
                autocast=False,
            )
            for size in self.kernel_sizes
        ]
        channel = {"shape": (self.filters,), "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **channel)
        self.beta = self.add_weight(name="beta", initializer="zeros", **channel)
        moving = {"trainable": False, **channel}
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", **moving)
        self.moving_variance = self.add_weight(name="moving_variance", initializer="ones", **moving)

    def merged_kernel(self) -> Any:
        """The average of the kernels, centred: ``(longest k, channel, C)``, float32."""
        longest = max(self.kernel_sizes)
        centred = [
            ops.pad(kernel, (((longest - size) // 2,) * 2, (0, 0), (0, 0)))
            for kernel, size in zip(self.kernels, self.kernel_sizes, strict=True)
        ]
        return sum(centred[1:], start=centred[0]) / len(centred)

    def call(self, x: Any, training: bool = False) -> Any:
        """Convolve, normalise, rectify, pool."""
        kernel = self.merged_kernel()
        if training and self.trainable:
            y = self.batch_norm(convolve(x, kernel, self.strides))
        else:
            # With fixed statistics batch norm is a scale and an offset: part of the convolution.
            scale = self.gamma * ops.rsqrt(self.moving_variance + EPSILON)
            offset = ops.cast(self.beta - self.moving_mean * scale, self.compute_dtype)
            y = tf.nn.bias_add(convolve(x, kernel * scale, self.strides), offset)
        if self.relu:
            y = tf.nn.relu(y)
        if self.pool == "halve":
            y = tf.nn.max_pool1d(y, 2, 2, "VALID")
        elif self.pool == "overlap":
            y = tf.pad(y, ((0, 0), (1, 1), (0, 0)), constant_values=-float("inf"))
            y = tf.nn.max_pool1d(y, 2, 1, "VALID")
        return y

    def batch_norm(self, y: Any) -> Any:
        """Normalise by the batch and update the moving statistics, both in float32."""
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.expand_dims(y, axis=1),
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=[],
            variance=[],
            epsilon=EPSILON,
            is_training=True,
        )
        # TensorFlow divides the variance by n - 1, Keras by n.
        count = tf.cast(tf.size(y) // self.filters, "float32")
        variance *= (count - 1) / count
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * BATCH_NORM_MOMENTUM + batch * (1 - BATCH_NORM_MOMENTUM))
        return tf.squeeze(y, axis=1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """``(batch, time', C)``."""
        batch, time, _ = input_shape
        if time is not None:
            time = (time - 1) // self.strides + 1
            time = {"none": time, "overlap": time + 1, "halve": time // 2}[self.pool]
        return (batch, time, self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_sizes": self.kernel_sizes,
            "strides": self.strides,
            "relu": self.relu,
            "pool": self.pool,
        }


@keras.saving.register_keras_serializable("ecg_keras")
class BaseBlock(keras.layers.Layer):
    """Residual block of two 3-wide convolutions (MRM-Net, section III-C).

    relu(BN(conv3(relu(BN(conv3(x))))) + x); if the number of channels changes, the residual
    path is a convolution of kernel 1 with batch norm.  The paper only names the block as residual
    and does not show its layers.

    Args:
        filters: C, the number of output channels.

    Call arguments:
        x: ``(batch, time, channel)``.
        training: passed on to batch norm.

    Returns:
        ``(batch, time, C)``.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape: Shape) -> None:
        """Create the two convolutions and, if the channels change, the projection."""
        policy = self.dtype_policy
        self.conv_1 = ConvBlock(self.filters, (3,), dtype=policy, name="conv_1")
        self.conv_2 = ConvBlock(self.filters, (3,), relu=False, dtype=policy, name="conv_2")
        self.projection = None
        self.conv_1.build(input_shape)
        self.conv_2.build((*input_shape[:-1], self.filters))
        if input_shape[-1] != self.filters:
            self.projection = ConvBlock(
                self.filters, (1,), relu=False, dtype=policy, name="projection"
            )
            self.projection.build(input_shape)

    def call(self, x: Any, training: bool = False) -> Any:
        """Add the output of the two convolutions to x, and rectify."""
        y = self.conv_2(self.conv_1(x, training=training), training=training)
        shortcut = x if self.projection is None else self.projection(x, training=training)
        return ops.relu(y + shortcut)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """``(batch, time, C)``."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable("ecg_keras")
class ChannelAttention(keras.layers.Layer):
    """A weight per channel, CA(Z) = sigmoid(MLP(avg Z) + MLP(max Z)) (MRM-Net, eq. 1).

    Average and maximum are over time; the MLP, shared by both, is dense C/reduction, ReLU,
    dense C (the paper does not give its sizes).

    Args:
        reduction: factor by which the hidden layer is narrower than C (at least one unit).

    Call arguments:
        z: ``(batch, time, C)``.

    Returns:
        ``(batch, 1, C)``, each in 0..1.
    """

    def __init__(self, reduction: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reduction = reduction

    def build(self, input_shape: Shape) -> None:
        """Create the shared MLP."""
        channels = input_shape[-1]
        assert channels is not None
        hidden = max(1, channels // self.reduction)
        self.reduce = keras.layers.Dense(
            hidden, "relu", kernel_initializer=torch_uniform(), dtype=self.dtype_policy,
            name="reduce",
        )  # fmt: skip
        self.expand = keras.layers.Dense(
            channels, kernel_initializer=torch_uniform(), dtype=self.dtype_policy, name="expand"
        )
        self.reduce.build((None, channels))
        self.expand.build((None, hidden))

    def call(self, z: Any) -> Any:
        """Weigh the channels."""
        average = ops.mean(z, axis=1, keepdims=True)
        maximum = ops.max(z, axis=1, keepdims=True)
        return ops.sigmoid(self.expand(self.reduce(average)) + self.expand(self.reduce(maximum)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """``(batch, 1, C)``."""
        return (input_shape[0], 1, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "reduction": self.reduction}


@keras.saving.register_keras_serializable("ecg_keras")
class SpatialAttention(keras.layers.Layer):
    """A weight per time step, SA(Z) = sigmoid(conv3([avg Z; max Z])) (MRM-Net, eq. 2).

    Average and maximum are over channels.

    Call arguments:
        z: ``(batch, time, C)``.

    Returns:
        ``(batch, time, 1)``, each in 0..1.
    """

    def build(self, input_shape: Shape) -> None:
        """Create the convolution from two channels to one."""
        self.conv = keras.layers.Conv1D(
            1, 3, padding="same", kernel_initializer=torch_uniform(), dtype=self.dtype_policy,
            name="conv",
        )  # fmt: skip
        self.conv.build((*input_shape[:-1], 2))

    def call(self, z: Any) -> Any:
        """Weigh the time steps."""
        average = ops.mean(z, axis=-1, keepdims=True)
        maximum = ops.max(z, axis=-1, keepdims=True)
        return ops.sigmoid(self.conv(ops.concatenate([average, maximum], axis=-1)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """``(batch, time, 1)``."""
        return (*input_shape[:-1], 1)


@keras.saving.register_keras_serializable("ecg_keras")
class AttentionFusion(keras.layers.Layer):
    """LN(concat[CA(Z) * Z, SA(Z) * Z]), both attentions side by side (MRM-Net, Fig. 3b).

    The paper's eq. 3 repeats eq. 2 by mistake; this follows its text and figure.  The layer norm
    is over the 2C channels of each time step.

    Args:
        reduction: of the channel attention.

    Call arguments:
        z: ``(batch, time, C)``.

    Returns:
        ``(batch, time, 2C)``.
    """

    def __init__(self, reduction: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reduction = reduction

    def build(self, input_shape: Shape) -> None:
        """Create both attentions and the layer norm."""
        policy = self.dtype_policy
        self.channel = ChannelAttention(self.reduction, dtype=policy, name="channel")
        self.spatial = SpatialAttention(dtype=policy, name="spatial")
        self.norm = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name="norm")
        self.channel.build(input_shape)
        self.spatial.build(input_shape)
        self.norm.build(self.compute_output_shape(input_shape))

    def call(self, z: Any) -> Any:
        """Weigh by channel and by time step, concatenate, normalise."""
        weighed = ops.concatenate([self.channel(z) * z, self.spatial(z) * z], axis=-1)
        return self.norm(weighed)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """``(batch, time, 2C)``."""
        channels = input_shape[-1]
        assert channels is not None
        return (*input_shape[:-1], 2 * channels)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "reduction": self.reduction}


@keras.saving.register_keras_serializable("ecg_keras")
class MutualLearning(keras.layers.Layer):
    """Lets two features of equal size learn from each other (MRM-Net, eq. 5-7).

    In training, adds weight * T^2 * mean over the batch of KL(p_a || p_b) + KL(p_b || p_a), with
    p = softmax(flatten(.) / T) and each KL summed over the features; gradients flow into both
    sides.  The features pass unchanged.  T^2 keeps the size of the gradients independent of T; the
    paper gives neither T nor the reduction, and these are the ones its authors trained with.

    Args:
        weight: alpha, beta or gamma of eq. 7.
        temperature: T.
        flatten: which values of the two features are compared. ``"channel"`` flattens channel by
            channel, as in the paper (Z1 in R^(C x 2N), Z2 in R^(2C x N)): channel c of the low
            branch is compared with channels 2c and 2c + 1 of the high one. ``"time"`` flattens
            step by step, so that two steps of the low branch are compared with the step of the
            high branch that covers the same time; this is a different loss.

    Call arguments:
        features: the pair a, b, ``(batch, time, channel)`` or ``(batch, class)``, with the same
            number of elements.
        training: whether to add the loss.

    Returns:
        The pair a, b.

    Raises:
        OptionError: if the flattening is unknown.
    """

    def __init__(
        self,
        weight: float,
        temperature: float = 4.0,
        flatten: Literal["channel", "time"] = "channel",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.weight = weight
        self.temperature = temperature
        if flatten not in ("channel", "time"):
            raise OptionError(f"there is no flattening {flatten!r}; choose channel or time.")
        self.flatten = flatten

    def call(self, features: Sequence[Any], training: bool = False) -> Any:
        """Add the loss and return the features."""
        if training and self.weight:
            log_a, log_b = (self.log_probabilities(x) for x in features)
            # KL(a||b) + KL(b||a) = sum of (p_a - p_b) (log p_a - log p_b)
            both = ops.sum((ops.exp(log_a) - ops.exp(log_b)) * (log_a - log_b), axis=-1)
            self.add_loss(self.weight * self.temperature**2 * ops.mean(both))
        return list(features)

    def log_probabilities(self, x: Any) -> Any:
        """Log softmax(flatten(x) / T), ``(batch, elements)``, float32 under any policy."""
        if self.flatten == "channel" and len(x.shape) == 3:
            x = ops.transpose(x, (0, 2, 1))
        flat = ops.reshape(ops.cast(x, "float32"), (ops.shape(x)[0], -1))
        return ops.log_softmax(flat / self.temperature)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> list[Shape]:
        """Return the shapes unchanged."""
        return list(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "weight": self.weight,
            "temperature": self.temperature,
            "flatten": self.flatten,
        }
