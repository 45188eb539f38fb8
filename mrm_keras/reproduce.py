"""Command that reproduces the tables and figures of the MRM-Net paper."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_prep.commands import run_command
from data_prep.errors import OptionError, StoreError
from ecg_keras.papers.reproduction import (
    choose_table,
    given,
    require_store,
    write_result,
    write_trial_store,
)
from ecg_keras.training.settings import Monitor, Precision, Schedule

if TYPE_CHECKING:
    from mrm_keras.variants import Protocol, Selection, Variant

TABLES = {
    "table1": "Table I: the layers of MRM-Net and their parameters",
    "table2_3": "Tables II and III: all networks on the six tasks of PTB-XL",
    "table4": "Table IV: all networks on CPSC 2018",
    "table5": "Table V: fusion by addition, by concatenation, by mutual learning",
    "table6": "Table VI: low resolution, high resolution, both",
    "table7": "Table VII: widths of the branches, and the time per epoch",
    "fig5": "Fig. 5: confusion matrix on CPSC 2018",
    "fig6": "Fig. 6: grid over alpha, beta and gamma, as parallel coordinates",
}

Name = Literal["table1", "table2_3", "table4", "table5", "table6", "table7", "fig5", "fig6"]
Network = Literal[
    "fcn_wang",
    "resnet1d_wang",
    "xresnet1d101",
    "ECG_BNN",
    "MobileNetV3",
    "InceptionTime",
    "MVMSNet",
    "fcn_wang_benchmark",
    "resnet1d_wang_benchmark",
    "xresnet1d101_benchmark",
    "MRM-Net",
]
Task = Literal[
    "all", "diagnostic", "subdiagnostic", "superdiagnostic", "form", "rhythm", "cpsc2018"
]

PAPER_NETWORKS: tuple[Network, ...] = tuple(
    name
    for name in Network.__args__  # type: ignore[attr-defined]
    if not name.endswith("_benchmark")
)
ALL_TASKS: tuple[Task, ...] = Task.__args__[:6]  # type: ignore[attr-defined]
SMOKE_NETWORKS: tuple[Network, ...] = ("fcn_wang", "ECG_BNN", "MRM-Net")
SMOKE_TASKS: tuple[Task, ...] = ("superdiagnostic", "rhythm")


def main(
    table: Name | None = None,
    /,
    *,
    store: Path | None = None,
    out: Path = Path("reproduced"),
    list: bool = False,
    smoke: bool = False,
    networks: tuple[Network, ...] = PAPER_NETWORKS,
    tasks: tuple[Task, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    schedule: Schedule = "constant",
    monitor: Monitor = "macro-auc",
    precision: Precision = "float32",
    input_length: int | None = None,
    validation_fold: int = 9,
    test_fold: int = 10,
    paper_protocol: Literal["no", "yes", "both"] = "no",
    widths: tuple[int, ...] = (64, 128, 256),
    weights: tuple[float, ...] = (0.01, 0.1, 1),
    bootstrap: int = 1000,
    scheduler: str | None = None,
) -> None:
    """Reproduce a table or figure of the MRM-Net paper, our figures beside the published ones.

    Writes OUT/TABLE_TASK.md and .csv with the learning curves of its rows, or the figure with its
    data.  Each training has a folder OUT/units/NAME with the model and, in scored.npz, its
    predictions for the scored records, which ecg-evaluate can score again; an interrupted command
    resumes where it stopped, and tables with the same OUT share their trainings.

    The validation fold chooses the epoch and the thresholds; the test fold is scored. If the store
    has no records in the test fold, the validation fold is scored, and the caption says so.

    Args:
        table: what to reproduce; --list shows all.
        store: made by ecg-build at 100 Hz, from PTB-XL or, for table4 and fig5, from CPSC 2018.
        out: folder for the results.
        list: list the tables and figures, and exit.
        smoke: try the command in a minute or two with few channels and one epoch, on synthetic
            records if no --store is given; the figures mean nothing.
        networks: table2_3 and table4: which to compare; by default all of the paper's.
            fcn_wang_benchmark, resnet1d_wang_benchmark and xresnet1d101_benchmark are the versions
            of the PTB-XL benchmark.
        tasks: one table each; by default all six for table2_3, and the task "all" for the other
            tables on PTB-XL.
        seeds: each row is trained once per seed; the paper gives neither its seeds nor their
            number.
        epochs: of every training; by default the paper's 100.
        batch_size: records per step; by default the paper's 64.
        learning_rate: Adam's, the highest if the schedule is one-cycle; by default the paper's
            0.001, but in one cycle the PTB-XL benchmark's 0.01 for the networks other than MRM-Net.
        schedule: of the learning rate; the paper's is constant. One-cycle rises and falls once, as
            in the benchmark, and reaches good scores in few epochs.
        monitor: the score that chooses the epoch to keep.
        precision: of the computation; weights and predictions are always float32.
        input_length: samples at 100 Hz; by default the paper's 1000 (10 s).
        validation_fold: the fold that chooses epoch and thresholds.
        test_fold: the fold that is scored.
        paper_protocol: yes chooses the epoch on the scored records (by AUC + F1 per record of the
            better head), as in the published code, and every caption says so; both shows the two
            protocols side by side, from the same trainings (not for fig5 and fig6).
        widths: table7: channels of the low branch; the high one has twice as many.
        weights: fig6: the values that alpha, beta and gamma take.
        bootstrap: number of bootstrap resamples for the 95 % intervals.
        scheduler: address of a Dask scheduler, such as tcp://host:8786, each of whose workers
            trains one model at a time; by default this machine trains, one process per GPU.
    """
    name = choose_table(table, TABLES, list_only=list, bootstrap=bootstrap)
    if name is None:
        return
    if name in ("fig5", "fig6") and paper_protocol == "both":
        raise OptionError(
            f"{name} shows one selection of the epoch; choose --paper-protocol yes or no."
        )
    if not (seeds and networks and widths and weights):
        raise OptionError(
            "--seeds, --networks, --widths and --weights need at least one value each."
        )
    if name == "table1":
        from mrm_keras.results import table1

        write_result(out, name, table1())
        return
    if smoke and store is None:
        store = _smoke_store(out, cpsc=name in ("table4", "fig5", "fig6"))
        tasks = tasks or (SMOKE_TASKS if name == "table2_3" else ())
        networks = SMOKE_NETWORKS if networks == PAPER_NETWORKS else networks
    store = require_store(store, name)
    from ecg_keras.papers.tables import write_figure
    from ecg_keras.training.settings import require_sensible
    from mrm_keras.results import Reproduction
    from mrm_keras.variants import Protocol

    protocol = Protocol(
        input_length=given(input_length, 320 if smoke else 1000),
        epochs=given(epochs, 1 if smoke else 100),
        batch_size=given(batch_size, 32 if smoke else 64),
        learning_rate=learning_rate,
        schedule=schedule,
        monitor=monitor,
        precision=precision,
        validation_fold=validation_fold,
        test_fold=test_fold,
    )
    asked = {"seeds": seeds, "weights": weights, "widths": widths}
    rate = protocol.rate_of("MRM-Net")
    require_sensible({**vars(protocol), "learning_rate": rate, **asked})
    protocol = _with_folds_of(store, protocol, paper_protocol)
    reproduction = Reproduction(
        store=store,
        out=out,
        protocol=protocol,
        seeds=tuple(dict.fromkeys(seeds[:1] if smoke else seeds)),
        tasks=_tasks_of(store, name, tasks),
        selections=_SELECTIONS[paper_protocol],
        bootstrap=min(bootstrap, 50) if smoke else bootstrap,
        scheduler=scheduler,
    )
    if name in ("fig5", "fig6"):
        made, figure = (
            reproduction.fig5(_ours(smoke=smoke))
            if name == "fig5"
            else reproduction.fig6(_grid(weights[:2] if smoke else weights, smoke=smoke))
        )
        write_result(out, name, made, smoke=smoke)
        print(write_figure(out / f"{name}.png", figure))
        return
    variants = _variants(name, networks, widths, smoke=smoke)
    tables = reproduction.comparisons(name, variants)
    curves = reproduction.learning_curves(variants)
    for task, made in tables.items():
        write_result(out, f"{name}_{task}", made, smoke=smoke)
        print(write_figure(out / f"{name}_{task}_curves.png", curves[task]))


_SELECTIONS: dict[str, "tuple[Selection, ...]"] = {
    "no": ("validation",),
    "yes": ("test",),
    "both": ("validation", "test"),
}


def _ours(*, smoke: bool) -> "Variant":
    """Return MRM-Net, with few channels for a trial."""
    from mrm_keras.variants import Variant

    return Variant(low_channels=4, high_channels=8) if smoke else Variant()


def _variants(
    table: str, networks: tuple[Network, ...], widths: tuple[int, ...], *, smoke: bool
) -> "dict[str, Variant]":
    """Return the network of each row of a table."""
    from mrm_keras.variants import Variant

    ours = _ours(smoke=smoke)
    if table == "table5":
        return {
            "addition": replace(ours, fusion="add"),
            "concatenation": replace(ours, fusion="concat"),
            "MRM-Net": ours,
        }
    if table == "table6":
        return {
            "low resolution": replace(ours, fusion="low"),
            "high resolution": replace(ours, fusion="high"),
            "MRM-Net": ours,
        }
    if table == "table7":
        widths = tuple(width // 32 for width in widths) if smoke else widths
        return {
            f"{width} and {2 * width} channels": Variant(
                low_channels=width, high_channels=2 * width
            )
            for width in dict.fromkeys(widths)
        }
    return {
        name: ours if name == "MRM-Net" else Variant(network=name)
        for name in dict.fromkeys(networks)
    }


def _grid(weights: tuple[float, ...], *, smoke: bool) -> "dict[tuple[float, ...], Variant]":
    """Return the network of each combination of alpha, beta and gamma."""
    from itertools import product

    values = dict.fromkeys(float(weight) for weight in weights)
    return {
        (alpha, beta, gamma): replace(_ours(smoke=smoke), alpha=alpha, beta=beta, gamma=gamma)
        for alpha, beta, gamma in product(values, repeat=3)
    }


def _with_folds_of(store: Path, protocol: "Protocol", paper_protocol: str) -> "Protocol":
    """Set the test fold to None if the store has no record in it.

    Raises:
        OptionError: if the validation and test folds are the same, or if the epoch is to be
            chosen on the test fold and there is none.
        StoreError: if the store has no record in the validation fold.
    """
    from data_prep.store import Store

    if protocol.validation_fold == protocol.test_fold:
        raise OptionError(
            f"fold {protocol.test_fold} cannot be both the validation and the test fold; choose"
            " another --validation-fold or --test-fold."
        )
    with Store(store) as opened:
        folds = {int(fold) for fold in opened.folds}
    if protocol.validation_fold not in folds:
        raise StoreError(
            f"{store} has no record in fold {protocol.validation_fold}; choose another"
            " --validation-fold."
        )
    if protocol.test_fold in folds:
        return protocol
    if paper_protocol != "no":
        raise OptionError(
            f"{store} has no fold {protocol.test_fold}, so the validation fold is scored and"
            " chooses the epoch in any case; leave out --paper-protocol, or choose another"
            " --test-fold."
        )
    return replace(protocol, test_fold=None)


def _tasks_of(store: Path, table: str, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tasks of a table: those requested, or the default.

    Raises:
        StoreError: if the store lacks a task, or holds the other data set.
    """
    from data_prep.store import Store

    with Store(store) as opened:
        on_cpsc = "cpsc2018" in opened.tasks  # or other data sets with its classes
        if (table in ("table4", "fig5") and not on_cpsc) or (table == "table2_3" and on_cpsc):
            wanted = "CPSC 2018" if table != "table2_3" else "PTB-XL"
            raise StoreError(f"{table} needs a store of {wanted}, which {store} is not.")
        if not tasks:
            tasks = ("cpsc2018",) if on_cpsc else ALL_TASKS if table == "table2_3" else ("all",)
        return tuple(dict.fromkeys(opened.resolve_task(task) for task in tasks))


def _smoke_store(out: Path, *, cpsc: bool) -> Path:
    """Write a store of synthetic records in ten folds, with the tasks of one of the data sets."""
    return write_trial_store(
        out / ("smoke_cpsc.h5" if cpsc else "smoke_ptbxl.h5"),
        dataset="cpsc2018" if cpsc else "ptb-xl",
        fs=100,
        tasks=("cpsc2018",) if cpsc else ALL_TASKS,
        records=90,
        folds=10,
    )


def command() -> None:
    """Run ``mrm-reproduce``."""
    run_command(main)


if __name__ == "__main__":
    command()
