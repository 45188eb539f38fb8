"""The whole of MRM-Net: sizes, numbers, losses, training, files."""

import math
from functools import cache, partial
from pathlib import Path
from typing import Any

import keras
import mrm_numpy
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from whole_networks import (
    require_answers,
    require_float32_answers_in_bfloat16,
    require_same_from_file,
    shake,
    targets,
)

from benchmarks.mrm_plain import build_plain_model, copy_weights, plain_path
from data_prep.errors import OptionError
from data_prep.labels import CPSC_CLASSES, LEADS
from data_prep.records import read_record
from data_prep.store import Store, StoreWriter
from ecg_keras.model.contract import Contract
from ecg_keras.training.settings import Settings
from mrm_keras.layers import MutualLearning
from mrm_keras.model import build_model, compile_model, default_contract, fitted_contract
from mrm_keras.train import MRMNet

FUSIONS = ("mutual", "add", "concat", "low", "high")
SMALL: dict[str, Any] = {"input_length": 60, "low_channels": 4, "high_channels": 8}

pytestmark = pytest.mark.usefixtures("graphs_as_in_use")


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def full() -> keras.Model:
    return build_model()


@cache
def small(fusion: Any) -> keras.Model:
    """One network a fusion for several tests, each of which shakes its weights."""
    return build_model(**SMALL, fusion=fusion)


def signals(count: int, length: int = 60) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(count, length, 12)).astype("float32")


def test_sizes_are_the_papers(full: keras.Model) -> None:
    """Table I, section III-B, and the flattened sizes the mutual loss compares."""
    shapes = {layer.name: layer.output for layer in full.layers}
    assert [shapes[f"trunk_{i}"].shape[1:] for i in (1, 2, 3, 4)] == [
        (1001, 32), (1002, 64), (1003, 128), (1004, 128),
    ]  # fmt: skip
    z1, z2 = shapes["mutual_z1_z2"]
    z3, z4 = shapes["mutual_z3_z4"]
    assert z1.shape[1:] == z3.shape[1:] == (502, 128)
    assert z2.shape[1:] == z4.shape[1:] == (251, 256)
    assert 502 * 128 == 251 * 256 == 64_256
    assert full.input.name == "signal" and full.input.shape == (None, 1000, 12)
    assert list(full.output) == ["diagnosis", "low", "high"]
    assert all(out.shape == (None, 9) for out in full.output.values())


def test_parameters_are_counted_row_by_row(full: keras.Model) -> None:
    norm = 4  # scale, offset, moving mean and variance of each channel
    trunk = {
        "trunk_1": 11 * 12 * 32 + norm * 32,
        "trunk_2": 7 * 32 * 64 + norm * 64,
        "trunk_3": 5 * 64 * 128 + norm * 128,
        "trunk_4": 3 * 128 * 128 + norm * 128,
    }
    expected = dict(trunk)
    for name, c in (("low", 128), ("high", 256)):
        block = 2 * (3 * c * c + norm * c)
        mlp = c * (c // 8) + c // 8 + (c // 8) * c + c
        expected |= {
            f"{name}_multi_scale": (3 + 13 + 23 + 33) * 128 * c + norm * c,
            f"{name}_conv_block": 3 * 128 * c + norm * c,
            f"{name}_block_1": block,
            f"{name}_block_2": block,
            f"{name}_block_3": block,
            # the MLP, the convolution of two channels, the layer norm of 2C
            f"{name}_attention": mlp + (3 * 2 + 1) + 2 * 2 * c,
            # 2C to C, C to C, and the residual's projection 2C to C
            f"{name}_fusion": 3 * 2 * c * c + 3 * c * c + 2 * c * c + 3 * norm * c,
            f"{name}_head_norm": 2 * c,
            f"{name}_head_linear": c * 9 + 9,
        }
    counted = {layer.name: layer.count_params() for layer in full.layers}
    assert {name: count for name, count in counted.items() if count} == expected
    assert full.count_params() == sum(expected.values()) == 6_215_760


@pytest.mark.parametrize(("low", "parameters"), [(64, 1_568_596), (256, 24_834_940)])
def test_other_widths_scale_the_trunk_too(low: int, parameters: int) -> None:
    """Table VII, 71 classes: the trained parameters of the authors' way to widen the network."""
    model = build_model(num_classes=71, low_channels=low, high_channels=2 * low)
    assert sum(math.prod(weight.shape) for weight in model.trainable_weights) == parameters


def test_unknown_choices_are_refused() -> None:
    """The row of Table V is called addition, the fusion add."""
    unknown: Any = "addition"
    with pytest.raises(OptionError, match="no fusion 'addition'; choose mutual, add"):
        build_model(**SMALL, fusion=unknown)
    with pytest.raises(OptionError, match="no flattening 'addition'; choose channel or time"):
        build_model(**SMALL, flatten=unknown)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_answers_are_those_of_plain_numpy(fusion: Any) -> None:
    model = small(fusion)
    w = shake(model)
    x = signals(2)
    require_answers(model, x, mrm_numpy.forward(x.astype("float64"), w, fusion=fusion))


def test_answers_at_full_size_are_those_of_plain_numpy(full: keras.Model) -> None:
    w = shake(full)
    x = signals(1, 1000)
    require_answers(full, x, mrm_numpy.forward(x.astype("float64"), w))


def shake_awake(model: keras.Model) -> None:
    """Of an attention of few channels, the one hidden unit must be on to have a gradient."""
    shake(model)
    for weight in model.weights:
        if weight.path.endswith("reduce/bias"):
            weight.assign(weight + 3.0)


def gradients(
    model: keras.Model, signal: NDArray[np.float32], labels: NDArray[np.float32]
) -> dict[str, NDArray[np.floating]]:
    """Of the training loss, by the weights' paths."""
    signal = signal.astype(model.dtype)
    with tf.GradientTape() as tape:
        answers = model(signal, training=True)
        loss = compile_model(model).compute_loss(
            signal, targets(model, tf.constant(labels)), answers, training=True
        )
    weights = model.trainable_weights
    found = tape.gradient(loss, [weight.value for weight in weights])
    return {w.path: np.asarray(g) for w, g in zip(weights, found, strict=True)}


def test_plain_keras_is_the_same_function() -> None:
    """Predictions within 1e-5, gradients within 1e-4 of their size, the same statistics."""
    options: dict[str, Any] = {
        "input_length": 60,
        "low_channels": 8,
        "high_channels": 16,
        "dropout": 0.0,
        "alpha": 1.0,
    }
    fast, plain = build_model(**options), build_plain_model(**options)
    shake_awake(fast)
    copy_weights(fast, plain)
    x = signals(2)
    for head, answer in plain(x).items():
        np.testing.assert_allclose(fast(x)[head], answer, rtol=0, atol=1e-5)

    y = np.random.default_rng(7).integers(0, 2, size=(2, 9)).astype("float32")
    found, expected = gradients(fast, x, y), gradients(plain, x, y)
    assert {plain_path(path) for path in found} == set(expected)
    for path, gradient in found.items():
        same = expected[plain_path(path)]
        assert np.abs(same).max() > 0, path
        off = np.linalg.norm(gradient - same)
        assert off <= 1e-4 * np.linalg.norm(same) + 1e-7, path
    moved = {weight.path: weight.numpy() for weight in plain.non_trainable_weights}
    for weight in fast.non_trainable_weights:
        if "moving" in weight.path:
            np.testing.assert_allclose(
                weight.numpy(), moved[plain_path(weight.path)], rtol=1e-4, atol=1e-6
            )


@pytest.mark.slow
def test_plain_keras_is_the_same_function_on_real_records(shared_data: Path) -> None:
    """At full size: logits as near to float64's as the plain ones, gradients within 2e-3.

    How near a gradient is, is chance in either form (1e-6 to 5e-4): if a rectifier or a pool is on
    the edge, the last bit decides which way the gradient goes.
    """
    keras.utils.set_random_seed(1)
    paths = sorted((shared_data / "ptbxl" / "records100").rglob("*.hea"))[::40][:8]
    x = np.stack([read_record(path).signal for path in paths])
    assert x.shape == (8, 1000, 12)
    fast, plain = build_model(dropout=0.0), build_plain_model(dropout=0.0)
    keras.config.set_dtype_policy("float64")
    try:
        exact = build_plain_model(dropout=0.0)
    finally:
        keras.config.set_dtype_policy("float32")
    shake(fast)
    copy_weights(fast, plain)
    copy_weights(fast, exact)
    for head, answer in plain(x).items():
        np.testing.assert_allclose(fast(x)[head], answer, rtol=0, atol=1e-5)

    def logits(model: keras.Model) -> NDArray[np.floating]:
        layers = [model.get_layer(f"{branch}_head_linear").output for branch in ("low", "high")]
        return np.stack(keras.Model(model.input, layers)(x, training=True))

    off, plain_off = (np.std(logits(model) - logits(exact)) for model in (fast, plain))
    assert off < 2 * plain_off

    y = np.random.default_rng(7).integers(0, 2, size=(8, 9)).astype("float32")
    true = gradients(exact, x, y)

    ours = {plain_path(path): gradient for path, gradient in gradients(fast, x, y).items()}
    away = [np.linalg.norm(ours[path] - true[path]) / np.linalg.norm(true[path]) for path in true]
    assert np.median(away) < 2e-3


def test_every_layer_has_a_name_of_its_own(full: keras.Model) -> None:
    automatic = [layer.name for layer in full.layers if layer.name.rstrip("_0123456789") in {
        keras.src.utils.naming.to_snake_case(type(layer).__name__)}]  # fmt: skip
    assert automatic == []


@pytest.mark.parametrize("flatten", ["channel", "time"])
def test_each_mutual_term_weighs_what_it_should(flatten: Any) -> None:
    """alpha, beta, gamma times the loss NumPy gives for what enters that very term."""
    how: dict[str, Any] = {"temperature": 2.0, "flatten": flatten}
    model = build_model(**SMALL, **how, dropout=0.0, alpha=0.3, beta=0.5, gamma=0.7)
    weights = {"mutual_z1_z2": 0.3, "mutual_z3_z4": 0.5, "mutual_out1_out2": 0.7}
    layers = [model.get_layer(name) for name in weights]
    pairs = keras.Model(model.input, [layer.output for layer in layers])(signals(5), training=True)
    assert len(layers) == len(model.losses)
    for layer, pair in zip(layers, pairs, strict=True):
        (loss,) = layer.losses
        a, b = map(np.asarray, pair)
        if a.ndim == 2:  # of the outputs there is but one order
            how["flatten"] = "time"
        expected = mrm_numpy.mutual_loss(a, b, **how)
        assert expected > 1e-6
        np.testing.assert_allclose(loss, weights[layer.name] * expected, rtol=1e-3)


def test_mutual_terms_add_up_in_training_and_are_absent_at_validation() -> None:
    x = signals(8)
    y = np.random.default_rng(5).integers(0, 2, size=(8, 9)).astype("float32")
    model = compile_model(build_model(**SMALL, dropout=0.0, gamma=10.0), learning_rate=0.0)
    model.run_eagerly = True  # two steps are not worth two graphs
    assert isinstance(model.optimizer, keras.optimizers.Adam)

    def bce(answers: dict[str, Any]) -> float:
        p = {head: np.asarray(answers[head], dtype=np.float64) for head in ("low", "high")}
        return sum(-np.mean(y * np.log(q) + (1 - y) * np.log(1 - q)) for q in p.values())

    trained = model(x, training=True)
    mutual = sum(float(loss) for loss in model.losses)
    assert mutual > 0.01
    history = model.fit(x, targets(model, y), batch_size=8, verbose=0).history
    np.testing.assert_allclose(history["loss"], bce(trained) + mutual, rtol=1e-4)

    logs = model.evaluate(x, targets(model, y), batch_size=8, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["loss"], bce(model(x, training=False)), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], logs["low_loss"] + logs["high_loss"], rtol=1e-5)


@pytest.mark.parametrize("fusion", ["mutual", "add"])
def test_options_of_a_training_reach_the_network(fusion: Any) -> None:
    options = MRMNet(
        **SMALL,
        fusion=fusion,
        alpha=0.3,
        beta=0.5,
        gamma=0.7,
        temperature=2.0,
        flatten="time",
        dropout=0.4,
    )
    contract = default_contract(num_classes=5, input_length=60, num_leads=12)
    settings = Settings(epochs=1, learning_rate=0.02, jit_compile=True)
    model = options.compiled_model(contract, settings)
    assert model.get_layer("contract").contract == contract
    mutual = [layer for layer in model.layers if isinstance(layer, MutualLearning)]
    assert {layer.name: (layer.weight, layer.temperature) for layer in mutual} == (
        {}
        if fusion == "add"
        else {
            "mutual_z1_z2": (0.3, 2.0),
            "mutual_z3_z4": (0.5, 2.0),
            "mutual_out1_out2": (0.7, 2.0),
        }
    )
    assert all(layer.flatten == "time" for layer in mutual[:2])
    for branch in ("low", "high"):
        assert model.get_layer(f"{branch}_dropout").rate == 0.4
        channels = SMALL[f"{branch}_channels"]
        assert model.get_layer(f"{branch}_multi_scale").filters == channels
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    compiled = model.get_compile_config()
    assert compiled["jit_compile"] is True
    assert set(compiled["loss"]) == ({"low", "high"} if fusion == "mutual" else {"diagnosis"})


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_reach_every_trainable_weight(fusion: Any) -> None:
    model = compile_model(small(fusion))
    shake_awake(model)
    x = signals(4)
    y = np.eye(9, dtype="float32")[:4]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(
            x, targets(model, tf.constant(y)), model(x, training=True), training=True
        )
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None and np.abs(gradient).max() > 0, weight.path


@pytest.mark.parametrize("fusion", FUSIONS)
def test_file_predicts_as_the_model_it_came_from(fusion: Any, tmp_path: Path) -> None:
    require_same_from_file(small(fusion), tmp_path / "model.keras", signals(3))


def test_mixed_precision_answers_in_float32() -> None:
    build = partial(build_model, **SMALL)
    head = ("mutual_out1_out2", "low_head", "high_head")
    require_float32_answers_in_bfloat16(build, signals(16), layer="low_z", head=head)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_training_learns_a_tiny_problem(fusion: Any) -> None:
    """A class for each sign of lead I's mean."""
    x = signals(32)
    y = np.stack([x[:, :, 0].mean(1) > 0, x[:, :, 0].mean(1) <= 0], axis=-1).astype("float32")
    # The trunk is as narrow as a quarter of the low branch, and one of a single channel learns
    # little.
    sizes = {**SMALL, "low_channels": 32, "high_channels": 64}
    model = build_model(**sizes, num_classes=2, fusion=fusion)
    compile_model(model, learning_rate=5e-3)
    losses = model.fit(x, targets(model, y), epochs=12, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_default_contract_says_what_the_model_is(full: keras.Model) -> None:
    contract = full.get_layer("contract").contract
    assert contract == Contract(
        network="MRM-Net",
        task="cpsc2018",
        class_names=CPSC_CLASSES,
        sampling_rate=100.0,
        input_length=1000,
        fit="stretch",
        single_label=False,
        leads=LEADS,
    )


def test_standardisation_is_fitted_on_what_the_network_sees(tmp_path: Path) -> None:
    """A recording counts as far as it is cut, and as long as it is stretched."""
    rng = np.random.default_rng(0)
    long = np.concatenate([rng.normal(2, 1, (1000, 12)), np.full((9000, 12), 50.0)])
    short = np.repeat(rng.normal(-1, 3, (1, 12)), 500, axis=0)
    names = {"cpsc2018": CPSC_CLASSES}
    with StoreWriter(tmp_path / "s.h5", dataset="cpsc2018", fs=100, class_names=names) as writer:
        for name, signal in (("long", long), ("short", short)):
            writer.append(name, signal, labels={"cpsc2018": (0,)}, fold=1)
    with Store(tmp_path / "s.h5") as store:
        contract = fitted_contract(store, np.arange(2), task="cpsc2018", input_length=1000)
    seen = np.concatenate([long[:1000], np.repeat(short, 2, axis=0)])
    assert contract.mean == pytest.approx(seen.mean(), abs=1e-5)
    assert contract.std == pytest.approx(seen.std(), abs=1e-5)


def test_given_contract_standardises_and_must_agree() -> None:
    contract = Contract(
        network="MRM-Net",
        task="superdiagnostic",
        class_names=("NORM", "MI", "STTC", "CD", "HYP"),
        sampling_rate=100.0,
        input_length=60,
        fit="stretch",
        single_label=False,
        mean=0.25,
        std=2.0,
    )
    model = build_model(**SMALL, num_classes=5, contract=contract)
    w = shake(model)
    x = signals(2)
    expected = mrm_numpy.forward((x.astype("float64") - 0.25) / 2.0, w)
    np.testing.assert_allclose(model(x)["diagnosis"], expected["diagnosis"], rtol=1e-4)
    with pytest.raises(OptionError, match="5 classes, 60 samples and 12 leads"):
        build_model(**SMALL, contract=contract)


@pytest.mark.parametrize(
    "options", [{"input_length": 62}, {"high_channels": 12}, {"input_length": 63}]
)
def test_branches_that_cannot_be_compared_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="must be of equal size"):
        build_model(**{**SMALL, **options})
