"""The page for uploading recordings, as a browser shows it: the command in a process of its own."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_pages import chromium as chromium

from ecg_keras.model.backend import keras
from mrm_keras.model import build_model

playwright = pytest.importorskip("playwright.sync_api")
pydicom_data = pytest.importorskip("pydicom.data")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of ``ecg-serve`` with a tiny network."""
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    keras.saving.save_model(build_model(num_classes=5, low_channels=8, high_channels=16), path)
    command = [sys.executable, "-m", "ecg_keras.serving.command", "--models", str(path)]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.match(r"http://127\.0\.0\.1:(\d+)/ ", process.stdout.readline())
            assert found
            yield f"http://localhost:{found[1]}"
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) in (0, 130)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Any, server: str, *, width: int = 1280) -> Any:
    page = browser.new_context(viewport={"width": width, "height": 800}).new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.faults = faults
    page.goto(server)
    return page


def drop(page: Any, *files: Path) -> None:
    """Drop files on the field, as a hand would, and send them."""
    box = page.locator("input[type=file]").bounding_box()
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        at = {"type": kind, "x": box["x"] + 150, "y": box["y"] + 40, "data": data}
        session.send("Input.dispatchDragEvent", at)
    page.wait_for_function("document.querySelector('input[type=file]').files.length > 0")
    page.click("text=Answer")
    page.wait_for_url("**/uploads/*")


def wait_until_over(page: Any) -> str:
    page.wait_for_selector("text=Forget this upload", timeout=300_000)
    assert page.faults == []
    return str(page.inner_text("main"))


def test_drop_a_recording_and_read_why(browser: Any, server: str, tmp_path: Path) -> None:
    real = Path(pydicom_data.get_testdata_file("waveform_ecg.dcm"))
    rubbish = tmp_path / "rubbish.csv"
    rubbish.write_text("hello,world\n1,2\n")
    # Two browsers at once: the second sees nothing of the first.
    first, second = opened(browser, server), opened(browser, server, width=390)
    drop(first, real, rubbish)
    drop(second, rubbish)
    assert "rubbish.csv" in wait_until_over(second) and "waveform_ecg" not in second.content()
    words = wait_until_over(first)
    assert "waveform_ecg" in words and "rubbish.csv" in words
    for page in (first, second):
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    first.click("text=explanation")
    first.wait_for_selector("text=Why ")
    assert first.evaluate("[...document.images].every((image) => image.naturalWidth > 300)")
    assert first.faults == []
