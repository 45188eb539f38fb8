"""Files that are either whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a place beside ``path`` to write to, and rename it to ``path`` when all went well.

    Args:
        path: the file to make; its folder is created.

    Yields:
        ``path`` with ``.part`` put before its ending (``best.part.keras``), so that libraries
        which look at the ending are content; removed again if the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
