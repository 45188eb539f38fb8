"""The whole of MLBF-Net: sizes, numbers, gradients, losses, training, files."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import keras
import mlbf_numpy
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

from benchmarks.mlbf_plain import build_plain_model, copy_weights, unstacked
from data_prep.errors import OptionError
from data_prep.labels import CPSC_CLASSES, LEADS
from ecg_keras.model.contract import Contract
from ecg_keras.training.settings import Settings
from mlbf_keras.layers import BranchConvolutions
from mlbf_keras.model import (
    build_branchnet,
    build_model,
    compile_model,
    default_contract,
    load_model,
)
from mlbf_keras.train import MLBFNet

# Halved five times, 600 samples are odd where the paper's 15,000 are.
LENGTH, BATCH, CLASSES = 600, 8, 5
SMALL: dict[str, Any] = {
    "input_length": LENGTH,
    "num_leads": 2,
    "num_classes": CLASSES,
    "filters": 4,
    "gru_units": 3,
}
LENGTHS = {
    "short": [1, 0, 90, 37, 64, 2, 75, 89],
    "medium": [301, 0, 1, 150, 75, 299, 38, 200],
    "full": [600, 599, 0, 1, 300, 13, 450, 222],
}

Gradients = dict[str, NDArray[Any]]

pytestmark = pytest.mark.usefixtures("graphs_as_in_use")


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def full() -> keras.Model:
    return build_model()


def recordings(
    lengths: list[int], time: int = LENGTH, leads: int = 2, seed: int = 3
) -> NDArray[np.float32]:
    """A slow wave with noise, of an amplitude and offset of its own; zeros behind each end.

    Batch norm divides by the spread between recordings; of noise alone it would be next to none.
    """
    rng = np.random.default_rng(seed)
    signal = np.zeros((len(lengths), time, leads), "float32")
    for record, length in zip(signal, lengths, strict=True):
        steps = np.arange(length)[:, None] * rng.uniform(0.01, 0.6, size=leads)
        wave = rng.uniform(0.5, 3, size=leads) * np.sin(steps) + rng.uniform(-2, 2, size=leads)
        record[:length] = wave + 0.1 * rng.normal(size=(length, leads))
    return signal


def one_hot(count: int, classes: int = CLASSES) -> NDArray[np.float32]:
    return np.eye(classes, dtype="float32")[np.arange(count) % classes]


Trained = Callable[..., tuple[dict[str, Any], Gradients]]


def trained(model: keras.Model, *, traced: bool = True) -> Trained:
    """A function giving the answers while training and the gradients of eq. 10 by path."""

    def step(signal: Any, labels: Any, loss_weight: Any) -> Any:
        with tf.GradientTape() as tape:
            answers = model(signal, training=True)
            losses = {
                head: tf.reduce_mean(keras.losses.categorical_crossentropy(labels, answer))
                for head, answer in answers.items()
            }
            loss = losses.pop("diagnosis") + loss_weight * sum(losses.values())
        return answers, tape.gradient(loss, [w.value for w in model.trainable_weights])

    steps = tf.function(step) if traced else step

    def run(signal: Any, labels: Any, loss_weight: float) -> tuple[dict[str, Any], Gradients]:
        answers, gradients = steps(
            tf.constant(signal), tf.constant(labels), tf.constant(loss_weight)
        )
        paths = [weight.path for weight in model.trainable_weights]
        return answers, dict(zip(paths, map(np.asarray, gradients), strict=True))

    return run


def twins(**options: Any) -> tuple[Any, Any]:
    """Ours and the plain network with the same weights and no dropout."""
    keras.utils.set_random_seed(0)
    ours, plain = build_model(**options, dropout=0.0), build_plain_model(**options, dropout=0.0)
    shake(ours)
    copy_weights(ours, plain)
    return ours, plain


def by_moving_statistics(model: keras.Model) -> None:
    """Let batch norm use its moving statistics while training, too."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


@cache
def small_twins() -> tuple[Any, Any, Trained, Trained]:
    """Small twins, and for each a function giving its gradients, ours traced as in use."""
    ours, plain = twins(**SMALL)
    return ours, plain, trained(ours), trained(plain, traced=False)


def assert_same_gradients(actual: Gradients, expected: Gradients) -> None:
    """All together within 1e-4; each within 1e-4 and a share of the network's largest."""
    assert actual.keys() == expected.keys()
    both = [np.concatenate([g[path].ravel() for path in expected]) for g in (actual, expected)]
    assert np.linalg.norm(both[0] - both[1]) < 1e-4 * np.linalg.norm(both[1])
    floor = 2e-5 * np.abs(both[1]).max()
    for path, gradient in expected.items():
        largest = np.abs(gradient).max()
        assert np.abs(actual[path] - gradient).max() < 1e-4 * largest + floor, path


def test_sizes_are_the_papers(full: keras.Model) -> None:
    """Table I, and eq. 8."""
    blocks = BranchConvolutions(12, kernel_sizes=((3, 3, 24),) * 4)
    assert blocks.compute_output_shape((None, 15000, 12)) == [(None, 938, 12)] * 12
    outputs = {layer.name: layer.output for layer in full.layers}
    assert [f_cnn.shape for f_cnn in outputs["f_cnn"]] == [(None, 469, 12)] * 12
    assert outputs["f_bigru"].shape == (None, 469, 12, 24)
    assert outputs["fused"].shape == (None, 469, 1, 288)
    assert outputs["fused_features"].shape == (None, 288)
    f_att, alpha = outputs["lead_attention"]
    assert f_att.shape == (None, 12, 24) and alpha.shape == (None, 469, 12)
    assert full.input.name == "signal" and full.input.shape == (None, 15000, 12)
    assert all(answer.shape == (None, 9) for answer in full.output.values())


def test_heads_are_in_order(full: keras.Model) -> None:
    expected = ["diagnosis", *(f"lead_{lead}" for lead in LEADS)]
    assert list(full.output) == expected
    assert expected[1:4] == ["lead_I", "lead_II", "lead_III"] and expected[-1] == "lead_V6"
    assert list(build_model(**SMALL).output) == expected[:3]


def test_parameters_are_counted_row_by_row(full: keras.Model) -> None:
    """Table VI; that table counts W of each attention, but not its b and u_w."""
    rows = {
        "f_cnn": 12
        * (
            (1 * 12 * 3 + 12) + (12 * 12 * 3 + 12) * 3 + (12 * 12 * 3 + 12) * 4
            + (12 * 12 * 24 + 12) * 4
            + (12 * 12 * 3 + 12) + (12 * 12 * 3 + 12) + (12 * 12 * 48 + 12)
        ),
        "f_bigru": 12 * 1872,
        "lead_attention": 12 * 576,
        "lead_norm": 12 * 96,
        "lead_softmax": 12 * (24 * 9 + 9),
        "fused_attention": 82944,
        "fused_norm": 1152,
        "diagnosis": 24 * 12 * 9 + 9,
    }  # fmt: skip
    assert sum(rows.values()) == 418_005
    uncounted = {"lead_attention": 12 * (24 + 24), "fused_attention": 288 + 288}
    counted = {layer.name: layer.count_params() for layer in full.layers}
    assert {name: count for name, count in counted.items() if count} == {
        name: count + uncounted.get(name, 0) for name, count in rows.items()
    }
    assert full.count_params() == 419_157


def test_branchnet_is_one_branch_with_more_leads() -> None:
    """A twelfth of Table VI's branches with b and u_w, and a first convolution of twelve leads."""
    branch = (419_157 - (82944 + 288 + 288) - 1152 - (24 * 12 * 9 + 9)) // 12
    model = build_branchnet()
    assert model.count_params() == branch + 11 * 12 * 3 == 28_053
    assert {name: out.shape for name, out in model.output.items()} == {"diagnosis": (None, 9)}
    assert model.get_layer("contract").contract.network == "BranchNet"


def test_branchnet_answers_as_plain_numpy() -> None:
    model = build_branchnet(**SMALL)
    w = shake(model)
    signal = recordings(LENGTHS["medium"])
    expected = mlbf_numpy.forward_branchnet(signal.astype("float64"), w)
    require_answers(model, signal, {"diagnosis": expected})


def test_without_auxiliary_heads_only_the_diagnosis_remains() -> None:
    """The single loss of Table V: the same diagnosis, and no weights of the leads' heads."""
    whole, single = build_model(**SMALL), build_model(**SMALL, auxiliary_heads=False)
    shake(whole)
    assert list(single.output) == ["diagnosis"]
    values = {weight.path: weight for weight in whole.weights}
    dropped = values.keys() - {weight.path for weight in single.weights}
    assert {path.split("/")[0] for path in dropped} == {
        "lead_attention", "lead_norm", "lead_softmax",
    }  # fmt: skip
    for weight in single.weights:
        weight.assign(values[weight.path])
    signal = recordings(LENGTHS["medium"])
    np.testing.assert_allclose(single(signal)["diagnosis"], whole(signal)["diagnosis"], rtol=1e-6)


@pytest.mark.parametrize(
    "longest",
    [pytest.param(name, marks=() if name == "medium" else pytest.mark.slow) for name in LENGTHS],
)
def test_answers_are_those_of_plain_numpy(longest: str) -> None:
    ours = build_model(**SMALL)
    w = shake(ours)
    signal = recordings(LENGTHS[longest])
    require_answers(ours, signal, mlbf_numpy.forward(signal.astype("float64"), w))


@pytest.mark.slow
def test_answers_at_full_size_are_those_of_plain_numpy(full: keras.Model) -> None:
    """Recordings of all lengths up to 60 s, then of CPSC 2018's median of 12 s at most."""
    w = shake(full)
    for lengths in ([15000, 4021], [3000, 1]):
        signal = recordings(lengths, 15000, leads=12)
        require_answers(full, signal, mlbf_numpy.forward(signal.astype("float64"), w))


@pytest.mark.parametrize(
    "longest",
    [pytest.param(name, marks=() if name == "medium" else pytest.mark.slow) for name in LENGTHS],
)
def test_training_steps_are_those_of_the_plain_network(longest: str) -> None:
    """Batch norm by the batch: answers, gradients of every weight, and the moving statistics.

    Batch norm takes differences of nearly equal numbers, which leaves the smallest gradients few
    digits in float32: the plain network's own are as far from what it gives in float64.
    """
    ours, plain, our_step, plain_step = small_twins()
    copy_weights(ours, plain)
    signal, labels = recordings(LENGTHS[longest]), one_hot(BATCH)
    answers, gradients = our_step(signal, labels, 1.0)
    plain_answers, plain_gradients = plain_step(signal, labels, 1.0)
    for head, expected in plain_answers.items():
        np.testing.assert_allclose(answers[head], expected, rtol=0, atol=1e-5)
    assert_same_gradients(unstacked(gradients), plain_gradients)
    moved = unstacked({weight.path: weight.numpy() for weight in ours.weights})
    for weight in plain.non_trainable_weights:
        if weight.name.startswith("moving"):
            np.testing.assert_allclose(moved[weight.path], weight.numpy(), rtol=1e-5, atol=1e-6)
    for path, gradient in gradients.items():
        stack = gradient.reshape(-1, gradient.shape[-1])
        assert np.abs(stack).max() > 0, path
        if gradient.ndim > 2:  # every branch, and of the recurrence both directions
            members = gradient.reshape(2, -1) if len(gradient) == 2 else stack
            assert np.all(np.abs(members).max(axis=1) > 0), path


@pytest.mark.slow
def test_gradients_at_full_size_are_those_of_the_plain_network() -> None:
    """One batch of 60 s and less; gradients that all but cancel over 15,000 samples lose digits."""
    ours, plain = twins()
    by_moving_statistics(ours)
    by_moving_statistics(plain)
    signal, labels = recordings([15000, 2500, 4021, 1], 15000, leads=12), one_hot(4, 9)
    answers, gradients = trained(ours)(signal, labels, 1.0)
    plain_answers, plain_gradients = trained(plain)(signal, labels, 1.0)
    for head, expected in plain_answers.items():
        np.testing.assert_allclose(answers[head], expected, rtol=0, atol=1e-5)
    assert_same_gradients(unstacked(gradients), plain_gradients)


@pytest.mark.parametrize(
    "loss_weight",
    [pytest.param(0.0, marks=pytest.mark.slow), pytest.param(1.0, marks=pytest.mark.slow), 2.0],
)
def test_lambda_weighs_the_leads_losses(loss_weight: float) -> None:
    """Eq. 10 by hand from the answers."""
    model = compile_model(build_model(**SMALL), learning_rate=0.002, loss_weight=loss_weight)
    model.run_eagerly = True  # one step is not worth a graph
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.002)
    shake(model)
    signal, labels = recordings(LENGTHS["medium"]), one_hot(BATCH)
    losses = {
        head: -np.mean(np.log(np.sum(labels * np.asarray(answer, np.float64), axis=1)))
        for head, answer in model(signal).items()
    }
    leads = losses["lead_I"] + losses["lead_II"]
    assert leads > 0.5
    logs = model.evaluate(signal, targets(model, labels), verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["loss"], losses["diagnosis"] + loss_weight * leads, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "dropouts"),
    [
        ({}, ["f_cnn", "f_bigru", "fused_dropout", "lead_dropout"]),
        ({"auxiliary_heads": False}, ["f_cnn", "f_bigru", "fused_dropout"]),
        ({"single_label": False}, ["f_cnn", "f_bigru", "fused_dropout", "lead_dropout"]),
        ({"network": "branchnet"}, ["f_cnn", "f_bigru", "dropout"]),
    ],
)
def test_options_of_a_training_reach_the_network(
    changes: dict[str, Any], dropouts: list[str]
) -> None:
    options = MLBFNet(
        input_length=64, filters=2, gru_units=3, dropout=0.5, loss_weight=0.25, **changes
    )
    contract = default_contract(input_length=64, single_label=options.single_label)
    settings = Settings(epochs=1, learning_rate=0.02, jit_compile=True)
    model = options.compiled_model(contract, settings)
    assert model.get_layer("contract").contract == contract
    assert model.get_layer("f_cnn").filters == 2 and model.get_layer("f_bigru").units == 3
    rates = {each.name: getattr(each, "dropout", getattr(each, "rate", 0)) for each in model.layers}
    assert {name: rate for name, rate in rates.items() if rate} == dict.fromkeys(dropouts, 0.5)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    with_leads = "lead_dropout" in dropouts
    weights = {"diagnosis": 1.0, **{f"lead_{lead}": 0.25 for lead in LEADS if with_leads}}
    kind = "categorical" if options.single_label else "binary"
    compiled = model.get_compile_config()
    assert compiled["loss_weights"] == weights and compiled["jit_compile"] is True
    assert compiled["loss"] == dict.fromkeys(weights, f"{kind}_crossentropy")


@pytest.mark.slow
def test_training_learns_a_tiny_problem() -> None:
    """A class for each sign of lead I's mean, with dropout on."""
    signal = recordings([170 + 10 * i for i in range(16)], 320)
    positive = signal[:, :, 0].mean(axis=1) > 0
    labels = np.stack([positive, ~positive], axis=-1).astype("float32")
    model = build_model(**{**SMALL, "num_classes": 2, "input_length": 320})
    compile_model(model, learning_rate=1e-2)
    history = model.fit(
        signal, targets(model, labels), epochs=15, batch_size=BATCH, verbose=0
    ).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["diagnosis_loss"][-1] < 0.7 * history["diagnosis_loss"][0]


@pytest.mark.parametrize("build", [build_model, build_branchnet])
def test_file_predicts_as_the_model_it_came_from(build: Any, tmp_path: Path) -> None:
    model = build(**SMALL)
    signal = recordings(LENGTHS["medium"])
    require_same_from_file(model, tmp_path / "model.keras", signal)
    opened = load_model(tmp_path / "model.keras")
    answers, before = opened.network(signal), model(signal)
    np.testing.assert_array_equal(answers["diagnosis"], before["diagnosis"])
    assert opened.contract == model.get_layer("contract").contract


def test_mixed_precision_answers_in_float32() -> None:
    signal = recordings(LENGTHS["medium"])
    build = partial(build_model, **SMALL)
    require_float32_answers_in_bfloat16(build, signal, layer="f_cnn", head=("lead_softmax",))


def test_seeds_decide_where_training_starts() -> None:
    starts = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        starts.append(build_model(**SMALL).get_weights())
    for first, same, other in zip(*starts, strict=True):
        np.testing.assert_array_equal(first, same)
        assert not first.any() or np.all(first == 1) or not np.array_equal(first, other)


def test_unknown_network_is_refused() -> None:
    """It would train MLBF-Net."""
    unknown: Any = "BranchNet"
    with pytest.raises(OptionError, match="no network 'BranchNet'; choose mlbf-net or branchnet"):
        MLBFNet(network=unknown)


def test_other_classes_are_not_those_of_cpsc_2018() -> None:
    """In CPSC 2018 some class is found in each recording."""
    contract = default_contract(num_classes=2, single_label=False)
    assert (contract.task, contract.class_names) == ("classes", ("class 1", "class 2"))
    assert not contract.found(np.array([0.1, 0.2])).any()


def test_default_contract_says_what_the_model_is(full: keras.Model) -> None:
    assert full.get_layer("contract").contract == Contract(
        network="MLBF-Net",
        task="cpsc2018",
        class_names=CPSC_CLASSES,
        sampling_rate=250.0,
        input_length=15000,
        fit="pad",
        single_label=True,
        leads=LEADS,
    )


def test_given_contract_standardises() -> None:
    """Then the padding is no longer zero, and the answer must not change for it."""
    contract = Contract(
        network="MLBF-Net",
        task="own",
        class_names=CPSC_CLASSES[:CLASSES],
        sampling_rate=250.0,
        input_length=LENGTH,
        fit="pad",
        single_label=True,
        leads=LEADS[:2],
        mean=0.25,
        std=2.0,
    )
    model = build_model(**SMALL, contract=contract)
    w = shake(model)
    signal = recordings(LENGTHS["medium"])
    expected = mlbf_numpy.forward((signal.astype("float64") - 0.25) / 2.0, w)
    for head, answer in model(signal).items():
        np.testing.assert_allclose(answer, expected[head], rtol=1e-4)


# --- Several labels a record: ours, not the paper's -----------------------------------------------


@pytest.mark.parametrize("build", [build_model, build_branchnet])
def test_several_labels_take_sigmoid_heads_and_binary_cross_entropy(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    soft, sigmoid = build(**SMALL), build(**SMALL, single_label=False)
    shake(soft)
    sigmoid.set_weights(soft.get_weights())
    signal = recordings(LENGTHS["medium"])
    ours = {head: np.asarray(p, "float64") for head, p in sigmoid(signal).items()}
    assert set(ours) == set(soft.output)
    for head, p in soft(signal).items():
        # Both come from the same logits: softmax keeps their differences, sigmoid them all.
        logits = np.log(ours[head] / (1 - ours[head]))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(p, powers / powers.sum(axis=1, keepdims=True), atol=2e-5)
        assert np.abs(ours[head].sum(axis=1) - 1).max() > 0.01

    labels = (np.random.default_rng(1).random((BATCH, CLASSES)) < 0.4).astype("float32")
    weight = {head: 1.0 if head == "diagnosis" else 0.3 for head in ours}
    losses = {
        head: -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
        for head, p in ours.items()
    }
    compile_model(sigmoid, loss_weight=0.3)
    sigmoid.run_eagerly = True
    given = sigmoid.evaluate(signal, targets(sigmoid, labels), verbose=0, return_dict=True)
    expected = sum(weight[head] * loss for head, loss in losses.items())
    assert given["loss"] == pytest.approx(expected, rel=1e-4)

    sigmoid.save(tmp_path / "several.keras")
    again = load_model(tmp_path / "several.keras")
    assert again.contract.single_label is False
    np.testing.assert_allclose(again.predict(signal), ours["diagnosis"], rtol=1e-4)


def test_a_contract_of_the_other_kind_is_refused() -> None:
    contract = build_model(**SMALL).get_layer("contract").contract
    for build in (build_model, build_branchnet):
        with pytest.raises(OptionError, match="promises single_label=True, but .* asked for False"):
            build(**SMALL, single_label=False, contract=contract)
