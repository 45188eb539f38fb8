"""Command that reproduces the tables and figures of the MLBF-Net paper."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

from data_prep.commands import run_command
from data_prep.errors import OptionError
from ecg_keras.papers.reproduction import (
    choose_table,
    given,
    require_store,
    write_result,
    write_trial_store,
)
from ecg_keras.training.settings import Precision

TABLES = {
    "table2": "Table II: number of records of each class, here and in the paper",
    "table3": "Table III: a single MLBF-Net and the ensemble beside the literature",
    "table4": "Table IV: BranchNet on 12 leads against MLBF-Net",
    "table5": "Table V: single loss, and the weight lambda of the branch losses",
    "table6": "Table VI: parameters by layer",
    "fig3": "Fig. 3: a 12-lead record on ECG paper",
    "fig4": "Fig. 4: t-SNE of the fused features and of each lead's",
    "generated": "not in the paper: training with added synthetic records",
    "pretrained": "not in the paper: training from the weights of another model",
}

Name = Literal[
    "table2", "table3", "table4", "table5", "table6", "fig3", "fig4", "generated", "pretrained"
]


def main(
    table: Name | None = None,
    /,
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
    init: str = "mlbf-net-nine-classes",
    record: str | None = None,
    bootstrap: int = 1000,
    scheduler: str | None = None,
) -> None:
    """Reproduce a table or figure of the MLBF-Net paper, our figures beside the published ones.

    Writes OUT/TABLE.md and TABLE.csv, or the figure, and the predictions it was computed from,
    which ecg-evaluate can score again.  Each trained model has a folder OUT/units/NAME; an
    interrupted command resumes where it stopped, and tables with the same OUT share their models.

    Cross-validation uses the paper's 8:1:1 split: each fold in turn is the test set, the next one
    the validation set (for epoch and thresholds), and the others are the training set.  The
    paper's folds are random; ecg-build stratifies them unless given --folds random.  Before it
    starts, the command prints how many trainings are done and how many remain: with ten folds,
    table3 needs 45, table4, generated and pretrained 20 each, table5 80 and fig4 one.  The
    ensemble of table3 needs every fold as test set with every other as validation set; one
    training serves both orders of a pair of folds.

    Args:
        table: what to reproduce; --list shows all.
        store: made by ecg-build from CPSC 2018, at 250 Hz.
        out: folder for the results.
        list: list the tables and figures, and exit.
        smoke: try the command in a minute or two on synthetic records, with short signals, one
            epoch and two folds; the figures mean nothing.
        folds: the folds to test; numbers, or all.
        epochs: maximum number of epochs; by default 500.
        batch_size: records per step; by default the paper's 64.
        patience: stop training after this many epochs without a better validation score.
        input_length: samples at 250 Hz; by default the paper's 15000 (60 s).
        precision: of the computation; weights and predictions are always float32.
        seed: of weights, dropout, order and resampling; each training adds the larger of its test
            and validation fold numbers.
        loss_weights: table5: the values of lambda; the paper has seven from 0 to 10, three below
            and three above 1, but does not say which.
        reference: table2: count the labels of this REFERENCE.csv instead of a store's.
        held_out: table3: a REFERENCE.csv of recordings to score on, which are not in the store;
            by default the figures are out-of-fold.
        held_out_records: table3: folder of these recordings.
        extra_store: generated: a store whose records are added to the training set.
        init: pretrained: the model file, or name of a published model, to start from; it must be
            an MLBF-Net that has seen no record of the store. With --scheduler, every worker needs
            it under the same path or name.
        record: fig3: the record to draw; by default the first whose only label is normal.
        bootstrap: number of bootstrap resamples for the 95 % intervals.
        scheduler: address of a Dask scheduler, such as tcp://host:8786, each of whose workers
            trains one model at a time; by default this machine trains, one process per GPU.
    """
    name = choose_table(table, TABLES, list_only=list, bootstrap=bootstrap)
    if name is None:
        return
    if (held_out is None) != (held_out_records is None):
        raise OptionError("--held-out and --held-out-records go together; give both or neither.")
    if smoke:
        if store or extra_store or reference or held_out:
            raise OptionError("--smoke generates its own records; leave out the other data.")
        write = partial(
            write_trial_store,
            dataset="cpsc2018",
            fs=250,
            tasks=("cpsc2018",),
            records=54,
            folds=3,
        )
        store = write(out / "smoke.h5")
        if name == "generated":
            extra_store = write(out / "smoke_extra.h5", first_seed=1000)
    from ecg_keras.papers.tables import write_figure
    from mlbf_keras.results import Reproduction, fig3, table2, table6
    from mlbf_keras.variants import Protocol, choose_test_folds, merge_stores

    if name == "table6":
        write_result(out, name, table6())
        return
    if name == "table2" and (reference or store):
        write_result(out, name, table2(store=store, reference=reference))
        return
    store = require_store(store, name)
    if name == "fig3":
        print(write_figure(out / "fig3.png", fig3(store, record)))
        return
    from ecg_keras.training.settings import require_sensible

    if name == "generated":
        if extra_store is None:
            raise OptionError("generated needs --extra-store, the store whose records to add.")
        store = merge_stores(store, extra_store, out / "merged.h5")
    protocol = Protocol(
        input_length=given(input_length, 1024 if smoke else 15000),
        epochs=given(epochs, 1 if smoke else 500),
        batch_size=given(batch_size, 16 if smoke else 64),
        patience=patience,
        precision=precision,
        seed=seed,
    )
    require_sensible({**asdict(protocol), "loss_weights": loss_weights})
    reproduction = Reproduction(
        store=store,
        out=out,
        protocol=protocol,
        folds=choose_test_folds(store, ("1", "2") if smoke and folds == ("all",) else folds),
        bootstrap=bootstrap,
        scheduler=scheduler,
    )
    if name == "fig4":
        print(write_figure(out / "fig4.png", reproduction.fig4()))
        return
    if name == "table3":
        made = reproduction.table3(held_out, held_out_records)
    elif name == "table4":
        made = reproduction.table4()
    elif name == "table5":
        weights = (0.0, 1.0) if smoke else loss_weights
        made = reproduction.table5(tuple(dict.fromkeys(float(weight) for weight in weights)))
    elif name == "generated":
        made = reproduction.generated()
    else:
        made = reproduction.pretrained(init)
    write_result(out, name, made, smoke=smoke)


def command() -> None:
    """Run ``mlbf-reproduce``."""
    run_command(main)


if __name__ == "__main__":
    command()
