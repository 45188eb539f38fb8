"""Runs notebooks and saves them with their outputs: ``python notebooks/save.py 03 05``.

Progress bars are left out, paths are shown without the folders of this machine, and figures are
reduced so that none takes more than 150 kB.
"""

import argparse
import base64
import io
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).resolve().parent
MOST = 150_000  # bytes of a figure


def main(names: list[str], url: str | None) -> None:
    """Run each notebook whose name begins with one of ``names``; all without names."""
    for path in sorted(HERE.glob("*.ipynb")):
        if not names or path.name.startswith(tuple(names)):
            save(path, url)
            print(path.name)


def save(path: Path, url: str | None) -> None:
    """Run a notebook and overwrite it; ``url`` is that of a mirror to download from."""
    notebook = nbformat.read(path, as_version=4)
    sources = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        cell.source = cell.source.replace("url = None", f"url = {url!r}")
    folder = {"metadata": {"path": str(HERE)}}
    NotebookClient(notebook, timeout=3600, coalesce_streams=True, resources=folder).execute()
    for cell, source in zip(notebook.cells, sources, strict=True):
        cell.source = source
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [tidy(each) for each in cell.outputs if each.get("name") != "stderr"]
    nbformat.write(notebook, path)


def tidy(output: Any) -> Any:
    """Shorten paths and reduce the figure of an output."""
    if "text" in output:
        for folder in (HERE.parent, tempfile.gettempdir()):
            output.text = output.text.replace(f"{folder}/", "")
    image = output.get("data", {}).pop("image/png", None)
    if image:
        kind, content = reduced(base64.b64decode(image))
        output.data[kind] = base64.b64encode(content).decode()
    return output


def reduced(png: bytes) -> tuple[str, bytes]:
    """Reduce a figure to 256 colours; if that is not enough, to a JPEG that is small enough."""
    figure = Image.open(io.BytesIO(png)).convert("RGB")
    file = io.BytesIO()
    figure.quantize(256, kmeans=2).save(file, "PNG", optimize=True)
    if file.tell() <= MOST:
        return "image/png", file.getvalue()
    for width in range(figure.width, 0, -50):
        file = io.BytesIO()
        smaller = figure.resize(
            (width, figure.height * width // figure.width), Image.Resampling.BOX
        )
        smaller.save(file, "JPEG", quality=70)
        if file.tell() <= MOST:
            break
    return "image/jpeg", file.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        help="how the names of the notebooks begin, such as 03; without any, all are run",
    )
    parser.add_argument("--url", help="mirror of PTB-XL to download from")
    main(**vars(parser.parse_args()))
