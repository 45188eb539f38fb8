"""Downloads against a server of this machine that serves PhysioNet's trees, and misbehaves."""

import csv
import gzip
import hashlib
import os
import re
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from make_records import sine_leads, write_ptbxl, write_wfdb
from test_commands import exit_of

from data_prep.errors import DownloadError, OptionError, RecordError
from data_prep.files import locked
from data_prep.store import Store
from data_prep.storing import build, download
from data_prep.storing.download import SUMS, main
from data_prep.storing.folders import inspect_folder


class Server(ThreadingHTTPServer):
    """Serves a folder at /files/, with ranges, and does on request what bad servers do."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str]] = []  # path, range
        self.broken_off: dict[str, int] = {}  # how often a path's answers end halfway
        self.failing: dict[str, int] = {}  # how often a path is answered by 503
        self.changed: set[str] = set()
        self.ranges = True
        self.instead: dict[str, Callable[[Handler], None]] = {}  # what a path is answered
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path, asked = self.path.lstrip("/"), self.headers.get("Range", "")
        self.server.requests.append((path, asked))
        if path in self.server.instead:
            self.close_connection = True
            with suppress(OSError):  # the other side has had enough
                self.server.instead[path](self)
            return
        file = self.server.folder / path
        if self.server.failing.get(path, 0) > 0:
            self.server.failing[path] -= 1
            self.send_error(503)
            return
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        if path in self.server.changed:
            data = bytes([data[0] ^ 1]) + data[1:]
        start = 0
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if asked and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = len(data)
        if self.server.broken_off.get(path, 0) > 0:
            self.server.broken_off[path] -= 1
            stop = start + (len(data) - start) // 2
        self.wfile.write(data[start:stop])
        if stop < len(data):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def write_sums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
        for path in files
    ]
    (folder / SUMS).write_text("".join(lines))


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two published trees in small; that of the challenge has other hospitals' records."""
    place = tmp_path_factory.mktemp("published")
    for number in range(6):
        group = place / "challenge" / "training" / "cpsc_2018" / f"g{number // 3 + 1}"
        name = f"A{number + 1:04d}"
        write_wfdb(group, name, sine_leads(600, seed=number), comments=["Dx: 164889003"])
        (group / "RECORDS").write_text("A\n")
    write_wfdb(place / "challenge" / "training" / "georgia" / "g1", "E00001", sine_leads(600))
    (place / "challenge" / "LICENSE.txt").write_text("CC BY 4.0\n")
    write_ptbxl(place / "ptb-xl", [{"NORM": 100.0}, {"IMI": 50.0}], hr=True)
    (place / "ptb-xl" / "LICENSE.txt").write_text("CC BY 4.0\n")
    for tree in place.iterdir():
        write_sums(tree)
    return place


@pytest.fixture
def server(trees: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "_pause", lambda failures: 0.0)
    with Server(trees) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.02,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != SUMS
    }


def test_cpsc(
    server: Server, trees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main("cpsc2018", out=tmp_path / "cpsc", url=server.url + "challenge")
    expected = files_of(trees / "challenge" / "training" / "cpsc_2018")
    assert len(expected) == 14 and files_of(tmp_path / "cpsc") == expected
    shown = capsys.readouterr()
    assert "14 files of cpsc2018 are complete and checked, 14 of them new." in shown.out
    assert re.search(r"downloading: 100%.*14/14.*file/s, \d+\.\d MB/s", shown.err)
    # The list that is left behind is one that sha256sum -c understands.
    for line in (tmp_path / "cpsc" / SUMS).read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(expected[name]).hexdigest() == digest

    # Once more: only the list is fetched.
    server.requests.clear()
    main("cpsc2018", out=tmp_path / "cpsc", url=server.url + "challenge/")
    assert [path for path, _ in server.requests] == [f"challenge/{SUMS}"]
    assert "0 of them new" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rate", "folders"), [("100", {"100"}), ("500", {"500"}), ("both", {"100", "500"})]
)
def test_ptbxl(server: Server, trees: Path, tmp_path: Path, rate: str, folders: set[str]) -> None:
    main("ptb-xl", out=tmp_path, url=server.url + "ptb-xl", rate=rate)  # type: ignore[arg-type]
    expected = {
        name: data
        for name, data in files_of(trees / "ptb-xl").items()
        if not name.startswith("records") or name[7:10] in folders
    }
    assert files_of(tmp_path) == expected
    assert {"ptbxl_database.csv", "scp_statements.csv", "LICENSE.txt"} <= set(expected)
    assert inspect_folder(tmp_path).missing == ()


@pytest.mark.parametrize("ranges", [True, False])
def test_connections_that_break_off_are_gone_on_with(
    server: Server, tmp_path: Path, trees: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    path = "challenge/training/cpsc_2018/g1/A0001.mat"
    assert (trees / path).stat().st_size == 14_424
    monkeypatch.setattr(download, "_BLOCK", 1000)
    server.broken_off, server.ranges = {path: 3}, ranges
    server.failing = {"challenge/training/cpsc_2018/g2/A0004.hea": 2, f"challenge/{SUMS}": 2}
    main("cpsc2018", out=tmp_path, url=server.url + "challenge", workers=2)
    assert (tmp_path / "g1" / "A0001.mat").read_bytes() == (trees / path).read_bytes()
    asked = [which for name, which in server.requests if name == path]
    # Each time half of the rest comes.
    assert asked[0] == "" and len(asked) == 4
    if ranges:
        assert asked[1:] == ["bytes=7212-", "bytes=10818-", "bytes=12621-"]
    assert not list(tmp_path.rglob("*.part"))


def test_a_file_begun_earlier_is_gone_on_with(server: Server, tmp_path: Path, trees: Path) -> None:
    path = "training/cpsc_2018/g1/A0002.mat"
    whole = (trees / "challenge" / path).read_bytes()
    (tmp_path / "g1").mkdir()
    for begun, ranges in [
        (whole[:1000], ["bytes=1000-"]),
        (whole, [f"bytes={len(whole)}-"]),
        (whole + b"more", [f"bytes={len(whole) + 4}-", ""]),
        (b"of another release" * 10, ["bytes=180-", ""]),
    ]:
        (tmp_path / "g1" / "A0002.mat").unlink(missing_ok=True)
        (tmp_path / "g1" / "A0002.mat.part").write_bytes(begun)
        server.requests.clear()
        main("cpsc2018", out=tmp_path, url=server.url + "challenge")
        assert (tmp_path / "g1" / "A0002.mat").read_bytes() == whole
        assert [r for name, r in server.requests if name.endswith("A0002.mat")] == ranges


def test_a_damaged_copy_is_fetched_again(server: Server, tmp_path: Path, trees: Path) -> None:
    main("cpsc2018", out=tmp_path, url=server.url + "challenge")
    damaged = tmp_path / "g2" / "A0005.mat"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    server.requests.clear()
    main("cpsc2018", out=tmp_path, url=server.url + "challenge")
    assert Counter(path for path, _ in server.requests).total() == 2
    assert files_of(tmp_path) == files_of(trees / "challenge" / "training" / "cpsc_2018")


def test_a_changed_file_is_one_sentence(server: Server, tmp_path: Path) -> None:
    server.changed = {"challenge/training/cpsc_2018/g1/A0003.mat"}
    with pytest.raises(DownloadError, match=r"/g1/A0003.mat is not the file that SHA256SUMS.txt"):
        main("cpsc2018", out=tmp_path, url=server.url + "challenge", workers=1)
    assert not (tmp_path / "g1" / "A0003.mat").exists()
    assert any("A0003.mat (named by" in each for each in inspect_folder(tmp_path).missing)
    assert (tmp_path / "g1" / "A0001.mat").exists()  # what was complete stays
    server.changed = set()
    main("cpsc2018", out=tmp_path, url=server.url + "challenge")
    assert len(files_of(tmp_path)) == 14


def test_a_dead_link_is_one_sentence(server: Server, tmp_path: Path, trees: Path) -> None:
    shutil.copytree(trees / "challenge", trees / "holes")
    (trees / "holes" / "training" / "cpsc_2018" / "g2" / "A0006.hea").unlink()
    with pytest.raises(DownloadError, match=r"A0006.hea cannot be downloaded .*404"):
        main("cpsc2018", out=tmp_path, url=server.url + "holes")
    with pytest.raises(DownloadError, match=r"/absent/SHA256SUMS.txt cannot be downloaded"):
        main("cpsc2018", out=tmp_path, url=server.url + "absent")
    with pytest.raises(DownloadError, match="lists no files of cpsc2018"):
        main("cpsc2018", out=tmp_path, url=server.url + "ptb-xl")
    server.failing = {f"challenge/{SUMS}": 99}
    with pytest.raises(DownloadError, match=r"\(the server answers 50\d .*\) after 5 tries; try"):
        main("cpsc2018", out=tmp_path, url=server.url + "challenge")
    assert server.failing[f"challenge/{SUMS}"] == 94


def test_no_server_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_pause", lambda failures: 0.0)
    # A socket that nobody listens on, kept open so that no other program gets its port.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        refused = r"cannot be fetched \(Connection refused\) after 5"
        with pytest.raises(DownloadError, match=refused):
            main("cpsc2018", out=tmp_path, url=address)
    with pytest.raises(OptionError, match="ftp://x is not the address"):
        main("cpsc2018", out=tmp_path, url="ftp://x")
    with pytest.raises(OptionError, match="0 workers"):
        main("cpsc2018", out=tmp_path, url=address, workers=0)
    with pytest.raises(OptionError, match="500 Hz only; drop --rate"):
        main("cpsc2018", out=tmp_path, url=address, rate="both")


def redirecting(location: str) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.end_headers()
        for _ in range(1000):  # which nobody is to wait for
            handler.wfile.write(bytes(1 << 16))

    return answer


@pytest.mark.parametrize(
    "location",
    [
        *("http://[::1", "file:///etc/passwd", "http://169.254.169.254/latest"),
        *("http://10.0.0.1/x", "http://localhost:1/x", "http://127.0.0.1:1/x", "https://[::]/"),
        "//192.168.1.1/x",
    ],
)
def test_redirects_elsewhere_are_not_followed(
    server: Server, tmp_path: Path, location: str
) -> None:
    server.instead = {f"challenge/{SUMS}": redirecting(location)}
    with pytest.raises(DownloadError, match="is redirected to .*, where we do not go"):
        main("cpsc2018", out=tmp_path, url=server.url + "challenge")
    assert len(server.requests) == 1


def test_redirects_on_the_same_server(server: Server, tmp_path: Path) -> None:
    server.instead = {f"moved/{SUMS}": redirecting(f"/challenge/{SUMS}")}
    with pytest.raises(DownloadError, match="moved/training.*404"):
        main("cpsc2018", out=tmp_path, url=server.url + "moved", workers=1)
    server.instead = {f"moved/{SUMS}": redirecting(SUMS)}
    with pytest.raises(DownloadError, match="again and again"):
        main("cpsc2018", out=tmp_path, url=server.url + "moved")


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 16))


def compressed(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.end_headers()
    handler.wfile.write(gzip.compress(bytes(1 << 20)))


def slow(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"0")
        time.sleep(0.05)


def slow_from_the_start(handler: Handler) -> None:
    for letter in b"HTTP/1.0 200 OK":
        handler.wfile.write(bytes([letter]))
        time.sleep(0.1)


@pytest.mark.parametrize("path", [SUMS, "training/cpsc_2018/g1/A0001.mat"])
@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (endless, "is larger than any file"),
        (compressed, "comes compressed .gzip."),
        (slow, "comes too slowly"),
        (slow_from_the_start, "cannot be fetched .* after 5 tries"),
    ],
)
def test_servers_that_send_too_much_or_too_little(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    answer: Callable[[Handler], None],
    trouble: str,
) -> None:
    monkeypatch.setattr(download, "_MOST_SUMS", 10**6)
    monkeypatch.setattr(download, "_MOST_FILE", 10**6)
    monkeypatch.setattr(download, "_WINDOW", 0.3)
    server.instead = {f"challenge/{path}": answer}
    with pytest.raises(DownloadError, match=rf"{Path(path).name} {trouble}"):
        main("cpsc2018", out=tmp_path, url=server.url + "challenge", workers=1)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 1.2e6


@pytest.mark.parametrize(
    "name", ["training/cpsc_2018/.", "training/cpsc_2018/g1/", "training/cpsc_2018/a\x1bb"]
)
def test_a_list_must_name_files(server: Server, tmp_path: Path, trees: Path, name: str) -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(f"{'0' * 64}  {name}\n".encode())

    server.instead = {f"challenge/{SUMS}": answer}
    with pytest.raises(DownloadError, match="which is not below its folder"):
        main("cpsc2018", out=tmp_path / "out", url=server.url + "challenge")
    name = f"training/cpsc_2018/a\n{'1' * 64}  training/cpsc_2018/./a"
    with pytest.raises(DownloadError, match="two checksums"):
        main("cpsc2018", out=tmp_path / "out", url=server.url + "challenge")
    name = "training/cpsc_2018/A0001.mat.part"
    with pytest.raises(DownloadError, match=r"a name that ends in \.part"):
        main("cpsc2018", out=tmp_path / "out", url=server.url + "challenge")
    name = "training/cpsc_2018/" + "a/" * 1500 + "b"
    with pytest.raises(DownloadError, match="a path too long"):
        main("cpsc2018", out=tmp_path / "out", url=server.url + "challenge")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["records100/../../x.hea", "records100//etc/x", "records100/C:x"])
def test_a_list_must_not_name_files_elsewhere(
    server: Server, tmp_path: Path, trees: Path, name: str
) -> None:
    evil = trees / f"evil{len(name)}"
    evil.mkdir()
    (evil / SUMS).write_text(f"{'0' * 64}  {name}\n")
    if ".." in name or ":" in name:
        with pytest.raises(DownloadError, match="which is not below its folder"):
            main("ptb-xl", out=tmp_path / "out", url=server.url + evil.name)
        assert not server.requests[1:]
    else:  # a path with // stays below
        with pytest.raises(DownloadError, match="cannot be downloaded"):
            main("ptb-xl", out=tmp_path / "out", url=server.url + evil.name)


def test_command(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("ptb-xl", "--out", str(tmp_path / "ptb"), "--url", server.url + "ptb-xl")
    assert exit_of(main, *options) is None
    assert (tmp_path / "ptb" / "ptbxl_database.csv").is_file()
    assert exit_of(main, *options[:3], "--url", server.url + "nothing") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("ecg-toy: http://127.0.0.1")


# --- Some records ------------------------------------------------------------------------------

REPORTS = ("normal", 'sinus, "steep" type', "one\ntwo, three\r\nfour", "Überleitung\u2028")


@pytest.fixture(scope="module")
def cut_tree(trees: Path) -> Path:
    """PTB-XL with reports that csv must quote; the rows end as published, by a line feed."""
    folder = write_ptbxl(
        trees / "four", [{"NORM": 100.0}, {"IMI": 50.0}, {"SR": 0.0}, {"NORM": 0.0}], hr=True
    )
    with open(folder / "ptbxl_database.csv", newline="") as file:
        header, *rows = csv.reader(file)
    with open(folder / "ptbxl_database.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*header, "report"])
        table.writerows([*row, report] for row, report in zip(rows, REPORTS, strict=True))
    (folder / "LICENSE.txt").write_text("CC BY 4.0\n")
    write_sums(folder)
    return folder


def published_rows(folder: Path, *numbers: int) -> bytes:
    """The header and the rows of some records, cut out of the published table by hand."""
    text = (folder / "ptbxl_database.csv").read_bytes()
    starts = [0, *(text.index(b"\n%d,%d.0" % (n, 100 + n)) + 1 for n in range(1, 5)), len(text)]
    return b"".join(text[starts[n] : starts[n + 1]] for n in (0, *numbers))


def require_complete(
    folder: Path, *, of: Path, numbers: tuple[int, ...], both: bool = False
) -> None:
    """Exactly these records, tables and checksums are there, and the folder is built whole."""
    files = files_of(folder)
    expected = {
        f"{place}/00000/{number:05d}_{rate}.{ending}"
        for number in numbers
        for place, rate in (("records100", "lr"), ("records500", "hr"))[: 1 + both]
        for ending in ("hea", "dat")
    }
    assert set(files) == expected | {"scp_statements.csv", "ptbxl_database.csv"}
    published = files_of(of)
    assert all(files[name] == published[name] for name in expected | {"scp_statements.csv"})
    assert files["ptbxl_database.csv"] == published_rows(of, *numbers)
    lines = [line.split("  ") for line in (folder / SUMS).read_text().splitlines()]
    sums = {name: digest for digest, name in lines}
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    report = inspect_folder(folder)
    assert (report.missing, report.extra) == ((), ())
    store = folder.with_suffix(".h5")
    build.main(source=(folder,), out=store, workers=1)
    with Store(store) as opened:
        assert len(opened.ids) == len(numbers)
    assert len(folder.with_suffix(".rejected.csv").read_text().splitlines()) == 1  # the header


def test_some_records_of_ptbxl_are_a_complete_folder(
    server: Server, cut_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = partial(main, "ptb-xl", out=tmp_path / "some", url=server.url + "four")
    some(records=("2", "00003_lr"))
    assert "6 files of ptb-xl are complete and checked, 6 of them new." in capsys.readouterr().out
    require_complete(tmp_path / "some", of=cut_tree, numbers=(2, 3))

    # Once more, only the list is fetched; so it is for records already there.
    for records in (("2", "3"), ("00002",)):
        server.requests.clear()
        some(records=records)
        assert [path for path, _ in server.requests] == [f"four/{SUMS}"]
        require_complete(tmp_path / "some", of=cut_tree, numbers=(2, 3))

    # More records come to those already there; half a record is completed.
    (tmp_path / "some" / "records100" / "00000" / "00002_lr.dat").unlink()
    server.requests.clear()
    some(records=("1",))
    assert {path.removeprefix("four/") for path, _ in server.requests} == {
        SUMS,
        "ptbxl_database.csv",
        *(f"records100/00000/{name}" for name in ("00001_lr.hea", "00001_lr.dat", "00002_lr.dat")),
    }
    require_complete(tmp_path / "some", of=cut_tree, numbers=(1, 2, 3))

    # A record that was removed leaves the table too.
    for ending in ("hea", "dat"):
        (tmp_path / "some" / "records100" / "00000" / f"00002_lr.{ending}").unlink()
    server.requests.clear()
    some(records=("1",))
    assert len(server.requests) == 1
    require_complete(tmp_path / "some", of=cut_tree, numbers=(1, 3))


def test_a_damaged_cut_table_is_fetched_again(
    server: Server, cut_tree: Path, tmp_path: Path
) -> None:
    some = partial(main, "ptb-xl", out=tmp_path / "some", url=server.url + "four", records=("3",))
    some()
    table = tmp_path / "some" / "ptbxl_database.csv"
    for damaged in (table.read_bytes().replace(b"four", b"five"), b"", b"\xff"):
        table.write_bytes(damaged)
        some()
        require_complete(tmp_path / "some", of=cut_tree, numbers=(3,))


def test_some_records_at_both_rates(server: Server, cut_tree: Path, tmp_path: Path) -> None:
    some = partial(main, "ptb-xl", out=tmp_path / "some", url=server.url + "four")
    some(records=("1",))
    with pytest.raises(OptionError, match=r"some already holds records at 100 Hz; give --rate b"):
        some(records=("2",), rate="500")
    some(records=("2",), rate="both")
    require_complete(tmp_path / "some", of=cut_tree, numbers=(1, 2), both=True)
    with pytest.raises(OptionError, match="already holds records at 500 Hz"):
        some(records=("2",))


def test_all_of_ptbxl_and_then_some(server: Server, cut_tree: Path, tmp_path: Path) -> None:
    some = partial(main, "ptb-xl", out=tmp_path / "some", url=server.url + "four")
    some(records=("4",))
    some()
    everything = files_of(tmp_path / "some")
    assert everything["ptbxl_database.csv"] == (cut_tree / "ptbxl_database.csv").read_bytes()
    some(records=("4",))
    assert files_of(tmp_path / "some") == everything


def test_some_records_of_cpsc(server: Server, trees: Path, tmp_path: Path) -> None:
    some = partial(main, "cpsc2018", out=tmp_path / "some", url=server.url + "challenge")
    for records, present in ((("A0002",), {2}), (("A0005",), {2, 5})):
        some(records=records)
        published = files_of(trees / "challenge" / "training" / "cpsc_2018")
        expected = {n: d for n, d in published.items() if any(f"A000{i}" in n for i in present)}
        assert len(expected) == 2 * len(present) and files_of(tmp_path / "some") == expected
    assert inspect_folder(tmp_path / "some").missing == ()


@pytest.mark.parametrize(
    ("dataset", "records", "rate", "sentence"),
    [
        (
            "ptb-xl",
            ("1", "7", "8"),
            "100",
            r"no record 7 \(and 1 more\); give records such as 00001_lr\.",
        ),
        ("ptb-xl", ("00001_hr",), "100", "no record 00001_hr; give records such as 00001_lr"),
        ("ptb-xl", ("A0001",), "500", "no record A0001; give records such as 00001_hr"),
        ("ptb-xl", ("",), "100", "no record ; give"),
        ("ptb-xl", (), "100", "--records names no record; give some, or drop it"),
        ("cpsc2018", ("9000",), "100", "no record 9000; give records such as A0001"),
    ],
)
def test_records_that_do_not_exist(
    server: Server,
    cut_tree: Path,
    tmp_path: Path,
    dataset: Any,
    records: tuple[str, ...],
    rate: Any,
    sentence: str,
) -> None:
    url = server.url + ("four" if dataset == "ptb-xl" else "challenge")
    with pytest.raises(OptionError, match=sentence):
        main(dataset, out=tmp_path / "some", url=url, records=records, rate=rate)
    assert not (tmp_path / "some").exists()


def test_a_table_without_a_record_is_one_sentence(
    server: Server, trees: Path, cut_tree: Path, tmp_path: Path
) -> None:
    shutil.copytree(cut_tree, trees / "three")
    table = trees / "three" / "ptbxl_database.csv"
    table.write_bytes(published_rows(cut_tree, 1, 2, 3))
    write_sums(trees / "three")
    with pytest.raises(DownloadError, match=r"database.csv has no row of record 4, which SHA256SU"):
        main("ptb-xl", out=tmp_path / "some", url=server.url + "three", records=("4",))


def test_some_records_on_the_command_line(
    server: Server, cut_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", str(tmp_path / "some"), "--url", server.url + "four")
    assert exit_of(main, "ptb-xl", "--records", "4", "00001_lr", *options) is None
    require_complete(tmp_path / "some", of=cut_tree, numbers=(1, 4))
    assert exit_of(main, "ptb-xl", "--records", *options) == 2
    assert "--records names no record" in capsys.readouterr().err


# --- ecg-build --check ---------------------------------------------------------------------------


def test_check_of_a_download(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main("cpsc2018", out=tmp_path / "cpsc", url=server.url + "challenge")
    capsys.readouterr()
    assert exit_of(build.main, "--check", str(tmp_path / "cpsc")) is None
    lines = capsys.readouterr().out.splitlines()
    assert "6 WFDB records" in lines[0] and "labels in the headers; 6 recordings." in lines[0]
    assert lines[1].startswith("WFDB: 6 of 6 read; 500 Hz; ")
    assert lines[2:] == [
        "missing: nothing",
        "extra: nothing",
        "unusable: nothing",
        "options needed to build: nothing",
    ]

    (tmp_path / "cpsc" / "g1" / "A0001.mat").unlink()
    (tmp_path / "cpsc" / "g2" / "A0004.hea").unlink()
    (tmp_path / "cpsc" / "g2" / "lost.dat").write_bytes(b"")
    assert exit_of(build.main, "--check", str(tmp_path / "cpsc")) == 2
    shown = capsys.readouterr()
    assert "missing: 3" in shown.out and "g1/A0001.mat (named by SHA256SUMS.txt)" in shown.out
    assert "A0001.mat (named by A0001.hea)" in shown.out
    assert "lost.dat (samples without a header)" in shown.out
    assert "lacks 3 of its files, the first" in shown.err

    assert exit_of(build.main, "--source", str(tmp_path / "cpsc")) == 2
    assert "no store is named; give --out" in capsys.readouterr().err


def test_check_of_a_download_that_was_stopped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_fetch_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main("cpsc2018", out=tmp_path / "cpsc", url=server.url + "challenge")
    missing = inspect_folder(tmp_path / "cpsc").missing
    assert len(missing) > 6 and all("named by SHA256SUMS.txt" in each for each in missing)


def interrupted(*_: object) -> int:
    raise KeyboardInterrupt


def test_two_downloads_into_one_folder(server: Server, tmp_path: Path) -> None:
    with locked(tmp_path / "cpsc", doing="filled"):
        with pytest.raises(OptionError, match="cpsc is being filled by"):
            main("cpsc2018", out=tmp_path / "cpsc", url=server.url + "challenge")


def test_check_of_other_folders(tmp_path: Path) -> None:
    folder = write_ptbxl(tmp_path / "ptb", [{"NORM": 100.0}] * 3, hr=True)
    report = inspect_folder(folder)
    assert report.layout == "PTB-XL as published, 100 Hz and 500 Hz"
    assert (report.num_records, report.missing, report.extra) == (6, (), ())
    (folder / "records500" / "00000" / "00002_hr.hea").unlink()
    write_wfdb(folder / "records100", "stranger", sine_leads(600))
    report = inspect_folder(folder)
    assert len(report.missing) == 1 and "00002_hr.hea (named by ptbxl_database" in report.missing[0]
    assert [text.partition(" (")[2] for text in report.extra] == [
        "samples without a header)",
        "not in ptbxl_database.csv)",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="empty holds no recording"):
        inspect_folder(tmp_path / "empty")


def test_check_of_real_folders(shared_data: Path) -> None:
    for folder, records, words in [
        ("cpsc2018/challenge2020", 150, "150 WFDB records"),
        ("cpsc2018/original", 60, "60 MATLAB structs"),
        ("ptbxl", 400, "PTB-XL as published, 100 Hz"),
    ]:
        report = inspect_folder(shared_data / folder)
        assert (report.num_records, report.missing, report.extra) == (records, (), ()), report
        assert (report.unusable, report.needs) == ((), ()), report
        assert words in report.layout
