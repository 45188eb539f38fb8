"""Explanations: attentions against plain NumPy, relevance against mathematics and deletion."""

from pathlib import Path
from typing import Any

import mlbf_numpy
import mrm_numpy
import numpy as np
import pytest
from make_records import sine_leads, write_wfdb
from whole_networks import weights_of

import mlbf_keras.explain
import mrm_keras.explain
from data_prep.errors import OptionError
from data_prep.labels import CPSC_CLASSES, LEADS
from data_prep.records import Record
from ecg_keras.explanation.methods import (
    CELL,
    SHARES,
    ExplainableModel,
    Explanation,
    cell_sums,
    explainable,
    flat_line,
    integrated_gradients,
    view,
    without_cells,
)
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import ECGModel
from mlbf_keras.model import build_branchnet
from mlbf_keras.model import build_model as build_mlbf
from mrm_keras.model import build_model as build_mrm

MLBF_LENGTH, MRM_LENGTH = 960, 400  # 3.84 s at 250 Hz, 4 s at 100 Hz


def contract(network: str, **changes: Any) -> Contract:
    fields: dict[str, Any] = {
        "network": network,
        "task": "cpsc2018",
        "class_names": CPSC_CLASSES,
        "sampling_rate": 250.0 if network != "MRM-Net" else 100.0,
        "input_length": MLBF_LENGTH if network != "MRM-Net" else MRM_LENGTH,
        "fit": "pad" if network != "MRM-Net" else "stretch",
        "single_label": network != "MRM-Net",
    }
    return Contract(**{**fields, **changes})


THREE = ("II", "V1", "V5")  # a branch each


def awake(network: Any, seed: int) -> Any:
    """Give every weight some spread, so that nothing an explanation reads is constant."""
    random = np.random.default_rng(seed)
    for weight in network.weights:
        if weight.dtype == "float32":
            spread = 0.2 * random.standard_normal(weight.shape)
            around = 1.0 if "variance" in weight.path or "gamma" in weight.path else 0.0
            weight.assign(np.abs(around + spread) if around else weight.numpy() + spread)
    return network


def mlbf(seed: int = 0, *, auxiliary_heads: bool = True) -> ECGModel:
    keras.utils.set_random_seed(seed)
    network = build_mlbf(
        contract=contract("MLBF-Net", leads=THREE),
        num_leads=len(THREE),
        input_length=MLBF_LENGTH,
        filters=4,
        gru_units=3,
        auxiliary_heads=auxiliary_heads,
    )
    awake(network, seed)
    return ECGModel(network, network.get_layer("contract").contract, Path(f"{seed}.keras"))


def mrm(seed: int = 0, *, fusion: Any = "mutual") -> ECGModel:
    keras.utils.set_random_seed(seed)
    network = build_mrm(
        contract=contract("MRM-Net"),
        input_length=MRM_LENGTH,
        low_channels=4,
        high_channels=8,
        fusion=fusion,
    )
    awake(network, seed)
    return ECGModel(network, network.get_layer("contract").contract, Path(f"{seed}.keras"))


def recording(seconds: float, *, fs: float = 500.0, seed: int = 0) -> Record:
    signal = sine_leads(round(seconds * fs), fs=fs, seed=seed).astype(np.float32)
    return Record(f"R{seed}", signal, fs, np.nan, "", (), Path(f"R{seed}.hea"))


# --- Methods -------------------------------------------------------------------------------------


class TestIntegratedGradients:
    def test_a_linear_score_gives_its_terms(self) -> None:
        random = np.random.default_rng(0)
        w, x, base = random.normal(size=(3, 5, 2))
        marks = integrated_gradients(lambda s: np.repeat(w[None], len(s), 0), x, base, steps=3)
        np.testing.assert_allclose(marks, w * (x - base), rtol=1e-6)

    def test_a_product_is_shared_equally(self) -> None:
        x = np.array([[3.0, 2.0]])
        marks = integrated_gradients(lambda s: s[..., ::-1], x, np.zeros_like(x), steps=20)
        np.testing.assert_allclose(marks, [[3.0, 3.0]], rtol=1e-6)

    def test_a_saturated_score_is_still_explained(self) -> None:
        """Where the plain gradient vanishes, the way there does not."""
        x = np.full((1, 1), 12.0)
        marks = integrated_gradients(
            lambda s: 1 - np.tanh(s.astype(float)) ** 2, x, np.zeros_like(x), steps=200
        )
        assert marks.item() == pytest.approx(np.tanh(12.0), rel=1e-4)

    def test_what_equals_the_baseline_gets_nothing(self) -> None:
        x = np.array([[1.0, 2.0]])
        marks = integrated_gradients(lambda s: np.ones_like(s), x, np.array([[1.0, 0.0]]))
        assert marks.tolist() == [[0.0, pytest.approx(2.0)]]


class TestDeletion:
    EDGES = np.array([0, 2, 5, 6])

    def test_cells_are_sums_over_their_samples(self) -> None:
        values = np.arange(16.0).reshape(8, 2)
        expected = [values[0:2].sum(0), values[2:5].sum(0), values[5:6].sum(0)]
        np.testing.assert_array_equal(cell_sums(values, self.EDGES), expected)

    def test_cells_go_in_order(self) -> None:
        signal = np.arange(1.0, 17.0).reshape(8, 2)
        order = np.array([[0.1, 0.9], [0.5, 0.2], [0.8, 0.3]])
        shares = (0.0, 1 / 6, 3 / 6, 1.0)
        left = without_cells(signal, np.zeros_like(signal), self.EDGES, order, shares=shares)
        by_hand = [signal.copy() for _ in shares]
        by_hand[1][0:2, 1] = 0
        by_hand[2][0:2, 1] = by_hand[2][5:6, 0] = by_hand[2][2:5, 0] = 0
        by_hand[3][0:6] = 0  # what lies behind the last cell stays
        np.testing.assert_array_equal(left, by_hand)

    def test_the_flat_line_keeps_the_padding(self) -> None:
        signal = np.array([[1.0, 5.0], [2.0, 5.0], [9.0, 6.0], [0.0, 0.0]])
        expected = [[2.0, 5.0], [2.0, 5.0], [2.0, 5.0], [0.0, 0.0]]
        assert flat_line(signal, 3).tolist() == expected


# --- Time ----------------------------------------------------------------------------------------


def middle(response: np.ndarray, edges: np.ndarray) -> float:
    """The centre of gravity of a response, in samples."""
    return float(response @ ((edges[:-1] + edges[1:]) / 2) / response.sum())


def test_a_step_of_mlbf_lies_where_its_samples_do() -> None:
    """A single sample, sent through the convolutions with even kernels, answers around itself."""
    sizes = ((3, 3, 24),) * 4 + ((3, 3, 48),)
    weights = {}
    for block, taps in enumerate(sizes, 1):
        for position, size in enumerate(taps, 1):
            name = f"f_cnn/block_{block}_conv_{position}"
            weights[f"{name}_kernel"] = np.ones((1, size, 1, 1))
            weights[f"{name}_bias"] = np.zeros((1, 1))
    for length, sample in ((4000, 2000), (4000, 1501), (3001, 1407)):
        signal = np.zeros((1, length, 1))
        signal[0, sample] = 1.0
        response = mlbf_numpy.convolutions(signal, weights, 0)[0, :, 0]
        edges = mlbf_keras.explain.step_edges(len(response), 32)
        assert edges[-1] >= length
        assert middle(response, edges) == pytest.approx(sample + 0.5, abs=0.2)


@pytest.mark.parametrize("branch, samples", [("low", 2), ("high", 4)])
def test_a_step_of_mrm_lies_where_its_samples_do(branch: str, samples: int) -> None:
    """On average over where the sample falls into its step."""
    off = []
    for sample in range(100, 108):
        x = np.zeros((1, 200, 1))
        x[0, sample] = 1.0
        for _ in range(4):
            x = mrm_numpy.max_pool(x, stride=1, padding=1)
        x = mrm_numpy.conv1d(x, np.ones((3, 1, 1)), stride=samples // 2)
        x = mrm_numpy.max_pool(x, stride=2, padding=0)
        edges = mrm_keras.explain.step_edges(x.shape[1], samples)
        off.append(middle((x[0, :, 0] > 0).astype(float), edges) - sample - 0.5)
    assert np.mean(off) == pytest.approx(0.0, abs=0.26)
    assert np.max(np.abs(off)) <= samples


# --- MLBF-Net ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlbf_explainer() -> mlbf_keras.explain.Explainer:
    return mlbf_keras.explain.Explainer([mlbf(1)])


@pytest.fixture(scope="module")
def of_mlbf(mlbf_explainer: mlbf_keras.explain.Explainer) -> Explanation:
    """Of a recording of 2.5 s in an input of 3.84 s."""
    return mlbf_explainer.explain(recording(2.5))


@pytest.mark.slow
class TestMLBF:
    def test_alpha_is_that_of_the_equations(self) -> None:
        network = mlbf(1).network
        signal = view(recording(2.5), contract("MLBF-Net", leads=THREE)).signal[None]
        answers, alphas = mlbf_keras.explain.attention_network(network)(signal)
        w, precise = weights_of(network), signal.astype(np.float64)
        states = [
            mlbf_numpy.bigru(mlbf_numpy.convolutions(precise[:, :, j : j + 1], w, j), w, j)
            for j in range(len(THREE))
        ]
        _, fused = mlbf_numpy.attention(np.concatenate(states, -1), w, 0, "fused_attention")
        leads = [mlbf_numpy.attention(f, w, j, "lead_attention")[1] for j, f in enumerate(states)]
        assert fused.std() > 0.01 * fused.mean()
        np.testing.assert_allclose(alphas["fused_attention"][0, :, 0], fused[0], rtol=1e-3)
        np.testing.assert_allclose(alphas["lead_attention"][0].numpy().T, np.squeeze(leads), 1e-3)
        np.testing.assert_array_equal(answers["diagnosis"], network(signal)["diagnosis"])

    def test_answers_are_those_of_the_network(self, of_mlbf: Explanation) -> None:
        network = mlbf(1).network
        signal = view(recording(2.5), of_mlbf.contract).signal
        signals = np.repeat(signal[None], 4, axis=0)
        signals[[1, 2, 3], :, [0, 1, 2]] = 0
        answers = {name: answer.numpy() for name, answer in network(signals).items()}
        np.testing.assert_allclose(of_mlbf.members[0], answers["diagnosis"][0], atol=1e-5)
        np.testing.assert_allclose(of_mlbf.without_lead, answers["diagnosis"][1:], atol=1e-5)
        assert np.ptp(answers["diagnosis"], axis=0).max() > 0.01
        assert list(of_mlbf.heads) == [f"lead_{lead}" for lead in THREE]
        for name, head in of_mlbf.heads.items():
            np.testing.assert_allclose(head, answers[name][0], atol=1e-5)
        assert of_mlbf.found == (CPSC_CLASSES[of_mlbf.probabilities.argmax()],)

    def test_only_the_recording_is_shaded(self, of_mlbf: Explanation) -> None:
        fused, leads = (attention.shading for attention in of_mlbf.attention)
        # 625 samples end within step 19 of 30.
        assert fused.values.shape == (20,) and leads.values.shape == (20, 12)
        np.testing.assert_allclose(fused.edges, [*(np.arange(20) * 32 / 250), 2.5], atol=1e-9)
        assert "of the weight lies on the silence after the recording" in (
            of_mlbf.attention[0].caption
        )
        own = np.isin(LEADS, THREE)
        assert np.isfinite(leads.values[:, own]).all() and np.isnan(leads.values[:, ~own]).all()

    def test_relevance_sums_to_what_it_explains(self, of_mlbf: Explanation) -> None:
        (relevance,) = of_mlbf.relevances
        assert relevance.shading.values.shape == (round(2.5 / CELL), 12)
        assert abs(relevance.residual) < 0.02
        total = np.nansum(relevance.shading.values) + relevance.residual
        assert total == pytest.approx(relevance.total, abs=1e-5)
        assert relevance.marked[0] == pytest.approx(of_mlbf.probabilities.max(), abs=1e-5)
        assert relevance.marked[-1] == pytest.approx(relevance.random[-1], abs=1e-5)

    def test_removing_what_is_marked_lowers_the_answer_faster(self, of_mlbf: Explanation) -> None:
        (relevance,) = of_mlbf.relevances
        inner = slice(1, len(SHARES) - 1)
        assert relevance.marked[inner].mean() < relevance.random[inner].mean()

    def test_gradients_are_those_of_finite_differences(
        self, mlbf_explainer: mlbf_keras.explain.Explainer
    ) -> None:
        """Through the convolutions' and the recurrence's gradients written by hand."""
        (model,) = mlbf_explainer.models
        signal = view(recording(2.5), model.contract).signal
        gradient = model.gradient(signal[None], 3)[0]
        direction = np.zeros_like(signal)
        direction[:625] = np.sign(gradient[:625])
        step = 1e-3 * direction
        ends = model.probabilities(np.stack([signal + step, signal - step]))[:, 3]
        along = float((gradient * direction).sum())
        assert along > 0.01
        assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(along, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["single loss", "BranchNet"])
def test_mlbf_without_heads_of_leads(network: str) -> None:
    if network == "BranchNet":
        built = build_branchnet(
            contract=contract("BranchNet"), input_length=MLBF_LENGTH, filters=2, gru_units=2
        )
        model = ECGModel(built, built.get_layer("contract").contract, Path("1.keras"))
    else:
        model = mlbf(auxiliary_heads=False)
    _, alphas = mlbf_keras.explain.attention_network(model.network)(
        np.ones((1, MLBF_LENGTH, len(model.contract.leads)))
    )
    (alpha,) = alphas.values()
    assert alpha.shape == (1, 30, 1) and float(alpha[0].numpy().sum()) == pytest.approx(1, abs=1e-5)


def test_networks_of_different_form_are_not_averaged() -> None:
    short, long = (
        ECGModel(None, contract("MLBF-Net", input_length=length), Path(f"{length}.keras"))
        for length in (960, 1920)
    )
    for package in (mlbf_keras.explain, mrm_keras.explain):
        with pytest.raises(OptionError, match="1920.keras and 960.keras"):
            package.Explainer([short, long])


def test_networks_of_different_heads_or_widths_are_not_averaged() -> None:
    """Before anything is predicted."""
    models = [ECGModel(None, contract("MRM-Net"), Path(f"{i}.keras")) for i in range(2)]

    def explained(heads: list[str], weights: list[tuple[str, int]]) -> list[ExplainableModel]:
        of_model = iter(zip(heads, weights, strict=True))

        def attention_network(network: Any) -> Any:
            head, (name, width) = next(of_model)
            return lambda signals: (
                {head: signals[:, 0]},
                {name: keras.ops.ones((len(signals), width))},
            )

        return explainable(models, attention_network)

    assert len(explained(["low", "low"], [("a", 2), ("a", 2)])) == 2
    for heads, weights in [
        (["low", "high"], [("a", 2), ("a", 2)]),
        (["low", "low"], [("a", 2), ("b", 2)]),
        (["low", "low"], [("a", 2), ("a", 3)]),
    ]:
        with pytest.raises(OptionError, match="1.keras and 0.keras differ in heads, attention"):
            explained(heads, weights)


# --- MRM-Net -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mrm_pair() -> list[ECGModel]:
    return [mrm(3), mrm(5)]


@pytest.fixture(scope="module")
def of_mrm(mrm_pair: list[ECGModel]) -> Explanation:
    """By two networks, of a recording of 2 s, stretched to 4 s."""
    return mrm_keras.explain.Explainer(mrm_pair).explain(recording(2.0, seed=1))


def test_attentions_of_mrm_are_those_of_the_equations(mrm_pair: list[ECGModel]) -> None:
    model = mrm_pair[0]
    seen = view(recording(4.0), model.contract)
    answers, weights = mrm_keras.explain.attention_network(model.network)(seen.signal[None])
    w = weights_of(model.network)
    x = mrm_numpy.trunk(seen.signal[None].astype(np.float64), w)
    for name, stride in (("low", 1), ("high", 2)):
        z, _ = mrm_numpy.branch(x, w, name, stride)
        for i in (1, 2, 3):
            z = mrm_numpy.base_block(z, w, f"{name}_block_{i}")
        spatial = mrm_numpy.spatial_attention(z, w, f"{name}_attention/spatial")
        channel = mrm_numpy.channel_attention(z, w, f"{name}_attention/channel")
        for kind, expected in (("spatial", spatial), ("channel", channel)):
            assert np.ptp(expected) > 0.01
            np.testing.assert_allclose(weights[f"{name}_{kind}"], expected, rtol=1e-4)
    straight = model.network(seen.signal[None])["diagnosis"]
    np.testing.assert_array_equal(answers["diagnosis"], straight)


@pytest.mark.slow
class TestMRM:
    def test_members_are_kept_and_everything_else_is_their_mean(
        self, mrm_pair: list[ECGModel], of_mrm: Explanation
    ) -> None:
        signal = view(recording(2.0, seed=1), of_mrm.contract).signal
        silenced = np.repeat(signal[None], 13, axis=0)
        silenced[np.arange(1, 13), :, np.arange(12)] = 0
        answers = [model.network(silenced, training=False) for model in mrm_pair]
        for member, answer in zip(of_mrm.members, answers, strict=True):
            np.testing.assert_allclose(member, answer["diagnosis"][0], atol=1e-5)
        mean = np.mean([answer["diagnosis"] for answer in answers], axis=0)
        np.testing.assert_allclose(of_mrm.without_lead, mean[1:], atol=1e-5)
        low = np.mean([answer["low"][0] for answer in answers], axis=0)
        np.testing.assert_allclose(of_mrm.heads["low"], low, atol=1e-5)

    def test_time_is_that_of_the_recording_before_it_was_stretched(
        self, of_mrm: Explanation
    ) -> None:
        low, high = (attention.shading for attention in of_mrm.attention)
        for shading, step in ((low, 0.01), (high, 0.02)):
            assert shading.edges[0] == 0 and shading.edges[-1] == pytest.approx(2.0)
            np.testing.assert_allclose(np.diff(shading.edges)[5:-5], step, atol=1e-9)
        assert of_mrm.seconds == pytest.approx(2.0)
        assert [part.shape for part in of_mrm.channels.values()] == [(2, 4), (2, 8)]
        assert list(of_mrm.heads) == ["low", "high"]

    def test_relevance_holds(self, of_mrm: Explanation) -> None:
        assert 1 <= len(of_mrm.relevances) <= 3
        for relevance in of_mrm.relevances:
            total = relevance.shading.values.sum() + relevance.residual
            assert total == pytest.approx(relevance.total, abs=1e-5)
            assert abs(relevance.residual) < 0.05
            inner = slice(1, len(SHARES) - 1)
            assert relevance.marked[inner].mean() < relevance.random[inner].mean()

    def test_classes_are_those_that_were_found(self, of_mrm: Explanation) -> None:
        found = of_mrm.probabilities >= 0.5
        ranked = np.argsort(-of_mrm.probabilities)
        assert found.any()
        assert of_mrm.found == tuple(CPSC_CLASSES[c] for c in ranked if found[c])
        names = [relevance.class_name for relevance in of_mrm.relevances]
        assert names == list(of_mrm.found[:3])

    @pytest.mark.parametrize("fusion, branches", [("low", 1), ("high", 1), ("add", 2)])
    def test_other_fusions(self, fusion: str, branches: int) -> None:
        look = mrm_keras.explain.attention_network(mrm(fusion=fusion).network)
        answers, weights = look(np.ones((1, MRM_LENGTH, 12), np.float32))
        assert list(answers) == ["diagnosis"] and len(weights) == 2 * branches


# --- Command -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_a_page_for_each_recording(tmp_path: Path) -> None:
    from ecg_keras.prediction.command import main

    keras.saving.save_model(mrm(4).network, tmp_path / "model.keras")
    write_wfdb(tmp_path / "records", "A1", sine_leads(2500))
    main(
        models=(str(tmp_path / "model.keras"),),
        records=tmp_path / "records",
        out=tmp_path / "out",
        explain=True,
    )
    (page,) = (tmp_path / "out" / "explained").iterdir()
    assert page.name == "A1.html"
    text = page.read_text()
    assert "<title>A1: " in text and text.count("data:image/png;base64,") >= 6
