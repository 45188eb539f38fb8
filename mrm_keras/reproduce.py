"""Command: every table and figure of the MRM-Net paper, by its number."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from data_prep.commands import run_command
from data_prep.errors import OptionError, StoreError
from ecg_keras.training.settings import Monitor, Precision

if TYPE_CHECKING:
    from ecg_keras.papers.tables import ResultTable
    from mrm_keras.variants import Protocol, Selection, Variant

TABLES = {
    "table1": "Table I: the layers of MRM-Net and their parameters",
    "table2_3": "Tables II and III: all networks on the six tasks of PTB-XL",
    "table4": "Table IV: all networks on CPSC 2018",
    "table5": "Table V: fusion by addition, by concatenation, by mutual learning",
    "table6": "Table VI: low resolution, high resolution, both",
    "table7": "Table VII: widths of the branches, and the time of an epoch",
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
    table: Positional[Name | None] = None,
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
    learning_rate: float = 1e-3,
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
    numbers.  Each training is a folder OUT/units/NAME with the model and, in scored.npz, its
    answers to the scored records, which ecg-evaluate scores anew; a command that is interrupted
    goes on where it stopped, and tables in one OUT share their trainings.

    The validation fold chooses the epoch and the thresholds, the test fold is scored. A store
    without records in the test fold is scored on its validation fold, and the caption says so.

    Args:
        table: what to reproduce; --list shows all.
        store: made by ecg-build at 100 Hz, from PTB-XL or, for table4 and fig5, from CPSC 2018.
        out: folder for the results.
        list: show what there is, and stop.
        smoke: try the command in a minute or two with few channels and one epoch, on generated
            records where no --store is given; the figures mean nothing.
        networks: table2_3 and table4: which are compared; by default all of the paper's. Those that
            end in _benchmark are the forms of the PTB-XL benchmark.
        tasks: a table for each; by default all six for table2_3, all for the others on PTB-XL.
        seeds: each trains every row once; the paper tells neither its seeds nor their number.
        epochs: of every training; by default the paper's 100.
        batch_size: records a step; by default the paper's 64.
        learning_rate: Adam's, fixed.
        monitor: the score that chooses the epoch to keep.
        precision: of the computation; weights and answers are float32 always.
        input_length: samples at 100 Hz; by default the paper's 1000 (10 s).
        validation_fold: the fold that chooses epoch and thresholds.
        test_fold: the fold that is scored.
        paper_protocol: yes lets the scored records choose the epoch (the greater of both heads'
            sums of AUC and F1 per record), as the published code does, and every caption says so;
            both shows both protocols side by side, from the same trainings.
        widths: table7: channels of the low branch; the high one has twice as many.
        weights: fig6: the values that alpha, beta and gamma take.
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
    if bootstrap < 1:
        raise OptionError(f"--bootstrap must be at least 1, not {bootstrap}; 1000 is usual.")
    if not (seeds and networks and widths and weights):
        raise OptionError(
            "--seeds, --networks, --widths and --weights need at least one value each."
        )
    if table == "table1":
        from mrm_keras.results import table1

        _write(out, table, table1(), smoke=False)
        return
    if store is None and not smoke:
        raise OptionError(f"{table} needs --store; build one with ecg-build, or try --smoke.")
    if smoke and store is None:
        store = _smoke_store(out, cpsc=table in ("table4", "fig5", "fig6"))
        tasks = tasks or (SMOKE_TASKS if table == "table2_3" else ())
        networks = SMOKE_NETWORKS if networks == PAPER_NETWORKS else networks
    assert store is not None
    from ecg_keras.papers.tables import write_figure
    from ecg_keras.training.settings import require_sensible
    from mrm_keras.results import Reproduction
    from mrm_keras.variants import Protocol

    protocol = Protocol(
        input_length=_given(input_length, 320 if smoke else 1000),
        epochs=_given(epochs, 1 if smoke else 100),
        batch_size=_given(batch_size, 32 if smoke else 64),
        learning_rate=learning_rate,
        monitor=monitor,
        precision=precision,
        validation_fold=validation_fold,
        test_fold=test_fold,
    )
    for value in (*seeds, *weights):
        require_sensible({**vars(protocol), "seed": value, "alpha": value})
    for width in widths:
        require_sensible({"widths": width})
    protocol = _with_folds_of(store, protocol, paper_protocol)
    reproduction = Reproduction(
        store=store,
        out=out,
        protocol=protocol,
        seeds=tuple(dict.fromkeys(seeds[:1] if smoke else seeds)),
        tasks=_tasks_of(store, table, tasks),
        selections=_SELECTIONS[paper_protocol],
        bootstrap=min(bootstrap, 50) if smoke else bootstrap,
        scheduler=scheduler,
    )
    if table in ("fig5", "fig6"):
        made, figure = (
            reproduction.fig5(_variants("table6", networks, widths, smoke=smoke)["MRM-Net"])
            if table == "fig5"
            else reproduction.fig6(_grid(weights[:2] if smoke else weights, smoke=smoke))
        )
        _write(out, table, made, smoke=smoke)
        print(write_figure(out / f"{table}.png", figure))
        return
    variants = _variants(table, networks, widths, smoke=smoke)
    if table == "table5":
        tables = reproduction.table5(variants)
    elif table == "table6":
        tables = reproduction.table6(variants)
    elif table == "table7":
        tables = reproduction.table7(variants)
    else:
        number = "Table IV" if table == "table4" else "Tables II and III"
        tables = reproduction.networks(number, variants)
    curves = reproduction.learning_curves(variants)
    for task, made in tables.items():
        _write(out, f"{table}_{task}", made, smoke=smoke)
        print(write_figure(out / f"{table}_{task}_curves.png", curves[task]))


_SELECTIONS: dict[str, "tuple[Selection, ...]"] = {
    "no": ("validation",),
    "yes": ("test",),
    "both": ("validation", "test"),
}


def _variants(
    table: str, networks: tuple[Network, ...], widths: tuple[int, ...], *, smoke: bool
) -> "dict[str, Variant]":
    """Name the rows of a table."""
    from mrm_keras.variants import Variant

    low, high = (4, 8) if smoke else (128, 256)
    ours = Variant(low_channels=low, high_channels=high)
    if table == "table5":
        return {
            "addition": Variant(fusion="add", low_channels=low, high_channels=high),
            "concatenation": Variant(fusion="concat", low_channels=low, high_channels=high),
            "MRM-Net": ours,
        }
    if table == "table6":
        return {
            "low resolution": Variant(fusion="low", low_channels=low, high_channels=high),
            "high resolution": Variant(fusion="high", low_channels=low, high_channels=high),
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
    """All combinations of alpha, beta and gamma."""
    from itertools import product

    from mrm_keras.variants import Variant

    low, high = (4, 8) if smoke else (128, 256)
    values = dict.fromkeys(float(weight) for weight in weights)
    return {
        (alpha, beta, gamma): Variant(
            low_channels=low, high_channels=high, alpha=alpha, beta=beta, gamma=gamma
        )
        for alpha, beta, gamma in product(values, repeat=3)
    }


def _with_folds_of(store: Path, protocol: "Protocol", paper_protocol: str) -> "Protocol":
    """Leave out the test fold where the store has none.

    Raises:
        OptionError: where both folds are one, or the scored records are to choose the epoch and
            there is no test fold.
    """
    from dataclasses import replace

    from data_prep.store import Store

    if protocol.validation_fold == protocol.test_fold:
        raise OptionError(
            f"fold {protocol.test_fold} cannot both validate and be the test fold; give another"
            " --validation-fold or --test-fold."
        )
    with Store(store) as opened:
        folds = {int(fold) for fold in opened.folds}
    if protocol.validation_fold not in folds:
        raise StoreError(
            f"{store} has no record in fold {protocol.validation_fold}; give another"
            " --validation-fold."
        )
    if protocol.test_fold in folds:
        return protocol
    if paper_protocol != "no":
        raise OptionError(
            f"{store} has no fold {protocol.test_fold}, so that its validation fold is scored and"
            " chooses the epoch in any case; leave out --paper-protocol, or give another"
            " --test-fold."
        )
    return replace(protocol, test_fold=None)


def _tasks_of(store: Path, table: str, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Choose a table's tasks.

    Raises:
        StoreError: where the store has no such task, or is of the other data set.
    """
    from data_prep.store import Store

    with Store(store) as opened:
        on_cpsc = opened.dataset == "cpsc2018"
        if (table in ("table4", "fig5") and not on_cpsc) or (table == "table2_3" and on_cpsc):
            wanted = "CPSC 2018" if table != "table2_3" else "PTB-XL"
            raise StoreError(f"{table} is of {wanted}, and {store} is not; give a store of it.")
        if not tasks:
            tasks = ("cpsc2018",) if on_cpsc else ALL_TASKS if table == "table2_3" else ("all",)
        return tuple(dict.fromkeys(opened.resolve_task(task) for task in tasks))


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _write(out: Path, name: str, table: "ResultTable", *, smoke: bool) -> None:
    from dataclasses import replace

    from ecg_keras.papers.tables import as_markdown, write_table

    if smoke:
        table = replace(table, notes=(*table.notes, "A trial in small: the figures mean nothing."))
    path = write_table(out, name, table)
    print(as_markdown(table))
    print(path)


def _smoke_store(out: Path, *, cpsc: bool) -> Path:
    """Generate a store of short records in ten folds, with the tasks of either data set."""
    from data_prep.labels import CPSC_CLASSES
    from data_prep.store import StoreWriter
    from data_prep.synthetic import synthetic_record

    tasks: tuple[Task, ...] = ("cpsc2018",) if cpsc else ALL_TASKS
    path = out / ("smoke_cpsc.h5" if cpsc else "smoke_ptbxl.h5")
    with StoreWriter(
        path,
        dataset="cpsc2018" if cpsc else "ptb-xl",
        fs=100,
        class_names=dict.fromkeys(tasks, CPSC_CLASSES),
    ) as writer:
        for i in range(90):
            record = synthetic_record((i % 9,), seconds=6, seed=i, fs=100)
            writer.append(
                f"S{i:04d}",
                record.signal,
                labels=dict.fromkeys(tasks, record.labels),
                first_label=record.labels[0],
                fold=i // 9 + 1,
                age=record.age,
                sex=record.sex,
            )
    return path


def command() -> None:
    """Run ``mrm-reproduce``."""
    run_command(main)


if __name__ == "__main__":
    command()
