"""A queue of uploads, and the worker that processes them one by one."""

import re
import secrets
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

from data_prep.errors import ECGError, OptionError
from data_prep.names import shown
from data_prep.readers.wfdb import files_named_by
from data_prep.records import list_records, read_record
from ecg_keras.evaluation.answers import Rejected, found_text
from ecg_keras.explanation.pages import page_of
from ecg_keras.model.model_files import ECGModel
from ecg_keras.prediction.ensemble import NoneUsableError, answer_records
from ecg_keras.prediction.predict import Explainer, explainer_of, notices_of, write_answers

State = Literal["waiting", "answering", "explaining", "done", "failed"]

# Uploaded files are stored under their own names if these match this and are not too long, since
# WFDB headers refer to their signal files by name; all others are stored under another.
_PLAIN = re.compile(r"""[^\s.~/\\:*?"<>|][^/\\:*?"<>|]*(?<![\s.])""")
_MOST_BYTES = 200


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server.

    Attributes:
        files: maximum number of files per upload.
        megabytes: maximum total size of an upload, in MB.
        seconds: maximum time for an upload to arrive.
        waiting: maximum number of unfinished uploads.
        kept: maximum number of finished uploads to keep; the oldest are deleted.
    """

    files: int = 20
    megabytes: int = 50
    seconds: int = 120
    waiting: int = 20
    kept: int = 50


@dataclass
class Upload:
    """Uploaded files and their results.

    Attributes:
        key: a random identifier that only the uploader knows.
        model: name of the model to predict with.
        folder: temporary folder, in it ``files``, removed once they are processed, and the pages.
        names: the original name of each file in ``files``.
        fs: sampling rate in hertz, of files that do not state it.
        unit: unit of files that do not state it.
        state: state of processing.
        problem: the reason if it failed, one sentence.
        rows: for each recording its name, the classes found and the warnings.
        rejected: name and reason of each recording that could not be used.
        notices: notices to show before the answers, one sentence each.
        table: the answers as CSV.
        pages: HTML files of the pages made so far, by the number of the row, from 1.
        unexplained: the reason, one sentence, of each page that could not be made, likewise.
        to_explain: name, file, warnings and notices of each recording whose page is still to be
            made.
    """

    key: str
    model: str
    folder: Path
    names: dict[str, str]
    fs: float | None = None
    unit: str | None = None
    state: State = "waiting"
    problem: str = ""
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    notices: tuple[str, ...] = ()
    table: bytes = b""
    pages: dict[int, Path] = field(default_factory=dict)
    unexplained: dict[int, str] = field(default_factory=dict)
    to_explain: list[tuple[str, Path, list[str], tuple[str, ...]]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether processing has ended."""
        return self.state in ("done", "failed")

    @property
    def files(self) -> Path:
        """The folder of the files."""
        return self.folder / "files"


class Worker:
    """Processes uploads one by one in its own thread.

    Answers come before explanations: no page is made while an upload is waiting for its answers.

    Args:
        models: the opened models of each name that can be chosen.
        limits: limits on waiting and kept uploads.
    """

    def __init__(self, models: Mapping[str, Sequence[ECGModel]], limits: Limits) -> None:
        self.models = models
        self.limits = limits
        self._explainers: dict[str, Explainer | None] = {}
        self._uploads: dict[str, Upload] = {}
        self._current: Upload | None = None
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current step, and remove all files."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            for upload in self._uploads.values():
                _remove(upload.folder)

    def add(
        self,
        model: str,
        files: Iterable[tuple[str, BinaryIO]],
        *,
        fs: float | None = None,
        unit: str | None = None,
    ) -> Upload:
        """Add an upload to the queue.

        Args:
            model: one of the names that can be chosen.
            files: names and contents.  A file is stored under its own name only if that is one on
                every system and not hidden.
            fs: sampling rate in hertz, of files that do not state it.
            unit: unit of files that do not state it.

        Raises:
            OptionError: if the model is unknown, two files have the same name, or too many uploads
                are unfinished.
        """
        if model not in self.models:
            raise OptionError(f"there is no model {model[:80]!r}; choose one from the list.")
        if sum(not upload.over for upload in self._listed()) >= self.limits.waiting:
            raise OptionError(
                f"{self.limits.waiting} uploads are not finished yet; try again in a few minutes."
            )
        folder = Path(tempfile.mkdtemp(prefix="ecg-serve-"))
        upload = Upload(secrets.token_urlsafe(16), model, folder, {}, fs, unit)
        try:
            upload.files.mkdir()
            for name, content in files:
                stored = _stored(name)
                try:
                    with open(upload.files / stored, "xb") as file:
                        shutil.copyfileobj(content, file)
                except FileExistsError:
                    raise OptionError(
                        f"two files are named {name!r}; upload one of them."
                    ) from None
                upload.names[stored] = name
        except BaseException:
            _remove(folder)
            raise
        with self._changed:
            self._uploads[upload.key] = upload
            over = [key for key, each in self._uploads.items() if each.over]
            for key in over[: max(0, len(over) - self.limits.kept)]:
                _remove(self._uploads.pop(key).folder)
            self._changed.notify_all()
        return upload

    def get(self, key: str) -> Upload | None:
        """Return the upload with this key, or None if it is not kept any more."""
        with self._changed:
            return self._uploads.get(key)

    def before(self, upload: Upload) -> int:
        """Count the uploads that are answered before this one."""
        number = 0
        for each in self._listed():
            if each is upload:
                return number
            number += each.state in ("waiting", "answering")
        return 0

    def forget(self, key: str) -> None:
        """Delete an upload and its results."""
        with self._changed:
            upload = self._uploads.pop(key, None)
            if upload is not None and upload is not self._current:
                _remove(upload.folder)

    def _listed(self) -> list[Upload]:
        with self._changed:
            return list(self._uploads.values())

    def _next(self) -> Upload | None:
        with self._changed:
            while not self._stopped:
                for state in ("waiting", "explaining"):
                    for upload in self._uploads.values():
                        if upload.state == state:
                            self._current = upload
                            return upload
                self._changed.wait()
        return None

    def _run(self) -> None:
        while (upload := self._next()) is not None:
            state: State = "failed"
            try:
                if upload.state == "waiting":
                    self._answer(upload)
                else:
                    self._explain_one(upload)
                state = "explaining" if upload.to_explain else "done"
            except ECGError as error:
                upload.problem = _in_their_words(str(error), upload)
            except Exception:  # A bug of ours: log it and keep serving.
                traceback.print_exc(file=sys.stderr)
                upload.problem = "this upload could not be answered."
            if state != "explaining":
                _remove(upload.files)
            with self._changed:
                upload.state, self._current = state, None
                if upload.key not in self._uploads:  # forgotten meanwhile
                    _remove(upload.folder)

    def _answer(self, upload: Upload) -> None:
        upload.state = "answering"
        records = _records_of(upload)
        try:
            answered = answer_records(
                self.models[upload.model],
                list(records.items()),
                fs=upload.fs,
                unit=upload.unit,
                fallback=True,
            )
        except NoneUsableError as error:
            upload.rejected = _of_files(error.rejected, records, upload)
            return
        upload.rejected = _of_files(answered.rejected, records, upload)
        upload.notices = notices_of(answered.predictions)
        upload.rows = [
            (
                each.record,
                found_text(each),
                " ".join(_in_their_words(warning, upload) for warning in each.warnings),
            )
            for each in answered.answers
        ]
        with tempfile.TemporaryDirectory(prefix="ecg-serve-") as out:
            write_answers(Path(out), answered, "names")
            upload.table = (Path(out) / "answers.csv").read_bytes()
        upload.to_explain = [
            (
                name,
                records[name],
                [_in_their_words(doubt.text, upload) for doubt in answered.doubts.get(name, ())],
                notices,
            )
            for (name, *_), notices in zip(
                upload.rows, answered.predictions.overlap_of_each(), strict=True
            )
        ]

    def _explain_one(self, upload: Upload) -> None:
        explainer = self._explainer(upload.model)
        if explainer is None:
            upload.to_explain.clear()
            return
        number = len(upload.rows) - len(upload.to_explain) + 1
        name, path, warnings, notices = upload.to_explain.pop(0)
        page = upload.folder / f"{number}.html"
        try:
            record = read_record(path, fs=upload.fs, unit=upload.unit, fallback=True)
            record = replace(record, id=name, path=Path(upload.names[path.name]))
            text = page_of(explainer.explain(record), warnings=warnings, notices=notices)
            page.write_text(text, encoding="utf-8")
            upload.pages[number] = page
        except ECGError as error:
            upload.unexplained[number] = _in_their_words(str(error), upload)
        except Exception:  # A bug of ours: the answers, and the other pages, stay.
            traceback.print_exc(file=sys.stderr)
            upload.unexplained[number] = "this page could not be made."

    def _explainer(self, name: str) -> Explainer | None:
        if name not in self._explainers:
            try:
                self._explainers[name] = explainer_of(self.models[name])
            except ECGError:  # different networks, or no explainer
                self._explainers[name] = None
        return self._explainers[name]


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _stored(name: str) -> str:
    """Return the name under which a file is stored."""
    if _PLAIN.fullmatch(name) and shown(name) == name and len(name.encode()) <= _MOST_BYTES:
        return name
    ending = re.search(r"\.[A-Za-z0-9]{1,8}$", name)
    return f"recording_{secrets.token_hex(8)}{ending[0].lower() if ending else ''}"


def _records_of(upload: Upload) -> dict[str, Path]:
    """Name each file by its original name, without those that belong to another, as .dat do."""
    found = {path for _, path in list_records(upload.files)}
    headers = [path for path in found if path.suffix == ".hea"]
    named = [Path(name) for header in headers for name in files_named_by(header)]
    stems = {path.stem for path in [*found, *named]}
    records: dict[str, Path] = {}
    for stored, original in upload.names.items():
        path = upload.files / stored
        if path not in found and path.stem in stems:
            continue
        name = shown(Path(original).stem)[:_MOST_BYTES] or path.stem
        while name in records:
            name += path.suffix or "_"
        records[name] = path
    return records


def _of_files(
    rejected: Iterable[Rejected], records: Mapping[str, Path], upload: Upload
) -> list[tuple[str, str]]:
    """Return the original file name of each, and the reason."""
    return [
        (upload.names[records[each.name].name], _in_their_words(each.reason, upload))
        for each in rejected
    ]


def _in_their_words(sentence: str, upload: Upload) -> str:
    """Replace paths on this machine by the original file names, and options by the form."""
    # The longer one first of two names that begin alike.
    for stored, name in sorted(upload.names.items(), reverse=True):
        sentence = sentence.replace(str(upload.files / stored), name)
    sentence = re.sub(r"with (fs|unit) \(--\1\)", "on the form", sentence)
    return sentence.replace(f"{upload.files}", "the upload")
