"""A queue of uploads, and the worker that processes them one by one."""

import re
import secrets
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from data_prep.errors import ECGError, OptionError, RecordError
from data_prep.readers.wfdb import files_named_by
from data_prep.records import Record, find_records, read_record
from ecg_keras.evaluation.answers import found_text
from ecg_keras.explanation.pages import page_of
from ecg_keras.model.model_files import ECGModel
from ecg_keras.prediction.ensemble import (
    Explainer,
    answer_records,
    explainer_of,
    notices_of,
    write_answers,
)

State = Literal["waiting", "answering", "explaining", "done", "failed"]

# Uploaded file names are kept if they match this, since WFDB headers refer to their signal files by
# name; all others are replaced.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}(?:\.[A-Za-z0-9]{1,8}){1,2}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server.

    Attributes:
        files: maximum number of files per upload.
        megabytes: maximum total size of an upload, in MB.
        seconds: maximum time for an upload to arrive.
        waiting: maximum number of waiting uploads.
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
        folder: temporary folder with the files; removed once they are processed.
        names: the original name of each file in the folder.
        state: state of processing.
        problem: the reason if it failed, one sentence.
        rows: for each recording its name, the classes found and the warnings.
        rejected: name and reason of each recording that could not be used.
        notices: notices to show before the answers, one sentence each.
        table: the answers as CSV.
        pages: HTML pages made so far, by the recording's name.
        to_explain: recordings whose pages are still to be made, with their warnings.
    """

    key: str
    model: str
    folder: Path
    names: dict[str, str]
    state: State = "waiting"
    problem: str = ""
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    notices: tuple[str, ...] = ()
    table: bytes = b""
    pages: dict[str, str] = field(default_factory=dict)
    to_explain: list[tuple[Record, list[str]]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether processing has ended."""
        return self.state in ("done", "failed")


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
                shutil.rmtree(upload.folder, ignore_errors=True)

    def add(self, model: str, files: Iterable[tuple[str, BinaryIO]]) -> Upload:
        """Add an upload to the queue.

        Args:
            model: one of the names that can be chosen.
            files: names and contents.  A name is kept only if it consists of ASCII letters,
                digits, ``-`` and ``_`` and an extension; any other is replaced.

        Raises:
            OptionError: if the model is unknown, two files have the same name, or too many uploads
                are already waiting.
        """
        if model not in self.models:
            raise OptionError(f"there is no model {model[:80]!r}; choose one of the list.")
        if sum(upload.state == "waiting" for upload in self._listed()) >= self.limits.waiting:
            raise OptionError(
                f"{self.limits.waiting} uploads are waiting already; try again in some minutes."
            )
        folder = Path(tempfile.mkdtemp(prefix="ecg-serve-"))
        try:
            names: dict[str, str] = {}
            for number, (name, content) in enumerate(files, start=1):
                stored = name if _PLAIN.fullmatch(name) else f"recording_{number}{_ending(name)}"
                if stored in names:
                    raise OptionError(f"two files are named {name!r}; upload one of them.")
                names[stored] = name
                with open(folder / stored, "xb") as file:
                    shutil.copyfileobj(content, file)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        upload = Upload(secrets.token_urlsafe(16), model, folder, names)
        with self._changed:
            self._uploads[upload.key] = upload
            over = [key for key, each in self._uploads.items() if each.over]
            for key in over[: max(0, len(over) - self.limits.kept)]:
                del self._uploads[key]
            self._changed.notify_all()
        return upload

    def get(self, key: str) -> Upload | None:
        """Return the upload with this key, or None if it is not kept any more."""
        with self._changed:
            return self._uploads.get(key)

    def before(self, upload: Upload) -> int:
        """Count the unfinished uploads before this one."""
        number = 0
        for each in self._listed():
            if each is upload:
                return number
            number += not each.over
        return 0

    def forget(self, key: str) -> None:
        """Delete an upload and its results."""
        with self._changed:
            upload = self._uploads.pop(key, None)
        if upload is not None and upload.state == "waiting":
            shutil.rmtree(upload.folder, ignore_errors=True)

    def _listed(self) -> list[Upload]:
        with self._changed:
            return list(self._uploads.values())

    def _next(self) -> Upload | None:
        with self._changed:
            while not self._stopped:
                for state in ("waiting", "explaining"):
                    for upload in self._uploads.values():
                        if upload.state == state:
                            return upload
                self._changed.wait()
        return None

    def _run(self) -> None:
        while (upload := self._next()) is not None:
            try:
                if upload.state == "waiting":
                    self._answer(upload)
                else:
                    self._explain_one(upload)
                upload.state = "explaining" if upload.to_explain else "done"
            except ECGError as error:
                upload.problem, upload.state = _in_their_words(str(error), upload), "failed"
            except Exception:  # A bug of ours: log it and keep serving.
                traceback.print_exc(file=sys.stderr)
                upload.problem, upload.state = "this upload could not be answered.", "failed"
            finally:
                shutil.rmtree(upload.folder, ignore_errors=True)

    def _answer(self, upload: Upload) -> None:
        upload.state = "answering"
        records = find_records(upload.folder)
        headers = [path for path in records.values() if path.suffix == ".hea"]
        used = {*records, *(Path(name).stem for path in headers for name in files_named_by(path))}
        for stored, name in upload.names.items():
            if Path(stored).stem not in used:
                upload.rejected.append((name, _reason(upload.folder / stored, upload)))
        if not records:
            return
        answered = answer_records(self.models[upload.model], list(records.items()))
        upload.notices = notices_of(answered.predictions)
        for each in answered.rejected:
            upload.rejected.append((each.name, _in_their_words(each.reason, upload)))
        upload.rows = [
            (each.record, found_text(each), " ".join(each.warnings)) for each in answered.answers
        ]
        with tempfile.TemporaryDirectory(prefix="ecg-serve-") as out:
            write_answers(Path(out), answered, "names")
            upload.table = (Path(out) / "answers.csv").read_bytes()
        if self._explainer(upload.model) is not None:
            doubts = answered.doubts
            upload.to_explain = [
                (read_record(records[name]), [doubt.text for doubt in doubts.get(name, ())])
                for name, *_ in upload.rows
            ]

    def _explain_one(self, upload: Upload) -> None:
        explainer = self._explainer(upload.model)
        assert explainer is not None
        record, warnings = upload.to_explain.pop(0)
        upload.pages[record.id] = page_of(
            explainer.explain(record), warnings=warnings, notices=upload.notices
        )

    def _explainer(self, name: str) -> Explainer | None:
        if name not in self._explainers:
            try:
                self._explainers[name] = explainer_of(self.models[name])
            except ECGError:  # different networks, or no explainer
                self._explainers[name] = None
        return self._explainers[name]


def _reason(path: Path, upload: Upload) -> str:
    """Return why a file is not a recording."""
    try:
        read_record(path)
    except RecordError as error:
        return _in_their_words(str(error), upload)
    return "it belongs to no recording of this upload."


def _ending(name: str) -> str:
    found = re.search(r"\.[A-Za-z0-9]{1,8}$", name)
    return found[0].lower() if found else ""


def _in_their_words(sentence: str, upload: Upload) -> str:
    """Replace paths on this machine by the original file names."""
    for stored, name in upload.names.items():
        sentence = sentence.replace(str(upload.folder / stored), name)
    return sentence.replace(f"{upload.folder}", "the upload")
