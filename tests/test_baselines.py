"""The networks MRM-Net is compared with: against NumPy, their sources' sizes, their files."""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from baselines_numpy import FORWARD, MOBILENET_V3_SMALL, SQUEEZED
from scipy.special import expit

import mrm_keras
from data_prep.errors import OptionError
from data_prep.labels import LEADS
from ecg_keras.export.export import (
    inference_model,
    run_litert,
    run_onnx,
    write_litert,
    write_onnx,
    write_saved_model,
)
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import ECGModel
from ecg_keras.training.settings import Settings
from mrm_keras.baselines import BUILDERS
from mrm_keras.baselines.ecg_bnn import BinaryConvolution, binarise, build_ecg_bnn
from mrm_keras.explain import attention_network
from mrm_keras.plain import PLAIN
from mrm_keras.variants import Baseline

pytestmark = pytest.mark.usefixtures("graphs_as_in_use")

LENGTH = 322  # every strided layer meets an odd length somewhere
SMALL = ("fcn_wang_benchmark", "resnet1d_wang", "ECG_BNN", "InceptionTime")
NAMES = [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in BUILDERS]


GAIN = {"MobileNetV3": 3.0, "xresnet1d101": 1.5, "xresnet1d101_benchmark": 1.5}


def contract_of(network: str) -> Contract:
    return Contract(
        network=network,
        task="rhythm",
        class_names=("calm", "fast", "slow", "odd"),
        sampling_rate=100.0,
        input_length=LENGTH,
        fit="stretch",
        single_label=False,
        mean=0.125,
        std=0.5,
    )


@dataclass(frozen=True)
class Built:
    name: str
    model: Any
    signals: np.ndarray
    answers: np.ndarray


def answers_of(model: Any, signals: np.ndarray) -> np.ndarray:
    """The probabilities, layer by layer: to make a graph of a deep network takes longer."""
    return keras.ops.convert_to_numpy(model(signals, training=False)["diagnosis"])


@pytest.fixture(scope="module", params=NAMES)
def built(request: pytest.FixtureRequest) -> Iterator[Built]:
    """A network with no weight at its initial zero or one."""
    keras.utils.set_random_seed(0)
    name = request.param
    model = BUILDERS[name](num_classes=4, input_length=LENGTH, contract=contract_of(name))
    rng = np.random.default_rng(1)
    for weight in model.weights:
        kind = weight.path.rpartition("/")[2]
        if kind in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif kind in ("beta", "moving_mean", "bias", "alpha"):
            weight.assign(rng.uniform(-0.3, 0.3, weight.shape))
        else:
            # Until batch norm has seen a batch, many layers damp the signal away.
            weight.assign(GAIN.get(name, 1.0) * weight)
    signals = rng.normal(0, 0.5, (3, LENGTH, 12)).astype(np.float32)
    signals *= np.array([0.3, 1, 3], np.float32)[:, None, None]
    yield Built(name, model, signals, answers_of(model, signals))
    keras.backend.clear_session()


def test_the_network_is_that_of_its_figure(built: Built) -> None:
    weights = {w.path: np.asarray(w, np.float64) for w in built.model.weights}
    logits = FORWARD[built.name]((built.signals.astype(np.float64) - 0.125) / 0.5, weights)
    answers = keras.Model(built.model.input, built.model.get_layer("diagnosis").input)
    found = keras.ops.convert_to_numpy(answers(built.signals, training=False))
    # As near as to be the same beside what the signal makes of them.
    spread = np.ptp(logits, axis=0).min()
    assert spread > 1e-3
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-3 * spread)
    np.testing.assert_allclose(built.answers, expit(found), rtol=1e-4, atol=1e-7)


def test_a_file_is_enough(built: Built, tmp_path: Path) -> None:
    built.model.save(tmp_path / "best.keras")
    model = mrm_keras.load_model(tmp_path / "best.keras")
    assert model.contract == contract_of(built.name)
    np.testing.assert_array_equal(answers_of(model.network, built.signals), built.answers)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_it_runs_without_keras(built: Built, form: str, tmp_path: Path) -> None:
    if (built.name, form) == ("MVMSNet", "litert"):
        pytest.skip("its 900 operations take 20 s to convert, and no kind of them is its own")
    model = ECGModel(built.model, contract_of(built.name), tmp_path)
    network = inference_model([model], PLAIN)
    path = tmp_path / f"model.{form}"
    if form == "onnx":
        write_onnx(path, network, {})
        run = run_onnx(path)
    else:
        write_saved_model(tmp_path / "saved", network, {})
        write_litert(path, tmp_path / "saved", {})
        run = run_litert(path)
    np.testing.assert_allclose(run(built.signals), built.answers, atol=5e-6)


def test_it_is_explained_without_attention(built: Built) -> None:
    found, attention = attention_network(built.model)(built.signals)
    np.testing.assert_array_equal(found["diagnosis"], built.answers)
    assert attention == {}


def test_it_keeps_the_form_of_build_model(built: Built) -> None:
    assert list(built.model.output) == ["diagnosis"] == built.model.output_names
    assert built.model.input.name == "signal"
    assert built.model.layers[1].name == "contract"
    assert built.answers.dtype == np.float32 and built.answers.shape == (3, 4)
    names = [layer.name for layer in built.model.layers if layer.weights]
    assert not [name for name in names if name.startswith(("conv1d", "batch_norm", "dense"))]
    ours, theirs = (
        inspect.signature(build).parameters
        for build in (BUILDERS[built.name], mrm_keras.build_model)
    )
    assert all(theirs[name] == parameter for name, parameter in ours.items())


@pytest.mark.parametrize("name", BUILDERS)
def test_a_contract_that_contradicts_the_network_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="the contract promises 4 classes"):
        BUILDERS[name](num_classes=9, input_length=LENGTH, contract=contract_of(name))


@pytest.mark.parametrize("name", ["fcn_wang", "ECG_BNN", "InceptionTime"])
def test_mixed_precision_keeps_answers_and_weights_float32(name: str) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = BUILDERS[name](input_length=LENGTH)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.output["diagnosis"].dtype == "float32"
    assert {weight.dtype for weight in model.weights} <= {"float32"} | {"int32", "uint32"}
    contract = model.get_layer("contract").contract
    assert (contract.network, contract.task, contract.leads) == (name, "cpsc2018", LEADS)


def test_options_of_a_training_reach_the_network() -> None:
    contract = contract_of("ECG_BNN")
    options = Baseline("ECG_BNN", input_length=LENGTH)
    model = options.compiled_model(contract, Settings(epochs=1, learning_rate=0.02))
    assert model.get_layer("contract").contract == contract
    assert trained_parameters(model) == count_ecg_bnn(len(contract.class_names))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    assert list(model.get_compile_config()["loss"]) == ["diagnosis"]


@pytest.mark.parametrize("name", [pytest.param("fcn_wang", marks=pytest.mark.slow), "ECG_BNN"])
def test_it_learns(name: str) -> None:
    keras.utils.set_random_seed(0)
    model = mrm_keras.compile_model(BUILDERS[name](num_classes=2, input_length=LENGTH))
    rng = np.random.default_rng(0)
    labels = np.eye(2, dtype=np.float32)[np.arange(32) % 2]
    signals = rng.normal(size=(32, LENGTH, 12)).astype(np.float32)
    signals[:, :, 0] += 3 * labels[:, :1]
    losses = model.fit(signals, {"diagnosis": labels}, epochs=8, batch_size=8, verbose=0)
    assert losses.history["loss"][-1] < 0.9 * losses.history["loss"][0]


# --- Sizes -------------------------------------------------------------------------------------


def conv(kernel: int, channels: int, filters: int) -> int:
    """A convolution without bias, and the batch norm behind it."""
    return kernel * channels * filters + 2 * filters


def benchmark_head(channels: int, classes: int) -> int:
    """Batch norm, 128, batch norm, classes, on two pools."""
    return 2 * 2 * channels + 2 * channels * 128 + 128 + 2 * 128 + 128 * classes + classes


def count_fcn_wang(classes: int) -> int:
    return conv(8, 12, 128) + conv(5, 128, 256) + conv(3, 256, 128) + 128 * classes + classes


def count_fcn_wang_benchmark(classes: int) -> int:
    return count_fcn_wang(classes) - 128 * classes - classes + benchmark_head(128, classes)


def count_resnet1d_wang(classes: int) -> int:
    total, before = conv(8, 12, 64), 64
    for filters in (64, 128, 128):
        total += conv(5, before, filters) + conv(3, filters, filters)
        before = filters
    return total + conv(1, 64, 128) + conv(1, 128, 128) + 128 * classes + classes


def count_resnet1d_wang_benchmark(classes: int) -> int:
    blocks = 3 * (conv(5, 128, 128) + conv(3, 128, 128)) + 2 * conv(1, 128, 128)
    return conv(7, 12, 128) + blocks + benchmark_head(128, classes)


def count_xresnet1d101_below_the_head(k: int) -> int:
    stem = conv(k, 12, 32) + conv(k, 32, 32) + conv(k, 32, 64)
    later = conv(1, 256, 64) + conv(k, 64, 64) + conv(1, 64, 256)
    first = conv(1, 64, 64) + conv(k, 64, 64) + conv(1, 64, 256) + conv(1, 64, 256)
    return stem + first + (3 + 4 + 23 + 3 - 1) * later


def count_xresnet1d101(classes: int) -> int:
    return count_xresnet1d101_below_the_head(3) + 256 * classes + classes


def count_xresnet1d101_benchmark(classes: int) -> int:
    return count_xresnet1d101_below_the_head(5) + benchmark_head(256, classes)


def count_inception_time(classes: int) -> int:
    def module(channels: int) -> int:
        return channels * 32 + (39 + 19 + 9) * 32 * 32 + channels * 32 + 2 * 128

    shortcuts = conv(1, 12, 128) + conv(1, 128, 128)
    return module(12) + 5 * module(128) + shortcuts + 128 * classes + classes


def count_mobilenet_v3(
    classes: int, *, channels: int = 12, dimensions: int = 1, stem: int = 15
) -> int:
    total = conv(stem**dimensions, channels, 16)
    before = 16
    for line in MOBILENET_V3_SMALL.split("\n")[1:-1]:
        kernel, exp, out = map(int, line.split()[:3])
        total += conv(1, before, exp) if exp != before else 0
        total += kernel**dimensions * exp + 2 * exp
        if "SE" in line:
            total += exp * SQUEEZED[exp] + SQUEEZED[exp] + SQUEEZED[exp] * exp + exp
        total += conv(1, exp, out)
        before = out
    return total + conv(1, 96, 576) + 576 * 1024 + 1024 + 1024 * classes + classes


def count_mvmsnet(classes: int) -> int:
    def block(channels: int) -> int:
        res2 = conv(1, channels, 4 * 52) + 3 * conv(15, 52, 52) + conv(1, 4 * 52, 128)
        attention = conv(1, 128, 8) + 8 + 2 * (8 * 128 + 128)
        return res2 + attention + conv(1, channels, 128) + 128

    views = sum(conv(25, leads, 64) for leads in (1, 2, 2, 2, 2, 3))
    return views + 6 * (block(64) + block(128) + 128 + 1) + 128 * classes + classes


def count_ecg_bnn(classes: int, *, leads: int = 12) -> int:
    widths = (leads, 8, 16, 32, 32, 64, classes)
    return sum(conv(7, a, b) + 1 for a, b in zip(widths, widths[1:], strict=False))


COUNTS: dict[str, Callable[[int], int]] = {
    "fcn_wang": count_fcn_wang,
    "fcn_wang_benchmark": count_fcn_wang_benchmark,
    "resnet1d_wang_benchmark": count_resnet1d_wang_benchmark,
    "xresnet1d101_benchmark": count_xresnet1d101_benchmark,
    "resnet1d_wang": count_resnet1d_wang,
    "xresnet1d101": count_xresnet1d101,
    "ECG_BNN": count_ecg_bnn,
    "MobileNetV3": count_mobilenet_v3,
    "InceptionTime": count_inception_time,
    "MVMSNet": count_mvmsnet,
}


def trained_parameters(model: Any) -> int:
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def test_counts_that_were_published() -> None:
    # Of MVMSNet's published comparison, with five classes.
    assert count_fcn_wang(5) == 276_101
    assert count_resnet1d_wang(5) == 287_237
    assert count_xresnet1d101(5) == 1_528_709
    # "Params: 474.50K" in public code of InceptionTime on twelve leads and nine classes.
    assert count_inception_time(9) == pytest.approx(474_500, abs=10)
    # MobileNetV3-Small on images: torchvision's documentation; in the paper 2.5 M.
    assert count_mobilenet_v3(1000, channels=3, dimensions=2, stem=3) == 2_542_856


@pytest.mark.parametrize(("classes", "kilobytes"), [(5, 3.76), (17, 4.45)])
def test_the_binary_network_is_as_small_as_published(classes: int, kilobytes: float) -> None:
    # One bit a weight, and a threshold of 16 bits a channel (Pu 2023, Table III, one lead).
    model = build_ecg_bnn(num_classes=classes, num_leads=1, input_length=3600)
    kernels = [w for w in model.trainable_weights if w.path.endswith("conv/kernel")]
    bits = sum(math.prod(w.shape) + 16 * w.shape[-1] for w in kernels)
    assert bits / 8 / 1024 == pytest.approx(kilobytes, abs=0.012)
    assert trained_parameters(model) == count_ecg_bnn(classes, leads=1)


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("fcn_wang", "conv_3", (999, 128)),
        ("fcn_wang_benchmark", "conv_3", (999, 128)),
        ("resnet1d_wang", "block_3", (63, 128)),
        ("resnet1d_wang_benchmark", "block_3", (250, 128)),
        ("xresnet1d101_benchmark", "stage_4_block_3", (32, 256)),
        ("xresnet1d101", "stage_4_block_3", (32, 256)),
        ("ECG_BNN", "block_6", (6, 9)),
        ("MobileNetV3", "last", (32, 576)),
        ("InceptionTime", "residual_6", (1000, 128)),
        ("MVMSNet", "septal_block_2", (244, 128)),
    ],
)
def test_sizes_are_those_of_the_source(name: str, layer: str, shape: tuple[int, int]) -> None:
    """The trained parameters for nine classes, and the last features of ten seconds."""
    model = BUILDERS[name]()
    assert trained_parameters(model) == COUNTS[name](9)
    assert model.get_layer(layer).output.shape[1:] == shape


def test_depthwise_kernels_start_within_pytorchs_bound() -> None:
    """One channel in: 1/sqrt(kernel), whatever the number of channels."""
    weights = BUILDERS["MobileNetV3"](input_length=LENGTH).weights
    kernels = [w for w in weights if w.path.endswith("depth/kernel")]
    assert len(kernels) == 11
    for kernel in kernels:
        bound = kernel.shape[0] ** -0.5
        assert 0.9 * bound < np.abs(kernel).max() <= bound


# --- Binary convolution ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        BinaryConvolution(3, 5, strides=2, padding=2, name="binary"),
        BinaryConvolution(2, 3, binary_input=False, dtype="mixed_bfloat16"),
    ],
)
def test_binary_convolution_basics(layer: BinaryConvolution) -> None:
    x = np.random.default_rng(0).normal(size=(2, 11, 4)).astype(np.float32)
    y = layer(x)
    assert y.shape == layer.compute_output_shape((2, 11, 4))
    assert layer.compute_output_shape((None, None, 4)) == (None, None, layer.filters)
    assert layer.kernel.dtype == "float32"
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    again.kernel.assign(layer.kernel)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(again(x)), y)
    assert again.get_config() == layer.get_config()
    model = keras.Sequential([keras.Input((11, 4)), layer])
    before = layer.kernel.numpy()
    model.compile("sgd", "mse")
    model.fit(x, np.zeros(y.shape), verbose=0)
    assert not np.array_equal(layer.kernel, before)


def test_binary_convolution_correctness() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 3)).astype(np.float32)
    x[0, 4, 1] = 0  # counts as +1
    layer = BinaryConvolution(4, 3, strides=2, padding=1)
    layer.build(x.shape)
    kernel = np.asarray(layer.kernel)
    expected = np.zeros((2, 5, 4))
    for b, t, o, k, c in np.ndindex(2, 5, 4, 3, 3):
        at = 2 * t + k - 1
        sample = 1 if not 0 <= at < 9 or x[b, at, c] >= 0 else -1
        expected[b, t, o] += sample * (1 if kernel[k, c, o] >= 0 else -1)
    np.testing.assert_array_equal(layer(x), expected)


def test_gradients_pass_straight_through_the_sign() -> None:
    x = tf.constant([-2.0, -1.0, -0.3, 0.0, 0.7, 1.0, 1.5])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = binarise(x)
        loss = tf.reduce_sum(y * [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    np.testing.assert_array_equal(y, [-1, -1, -1, 1, 1, 1, 1])
    np.testing.assert_array_equal(tape.gradient(loss, x), [0, 2, 3, 4, 5, 6, 0])


def test_training_moves_the_weights_behind_the_signs() -> None:
    layer = BinaryConvolution(2, 3)
    x = np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x)[:, :, 0])
    gradient = tape.gradient(loss, layer.kernel.value)
    # d loss / d kernel[k, c, 0] is the sum of the signs that the tap meets.
    signs = np.where(x >= 0, 1, -1)
    expected = [[signs[:, k : k + 7, c].sum() for c in range(3)] for k in range(3)]
    np.testing.assert_array_equal(gradient[:, :, 0], expected)
    np.testing.assert_array_equal(gradient[:, :, 1], np.zeros((3, 3)))


# --- What cannot be meant ----------------------------------------------------------------------


def test_networks_say_what_they_cannot_take() -> None:
    with pytest.raises(OptionError, match="needs 300 samples at least, not 299"):
        build_ecg_bnn(input_length=299)
    with pytest.raises(OptionError, match="all twelve leads"):
        BUILDERS["MVMSNet"](num_leads=2)


@pytest.mark.slow
def test_views_find_their_leads_by_name() -> None:
    order = tuple(reversed(LEADS))
    contract = Contract(
        network="MVMSNet",
        task="rhythm",
        class_names=("calm", "fast"),
        sampling_rate=100.0,
        input_length=LENGTH,
        fit="stretch",
        single_label=False,
        leads=order,
    )
    keras.utils.set_random_seed(0)
    model = BUILDERS["MVMSNet"](num_classes=2, input_length=LENGTH, contract=contract)
    inferior = keras.Model(model.input, model.get_layer("inferior_stem").output)
    base = np.zeros((1, LENGTH, 12), np.float32)
    seen = set()
    for i, lead in enumerate(order):
        signal = base.copy()
        signal[:, :, i] = 1
        if np.abs(inferior(signal)).max() > 0:
            seen.add(lead)
    assert seen == {"II", "III", "aVF"}
