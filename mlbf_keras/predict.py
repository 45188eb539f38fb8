"""Command: from trained MLBF-Nets and recordings to answers."""

from pathlib import Path

from data_prep.commands import run_command


def main(
    *,
    models: tuple[str, ...],
    records: Path,
    out: Path,
    csv: Path | None = None,
    batch_size: int = 64,
) -> None:
    """Answer for recordings with one MLBF-Net or the mean of several.

    Writes OUT/predictions.npz, probabilities.csv, answers.csv and rejected.csv.  Recordings may
    have any rate, length and lead order: each model file says what it needs.

    Args:
        models: best.keras files or quoted patterns, such as 'runs/cpsc/fold_*/best.keras'.
        records: folder of recordings, or one recording.
        out: folder for the answers.
        csv: table with a column Recording that chooses recordings of the folder; by default all
            of the folder are answered.
        batch_size: recordings at a time.
    """
    from data_prep.prediction import predict
    from mlbf_keras.model import load_model

    predict(
        load_model, models=models, csv_file=csv, records=records, out=out, batch_size=batch_size
    )


def command() -> None:
    """Run ``mlbf-predict``."""
    run_command(main)


if __name__ == "__main__":
    command()
