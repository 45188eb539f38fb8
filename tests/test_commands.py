import errno
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytest
from make_records import sine_leads, write_wfdb

import data_prep
from data_prep import interrupts
from data_prep.commands import CLOSED, run_command, takes_options
from data_prep.errors import ECGError, StoreError

ROOT = Path(data_prep.__file__).parents[1]
SCRIPTS = {  # of setup.cfg: names and modules of all commands
    name: module
    for name, module in re.findall(
        r"^    ([a-z-]+) = ([a-z_.]+):command$", (ROOT / "setup.cfg").read_text(), re.M
    )
}
OLD_NAMES = ("data_prep/build.py", "mlbf_keras/predict.py", "mrm_keras/predict.py")  # they warn
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("data_prep", "ecg_keras", "mlbf_keras", "mrm_keras")
    for path in (ROOT / package).rglob("*.py")
    if path.relative_to(ROOT).as_posix() not in OLD_NAMES
)


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own with the packages at hand, and nothing printed."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def exit_of(main: Callable[..., None], *arguments: object) -> int | str | None:
    """Run a main as the command ``ecg-toy`` and return how it exits (None: it ends)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/usr/bin/ecg-toy", *map(str, arguments)])
        try:
            run_command(main)
        except SystemExit as stop:
            return stop.code
    return None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (StoreError("a.h5 is broken; build it again."), "a.h5 is broken; build it again."),
        (ECGError("that cannot be."), "that cannot be."),
        (ECGError("a\x1b[2J\nb is broken."), "a\\x1b[2J\\nb is broken."),
        (OSError(errno.ENOSPC, "No space left", "/d/a.h5"), "the disk is full while writing /d/a"),
        (OSError(errno.ENOSPC, "No space left"), "the disk is full; free some space"),
        (OSError(errno.EDQUOT, "Quota exceeded", "/d/a"), "the disk is full while writing /d/a"),
        (PermissionError(errno.EACCES, "Permission denied", "/d/a"), "/d/a cannot be used"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/d/a"), "/d/a cannot be used"),
        (FileExistsError(errno.EEXIST, "File exists", "/d/a"), "/d/a cannot be used"),
    ],
)
def test_trouble_is_one_sentence_and_status_2(
    error: Exception, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        """Fail."""
        raise error

    assert exit_of(main) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"ecg-toy: {sentence}")
    assert printed.err.count("\n") == 1 and printed.err.endswith(".\n")


def test_an_interrupt_is_one_sentence_and_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    def main(*, resume: bool = False) -> None:
        """Wait."""
        raise KeyboardInterrupt

    assert exit_of(main) == 130
    sentence = "ecg-toy: interrupted; completed results are kept, and --resume continues"
    assert capsys.readouterr().err.startswith(sentence)


SLOW_IMPORT = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.orig_argv, sys.argv = [sys.executable, "/usr/bin/ecg-build"], ["/usr/bin/ecg-build"]
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "data_prep.commands":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
runpy.run_module("data_prep.storing.build", run_name="__main__", alter_sys=False)
"""


def test_an_interrupt_while_a_command_is_imported() -> None:
    run = run_python("-c", SLOW_IMPORT)
    assert (run.returncode, run.stderr) == (130, "interrupted before anything began.\n")
    # In other programs, importing the packages leaves Ctrl-C as it was.
    code = "import signal, data_prep; print(signal.getsignal(signal.SIGINT))"
    before = run_python("-c", "import signal; print(signal.getsignal(signal.SIGINT))")
    assert run_python("-c", code).stdout.split()[:2] == before.stdout.split()[:2]


def test_only_the_commands_expect_an_interrupt_while_they_are_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert interrupts._SCRIPTS == set(SCRIPTS)
    for name in (*SCRIPTS, "ecg-build.exe", "ecg-plot.py", "ecg-build.py", "mrm-mine"):
        monkeypatch.setattr(sys, "orig_argv", ["python", f"/usr/bin/{name}"])
        assert interrupts._is_command() == (name.removesuffix(".exe") in SCRIPTS)


@pytest.mark.parametrize("package", ["ecg_keras", "mlbf_keras", "mrm_keras"])
def test_an_interrupt_is_expected_before_anything_else_is_imported(package: str) -> None:
    code = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None): print(name)\n"
        "sys.meta_path.insert(0, Finder)\n"
        f"import {package}\n"
    )
    names = run_python("-c", code).stdout.split()
    assert names[:3] == [package, "data_prep", "data_prep.interrupts"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_letters(tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "ä…"
    folder.mkdir()
    for options in (["--check", str(folder)], ["--help"]):
        run = subprocess.run(
            [sys.executable, "-m", "data_prep.storing.build", *options],
            capture_output=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert b"Traceback" not in run.stderr
        assert run.returncode == (0 if options == ["--help"] else 2)
    write_wfdb(folder, "A1", sine_leads(1000))
    run = subprocess.run(
        [sys.executable, "-m", "data_prep.storing.build", "--check", str(folder)],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"},
    )
    assert (run.returncode, run.stderr) == (0, b"") and b"\\u2026: 1 WFDB" in run.stdout


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_reader_that_has_read_enough_ends_a_command_quietly(option: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "data_prep.storing.build", option],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == CLOSED


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    def main() -> None:
        """Fail."""
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        exit_of(main)


def test_options_reach_main() -> None:
    seen: dict[str, Any] = {}

    def main(
        *, out: Path, folds: tuple[str, ...] = ("1",), seed: int = 3, init: str = "none"
    ) -> None:
        """Keep.

        Args:
            out: a place.
            folds: some.
            seed: of it.
            init: the name of a method of tyro's mark of a missing default.
        """
        seen.update(out=out, folds=folds, seed=seed, init=init)

    assert exit_of(main, "--out", "x", "--folds", "2", "all") is None
    assert seen == {"out": Path("x"), "folds": ("2", "all"), "seed": 3, "init": "none"}
    assert exit_of(main) == 2  # --out is required
    assert exit_of(main, "--out", "x", "--speed", "3") == 2
    assert exit_of(main, "--out", "x", "--seed", "many") == 2


@pytest.mark.parametrize("word", ["none", "None"])
def test_none_is_a_value(word: str) -> None:
    seen = []

    def main(
        *, fold: int | None = 10, unit: Literal["mV", "uV"] | None = "mV", to: Path | None = None
    ) -> None:
        """Keep."""
        seen.append((fold, unit, to))

    assert exit_of(main) is None
    assert exit_of(main, "--fold", "2", "--unit", "uV", "--to", "a") is None
    assert exit_of(main, "--fold", word, "--unit", word, "--to", word) is None
    assert seen == [(10, "mV", None), (2, "uV", Path("a")), (None, None, None)]
    assert exit_of(main, "--fold", "nobody") == 2


@dataclass(frozen=True)
class Toy:
    """A toy.

    Attributes:
        name: what it is called.
        size: of the whole.
    """

    name: str
    size: int = 3


@dataclass(frozen=True)
class Wheels:
    """What it rolls on.

    Attributes:
        count: how many there are.
        made_of: the material.
    """

    count: int
    made_of: str = "wood"


FOUR = Wheels(4, "tin")


def test_settings_are_options_of_a_command_and_keywords_of_a_call() -> None:
    made = []

    @takes_options
    def main(*, toy: Toy, wheels: Wheels = FOUR) -> None:
        """Make a toy."""
        made.append((toy, wheels))

    assert exit_of(main, "--name", "cart", "--count", "2") is None
    main(name="cart", count=2)
    assert made == [(Toy("cart"), Wheels(2, "tin"))] * 2
    options = {name: p.default for name, p in inspect.signature(main).parameters.items()}
    assert options == {"name": inspect.Parameter.empty, "size": 3, "count": 4, "made_of": "tin"}
    with pytest.raises(TypeError, match="name"):
        main(size=4)
    with pytest.raises(TypeError, match="colour"):
        main(name="cart", colour="red")
    assert len(made) == 2


def test_version_is_printed_without_tensorflow() -> None:
    code = "import runpy, sys; sys.argv = ['/usr/bin/mrm-train', '--version', '--out', 'x']\n"
    code += "runpy.run_module('mrm_keras.train', run_name='__main__', alter_sys=False)\n"
    run = run_python("-c", f"{code}sys.exit('tensorflow' in sys.modules)")
    keras, tensorflow = version("keras"), version("tensorflow")
    expected = f"mrm-train {data_prep.__version__} (keras {keras}, tensorflow {tensorflow})\n"
    assert (run.returncode, run.stdout, run.stderr) == (0, expected, "")


def test_all_packages_state_one_version() -> None:
    for package in ("data_prep", "ecg_keras", "mlbf_keras", "mrm_keras"):
        assert import_module(package).__version__ == version("ecg-keras")


def test_help_reads_well() -> None:
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        f"for name, module in {SCRIPTS}.items():\n"
        "    sys.argv = [f'/usr/bin/{name}', '--help']\n"
        "    try:\n"
        "        import_module(module).command()\n"
        "    except SystemExit as end:\n"
        "        print(chr(12) * (end.code == 0), end='')\n"
    )
    helps = run_python("-c", code, COLUMNS="100").stdout.split("\f")[:-1]
    assert len(helps) == len(SCRIPTS) > 10
    for name, text in zip(SCRIPTS, helps, strict=True):
        assert re.search(rf"^usage: {name} ", text, re.M), text
        assert not re.search(r"None|/bin|\[\w+ \[|\(default: \)", text), text
        assert max(map(len, text.splitlines())) <= 100
        columns = {len(margin) for margin in re.findall(r"^(│  +)[^ │]", text, re.M)}
        assert len(columns) == 1, "explanations stand in one column"


@pytest.mark.parametrize("command", sorted(set(SCRIPTS.values())))
def test_help_explains_every_option_at_once_without_tensorflow(command: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module({command!r}, run_name='__main__', alter_sys=False)\n"
        "finally:\n"
        "    heavy = {'tensorflow', 'keras', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy))\n"
    )
    # A terminal of its own width would break the options' descriptions.
    run = run_python("-c", code, COLUMNS="400")
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert "HEAVY []" in run.stdout

    main = import_module(command).main
    rows = {
        match[1]: match[2]
        for match in re.finditer(r"^│ --([a-z-]+)(.*?)(?=^│ -|^╰)", run.stdout, re.M | re.S)
    }
    for name, parameter in inspect.signature(main).parameters.items():
        if name == "table":  # what to reproduce stands before the options
            assert re.search(r"^│ \[(\{table|NAME\])", run.stdout, re.M)
            continue
        if name == "dataset" and parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            assert "│ {cpsc2018,ptb-xl}" in run.stdout
            continue
        row = " ".join(re.sub("│", " ", rows.pop(name.replace("_", "-"))).split())
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if parameter.default is inspect.Parameter.empty:
            assert row.endswith("(required)")
        else:
            default = parameter.default
            text = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
            shown = default is not None and default is not False and default != ()
            assert (f"(default: {text})" in row) == shown
        explained = re.sub(r"\(default: [^)]*\)|\(required\)", "", row)
        assert len(re.findall(r"[a-z]{2,}", explained)) >= 2, f"--{name} is not explained: {row}"
    assert not rows, "options that main does not have"


# TensorFlow logs while it loads, and takes seconds: here it is never loaded, only asked for.
ONLY_BACKEND_MAY_IMPORT = """
import importlib, importlib.abc, os, sys, threading, traceback
import h5py, matplotlib.figure, numpy, scipy.signal, sklearn.metrics, tqdm

class Asked(Exception):
    pass

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "keras"):
            files = [frame.filename for frame in traceback.extract_stack()]
            asking = [file for file in files if "importlib" not in file][-2]
            assert asking.endswith("backend.py"), f"{name} is imported by {asking}"
            raise Asked

sys.meta_path.insert(0, Finder())
for module in sys.argv[1:]:
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0, module
        continue
    try:
        importlib.import_module(module)
    except Asked:
        pass
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0 if threading.active_count() == 1 else print(threading.enumerate()) or 1)
"""


def test_importing_a_module_prints_and_starts_nothing() -> None:
    """Each module in a process of its own, forked from one that has read the slow libraries."""
    run = run_python("-c", ONLY_BACKEND_MAY_IMPORT, *MODULES, OPENBLAS_NUM_THREADS="1")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_importing_tensorflow_prints_nothing() -> None:
    run = run_python("-c", "import " + ", ".join(["ecg_keras.model.backend", *MODULES]))
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_importing_the_packages_leaves_tensorflow_alone() -> None:
    code = (
        "import sys, data_prep, mlbf_keras, mrm_keras, mlbf_keras.train, mrm_keras.train\n"
        "import ecg_keras, ecg_keras.evaluation.command, ecg_keras.evaluation.report\n"
        "import ecg_keras.export.command, ecg_keras.prediction.command\n"
        "import data_prep.store, data_prep.storing.build\n"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)\n"
    )
    assert run_python("-c", code).returncode == 0


def test_another_keras_backend_is_refused_in_one_sentence() -> None:
    run = run_python("-c", "import ecg_keras.model.backend", KERAS_BACKEND="numpy")
    assert run.returncode == 1
    assert "OptionError: Keras runs on 'numpy' here" in run.stderr.splitlines()[-1]
