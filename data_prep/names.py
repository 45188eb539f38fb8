"""Names of classes, tasks and records: which are usable, and how any text is shown."""

import unicodedata
from collections.abc import Iterable

_MOST_CHARACTERS = 100
_MOST_BYTES = 200  # the system allows 255 for NAME.part.html
# Names of columns in answers.csv, and its word for no class; also columns named threshold_….
_RESERVED = ("recording", "found", "labels", "warnings", "seconds_used", "none above its threshold")


def shown(text: str) -> str:
    """Escape line breaks and control characters, by which a name could rewrite a terminal."""
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in text
    )


def require_name(name: str, what: str, *, most: int = _MOST_CHARACTERS) -> None:
    """Reject a name that would spoil a table or the terminal.

    Args:
        name: of a class, task or network.
        what: it is the name of, for the message.
        most: largest allowed number of characters.

    Raises:
        ValueError: naming it, if it is too long or holds line breaks or control characters.
    """
    if not 0 < len(name) <= most or shown(name) != name:
        raise ValueError(
            f"the {what} name {name[:40]!r} must have 1 to {most} characters, no line breaks and no"
            " control characters"
        )


def require_record_name(name: str) -> None:
    """Reject a name that would spoil a table or the terminal, or that no page can be named after.

    Raises:
        ValueError: naming the record.
    """
    if shown(name) != name or {"/", "\\"} & set(name) or not 0 < len(name.encode()) <= _MOST_BYTES:
        raise ValueError(
            f"the record name {name[:40]!r} must have 1 to {_MOST_BYTES} bytes, no line breaks, no"
            " control characters and no slashes, in UTF-8"
        )


def require_class_names(names: Iterable[str]) -> None:
    """Reject names that would spoil a table, or two that a reader would take for one.

    Args:
        names: of the classes of one task.

    Raises:
        ValueError: naming the first such class.
    """
    before: dict[str, str] = {}
    for name in names:
        require_name(name, "class")
        folded = unicodedata.normalize("NFKC", name).casefold()
        if ";" in name:
            trouble = "must have no semicolon"
        elif folded in _RESERVED or folded.startswith("threshold_"):
            trouble = "is the name of a column in answers.csv, or its word for no class"
        elif folded in before:
            trouble = f"looks like the class {before[folded]!r}; write both alike, or rename one"
        else:
            before[folded] = name
            continue
        raise ValueError(f"the class name {name!r} {trouble}")
