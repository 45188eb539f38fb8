import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster import cluster

from data_prep.errors import JobError, OptionError, StoreError
from ecg_keras.papers import jobs as module
from ecg_keras.papers.jobs import Job, connect, local_gpus, run_jobs, workers_of


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store.h5"
    path.write_bytes(os.urandom(1000))
    return path


def noted(number: int, **options: Any) -> Job:
    return Job(f"n={number}", "unit_work:note", {"number": number, **options})


def counted(number: int, board: Path) -> Job:
    return Job(f"n={number}", "unit_work:unless", {"number": number, "board": str(board)})


def squares(folders: list[Path]) -> list[int]:
    return [json.loads((folder / "answer.json").read_text())["square"] for folder in folders]


class TestHere:
    def test_each_job_has_its_own_folder(self, tmp_path: Path, store: Path) -> None:
        folders = run_jobs([noted(3, seed=7), noted(2)], store=store, out=tmp_path / "out")
        assert folders == [tmp_path / "out" / "units" / name for name in ("n=3", "n=2")]
        assert squares(folders) == [9, 4]
        made = json.loads((folders[0] / "unit.json").read_text())
        assert made["work"] == "unit_work:note"
        assert made["options"] == {"number": 3, "seed": 7}
        assert made["store"] == json.loads((folders[0] / "answer.json").read_text())["content"]
        assert made["seconds"] >= 0
        assert {"ecg-keras", "numpy", "machine"} <= set(made["made with"])

    def test_what_is_done_is_kept(self, tmp_path: Path, store: Path) -> None:
        wanted = [counted(number, tmp_path) for number in range(3)]
        run_jobs(wanted[:2], store=store, out=tmp_path)
        assert squares(run_jobs(wanted, store=store, out=tmp_path)) == [0, 1, 4]
        assert [(tmp_path / f"calls_{n}").read_text() for n in range(3)] == ["x", "x", "x"]

    @pytest.mark.parametrize("finished", [True, False])
    def test_a_folder_of_an_earlier_version_is_used(
        self, tmp_path: Path, store: Path, finished: bool
    ) -> None:
        """As commit 6225ffd wrote it, when a job was called a unit."""
        folder = tmp_path / "units" / ("n=1" if finished else "n=1.part")
        folder.mkdir(parents=True)
        made: dict[str, Any] = {
            "work": "unit_work:unless",
            "options": {"number": 1, "board": str(tmp_path)},
            "store": hashlib.sha256(store.read_bytes()).hexdigest(),
        }
        if finished:
            made |= {
                "finished": "2026-11-20T10:00:00+00:00",
                "seconds": 5.0,
                "made with": {"ecg-keras": "0.1.0", "numpy": "2.3.5", "machine": "x86_64"},
            }
            (folder / "answer.json").write_text(json.dumps({"square": 1}))
        else:
            (folder / "half.txt").write_text("half done")
        (folder / "unit.json").write_text(json.dumps(made, indent=2) + "\n")
        assert squares(run_jobs([counted(1, tmp_path)], store=store, out=tmp_path)) == [1]
        assert (
            (tmp_path / "calls_1").exists() == (tmp_path / "went_on_1").exists() == (not finished)
        )

    def test_a_job_killed_before_its_folder_got_its_name_is_done(
        self, tmp_path: Path, store: Path
    ) -> None:
        (folder,) = run_jobs([counted(1, tmp_path)], store=store, out=tmp_path)
        made = (folder / "unit.json").read_text()
        folder.rename(folder.with_name("n=1.part"))
        assert squares(run_jobs([counted(1, tmp_path)], store=store, out=tmp_path)) == [1]
        assert (tmp_path / "calls_1").read_text() == "x"
        assert (folder / "unit.json").read_text() == made

    def test_an_interrupted_command_resumes(
        self, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Finished jobs are kept, and a job finds what it left when it was interrupted."""
        import unit_work

        def interrupted(store: Path, folder: Path, **options: Any) -> None:
            raise KeyboardInterrupt

        def resumed(store: Path, folder: Path, *, number: int, board: str) -> None:
            found.append(sorted(path.name for path in folder.iterdir()))
            (folder / "answer.json").write_text(json.dumps({"square": number**2}))

        found: list[list[str]] = []
        wanted = [counted(1, tmp_path), counted(2, tmp_path), counted(3, tmp_path)]
        run_jobs(wanted[:1], store=store, out=tmp_path)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(unit_work, "note", interrupted)  # after "unless" wrote half.txt
            run_jobs(wanted, store=store, out=tmp_path)
        assert not (tmp_path / "units" / "n=2").exists()
        monkeypatch.setattr(unit_work, "unless", resumed)
        assert squares(run_jobs(wanted, store=store, out=tmp_path)) == [1, 4, 9]
        assert found == [["half.txt", "unit.json"], ["unit.json"]]
        assert (tmp_path / "calls_1").read_text() == "x"

    def test_does_not_resume_with_other_options_or_another_store(
        self, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import unit_work

        def interrupted(store: Path, folder: Path, **options: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(unit_work, "note", interrupted)
            run_jobs([counted(2, tmp_path)], store=store, out=tmp_path)
        assert (tmp_path / "units" / "n=2.part" / "half.txt").exists()
        before = (tmp_path / "units" / "n=2.part" / "unit.json").read_bytes()
        other = Job("n=2", "unit_work:unless", {"number": 3, "board": str(tmp_path)})
        with pytest.raises(OptionError, match=r"n=2\.part was made with other options \(number\)"):
            run_jobs([other], store=store, out=tmp_path)
        store.write_bytes(b"other records")
        with pytest.raises(OptionError, match=r"n=2\.part was made from another store"):
            run_jobs([counted(2, tmp_path)], store=store, out=tmp_path)
        assert (tmp_path / "units" / "n=2.part" / "half.txt").exists()
        assert (tmp_path / "units" / "n=2.part" / "unit.json").read_bytes() == before

    def test_a_failed_job_is_retried(
        self, tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "fail_2").write_text("1")
        folders = run_jobs([counted(n, tmp_path) for n in (1, 2)], store=store, out=tmp_path)
        assert squares(folders) == [1, 4]
        assert (tmp_path / "calls_2").read_text() == "xx"
        assert "n=2 failed and will be retried: ValueError: number 2" in capsys.readouterr().err
        assert not (tmp_path / "units" / "n=2.log").exists()

    def test_a_second_attempt_resumes_from_the_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A training that fails after its first epoch does that epoch once."""
        from toy import write_toy_store

        from ecg_keras.training.checkpoint import Checkpoint

        trained: list[int] = []
        begin = Checkpoint.on_epoch_begin

        def fail_once(self: Checkpoint, epoch: int, logs: Any = None) -> None:
            begin(self, epoch, logs)
            trained.append(epoch)
            if trained == [0, 1]:
                raise OSError("a disk was away for a moment")

        job = Job("toy", "unit_work:train_toy", {"epochs": 3})
        toy = write_toy_store(tmp_path / "toy.h5")
        (unbroken,) = run_jobs([job], store=toy, out=tmp_path / "unbroken")
        monkeypatch.setattr(Checkpoint, "on_epoch_begin", fail_once)
        (folder,) = run_jobs([job], store=toy, out=tmp_path / "failed")
        assert trained == [0, 1, 1, 2]
        assert (folder / "history.csv").read_text() == (unbroken / "history.csv").read_text()
        assert sorted(p.name for p in folder.iterdir()) == sorted(
            p.name for p in unbroken.iterdir()
        )

    def test_after_a_repeated_failure_the_next_command_resumes(
        self, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import unit_work

        def failing(store: Path, folder: Path, **options: Any) -> None:
            found.append((folder / "half.txt").exists())
            (folder / "half.txt").write_text("half done")
            raise ValueError("it cannot be done")

        found: list[bool] = []
        monkeypatch.setattr(unit_work, "unless", failing)
        for _ in range(2):
            with pytest.raises(JobError):
                run_jobs([counted(1, tmp_path)], store=store, out=tmp_path)
        assert found == [False, True, True, True]

    def test_prints_how_many_are_done_and_to_do(
        self, tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wanted = [noted(number) for number in range(3)]
        for chosen, line in (
            (wanted[:1], "1 training: 0 already done, 1 to do."),
            (wanted, "3 trainings: 1 already done, 2 to do."),
            (wanted, "3 trainings: 3 already done, 0 to do."),
        ):
            run_jobs(chosen, store=store, out=tmp_path)
            assert capsys.readouterr().out.splitlines()[0] == line

    def test_the_others_continue(self, tmp_path: Path, store: Path) -> None:
        (tmp_path / "fail_2").write_text("2")
        wanted = [counted(n, tmp_path) for n in (1, 2, 3)]
        with pytest.raises(JobError, match=r"1 of 3 jobs failed \(n=2\).*number 2.*n=2\.log"):
            run_jobs(wanted, store=store, out=tmp_path)
        log = (tmp_path / "units" / "n=2.log").read_text()
        assert log.count("Traceback") == 2 and "attempt 2" in log
        assert sorted(p.name for p in (tmp_path / "units").glob("n=*")) == [
            *("n=1", "n=2.log", "n=2.part", "n=3")
        ]
        # The next command does only what is missing.
        assert squares(run_jobs(wanted, store=store, out=tmp_path)) == [1, 4, 9]
        assert [(tmp_path / f"calls_{n}").read_text() for n in (1, 2, 3)] == ["x", "xxx", "x"]


class TestRefusals:
    def test_other_options(self, tmp_path: Path, store: Path) -> None:
        run_jobs([noted(1)], store=store, out=tmp_path)
        other = Job("n=1", "unit_work:note", {"number": 1, "seed": 5})
        with pytest.raises(OptionError, match=r"n=1 was made with other options \(seed\)"):
            run_jobs([other], store=store, out=tmp_path)

    def test_an_option_that_an_earlier_release_did_not_have(
        self, tmp_path: Path, store: Path
    ) -> None:
        """Its trainings had a constant learning rate, and are taken for such."""
        folders = run_jobs([noted(1)], store=store, out=tmp_path)
        same = Job("n=1", "unit_work:note", {"number": 1, "schedule": "constant"})
        assert run_jobs([same], store=store, out=tmp_path) == folders
        other = Job("n=1", "unit_work:note", {"number": 1, "schedule": "one-cycle"})
        with pytest.raises(OptionError, match=r"made with other options \(schedule\)"):
            run_jobs([other], store=store, out=tmp_path)

    def test_other_work(self, tmp_path: Path, store: Path) -> None:
        run_jobs([noted(1)], store=store, out=tmp_path)
        other = Job("n=1", "unit_work:unless", {"number": 1})
        with pytest.raises(OptionError, match="another function"):
            run_jobs([other], store=store, out=tmp_path)

    def test_another_store(self, tmp_path: Path, store: Path) -> None:
        run_jobs([noted(1)], store=store, out=tmp_path)
        store.write_bytes(b"other records")
        with pytest.raises(OptionError, match="made from another store"):
            run_jobs([noted(1)], store=store, out=tmp_path)

    def test_a_folder_of_something_else(self, tmp_path: Path, store: Path) -> None:
        (tmp_path / "units" / "n=1").mkdir(parents=True)
        with pytest.raises(OptionError, match="n=1 is not the folder of a finished job"):
            run_jobs([noted(1)], store=store, out=tmp_path)

    def test_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="none.h5 does not exist"):
            run_jobs([noted(1)], store=tmp_path / "none.h5", out=tmp_path)

    @pytest.mark.parametrize("name", ["", "a/b", "a b"])
    def test_names_that_cannot_be_folders(self, tmp_path: Path, store: Path, name: str) -> None:
        with pytest.raises(OptionError, match="cannot name a job"):
            run_jobs([Job(name, "unit_work:note", {})], store=store, out=tmp_path)

    def test_two_jobs_of_one_name(self, tmp_path: Path, store: Path) -> None:
        with pytest.raises(OptionError, match="only once"):
            run_jobs([noted(1), noted(1, seed=2)], store=store, out=tmp_path)

    def test_two_commands_in_one_folder(
        self, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import unit_work

        seen = []

        def second(store: Path, folder: Path, **options: Any) -> None:
            try:
                run_jobs([noted(2)], store=store, out=tmp_path)
            except OptionError as error:
                seen.append(str(error))

        monkeypatch.setattr(unit_work, "note", second)
        run_jobs([noted(1)], store=store, out=tmp_path)
        assert "is being filled by process" in seen[0]

    def test_no_dask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("data_prep.cluster.has_dask", lambda: False)
        with pytest.raises(OptionError, match=r"pip install 'ecg-keras\[cluster\]'"):
            connect("tcp://localhost:8786")

    def test_no_scheduler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("data_prep.cluster._ANSWER", 0.5)
        with pytest.raises(OptionError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
            connect("tcp://127.0.0.1:9")


def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("0,2", ["0", "2"]), ("-1", []), ("", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert local_gpus() == expected
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    assert local_gpus() == []


def test_workers_with_a_gpu_have_it_to_themselves() -> None:
    def cluster(**resources: dict[str, float]) -> Any:
        return SimpleNamespace(
            nthreads=lambda: dict.fromkeys([*resources, "unknown yet"], 1),
            scheduler_info=lambda n_workers: {
                "workers": {name: {"resources": has} for name, has in resources.items()}
            },
        )

    assert workers_of(cluster(a={}, b={"GPU": 1}, c={"GPU": 2})) == {
        "b": {"GPU": 1},
        "c": {"GPU": 1},
    }
    assert workers_of(cluster(a={}, b={"MEMORY": 1})) == {"a": {}, "b": {}}


# --- A real cluster --------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    with cluster(tmp_path, workers=2) as started:
        yield started


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(
    tmp_path: Path,
    store: Path,
    running: tuple[str, list["subprocess.Popen[bytes]"]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two workers; the first to run job 3 is killed while running it."""
    monkeypatch.setattr(module, "_CHUNK", 300)  # four pieces of the store
    scheduler, workers = running
    wanted = [
        Job(
            f"n={n}",
            "unit_work:once",
            {"number": n, "board": str(tmp_path), "rest": 60.0 if n == 3 else 0.0},
        )
        for n in range(8)
    ]
    killer = subprocess.Popen(
        [sys.executable, "-c", _KILLER, str(tmp_path / "first_at_3"), str(signal.SIGKILL.value)]
    )
    begin = time.monotonic()
    folders = run_jobs(wanted, store=store, out=tmp_path / "out", scheduler=scheduler)
    assert killer.wait() == 0
    assert time.monotonic() - begin < 40  # nobody rested to the end

    dead = int((tmp_path / "first_at_3").read_text())
    killed = next(worker for worker in workers if worker.pid == dead)
    assert killed.wait() == -signal.SIGKILL
    assert "is gone; n=3 will restart elsewhere" in capfd.readouterr().err
    answers = [json.loads((folder / "answer.json").read_text()) for folder in folders]
    assert [answer["square"] for answer in answers] == [n**2 for n in range(8)]
    # Done by these two alone, each with a copy of the store of its own.
    assert {answer["process"] for answer in answers} <= {worker.pid for worker in workers}
    assert answers[3]["process"] != dead
    copies = {(answer["process"], answer["store"]) for answer in answers}
    assert len(copies) == len({answer["process"] for answer in answers})
    checksum = json.loads((folders[0] / "unit.json").read_text())["store"]
    assert {answer["content"] for answer in answers} == {checksum}
    assert not any(answer["store"] == str(store) for answer in answers)
    # A second command finds all done and does not connect to a cluster.
    assert run_jobs(wanted, store=store, out=tmp_path / "out", scheduler="tcp://none") == folders

    # Failures are sent back with their reason, and retried with what they left.
    (tmp_path / "fail_9").write_text("2")
    with pytest.raises(JobError, match=r"failed \(n=9\).*number 9 cannot be done"):
        run_jobs(
            [counted(9, tmp_path), noted(10)],
            store=store,
            out=tmp_path / "out",
            scheduler=scheduler,
        )
    assert "Traceback" in (tmp_path / "out" / "units" / "n=9.log").read_text()
    assert (tmp_path / "went_on_9").exists()
    assert (tmp_path / "out" / "units" / "n=10").is_dir()
    # What the last attempt left is kept, and the next command goes on from there.
    assert (tmp_path / "out" / "units" / "n=9.part" / "half.txt").exists()
    (tmp_path / "went_on_9").unlink()
    run_jobs([counted(9, tmp_path)], store=store, out=tmp_path / "out", scheduler=scheduler)
    assert (tmp_path / "went_on_9").exists()


_KILLER = """
import os, sys, time
for _ in range(1200):
    if os.path.exists(sys.argv[1]):
        os.kill(int(open(sys.argv[1]).read()), int(sys.argv[2]))
        sys.exit(0)
    time.sleep(0.05)
sys.exit(1)
"""


@pytest.mark.slow
def test_each_gpu_of_this_machine_has_a_process(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    wanted = [
        Job(f"n={n}", "unit_work:once", {"number": n, "board": str(tmp_path), "rest": 0.5})
        for n in range(4)
    ]
    folders = run_jobs(wanted, store=store, out=tmp_path / "out")
    answers = [json.loads((folder / "answer.json").read_text()) for folder in folders]
    assert [answer["square"] for answer in answers] == [0, 1, 4, 9]
    assert {answer["gpu"] for answer in answers} == {"4", "7"}
    assert len({answer["process"] for answer in answers} - {os.getpid()}) == 2
