"""Which of the twelve leads a name means, and the leads that follow from others."""

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
"""Millivolts in one of each unit, by its name in small letters."""

_BY_NAME = {lead.casefold(): lead for lead in LEADS}
# Spanish, French and Portuguese devices count the limb leads as derivations.
_BY_NAME |= {"di": "I", "dii": "II", "diii": "III", "d1": "I", "d2": "II", "d3": "III"}
# The names of IEC 60601-2-25 for the AHA's V1 to V6, which German devices use.
_BY_IEC = {f"c{n}": f"V{n}" for n in range(1, 7)}
_BY_NAME |= _BY_IEC
MOST_LETTERS = 100
"""Of a name; what is longer names no lead."""
_BEFORE = re.compile(r"mdc_ecg_lead_|(?:(?:ecg|ekg|lead)[\s_.:]*)+")
_STORED = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def lead_of(name: str) -> str | None:
    """Find the lead that a name means.

    Args:
        name: as devices and formats write it, such as ``"AVR"``, ``"LEAD_I"``, ``"ECG V1"``,
            ``"MDC_ECG_LEAD_AVF"``, ``"Lead I (Einthoven)"``, ``"DII"`` or ``"C4"``.

    Returns:
        One of :data:`data_prep.labels.LEADS`, or None: modified leads such as ``"MLII"``, the
        inverted ``"-aVR"``, ``"V4R"`` of the right chest and a number such as ``"Lead 2"``, which
        may count channels, are none of them.
    """
    return _BY_NAME.get(_bare(name))


def _bare(name: str) -> str:
    """What names a lead, in small letters, without the words around it."""
    if len(name) > MOST_LETTERS:
        return ""
    # Some devices have the Roman numerals of Unicode, or letters of full width; a raised figure is
    # one with a bit fallen over.
    plain = "".join(
        x
        if unicodedata.decomposition(x).startswith("<super>")
        else unicodedata.normalize("NFKC", x)
        for x in name
    ).casefold()
    text = re.sub(r"\(.*?\)", "", plain).partition(",")[0].strip()
    return _BEFORE.sub("", text, count=1) if _BEFORE.match(text) else text


def leads_of(names: Sequence[str]) -> list[str | None]:
    """Find the leads that a recording's signals are.

    Args:
        names: of all its signals.

    Returns:
        For each signal what :func:`lead_of` does, but None for ``"C3"`` and its like if others
        are named ``"V3"``: these C are electrodes of an EEG.
    """
    bare = [_bare(name) for name in names]
    if any(name.startswith("v") and name in _BY_NAME for name in bare):
        bare = ["" if name in _BY_IEC else name for name in bare]
    return [_BY_NAME.get(name) for name in bare]


def find_leads(names: Sequence[str]) -> dict[str, int]:
    """Find the leads among a recording's signals.

    Args:
        names: of all its signals; those that are no lead are passed over.

    Returns:
        Where each lead stands among ``names``.  III, aVR, aVL and aVF may be missing, for they
        follow from I and II.

    Raises:
        ValueError: naming the leads that are missing, or there more than once.
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
    """Tell whether a recording's signals include the leads that a record needs.

    Args:
        names: of all its signals.
    """
    try:
        return bool(find_leads(names))
    except ValueError:
        return False


def complete_leads(leads: Sequence[str], signal: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Put leads in order, and compute those that are missing from I and II.

    After Einthoven III = II - I, after Goldberger aVR = -(I + II) / 2, aVL = I - II / 2 and
    aVF = II - I / 2; so do devices that store eight leads.

    Args:
        leads: those that :func:`find_leads` found.
        signal: ``(time, lead)`` of these, in any unit that is the same for all.

    Returns:
        ``(time, 12)`` in the order of :data:`data_prep.labels.LEADS`, and the names of the leads
        that were computed.
    """
    by_lead = dict(zip(leads, signal.T, strict=True))
    i, ii = by_lead["I"], by_lead["II"]
    derived = {"III": ii - i, "aVR": -(i + ii) / 2, "aVL": i - ii / 2, "aVF": ii - i / 2}
    columns = [by_lead[lead] if lead in by_lead else derived[lead] for lead in LEADS]
    return np.stack(columns, axis=1), tuple(lead for lead in LEADS if lead not in by_lead)
