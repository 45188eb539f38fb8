"""A network behind scikit-learn's interface, on the smallest of sizes."""

from typing import Any

import numpy as np
import pytest
from make_records import sine_leads
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from whole_networks import layer_by_layer

from data_prep.errors import OptionError, RecordError
from data_prep.store import Store
from ecg_keras import ECGClassifier
from ecg_keras.training.settings import Run, Settings, Validation
from mrm_keras.train import MRMNet

pytestmark = pytest.mark.usefixtures("undrawn_curves")

SMALL = {"input_length": 100, "low_channels": 8, "high_channels": 16, "batch_size": 8}
FS = 100


def small(**changes: Any) -> ECGClassifier:
    return ECGClassifier(**{"epochs": 2, "folds": 2, "fs": FS, "options": SMALL, **changes})


def recordings(count: int) -> tuple[list[np.ndarray], list[str]]:
    """Recordings of two classes; the one is three times as large as the other."""
    labels = ["large" if i % 2 else "small" for i in range(count)]
    signals = [sine_leads(150, fs=FS, seed=i) * (3 if i % 2 else 1) for i in range(count)]
    return signals, labels


def test_it_is_an_estimator() -> None:
    model = small(seed=3)
    assert is_classifier(model)
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(network="BranchNet", epochs=1).get_params()["network"] == "BranchNet"
    with pytest.raises(NotFittedError):
        model.predict(recordings(1)[0])


def test_it_trains_on_each_recording_with_its_own_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """And as the options say; other lengths than the network's are left to the training."""
    signals, labels = recordings(6)[0], ["b", "a", "a", "c", "b", "c"]
    seen: list[Any] = []

    def look(run: Run, validation: Validation, network: MRMNet, training: Settings) -> None:
        seen.extend((validation.test_fold, network, training))
        with Store(run.store) as store:
            names, encoded = store.class_names("labels"), store.labels("labels")
            assert names == ("a", "b", "c") and encoded.sum() == 6
            assert [names[row.argmax()] for row in encoded] == labels
            assert [names[first] for first in store.first_labels("labels")] == labels
            for i, signal in enumerate(signals):
                np.testing.assert_allclose(store.signal(i), signal, atol=2e-3)
            assert sorted(set(store.folds)) == [1, 2]
        raise KeyboardInterrupt

    monkeypatch.setattr("ecg_keras.prediction.classifier.train_folds", look)
    with pytest.raises(KeyboardInterrupt):
        small(seed=3).fit(signals, labels)
    network = MRMNet(input_length=100, low_channels=8, high_channels=16)
    assert seen == [None, network, Settings(epochs=2, batch_size=8, seed=3)]


@layer_by_layer()
def test_cross_validation_over_a_list_of_recordings() -> None:
    signals, labels = recordings(12)
    scores = cross_val_score(small(epochs=1), signals, labels, cv=2, error_score="raise")
    assert scores.shape == (2,) and np.isin(scores * 6, range(7)).all()


@layer_by_layer()
def test_predictions_are_those_of_the_trained_model() -> None:
    """With numbers as labels."""
    signals, names = recordings(8)
    labels = [3, 7]
    given = [7 if name == "large" else 3 for name in names]
    network = {"input_length": 250, "filters": 2, "gru_units": 2, "batch_size": 8}
    model = small(network="BranchNet", epochs=1, options=network).fit(signals, given)
    assert model.classes_.tolist() == labels
    probabilities = model.predict_proba(signals)
    assert probabilities.shape == (8, 2) and np.allclose(probabilities.sum(axis=1), 1)
    as_objects = np.empty(8, object)
    as_objects[:] = signals
    np.testing.assert_array_equal(model.predict_proba(as_objects), probabilities)
    answers = model.models_.predict_records(signals, fs=FS)
    for row, found, answer in zip(probabilities, model.predict(signals), answers, strict=True):
        of_answer = answer.probabilities
        assert row == pytest.approx([of_answer[str(label)] for label in labels], abs=1e-6)
        assert str(found) == max(of_answer, key=of_answer.__getitem__)
    with pytest.raises(RecordError, match="2: array is not a recording"):
        model.predict([signals[0], signals[1][:, :7]])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network": "fcn_wang"}, "no installed package trains 'fcn_wang'"),
        ({"network": "Nobody"}, "no installed package trains 'Nobody'"),
        ({"folds": 12}, "folds must be 2 to 10, not 12"),
        ({"epochs": 0}, "--epochs must be above 0"),
        ({"fs": None}, "an array does not state its sampling rate"),
    ],
)
def test_what_cannot_be_used_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        small(**changes).fit(*recordings(4))
    with pytest.raises(TypeError, match="wheels"):
        small(options={"wheels": 4}).fit(*recordings(4))
