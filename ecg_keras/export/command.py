"""Command: from trained networks to one file that runs without Keras."""

from pathlib import Path
from typing import Literal

from data_prep.commands import run_command

Format = Literal["onnx", "litert", "saved_model"]


def main(
    *,
    models: tuple[str, ...],
    out: Path,
    formats: tuple[Format, ...] = (
        "onnx",
        "litert",
        "saved_model",
    ),
    records: Path | None = None,
) -> None:
    """Export one network, or the mean of several, to run without Keras.

    Writes OUT/model.onnx, model.tflite and saved_model/, each from signals in millivolts to the
    probabilities "diagnosis", with rate, leads, classes and thresholds inside.  Each is run and
    compared with Keras; size, time a recording and largest difference are printed.

    Args:
        models: best.keras files or quoted patterns, such as 'runs/cpsc/fold_*/best.keras'.
        out: folder for the files, of their own; earlier exports in it are replaced as a whole.
        formats: which of them to write.
        records: recordings to compare on, a folder or one; by default generated ones.
    """
    from ecg_keras.export.export import export

    export(models=models, out=out, formats=formats, records=records)


def command() -> None:
    """Run ``ecg-export``, also under the names ``mlbf-export`` and ``mrm-export``."""
    run_command(main)


if __name__ == "__main__":
    command()
