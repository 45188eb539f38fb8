"""Command ``ecg-predict``: predict from recordings with trained networks."""

from pathlib import Path
from typing import Literal

from data_prep.commands import run_command
from data_prep.errors import OptionError


def main(
    *,
    models: tuple[str, ...] = (),
    pretrained: tuple[str, ...] = (),
    out: Path | None = None,
    records: Path | None = None,
    csv: Path | None = None,
    store: Path | None = None,
    fold: int | None = None,
    batch_size: int = 64,
    fs: float | None = None,
    unit: Literal["mV", "uV", "V", "nV"] | None = None,
    explain: bool = False,
    format: Literal["names", "cpsc2018"] | None = None,
    list_pretrained: bool = False,
) -> None:
    """Predict from recordings with one network or the mean of several.

    Prints a table of the answers, and writes OUT/answers.csv, probabilities.csv, predictions.npz,
    rejected.csv and warnings.csv; those of an earlier run are overwritten.
    Recordings may have any rate, length and lead order: each is converted to what the model file
    specifies, so that different networks for the same classes can form an ensemble.
    A warning is printed if a recording trained a model or selected its epoch and thresholds.
    Formats: WFDB, CPSC 2018's MATLAB structs, CSV, NumPy, EDF, DICOM, SCP-ECG, GE MUSE, HL7 aECG.

    Args:
        models: best.keras files or quoted patterns, such as 'runs/cpsc/fold_*/best.keras'.
        pretrained: names of published models, such as mrm-net-ptbxl-all; downloaded if they are not
            part of this installation.
        out: folder for the answers only.
        records: folder of recordings, or one recording.
        csv: table with a column Recording that selects recordings of the folder; by default all
            are used.
        store: store made by ecg-build, instead of --records; its rate must be that of the models.
        fold: fold of the store to predict, such as 10, the test fold of PTB-XL; the labels are
            shown beside the answers and included in predictions.npz, so that ecg-evaluate needs no
            other source.
        batch_size: recordings per batch.
        fs: sampling rate in Hz of recordings that do not state it, such as arrays; in a folder,
            others keep theirs.
        unit: unit of recordings that do not state it, such as tables; in a folder, others keep
            theirs; by default mV if the values are plausible in mV.
        explain: also write OUT/explained/NAME.html for each recording: the ECG, what the networks
            attended to, and which parts made each class probable. Takes some seconds per recording
            and model, and 1 to 3 MB per recording. The answers are written before the pages.
        format: format of answers.csv: names gives class names, probabilities and thresholds;
            cpsc2018 gives the challenge's Recording,Result with one class number, 1 to 9. The
            default is names, or cpsc2018 if --csv has the challenge's columns and the models its
            task.
        list_pretrained: list the published models, and exit.
    """
    from ecg_keras.model.pretrained import pretrained_file, pretrained_models

    if list_pretrained:
        for model in pretrained_models().values():
            print(f"{model.name}: {model.description}")
        return
    if not models and not pretrained:
        raise OptionError(
            "no model is named; give model files with --models, or --pretrained NAME."
        )
    if out is None:
        raise OptionError("no folder is named for the answers; give one with --out.")
    from ecg_keras.prediction.predict import predict

    predict(
        models=(*models, *(str(pretrained_file(name)) for name in pretrained)),
        out=out,
        batch_size=batch_size,
        records=records,
        csv_file=csv,
        store=store,
        fold=fold,
        fs=fs,
        unit=unit,
        explain=explain,
        form=format,
    )


def command() -> None:
    """Run ``ecg-predict``, also under the names ``mlbf-predict`` and ``mrm-predict``."""
    run_command(main)


if __name__ == "__main__":
    command()
