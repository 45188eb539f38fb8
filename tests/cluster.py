"""A real Dask cluster on this machine, for the tests of what runs on one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def cluster(folder: Path, *, workers: int) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """Start a scheduler and workers that can import the tests' modules, and end them.

    Yields:
        The scheduler's address, and the workers' processes.
    """
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    processes: list[subprocess.Popen[bytes]] = []

    def start(command: str, *arguments: str) -> None:
        with (folder / f"process_{len(processes)}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", f"distributed.cli.{command}", *arguments],
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            )

    file = folder / "scheduler.json"
    try:
        start(
            *("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            *("--scheduler-file", str(file)),
        )
        deadline = time.monotonic() + 60
        while not (file.exists() and file.stat().st_size):
            assert time.monotonic() < deadline, (folder / "process_0.log").read_text()
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        for number in range(workers):
            start(
                *("dask_worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard"),
                *("--local-directory", str(folder / f"worker_{number}")),
            )
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
