"""Work of a moment for the tests of units; processes started by the tests import it too."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any


def note(store: Path, folder: Path, *, number: int, seed: int = 0) -> None:
    """Write down what was given, and where it ran."""
    answer: dict[str, Any] = {
        "square": number**2,
        "seed": seed,
        "store": str(store),
        "content": hashlib.sha256(store.read_bytes()).hexdigest(),
        "process": os.getpid(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    (folder / "answer.json").write_text(json.dumps(answer))


def once(store: Path, folder: Path, *, number: int, board: str, rest: float = 0.0) -> None:
    """The same, but the first to come leaves its process's number on the board and rests."""
    time.sleep(0.1)
    mark = Path(board) / f"first_at_{number}"
    if not mark.exists():
        part = mark.with_suffix(".part")
        part.write_text(str(os.getpid()))
        part.rename(mark)
        time.sleep(rest)
    note(store, folder, number=number)


def unless(store: Path, folder: Path, *, number: int, board: str) -> None:
    """The same, but count the calls on the board, and fail while a file there says so."""
    calls = Path(board) / f"calls_{number}"
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    if (folder / "half.txt").exists():
        (Path(board) / f"went_on_{number}").touch()
    (folder / "half.txt").write_text("half done")
    failures = Path(board) / f"fail_{number}"
    if failures.exists():
        left = int(failures.read_text()) - 1
        failures.write_text(str(left)) if left else failures.unlink()
        raise ValueError(f"number {number} cannot be done")
    note(store, folder, number=number)


def train_toy(store: Path, folder: Path, *, epochs: int) -> None:
    """Train the toy network for some epochs, going on with what is there."""
    import numpy as np
    from toy import compiled_toy, toy_network

    from data_prep.store import Store
    from ecg_keras.training.fit import train_fold
    from ecg_keras.training.folds import Parts
    from ecg_keras.training.settings import Settings

    with Store(store) as opened:
        train_fold(
            opened,
            folder=folder,
            fold=1,
            task="cpsc2018",
            parts=Parts(np.flatnonzero(opened.folds > 1), np.flatnonzero(opened.folds == 1)),
            settings=Settings(epochs=epochs, batch_size=16, patience=epochs),
            network=toy_network(lambda contract: compiled_toy(contract, dropout=0.5)),
            options={"epochs": epochs},
            resume=True,
        )
