"""Command ``ecg-export``: export trained networks to files that run without Keras."""

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
    fs: float | None = None,
    unit: Literal["mV", "uV", "V", "nV"] | None = None,
) -> None:
    """Export one network, or the mean of several, to run without Keras.

    Writes OUT/model.onnx, model.tflite and saved_model/.  Each maps signals in millivolts to the
    probabilities "diagnosis" and also holds rate, leads, classes and thresholds.  Each is run and
    compared with Keras; size, time per recording and largest difference are printed.

    Args:
        models: best.keras files or quoted patterns, such as 'runs/cpsc/fold_*/best.keras'.
        out: folder for the exported files only; an earlier export in it is overwritten.
        formats: which formats to write.
        records: folder of recordings, or one recording, to compare on; by default, generated
            recordings are used.
        fs: sampling rate in Hz of those --records that do not state it.
        unit: unit of those --records that do not state it.
    """
    from ecg_keras.export.export import export

    export(models=models, out=out, formats=formats, records=records, fs=fs, unit=unit)


def command() -> None:
    """Run ``ecg-export``, also under the names ``mlbf-export`` and ``mrm-export``."""
    run_command(main)


if __name__ == "__main__":
    command()
