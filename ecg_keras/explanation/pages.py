"""One self-contained HTML page per recording: the prediction and its explanation."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.class_names import spelled_out
from data_prep.ecg_paper import Shading, ecg_figure
from data_prep.files import written_whole
from data_prep.records import Record
from data_prep.rhythm import rhythm
from ecg_keras.evaluation import plots
from ecg_keras.evaluation.document import (
    Block,
    Estimate,
    Facts,
    Heading,
    Notes,
    Paragraph,
    Picture,
    Table,
    page,
)
from ecg_keras.explanation.methods import Explanation, Relevance
from ecg_keras.model.origin import facts_rows, generated_notice

WINDOW = 10.0
"""Seconds of a long recording that are shown if all leads are drawn."""

# Maximum number of classes in the table of probabilities; a task may have 71.
_MOST_ROWS = 12
# The text on ECG paper is smaller than in a report.
_PAPER_PIXELS = 72.0


def page_of(
    explanation: Explanation, *, warnings: Sequence[str] = (), notices: Sequence[str] = ()
) -> str:
    """Make the page of one recording.

    If the models were trained on generated records, the first line of the page says so.

    Args:
        explanation: from the ``Explainer`` of a network package.
        warnings: plausibility warnings, one sentence each.
        notices: sentences shown above the title, such as that this recording was used
            to train the models.

    Returns:
        A self-contained HTML document.
    """
    title = f"{explanation.record.id}: {_answer(explanation)}"
    author = f"ECG-Keras from the answers of {explanation.contract.network}"
    notices = tuple(dict.fromkeys((*generated_notice(explanation.models), *notices)))
    return page(title, list(_blocks(explanation, warnings)), author=author, notices=notices)


def write_page(
    path: Path,
    explanation: Explanation,
    *,
    warnings: Sequence[str] = (),
    notices: Sequence[str] = (),
) -> None:
    """Write the page of one recording, see :func:`page_of`.

    Args:
        path: path of the HTML file; its folder is created.
        explanation: as for :func:`page_of`.
        warnings: as for :func:`page_of`.
        notices: as for :func:`page_of`.
    """
    with written_whole(path) as part:
        text = page_of(explanation, warnings=warnings, notices=notices)
        part.write_text(text, encoding="utf-8")


def _blocks(explanation: Explanation, warnings: Sequence[str]) -> Iterator[Block]:
    record, contract = explanation.record, explanation.contract
    yield Heading("Answer")
    yield Facts(tuple(_facts(explanation)))
    if warnings:
        yield Paragraph("Plausibility warnings:")
        yield Notes(tuple(warnings))
    yield _table(explanation)

    yield Heading("Recording")
    duration = len(record.signal) / record.fs
    shown = (
        f"The first {WINDOW:g} of {duration:.1f} s."
        if duration > WINDOW + 0.05
        else f"All of its {duration:.1f} s."
    )
    yield Picture(
        "ecg.png",
        ecg_figure(record),
        "Twelve leads",
        f"{shown} Small squares are 0.04 s and 0.1 mV, large ones 0.2 s and 0.5 mV.",
        pixels_per_inch=_PAPER_PIXELS,
    )

    if contract.fit == "stretch" and explanation.seconds < contract.input_length / (
        contract.sampling_rate
    ):
        yield Notes(("The recording was stretched to fill the network's input.",))

    for relevance in explanation.relevances:
        yield Heading(f"Why {relevance.class_name}")
        yield from _why(explanation, relevance)

    if not explanation.attention:  # networks without attention, such as MRM-Net's baselines
        return
    yield Heading("Attention")
    yield Paragraph(
        "Attention shows how strongly the network weights each part of the recording, not whether"
        " that part is evidence for or against a class. Nothing on this page tests it, so trust the"
        " deletion test more."
    )
    for attention in explanation.attention:
        yield _on_paper(record, attention.shading, attention.title, attention.caption)
    if explanation.channels:
        yield Picture(
            "channels.png",
            plots.plot_channel_weights(explanation.channels),
            "Channel attention",
            "The weight in 0..1 of each feature channel (CA of MRM-Net, eq. 1), sorted, one line"
            " per network. Channels are learned features and have no names.",
        )


def _facts(explanation: Explanation) -> Iterator[tuple[str, str]]:
    record, contract, members = explanation.record, explanation.contract, explanation.members
    yield "Answer", _answer(explanation)
    if len(members) > 1:
        yield "Agreement", _agreement(explanation)
    yield (
        "Network",
        f"{contract.network}" if len(members) == 1 else f"{len(members)} × {contract.network}",
    )
    yield from facts_rows(explanation.models)
    yield "Task", f"{contract.task}, {len(contract.class_names)} classes"
    age = f"{record.age:g} years" if np.isfinite(record.age) else ""
    yield "Person", ", ".join(part for part in (record.sex, age) if part) or "unknown"
    duration = len(record.signal) / record.fs
    yield "Recording", f"{duration:.1f} s at {record.fs:g} Hz"
    yield "Rhythm", _rhythm(record)
    if explanation.seconds < duration - 0.05:
        yield "Seen by the network", f"the first {explanation.seconds:g} s"
    if record.codes:
        yield "Labels in the file", ", ".join(record.codes)
    yield "File", record.path.name


def _rhythm(record: Record) -> str:
    found = rhythm(record)
    if found is None:
        return "fewer than three beats were found"
    return (
        f"{found.rate:.0f} beats a minute; RR intervals vary by {found.irregularity:.0%}"
        f" (SD / mean of {len(found.beats) - 1})"
    )


def _answer(explanation: Explanation) -> str:
    return " and ".join(explanation.found) or "none above its threshold"


def _agreement(explanation: Explanation) -> str:
    """Say how many networks by themselves find the same classes as the ensemble."""
    together = np.isin(explanation.contract.class_names, explanation.found)
    same = int((explanation.members_found == together).all(axis=1).sum())
    return f"{same} of {len(explanation.members)} networks alone give this answer"


def _table(explanation: Explanation) -> Table:
    contract, members = explanation.contract, explanation.members
    probabilities, several = explanation.probabilities, len(members) > 1
    ranked = np.argsort(-probabilities, kind="stable")
    found = np.isin(contract.class_names, explanation.found)
    shown = [c for rank, c in enumerate(ranked) if rank < _MOST_ROWS or found[c]]
    says = explanation.members_found
    rows = []
    for c in shown:
        name = contract.class_names[c]
        meaning = spelled_out(name, contract.task)
        mark = " ✓" if found[c] else ""
        estimate = Estimate(float(probabilities[c]))
        if several:
            estimate = replace(
                estimate, low=float(members[:, c].min()), high=float(members[:, c].max())
            )
        if not contract.single_label:
            estimate = replace(estimate, threshold=contract.thresholds[c])
        rows.append(
            (
                f"{name}, {meaning}{mark}" if meaning else f"{name}{mark}",
                *((f"{says[:, c].sum()} of {len(members)}",) if several else ()),
                estimate,
                *(() if contract.single_label else (f"{contract.thresholds[c]:.3f}",)),
            )
        )
    caption = "Probability of each class, mean of the networks and their range" if several else (
        "Probability of each class"
    )  # fmt: skip
    if not contract.single_label:
        caption += "; the line across a bar is the threshold"
    if len(probabilities) > len(shown):
        caption += f"; the {_MOST_ROWS} largest of {len(probabilities)}"
    if len(shown) > _MOST_ROWS:
        caption += " and every other class found"
    threshold = () if contract.single_label else ("Threshold",)
    networks = ("Networks",) if several else ()
    return Table(caption, ("Class", *networks, "Probability", *threshold), tuple(rows))


def _why(explanation: Explanation, relevance: Relevance) -> Iterator[Block]:
    name, contract = relevance.class_name, explanation.contract
    c = contract.class_names.index(name)
    probability = float(explanation.probabilities[c])
    yield _on_paper(
        explanation.record,
        relevance.shading,
        f"Relevance for {name}",
        "Integrated gradients (Sundararajan et al. 2017) with a flat line as baseline,"
        f" summed over cells of 0.1 s and one lead: blue is evidence for {name}, orange against."
        f" All cells sum to"
        f" {relevance.total - relevance.residual:+.3f}; the recording has a probability of"
        f" {probability:.3f}, a flat line {probability - relevance.total:.3f}.",
        every_lead=True,
    )
    at = int(np.argmin(np.abs(relevance.shares - 0.05)))
    yield Picture(
        "deletion.png",
        plots.plot_deletion(relevance.shares, relevance.marked, relevance.random, class_name=name),
        "Deletion test",
        f"With the 5 % most strongly marked cells removed, {name} has a"
        f" probability of {relevance.marked[at]:.3f}; with a random 5 % removed"
        f" {relevance.random[at]:.3f}. {_verdict(relevance)}",
        half=True,
    )
    heads = [f"lead_{lead}" for lead in contract.leads]
    own = None
    if all(head in explanation.heads for head in heads):
        own = np.array([explanation.heads[head][c] for head in heads])
    yield Picture(
        "leads.png",
        plots.plot_lead_contributions(
            contract.leads, own, probability, explanation.without_lead[:, c], class_name=name
        ),
        "Leads",
        ("Left, the probability of each lead's own head. Right, h" if own is not None else "H")
        + f"ow the probability of {name} changes if that lead is set to 0 mV: if it falls"
        " (blue), the lead was evidence for it.",
        half=True,
    )


def _verdict(relevance: Relevance) -> str:
    """Say how much the probability depends on the marked cells, by the gap of the deletion test."""
    name = relevance.class_name
    if relevance.total < 0.05:
        return (
            f"{name} is almost as probable for a flat line: this recording adds little evidence for"
            " it."
        )
    marked, random = (float(c[1:-1].mean()) for c in (relevance.marked, relevance.random))
    part = (random - marked) / relevance.total
    if part <= 0:
        words = "does NOT depend on what is marked"
    elif part < 0.1:
        words = "depends hardly more on what is marked than on the rest"
    elif part < 0.3:
        words = "depends in part on what is marked"
    else:
        words = "depends on what is marked"
    return (
        f"Averaged over all shares from 1 to 50 %, {marked:.3f} against {random:.3f}: the answer"
        f" {words}."
    )


def _on_paper(
    record: Record, shading: Shading, title: str, caption: str, *, every_lead: bool = False
) -> Picture:
    """Draw a shading on ECG paper, for each lead or for all leads alike."""
    every_lead |= shading.values.ndim == 2
    long = len(record.signal) / record.fs > WINDOW + 0.05
    start = _strongest(shading) if long and every_lead else 0.0
    layout: Literal["3x4", "12x1", "strip"] = "12x1" if every_lead else "strip" if long else "3x4"
    figure = ecg_figure(record, layout=layout, start=start, seconds=WINDOW, shading=shading)
    if long and every_lead:
        caption += f" The {WINDOW:g} s from {start:g} s on are shown, which are marked most."
    return Picture("shaded.png", figure, title, caption, pixels_per_inch=_PAPER_PIXELS)


def _strongest(shading: Shading) -> float:
    """Return the start, in whole seconds, of the window with the strongest shading."""
    strength = np.nan_to_num(np.abs(shading.values)).reshape(len(shading.values), -1).sum(axis=1)
    sums = np.concatenate([[0.0], np.cumsum(strength)])
    begins = np.arange(0.0, max(shading.edges[-1] - WINDOW, 0.0) + 1)
    begins = np.minimum(begins, max(shading.edges[-1] - WINDOW, 0.0))
    marked = np.interp(begins + WINDOW, shading.edges, sums) - np.interp(
        begins, shading.edges, sums
    )
    return float(np.floor(begins[int(marked.argmax())]))
