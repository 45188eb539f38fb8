"""The blocks of MRM-Net against NumPy, and their way through serialisation."""

from typing import Any, Literal

import keras
import mrm_numpy
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from data_prep.errors import OptionError
from mrm_keras.convolution import convolve, fourier_products
from mrm_keras.layers import (
    AttentionFusion,
    BaseBlock,
    ChannelAttention,
    ConvBlock,
    MutualLearning,
    SpatialAttention,
)

pytestmark = pytest.mark.usefixtures("graphs_as_in_use")

BATCH, TIME, CHANNELS = 3, 22, 8


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(0)


@pytest.fixture
def z() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(BATCH, TIME, CHANNELS)).astype("float32")


def shaken(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> dict[str, Any]:
    """Build the layer, give every weight a value of its own, return them by path below it."""
    layer.build(shape)
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        low, high = (0.5, 1.5) if weight.name in ("gamma", "moving_variance") else (-0.5, 0.5)
        weight.assign(rng.uniform(low, high, size=weight.shape))
    # A layer outside a model starts its weights' paths with its own name.
    return {
        weight.path if weight.path.startswith("block") else f"block/{weight.path}": np.asarray(
            weight, dtype=np.float64
        )
        for weight in layer.weights
    }


@pytest.mark.parametrize(
    "layer",
    [
        ConvBlock(4, (5,), name="block"),
        ConvBlock(4, (3, 13), strides=2, pool="halve", dtype="mixed_bfloat16"),
        ConvBlock(4, (1,), relu=False, pool="overlap"),
        BaseBlock(CHANNELS),
        BaseBlock(4),
        ChannelAttention(reduction=4),
        SpatialAttention(),
        AttentionFusion(reduction=4),
    ],
    ids=lambda layer: f"{type(layer).__name__}",
)
def test_block_basics(layer: keras.layers.Layer, z: NDArray[np.float32]) -> None:
    """The promised shape, a round trip through the configuration, a step of training."""
    shape = (None, TIME, CHANNELS)
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    for weight in model.weights:
        if weight.path.endswith("reduce/bias"):
            weight.assign(weight + 3.0)  # the two hidden units there are must be on to learn
    out = model(z)
    assert out.dtype.name == layer.compute_dtype
    assert tuple(out.shape[1:]) == layer.compute_output_shape(shape)[1:]
    assert tuple(out.shape[1:]) == model.output_shape[1:]

    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config()
    again = keras.Sequential([keras.Input(shape[1:]), copy])
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(z), out)

    before = [weight.numpy() for weight in model.weights]
    model.compile("sgd", "mse")
    # Not a constant target: a norm's distance to one is itself constant.
    model.fit(z, np.random.default_rng(8).normal(size=out.shape), verbose=0)
    for weight, was in zip(model.weights, before, strict=True):
        assert not np.array_equal(weight.numpy(), was), f"{weight.path} did not move"


@pytest.mark.parametrize("time", [21, 22])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("pool", ["none", "overlap", "halve"])
@pytest.mark.parametrize("sizes", [(3,), (11,), (3, 13, 23, 33)])
def test_conv_block_correctness(
    sizes: tuple[int, ...], pool: Any, strides: int, time: int, z: NDArray[np.float32]
) -> None:
    """One merged convolution is what several, averaged, give in NumPy."""
    x = z[:, :time]
    block = ConvBlock(5, sizes, strides=strides, pool=pool, name="block")
    w = shaken(block, x.shape)
    expected = mrm_numpy.relu(mrm_numpy.conv_norm(x.astype("float64"), w, "block", sizes, strides))
    if pool == "overlap":
        expected = mrm_numpy.max_pool(expected, stride=1, padding=1)
    elif pool == "halve":
        expected = mrm_numpy.max_pool(expected, stride=2, padding=0)
    assert expected.shape == block.compute_output_shape(x.shape)
    np.testing.assert_allclose(block(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strides", [1, 2])
def test_conv_block_normalises_by_the_batch_while_training(
    strides: int, z: NDArray[np.float32]
) -> None:
    block = ConvBlock(5, (3, 13), strides=strides, relu=False, name="block")
    w = shaken(block, z.shape)
    scales = [
        mrm_numpy.conv1d(z.astype("float64"), w[f"block/kernel_{size}"], stride=strides)
        for size in (3, 13)
    ]
    y = np.mean(scales, axis=0)
    mean, variance = y.mean(axis=(0, 1)), y.var(axis=(0, 1))
    expected = (y - mean) / np.sqrt(variance + 1e-5) * w["block/gamma"] + w["block/beta"]
    np.testing.assert_allclose(block(z, training=True), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        block.moving_mean, 0.9 * w["block/moving_mean"] + 0.1 * mean, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        block.moving_variance, 0.9 * w["block/moving_variance"] + 0.1 * variance, rtol=1e-4
    )


@pytest.mark.parametrize("time", [40, 64, 101])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("taps", [1, 3, 17, 19, 33])
def test_convolutions_of_every_length_are_the_sum(taps: int, strides: int, time: int) -> None:
    """Also the ones by Fourier transforms, odd and even reach, whole and cut blocks."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, time, 3)).astype("float32")
    kernel = rng.normal(size=(taps, 3, 4)).astype("float32")
    expected = mrm_numpy.conv1d(x.astype("float64"), kernel.astype("float64"), stride=strides)
    y = convolve(tf.constant(x), tf.constant(kernel), strides)
    np.testing.assert_allclose(y, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("taps", [1, 3, 15])
def test_short_convolution_has_tensorflows_gradients(taps: int) -> None:
    rng = np.random.default_rng(7)
    x = tf.constant(rng.normal(size=(2, 20, 3)).astype("float32"))
    kernel = tf.constant(rng.normal(size=(taps, 3, 4)).astype("float32"))
    weight = rng.normal(size=(2, 20, 4)).astype("float32")
    gradients = []
    for correlate in (convolve, tf.nn.conv1d):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = correlate(x, kernel, 1, *(["SAME"] if correlate is tf.nn.conv1d else []))
            loss = tf.reduce_sum(weight * y)
        gradients.append(tape.gradient(loss, [x, kernel]))
    for ours, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_fourier_products_are_few() -> None:
    """143 products for 64 outputs at 33 taps, as the derivation counts them."""
    d, g, a = fourier_products(33)
    assert d.shape == (143, 96) and g.shape == (143, 33) and a.shape == (64, 143)


def test_conv_block_refuses_even_kernels() -> None:
    with pytest.raises(OptionError, match="must be odd"):
        ConvBlock(4, (3, 4))


def test_frozen_conv_block_keeps_its_statistics(z: NDArray[np.float32]) -> None:
    block = ConvBlock(5, (3,), name="block")
    shaken(block, z.shape)
    block.trainable = False
    before = block.moving_mean.numpy()
    np.testing.assert_array_equal(block(z, training=True), block(z, training=False))
    np.testing.assert_array_equal(block.moving_mean, before)


@pytest.mark.parametrize("filters", [CHANNELS, 4])
def test_base_block_correctness(filters: int, z: NDArray[np.float32]) -> None:
    """With and without the projection of the residual path."""
    block = BaseBlock(filters, name="block")
    w = shaken(block, z.shape)
    assert ("block/projection/kernel_1" in w) == (filters != CHANNELS)
    expected = mrm_numpy.base_block(z.astype("float64"), w, "block")
    np.testing.assert_allclose(block(z), expected, rtol=1e-4, atol=1e-5)


def test_channel_attention_correctness(z: NDArray[np.float32]) -> None:
    layer = ChannelAttention(reduction=4, name="block")
    w = shaken(layer, z.shape)
    assert w["block/reduce/kernel"].shape == (CHANNELS, CHANNELS // 4)
    expected = mrm_numpy.channel_attention(z.astype("float64"), w, "block")
    np.testing.assert_allclose(layer(z), expected, rtol=1e-4)


def test_spatial_attention_correctness(z: NDArray[np.float32]) -> None:
    layer = SpatialAttention(name="block")
    w = shaken(layer, z.shape)
    expected = mrm_numpy.spatial_attention(z.astype("float64"), w, "block")
    np.testing.assert_allclose(layer(z), expected, rtol=1e-4)


def test_attention_fusion_correctness(z: NDArray[np.float32]) -> None:
    layer = AttentionFusion(reduction=4, name="block")
    w = shaken(layer, z.shape)
    expected = mrm_numpy.attention(z.astype("float64"), w, "block")
    np.testing.assert_allclose(layer(z), expected, rtol=1e-4, atol=1e-5)


def features(seed: int = 2) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Z1 and Z2 of a small network, far enough apart for the loss to matter."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(scale=3, size=(2, BATCH, 96)).astype("float32")
    return a.reshape(BATCH, 24, 4), b.reshape(BATCH, 12, 8)


def test_mutual_learning_basics() -> None:
    a, b = features()
    layer = MutualLearning(0.5, temperature=2.0, flatten="time")
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert (copy.weight, copy.temperature, copy.flatten) == (0.5, 2.0, "time")
    assert copy.get_config() == layer.get_config()
    out_a, out_b = layer([a, b], training=False)
    np.testing.assert_array_equal(out_a, a)
    np.testing.assert_array_equal(out_b, b)
    assert layer.losses == [] and layer.weights == []
    for x in layer([tf.cast(a, "bfloat16"), tf.cast(b, "bfloat16")], training=True):
        assert x.dtype == "float32"  # this layer's own policy casts; see below
    assert layer.losses[0].dtype == "float32"

    inputs = [keras.Input(x.shape[1:]) for x in (a, b)]
    sides = [keras.layers.Dense(x.shape[-1]) for x in (a, b)]
    model = keras.Model(inputs, copy([side(x) for side, x in zip(sides, inputs, strict=True)]))
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1))
    assert model.fit([a, b], verbose=0).history["loss"][0] > 0.01
    for weights, were in zip(model.get_weights(), before, strict=True):
        assert not np.array_equal(weights, were)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_mutual_learning_correctness(temperature: float) -> None:
    """The value of eq. 5 and 6 as printed, and none of it for a pair of equals."""
    a, b = features()
    layer = MutualLearning(0.3, temperature)
    layer([a, b], training=True)
    expected = 0.3 * mrm_numpy.mutual_loss(a, b, temperature=temperature)
    assert expected > 0.01
    np.testing.assert_allclose(layer.losses, [expected], rtol=1e-5)
    layer = MutualLearning(0.3, temperature)
    same = a.transpose(0, 2, 1).reshape(BATCH, 8, 12).transpose(0, 2, 1)
    layer([a, same], training=True)
    np.testing.assert_allclose(layer.losses, [0.0], atol=1e-7)


def test_mutual_learning_flattens_channel_by_channel() -> None:
    """In the order of PyTorch's view(batch, -1) of (batch, channel, time); or step by step."""
    a, b = features()
    orders: tuple[Literal["channel", "time"], ...] = ("channel", "time")
    by_order = [mrm_numpy.mutual_loss(a, b, flatten=order) for order in orders]
    assert by_order[0] != pytest.approx(by_order[1], rel=1e-3)
    for order, expected in zip(orders, by_order, strict=True):
        layer = MutualLearning(0.3, flatten=order)
        layer([a, b], training=True)
        np.testing.assert_allclose(layer.losses, [0.3 * expected], rtol=1e-5)


def test_mutual_learning_sends_gradients_into_both_sides() -> None:
    """Both gradients against central differences of the NumPy loss in float64."""
    a, b = (tf.Variable(x[:, :, :2]) for x in features())
    b.assign(b * 0.5)
    a, b = tf.Variable(a[:, :12]), tf.Variable(b)
    layer = MutualLearning(1.0, 4.0)

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            layer([a, b], training=True)
            loss = layer.losses[0]
        return tape.gradient(loss, [a, b])

    gradients = step()
    pair = [np.asarray(x, dtype=np.float64) for x in (a, b)]
    for side, gradient in enumerate(gradients):
        expected = np.zeros_like(pair[side])
        for index in np.ndindex(expected.shape):
            values = []
            for step in (1e-5, -1e-5):
                moved = [x.copy() for x in pair]
                moved[side][index] += step
                values.append(mrm_numpy.mutual_loss(moved[0], moved[1]))
            expected[index] = (values[0] - values[1]) / 2e-5
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_mutual_learning_counts_in_float32_under_mixed_precision() -> None:
    """The features stay bfloat16, the loss is that of their float32 values."""
    a, b = (tf.cast(x, "bfloat16") for x in features())
    layer = MutualLearning(1.0, dtype="mixed_bfloat16")
    out = layer([a, b], training=True)
    assert [x.dtype for x in out] == ["bfloat16", "bfloat16"]
    expected = mrm_numpy.mutual_loss(tf.cast(a, "float32").numpy(), tf.cast(b, "float32").numpy())
    np.testing.assert_allclose(layer.losses, [expected], rtol=1e-5)
