"""The page of a recording: what it says, and how a browser shows it."""

import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from make_records import sine_leads, write_wfdb
from PIL import Image
from toy import compiled_toy, toy_contract

from data_prep.ecg_paper import Shading, ecg_figure
from data_prep.errors import RecordError
from data_prep.labels import CPSC_CLASSES, LEADS
from data_prep.records import Record
from ecg_keras.evaluation.document import Picture
from ecg_keras.explanation.methods import SHARES, Attention, Explanation, Relevance
from ecg_keras.explanation.pages import write_page
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import ECGModel, set_origin
from ecg_keras.model.origin import ModelFacts, Origin
from ecg_keras.prediction import predict as predicting
from ecg_keras.prediction.predict import predict

FS = 100.0


def explanation(*, seconds: float = 10.0, single_label: bool = True) -> Explanation:
    """Three networks; two say AF by themselves, one PVC."""
    random = np.random.default_rng(0)
    members = np.full((3, 9), 0.02, np.float32)
    members[:, 1], members[:, 6] = (0.8, 0.7, 0.3), (0.1, 0.2, 0.6)
    signal = sine_leads(round(seconds * FS), fs=FS).astype(np.float32)
    edges = np.linspace(0, seconds, round(seconds * 10) + 1)
    steps = len(edges) - 1
    cells = 0.01 * random.normal(size=(steps, 12))
    falling, flat = np.linspace(0.6, 0.1, len(SHARES)), np.full(len(SHARES), 0.55)
    heads = [f"lead_{lead}" for lead in LEADS] if single_label else ["low", "high"]
    of_leads = Shading("attention, above even", edges, random.normal(size=(steps, 12)))
    return Explanation(
        record=Record("A<1>", signal, FS, 61.0, "female", ("164889003",), Path("/data/A<1>.hea")),
        contract=Contract(
            "MLBF-Net" if single_label else "MRM-Net",
            "cpsc2018",
            CPSC_CLASSES,
            FS,
            2000,
            "pad" if single_label else "stretch",
            single_label,
            thresholds=(0.25,) * 9,
        ),
        members=members,
        seconds=min(seconds, 20.0),
        attention=(
            Attention("Of all", "What it means.", Shading("marks", edges, of_leads.values[:, 0])),
            Attention("Of each", "What it means.", of_leads),
        ),
        heads={name: random.random(9) for name in heads},
        without_lead=random.random((12, 9)),
        relevances=(
            Relevance(
                "AF", Shading("relevance", edges, cells), 0.5, 0.01, np.array(SHARES), falling, flat
            ),
        ),
        channels={} if single_label else {"low": random.random((3, 8))},
    )


class Page(HTMLParser):
    """The words of a page, and all it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.pictures: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [value for key in ("src", "href") if (value := values.get(key))]
        if tag == "img":
            self.pictures.append(values["alt"] or "")

    def handle_data(self, data: str) -> None:
        self.words += " ".join(data.split()) + "\n"


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Painting takes seconds a page, and most tests here do not look at the pictures."""
    monkeypatch.setattr(Picture, "png", b"")


def written(folder: Path, explained: Explanation, **options: Any) -> tuple[Path, Page]:
    path = folder / "explained" / "page.html"
    write_page(path, explained, **options)
    return path, Page(path.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("unpainted")
def test_the_page_says_what_was_answered_and_how_surely(tmp_path: Path) -> None:
    _, page = written(tmp_path, explanation(), warnings=("Lead V6 is flat.",))
    assert "A<1>: AF\n" in page.words
    assert "2 of 3 networks" in page.words
    assert "Lead V6 is flat." in page.words
    # The mean and range of AF, then of PVC.
    rows = re.findall(r"(AF, .*|PVC, .*)\s+(\d of 3)\s+(0\.\d+)\s+(0\.\d+ to 0\.\d+)", page.words)
    assert rows == [
        ("AF, atrial fibrillation ✓", "2 of 3", "0.600", "0.300 to 0.800"),
        ("PVC, premature ventricular contraction", "1 of 3", "0.300", "0.100 to 0.600"),
    ]
    assert "female, 61 years" in page.words and "10.0 s at 100 Hz" in page.words


@pytest.mark.usefixtures("unpainted")
def test_the_page_names_the_models_and_what_trained_them(tmp_path: Path) -> None:
    facts = ModelFacts(
        "fold_1/best.keras", "0.1.0", "abc1234", "2026-11-24T10:00", "ptb-xl", ("ptb-xl",)
    )
    models = tuple(replace(facts, file=f"fold_{i}/best.keras", generated="all") for i in (1, 2, 3))
    explained = replace(explanation(), models=models)
    path, page = written(
        tmp_path, explained, notices=("This recording was used to train this model.",)
    )
    first, second = path.read_text()[path.read_text().index("<body>") :].splitlines()[1:3]
    assert "These models were trained on generated records, not patients" in first
    assert "This recording was used to train this model." in second
    for said in ("3: fold_1/best.keras to fold_3/best.keras", "commit abc1234", "of ptb-xl"):
        assert said in page.words
    _, page = written(tmp_path, replace(explained, models=(facts,) * 3))
    assert "generated" not in page.words


@pytest.mark.usefixtures("unpainted")
def test_a_network_of_several_answers_shows_thresholds_and_channels(tmp_path: Path) -> None:
    path, page = written(tmp_path, explanation(single_label=False))
    assert "A<1>: AF and PVC\n" in page.words
    assert "Threshold" in page.words and "0.250" in page.words
    assert path.read_text().count('<s style="left:25.0%">') == 9  # on the bar of each class
    # The first two networks find only AF.
    assert "1 of 3 networks" in page.words
    assert "Channel attention" in page.pictures
    assert "stretched to fill" in page.words


@pytest.mark.usefixtures("unpainted")
def test_every_class_found_is_in_the_table(tmp_path: Path) -> None:
    """Also if it is not among the twelve most probable ones, because its threshold is low."""
    explained = explanation(single_label=False)
    names = tuple(f"S{c:02d}" for c in range(20))
    members = np.linspace(0.5, 0.12, 20, dtype=np.float32)[None]
    thresholds = (*(0.6,) * 15, 0.1, *(0.6,) * 4)
    contract = replace(explained.contract, task="mine", class_names=names, thresholds=thresholds)
    relevances = (replace(explained.relevances[0], class_name="S15"),)
    explained = replace(
        explained,
        contract=contract,
        members=members,
        relevances=relevances,
        without_lead=np.zeros((12, 20)),
        heads={},
    )
    _, page = written(tmp_path, explained)
    assert re.findall(r"^(S\d\d)(?: ✓)?\n0\.", page.words, re.MULTILINE) == [*names[:12], "S15"]
    assert "S15 ✓" in page.words
    assert "the 12 largest of 20 and every other class found" in page.words


@pytest.mark.usefixtures("unpainted")
def test_a_network_without_attention_has_no_section_of_it(tmp_path: Path) -> None:
    explained = explanation(single_label=False)
    _, page = written(tmp_path, replace(explained, attention=(), channels={}))
    assert "Why AF" in page.words and "stretched to fill" in page.words
    assert "Attention" not in page.words and "Channel attention" not in page.pictures


@pytest.mark.usefixtures("unpainted")
def test_one_network_has_no_spread(tmp_path: Path) -> None:
    explained = explanation()
    _, page = written(tmp_path, replace(explained, members=explained.members[:1]))
    assert "Agreement" not in page.words and " of 1" not in page.words
    assert "AF, atrial fibrillation ✓\n0.800\n" in page.words


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize(
    "changes, words",
    [
        ({}, "0.350 against 0.550: the answer depends on what is marked."),
        ({"marked": np.full(len(SHARES), 0.45)}, "depends in part on what is marked."),
        ({"marked": np.full(len(SHARES), 0.53)}, "depends hardly more on what is marked than"),
        ({"marked": np.full(len(SHARES), 0.58)}, "does NOT depend on what is marked."),
        ({"total": 0.01}, "AF is almost as probable for a flat line"),
    ],
)
def test_the_page_tells_whether_its_marks_hold(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    explained = explanation()
    _, page = written(
        tmp_path, replace(explained, relevances=(replace(explained.relevances[0], **changes),))
    )
    assert words in page.words


@pytest.mark.usefixtures("unpainted")
def test_a_long_recording_is_shown_where_most_is_marked(tmp_path: Path) -> None:
    explained = explanation(seconds=30.0)
    shading = explained.relevances[0].shading
    values = np.zeros_like(shading.values)
    values[175:185] = 1.0  # 17.5 to 18.5 s
    relevance = replace(explained.relevances[0], shading=replace(shading, values=values))
    _, page = written(tmp_path, replace(explained, relevances=(relevance,)))
    begin = re.search(r"The 10 s from (\d+) s on", page.words)
    assert begin and 9 <= int(begin[1]) <= 17
    assert "the first 20 s" in page.words and "The first 10 of 30.0 s." in page.words


@pytest.mark.usefixtures("unpainted")
def test_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    _, page = written(tmp_path, explanation())
    assert len(page.pictures) == 6 and all(page.pictures)
    outside = [a for a in page.addresses if not a.startswith(("data:image/png;base64,", "#"))]
    assert outside == []
    assert "<1>" in page.words  # and not an element of that name


def test_a_figure_of_256_colours_looks_like_one_of_all() -> None:
    """Smaller by far, and no colour is off by more than can be seen, however few pixels have it."""
    signal = sine_leads(1000, fs=FS).astype(np.float32)
    edges = np.linspace(0, 10, 101)
    shading = Shading("relevance", edges, np.random.default_rng(0).normal(size=(100, 12)))
    figure = ecg_figure(signal, fs=FS, shading=shading, layout="12x1")
    full = io.BytesIO()
    figure.savefig(full, format="png", dpi=160)
    small = Picture("a.png", figure, "", "").png
    assert len(small) < 0.4 * len(full.getvalue())
    ours, theirs = (
        np.asarray(Image.open(file).convert("RGB"), np.int16) for file in (io.BytesIO(small), full)
    )
    assert np.abs(ours - theirs).max() <= 16


@pytest.mark.usefixtures("unpainted")
def test_no_name_becomes_an_element(tmp_path: Path) -> None:
    explained, evil = explanation(), "\"'><script>alert(1)</script>"
    names = (evil, *CPSC_CLASSES[1:])
    explained = replace(
        explained,
        record=replace(explained.record, id=evil, codes=(evil,), sex=evil),
        contract=replace(explained.contract, class_names=names, task=evil),
        members=np.full_like(explained.members, 0.1) + np.eye(9, dtype=np.float32)[0] * 0.2,
        relevances=(replace(explained.relevances[0], class_name=evil),),
    )
    path, page = written(tmp_path, explained, warnings=(evil,), notices=(evil,))
    text = path.read_text(encoding="utf-8")
    assert page.words.count(evil) > 8 and evil in "".join(page.pictures + [page.words])
    assert "<script" not in text and 'alt="">' not in text


# --- In a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no browser: chromium is not installed")


PROBE = """<script>
addEventListener("load", () => {
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, images = [...page.images];
    return {
      width: page.documentElement.clientWidth,
      content: page.documentElement.scrollWidth,
      images: images.length,
      drawn: images.filter((image) => image.naturalWidth > 300 && image.offsetWidth > 200).length,
      sections: page.querySelectorAll("section").length,
    };
  }));
});
</script>"""


@pytest.mark.slow
def test_a_browser_shows_it_without_errors(chromium: str, tmp_path: Path) -> None:
    """In frames as wide as a phone and a screen; a window may not be made as narrow as a phone."""
    frames, pictures = "", []
    for single_label in (True, False):
        explained = explanation(seconds=4.0, single_label=single_label)
        path, page = written(tmp_path, explained, warnings=("A word" * 30,))
        text = html.escape(path.read_text(encoding="utf-8"))
        for width in (390, 1280):
            frames += f'<iframe srcdoc="{text}" width="{width}" height="800"></iframe>'
            pictures.append((width, len(page.pictures)))
    outer = tmp_path / "outer.html"
    style = "<style>iframe { border: 0 }</style>"
    outer.write_text(f'<meta charset="utf-8">{style}{frames}{PROBE}', encoding="utf-8")
    run = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000", "--dump-dom", f"file://{outer}",
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in run.stderr, run.stderr
    title = re.search(r"<title>(\[.*?\])</title>", run.stdout)
    assert title, run.stdout[-500:]
    for shown, (width, number) in zip(json.loads(html.unescape(title[1])), pictures, strict=True):
        assert shown["width"] == width
        assert shown["content"] <= width
        assert shown["drawn"] == shown["images"] == number
        assert shown["sections"] == 4


# --- With a command ------------------------------------------------------------------------------


@pytest.mark.usefixtures("unpainted")
def test_each_answered_recording_gets_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compiled_toy(toy_contract())
    set_origin(model, Origin("cpsc2018", trained=("A2",), chose=("A3",)))
    keras.saving.save_model(model, tmp_path / "toy.keras")
    for name in ("A1", "A2"):
        write_wfdb(tmp_path / "records", name, sine_leads(1500))
    write_wfdb(tmp_path / "records", "broken", np.full((1500, 12), np.nan))
    explained = explanation()

    class Explainer:
        def __init__(self, models: Any) -> None:
            assert [type(model) for model in models] == [ECGModel]

        def explain(self, record: Record) -> Explanation:
            return replace(explained, record=record)

    monkeypatch.setattr(
        predicting, "part", lambda network, name: SimpleNamespace(Explainer=Explainer)
    )
    with pytest.raises(RecordError, match="1 of 3 recordings"):
        predict(
            models=[str(tmp_path / "toy.keras")],
            csv_file=None,
            records=tmp_path / "records",
            out=tmp_path / "out",
            batch_size=4,
            explain=True,
        )
    pages = sorted((tmp_path / "out" / "explained").iterdir())
    assert [page.name for page in pages] == ["A1.html", "A2.html"]
    assert "<title>A2: AF</title>" in pages[1].read_text()
    trained = [re.findall('class="notice">(.*)<', page.read_text()) for page in pages]
    assert trained[0] == [] and trained[1][0].startswith(
        "This recording was used to train this model "
    )
