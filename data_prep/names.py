"""Names of tasks, records and the like: which are usable, and how any text is shown."""

import unicodedata

_MOST_CHARACTERS = 100
_MOST_BYTES = 200  # the system allows 255 for NAME.part.html


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
