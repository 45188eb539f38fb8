"""The file of predictions comes back as it was written, and what is no such file is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import PredictionsError
from ecg_keras.evaluation.predictions import (
    Predictions,
    averaged,
    load_predictions,
    pooled,
    save_predictions,
)
from ecg_keras.model.origin import ModelFacts


@pytest.fixture
def predictions() -> Predictions:
    members = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    return Predictions(
        ids=np.array(["A0001", "Å2", "A0003"]),
        class_names=("Normal", "AF", "I-AVB", "LBBB"),
        probabilities=members.mean(axis=0),
        members=members,
        thresholds=np.array([0.5, 0.25, 0.125, 1.0]),
        single_label=True,
        network="MLBF-Net",
        task="own",
        labels=np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]),
        first_labels=np.array([0, 3, -1]),
        seen=np.array([2, 0, -1]),
        dataset="cpsc2018",
        models=(ModelFacts("best.keras", "0.1.0", trained=1), ModelFacts(score=0.5)),
    )


def save_changed(path: Path, predictions: Predictions, name: str, value: np.ndarray) -> None:
    """Write a file of predictions with another array in it."""
    save_predictions(path, predictions)
    with np.load(path) as arrays:
        content = {**arrays, name: value}
    np.savez(path, **content)


class TestRoundTrip:
    def test_everything_comes_back(self, predictions: Predictions, tmp_path: Path) -> None:
        path = tmp_path / "new" / "predictions.npz"
        save_predictions(path, predictions)
        loaded = load_predictions(path)
        for name, value in vars(predictions).items():
            found = getattr(loaded, name)
            assert type(found) is type(value), name
            np.testing.assert_array_equal(found, value)
        assert loaded.probabilities.dtype == np.float32
        assert loaded.labels is not None and loaded.labels.dtype == np.uint8
        assert list(path.parent.iterdir()) == [path]

    def test_without_labels(self, predictions: Predictions, tmp_path: Path) -> None:
        save_predictions(tmp_path / "p.npz", replace(predictions, labels=None, first_labels=None))
        loaded = load_predictions(tmp_path / "p.npz")
        assert loaded.labels is None and loaded.first_labels is None

    def test_answers_are_the_most_probable_classes(self, predictions: Predictions) -> None:
        expected = [max(range(4), key=lambda c: row[c]) for row in predictions.probabilities]
        assert predictions.answers.tolist() == expected

    def test_same_predictions_same_bytes(self, predictions: Predictions, tmp_path: Path) -> None:
        save_predictions(tmp_path / "a.npz", predictions)
        save_predictions(tmp_path / "b.npz", predictions)
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()

    def test_a_rounding_above_one_is_fine(self, predictions: Predictions) -> None:
        above = np.nextafter(np.float32(1), np.float32(2))
        assert replace(predictions, probabilities=np.full((3, 4), above)).probabilities.max() > 1


class TestTogether:
    def test_each_record_keeps_what_its_own_models_saw(self, predictions: Predictions) -> None:
        """Folds of a cross-validation trained each other's models and none of their own."""
        other = replace(
            predictions,
            ids=np.array(["B1", "B2", "B3"]),
            seen=np.zeros(3),
            models=(ModelFacts("other.keras", score=0.5),),
        )
        joined = pooled([replace(predictions, seen=np.zeros(3)), other])
        assert joined.seen is not None and joined.seen.tolist() == [0] * 6
        assert joined.overlap() == () and len(joined.models) == 3
        assert joined.dataset == "cpsc2018"
        assert pooled([predictions, replace(other, dataset="")]).dataset == ""
        assert pooled([predictions, replace(other, seen=None)]).seen is None

    def test_an_ensemble_has_seen_what_any_member_has(self, predictions: Predictions) -> None:
        other = replace(predictions, seen=np.array([0, 1, 0]), models=())
        together = averaged([predictions, other])
        assert together.seen is not None and together.seen.tolist() == [2, 1, -1]
        assert together.models == predictions.models
        unknown = averaged([other, replace(other, seen=None)])
        assert unknown.seen is not None and unknown.seen.tolist() == [-1, 1, -1]


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "trouble"),
        [
            ({"probabilities": np.zeros((2, 4))}, "probabilities has the shape"),
            ({"members": np.zeros((3, 4))}, "members has the shape"),
            ({"members": np.zeros((0, 3, 4))}, "no member"),
            ({"thresholds": np.zeros(3)}, "thresholds has the shape"),
            ({"labels": np.zeros((3, 3))}, "labels has the shape"),
            ({"labels": np.full((3, 4), 2)}, "other than 0 and 1"),
            ({"first_labels": np.array([0, 1, 4])}, "outside -1..3"),
            ({"seen": np.array([0, 1, 3])}, "seen holds numbers outside -1..2"),
            ({"seen": np.array([0, 1])}, "seen has the shape"),
            ({"probabilities": np.full((3, 4), np.nan)}, "not between 0 and 1"),
            ({"probabilities": np.full((3, 4), 1.5)}, "not between 0 and 1"),
            ({"ids": np.array(["a", "b", "a"])}, "record a occurs more than once"),
            ({"class_names": ("a", "b", "c", "a")}, "'a' looks like the class 'a'"),
            ({"class_names": ("a", "b", "c", "d\x1b[2J")}, "class name .* control"),
            ({"class_names": ("a", "b", "c", "A")}, "looks like the class 'a'"),
            ({"ids": np.array(["a", "b", "c\x1b]0;x\a"])}, "record name .* control"),
            ({"network": "A\nwarning: none"}, "network name .* line breaks"),
            ({"task": "cpsc2018"}, "the classes of cpsc2018 are Normal, AF"),
            ({"task": "\u202eA"}, "task name .* control"),
        ],
    )
    def test_what_does_not_fit(
        self, predictions: Predictions, changes: dict[str, object], trouble: str
    ) -> None:
        with pytest.raises(PredictionsError, match=trouble):
            replace(predictions, **changes)  # type: ignore[arg-type]

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(PredictionsError, match="nothing.npz is absent"):
            load_predictions(tmp_path / "nothing.npz")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(PredictionsError, match="is a folder"):
            load_predictions(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"Recording,Result\nA0001,5\n", b"PK\x03\x04 broken"])
    def test_no_npz(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "p.npz"
        path.write_bytes(content)
        with pytest.raises(PredictionsError, match="p.npz cannot be read as a file of predictions"):
            load_predictions(path)

    def test_bare_array(self, tmp_path: Path) -> None:
        path = tmp_path / "p.npz"
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
        with pytest.raises(PredictionsError, match="cannot be read"):
            load_predictions(path)

    def test_other_arrays(self, tmp_path: Path) -> None:
        path = tmp_path / "p.npz"
        np.savez(path, ids=np.array(["a"]), x=np.zeros(3))
        with pytest.raises(PredictionsError, match="holds no class_names, probabilities"):
            load_predictions(path)

    def test_pickled_objects(self, predictions: Predictions, tmp_path: Path) -> None:
        path = tmp_path / "p.npz"
        save_changed(path, predictions, "ids", np.array(["a", None, {}], dtype=object))
        with pytest.raises(PredictionsError, match="p.npz cannot be read"):
            load_predictions(path)

    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("thresholds", np.array(["a", "b", "c", "d"]), "thresholds holds no numbers"),
            ("labels", np.full((3, 4), 257), "labels holds numbers that uint8 cannot"),
            ("labels", np.full((3, 4), 0.5), "labels holds numbers that uint8 cannot"),
            ("first_labels", np.full(3, 65536), "first_labels holds numbers that int16 cannot"),
            ("first_labels", np.array([1, 3, -1]), "first_labels are not among the labels"),
            ("seen", np.full(3, 258), "seen holds numbers that int8 cannot"),
            ("single_label", np.array("False"), "single_label is not one truth value"),
            ("single_label", np.array(2), "single_label is not one truth value"),
            ("single_label", np.array([True]), "single_label is not one truth value"),
            ("task", np.array(["a", "b"]), "task is not one text"),
            ("models", np.array(["[" * 50_000]), ".*holds arrays of another kind"),
            ("models", np.array(['{"trained": "x"}']), ".*holds arrays of another kind"),
            ("members", np.full((2, 3, 4), 0.5), "members do not average to probabilities"),
            ("probabilities", np.full((3, 4), 1e300), "probabilities holds numbers that are not"),
        ],
    )
    def test_what_would_be_silently_wrong(
        self, predictions: Predictions, tmp_path: Path, name: str, value: np.ndarray, sentence: str
    ) -> None:
        path = tmp_path / "p.npz"
        save_changed(path, predictions, name, value)
        with pytest.raises(PredictionsError, match=f"p.npz:? {sentence}"):
            load_predictions(path)

    def test_every_truncation_and_damage(self, predictions: Predictions, tmp_path: Path) -> None:
        """Whatever is cut off or overwritten: our own exception, or the same predictions."""
        path = tmp_path / "p.npz"
        save_predictions(path, predictions)
        whole = path.read_bytes()
        damaged = [whole[:length] for length in range(0, len(whole), 97)]
        for at in range(0, len(whole) - 4, 61):
            damaged.append(whole[:at] + b"\xff\x00\xff\x00" + whole[at + 4 :])
        refused = 0
        for content in damaged:
            path.write_bytes(content)
            try:
                loaded = load_predictions(path)
            except PredictionsError as error:
                assert str(path) in str(error)
                refused += 1
            else:
                np.testing.assert_array_equal(loaded.members, predictions.members)
        assert refused > len(damaged) / 2
