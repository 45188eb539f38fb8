"""Scores against scikit-learn, against plain loops, and against numbers worked out by hand."""

from functools import partial

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from data_prep.errors import PredictionsError
from data_prep.labels import known_first_labels, one_hot
from ecg_keras.evaluation.scores import (
    LEAST_THRESHOLD,
    all_scores,
    best_thresholds,
    bootstrap_intervals,
    calibration,
    class_auc,
    class_average_precision,
    class_brier,
    class_f1,
    confusion_matrix,
    cpsc_scores,
    drawn_by,
    macro_auc,
    macro_f1,
    paired_bootstrap,
    patient_groups,
    per_class,
    record_f1,
    single_label_macro_f1,
)


def made_up(
    *, records: int = 300, classes: int = 9, decimals: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Labels, some records with none, and coarse probabilities that tie often."""
    random = np.random.default_rng(seed)
    labels = (random.random((records, classes)) < 0.2).astype(np.uint8)
    probabilities = 0.3 * labels + 0.7 * random.random((records, classes))
    return labels, probabilities.round(decimals).astype(np.float32)


def made_up_cpsc(*, records: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of one to three classes, which of them is first, and answers."""
    random = np.random.default_rng(seed)
    labels = np.zeros((records, 9), np.uint8)
    first_labels = np.empty(records, np.int64)
    for row in range(records):
        chosen = random.permutation(9)[: random.integers(1, 4)]
        labels[row, chosen], first_labels[row] = 1, chosen[0]
    answers = np.where(random.random(records) < 0.5, first_labels, random.integers(0, 9, records))
    return labels, first_labels, answers


class TestCalibration:
    def test_bins_agree_with_sklearn(self) -> None:
        labels, probabilities = made_up(decimals=7)  # none on an edge, which falls to either side
        for c in range(9):
            bins = calibration(labels[:, c], probabilities[:, c])
            share, probability = calibration_curve(labels[:, c], probabilities[:, c], n_bins=10)
            np.testing.assert_allclose(bins.share, share)
            np.testing.assert_allclose(bins.probability, probability, rtol=1e-6)
            assert bins.number.sum() == 300

    def test_error_by_hand(self) -> None:
        # Two in the bin of 0.1, of which none is true, and two in the bin of 0.8, of which one is.
        bins = calibration(np.array([0, 0, 1, 0]), np.array([0.1, 0.12, 0.8, 0.84]))
        np.testing.assert_allclose(bins.share, [0, 0.5])
        assert bins.error == pytest.approx((2 * 0.11 + 2 * (0.82 - 0.5)) / 4)

    def test_bounds(self) -> None:
        assert calibration(np.array([1, 0]), np.array([1.0, 0.0])).error == 0
        with pytest.raises(PredictionsError, match="not a number"):
            calibration(np.array([1]), np.array([np.nan]))

    def test_brier_agrees_with_sklearn(self) -> None:
        labels, probabilities = made_up()
        expected = [
            metrics.brier_score_loss(y, p) for y, p in zip(labels.T, probabilities.T, strict=True)
        ]
        np.testing.assert_allclose(class_brier(labels, probabilities), expected, rtol=1e-6)
        values = all_scores(
            labels, None, probabilities, thresholds=np.full(9, 0.5), single_label=False, cpsc=False
        )
        assert values["brier_score"][0] == pytest.approx(np.mean(expected), rel=1e-6)

    def test_one_answer_is_held_against_the_first_label(self) -> None:
        labels, first_labels, _ = made_up_cpsc()
        probabilities = np.random.default_rng(1).dirichlet(np.ones(9), 300)
        values = all_scores(
            labels, first_labels, probabilities,
            thresholds=np.full(9, 0.5), single_label=True, cpsc=True,
        )  # fmt: skip
        expected = class_brier(one_hot(first_labels, 9), probabilities).mean()
        assert values["brier_score"][0] == pytest.approx(expected)


class TestClasses:
    def test_agree_with_sklearn(self) -> None:
        labels, probabilities = made_up()
        predicted = (probabilities >= 0.5).astype(np.uint8)
        precision, recall, f1, support = metrics.precision_recall_fscore_support(
            labels, predicted, zero_division=0
        )
        scored = per_class(labels, predicted)
        np.testing.assert_allclose(scored.precision, precision)
        np.testing.assert_allclose(scored.recall, recall)
        of_absence = metrics.recall_score(1 - labels, 1 - predicted, average=None)
        np.testing.assert_allclose(scored.specificity, of_absence)
        np.testing.assert_allclose(scored.f1, f1)
        np.testing.assert_array_equal(scored.support, support)
        np.testing.assert_allclose(class_f1(labels, predicted), f1)
        assert macro_f1(labels, predicted) == pytest.approx(np.mean(f1))
        np.testing.assert_allclose(
            class_auc(labels, probabilities),
            metrics.roc_auc_score(labels, probabilities, average=None),
        )
        assert macro_auc(labels, probabilities) == pytest.approx(
            metrics.roc_auc_score(labels, probabilities, average="macro")
        )
        np.testing.assert_allclose(
            class_average_precision(labels, probabilities),
            metrics.average_precision_score(labels, probabilities, average=None),
        )

    def test_single_label_macro_f1_agrees_with_sklearn(self) -> None:
        _, first_labels, _ = made_up_cpsc()
        _, probabilities = made_up()
        expected = metrics.f1_score(first_labels, probabilities.argmax(axis=1), average="macro")
        assert single_label_macro_f1(first_labels, probabilities) == pytest.approx(expected)

    def test_single_label_macro_f1_counts_an_absent_class_as_zero(self) -> None:
        """Classes 0 and 1 are all right, class 2 is neither true nor answered: 2/3."""
        probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
        assert single_label_macro_f1(np.array([0, 1]), probabilities) == pytest.approx(2 / 3)

    def test_macro_auc_leaves_out_classes_that_all_or_none_have(self) -> None:
        labels = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1]])
        probabilities = np.array([[0.9, 0.1, 0.5], [0.5, 0.2, 0.5], [0.4, 0.3, 0.5]])
        # One of the two pairs of a positive and a negative stands in the right order.
        np.testing.assert_array_equal(class_auc(labels, probabilities), [0.5, np.nan, np.nan])
        assert macro_auc(labels, probabilities) == 0.5
        assert np.isnan(macro_auc(labels[:, 1:], probabilities[:, 1:]))
        assert np.isnan(class_average_precision(labels, probabilities)[1])

    def test_a_class_that_is_nowhere_scores_zero(self) -> None:
        nothing = np.zeros((4, 2), np.uint8)
        assert macro_f1(nothing, nothing) == 0

    def test_confusion_matrix(self) -> None:
        truth, answers = np.array([0, 0, 0, 1]), np.array([0, 1, 0, 1])
        matrix = confusion_matrix(truth, answers, num_classes=3)
        np.testing.assert_array_equal(matrix, [[2, 1, 0], [0, 1, 0], [0, 0, 0]])


class TestRecords:
    def test_agree_with_sklearn(self) -> None:
        labels, probabilities = made_up()
        called = probabilities >= 0.5
        assert (labels.sum(axis=1) + called.sum(axis=1) == 0).any(), "no empty record to test"
        assert record_f1(labels, probabilities) == pytest.approx(
            metrics.f1_score(labels, called, average="samples", zero_division=0)
        )

    def test_record_f1_by_hand(self) -> None:
        """One right of two called and one true: 2/3; nothing true or called: 0; all right: 1."""
        labels = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1]])
        probabilities = np.array([[0.9, 0.5, 0.1], [0.1, 0.2, 0.49], [0.3, 0.6, 0.7]])
        assert record_f1(labels, probabilities) == pytest.approx((2 / 3 + 0 + 1) / 3)

    def test_it_is_not_macro_f1(self) -> None:
        labels, probabilities = made_up()
        assert abs(record_f1(labels, probabilities) - macro_f1(labels, probabilities >= 0.5)) > 0.01


class TestThresholds:
    @pytest.mark.parametrize("decimals", [1, 2, 7])
    def test_no_threshold_does_better(self, decimals: int) -> None:
        labels, probabilities = made_up(decimals=decimals)
        best = best_thresholds(labels, probabilities, least=0)
        fitted = class_f1(labels, probabilities >= best)
        for threshold in np.unique(probabilities):
            tried = class_f1(labels, probabilities >= threshold)
            assert (tried <= fitted + 1e-12).all()

    def test_midpoint(self) -> None:
        labels = np.array([[0], [0], [1], [1]])
        probabilities = np.array([[0.1], [0.25], [0.5], [0.9]])
        np.testing.assert_array_equal(best_thresholds(labels, probabilities), [0.375])

    def test_half_where_no_record_has_the_class(self) -> None:
        assert best_thresholds(np.zeros((3, 1)), np.array([[0.9], [0.8], [0.7]])) == 0.5

    def test_of_equal_thresholds_the_one_nearest_to_half(self) -> None:
        """From 0.1 on F1 is 2/3 and from 0.6 on as well; between them it is less."""
        labels = np.array([[1], [0], [0], [1]])
        probabilities = np.array([[0.2], [0.4], [0.5], [0.7]])
        np.testing.assert_allclose(best_thresholds(labels, probabilities), [0.6], rtol=1e-6)

    def test_none_is_below_the_least(self) -> None:
        """The record of the class is the least probable: F1 is best if every record has it."""
        labels = np.array([[1], [0], [0]])
        probabilities = np.array([[0.001], [0.002], [0.9]])
        assert best_thresholds(labels, probabilities, least=0) < 0.001
        assert best_thresholds(labels, probabilities) == np.float32(LEAST_THRESHOLD)

    def test_neighbouring_floats_stay_apart(self) -> None:
        low = np.float32(0.3)
        high = np.nextafter(low, np.float32(1))
        probabilities = np.array([[low], [high]], np.float32)
        labels = np.array([[0], [1]])
        thresholds = best_thresholds(labels, probabilities)
        np.testing.assert_array_equal(probabilities >= thresholds, [[False], [True]])
        through_python = np.array([float(thresholds[0])], np.float32)
        np.testing.assert_array_equal(probabilities >= through_python, [[False], [True]])


def looped_cpsc_scores(
    labels: np.ndarray, first_labels: np.ndarray, answers: np.ndarray
) -> dict[str, float | list[float]]:
    """The challenge's rule, written down record by record."""
    table = [[0] * 9 for _ in range(9)]
    for record, answer in enumerate(answers):
        if labels[record][answer] == 1:
            table[answer][answer] += 1
        else:
            table[first_labels[record]][answer] += 1

    def f1_of(group: list[int]) -> float:
        hits = sum(table[k][k] for k in group)
        margins = sum(sum(table[k]) + sum(row[k] for row in table) for k in group)
        return 2 * hits / margins

    each = [f1_of([k]) for k in range(9)]
    return {
        "score": sum(each) / 9,
        "f1": each,
        "AF": f1_of([1]),
        "Block": f1_of([2, 3, 4]),
        "Premature contraction": f1_of([5, 6]),
        "ST-segment change": f1_of([7, 8]),
    }


class TestCPSC:
    @pytest.mark.parametrize("seed", range(5))
    def test_agrees_with_plain_loops(self, seed: int) -> None:
        labels, first_labels, answers = made_up_cpsc(seed=seed)
        scored = cpsc_scores(labels, first_labels, answers)
        for name, expected in looped_cpsc_scores(labels, first_labels, answers).items():
            np.testing.assert_allclose(scored.pop(name), [expected])
        assert not scored

    def test_by_hand(self) -> None:
        """Nine right answers, one of them the second label, and STE taken for STD.

        STD: one right, row 1, column 2: 2/3.  STE: one right, row 2, column 1: 2/3.
        """
        first_labels = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8])
        answers = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 7])
        labels = one_hot(first_labels, 9)
        # AF comes with RBBB and RBBB is answered: right, and counted for RBBB alone.
        labels = np.vstack([labels, [[0, 1, 0, 0, 1, 0, 0, 0, 0]]])
        first_labels, answers = np.append(first_labels, 1), np.append(answers, 4)
        scored = cpsc_scores(labels, first_labels, answers)
        np.testing.assert_allclose(scored["f1"], [[1] * 7 + [2 / 3, 2 / 3]])
        assert scored["score"] == pytest.approx((7 + 4 / 3) / 9)
        assert scored["ST-segment change"] == pytest.approx(2 * 2 / (3 + 3))
        assert scored["Block"] == 1

    def test_does_not_exist_without_all_nine_classes(self) -> None:
        first_labels = np.array([0, 1])
        scored = cpsc_scores(one_hot(first_labels, 9), first_labels, first_labels)
        assert np.isnan(scored["score"])
        np.testing.assert_array_equal(scored["f1"][0, :3], [1, 1, np.nan])
        assert scored["AF"] == 1
        assert np.isnan(scored["Block"])

    def test_refuses_other_classes(self) -> None:
        with pytest.raises(PredictionsError, match="nine classes"):
            cpsc_scores(np.ones((2, 5)), np.array([0, 1]), np.array([0, 1]))


class TestAllScores:
    def score(self, counts: np.ndarray | None = None) -> dict[str, np.ndarray]:
        labels, first_labels, _ = made_up_cpsc(records=120)
        probabilities = made_up(records=120)[1]
        return all_scores(
            labels,
            first_labels,
            probabilities,
            thresholds=np.full(9, 0.4, np.float32),
            single_label=False,
            cpsc=True,
            counts=counts,
        )

    def test_a_resample_scores_as_its_records_would(self) -> None:
        """Drawing by counts equals scoring the very records drawn, by functions and by sklearn."""
        labels, first_labels, _ = made_up_cpsc(records=120)
        probabilities = made_up(records=120)[1]
        drawn = np.random.default_rng(3).integers(120, size=(4, 120))
        counts = np.array([np.bincount(rows, minlength=120) for rows in drawn])
        scored = self.score(counts)
        for resample, rows in enumerate(drawn):
            y, f, p = labels[rows], first_labels[rows], probabilities[rows]
            official = cpsc_scores(y, f, p.argmax(axis=1))
            expected = {
                "macro_f1_first_label": metrics.f1_score(f, p.argmax(axis=1), average="macro"),
                "macro_f1_thresholds": metrics.f1_score(y, p >= np.float32(0.4), average="macro"),
                "macro_f1_half": metrics.f1_score(y, p >= 0.5, average="macro"),
                "macro_auc": metrics.roc_auc_score(y, p, average="macro"),
                "record_f1": record_f1(y, p),
                "label_accuracy": 1 - metrics.hamming_loss(y, p >= 0.5),
                "brier_score": class_brier(y, p).mean(),
                **{f"cpsc_{key}": of[0] for key, of in official.items() if key != "f1"},
            }
            assert {key: scored[key][resample] for key in expected} == pytest.approx(expected)
            assert expected.keys() == scored.keys() - {"class_f1", "class_auc"}

    def test_a_class_missed_by_a_resample_is_left_out_of_its_mean(self) -> None:
        labels = np.array([[1, 0], [0, 1], [1, 0]])
        scored = all_scores(
            labels,
            None,
            labels.astype(np.float32),
            thresholds=np.array([0.5, 0.5]),
            single_label=True,
            cpsc=False,
            counts=np.array([[2, 0, 1]]),
        )
        np.testing.assert_array_equal(scored["class_f1"], [[1, np.nan]])
        assert scored["macro_f1_any_label"] == 1

    def test_first_labels_known_from_lone_labels(self) -> None:
        labels = np.array([[0, 1, 0], [1, 0, 1]])
        np.testing.assert_array_equal(known_first_labels(labels, np.array([-1, 2])), [1, 2])
        np.testing.assert_array_equal(known_first_labels(labels[:1], None), [1])
        assert known_first_labels(labels, None) is None


def resampled(
    labels: np.ndarray,
    first_labels: np.ndarray | None,
    probabilities: np.ndarray,
    counts: np.ndarray,
) -> dict[str, np.ndarray]:
    """All scores at thresholds of 0.5; of a single-label network if first labels are given."""
    return all_scores(
        labels,
        first_labels,
        probabilities,
        thresholds=np.full(labels.shape[1], 0.5),
        single_label=first_labels is not None,
        cpsc=False,
        counts=counts,
    )


class TestBootstrap:
    @staticmethod
    def accuracy(right: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
        return {"accuracy": counts @ right / len(right)}

    def test_covers_the_truth_about_as_often_as_it_says(self) -> None:
        """Of 200 samples whose true accuracy is 0.7, the interval holds it in about 95 %."""
        random = np.random.default_rng(0)
        covered = 0
        for seed in range(200):
            right = random.random(150) < 0.7
            interval = bootstrap_intervals(
                partial(self.accuracy, right), groups=np.arange(150), resamples=300, seed=seed
            )["accuracy"]
            covered += interval[0] <= 0.7 <= interval[1]
        assert 178 <= covered <= 199

    def test_width_is_that_of_the_normal_approximation(self) -> None:
        right = np.arange(2000) < 1400
        low, high = bootstrap_intervals(
            partial(self.accuracy, right), groups=np.arange(2000), resamples=4000
        )["accuracy"]
        assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 2000), rel=0.08)

    def test_seeded(self) -> None:
        labels, probabilities = made_up()

        def score(counts: np.ndarray) -> dict[str, np.ndarray]:
            return resampled(labels, None, probabilities, counts)

        first, again, other = (
            bootstrap_intervals(score, groups=np.arange(300), resamples=50, seed=seed)
            for seed in (1, 1, 2)
        )
        assert first["class_auc"].shape == (9, 2)
        np.testing.assert_array_equal(first["macro_auc"], again["macro_auc"])
        assert (first["macro_auc"] != other["macro_auc"]).any()

    def test_patients_are_drawn_with_all_their_records(self) -> None:
        """Each record three times over: as wide as for a third of the records, not narrower."""
        right = np.arange(200) < 140
        once, patients = (
            bootstrap_intervals(
                partial(self.accuracy, np.repeat(right, times)),
                groups=patient_groups(np.repeat(np.arange(200).astype(str), times), 200 * times),
                resamples=2000,
            )["accuracy"]
            for times in (1, 3)
        )
        assert np.ptp(patients) == pytest.approx(np.ptp(once), rel=0.1)
        records = bootstrap_intervals(
            partial(self.accuracy, np.repeat(right, 3)), groups=np.arange(600), resamples=2000
        )["accuracy"]
        assert np.ptp(records) < 0.7 * np.ptp(patients)

    def test_records_of_unknown_patients_are_drawn_alone(self) -> None:
        patients = np.array(["p", "", "q", "p", ""])
        np.testing.assert_array_equal(patient_groups(patients, 5), [0, 1, 2, 0, 4])
        np.testing.assert_array_equal(patient_groups(None, 3), [0, 1, 2])
        assert drawn_by(patient_groups(patients, 5)) == "patients"
        assert drawn_by(patient_groups(None, 3)) == "records"

    def test_a_score_that_never_exists_has_no_interval(self) -> None:
        intervals = bootstrap_intervals(
            lambda counts: {"none": np.full(len(counts), np.nan)}, groups=np.arange(5), resamples=10
        )
        assert np.isnan(intervals["none"]).all()

    def test_paired_is_narrower_than_apart(self) -> None:
        """Two networks that fail on the same records differ by far less than each varies."""
        random = np.random.default_rng(0)
        first = random.random(500) < 0.7
        second = first.copy()
        second[:10] = True
        low, high = paired_bootstrap(
            partial(self.accuracy, first), partial(self.accuracy, second), groups=np.arange(500)
        )["accuracy"]
        true_difference = second.mean() - first.mean()
        assert low <= true_difference <= high
        assert high - low < 0.03
        same = paired_bootstrap(
            partial(self.accuracy, first), partial(self.accuracy, first), groups=np.arange(500)
        )["accuracy"]
        np.testing.assert_array_equal(same, [0, 0])

    def test_paired_against_a_loop_over_the_records_drawn(self) -> None:
        """Both networks meet the same records, and their difference is taken draw by draw."""
        random = np.random.default_rng(4)
        truth = random.integers(3, size=80)
        answers = [
            np.where(random.random(80) < p, truth, random.integers(3, size=80)) for p in (0.3, 0.9)
        ]

        def scores(called: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
            probabilities = np.eye(3)[called]
            values = resampled(np.eye(3, dtype=int)[truth], truth, probabilities, counts)
            return {"f1": values["macro_f1_first_label"]}

        interval = paired_bootstrap(
            *(partial(scores, called) for called in answers),
            groups=np.arange(80),
            resamples=100,
            seed=9,
        )["f1"]
        differences = []
        for drawn in np.random.default_rng(9).integers(80, size=(100, 80)):
            first, second = (
                metrics.f1_score(truth[drawn], called[drawn], average="macro") for called in answers
            )
            differences.append(second - first)
        np.testing.assert_allclose(interval, np.percentile(differences, [2.5, 97.5]))
        assert interval[0] > 0  # the second is better beyond doubt

    def test_every_resample_averages_over_the_same_classes(self) -> None:
        """A class that is not drawn keeps its score over all records, even if answered falsely."""
        random = np.random.default_rng(5)
        truth = np.r_[random.integers(3, size=58), 3, 3]
        probabilities = random.random((60, 4))
        probabilities[truth == 3, 3] = 0, 1  # one of two is found
        labels, draws = np.eye(4, dtype=int)[truth], random.integers(60, size=(200, 60))
        counts = np.stack([np.bincount(drawn, minlength=60) for drawn in draws])
        scored = resampled(labels, truth, probabilities, counts)
        lacking = [drawn for drawn in draws if 3 not in truth[drawn]]
        assert 10 < len(lacking) < 190

        answers = probabilities.argmax(axis=1)
        auc_of_all = metrics.roc_auc_score(truth == 3, probabilities[:, 3])
        f1_of_all = metrics.f1_score(truth == 3, answers == 3)
        assert any((answers[drawn] == 3).any() for drawn in lacking)
        for drawn, mean_f1, mean_auc in zip(
            draws, scored["macro_f1_first_label"], scored["macro_auc"], strict=True
        ):
            f1 = metrics.f1_score(
                truth[drawn],
                answers[drawn],
                average=None,
                labels=range(4),
                zero_division=0,
            )
            f1[3] = f1[3] if 3 in truth[drawn] else f1_of_all
            assert mean_f1 == pytest.approx(f1.mean())
            auc = [
                metrics.roc_auc_score(truth[drawn] == c, probabilities[drawn, c])
                if c in truth[drawn]
                else auc_of_all
                for c in range(4)
            ]
            assert mean_auc == pytest.approx(np.mean(auc))


class TestBadInput:
    def test_shapes_that_disagree(self) -> None:
        with pytest.raises(PredictionsError, match=r"\(3, 2\).*\(3, 4\)"):
            macro_auc(np.zeros((3, 2)), np.zeros((3, 4)))

    def test_no_record(self) -> None:
        with pytest.raises(PredictionsError, match="no record"):
            record_f1(np.zeros((0, 2)), np.zeros((0, 2)))

    def test_not_a_number(self) -> None:
        probabilities = np.full((3, 2), 0.5)
        probabilities[1] = np.nan
        with pytest.raises(PredictionsError, match="1 records have a probability that is not"):
            best_thresholds(np.ones((3, 2)), probabilities)

    def test_unknown_first_label(self) -> None:
        with pytest.raises(PredictionsError, match="1 records have no class between 0 and 2"):
            single_label_macro_f1(np.array([0, -1]), np.full((2, 3), 0.3))
