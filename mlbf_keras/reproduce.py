"""Command: every table and figure of the MLBF-Net paper, by its number."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from data_prep.commands import run_command
from data_prep.errors import OptionError
from ecg_keras.training.settings import Precision

if TYPE_CHECKING:
    from ecg_keras.papers.tables import ResultTable

TABLES = {
    "table2": "Table II: how many records each class has, here and in the paper",
    "table3": "Table III: a single MLBF-Net and the ensemble beside the literature",
    "table4": "Table IV: BranchNet on 12 leads against MLBF-Net",
    "table5": "Table V: single loss, and the weight lambda of the leads' losses",
    "table6": "Table VI: parameters by layer",
    "fig3": "Fig. 3: a 12-lead record on ECG paper",
    "fig4": "Fig. 4: t-SNE of the fused features and of each lead's",
    "generated": "not in the paper: generated records added to the training records",
}

Name = Literal["table2", "table3", "table4", "table5", "table6", "fig3", "fig4", "generated"]


def main(
    table: Positional[Name | None] = None,
    *,
    store: Path | None = None,
    out: Path = Path("reproduced"),
    list: bool = False,
    smoke: bool = False,
    folds: tuple[str, ...] = ("all",),
    epochs: int | None = None,
    batch_size: int | None = None,
    patience: int = 50,
    input_length: int | None = None,
    precision: Precision = "float32",
    seed: int = 0,
    loss_weights: tuple[float, ...] = (0, 0.1, 0.5, 1, 2, 5, 10),
    reference: Path | None = None,
    held_out: Path | None = None,
    held_out_records: Path | None = None,
    extra_store: Path | None = None,
    record: str | None = None,
    bootstrap: int = 1000,
    scheduler: str | None = None,
) -> None:
    """Reproduce a table or figure of the MLBF-Net paper, our figures beside the published ones.

    Writes OUT/TABLE.md and TABLE.csv, or the figure, and the predictions behind it, which
    ecg-evaluate scores anew.  Each trained model is a folder OUT/units/NAME; a command that is
    interrupted goes on where it stopped, and tables in one OUT share their models.

    Cross-validation is by the paper's 8:1:1: each fold in turn is the test part, the next one
    validates (epoch and thresholds), the others train.  The paper's folds are random; those of
    ecg-build are stratified unless it was given --folds random.  Before it starts, the command
    prints how many trainings are done and to be done: table3 on ten folds is 45, table4 20,
    table5 80, generated 20, fig4 one.  table3's ensemble needs every fold tested with every other
    validating, and one training serves a pair of folds both ways.

    Args:
        table: what to reproduce; --list shows all.
        store: made by ecg-build from CPSC 2018, at 250 Hz.
        out: folder for the results.
        list: show what there is, and stop.
        smoke: try the command in a minute or two on generated records, with short signals, one
            epoch and two folds; the figures mean nothing.
        folds: which folds are tested; numbers, or all.
        epochs: at most this many; by default 500.
        batch_size: records a step; by default the paper's 64.
        patience: epochs without a better validation score after which training stops.
        input_length: samples at 250 Hz; by default the paper's 15000 (60 s).
        precision: of the computation; weights and answers are float32 always.
        seed: of weights, dropout, order and resampling; a training adds the greater of its test
            and validation folds' numbers.
        loss_weights: table5: the values of lambda; the paper has seven from 0 to 10, three below
            and three above 1, and does not print which.
        reference: table2: count the labels of this REFERENCE.csv instead of a store's.
        held_out: table3: a REFERENCE.csv of recordings that are in no store, to score on; by
            default the figures are out-of-fold.
        held_out_records: table3: folder of these recordings.
        extra_store: generated: a store whose records are added to the training parts.
        record: fig3: the record to draw; by default the first that is normal and nothing else.
        bootstrap: how often records are resampled for 95 % intervals.
        scheduler: address of a Dask scheduler, such as tcp://host:8786, whose workers train one
            model at a time each; by default this machine does, one process for each of its GPUs.
    """
    if list:
        for name, what in TABLES.items():
            print(f"{name:10} {what}")
        return
    if table is None:
        raise OptionError(f"name what to reproduce: {', '.join(TABLES)}; --list explains them.")
    if (held_out is None) != (held_out_records is None):
        raise OptionError("--held-out and --held-out-records go together; give both or neither.")
    if smoke:
        if store or extra_store or reference or held_out:
            raise OptionError("--smoke generates its own records; give no others with it.")
        store, extra_store = _smoke_stores(out, extra=table == "generated")
    if bootstrap < 1:
        raise OptionError(f"--bootstrap must be at least 1, not {bootstrap}; 1000 is usual.")
    from ecg_keras.papers.tables import write_figure
    from mlbf_keras.results import Reproduction, fig3, table2, table6
    from mlbf_keras.variants import Protocol, choose_test_folds, merge_stores

    if table == "table6":
        _write(out, table, table6())
        return
    if table == "table2" and (reference or store):
        _write(out, table, table2(store=store, reference=reference))
        return
    if store is None:
        raise OptionError(f"{table} needs --store; build one with ecg-build, or try --smoke.")
    if table == "fig3":
        print(write_figure(out / "fig3.png", fig3(store, record)))
        return
    from ecg_keras.training.settings import require_sensible

    if table == "generated":
        if extra_store is None:
            raise OptionError("generated needs --extra-store, whose records are added.")
        store = merge_stores(store, extra_store, out / "merged.h5")
    protocol = Protocol(
        input_length=_given(input_length, 1024 if smoke else 15000),
        epochs=_given(epochs, 1 if smoke else 500),
        batch_size=_given(batch_size, 16 if smoke else 64),
        patience=patience,
        precision=precision,
        seed=seed,
    )
    for weight in loss_weights:
        require_sensible({**asdict(protocol), "loss_weight": weight})
    reproduction = Reproduction(
        store=store,
        out=out,
        protocol=protocol,
        folds=choose_test_folds(store, ("1", "2") if smoke and folds == ("all",) else folds),
        bootstrap=bootstrap,
        scheduler=scheduler,
    )
    if table == "fig4":
        print(write_figure(out / "fig4.png", reproduction.fig4()))
        return
    if table == "table3":
        made = reproduction.table3(held_out, held_out_records)
    elif table == "table4":
        made = reproduction.table4()
    elif table == "table5":
        weights = (0.0, 1.0) if smoke else loss_weights
        made = reproduction.table5(tuple(dict.fromkeys(float(weight) for weight in weights)))
    else:
        made = reproduction.generated()
    if smoke:
        made = replace(made, notes=(*made.notes, "A trial on generated records: means nothing."))
    _write(out, table, made)


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _write(out: Path, name: str, table: "ResultTable") -> None:
    from ecg_keras.papers.tables import as_markdown, write_table

    path = write_table(out, name, table)
    print(as_markdown(table))
    print(path)


def _smoke_stores(out: Path, *, extra: bool) -> tuple[Path, Path | None]:
    """Generate stores of short records in three folds."""
    from data_prep.labels import CPSC_CLASSES
    from data_prep.store import StoreWriter
    from data_prep.synthetic import synthetic_record

    paths = [out / "smoke.h5", *([out / "smoke_extra.h5"] if extra else [])]
    for number, path in enumerate(paths):
        with StoreWriter(
            path, dataset="cpsc2018", fs=250, class_names={"cpsc2018": CPSC_CLASSES}
        ) as writer:
            for i in range(54):
                record = synthetic_record((i % 9,), seconds=6, seed=1000 * number + i, fs=250)
                writer.append(
                    f"S{i:04d}",
                    record.signal,
                    labels={"cpsc2018": record.labels},
                    first_label=record.labels[0],
                    fold=i // 9 % 3 + 1,
                    age=record.age,
                    sex=record.sex,
                )
    return paths[0], paths[1] if extra else None


def command() -> None:
    """Run ``mlbf-reproduce``."""
    run_command(main)


if __name__ == "__main__":
    command()
