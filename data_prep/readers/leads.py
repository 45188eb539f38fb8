"""Maps signal names to the twelve leads, and computes leads from others."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from data_prep.labels import LEADS

MILLIVOLTS = {
    "mv": 1.0,
    "millivolts": 1.0,
    "uv": 1e-3,
    "microvolts": 1e-3,
    "\N{MICRO SIGN}v": 1e-3,
    "\N{GREEK SMALL LETTER MU}v": 1e-3,
    "nv": 1e-6,
    "v": 1e3,
}
"""Millivolts per unit, by the name of the unit in lower case."""

_BY_NAME = {lead.casefold(): lead for lead in LEADS}
# Spanish, French and Portuguese devices call the limb leads derivations.
_BY_NAME |= {"di": "I", "dii": "II", "diii": "III", "d1": "I", "d2": "II", "d3": "III"}
# The names of IEC 60601-2-25 for the AHA's V1 to V6, which German devices use.
_BY_IEC = {f"c{n}": f"V{n}" for n in range(1, 7)}
_BY_NAME |= _BY_IEC
MOST_LETTERS = 100
"""Maximum length of a lead name."""
_BEFORE = re.compile(r"mdc_ecg_lead_|(?:(?:ecg|ekg|lead)[\s_.:]*)+")
_STORED = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def lead_of(name: str) -> str | None:
    """Find the lead that a name stands for.

    Args:
        name: as devices and formats write it, such as ``"AVR"``, ``"LEAD_I"``, ``"ECG V1"``,
            ``"MDC_ECG_LEAD_AVF"``, ``"Lead I (Einthoven)"``, ``"DII"`` or ``"C4"``.

    Returns:
        One of :data:`data_prep.labels.LEADS`; None for any other name, such as modified leads
        (``"MLII"``), the inverted ``"-aVR"``, the right-sided ``"V4R"``, and ``"Lead 2"``,
        which may be a channel number.
    """
    return _BY_NAME.get(_bare(name))


def _bare(name: str) -> str:
    """The bare name of a lead, in lower case, without the words around it."""
    if len(name) > MOST_LETTERS:
        return ""
    # Some devices use Unicode's Roman numerals or full-width letters; a superscript digit, however,
    # is a digit with a flipped bit.
    plain = "".join(
        x
        if unicodedata.decomposition(x).startswith("<super>")
        else unicodedata.normalize("NFKC", x)
        for x in name
    ).casefold()
    text = re.sub(r"\(.*?\)", "", plain).partition(",")[0].strip()
    return _BEFORE.sub("", text, count=1) if _BEFORE.match(text) else text


def leads_of(names: Sequence[str]) -> list[str | None]:
    """Find the lead of each signal of a recording.

    Args:
        names: of all its signals.

    Returns:
        For each signal the result of :func:`lead_of`, but None for ``"C3"`` and the like if
        other signals are named ``"V3"`` etc.: these C are EEG electrodes.
    """
    bare = [_bare(name) for name in names]
    if any(name.startswith("v") and name in _BY_NAME for name in bare):
        bare = ["" if name in _BY_IEC else name for name in bare]
    return [_BY_NAME.get(name) for name in bare]


def find_leads(names: Sequence[str]) -> dict[str, int]:
    """Find the leads among the signals of a recording.

    Args:
        names: of all its signals; those that are not a lead are ignored.

    Returns:
        The index of each lead in ``names``.  III, aVR, aVL and aVF may be missing, since they
        can be computed from I and II.

    Raises:
        ValueError: naming the leads that are missing or occur more than once.
    """
    found = leads_of(names)
    missing = [
        lead
        for lead in LEADS
        if found.count(lead) > 1 or (lead in _STORED and found.count(lead) == 0)
    ]
    if missing:
        raise ValueError(
            f"does not have the leads {', '.join(missing)} once each (it has"
            f" {', '.join(names)[:200] or 'none'})"
        )
    return {lead: found.index(lead) for lead in LEADS if lead in found}


def has_leads(names: Sequence[str]) -> bool:
    """Tell whether the signals of a recording include the leads that a record needs.

    Args:
        names: of all its signals.
    """
    try:
        return bool(find_leads(names))
    except ValueError:
        return False


def complete_leads(leads: Sequence[str], signal: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Put the leads in order, and compute missing limb leads from I and II.

    Einthoven: III = II - I.  Goldberger: aVR = -(I + II) / 2, aVL = I - II / 2 and
    aVF = II - I / 2, as in devices that store eight leads.

    Args:
        leads: those that :func:`find_leads` found.
        signal: ``(time, lead)`` of these, all in the same unit.

    Returns:
        ``(time, 12)`` in the order of :data:`data_prep.labels.LEADS`, and the names of the leads
        that were computed.
    """
    by_lead = dict(zip(leads, signal.T, strict=True))
    i, ii = by_lead["I"], by_lead["II"]
    derived = {"III": ii - i, "aVR": -(i + ii) / 2, "aVL": i - ii / 2, "aVF": ii - i / 2}
    columns = [by_lead[lead] if lead in by_lead else derived[lead] for lead in LEADS]
    return np.stack(columns, axis=1), tuple(lead for lead in LEADS if lead not in by_lead)
