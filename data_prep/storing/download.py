"""Command that downloads CPSC 2018 or PTB-XL from PhysioNet and checks every file."""

import ipaddress
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urljoin, urlsplit

from data_prep.commands import run_command
from data_prep.errors import DownloadError, OptionError
from data_prep.files import locked, sha256_of, written_whole

if TYPE_CHECKING:
    import requests
    from requests.adapters import HTTPAdapter

SUMS = "SHA256SUMS.txt"
"""The checksum file that PhysioNet publishes with each data set; ours lists our files."""

_ROOTS = {
    "cpsc2018": "https://physionet.org/files/challenge-2021/1.0.3/",
    "ptb-xl": "https://physionet.org/files/ptb-xl/1.0.3/",
}
# Parts of the published tree to fetch, and the prefix that is dropped from their paths.
_PARTS = {
    "cpsc2018": (r"training/cpsc_2018/.+", "training/cpsc_2018/"),
    "100": (r"[^/]+\.(?:csv|txt)|records100/.+", ""),
    "500": (r"[^/]+\.(?:csv|txt)|records500/.+", ""),
    "both": (r"[^/]+\.(?:csv|txt)|records[15]00/.+", ""),
}
_TABLE = "ptbxl_database.csv"
_TABLES = (_TABLE, "scp_statements.csv")
_BLOCK = 1 << 14  # bytes at a time; at most this much is lost if a connection breaks
_TRIES = 5
_TIMEOUT = (10, 30)  # seconds to connect, and between two bytes
_WINDOW, _LEAST = 60.0, 10_000  # seconds, and the bytes that must arrive within them
_MOST_SUMS, _MOST_FILE = 2**26, 2**28  # bytes; the largest published files have 2**23
_MOST_PARTS, _MOST_LETTERS = 20, 200  # depth of folders, letters in each of their names
_REDIRECTS = 5


def main(
    dataset: Literal["cpsc2018", "ptb-xl"],
    /,
    *,
    out: Path,
    url: str | None = None,
    records: tuple[str, ...] | None = None,
    rate: Literal["100", "500", "both"] = "100",
    workers: int = 8,
) -> None:
    """Download a data set, or some of its records, from PhysioNet, and check every file.

    Complete files are not downloaded again, and partial files are resumed: after an interruption,
    run the same command again.  With --records, the records that the folder already holds are
    kept and completed, and of PTB-XL ptbxl_database.csv has the rows of the folder's records only.

    Args:
        dataset: cpsc2018 (6,877 records at 500 Hz, in the format of the PhysioNet/CinC Challenge
            2021) or ptb-xl (version 1.0.3).
        out: folder for the files.
        url: of a mirror's folder that holds SHA256SUMS.txt; by default PhysioNet.
        records: download only these records: the ecg_id of PTB-XL (9000) or names (09000_lr,
            A0001); by default all.
        rate: which records of PTB-XL to download, in Hz.
        workers: number of files downloaded at a time.

    Raises:
        DownloadError: if the server does not answer, or lacks files that it lists.
        OptionError: if the options contradict each other, or the data set lacks a record.
        LabelError: if the table of PTB-XL cannot be read.
    """
    if workers < 1:
        raise OptionError(f"{workers} workers cannot fetch anything; give at least 1.")
    if dataset == "cpsc2018" and rate != "100":
        raise OptionError("CPSC 2018 is available at 500 Hz only; drop --rate.")
    if records == ():
        raise OptionError("--records names no record; give some, or drop it to download all.")
    other = {"100": "500", "500": "100"}.get(rate)
    if records and other and (out / f"records{other}").is_dir():
        raise OptionError(  # each record must be there at all rates of its folder
            f"{out} already holds records at {other} Hz; give --rate both, or another folder with"
            " --out."
        )
    root = (url or _ROOTS[dataset]).rstrip("/") + "/"
    if not root.startswith(("http://", "https://")):
        raise OptionError(
            f"{url} is not the address of a server; give one that begins with https://."
        )
    with locked(out.resolve(), doing="filled"):
        source = _Source(root)
        files = _chosen(source.text(SUMS), *_PARTS["cpsc2018" if dataset == "cpsc2018" else rate])
        if not files:
            raise DownloadError(
                f"{root}{SUMS} lists no files of {dataset}; give with --url the folder that holds"
                " it."
            )
        of_table: set[str] = set()  # ecg_id of each row that the table of PTB-XL is to keep
        if records:
            files = _of_records(files, records, out, f"{root}{SUMS}")
            if dataset == "ptb-xl":
                of_table = {name.lstrip("0") for name in map(_record, files) if name}
                files = _with_table(files, _sha256_of_cut(out, of_table))
        _list(files, out)  # what is still to come is missing, says ecg-build --check
        fetched = _fetch_all(source, files, out, workers)
        if of_table:
            _cut(out / _TABLE, of_table)
            files = _with_table(files, sha256_of(out / _TABLE))
            _list(files, out)
        print(
            f"{out}: {len(files)} files of {dataset} are complete and checked, {fetched} of them"
            " new."
        )


def _list(files: Sequence["_File"], out: Path) -> None:
    """Write what the folder is to hold, in the format of sha256sum, for ``ecg-build --check``."""
    with written_whole(out / SUMS) as part:
        part.write_text("".join(f"{file.sha256}  {file.place}\n" for file in files))


@dataclass(frozen=True)
class _File:
    """A file of the published tree: its path there, its path here, its SHA-256."""

    path: str
    place: PurePosixPath
    sha256: str


def _chosen(text: str, pattern: str, prefix: str) -> list[_File]:
    """Select lines of a file in the format of ``sha256sum``."""
    files: dict[PurePosixPath, _File] = {}
    for line in text.splitlines():
        found = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line.strip())
        if not found or not re.fullmatch(pattern, found[2]) or found[2] == SUMS:
            continue
        place = PurePosixPath(found[2].removeprefix(prefix))
        # A list must not make us write outside the folder.
        strange = "\\" in found[2] or ":" in found[2] or not found[2].isprintable()
        if strange or found[2].endswith(("/", "/.")) or place.is_absolute() or ".." in place.parts:
            raise DownloadError(
                f"{SUMS} names {found[2][:200]!r}, which is not below its folder; use another"
                " mirror."
            )
        if len(place.parts) > _MOST_PARTS or max(map(len, place.parts)) > _MOST_LETTERS:
            raise DownloadError(
                f"{SUMS} names {found[2][:200]!r}…, a path too long for a file; use another mirror."
            )
        file = _File(found[2], place, found[1].casefold())
        # Two of one place would write to one file; the partial file of A is A.part.
        if files.get(place, file).sha256 != file.sha256 or place.suffix == ".part":
            raise DownloadError(
                f"{SUMS} gives {found[2]!r} two checksums, or a name that ends in .part; use"
                " another mirror."
            )
        files[place] = file
    return list(files.values())


def _record(file: _File) -> str:
    """The record that a file belongs to, such as 09000 or A0001; empty for other files."""
    is_record = file.place.suffix in (".hea", ".dat", ".mat")
    return file.place.stem.partition("_")[0] if is_record else ""


def _of_records(
    files: Sequence[_File], names: Sequence[str], out: Path, listed_in: str
) -> list[_File]:
    """Select the files of these records, of those in the folder, and the tables of PTB-XL."""
    known: dict[str, str] = {}
    for file in files:
        if record := _record(file):
            known |= dict.fromkeys((file.place.stem, record, record.lstrip("0")), record)
    absent = [name for name in names if name not in known]
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise OptionError(
            f"{listed_in} lists no record {absent[0]}{more}; give records such as"
            f" {next(iter(known), 'those of another --rate')}."
        )
    wanted = {known[name] for name in names}
    wanted |= {_record(file) for file in files if (out / file.place).is_file()} - {""}
    return [file for file in files if _record(file) in wanted or str(file.place) in _TABLES]


def _with_table(files: Sequence[_File], sha256: str | None) -> list[_File]:
    """Replace the checksum of the table of PTB-XL; None leaves the published one."""
    return [
        replace(file, sha256=sha256) if sha256 and str(file.place) == _TABLE else file
        for file in files
    ]


def _sha256_of_cut(out: Path, numbers: set[str]) -> str | None:
    """The checksum of a table cut earlier, if it is undamaged and has the rows of all records."""
    table = out / _TABLE
    if not (table.is_file() and (out / SUMS).is_file()):
        return None
    sha256 = sha256_of(table)
    listed = _chosen((out / SUMS).read_text(errors="replace"), re.escape(_TABLE), "")
    if sha256 not in [file.sha256 for file in listed] or numbers - _rows_by_number(table)[1].keys():
        return None
    return sha256


def _rows_by_number(table: Path) -> tuple[str, dict[str, str]]:
    """The header of PTB-XL's table, and the text of each row, as published, by its ecg_id."""
    from data_prep.labels import read_rows

    rows = read_rows(table, ["ecg_id"])
    lines = list(StringIO(table.read_bytes().decode(), newline=""))
    starts = [1, *(end for end, _ in rows)]  # a quoted cell may hold the end of a line
    texts = ("".join(lines[start:end]) for start, (end, _) in zip(starts, rows, strict=False))
    return lines[0], dict(zip((row["ecg_id"] for _, row in rows), texts, strict=True))


def _cut(table: Path, numbers: set[str]) -> None:
    """Reduce PTB-XL's table to the rows of some records."""
    header, rows = _rows_by_number(table)
    if absent := numbers - rows.keys():
        raise DownloadError(
            f"{table} has no row of record {min(absent)}, which {SUMS} lists; give another mirror"
            " with --url."
        )
    kept = [text for number, text in rows.items() if number in numbers]
    with written_whole(table) as part:
        part.write_bytes("".join([header, *kept]).encode())


def _fetch_all(source: "_Source", files: list[_File], out: Path, workers: int) -> int:
    """Fetch what is missing; return the number of files fetched."""
    from tqdm import tqdm

    out.mkdir(parents=True, exist_ok=True)
    fetched = 0
    with (
        tqdm(total=len(files), unit="file", desc="downloading") as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        waiting = [pool.submit(source.fetch, file, out) for file in files]
        try:
            for done in as_completed(waiting):
                fetched += done.result()
                progress.set_postfix_str(f"{source.rate():.1f} MB/s", refresh=False)
                progress.update()
        except BaseException:
            # The first error stops all; complete files stay, partial ones are resumed later.
            source.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return fetched


class _Source:
    """A tree of files on a server, downloaded over one pool of connections."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.stopped = threading.Event()
        self._local = threading.local()
        self._bytes = 0
        self._counting = threading.Lock()
        self._start = time.monotonic()

    def rate(self) -> float:
        """Megabytes per second since the start."""
        return self._bytes / 1e6 / max(time.monotonic() - self._start, 1e-3)

    def text(self, path: str) -> str:
        """Get a small file as text."""
        failures = 0
        while True:
            try:
                with self._get(path, 0) as answer:
                    self._require_found(answer, path)
                    blocks = self._blocks(answer, path, _MOST_SUMS)
                    return b"".join(blocks).decode("utf-8", errors="replace")
            except _broken() as error:
                failures += 1
                self._wait_or_give_up(path, failures, error)

    def fetch(self, file: _File, out: Path) -> bool:
        """Download a file unless it is complete; return whether it was downloaded."""
        target = out / file.place
        if target.is_file() and sha256_of(target) == file.sha256:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        for _ in range(2):
            self._complete(file.path, part)
            if sha256_of(part) == file.sha256:
                os.replace(part, target)
                return True
            # The partial file of an earlier run may be of another release: start again.
            part.unlink()
        raise DownloadError(
            f"{self.root}{file.path} is not the file that {SUMS} describes (another SHA-256); try"
            " again later or give another mirror with --url."
        )

    def _complete(self, path: str, part: Path) -> None:
        """Download a file, resuming after a broken connection."""
        failures = 0
        while True:
            if self.stopped.is_set():
                raise DownloadError("the download was stopped.")
            there = part.stat().st_size if part.is_file() else 0
            if os.path.lexists(part) and not part.is_file():
                raise DownloadError(f"{part} is not a regular file; remove it.")
            try:
                with self._get(path, there) as answer:
                    if answer.status_code == 416:  # nothing is left, or the file is now shorter
                        return
                    self._require_found(answer, path)
                    resumed = answer.status_code == 206
                    with open(part, "ab" if resumed else "wb") as file:
                        most = _MOST_FILE - (there if resumed else 0)
                        for block in self._blocks(answer, path, most):
                            file.write(block)
                            with self._counting:
                                self._bytes += len(block)
                            if self.stopped.is_set():
                                raise DownloadError("the download was stopped.")
                    return
            except _broken() as error:
                gained = (part.stat().st_size if part.is_file() else 0) - there
                # A connection that delivered data does not count as a failure.
                failures = 0 if gained >= _BLOCK else failures + 1
                self._wait_or_give_up(path, failures, error)

    def _get(self, path: str, start: int) -> "requests.Response":
        session = self._session()
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        address = self.root + quote(path)
        for _ in range(_REDIRECTS):
            answer = session.get(address, headers=headers, stream=True, timeout=_TIMEOUT)
            if not answer.is_redirect:
                return answer
            address = self._redirected(address, answer.headers["Location"])
            answer.close()
        raise DownloadError(f"{self.root}{path} is redirected again and again; give another --url.")

    def _redirected(self, address: str, location: str) -> str:
        """The new address; a server must not redirect us to other hosts in the local network."""
        try:
            target = urljoin(address, location)
            ours, theirs = urlsplit(self.root), urlsplit(target)
            if theirs.scheme not in ("http", "https") or not theirs.hostname:
                raise ValueError("it is not an address of http or https")
            same = ours.hostname == theirs.hostname and theirs.port in (ours.port, None, 80, 443)
            if not same and _is_private(theirs.hostname):
                raise ValueError("it is an address of a private network")
        except ValueError as error:
            raise DownloadError(
                f"{address} is redirected to {location[:200]!r}, where we do not go ({error}); give"
                " another mirror with --url."
            ) from error
        return target

    def _blocks(self, answer: "requests.Response", path: str, most: int) -> Iterator[bytes]:
        """The body of an answer as sent, within limits of size and time."""
        coding = answer.headers.get("Content-Encoding", "identity")
        if coding != "identity":  # not requested, and could expand without limit
            raise DownloadError(
                f"{self.root}{path} comes compressed ({coding[:20]}); give another mirror with"
                " --url."
            )
        start, count = time.monotonic(), 0
        while block := answer.raw.read1(_BLOCK, decode_content=False):
            most, count = most - len(block), count + len(block)
            if most < 0:
                raise DownloadError(
                    f"{self.root}{path} is larger than any file of these data; give another mirror"
                    " with --url."
                )
            yield block
            if time.monotonic() - start > _WINDOW:
                if count < _LEAST:
                    raise DownloadError(
                        f"{self.root}{path} comes too slowly ({count} bytes in {_WINDOW:g} s); try"
                        " again later or give another mirror with --url."
                    )
                start, count = time.monotonic(), 0

    def _session(self) -> "requests.Session":
        import requests

        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            # Otherwise requests would follow redirects itself and read their bodies.
            self._local.session.get_redirect_target = lambda response: None
            for scheme in ("http://", "https://"):
                self._local.session.mount(scheme, _adapter())
        session: requests.Session = self._local.session
        return session

    def _require_found(self, answer: "requests.Response", path: str) -> None:
        if answer.status_code >= 500 or answer.status_code == 429:
            answer.raise_for_status()  # may be temporary; tried again
        if answer.status_code >= 400:
            raise DownloadError(
                f"{self.root}{path} cannot be downloaded ({_status(answer)}); check the address in"
                " a browser, or give another with --url."
            )

    def _wait_or_give_up(self, path: str, failures: int, error: Exception) -> None:
        if failures >= _TRIES:
            answer = getattr(error, "response", None)
            why = _reason(error) if answer is None else _status(answer)
            cure = "check your network and run the same command again"
            raise DownloadError(
                f"{self.root}{path} cannot be fetched ({why}) after {_TRIES} tries;"
                f" {cure if answer is None else 'try again later'}; it resumes from here."
            ) from error
        self.stopped.wait(_pause(failures))


def _pause(failures: int) -> float:
    """Seconds before the next try."""
    return 0.25 * 2**failures


def _broken() -> tuple[type[Exception], ...]:
    """Errors of a broken connection, or that may not recur."""
    import requests
    import urllib3

    return (requests.RequestException, urllib3.exceptions.HTTPError)


def _adapter() -> "HTTPAdapter":
    """Connections whose answers must start in time, even if the server sends byte by byte."""
    from requests.adapters import HTTPAdapter
    from urllib3 import connectionpool

    class Prompt:
        def getresponse(self) -> Any:
            sock = self.sock  # type: ignore[attr-defined]
            timer = threading.Timer(_WINDOW, lambda: sock.shutdown(socket.SHUT_RDWR))
            timer.daemon = True
            timer.start()
            try:
                return super().getresponse()  # type: ignore[misc]
            finally:
                timer.cancel()

    adapter, classes = HTTPAdapter(), {}
    for scheme, of in (
        ("http", connectionpool.HTTPConnectionPool),
        ("https", connectionpool.HTTPSConnectionPool),
    ):
        connection = type("Connection", (Prompt, of.ConnectionCls), {})
        classes[scheme] = type("Pool", (of,), {"ConnectionCls": connection})
    adapter.poolmanager.pool_classes_by_scheme = classes
    return adapter


def _is_private(host: str) -> bool:
    """Whether a host is in a private network; False if its name cannot be resolved."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return not all(ipaddress.ip_address(one.partition("%")[0]).is_global for one in found)


def _status(answer: "requests.Response") -> str:
    return f"the server answers {answer.status_code} {answer.reason}"


def _reason(error: Exception) -> str:
    # requests nests its errors; the innermost is readable.
    found = re.search(r"\[Errno -?\d+\] ([^'\")]+)", str(error))
    return found[1] if found else type(error).__name__


def command() -> None:
    """Run as ``ecg-download``."""
    run_command(main)


if __name__ == "__main__":
    command()
