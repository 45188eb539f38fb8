"""Command ``python -m benchmarks.least_threshold``: compare bounds on the thresholds of classes."""

from pathlib import Path

import numpy as np

from data_prep.commands import run_command
from ecg_keras.evaluation.predictions import load_predictions
from ecg_keras.evaluation.scores import best_thresholds, macro_f1

BOUNDS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
RARE = 10
"""A class is rare if fewer validation records have it."""


def main(*, predictions: Path, draws: int = 20, seed: int = 0) -> None:
    """Choose thresholds on one half of the validation records and score them on the other.

    Prints for each bound the macro-F1, the classes found in a record, and how many of these are
    rare ones that the record does not have, as the mean over both halves of all draws.

    Args:
        predictions: validation.npz of a finished training.
        draws: how often the records are halved.
        seed: seed of the draws.
    """
    answers = load_predictions(predictions)
    assert answers.labels is not None
    labels, probabilities = answers.labels, answers.probabilities
    rare = labels.sum(axis=0) < RARE
    random = np.random.default_rng(seed)
    halves = random.random((draws, len(labels))) < 0.5
    print("least threshold  macro-F1  found a record  of these rare and wrong")
    for bound in BOUNDS:
        scores = []
        for chosen in (*halves, *~halves):
            best = best_thresholds(labels[chosen], probabilities[chosen], least=bound)
            found, truth = probabilities[~chosen] >= best, labels[~chosen] > 0
            wrong = (found & ~truth)[:, rare].sum(axis=1).mean()
            scores.append((macro_f1(truth, found), found.sum(axis=1).mean(), wrong))
        f1, found_a_record, rare_and_wrong = np.mean(scores, axis=0)
        print(f"{bound:15g}  {f1:8.4f}  {found_a_record:14.2f}  {rare_and_wrong:23.3f}")
    print(f"{labels.sum(axis=1).mean():.2f} classes a record; {rare.sum()} of them are rare.")


if __name__ == "__main__":
    run_command(main)
