"""The pages of the documentation say what is so."""

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from importlib import import_module, util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import write_toy_store

import ecg_keras

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "RESULTS.md", *sorted(DOCS.rglob("*.md"))]


def loaded(path: Path) -> Any:
    """Import a script of the documentation."""
    spec = util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fences(page: Path, language: str) -> list[str]:
    """The blocks of code of one language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)


def commands() -> dict[str, str]:
    """The module of each command that is installed."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].split("\n")
    pairs = (line.split("=") for line in scripts if line)
    return {name.strip(): place.strip().removesuffix(":command") for name, place in pairs}


def shown_commands() -> list[tuple[str, str]]:
    """Each line on a page that calls a command of ours, with the page's name."""
    return [
        (page.name, line)
        for page in PAGES
        for block in fences(page, "")
        for line in block.replace("\\\n", " ").splitlines()
        if line.split(" ")[0] in commands()
    ]


def test_commands_on_the_pages_have_the_options_they_are_given() -> None:
    shown = shown_commands()
    assert {line.split()[0] for _, line in shown} >= {"ecg-build", "ecg-predict", "mrm-reproduce"}
    for page, line in shown:
        name, *words = shlex.split(line)
        options = inspect.signature(import_module(commands()[name]).main).parameters
        for word in words:
            if word.startswith("--"):
                option = word[2:].replace("-", "_")
                assert option.removeprefix("no_") in options or option in options, (page, line)
        needed = {
            o for o, p in options.items() if p.default is p.empty and p.kind is p.KEYWORD_ONLY
        }
        given = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
        assert needed <= given, (page, line)


def test_python_on_the_pages_names_what_there_is() -> None:
    blocks = [(page.name, block) for page in PAGES for block in fences(page, "python")]
    assert len(blocks) > 5
    for page, block in blocks:
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.ImportFrom) or node.module == "small_cnn":
                continue
            assert node.module, page
            module = import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), (page, alias.name)


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, *sorted((ROOT / "pretrained").glob("*.md"))):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if re.match("[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), (page.name, link)
            if anchor:
                headings = re.findall("^#+ (.+)$", target.read_text(), re.M)
                slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
                assert anchor in slugs, (page.name, link)


def said() -> list[str]:
    """Each text in the packages, … where it is filled in."""
    texts = []
    for package in ("data_prep", "ecg_keras", "mlbf_keras", "mrm_keras"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                values = [p.value if isinstance(p, ast.Constant) else "…" for p in parts]
                texts.append("".join(map(str, values)))
    return texts


def test_the_faults_are_told_in_the_words_of_the_commands() -> None:
    quoted = re.findall(r"^\| \*(.+?)\*", (DOCS / "faults.md").read_text(), re.M)
    assert len(quoted) > 8
    texts = said()
    for sentence in quoted:
        words = [part.strip(" ,") for part in sentence.split("…")]
        assert any(all(part in text for part in words) for text in texts), sentence


MODULE = '''
def one():
    """First."""
    a = 1
    return a


class Box:
    def call(self):
        b = 2
        if b:
            return b
        return 0
'''


def test_code_is_taken_from_its_file() -> None:
    code_of = loaded(DOCS / "hooks.py").code_of
    assert code_of(MODULE, "one") == 'def one():\n    """First."""\n    a = 1\n    return a'
    assert code_of(MODULE, "Box.call", "if b", "return") == "if b:\n    return b"
    for where, trouble in (
        (("two",), "has no two"),
        (("Box.call", "return", "return"), "has 2 lines that begin with 'return'"),
        (("one", "b =", "return"), "has 0 lines that begin with 'b ='"),
        (("one", "a =", "if"), "has no line behind 'a =' that begins with 'if'"),
    ):
        with pytest.raises(ValueError, match=trouble):
            code_of(MODULE, *where)


@pytest.mark.slow
def test_the_figures_show_the_networks_as_they_are(tmp_path: Path) -> None:
    draw = loaded(DOCS / "draw_networks.py")
    for name, figure in (("mlbf_net", draw.draw_mlbf), ("mrm_net", draw.draw_mrm)):
        figure(tmp_path / f"{name}.svg")
        committed = DOCS / "figures" / f"{name}.svg"
        assert (tmp_path / f"{name}.svg").read_text() == committed.read_text(), (
            f"run python docs/draw_networks.py: {committed.name} shows another network"
        )


@pytest.mark.slow
def test_the_third_network_trains_answers_and_exports(tmp_path: Path) -> None:
    small = loaded(DOCS / "examples" / "small_cnn.py")
    store = write_toy_store(tmp_path / "toy.h5", lengths=(300,) * 60, fs=100.0)
    small.main(store=store, out=tmp_path / "run", epochs=2, batch_size=16)
    model = ecg_keras.load_model(tmp_path / "run" / "fold_1" / "best.keras")
    signals = np.random.default_rng(0).normal(size=(3, 1000, 12)).astype(np.float32)
    answers = model.predict(signals)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)

    import onnxruntime

    from ecg_keras.export.export import inference_model, write_onnx

    write_onnx(tmp_path / "small.onnx", inference_model([model], {}), {})
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    (exported,) = session.run(None, {"signal": signals})
    np.testing.assert_allclose(exported, answers, atol=1e-6)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "WARNING" not in run.stderr, run.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        loaded_from = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?://[^"]+)"', text)
        assert not loaded_from, (page.name, loaded_from)
        assert "{{ code" not in text
    for package, name in (
        ("data_prep", "records.read_record"),
        ("ecg_keras", "model.contract.SignalContract"),
        ("ecg_keras", "export.export.inference_model"),
    ):
        reference = (tmp_path / "site" / "reference" / f"{package}.html").read_text()
        assert f'id="{package}.{name}"' in reference
        # The sources are shown as they are.
        assert ":func:" not in re.sub(r"<details.*?</details>", "", reference, flags=re.DOTALL)
