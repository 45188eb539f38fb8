"""The page for uploading recordings: what it answers, what it refuses, and in which order."""

import html
import io
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from make_records import sine_leads, write_wfdb
from numpy.lib.format import write_array
from starlette.testclient import TestClient
from test_pages import explanation
from toy import compiled_toy, toy_contract

from data_prep.errors import OptionError
from data_prep.labels import LEADS
from data_prep.records import Record
from ecg_keras.explanation.methods import Explanation
from ecg_keras.model.backend import keras
from ecg_keras.model.model_files import ECGModel, load_model
from ecg_keras.model.origin import Origin
from ecg_keras.serving import server, uploads
from ecg_keras.serving.application import application
from ecg_keras.serving.command import main
from ecg_keras.serving.uploads import Limits, Worker

Files = list[tuple[str, tuple[str, bytes]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ECGModel:
    path = tmp_path_factory.mktemp("model") / "toy.keras"
    keras.saving.save_model(compiled_toy(toy_contract()), path)
    return load_model(path)


class Explainer:
    """Explains at once, or once it may, each recording but one."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.but = ""

    def explain(self, record: Record) -> Explanation:
        assert self.may.wait(60)
        if record.id == self.but:
            raise ZeroDivisionError("a fault")
        return replace(explanation(), record=record)


@pytest.fixture
def explainer(monkeypatch: pytest.MonkeyPatch) -> Explainer:
    explainer = Explainer()
    monkeypatch.setattr(uploads, "explainer_of", lambda models: explainer)
    monkeypatch.setattr(
        uploads, "page_of", lambda explained, **_: f"<h1>Why {explained.record.id}</h1>"
    )
    return explainer


@pytest.fixture
def client(model: ECGModel, explainer: Explainer) -> Iterator[TestClient]:
    worker = Worker({"toy": [model]}, Limits(files=3, megabytes=2, waiting=3, kept=2))
    with TestClient(application(worker), base_url="http://localhost") as client:
        yield client


def wfdb_files(folder: Path, *names: str) -> Files:
    for name in names:
        write_wfdb(folder, name, sine_leads(1500))
    files = sorted(path for path in folder.iterdir() if path.stem in names)
    return [("files", (path.name, path.read_bytes())) for path in files]


def table(*, time: bool = True) -> bytes:
    """A recording of 3 s as CSV, by default with its time."""
    rows = [",".join((*(["time"] if time else []), *LEADS))]
    for i, row in enumerate(sine_leads(1500)):
        rows.append(",".join(map(str, (*([i / 500] if time else []), *row))))
    return "\n".join(rows).encode()


def send(client: TestClient, files: Files, **fields: str) -> str:
    """Upload, and return the address of the upload's page."""
    data = {"model": "toy", **fields}
    answer = client.post("/uploads", data=data, files=files, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def explaining(client: TestClient, address: str) -> None:
    """Wait until the first page of an upload is being made."""
    for _ in range(600):
        text = client.get(address).text
        if "explanation 1 of 1" in text:
            return
        time.sleep(0.05)
    raise AssertionError(text)


def over(client: TestClient, address: str) -> str:
    """The words of an upload's page once nothing more will come."""
    for _ in range(600):
        text = client.get(address).text
        if 'http-equiv="refresh"' not in text:
            return text
        time.sleep(0.05)
    raise AssertionError(text)


def problem(answer: Any) -> str:
    found = re.search(r'<p class="problem">(.*)</p>', answer.text)
    assert found, answer.text
    return f"{answer.status_code} {found[1]}"


def test_recordings_are_answered(client: TestClient, tmp_path: Path, model: ECGModel) -> None:
    form = client.get("/").text
    assert "<option>toy</option>" in form and "At most 3 files and 2 MB" in form
    address = send(client, wfdb_files(tmp_path, "A1"))
    text = over(client, address)
    answer = model.predict_record(tmp_path / "A1.hea")
    shown = ", ".join(f"{name} ({answer.probabilities[name]:.2f})" for name in answer.labels)
    assert "1 recording answered" in text and ">A1<" in text and shown in text
    table = client.get(f"{address}/answers.csv")
    assert table.headers["content-disposition"] == 'attachment; filename="answers.csv"'
    assert table.text.splitlines()[1].startswith("A1,")
    page = client.get(f"{address}/pages/1?download=1")
    assert page.text == "<h1>Why A1</h1>" and "attachment" in page.headers["content-disposition"]


def test_a_page_has_the_warnings_of_its_answer(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "page_of", lambda explained, **parts: str(parts["warnings"]))
    signal = sine_leads(5000)
    signal[:1500] = 0  # the network sees 2 s
    write_wfdb(tmp_path, "A1", signal)
    files: Files = [("files", (path.name, path.read_bytes())) for path in tmp_path.iterdir()]
    address = send(client, files)
    assert "100% of the first 2 s" in over(client, address)
    assert "100% of the first 2 s" in client.get(f"{address}/pages/1").text


def test_a_page_says_only_of_its_own_recording_that_it_was_seen(
    model: ECGModel, explainer: Explainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        uploads, "page_of", lambda explained, notices, **_: f"{explained.record.id} {notices}"
    )
    origin = Origin("toy", trained=("A1",), chose=(), store={}, score=0.5)
    worker = Worker(
        {"toy": [replace(model, origin=origin)]}, Limits(files=6, megabytes=2, waiting=3, kept=2)
    )
    with TestClient(application(worker), base_url="http://localhost") as client:
        address = send(client, wfdb_files(tmp_path, "A1", "A2"))
        assert "1 of 2 records answered here was used to train" in over(client, address)
        pages = [client.get(f"{address}/pages/{number}").text for number in (1, 2)]
    assert pages[0].startswith("A1 ('This recording was used to train this model")
    assert pages[1] == "A2 ()"


def test_segments_are_answered_as_one_recording(client: TestClient, tmp_path: Path) -> None:
    write_wfdb(tmp_path, "A1_1", sine_leads(1500))
    (tmp_path / "A1.hea").write_text("A1/1 12 500 1500\nA1_1 1500\n")
    files: Files = [("files", (path.name, path.read_bytes())) for path in tmp_path.iterdir()]
    text = over(client, send(client, files))
    assert "1 recording answered" in text and "A1_1" not in text


def test_files_are_gone_once_they_are_answered(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    address = send(client, wfdb_files(tmp_path, "A1"))
    over(client, address)
    left = [path.name for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
    assert left == ["1.html"]
    answer = client.post(f"{address}/forget", follow_redirects=False)
    assert answer.headers["location"] == "/" and not list((tmp_path / "temporary").iterdir())
    assert "not kept any more" in problem(client.get(address))


def test_rubbish_gets_its_sentence_and_the_rest_an_answer(
    client: TestClient, tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script>.csv"
    files: Files = [*wfdb_files(tmp_path, "A1"), ("files", (evil, b"hello,world\n1,2\n"))]
    text = over(client, send(client, files))
    assert "1 recording answered" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.csv" in text and "<script" not in text
    assert "ecg-serve-" not in text  # the temporary folder's name
    files = [("files", (name, b"hello")) for name in ("notes.txt", "ä ö.npy")]
    text = over(client, send(client, files))
    assert "None of the files could be used" in text
    assert "<b>notes.txt</b>: notes.txt " in text and "<b>ä ö.npy</b>: ä ö.npy " in text


def test_recordings_are_shown_under_their_own_names(client: TestClient) -> None:
    names = ["Müller, Anna <1>.csv", ".a.b (2).csv", "=1+1.csv"]
    address = send(client, [("files", (name, table())) for name in names])
    text = over(client, address)
    for number, name in enumerate(("Müller, Anna <1>", ".a.b (2)", "=1+1"), start=1):
        assert f'<th scope="row">{html.escape(name)}</th>' in text
        assert client.get(f"{address}/pages/{number}").text == f"<h1>Why {name}</h1>"
    _, *rows = client.get(f"{address}/answers.csv").text.splitlines()
    assert rows[0].startswith('"Müller, Anna <1>",') and rows[2].startswith("'=1+1,")


def test_a_header_of_any_name_finds_its_signals(client: TestClient, tmp_path: Path) -> None:
    assert ">Müller.1<" in over(client, send(client, wfdb_files(tmp_path, "Müller.1")))


def test_files_of_one_stem_and_of_no_known_suffix(client: TestClient) -> None:
    names = ("A1.csv", "A1.tsv", "IM000001")
    files: Files = [("files", (name, table())) for name in names[:1]]
    files += [("files", (names[1], table().replace(b",", b"\t")))]
    array = io.BytesIO()
    write_array(array, sine_leads(1500))
    files += [("files", (names[2], array.getvalue()))]
    text = over(client, send(client, files, fs="500"))
    for name in ("A1", "A1.tsv", "IM000001"):
        assert f'<th scope="row">{name}</th>' in text
    assert "could not be used" not in text.casefold()


def test_rate_and_unit_from_the_form(client: TestClient) -> None:
    files: Files = [("files", ("a.csv", table(time=False)))]
    text = over(client, send(client, [*files, ("files", ("b.csv", table(time=False)))]))
    for name in ("a.csv", "b.csv"):
        assert f"{name} does not state its sampling rate; give it in Hz on the form" in text
    assert "1 recording answered" in over(client, send(client, files, fs="500", unit="mV"))
    assert "holds no ECG in the unit" in over(client, send(client, files, fs="500", unit="nV"))
    answer = client.post("/uploads", data={"model": "toy", "fs": "fast"}, files=files)
    assert "the sampling rate is &#39;fast&#39;; give a number" in problem(answer).casefold()


@pytest.mark.parametrize(
    "name",
    ["../../evil.npy", "/evil.npy", "a/b.npy", "..\\evil.npy", "~.npy", "C:é.npy", "é\n.npy"]
    + [".npy.", "x" * 300, "é" * 150],
)
def test_names_are_no_paths(name: str, model: ECGModel, tmp_path: Path) -> None:
    worker = Worker({"toy": [model]}, Limits())
    upload = worker.add("toy", [(name, io.BytesIO(b"123"))])
    (stored,) = upload.files.iterdir()
    ending = r"\.npy" if name.endswith(".npy") else ""
    assert re.fullmatch(f"recording_[0-9a-f]{{16}}{ending}", stored.name)
    assert upload.names == {stored.name: name}
    worker.stop()
    assert not upload.folder.exists()


class TestRefusals:
    def test_limits(self, client: TestClient, tmp_path: Path, explainer: Explainer) -> None:
        small: Files = [("files", (f"{i}.csv", b"1")) for i in range(4)]
        answer = client.post("/uploads", data={"model": "toy"}, files=small)
        assert problem(answer).startswith("400 ") and "at most 3 files" in problem(answer)
        large = client.post(
            "/uploads", data={"model": "toy"}, files={"files": ("a.csv", b"1" * 2_100_000)}
        )
        assert problem(large).startswith("413 ") and "at most 2 MB" in problem(large)
        unsized = client.post("/uploads", content=iter([b"a", b"b"]))
        assert problem(unsized).startswith("411 ")
        false = {"content-length": "10", "transfer-encoding": "chunked"}
        answer = client.post("/uploads", content=iter([b"a", b"b"]), headers=false)
        assert problem(answer).startswith("411 ")
        empty = client.post("/uploads", data={"model": "toy"}, files={"other": ("a", b"")})
        assert "no file was chosen" in problem(empty).casefold()
        other = client.post("/uploads", data={"model": "x"}, files={"files": ("a.csv", b"1")})
        assert "no model" in problem(other)
        twice: Files = [("files", ("a.csv", b"1"))] * 2
        answer = client.post("/uploads", data={"model": "toy"}, files=twice)
        assert "two files are named" in problem(answer).casefold()

    def test_a_full_queue(self, model: ECGModel) -> None:
        worker = Worker({"toy": [model]}, Limits(waiting=2))  # not started
        keys = [worker.add("toy", [("a.csv", io.BytesIO(b"1"))]) for _ in range(2)]
        assert [worker.before(each) for each in keys] == [0, 1]
        keys[0].state = "explaining"  # it counts here, but it does not keep others waiting
        assert [worker.before(each) for each in keys] == [0, 0]
        with pytest.raises(OptionError, match="2 uploads are not finished"):
            worker.add("toy", [("a.csv", io.BytesIO(b"1"))])
        worker.stop()

    @pytest.mark.parametrize("body", [b"", b"--x\r\n", b"\x00" * 1000, b'--x\r\nContent-Dispo"'])
    def test_a_broken_form(self, client: TestClient, body: bytes) -> None:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = client.post("/uploads", content=body, headers=headers)
        assert answer.status_code == 400 and problem(answer)

    def test_other_sites(self, client: TestClient) -> None:
        answer = client.get("/", headers={"host": "evil.example"})
        assert problem(answer).startswith("400 ") and "localhost" in problem(answer)
        assert problem(client.get("/", headers={"host": "["})).startswith("400 ")
        for origin in ("http://evil.example", "http://["):
            answer = client.post("/uploads", headers={"origin": origin})
            assert problem(answer).startswith("403 ") and "proxy" in problem(answer)
        answer = client.get("/")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"https?://|url\(|@import|<script", answer.text)

    def test_a_token(self, model: ECGModel) -> None:
        worker = Worker({"toy": [model]}, Limits())
        with TestClient(application(worker, token="secret"), base_url="http://10.0.0.1") as client:
            for address in ("/", "/?token=wrong", "/uploads/x"):
                assert problem(client.get(address)).startswith("403 ")
                assert client.get(address).headers["connection"] == "close"
            assert client.get("/?token=secret").status_code == 200
            assert client.get("/").status_code == 200  # from the cookie

    def test_unknown_pages(self, client: TestClient) -> None:
        assert problem(client.get("/x")) == "404 There is no such page."
        for address in ("/uploads/x", "/uploads/x/answers.csv", "/uploads/x/pages/1"):
            assert "not kept any more" in problem(client.get(address))


def test_answers_come_before_explanations(
    client: TestClient, tmp_path: Path, explainer: Explainer
) -> None:
    explainer.may.clear()
    first = send(client, wfdb_files(tmp_path, "A1"))
    explaining(client, first)
    second, third = (send(client, wfdb_files(tmp_path, name)) for name in ("A2", "A3"))
    assert "This upload is next" in client.get(second).text
    assert "1 upload will be answered before this one" in client.get(third).text
    order: list[str] = []
    explain = explainer.explain

    def explained(record: Record) -> Explanation:
        order.append(f"{record.id} with {client.get(third).text.count('>A3<')} answer")
        return explain(record)

    explainer.explain = explained  # type: ignore[method-assign]
    explainer.may.set()
    for address in (first, second, third):
        assert "1 recording answered" in over(client, address)
    assert order == ["A2 with 1 answer", "A3 with 1 answer"]


class TestCommand:
    def test_options_reach_the_server(
        self, model: ECGModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served: list[tuple[Any, ...]] = []

        def serve(models: Any, limits: Limits, *, host: str, port: int) -> None:
            paths = {name: [each.path for each in found] for name, found in models.items()}
            served.append((paths, limits, host, port))

        monkeypatch.setattr(server, "serve", serve)
        one, pattern = str(model.path), str(tmp_path / "fold_*" / "best.keras")
        folds = [tmp_path / f"fold_{fold}" / "best.keras" for fold in (1, 2)]
        for path in folds:
            path.parent.mkdir()
            shutil.copy(model.path, path)
        main(models=(one,))
        main(models=(pattern, one), host="0.0.0.0", port=8123, files=7, megabytes=9)
        assert served == [
            ({one: [model.path]}, Limits(files=20, megabytes=50), "127.0.0.1", 8000),
            (
                {pattern: folds, one: [model.path]},
                Limits(files=7, megabytes=9),
                "0.0.0.0",
                8123,
            ),
        ]

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"models": ()}, "no model is named; give at least one .keras file after --models"),
            ({"files": 0}, "--files must be above 0, not 0"),
            ({"megabytes": -1}, "--megabytes must be above 0, not -1"),
            ({"port": -1}, "--port takes 0 to 65535, not -1"),
            ({"port": 65536}, "--port takes 0 to 65535, not 65536"),
        ],
    )
    def test_what_cannot_be_served(
        self,
        model: ECGModel,
        monkeypatch: pytest.MonkeyPatch,
        options: dict[str, Any],
        sentence: str,
    ) -> None:
        monkeypatch.setattr(server, "serve", lambda *_, **__: pytest.fail("it served"))
        with pytest.raises(OptionError, match=sentence):
            main(**{"models": (str(model.path),), **options})

    def test_what_is_not_installed_is_named(
        self, model: ECGModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "ecg_keras.serving.server")
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        with pytest.raises(OptionError, match=r"uvicorn is not installed; .*ecg-keras\[serve\]"):
            main(models=(str(model.path),))


def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty of them would keep out all others for as long as they like."""
    made: list[uvicorn.Server] = []

    class Server(uvicorn.Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            made.append(self)

    listening = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(uvicorn, "Server", Server)
    monkeypatch.setattr(server, "_SECONDS", 0.3)
    monkeypatch.setattr(server, "_listen", lambda host, port: listening)
    options = {"host": "127.0.0.1", "port": 0}
    thread = threading.Thread(target=server.serve, args=({}, Limits()), kwargs=options)
    thread.start()
    try:
        with socket.create_connection(listening.getsockname(), timeout=30) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
            assert slow.recv(100) == b""
    finally:
        made[0].should_exit = True
        thread.join()


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_the_printed_address(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under 0.0.0.0 no other machine could open the page."""
    idle = SimpleNamespace(run=lambda sockets: None)
    without = SimpleNamespace(Config=lambda *_, **__: None, Server=lambda config: idle)
    monkeypatch.setattr(server, "uvicorn", without)
    monkeypatch.setattr(socket, "gethostname", lambda: "ward7")
    server.serve({}, Limits(), host=host, port=0)
    shown = r"ward7:\d+/\?token=\S+ " if host == "0.0.0.0" else r"127\.0\.0\.1:\d+/ "
    assert re.match(f"http://{shown}", capsys.readouterr().out)


def test_a_fault_of_ours_ends_one_upload_only(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    answer_records = uploads.answer_records

    def fail(models: Sequence[ECGModel], records: Any, **_: Any) -> Any:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(uploads, "answer_records", fail)
    text = over(client, send(client, wfdb_files(tmp_path, "A1")))
    assert "This upload could not be answered." in text and "a fault" not in text
    assert "ZeroDivisionError: a fault" in capfd.readouterr().err
    monkeypatch.setattr(uploads, "answer_records", answer_records)
    assert "1 recording answered" in over(client, send(client, wfdb_files(tmp_path, "A2")))


def test_a_fault_in_an_explanation_costs_its_page_only(
    client: TestClient, explainer: Explainer, capfd: Any
) -> None:
    explainer.but = "A1"
    files: Files = [("files", (f"A{i}.csv", table())) for i in (1, 2)]
    address = send(client, files)
    text = over(client, address)
    assert "2 recordings answered" in text and text.count("this page could not be made") == 1
    assert "ZeroDivisionError: a fault" in capfd.readouterr().err
    assert client.get(f"{address}/pages/1").status_code == 404
    assert client.get(f"{address}/pages/2").text == "<h1>Why A2</h1>"


def test_an_upload_that_is_forgotten_meanwhile(
    client: TestClient, tmp_path: Path, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    explainer.may.clear()
    address = send(client, wfdb_files(tmp_path, "A1"))
    explaining(client, address)
    client.post(f"{address}/forget")
    explainer.may.set()
    over(client, send(client, wfdb_files(tmp_path, "A2")))
    (left,) = (tmp_path / "temporary").iterdir()
    assert [path.name for path in left.iterdir()] == ["1.html"]


def test_only_the_newest_answers_are_kept(client: TestClient, tmp_path: Path) -> None:
    addresses = []
    for name in ("A1", "A2", "A3", "A4"):
        addresses.append(send(client, wfdb_files(tmp_path, name)))
        over(client, addresses[-1])
    found = [client.get(address).status_code for address in addresses]
    assert found == [404, 200, 200, 200]  # two old ones, and the one that came last
