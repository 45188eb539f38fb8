"""European Data Format: EDF and BDF."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files import opened
from data_prep.readers.leads import leads_of
from data_prep.readers.record import Tracing, library, require_values, unreadable, years_between


def read_edf(path: Path, *, bdf: bool = False) -> Tracing:
    """Read a European Data Format file (EDF, EDF+C), or its 24-bit form BDF, with edfio.

    Args:
        path: of the file.
        bdf: whether it is a BDF file.

    Raises:
        RecordError: if it is damaged, has gaps (EDF+D), or its leads differ in rate.
    """
    edfio = library("edfio", path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # header irregularities that do not affect samples
            edf = (edfio.read_bdf if bdf else edfio.read_edf)(path, header_encoding="latin-1")
        if edf.reserved.startswith(("EDF+D", "BDF+D")):
            raise ValueError("it has gaps: it is discontinuous, EDF+D")
        _require_edf_size(path, sample_bytes=3 if bdf else 2)
        if not edf.is_continuous:
            raise ValueError("it has gaps: its data records do not follow one another in time")
        leads = leads_of([signal.label for signal in edf.signals])
        signals = [signal for signal, lead in zip(edf.signals, leads, strict=True) if lead]
        rates = {signal.sampling_frequency for signal in signals}
        if len(rates) > 1:
            raise ValueError(f"its leads have different rates, {min(rates):g} to {max(rates):g} Hz")
        for signal in signals:
            _require_calibrated(signal)
        values = np.stack([s.data for s in signals], axis=1) if signals else np.empty((0, 0))
        return Tracing(
            names=tuple(signal.label for signal in signals),
            values=values.astype(np.float64),
            units=tuple(signal.physical_dimension for signal in signals),
            fs=float(rates.pop()) if rates else math.nan,
            age=years_between(
                _edf_field(edf.patient, "birthdate"), _edf_field(edf.recording, "startdate")
            ),
            sex=_edf_field(edf.patient, "sex") or "",
        )
    except Exception as error:  # whatever the error, this file is not readable
        raise unreadable(path, "EDF", error) from error


def _require_edf_size(path: Path, *, sample_bytes: int) -> None:
    """Reject a file with lost or duplicated bytes: later samples would be in other leads."""
    with opened(path) as file:
        head = file.read(256)
        num_records, num_signals = int(head[236:244]), int(head[252:256])
        file.seek(256 + num_signals * 216)
        samples = sum(int(file.read(8)) for _ in range(num_signals))
    require_values(num_records * samples, path)
    stated = 256 * (num_signals + 1) + num_records * samples * sample_bytes
    if path.stat().st_size != stated:
        raise ValueError(f"it has {path.stat().st_size} bytes and not the {stated} of its header")


def _require_calibrated(signal: Any) -> None:
    """Reject a signal without calibration, which edfio would return in raw units."""
    physical = signal.physical_max - signal.physical_min
    if signal.digital_max <= signal.digital_min or not math.isfinite(physical) or physical == 0:
        raise ValueError(
            f"{signal.label} is not calibrated: its physical or digital minimum and maximum are"
            " equal or no range"
        )


def _edf_field(of: Any, name: str) -> Any:
    # Plain EDF headers have free text instead of the fields of EDF+.
    try:
        return getattr(of, name)
    except Exception:
        return None
