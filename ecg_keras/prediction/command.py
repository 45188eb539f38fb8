"""Command: from trained networks and recordings to answers."""

from pathlib import Path
from typing import Literal

from data_prep.commands import run_command


def main(
    *,
    models: tuple[str, ...],
    out: Path,
    records: Path | None = None,
    csv: Path | None = None,
    store: Path | None = None,
    fold: int | None = None,
    batch_size: int = 64,
    fs: float | None = None,
    unit: Literal["mV", "uV", "V", "nV"] | None = None,
    explain: bool = False,
    format: Literal["names", "cpsc2018"] | None = None,
) -> None:
    """Answer for recordings with one network or the mean of several.

    Prints a table of the answers, and writes OUT/answers.csv, probabilities.csv, predictions.npz,
    rejected.csv and warnings.csv, which replace an earlier run's as a whole.
    Recordings may have any rate, length and lead order: each model file says what it needs, so
    that different networks for the same classes can answer together.
    If a recording trained a model, or chose its epoch and thresholds, a warning says so.
    Read are WFDB, CPSC 2018's structs, CSV, NumPy, EDF, DICOM, SCP-ECG, GE MUSE and HL7 aECG.

    Args:
        models: best.keras files or quoted patterns, such as 'runs/cpsc/fold_*/best.keras'.
        out: folder for the answers, of their own.
        records: folder of recordings, or one recording.
        csv: table with a column Recording that chooses recordings of the folder; by default all
            of the folder are answered.
        store: store made by ecg-build, instead of --records; its rate must be the models'.
        fold: fold of the store whose records are answered, such as PTB-XL's test fold, 10; their
            labels go into predictions.npz, so that ecg-evaluate needs no other source.
        batch_size: recordings at a time.
        fs: sampling rate in Hz of recordings that state none, such as arrays.
        unit: of recordings that state none, such as tables; by default they are taken for mV if
            their values can be.
        explain: also write OUT/explained/NAME.html for each recording: the ECG, what the networks
            looked at, and what made the answer probable. Takes some seconds a recording and
            model.
        format: of answers.csv: names, with probabilities and thresholds; or cpsc2018, the
            challenge's Recording,Result with one number, 1 to 9. By default names, but cpsc2018 if
            --csv has the challenge's columns and the models its task.
    """
    from ecg_keras.prediction.ensemble import predict

    predict(
        models=models,
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
