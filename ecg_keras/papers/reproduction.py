"""Shared parts of the commands that reproduce a paper's tables and figures."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import OptionError
from data_prep.labels import CPSC_CLASSES
from data_prep.store import Store, StoreWriter
from data_prep.synthetic import synthetic_record
from ecg_keras.papers.jobs import Job, run_jobs

if TYPE_CHECKING:
    from ecg_keras.papers.tables import ResultTable


@dataclass(frozen=True)
class Reproduction:
    """Runs the trainings for a paper's tables; a subclass for each network makes the tables.

    Attributes:
        store: path of the store that all trainings use.
        out: folder for the results.
        bootstrap: number of bootstrap resamples for the intervals.
        scheduler: address of a Dask scheduler; None for this machine.
    """

    store: Path
    out: Path
    bootstrap: int
    scheduler: str | None

    def run(self, jobs: Iterable[Job]) -> dict[str, Path]:
        """Run the jobs that are not done yet; return the folders of all by job name."""
        by_name = {job.name: job for job in jobs}
        folders = run_jobs(
            [*by_name.values()], store=self.store, out=self.out, scheduler=self.scheduler
        )
        return dict(zip(by_name, folders, strict=True))

    def published_heading(self, num_records: Mapping[str, Collection[int]]) -> str:
        """Return the heading of published scores, marked unless they are on the same data.

        Args:
            num_records: the possible numbers of records of each data set of the paper, by name.
        """
        with Store(self.store) as opened:
            same_data = len(opened) in num_records.get(opened.dataset, ())
        return "published" if same_data else "published (other data)"


def choose_table(
    table: str | None, tables: Mapping[str, str], *, list_only: bool, bootstrap: int
) -> str | None:
    """Print what can be reproduced, or check the options.

    Args:
        table: name of a table or figure, or None.
        tables: descriptions of all tables and figures, by name.
        list_only: print ``tables``.
        bootstrap: number of bootstrap resamples.

    Returns:
        ``table``; None if the list was printed.

    Raises:
        OptionError: if no table is named, or ``bootstrap`` is below 1.
    """
    if list_only:
        for name, description in tables.items():
            print(f"{name:10} {description}")
        return None
    if table is None:
        raise OptionError(f"name what to reproduce: {', '.join(tables)}; --list explains them.")
    if bootstrap < 1:
        raise OptionError(f"--bootstrap must be at least 1, not {bootstrap}; 1000 is usual.")
    return table


def require_store(store: Path | None, table: str) -> Path:
    """Return ``store``.

    Raises:
        OptionError: if it is None.
    """
    if store is None:
        raise OptionError(f"{table} needs --store; build one with ecg-build, or try --smoke.")
    return store


def given(value: int | None, default: int) -> int:
    """Return ``value``, or ``default`` if the option was not given."""
    return default if value is None else value


def write_result(out: Path, name: str, table: "ResultTable", *, smoke: bool = False) -> None:
    """Write ``OUT/NAME.md`` and ``OUT/NAME.csv``, and print the table.

    Args:
        out: folder for the results.
        name: such as ``"table4"``.
        table: the table.
        smoke: add a note that the figures mean nothing.
    """
    from ecg_keras.papers.tables import as_markdown, write_table

    if smoke:
        table = replace(table, notes=(*table.notes, "A trial run: the figures mean nothing."))
    path = write_table(out, name, table)
    print(as_markdown(table))
    print(path)


def write_trial_store(
    path: Path,
    *,
    dataset: str,
    fs: int,
    tasks: Sequence[str],
    records: int,
    folds: int,
    first_seed: int = 0,
) -> Path:
    """Write a store of generated 6 s records, with the nine CPSC 2018 classes in turn.

    Args:
        path: path of the store.
        dataset: name of the data set that the store stands in for.
        fs: sampling rate in Hz.
        tasks: names of the tasks; all get the same labels.
        records: number of records.
        folds: number of folds, filled in turn with nine records at a time.
        first_seed: seed of the first record; increases by 1 for each further record.

    Returns:
        ``path``.
    """
    classes = dict.fromkeys(tasks, CPSC_CLASSES)
    with StoreWriter(path, dataset=dataset, fs=fs, class_names=classes) as writer:
        for i in range(records):
            record = synthetic_record((i % 9,), seconds=6, seed=first_seed + i, fs=fs)
            writer.append(
                f"S{i:04d}",
                record.signal,
                labels=dict.fromkeys(tasks, record.labels),
                first_label=record.labels[0],
                fold=i // 9 % folds + 1,
                age=record.age,
                sex=record.sex,
            )
    return path
