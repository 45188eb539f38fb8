"""Writes the model card of a published model (Mitchell et al. 2019, doi:10.1145/3287560.3287596).

Does not import Keras: everything in a card is in the predictions and the files of the training.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import OptionError
from data_prep.files import read_json
from data_prep.labels import PTBXL_TASKS
from ecg_keras.evaluation.document import Block, Facts, Heading, Notes, Paragraph, markdown
from ecg_keras.evaluation.report import Result, score_tables
from ecg_keras.model.origin import ModelFacts, generated_notice
from ecg_keras.model.pretrained import file_name

if TYPE_CHECKING:
    from ecg_keras.model.contract import Contract

_DATASETS = {
    "ptb-xl": (
        "PTB-XL 1.0.3 (Wagner et al., Scientific Data 7:154, 2020,"
        " doi:10.1038/s41597-020-0495-6; PhysioNet, doi:10.13026/kfzx-aw45), licence CC BY 4.0"
    ),
    "cpsc2018": (
        "CPSC 2018 (Liu et al., Journal of Medical Imaging and Health Informatics 8(7), 2018), as"
        " published in the PhysioNet/CinC Challenges 2020 and 2021, licence CC BY 4.0"
    ),
}

_USE = (
    "Research on ECG classification: as a baseline, as the start of a training on other labels"
    " (--init), to look at what such networks respond to, and, once tested on recordings of the"
    " same kind, to prioritise recordings for human reading.",
    "Twelve-lead resting ECGs of adults. Rate, unit and order of the leads are converted when a"
    " recording is read.",
)
_MISUSE = (
    "It is not a medical device. Its answers are not diagnoses, and no decision about a patient may"
    " rest on them.",
    "The scores hold for records from the same source. With other devices, filters, populations or"
    " ways of labelling they will be lower, and thresholds have to be fitted again.",
    "Labels are those of the data set, with its errors. A class that is rare there is"
    " predicted badly; the tables say how many records each score rests on.",
    "Exercise ECGs, long-term recordings, paced rhythms other than those in the data, children and"
    " animals were not tested.",
)


_CODES = (
    "Names of classes are the codes of PTB-XL's scp_statements.csv; its superclasses are NORM"
    " normal, MI myocardial infarction, STTC ST-T change, CD conduction disturbance and HYP"
    " hypertrophy."
)


@dataclass(frozen=True)
class Training:
    """How a model was trained, from the files of its training.

    Attributes:
        settings: the settings of the training, by name.
        made_with: versions and machine.
        seconds: seconds of all epochs; NaN if they are not recorded.
        epochs: number of epochs trained.
    """

    settings: dict[str, Any]
    made_with: dict[str, Any]
    seconds: float
    epochs: int

    @classmethod
    def of(cls, folder: Path) -> "Training":
        """Read the files that a training left beside its ``best.keras``.

        Args:
            folder: the folder of the training.

        Raises:
            OptionError: if ``args.json`` is missing or damaged.
        """
        try:
            args = read_json(folder / "args.json")
            settings, made_with = dict(args["settings"]), dict(args["made with"])
        except (OSError, ValueError, LookupError, TypeError):
            raise OptionError(
                f"{folder} has no readable args.json; name a best.keras in the folder of its"
                " training."
            ) from None
        log = folder / "training.log"
        text = log.read_text(encoding="utf-8") if log.is_file() else ""
        seconds = {
            int(epoch): int(s) for epoch, s in re.findall(r"epoch (\d+) of .*; (\d+) s;", text)
        }
        return cls(
            settings, made_with, sum(seconds.values()) if seconds else float("nan"), len(seconds)
        )


def write_card(
    name: str,
    *,
    result: Result,
    contract: "Contract",
    training: Training,
    trained_by: str,
    parameters: int,
    megabytes: float,
    remark: str,
) -> str:
    """Write a model card.

    Args:
        name: name of the published model.
        result: its scores on records it has not seen.
        contract: what the model expects of a recording.
        training: how it was trained.
        trained_by: the command that trained it.
        parameters: number of the network's weights.
        megabytes: size of the file.
        remark: a sentence about the precision of the weights.

    Returns:
        The card as Markdown.
    """
    (model,) = result.predictions.models
    blocks: list[Block] = [
        Paragraph(
            f"{result.predictions.network} for the {len(result.predictions.class_names)} classes of"
            f" the task {result.predictions.task}, trained with ecg-keras {model.version}."
        ),
        Facts(
            (
                ("File", f"{file_name(name)}, {megabytes:.1f} MB, {parameters:,} weights"),
                ("Input", _input(contract)),
                *_training_facts(model, training, trained_by),
            )
        ),
        Heading("Use"),
        Notes((f"ecg-predict --pretrained {name} --records FOLDER --out OUT", *_USE)),
        Heading("Misuse"),
        Notes(_MISUSE),
        Heading("Data"),
        Notes(tuple(_data(model, result))),
        Heading("Scores"),
        Paragraph(remark),
        *score_tables(result),
    ]
    return markdown(name, blocks, notices=generated_notice([model]))


def _input(contract: "Contract") -> str:
    seconds = contract.input_length / contract.sampling_rate
    shorter = {"pad": "zero-padded at the end", "stretch": "resampled up"}[contract.fit]
    return (
        f"12 leads, {seconds:g} s at {contract.sampling_rate:g} Hz; of longer recordings the first"
        f" {seconds:g} s are used, shorter ones are {shorter}"
    )


def _training_facts(
    model: ModelFacts, training: Training, trained_by: str
) -> Iterator[tuple[str, str]]:
    settings = training.settings
    cycle = " in one cycle" if settings.get("schedule") == "one-cycle" else ""
    yield "Trained by", trained_by
    yield "Commit", model.commit
    yield "Date", model.date
    yield (
        "Epoch",
        f"{model.epoch} of {training.epochs or settings['epochs']}, chosen by {model.monitor}"
        f" {model.score:.4f} on the validation records",
    )
    yield (
        "Optimiser",
        f"Adam, learning rate {settings['learning_rate']:g}{cycle}, batches of"
        f" {settings['batch_size']}, {settings['precision']}, seed {settings['seed']}",
    )
    if training.seconds == training.seconds:
        yield "Training time", f"{training.seconds / 3600:.1f} h ({training.seconds:,.0f} s)"
    made = training.made_with
    yield "Machine", f"{made.get('machine', 'unknown')}, {made.get('cores', '?')} cores"
    yield (
        "Versions",
        ", ".join(
            f"{name} {made[name]}" for name in ("python", "tensorflow", "keras") if name in made
        ),
    )


def _data(model: ModelFacts, result: Result) -> Iterator[str]:
    for dataset in model.dataset.split(" and "):
        yield _DATASETS.get(dataset, f"{dataset or 'unnamed'}: recordings of the publisher's own.")
    yield (
        f"The network was trained on {model.trained:,} records; its epoch and thresholds were"
        f" selected on {model.chose:,} others, and it was scored on a further"
        f" {len(result.predictions.ids):,}."
    )
    yield f"The scored labels are from {result.labels_from}."
    if model.dataset == "ptb-xl" and result.predictions.task in PTBXL_TASKS:
        yield _CODES
