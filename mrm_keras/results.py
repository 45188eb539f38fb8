"""The tables and figures of the MRM-Net paper: our figures beside the published ones."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data_prep.errors import StoreError
from data_prep.labels import known_first_labels
from data_prep.store import Store
from ecg_keras.evaluation.document import Estimate
from ecg_keras.evaluation.plots import (
    plot_confusion_matrix,
    plot_learning_curves,
    plot_parallel_coordinates,
    read_history,
)
from ecg_keras.evaluation.predictions import Predictions, load_predictions
from ecg_keras.evaluation.scores import (
    all_scores,
    bootstrap_intervals,
    confusion_matrix,
    drawn_by,
    paired_bootstrap,
)
from ecg_keras.papers import reproduction
from ecg_keras.papers.jobs import Job
from ecg_keras.papers.tables import Cell, ResultTable, Spread, as_text
from mrm_keras import published as paper
from mrm_keras.variants import Protocol, Selection, Variant, scored_file

# The paper's metrics and macro-F1, by their right names.
METRICS = {
    "macro_auc": "AUC",
    "label_accuracy": "accuracy",
    "record_f1": "F1 per record",
    "macro_f1_half": "macro-F1",
}
AT_THRESHOLDS = {"macro_f1_thresholds": "macro-F1 at validation thresholds"}

FUSION_NOTE = (
    "Addition and concatenation are our reading: the paper upsamples the low-resolution features"
    " and adds or concatenates them, without saying how or at which layer; here the features after"
    " attention are brought to one size by a convolution of stride 2."
)
# The findings of section IV, for comparison.
FIG5_FINDING = (
    "The paper finds most classes recognised very well, and STE and a class that it prints as PAV"
    " poorly, probably because they have few records."
)
FIG6_FINDING = (
    "The paper finds, by AUC on CPSC 2018, that α and β of 0.01 or 0.1 do better than 1, and that"
    " α = 0.01, β = 0.01, γ = 0.1 does best."
)

Scores = dict[str, np.ndarray]


# --- Table I ---------------------------------------------------------------------------------


def table1() -> ResultTable:
    """List the layers of the network as built, with Table I beside the trunk."""
    from mrm_keras.layers import ConvBlock
    from mrm_keras.model import build_model

    model = build_model()
    theirs = {f"trunk_{i}": row for i, row in enumerate(paper.TABLE_I.items(), start=1)}
    rows: list[tuple[Cell, ...]] = []
    for layer in model.layers:
        shapes = layer.output if isinstance(layer.output, list) else [layer.output]
        kernel = stride = ""
        if isinstance(layer, ConvBlock):
            kernel, stride = ", ".join(map(str, layer.kernel_sizes)), str(layer.strides)
        name, printed = theirs.get(layer.name, ("", None))
        rows.append(
            (
                layer.name,
                type(layer).__name__,
                kernel,
                stride,
                " and ".join("×".join(str(n) for n in x.shape[1:]) for x in shapes),
                sum(math.prod(weight.shape) for weight in layer.trainable_weights),
                f"{name}: {printed[0]}, stride {printed[1]}, {printed[3]}→{printed[4]}"
                if printed
                else "",
            )
        )
    trained = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    rows.append(("Total", "", "", "", "", trained, ""))
    return ResultTable(
        title="Table I. The layers of MRM-Net as built, nine classes",
        columns=("layer", "kind", "kernels", "stride", "output", "parameters", "published"),
        rows=tuple(rows),
        notes=("The paper lists the four convolutions of the trunk and gives no totals.",),
    )


# --- Tables over trained models --------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """The trainings of one row, one per seed.

    Attributes:
        folders: of the jobs.
        heads: predictions for the scored records, by head (``"diagnosis"`` first) and seed.
        parameters: number of trained parameters.
        seconds: per epoch, by seed; NaN if the training was interrupted.
    """

    folders: tuple[Path, ...]
    heads: dict[str, tuple[Predictions, ...]]
    parameters: int
    seconds: tuple[float, ...]

    @property
    def answers(self) -> tuple[Predictions, ...]:
        """The network's predictions for the scored records, by seed."""
        return self.heads["diagnosis"]

    def of_head(self, head: str) -> "Trained":
        """The same trainings with the predictions of one head as the network's."""
        return replace(self, heads={"diagnosis": self.heads[head]})

    def scores(self, counts: np.ndarray | None = None) -> Scores:
        """Mean of each score over the seeds, for each resample in ``counts``."""
        of_seeds = [scores_of(answers, counts) for answers in self.answers]
        return {name: np.mean([s[name] for s in of_seeds], axis=0) for name in of_seeds[0]}


def scores_of(answers: Predictions, counts: np.ndarray | None = None) -> Scores:
    """Compute every score of :data:`METRICS` and :data:`AT_THRESHOLDS`, each ``(R,)``.

    Args:
        answers: predictions with labels.
        counts: ``(R, N)``, how often each resample draws each record; None for once each.
    """
    assert answers.labels is not None
    scores = all_scores(
        answers.labels,
        None,
        answers.probabilities,
        thresholds=answers.thresholds,
        single_label=False,
        cpsc=False,
        counts=counts,
    )
    return {name: scores[name] for name in (*METRICS, *AT_THRESHOLDS)}


def printed_figures(text: str) -> list[Spread | None]:
    """Read figures of the paper, such as ``"93.59±0.19 – 73.74±0.59"``, as fractions."""
    cells: list[Spread | None] = []
    for figure in text.split():
        mean, _, sd = figure.partition("±")
        known = mean != "–"
        cells.append(
            Spread(float(mean) / 100, float(sd) / 100 if sd else math.nan) if known else None
        )
    return cells


# Title of each comparison, and the published figures by task and row.
COMPARISONS: dict[str, tuple[str, Mapping[str, Mapping[str, str]]]] = {
    "table2_3": ("Tables II and III. MRM-Net and other networks", paper.TABLES_II_III),
    "table4": ("Table IV. MRM-Net and other networks", {"cpsc2018": paper.TABLE_IV}),
    "table5": ("Table V. Fusion of the two resolutions", paper.TABLE_V),
    "table6": ("Table VI. One resolution alone, and both", paper.TABLE_VI),
    "table7": ("Table VII. Widths of the branches", paper.TABLE_VII),
}


@dataclass(frozen=True)
class Reproduction(reproduction.Reproduction):
    """The trained tables and figures of the MRM-Net paper.

    Attributes:
        protocol: how every model is trained.
        seeds: every row is trained once per seed.
        tasks: one table each.
        selections: how the epoch is chosen; with both, there are two rows per network.
    """

    protocol: Protocol
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    selections: tuple[Selection, ...]

    def comparisons(self, name: str, variants: Mapping[str, Variant]) -> dict[str, ResultTable]:
        """Compare networks, one row each.

        Args:
            name: of the table, a key of :data:`COMPARISONS`.
            variants: the network of each row, by the name of the row.

        Returns:
            One table per task.
        """
        trained = self._trained(variants)
        tables = {task: self._comparison(name, task, variants, trained) for task in self.tasks}
        if name == "table2_3":
            return {task: self._with_benchmark(table, task) for task, table in tables.items()}
        if name == "table7":
            return {task: self._with_times(table, task, trained) for task, table in tables.items()}
        return tables

    def _with_benchmark(self, table: ResultTable, task: str) -> ResultTable:
        """Add the macro-AUC of the PTB-XL benchmark's leaderboard, if it has the task."""
        theirs = self._by_row(paper.BENCHMARK_AUC.get(task, {}))
        if not any(row[0] in theirs for row in table.rows):
            return table
        return table.with_columns(
            {"AUC, PTB-XL benchmark": theirs},
            "AUC, PTB-XL benchmark: leaderboard of Strodthoff 2021, fold 10, trained for 50 epochs"
            " with a one-cycle schedule on crops of 2.5 s.",
        )

    def _with_times(
        self, table: ResultTable, task: str, trained: Mapping[tuple[Selection, str, str], Trained]
    ) -> ResultTable:
        """Add the seconds per epoch, ours and the published (Table VII)."""
        seconds = {
            self._label(row, selection): as_text(Spread.of(of.seconds), digits=1)
            for (selection, of_task, row), of in trained.items()
            if of_task == task
        }
        return table.with_columns(
            {
                "seconds per epoch": seconds,
                "published, RTX 3080": self._by_row(paper.TABLE_VII_SECONDS),
            },
            "Seconds per epoch: time of the whole training, with tracing and validation, divided by"
            " its epochs. The paper's times are taken as those of an epoch; it does not say.",
        )

    def fig5(self, variant: Variant) -> tuple[ResultTable, Figure]:
        """Count a network's answers by true class, for the first task (Fig. 5)."""
        task, selection = self.tasks[0], self.selections[0]
        fold = self.protocol.test_fold or self.protocol.validation_fold
        with Store(self.store) as opened:
            rows = opened.records_of(task)
            rows = rows[opened.folds[rows] == fold]
            if (
                known_first_labels(opened.labels(task)[rows], opened.first_labels(task)[rows])
                is None
            ):
                raise StoreError(
                    f"{self.store} holds records in fold {fold} of which the first label is"
                    " unknown, so there is no confusion matrix; build it with a REFERENCE.csv, or"
                    " with --several-labels rarest."
                )
        trained = self._trained({"MRM-Net": variant})[selection, task, "MRM-Net"]
        first = trained.answers[0]
        assert first.labels is not None
        truth = known_first_labels(first.labels, first.first_labels)
        assert truth is not None
        matrix = sum(
            confusion_matrix(truth, answers.answers, num_classes=len(answers.class_names))
            for answers in trained.answers
        )
        assert isinstance(matrix, np.ndarray)
        names = first.class_names
        support = matrix.sum(axis=1, keepdims=True)
        shares = np.divide(matrix, support, out=np.full(matrix.shape, np.nan), where=support > 0)
        table = ResultTable(
            title="Fig. 5. Answers (columns) by true class (rows), share of the row",
            columns=("truth", *names, "records"),
            rows=tuple(
                (name, *map(float, row), int(count))
                for name, row, count in zip(names, shares, matrix.sum(axis=1), strict=True)
            ),
            notes=(
                "The truth is a record's first label, the answer the class of the largest"
                " probability; the trainings of all seeds are counted together. The paper draws the"
                " truth on the horizontal axis.",
                FIG5_FINDING,
                *self._notes(task, [variant]),
            ),
            **self._caption(task, selection, len(first.ids)),
        )
        return table, plot_confusion_matrix(matrix, names)

    def fig6(self, grid: Mapping[tuple[float, ...], Variant]) -> tuple[ResultTable, Figure]:
        """Try weights of the three mutual losses, for the first task (Fig. 6).

        Args:
            grid: the network for each alpha, beta and gamma.
        """
        task, selection = self.tasks[0], self.selections[0]
        names = {", ".join(f"{w:g}" for w in weights): weights for weights in grid}
        trained = self._trained({name: grid[weights] for name, weights in names.items()})
        found: list[tuple[tuple[float, ...], Spread]] = []
        for name, weights in names.items():
            answers = trained[selection, task, name].answers
            auc = Spread.of([float(scores_of(of)["macro_auc"][0]) for of in answers])
            found.append((weights, auc))
        lines = np.array([[*weights, auc.mean] for weights, auc in found])
        found.sort(key=lambda of: -of[1].mean)
        table = ResultTable(
            title=f"Fig. 6. Weights of the mutual losses, {task}, best first",
            columns=("alpha", "beta", "gamma", "AUC"),
            rows=tuple((*(f"{w:g}" for w in weights), auc) for weights, auc in found),
            digits=4,
            notes=(
                FIG6_FINDING,
                *(
                    []
                    if task == "cpsc2018"
                    else [f"These figures are of {task}, not of the paper's CPSC 2018."]
                ),
                *self._notes(task, grid.values()),
            ),
            **self._caption(task, selection, len(answers[0].ids)),
        )
        return table, plot_parallel_coordinates(lines, ("α", "β", "γ", "AUC"))

    def learning_curves(self, variants: Mapping[str, Variant]) -> dict[str, Figure]:
        """Draw the learning curves of a finished table, the first seed of each row, by task."""
        return {
            task: plot_learning_curves(
                {name: self._history(variant, task) for name, variant in variants.items()},
                monitor=self.protocol.monitor,
            )
            for task in self.tasks
        }

    def _history(self, variant: Variant, task: str) -> dict[str, np.ndarray]:
        job = self._job(variant, task, self.seeds[0])
        return read_history(self.out / "units" / job.name / "history.csv")

    # --- Rows and cells ---------------------------------------------------------------------

    def _comparison(
        self,
        table: str,
        task: str,
        variants: Mapping[str, Variant],
        trained: Mapping[tuple[Selection, str, str], Trained],
    ) -> ResultTable:
        """One row per network: scores over seeds, intervals over records, published figures."""
        title, all_published = COMPARISONS[table]
        theirs = all_published.get(task, {})
        metrics = {**METRICS, **({} if self.protocol.test_fold is None else AT_THRESHOLDS)}
        # The paper's proposal; in Table VII it is the middle row.
        reference = "MRM-Net" if "MRM-Net" in variants else [*variants][len(variants) // 2]
        heading = self.published_heading(paper.NUM_RECORDS)
        rows: list[tuple[Cell, ...]] = []
        for name, selection in itertools.product(variants, self.selections):
            heads = trained[selection, task, name].heads
            for head in heads:
                of = trained[selection, task, name].of_head(head)
                by_seed = [scores_of(answers) for answers in of.answers]
                is_reference = name == reference and head == "diagnosis"
                printed_too = name in theirs and head == "diagnosis"
                rows.append(
                    (
                        self._label(name, selection, head),
                        of.parameters,
                        *(
                            # An epoch chosen on the test fold has no validation thresholds.
                            None
                            if selection == "test" and m in AT_THRESHOLDS
                            else Spread.of([float(s[m][0]) for s in by_seed])
                            for m in metrics
                        ),
                        self._estimate(of, "macro_auc"),
                        None
                        if is_reference
                        else self._difference(trained[selection, task, reference], of, "macro_auc"),
                        *(printed_figures(theirs[name]) if printed_too else (None,) * 3),
                    )
                )
        first = trained[self.selections[0], task, reference]
        return ResultTable(
            title=f"{title}, {task}" + self._spread,
            columns=(
                *("network", "parameters", *metrics.values()),
                *("AUC [95 %]", f"AUC − that of {reference} [95 %]"),
                *(f"{METRICS[m]}, {heading}" for m in ("macro_auc", "label_accuracy", "record_f1")),
            ),
            rows=tuple(rows),
            digits=4,
            notes=(
                *([FUSION_NOTE] if table == "table5" else []),
                "AUC is macro-AUC over the classes present; accuracy is over all record × class"
                " pairs, F1 per record is the mean over records (the paper's F1), and macro-F1 the"
                " mean over classes, all at a threshold of 0.5.",
                f"Intervals: bootstrap over the scored {drawn_by(first.answers[0].groups)},"
                f" {self.bootstrap:,} resamples, the same for every row; with several seeds, of the"
                " mean over seeds.",
                *self._notes(task, variants.values()),
            ),
            **self._caption(task, self.selections[0], len(first.answers[0].ids)),
        )

    def _trained(
        self, variants: Mapping[str, Variant]
    ) -> dict[tuple[Selection, str, str], Trained]:
        """Train what is not trained yet; return it by selection, task and row."""
        jobs = {
            (task, name): [self._job(variants[name], task, seed) for seed in self.seeds]
            for task, name in itertools.product(self.tasks, variants)
        }
        folders = self.run(itertools.chain.from_iterable(jobs.values()))
        return {
            (selection, *row): _read([folders[job.name] for job in of_row], selection)
            for selection in self.selections
            for row, of_row in jobs.items()
        }

    def _job(self, variant: Variant, task: str, seed: int) -> Job:
        """One training, which serves both selections if it saves every epoch."""
        name = f"{variant.name}_{task}_seed={seed}"
        kept = f"{name}_every-epoch"
        every_epoch = "test" in self.selections or (self.out / "units" / kept).exists()
        return Job(
            name=kept if every_epoch else name,
            work="mrm_keras.variants:train",
            options={
                **asdict(variant),
                **asdict(self.protocol),
                "learning_rate": self.protocol.rate_of(variant.network),
                "task": task,
                "seed": seed,
                "every_epoch": every_epoch,
            },
        )

    def _label(self, name: str, selection: Selection, head: str = "diagnosis") -> str:
        """Return the name of a row."""
        of_head = "" if head == "diagnosis" else f", {head} head alone"
        selected = "" if len(self.selections) == 1 else f", selected on {selection}"
        return name + of_head + selected

    def _by_row(self, figures: Mapping[str, Cell]) -> dict[str, Cell]:
        """Give each row of a network the network's figure."""
        return {
            self._label(name, selection): figure
            for name, figure in figures.items()
            for selection in self.selections
        }

    def _estimate(self, of: Trained, metric: str) -> Estimate:
        interval = bootstrap_intervals(
            lambda counts: {metric: of.scores(counts)[metric]},
            groups=of.answers[0].groups,
            resamples=self.bootstrap,
        )[metric]
        return Estimate.of(of.scores()[metric][0], interval)

    def _difference(self, base: Trained, other: Trained, metric: str) -> Estimate:
        """``other - base``, both on the same resamples."""
        interval = paired_bootstrap(
            lambda counts: {metric: base.scores(counts)[metric]},
            lambda counts: {metric: other.scores(counts)[metric]},
            groups=base.answers[0].groups,
            resamples=self.bootstrap,
        )[metric]
        value = other.scores()[metric][0] - base.scores()[metric][0]
        return Estimate.of(value, interval, signed=True)

    # --- Captions and notes -----------------------------------------------------------------

    def _caption(self, task: str, selection: Selection, num_scored: int) -> dict[str, Any]:
        validation, test = self.protocol.validation_fold, self.protocol.test_fold
        records = f"on the {num_scored:,} records of the task {task} in fold"
        if test is None:
            scored = f"{records} {validation}, which also chose the epoch"
        elif selection == "test" or len(self.selections) > 1:
            scored = f"{records} {test}"
        else:
            scored = f"{records} {test}, which were not used for selection"
        return {"scored": scored, "selected_on_test": "test" in self.selections}

    def _notes(self, task: str, variants: Iterable[Variant]) -> tuple[str, ...]:
        """A note on how the rows were trained."""
        protocol = self.protocol
        with Store(self.store) as opened:
            folds = opened.folds[opened.records_of(task)]
        kept_out = [protocol.validation_fold, *([protocol.test_fold] if protocol.test_fold else [])]
        chosen = {"macro-f1": "macro-F1", "macro-auc": "AUC"}[protocol.monitor]
        kept = " or ".join(
            "greatest sum of AUC and F1 per record of either head on the scored records (selected"
            " on test, as the published code does)"
            if selection == "test"
            else f"best {chosen} on fold {protocol.validation_fold}"
            for selection in self.selections
        )
        rates: dict[str, list[str]] = {}
        for variant in variants:
            rates.setdefault(f"{protocol.rate_of(variant.network):g}", []).append(variant.network)
        rate = ", ".join(
            f"{rate} for {' and '.join(dict.fromkeys(networks))}" if len(rates) > 1 else rate
            for rate, networks in rates.items()
        )
        cycle = " in one cycle up to" if protocol.schedule == "one-cycle" else ""
        return (
            f"{(~np.isin(folds, kept_out)).sum():,} records trained, all folds but"
            f" {' and '.join(map(str, kept_out))}; of {protocol.epochs} epochs the one of"
            f" {kept} is kept; batch {protocol.batch_size}, Adam{cycle} {rate},"
            f" {protocol.precision}; seeds"
            f" {', '.join(map(str, self.seeds))}.",
        )

    @property
    def _spread(self) -> str:
        seeds = len(self.seeds)
        return f" (mean ± SD over {seeds} seeds)" if seeds > 1 else " (one seed)"


def _read(folders: Sequence[Path], selection: Selection) -> Trained:
    """Read the results of one row's jobs."""
    heads = [
        head
        for head in ("diagnosis", "low", "high")
        if (folders[0] / scored_file(head, selection)).exists()
    ]
    trainings = [json.loads((folder / "training.json").read_text()) for folder in folders]
    return Trained(
        folders=tuple(folders),
        heads={
            head: tuple(load_predictions(f / scored_file(head, selection)) for f in folders)
            for head in heads
        },
        parameters=trainings[0]["parameters"],
        seconds=tuple((t["seconds"] or math.nan) / t["epochs"] for t in trainings),
    )
