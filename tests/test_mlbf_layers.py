"""The boxes of MLBF-Net against NumPy and Keras' own layers, and through serialisation."""

import itertools
from typing import Any

import keras
import mlbf_numpy
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from benchmarks.mlbf_plain import Attention, f_cnn
from data_prep.errors import OptionError
from mlbf_keras import layers
from mlbf_keras.layers import BranchAttention, BranchBiGRU, BranchConvolutions, BranchSoftmax

pytestmark = pytest.mark.usefixtures("graphs_as_in_use")

BATCH, TIME, BRANCHES, WIDTH = 4, 19, 2, 6
ONE_BLOCK = ((3, 3, 24),)


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(0)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def recordings(lengths: list[int], time: int, leads: int = BRANCHES) -> NDArray[np.float32]:
    """Noise as long as each recording, zeros behind."""
    signal = normal(len(lengths), time, leads, seed=1)
    for record, length in zip(signal, lengths, strict=True):
        record[length:] = 0.0
    return signal


def shaken(layer: keras.layers.Layer, shape: Any) -> dict[str, Any]:
    """Build the layer, give every weight a value of its own, return them by name below it."""
    layer.build(shape)
    rng = np.random.default_rng(2)
    for weight in layer.weights:
        weight.assign(rng.uniform(-0.5, 0.5, size=weight.shape))
    return {f"{layer.name}/{weight.name}": numpy(weight) for weight in layer.weights}


def numpy(x: Any) -> NDArray[np.float64]:
    return np.asarray(x, dtype=np.float64)


def assert_near(actual: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Every number within a share of the largest."""
    expected = numpy(expected)
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(numpy(actual), expected, rtol=0, atol=tolerance * scale)


SIGNAL = normal(BATCH, 80, BRANCHES)
FEATURES = normal(BATCH, TIME, BRANCHES, WIDTH)
BY_BRANCH = [FEATURES[:, :, j] for j in range(BRANCHES)]
BLOCKS: dict[str, Any] = {"filters": 4, "kernel_sizes": ONE_BLOCK, "dropout": 0.1}


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (BranchConvolutions(BRANCHES, **BLOCKS), SIGNAL),
        (BranchConvolutions(1, **BLOCKS, dtype="mixed_bfloat16"), SIGNAL),
        (BranchBiGRU(3, dropout=0.1), BY_BRANCH),
        (BranchBiGRU(3, dropout=0.1, dtype="mixed_bfloat16"), BY_BRANCH),
        (BranchAttention(), FEATURES),
        (BranchAttention(dtype="mixed_bfloat16"), FEATURES),
        (BranchSoftmax(5), FEATURES[:, 0]),
        (BranchSoftmax(5, "sigmoid"), FEATURES[:, 0]),
        (BranchSoftmax(5, dtype="mixed_bfloat16"), FEATURES[:, 0]),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, keras.layers.Layer) else "",
)
def test_layer_basics(layer: keras.layers.Layer, inputs: Any) -> None:
    """The promised shapes and types, a round trip through the configuration, a step of training."""
    symbols = tf.nest.map_structure(lambda x: keras.Input(x.shape[1:]), inputs)
    model = keras.Model(symbols, layer(symbols))
    answers, promised = tf.nest.flatten(model(inputs)), tf.nest.flatten(model.output)
    assert [x.shape[1:] for x in answers] == [x.shape[1:] for x in promised]
    assert [x.dtype.name for x in answers] == [x.dtype for x in promised]

    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config()
    again = keras.Model(symbols, copy(symbols))
    again.set_weights(model.get_weights())
    for x, y in zip(tf.nest.flatten(again(inputs)), answers, strict=True):
        np.testing.assert_array_equal(x, y)

    before = [weight.numpy() for weight in model.weights]
    model.compile(keras.optimizers.SGD(0.1), "mse")
    targets = tf.nest.map_structure(lambda x: np.ones(x.shape, "float32"), model(inputs))
    model.fit(inputs, targets, verbose=0)
    for weight, was in zip(model.weights, before, strict=True):
        assert not np.array_equal(weight, was), f"{weight.path} did not move"


@pytest.mark.parametrize(
    ("time", "batches"),
    [
        (
            600,
            [
                [0, 1, 2, 3],  # as good as nothing
                [0, 1, 37, 90],  # short
                [301, 150, 75, 38],  # medium, odd
                [600, 599, 13, 0],  # full
                [0, 0, 0, 0],
                [301],  # fewer recordings than slices
                [40, 600],
                [37, 600, 90, 301, 1, 75, 90, 599, 13],  # several in a slice, in no order
                [150] * 7,  # all alike
            ],
        ),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (613, [[5, 307, 154, 77], [613, 612, 1, 300]]),  # odd into every block but one
                (2000, [[71, 1, 64, 0], [1000, 999, 1, 200]]),  # all of every block long after them
                (30, [[30, 1, 0, 15]]),  # less than one kernel
            )
        ),
    ],
)
def test_convolutions_correctness(time: int, batches: list[list[int]]) -> None:
    """What is computed as far as a slice's longest recording is what is computed everywhere."""
    layer = BranchConvolutions(BRANCHES, filters=4, name="f_cnn")
    w = shaken(layer, (None, time, BRANCHES))
    call = layer
    if len(batches) > 1:
        call = tf.function(layer, input_signature=[tf.TensorSpec((None, time, BRANCHES))])
    for lengths in batches:
        signal = recordings(lengths, time)
        for branch, f in enumerate(call(signal)):
            expected = mlbf_numpy.convolutions(numpy(signal)[:, :, branch : branch + 1], w, branch)
            assert f.shape == expected.shape
            assert_near(f, expected, 1e-5)


def test_a_step_compiled_whole_convolves_and_learns_as_slices_do() -> None:
    """``--jit-compile``: XLA wants fixed shapes, so the batch is one slice."""
    layer = BranchConvolutions(BRANCHES, filters=2, kernel_sizes=ONE_BLOCK)
    signal = recordings([100, 7, 31, 64], 100)
    shaken(layer, signal.shape)

    def step(signal: Any) -> Any:
        with tf.GradientTape() as tape:
            features = layer(signal)
            score = tf.add_n([tf.reduce_sum(tf.sin(f)) for f in features])
        return [*features, *tape.gradient(score, layer.trainable_weights)]

    for compiled, eager in zip(
        tf.function(step, jit_compile=True)(signal), step(signal), strict=True
    ):
        assert_near(compiled, eager, 1e-5)


def test_convolutions_of_several_leads_in_one_branch() -> None:
    layer = BranchConvolutions(2, filters=4, kernel_sizes=ONE_BLOCK, name="f_cnn")
    signal = recordings([200, 31, 0, 90], 300, leads=6)
    w = shaken(layer, signal.shape)
    for branch, f in enumerate(layer(signal)):
        leads = slice(3 * branch, 3 * branch + 3)
        assert_near(f, mlbf_numpy.convolutions(numpy(signal)[:, :, leads], w, branch), 1e-5)


@pytest.mark.parametrize("sizes", [(3, 3, 22), (3, 3, 2), (2, 4, 8), (1, 1, 4)])
def test_convolutions_of_other_kernels_are_plain_ones(sizes: tuple[int, int, int]) -> None:
    layer = BranchConvolutions(1, filters=4, kernel_sizes=(sizes,))
    for time, lengths in ((613, [613, 20, 75, 1]), (30, [30, 1, 7, 0])):
        signal = recordings(lengths, time, leads=1)
        if not layer.built:
            shaken(layer, signal.shape)
        x: Any = signal
        for i, (kernel, bias) in enumerate(zip(layer.kernels, layer.biases, strict=True)):
            x = keras.ops.conv(x, kernel[0], 2 if i == 2 else 1, "same") + bias[0]
            x = keras.ops.leaky_relu(x, 0.3)
        assert_near(layer(signal)[0], x, 1e-5)


def test_a_last_kernel_of_odd_width_is_refused() -> None:
    with pytest.raises(OptionError, match="even number of taps, not 24, 23"):
        BranchConvolutions(1, kernel_sizes=((3, 3, 24), (3, 3, 23)))


def test_batches_of_all_sizes_and_lengths_are_one_graph() -> None:
    layer = BranchConvolutions(BRANCHES, filters=4, kernel_sizes=ONE_BLOCK)
    layer.build((None, 600, BRANCHES))
    traced = []

    @tf.function(input_signature=[tf.TensorSpec((None, 600, BRANCHES))])
    def run(signal: Any) -> Any:
        traced.append(signal.shape)
        return layer(signal, training=True)

    for lengths in ([90, 37, 600, 1, 75, 301], [50, 40], [13], [600] * 9):
        assert run(recordings(lengths, 600))[0].shape == (len(lengths), 300, 4)
    assert len(traced) == 1


@pytest.mark.parametrize(
    "lengths",
    [[301, 600, 20, 0], pytest.param([40, 301, 20, 200, 90, 1, 75], marks=pytest.mark.slow)],
)
def test_convolutions_have_the_gradients_of_plain_ones(lengths: list[int]) -> None:
    """Gradients of every weight, and of the signal where there is a recording."""
    signal = tf.constant(recordings(lengths, 600))
    layer = BranchConvolutions(BRANCHES, filters=4, dropout=0.0)
    shaken(layer, signal.shape)
    upstream = normal(BRANCHES, len(lengths), TIME, 4, seed=3)
    with tf.GradientTape() as tape:
        tape.watch(signal)
        loss = tf.reduce_sum(upstream * tf.stack(layer(signal, training=True)))
    by_signal, *by_weight = tape.gradient(loss, [signal, *(w.value for w in layer.weights)])
    for branch in range(BRANCHES):
        lead = signal[:, :, branch : branch + 1]
        symbol = keras.Input(lead.shape[1:])
        plain = keras.Model(symbol, f_cnn(symbol, 4, 0.0, name="plain"))
        names = {f"plain_{w.name.rsplit('_', 1)[0]}/{w.name.rsplit('_', 1)[1]}": i
                 for i, w in enumerate(layer.weights)}  # fmt: skip
        order = [names[w.path] for w in plain.weights]
        plain.set_weights([layer.weights[i][branch] for i in order])
        with tf.GradientTape() as tape:
            tape.watch(lead)
            loss = tf.reduce_sum(upstream[branch] * plain(lead))
        expected = tape.gradient(loss, [lead, *(w.value for w in plain.weights)])
        for i, gradient in zip(order, expected[1:], strict=True):
            assert_near(by_weight[i][branch], gradient)
        recorded = np.arange(600) < np.array(lengths)[:, None]
        assert_near(by_signal[:, :, branch][recorded], expected[0][:, :, 0][recorded])


def gru_layer(width: int = WIDTH) -> tuple[BranchBiGRU, dict[str, Any]]:
    layer = BranchBiGRU(5, dropout=0.0, name="f_bigru")
    return layer, shaken(layer, [(None, TIME, width)] * BRANCHES)


@pytest.mark.parametrize("training", [False, True])
def test_bigru_correctness(training: bool) -> None:
    layer, w = gru_layer()
    y = layer(BY_BRANCH, training=training)
    assert y.shape == (BATCH, TIME, BRANCHES, 10)
    for branch, x in enumerate(BY_BRANCH):
        assert_near(y[:, :, branch], mlbf_numpy.bigru(numpy(x), w, branch), 1e-5)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_bigru_has_the_gradients_of_keras(training: bool, compiled: bool) -> None:
    layer, _ = gru_layer()
    upstream = normal(BATCH, TIME, BRANCHES, 10, seed=3)
    features = [tf.constant(x) for x in BY_BRANCH]

    def gradients() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(features)
            loss = tf.reduce_sum(upstream * layer(features, training=training))
        return tape.gradient(loss, [features, [w.value for w in layer.weights]])

    by_features, by_weight = (tf.function(gradients) if compiled else gradients)()
    for branch, x in enumerate(features):
        gru = keras.layers.GRU(5, return_sequences=True, reset_after=True)
        plain = keras.layers.Bidirectional(gru)
        plain.build(x.shape)
        for direction, one in enumerate((plain.forward_layer, plain.backward_layer)):
            one.set_weights([w[direction, branch] for w in layer.weights])
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(upstream[:, :, branch] * plain(x))
        by_x, by_plain = tape.gradient(loss, [x, [w.value for w in plain.weights]])
        assert_near(by_features[branch], by_x, 1e-5)
        for i, gradient in enumerate(by_plain):
            direction, weight = divmod(i, 3)
            assert_near(by_weight[weight][direction, branch], gradient, 1e-5)


def test_bigru_runs_where_xla_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a GPU without libdevice: one line says so, and the numbers stay."""
    layer, _ = gru_layer()
    features = [tf.constant(x) for x in BY_BRANCH]
    upstream = normal(BATCH, TIME, BRANCHES, 10, seed=3)

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            y = layer(features, training=True)
            loss = tf.reduce_sum(upstream * y)
        return y, tape.gradient(loss, [w.value for w in layer.weights])

    expected = step.get_concrete_function()()
    function = tf.function

    def without_xla(work: Any, *, jit_compile: bool | None = None, **options: Any) -> Any:
        def fail(*arguments: Any, **options: Any) -> None:
            raise tf.errors.InternalError(None, None, "libdevice not found at ./libdevice.10.bc")

        return fail if jit_compile else function(work, **options)

    monkeypatch.setattr(tf, "function", without_xla)
    layers._recurrence.cache_clear()
    try:
        found = function(step.python_function)()
        layer(features)
    finally:
        layers._recurrence.cache_clear()
    assert capsys.readouterr().err.splitlines() == [
        "MLBF-Net's recurrence runs without XLA, more slowly, because XLA fails on this device:"
        " libdevice not found at ./libdevice.10.bc"
    ]
    for actual, wanted in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        assert_near(actual, wanted, 1e-6)


@pytest.mark.parametrize("branches", [1, 3])
def test_attention_correctness(branches: int) -> None:
    """Eq. 5 to 7; one branch is the attention of the fused features."""
    layer = BranchAttention(name="attention")
    features = normal(BATCH, TIME, branches, WIDTH)
    w = shaken(layer, features.shape)
    attended, alpha = layer(features)
    assert attended.shape == (BATCH, branches, WIDTH) and alpha.shape == (BATCH, TIME, branches)
    np.testing.assert_allclose(numpy(alpha).sum(axis=1), 1.0, rtol=1e-6)
    for branch in range(branches):
        expected, weights = mlbf_numpy.attention(
            numpy(features)[:, :, branch], w, branch, "attention"
        )
        np.testing.assert_allclose(alpha[:, :, branch], weights, rtol=1e-5)
        assert_near(attended[:, branch], expected, 1e-5)


def test_attention_has_the_gradients_of_a_plain_one() -> None:
    layer = BranchAttention()
    shaken(layer, FEATURES.shape)
    upstream = normal(BATCH, BRANCHES, WIDTH, seed=3)
    features = tf.constant(FEATURES)
    with tf.GradientTape() as tape:
        tape.watch(features)
        loss = tf.reduce_sum(upstream * layer(features)[0])
    by_features, *by_weight = tape.gradient(loss, [features, *(w.value for w in layer.weights)])
    for branch in range(BRANCHES):
        plain = Attention()
        plain.build((None, TIME, WIDTH))
        plain.set_weights([w[branch] for w in layer.weights])
        x = features[:, :, branch]
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(upstream[:, branch] * plain(x))
        by_x, *by_plain = tape.gradient(loss, [x, *(w.value for w in plain.weights)])
        assert_near(by_features[:, :, branch], by_x, 1e-5)
        for gradients, gradient in zip(by_weight, by_plain, strict=True):
            assert_near(gradients[branch], gradient, 1e-5)


def test_softmax_correctness() -> None:
    layer = BranchSoftmax(5, name="softmax")
    x = FEATURES[:, 0]
    w = shaken(layer, x.shape)
    probabilities = layer(x)
    for branch in range(BRANCHES):
        logits = numpy(x)[:, branch] @ w["softmax/kernel"][branch] + w["softmax/bias"][branch]
        exponentials = np.exp(logits)
        np.testing.assert_allclose(
            probabilities[:, branch], exponentials / exponentials.sum(axis=1)[:, None], rtol=1e-5
        )


def dropping(kind: str, rate: float) -> tuple[Any, Any]:
    """A layer whose only dropout is that of its output, and something to give it."""
    if kind == "convolutions":
        layer = BranchConvolutions(BRANCHES, filters=8, kernel_sizes=ONE_BLOCK, dropout=rate)
        inputs: Any = recordings([600] * BATCH, 600)
        shaken(layer, inputs.shape)
    else:
        layer = BranchBiGRU(8, dropout=rate)
        inputs = [normal(BATCH, 50, WIDTH, seed=branch) for branch in range(BRANCHES)]
        shaken(layer, [x.shape for x in inputs])
    return layer, inputs


def output(layer: Any, inputs: Any, training: bool) -> NDArray[np.float64]:
    """(branch, batch, time, feature), whichever layer."""
    answer = layer(inputs, training=training)
    return numpy(answer if isinstance(answer, list) else tf.unstack(answer, axis=2))


@pytest.mark.parametrize("rate", [0.2, 0.5])
@pytest.mark.parametrize("kind", ["convolutions", "bigru"])
def test_dropout_keeps_its_share_and_scales_the_rest(kind: str, rate: float) -> None:
    layer, inputs = dropping(kind, rate)
    whole, dropped = output(layer, inputs, False), output(layer, inputs, True)
    assert np.all(whole != 0)
    kept = dropped != 0
    # Rounding is relative to the terms of a sum, which may be far larger than the sum.
    rounding = 1e-6 * np.abs(whole).max()
    np.testing.assert_allclose(dropped[kept], whole[kept] / (1 - rate), rtol=1e-4, atol=rounding)
    deviation = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs(kept.mean() - (1 - rate)) < 4 * deviation
    # Over every axis the masks look like independent draws: neighbours agree as often as chance.
    agreement = rate**2 + (1 - rate) ** 2
    for axis in range(kept.ndim):
        agree = np.diff(kept.astype(int), axis=axis) == 0
        # Neighbouring pairs share a member, so their spread may be up to twice as large.
        assert abs(agree.mean() - agreement) < 8 * np.sqrt(0.25 / agree.size), axis


@pytest.mark.parametrize("kind", ["convolutions", "bigru"])
def test_dropout_is_off_at_inference_and_new_at_every_step(kind: str) -> None:
    layer, inputs = dropping(kind, 0.3)
    np.testing.assert_array_equal(output(layer, inputs, False), output(layer, inputs, False))

    @tf.function
    def step() -> Any:
        return layer(inputs, training=True)

    first, second = (numpy(tf.stack(step())) != 0 for _ in range(2))
    assert abs((first == second).mean() - 0.58) < 0.05  # 0.3 ** 2 + 0.7 ** 2


@pytest.mark.parametrize("kind", ["convolutions", "bigru"])
def test_dropout_follows_the_seed(kind: str) -> None:
    masks = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        layer, inputs = dropping(kind, 0.3)
        masks.append(output(layer, inputs, True) != 0)
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_dropout_behind_a_slices_longest_recording_is_one_mask_for_the_batch() -> None:
    """As documented: independent masks wherever there may be a recording, one mask behind."""
    layer, _ = dropping("convolutions", 0.3)
    # The two shortest are one slice. Kernels 3, 3, 24 reach 14 samples beyond the longest
    # recording of each, at half the rate behind them.
    kept = output(layer, recordings([200, 100, 0, 50], 600), True) != 0
    for row, other in itertools.combinations(range(BATCH), 2):
        within = slice(0, 30 if max(row, other) > 1 else 56)
        assert abs((kept[:, row, within] == kept[:, other, within]).mean() - 0.58) < 0.1
        behind = slice({0: 112, 1: 62, 2: 36}[min(row, other)], None)
        np.testing.assert_array_equal(kept[:, row, behind], kept[:, other, behind])
    behind = kept[:, 0, 112:]
    assert abs(behind.mean() - 0.7) < 0.05
    assert abs((behind[0] == behind[1]).mean() - 0.58) < 0.06


def test_branches_start_as_lone_layers_would() -> None:
    """Glorot's limits by each member's own fans; orthogonal recurrences; zero biases."""
    convolutions, gru = BranchConvolutions(12), BranchBiGRU(12)
    attention, softmax = BranchAttention(), BranchSoftmax(9)
    convolutions.build((None, 15000, 12))
    gru.build([(None, 469, 12)] * 12)
    attention.build((None, 469, 12, 24))
    softmax.build((None, 12, 24))
    stacks = [(w, 1) for w in [*convolutions.weights, *attention.weights, *softmax.weights]]
    for weight, stack_dims in stacks + [(w, 2) for w in gru.weights]:
        members = np.asarray(weight).reshape(-1, *weight.shape[stack_dims:])
        if weight.name.endswith("bias"):
            assert not members.any()
            continue
        for other in members[1:]:
            assert not np.array_equal(other, members[0]), weight.path
        if weight.name == "recurrent_kernel":
            for member in members:
                np.testing.assert_allclose(member @ member.T, np.eye(12), atol=1e-5)
            continue
        *taps, fan_in, fan_out = members.shape[1:]
        limit = np.sqrt(6 / (np.prod(taps) * (fan_in + fan_out)))
        largest = np.abs(members).reshape(len(members), -1).max(axis=1)
        assert np.all(largest <= limit) and np.all(largest > 0.75 * limit), weight.path
        assert members.std() == pytest.approx(limit / np.sqrt(3), rel=0.08), weight.path
