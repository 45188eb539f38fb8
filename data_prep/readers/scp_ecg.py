"""SCP-ECG, the standard of European electrocardiographs."""

import math
import warnings
from pathlib import Path

import numpy as np

from data_prep.readers.record import Tracing, library, unreadable


def read_scp(path: Path) -> Tracing:
    """Read an SCP-ECG file (EN 1064, ISO 11073-91064) with ecgdatakit.

    Args:
        path: of the file.

    Raises:
        RecordError: if it is damaged, or in a variant that ecgdatakit does not decode.
    """
    scp = library("ecgdatakit.parsing.parsers.scp_ecg", path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is checked below
            record = scp.SCPECGParser().parse(path)
        if record.raw_metadata.get("checksum_valid") is False:
            raise ValueError("its checksums are not those of its content")
        leads = [lead.to_physical() for lead in record.leads]
        if len({lead.annotations.get("start_sample", "1") for lead in leads}) > 1:
            raise ValueError("its leads were recorded one after another")
        return Tracing(
            names=tuple(lead.label for lead in leads),
            values=np.stack([lead.samples for lead in leads], axis=1).astype(np.float64),
            units=tuple(lead.units for lead in leads),
            # The parser rounds the rate, which the file stores as an interval.
            fs=1e6 / record.raw_metadata["rhythm_sample_interval_us"],
            age=math.nan if record.patient.age is None else float(record.patient.age),
            sex=record.patient.sex,
        )
    except Exception as error:  # whatever the error, this file is not readable
        raise unreadable(path, "SCP-ECG", error) from error
