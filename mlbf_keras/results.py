"""The tables and figures of the MLBF-Net paper: our figures beside the published ones."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from data_prep.ecg_paper import ecg_figure
from data_prep.errors import OptionError, RecordError
from data_prep.files import written_whole
from data_prep.labels import CPSC_CLASSES, encode, main_labels, one_hot, read_reference
from data_prep.store import Store
from ecg_keras.evaluation.answers import Rejected
from ecg_keras.evaluation.command import label_predictions
from ecg_keras.evaluation.document import Estimate
from ecg_keras.evaluation.plots import plot_embeddings
from ecg_keras.evaluation.predictions import (
    Predictions,
    averaged,
    load_predictions,
    pooled,
    save_predictions,
)
from ecg_keras.evaluation.report import Result, compare, score_predictions
from ecg_keras.evaluation.scores import class_f1
from ecg_keras.model.origin import UNKNOWN, UNSEEN
from ecg_keras.papers import reproduction
from ecg_keras.papers.jobs import Job
from ecg_keras.papers.tables import Cell, ResultTable, Spread, as_text
from mlbf_keras import published as paper
from mlbf_keras.variants import EXTRA_FOLD, Protocol, Variant, choose_test_folds

if TYPE_CHECKING:
    from ecg_keras.model.model_files import ECGModel

SCORE = "macro_f1_first_label"


# --- Tables that need no training ------------------------------------------------------------


def table2(*, store: Path | None = None, reference: Path | None = None) -> ResultTable:
    """Count the records of each class (Table II).

    Args:
        store: the store whose labels are counted; or
        reference: the REFERENCE.csv whose labels are counted.
    """
    if reference is not None:
        entries = [*read_reference(reference).values()]
        first = np.array([labels[0] for labels in entries])
        labels = np.array([encode(of, 9) for of in entries])
        source = reference.name
    else:
        assert store is not None
        with Store(store) as opened:
            labels = opened.labels("cpsc2018")
            first = main_labels(labels, opened.first_labels("cpsc2018"))
        source = store.name
    firsts = np.bincount(first[first >= 0], minlength=9)
    rows: list[tuple[Cell, ...]] = []
    printed = np.array([paper.PUBLIC_FIRST_LABELS, paper.TABLE_II])
    columns = [firsts, labels.sum(axis=0), *printed]
    for index, name in enumerate((*CPSC_CLASSES, "Total")):
        counts = [int(c[index] if index < 9 else c.sum()) for c in columns]
        rows.append((name, *counts, f"{counts[3] - counts[2]:+d}", f"{counts[0] - counts[3]:+d}"))
    several = int((labels.sum(axis=1) > 1).sum())
    unknown = int((first < 0).sum())
    return ResultTable(
        title="Table II. Records of each class",
        columns=(
            "class",
            f"first label, {source}",
            f"any label, {source}",
            "first label, public file",
            "Table II",
            "Table II − public file",
            f"{source} − Table II",
        ),
        rows=tuple(rows),
        notes=(
            f"{several:,} of the {len(labels):,} records of {source} carry more than one label;"
            " Table II counts one label a record.",
            "Table II differs from the First_label of the challenge's public REFERENCE.csv in PAC,"
            f" PVC and STD; both count {paper.NUM_PUBLIC_RECORDS:,} records.",
            *(
                [f"{unknown:,} records whose first label is unknown are not counted as first."]
                if unknown
                else []
            ),
        ),
    )


def table6() -> ResultTable:
    """Count the parameters of each part of the network (Table VI)."""
    from mlbf_keras.model import build_model

    model = build_model(input_length=1024)

    def count(
        layer: str, *, branches: int = 1, only: Callable[[str], bool] = bool
    ) -> tuple[int, int]:
        """Count the parameters of a layer, and the trained ones among them."""
        weights = [w for w in model.get_layer(layer).weights if only(w.name)]
        sizes = [(math.prod(w.shape), w.trainable) for w in weights]
        return (
            sum(size for size, _ in sizes) // branches,
            sum(size for size, trained in sizes if trained) // branches,
        )

    def convolution(blocks: str, position: int) -> tuple[int, int]:
        return count(
            "f_cnn",
            branches=12,
            only=lambda name: any(f"block_{b}_conv_{position}_" in name for b in blocks),
        )

    branch = [
        *(convolution("1234", position) for position in (1, 2, 3)),
        *(convolution("5", position) for position in (1, 2, 3)),
        count("f_bigru", branches=12),
        count("lead_attention", branches=12),
        count("lead_norm", branches=12),
        count("lead_softmax", branches=12),
    ]
    fused = [count("fused_attention"), count("fused_norm"), count("diagnosis")]
    one = (
        sum(ours for ours, _ in branch),
        sum(trained for _, trained in branch),
        sum(paper.TABLE_VI_BRANCH.values()),
    )
    trained = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    rows: list[tuple[Cell, ...]] = [
        *(
            (f"branch: {name}", *ours, theirs)
            for (name, theirs), ours in zip(paper.TABLE_VI_BRANCH.items(), branch, strict=True)
        ),
        ("one branch", *one),
        ("twelve branches", *(12 * number for number in one)),
        *(
            (f"fused: {name}", *ours, theirs)
            for (name, theirs), ours in zip(paper.TABLE_VI_FUSED.items(), fused, strict=True)
        ),
        ("Total", model.count_params(), trained, paper.TABLE_VI_TOTAL),
    ]
    return ResultTable(
        title="Table VI. Parameters of MLBF-Net by layer",
        columns=("layer", "ours", "trainable of these", "published"),
        rows=tuple(rows),
        notes=(
            f"{paper.TABLE_VI_TOTAL:,} is reached in two ways. The paper's rows count the matrix W"
            " of each attention without the bias b and the context u_w of its eq. 5 and 6, and"
            " batch norm with its moving statistics. Our network has as many trainable"
            " parameters: with b and u_w, without the moving statistics. Either leaves out 1,152"
            " numbers of our"
            f" {model.count_params():,}: b and u_w happen to be as many as the moving statistics.",
        ),
    )


def fig3(store: Path, record: str | None) -> Figure:
    """Draw a record on ECG paper (Fig. 3).

    Args:
        store: path of the store.
        record: its name; None for the first whose only label is normal.

    Raises:
        OptionError: if the store has no such record.
    """
    with Store(store) as opened:
        if record is None:
            normal = opened.labels("cpsc2018")[:, 0].astype(bool)
            of_one = opened.labels("cpsc2018").sum(axis=1) == 1
            chosen = (normal & of_one).nonzero()[0]
            what = "no record that is normal and nothing else"
        else:
            chosen = (opened.ids == record).nonzero()[0]
            what = f"no record {record}"
        if not len(chosen):
            raise OptionError(f"{store} has {what}; name one of its records with --record.")
        name = str(opened.ids[chosen[0]])
        return ecg_figure(
            opened.signal(int(chosen[0])), fs=opened.fs, title=f"Fig. 3. Record {name}"
        )


# --- Tables over trained models --------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    """One of the models that a training gives.

    Attributes:
        job: the training.
        part: the model's subfolder of the job's folder; empty for the folder itself.
    """

    job: Job
    part: str


@dataclass(frozen=True)
class Reproduction(reproduction.Reproduction):
    """The trained tables and figures of the MLBF-Net paper.

    Attributes:
        protocol: how every model is trained.
        folds: the test folds, in turn.
    """

    protocol: Protocol
    folds: tuple[int, ...]

    def table3(self, held_out: Path | None, records: Path | None) -> ResultTable:
        """Score one model and the ensemble (Table III).

        Args:
            held_out: a REFERENCE.csv of other recordings; None to score out-of-fold, with each
                fold predicted by the models validated on the other folds, none of which was
                trained on it.
            records: folder of these recordings.
        """
        private = "private test set"
        rows: list[tuple[Cell, ...]] = [
            (work, year, what, private, *figures, None)
            for work, year, what, *figures in paper.TABLE_III
        ]
        if held_out is None or records is None:
            single, ensemble = self._out_of_fold()
            where = self._scored_on(single)
            on = "out-of-fold"
            notes = (
                "The ensemble that answers for a fold is the models of all other folds, each"
                " validated on one of them: the paper's ten models have seen every public record,"
                " so that they can be scored on other recordings only.",
            )
        else:
            single, ensemble = self._held_out(held_out, records)
            on = held_out.name
            where = f"on the {len(single[0].ids):,} recordings of {on}, which trained nothing"
            notes = (
                f"The single model is the one validated on fold {self.folds[0]}; the ensemble is"
                f" the mean of {len(self.folds)} models, one for each validation fold.",
            )
        for name, parts in (("single model", single), ("ensemble", ensemble)):
            result = self._scored(name.replace(" ", "-"), parts, "table3")
            f1 = [float(value) for value in result.classes.f1]
            estimates = (_estimate(result), _estimate(result, "cpsc_score"))
            rows.append((name, "here", "MLBF-Net", on, *f1, *estimates))
        firsts = np.concatenate([np.asarray(part.first_labels) for part in single])
        counts = [*zip(paper.PRIVATE_TEST_SET, np.bincount(firsts, minlength=9), strict=True)]
        counts.append((sum(paper.PRIVATE_TEST_SET), len(firsts)))
        return ResultTable(
            title="Table III. MLBF-Net beside the literature, F1 by class (literature, Ours¹ and"
            " Ours² as the paper prints them, on the private test set of CPSC 2018)",
            columns=(
                *("work", "year", "architecture", "scored on"),
                *(
                    f"{name} ({theirs:,}; here {ours:,})"
                    for name, (theirs, ours) in zip((*CPSC_CLASSES, "average"), counts, strict=True)
                ),
                "challenge score",
            ),
            rows=tuple(rows),
            scored=f"{where} (the rows from here)",
            notes=(
                *notes,
                "In the header: the records of each class in the private test set, and by first"
                " label in what is scored here.",
                "The average is macro-F1, as the paper defines it in section IV-B, with the first"
                " label as the truth. The challenge score counts any label of a record as right.",
                f"The private test set of {sum(paper.PRIVATE_TEST_SET):,} records was never"
                " published: figures from here and figures on it are on other data. What anyone can"
                " reproduce is a figure on the public records.",
                *self._about_folds,
            ),
        )

    def _out_of_fold(self) -> tuple[list[Predictions], list[Predictions]]:
        """Return the predictions of one model and of the ensemble for each test fold."""
        members = [
            (test, validation)
            for test in self.folds
            for validation in self._present
            if validation != test
        ]
        folders = self._run([self._model(Variant(), *folds) for folds in members])
        answers = {
            folds: load_predictions(folder / "test.npz")
            for folds, folder in zip(members, folders, strict=True)
        }
        single = [answers[test, self._next_fold(test)] for test in self.folds]
        ensemble = [
            averaged([answers[folds] for folds in members if folds[0] == test])
            for test in self.folds
        ]
        return single, ensemble

    def _held_out(
        self, held_out: Path, records: Path
    ) -> tuple[list[Predictions], list[Predictions]]:
        """Return the predictions of one model and of the ensemble for recordings in no store."""
        from ecg_keras.prediction.ensemble import answer_records, choose_records, open_models

        read_reference(held_out)  # refused before hours of training
        chosen = choose_records(csv_file=held_out, records=records)
        _require_used([each for each in chosen.values() if isinstance(each, Rejected)], held_out)
        with Store(self.store) as opened:
            in_store = set(opened.ids)
        seen = [name for name in chosen if name in in_store]
        if seen:
            raise OptionError(
                f"{held_out} names {seen[0]}, which is in {self.store} and would train the models"
                f" that it scores; build the store with --leave-out {held_out.name}."
            )
        folders = self._run([self._model(Variant(), None, fold) for fold in self.folds])
        models = open_models([str(folder / "best.keras") for folder in folders])
        answered = answer_records(models, list(chosen.items()), batch_size=self.protocol.batch_size)
        _require_used(answered.rejected, held_out)
        ensemble = label_predictions(answered.predictions, held_out, reference=held_out)
        single = replace(
            ensemble,
            probabilities=ensemble.members[0],
            members=ensemble.members[:1],
            thresholds=np.array(models[0].contract.thresholds),
            models=ensemble.models[:1],
            seen=models[0].seen(ensemble.ids.tolist(), ensemble.dataset),
        )
        return [single], [ensemble]

    def table4(self) -> ResultTable:
        """Compare BranchNet on 12 leads with MLBF-Net (Table IV)."""
        variants = [Variant("BranchNet"), Variant()]
        answers = self._cross_validated({v.network: v for v in variants})
        results = {name: self._scored(name, parts, "table4") for name, parts in answers.items()}
        difference = self._difference(results["BranchNet"], results["MLBF-Net"])
        rows: list[tuple[Cell, ...]] = []
        for name, parts in answers.items():
            spreads = _fold_spreads(parts)
            rows.append((name, *spreads, _estimate(results[name])))
            rows.append(
                (f"{name}, {self._published}", *(Spread(*c) for c in paper.TABLE_IV[name]), None)
            )
        return ResultTable(
            title="Table IV. BranchNet with 12 leads against MLBF-Net, F1 by class (mean ± SD"
            " over folds)",
            columns=("network", *CPSC_CLASSES, "average F1", "pooled macro-F1 [95 %]"),
            rows=tuple(rows),
            scored=self._scored_on(answers["MLBF-Net"]),
            notes=(
                f"MLBF-Net − BranchNet, pooled macro-F1: {as_text(difference)}.",
                *self._notes(answers["MLBF-Net"]),
            ),
        )

    def table5(self, loss_weights: tuple[float, ...]) -> ResultTable:
        """Compare weights of the branch losses (Table V).

        Args:
            loss_weights: the values of lambda.
        """
        single = "single loss"
        variants = {single: Variant(auxiliary_heads=False, loss_weight=0.0)}
        for weight in sorted(loss_weights):
            variants[f"λ = {weight:g}"] = Variant(loss_weight=weight)
        answers = self._cross_validated(variants)
        compared = self._compared(variants, answers, "table5")
        printed = {single: Spread(*paper.TABLE_V_SINGLE_LOSS), "λ = 1": Spread(*paper.TABLE_V_1)}

        def ours(chosen: Callable[[Variant], bool]) -> list[tuple[Cell, ...]]:
            return [
                (*row, printed.get(name))
                for (name, variant), row in zip(variants.items(), compared, strict=True)
                if chosen(variant)
            ]

        def theirs(name: str, figures: Sequence[tuple[float, float]]) -> list[tuple[Cell, ...]]:
            return [(f"{name}, value not stated", *(None,) * 3, Spread(*of)) for of in figures]

        return ResultTable(
            title="Table V. Single loss, and the weight λ of the leads' losses, average F1"
            " (mean ± SD over folds)",
            columns=(
                *("loss", "average F1", "pooled macro-F1 [95 %]"),
                "difference to the single loss [95 %]",
                self._published,
            ),
            rows=(
                *ours(lambda variant: not variant.auxiliary_heads),
                *ours(lambda variant: variant.auxiliary_heads and variant.loss_weight < 1),
                *theirs("λ below 1", paper.TABLE_V_BELOW_1),
                *ours(lambda variant: variant.loss_weight == 1),
                *ours(lambda variant: variant.loss_weight > 1),
                *theirs("λ above 1", paper.TABLE_V_ABOVE_1),
            ),
            scored=self._scored_on(answers[single]),
            notes=(
                "The single loss has no attention in the branches; λ = 0 has it, but it is not"
                " trained. With one seed both train the same network from the same random numbers"
                " and differ by rounding at most.",
                "The paper sets λ from 0 to 10 and prints seven figures, of which it names only"
                " that of λ = 1; the six others stand here in its table's order.",
                *self._notes(answers[single]),
            ),
        )

    def generated(self) -> ResultTable:
        """Compare training with and without synthetic records, for the same number of steps."""
        with Store(self.store) as opened:
            num_extra = int((opened.folds == EXTRA_FOLD).sum())
            num_train = (len(opened) - num_extra) * (len(self._present) - 2) // len(self._present)
        more = (num_train + num_extra) / num_train
        protocol = self.protocol
        alone = replace(
            self,
            protocol=replace(
                protocol,
                epochs=round(protocol.epochs * more),
                patience=round(protocol.patience * more),
            ),
        )
        names = {"real records alone": alone, "generated and real records": self}
        models = [
            command._model(Variant(), fold, self._next_fold(fold), extra=bool(number))
            for number, command in enumerate(names.values())
            for fold in self.folds
        ]
        answers = self._answers(names, models)
        rows = self._compared(names, answers, "generated")
        sizes = (num_train, num_train + num_extra)
        epochs = (alone.protocol.epochs, protocol.epochs)
        return ResultTable(
            title="MLBF-Net trained on generated and real records against real records alone,"
            " average F1 (mean ± SD over folds); not in the paper",
            columns=(
                *("training records", "about", "epochs at most"),
                *("average F1", "pooled macro-F1 [95 %]", "difference [95 %]"),
            ),
            rows=tuple(
                (row[0], size, most, *row[1:])
                for row, size, most in zip(rows, sizes, epochs, strict=True)
            ),
            scored=self._scored_on(answers["real records alone"]),
            notes=(
                "Generated records train only; validation and test records are real. Both rows"
                " are allowed about the same number of steps.",
                *self._notes(answers["real records alone"]),
            ),
        )

    def pretrained(self, init: str) -> ResultTable:
        """Compare training from another model's weights and from scratch, for the same epochs.

        Args:
            init: path of a model file, or name of a published model.

        Raises:
            ModelFileError: if it cannot be opened or is not an MLBF-Net.
            OptionError: if it has seen records of the store.
        """
        from ecg_keras.model.model_files import read_origin

        origin = read_origin(init, networks=("MLBF-Net",))
        with Store(self.store) as opened:
            seen = origin.seen(opened.ids.tolist(), opened.dataset)
        if (seen > UNSEEN).any():
            raise OptionError(
                f"{init} has seen {(seen > UNSEEN).sum():,} of the {len(seen):,} records of"
                f" {self.store}, on which it would be tested; name with --init a model that has"
                " seen none of them."
            )
        which = "that has seen none of these records"
        if (seen == UNKNOWN).any():
            which = "that does not name all records that trained it"
        variants = {"from scratch": Variant(), "pretrained": Variant(init=init)}
        answers = self._cross_validated(variants)
        return ResultTable(
            title="MLBF-Net trained from the weights of another model against from scratch,"
            " average F1 (mean ± SD over folds); not in the paper",
            columns=("training", "average F1", "pooled macro-F1 [95 %]", "difference [95 %]"),
            rows=tuple(self._compared(variants, answers, "pretrained")),
            scored=self._scored_on(answers["pretrained"]),
            notes=(
                f"Pretrained: from the weights of {init}, a model {which}. Both rows are allowed"
                " the same number of steps.",
                *self._notes(answers["pretrained"]),
            ),
        )

    def fig4(self) -> Figure:
        """Draw the t-SNE of one model's features of its test records (Fig. 4).

        The features of section V-B: the output of each branch's attention (24 values) and of the
        attention over all leads (288 by Table VI; section V-B says 24).
        """
        from mlbf_keras.model import load_model

        test = self.folds[0]
        (folder,) = self._run([self._model(Variant(), test, self._next_fold(test))])
        model = load_model(folder / "best.keras")
        with Store(self.store) as opened:
            usable = opened.records_of("cpsc2018", single_label=True)
            records = usable[opened.folds[usable] == test]
            features, classes = features_of(
                model, opened, records, batch_size=self.protocol.batch_size
            )
            ids = opened.ids[records]
        perplexity = min(30.0, (len(records) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=self.protocol.seed)
        points = {name: tsne.fit_transform(values) for name, values in features.items()}
        with written_whole(self.out / "fig4.npz") as part, part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, ids=ids, classes=classes, **points)
        return plot_embeddings(
            points,
            classes,
            CPSC_CLASSES,
            title=f"Fig. 4. t-SNE of MLBF-Net's features, {len(records):,} records of the test"
            f" fold {test}",
        )

    def _model(
        self,
        variant: Variant,
        test_fold: int | None,
        validation_fold: int,
        *,
        extra: bool | None = None,
    ) -> "_Model":
        """Specify the training of one model; ``extra`` is for :meth:`generated` only.

        Exchanging the test and validation folds leaves the training records the same.  Table III
        needs MLBF-Net both ways, so one training gives both models; the seed is that of the pair.
        """
        from ecg_keras.training.folds import SECOND

        both_ways = variant == Variant() and test_fold is not None and extra is None
        folds = [fold for fold in (test_fold, validation_fold) if fold is not None]
        if both_ways:
            names = f"folds={min(folds)}-{max(folds)}"
        else:
            test = "none" if test_fold is None else test_fold
            names = f"test={test}_validation={validation_fold}"
        records = {None: "", False: "real-alone_", True: "with-generated_"}[extra]
        job = Job(
            name=f"{records}{variant.name}_{names}",
            work="mlbf_keras.variants:train",
            options={
                **asdict(variant),
                **asdict(self.protocol),
                "test_fold": min(folds) if both_ways else test_fold,
                "validation_fold": max(folds) if both_ways else validation_fold,
                "both_ways": both_ways,
                "extra": bool(extra),
                "seed": self.protocol.seed + max(folds),
            },
        )
        return _Model(job, SECOND if both_ways and validation_fold == min(folds) else "")

    def _run(self, models: Sequence["_Model"]) -> list[Path]:
        """Run the trainings that are not yet done; return the folder of each model."""
        folders = self.run(model.job for model in models)
        return [folders[model.job.name] / model.part for model in models]

    @cached_property
    def _present(self) -> tuple[int, ...]:
        """The folds of the store."""
        present = choose_test_folds(self.store, ("all",))
        if len(present) < 3:
            raise OptionError(
                f"{self.store} has {len(present)} folds, and 8:1:1 needs three at least; build it"
                " again with ecg-build."
            )
        return present

    def _next_fold(self, fold: int) -> int:
        """The validation fold that goes with a test fold."""
        return self._present[(self._present.index(fold) + 1) % len(self._present)]

    def _cross_validated(self, variants: dict[str, Variant]) -> dict[str, list[Predictions]]:
        """Train each variant for each test fold; return its predictions for these folds."""
        models = [
            self._model(variant, fold, self._next_fold(fold))
            for variant in variants.values()
            for fold in self.folds
        ]
        return self._answers(variants, models)

    def _answers(
        self, names: Iterable[str], models: Sequence["_Model"]
    ) -> dict[str, list[Predictions]]:
        """Train the models, one per name and test fold; return their predictions."""
        folders = iter(self._run(models))
        return {
            name: [load_predictions(next(folders) / "test.npz") for _ in self.folds]
            for name in names
        }

    def _compared(
        self, names: Iterable[str], answers: dict[str, list[Predictions]], table: str
    ) -> list[tuple[Cell, ...]]:
        """Per row: its name, average F1 over folds, pooled score, difference to the first row."""
        results = {name: self._scored(_file_name(name), answers[name], table) for name in names}
        first = next(iter(results.values()))
        return [
            (
                name,
                _fold_spreads(answers[name])[-1],
                _estimate(result),
                None if result is first else self._difference(first, result),
            )
            for name, result in results.items()
        ]

    def _scored(self, name: str, parts: Sequence[Predictions], table: str) -> Result:
        """Save the out-of-fold predictions of a row and score them as ecg-evaluate does."""
        path, together = self.out / table / f"{name}.npz", pooled(parts)
        save_predictions(path, together)
        return score_predictions(
            together,
            path=path,
            name=name,
            labels_from=str(self.store),
            resamples=self.bootstrap,
            seed=self.protocol.seed,
        )

    def _difference(self, first: Result, second: Result) -> Estimate:
        """Score of the second minus that of the first, with a paired bootstrap."""
        difference = compare(first, second, resamples=self.bootstrap, seed=self.protocol.seed)
        assert difference is not None
        return difference.values[SCORE]

    @property
    def _published(self) -> str:
        return self.published_heading({"cpsc2018": (paper.NUM_PUBLIC_RECORDS,)})

    def _scored_on(self, parts: Sequence[Predictions]) -> str:
        count, present = sum(len(part.ids) for part in parts), len(self._present)
        ratio = ", 8:1:1" if present == 10 else ""
        return f"out-of-fold on {count:,} records ({len(parts)} of {present} folds{ratio})"

    def _notes(self, parts: Sequence[Predictions]) -> tuple[str, ...]:
        """Notes on the training and on the averages over folds."""
        lacking = {
            name: sum(c not in np.asarray(part.first_labels) for part in parts)
            for c, name in enumerate(CPSC_CLASSES)
        }
        without = [f"{name} ({folds} of {len(parts)})" for name, folds in lacking.items() if folds]
        return (
            f"At most {self.protocol.epochs} epochs of batches of {self.protocol.batch_size},"
            f" {self.protocol.input_length} samples, seed {self.protocol.seed}; epoch and"
            " thresholds chosen on the validation folds.",
            "Pooled: all folds' answers scored together; intervals by bootstrap, of differences"
            " by paired bootstrap over the same records.",
            *(
                [
                    "Where no record of a fold has a class, the fold is left out of the class's"
                    f" mean and the class of the fold's average: {', '.join(without)} folds."
                ]
                if without
                else []
            ),
            *self._about_folds,
        )

    @property
    def _about_folds(self) -> tuple[str, ...]:
        """A note on how the folds were assigned, if the store records it."""
        with Store(self.store) as opened:
            made = opened.provenance
        options = made.get("stores", [made])[0].get("options", {})
        return {
            "stratified": (
                "The folds are stratified by class; the paper's are random (ecg-build --folds"
                " random).",
            ),
            "random": ("The folds are random, as the paper's.",),
        }.get(options.get("folds"), ())


def _require_used(rejected: Sequence[Rejected], held_out: Path) -> None:
    if rejected:
        raise RecordError(
            f"{len(rejected)} of the recordings of {held_out} cannot be used, the first because:"
            f" {rejected[0].reason}"
        )


def _fold_spreads(parts: Sequence[Predictions]) -> list[Spread]:
    """Mean and SD over folds of the F1 of each class, and of their average."""
    folds = []
    for part in parts:
        assert part.first_labels is not None
        truth = one_hot(part.first_labels, len(part.class_names))
        f1 = class_f1(truth, one_hot(part.answers, len(part.class_names)))
        folds.append(np.where(truth.any(axis=0), f1, np.nan))
    return [*map(Spread.of, np.transpose(folds)), Spread.of(np.nanmean(folds, axis=1))]


def _estimate(result: Result, score: str = SCORE) -> Estimate:
    return Estimate.of(result.values[score], result.intervals[score])


def _file_name(row: str) -> str:
    return row.replace("λ", "lambda").replace(" ", "-").replace("-=-", "=")


def features_of(
    model: "ECGModel", store: Store, records: np.ndarray, *, batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Compute the attention outputs of an MLBF-Net, from which its heads predict.

    Args:
        model: an MLBF-Net with a head per lead.
        store: an open store.
        records: indices of records in the store.
        batch_size: records per batch.

    Returns:
        A dict with the fused features ``(records, 288)`` under ``"MLBF-Net"`` and those of each
        lead ``(records, 24)`` under its name; and the records' classes, 0-based.
    """
    from ecg_keras.model.backend import keras
    from ecg_keras.training.batches import StoreBatches

    network, leads = model.network, model.contract.leads
    batches = StoreBatches(
        store, records, contract=model.contract, heads=("fused",), batch_size=batch_size
    )
    layers = {name: network.get_layer(f"{name}_features").output for name in ("fused", "lead")}
    features = keras.Model(network.input, layers).predict(batches, verbose=0)
    by_lead = features["lead"].reshape(len(records), len(leads), -1)
    return (
        {"MLBF-Net": features["fused"], **{lead: by_lead[:, i] for i, lead in enumerate(leads)}},
        batches.labels.argmax(axis=1),
    )
