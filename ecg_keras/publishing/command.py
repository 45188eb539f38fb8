"""Command ``ecg-publish``: a small model file with its model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.commands import run_command
from data_prep.errors import ModelFileError, OptionError
from data_prep.files import sha256_of, written_as_one

if TYPE_CHECKING:
    import numpy as np

    from ecg_keras.evaluation.predictions import Predictions
    from ecg_keras.model.model_files import ECGModel

MOST_CHANGE = 0.0005
"""Change of the validation macro-AUC up to which the weights are stored in half precision."""


def main(
    *,
    model: Path,
    name: str,
    store: Path,
    trained_by: str,
    out: Path = Path("pretrained"),
    validation_fold: int = 9,
    test_fold: int = 10,
    bootstrap: int = 1000,
) -> None:
    """Prepare a trained model for publication.

    Writes OUT/NAME.keras, without the optimiser, with thresholds refitted on the validation
    fold, and with weights in half precision if that leaves the validation macro-AUC as it is, and
    its model card OUT/NAME.md: data, licence, training, scores with intervals for each class,
    calibration, thresholds, use and misuse.  Also prints the line to add to the list of
    published models.  Hyphens in NAME become underscores in the file names.

    Args:
        model: best.keras in the folder of its training.
        name: name of the published model, such as mrm-net-ptbxl-all.
        store: store that it was trained on.
        trained_by: the command that trained it, for the card.
        out: folder for the model file and its card.
        validation_fold: fold that chose the epoch; chooses the thresholds and shows whether half
            precision is enough.
        test_fold: fold to score; the model must not have seen it.
        bootstrap: number of bootstrap resamples for the 95 % intervals.
    """
    from data_prep.store import Store
    from ecg_keras.evaluation.report import score_predictions
    from ecg_keras.evaluation.scores import best_thresholds, macro_auc
    from ecg_keras.model.model_files import load_model, save_model, set_thresholds
    from ecg_keras.model.origin import CHOSE, UNKNOWN, UNSEEN
    from ecg_keras.model.pretrained import file_name
    from ecg_keras.prediction.ensemble import fold_of_store, predict_store
    from ecg_keras.publishing.card import Training, write_card

    if bootstrap < 1:
        raise OptionError(f"--bootstrap must be at least 1, not {bootstrap}; 1000 is usual.")
    file = file_name(name)
    card = Path(file).with_suffix(".md").name
    training = Training.of(model.parent)
    full = load_model(model)
    with (
        written_as_one(out, names=(file, card), inputs=(model, store)) as folder,
        Store(store) as opened,
    ):
        choosing, scored = (
            fold_of_store(opened, contract=full.contract, fold=fold)
            for fold in (validation_fold, test_fold)
        )
        seen = full.seen(opened.ids.tolist(), opened.dataset)
        if (seen[scored] > UNSEEN).any():
            raise OptionError(
                f"{model} has seen records of fold {test_fold}, so it cannot be scored there; give"
                " with --test-fold the fold that was left out of its training."
            )
        if (seen[scored] == UNKNOWN).any():
            raise OptionError(
                f"{model} does not name all records that trained it, so nobody knows whether fold"
                f" {test_fold} did; train it again, without --init or from a model that names them."
            )
        if (seen[choosing] != CHOSE).any():
            raise OptionError(
                f"records of fold {validation_fold} did not choose the epoch of {model}, or trained"
                " it or the model of its --init; give with --validation-fold the fold that chose"
                " its epoch and nothing else."
            )

        def predict(each: ECGModel, rows: np.ndarray) -> Predictions:
            return predict_store(each, opened, rows, batch_size=64)["diagnosis"]

        def validation(each: ECGModel) -> tuple[np.ndarray, np.ndarray]:
            answers = predict(each, choosing)
            assert answers.labels is not None
            return answers.labels, answers.probabilities

        path = folder / file
        in_full = validation(full)
        set_thresholds(full.network, best_thresholds(*in_full))
        before = macro_auc(*in_full)
        try:
            save_model(full.network, path, half=True)
        except ModelFileError:
            keep, remark = False, "The weights are stored in full: half precision cannot hold them."
        else:
            after = macro_auc(*validation(load_model(path)))
            keep = abs(after - before) <= MOST_CHANGE
            remark = (
                "The weights are stored in half precision; the macro-AUC on the validation records"
                f" is {after:.5f} with them and {before:.5f} with the weights in full."
                if keep
                else "The weights are stored in full: in half precision they would change the"
                f" macro-AUC on the validation records from {before:.5f} to {after:.5f}."
            )
        if not keep:
            save_model(full.network, path)
        published = load_model(path)
        result = score_predictions(
            predict(published, scored),
            path=path,
            name=name,
            labels_from=f"fold {test_fold} of the data set",
            resamples=bootstrap,
        )
        text = write_card(
            name,
            result=result,
            contract=published.contract,
            training=training,
            trained_by=trained_by,
            parameters=published.network.count_params(),
            megabytes=path.stat().st_size / 1e6,
            remark=remark,
        )
        (folder / card).write_text(text, encoding="utf-8")
        digest = sha256_of(path)
    auc = result.values["macro_auc"]
    contract = published.contract
    print(f"{out / file}\n{out / card}")
    print("The line for the list of published models:")
    print(
        f"{name},{digest},{contract.network} for {contract.task} ({len(contract.class_names)}"
        f" classes) trained on {full.facts.dataset}; macro-AUC {auc:.4f} on fold {test_fold}"
    )


def command() -> None:
    """Run ``ecg-publish``."""
    run_command(main)


if __name__ == "__main__":
    command()
