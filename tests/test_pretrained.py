"""Published models: found by name, downloaded from a server of this machine, and checked."""

import hashlib
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import mlbf_numpy
import mrm_numpy
import numpy as np
import pytest
from toy import toy_contract, toy_model
from whole_networks import require_answers, weights_of

import ecg_keras
from data_prep.errors import DownloadError, ModelFileError, OptionError
from ecg_keras.model import pretrained
from ecg_keras.model.model_files import load_model, save_model
from ecg_keras.model.pretrained import ADDRESS, Pretrained, pretrained_file
from ecg_keras.prediction.command import main as predict

PUBLISHED = pretrained.pretrained_models()
CHECKOUT = Path(__file__).resolve().parents[1] / "pretrained"
NAME, FILE = "toy-of-three", "toy_of_three.keras"
SIGNALS = np.random.default_rng(3).normal(size=(4, 100, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the model file, as on a server."""
    folder = tmp_path_factory.mktemp("published")
    save_model(toy_model(toy_contract()), folder / FILE)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One published model, which is neither in the checkout nor in the cache."""
    digest = hashlib.sha256((published / FILE).read_bytes()).hexdigest()
    model = Pretrained(NAME, digest, "a toy with three classes")
    for module in (pretrained, ecg_keras.model.model_files):
        monkeypatch.setattr(module, "pretrained_models", lambda: {NAME: model})
    monkeypatch.setattr(pretrained, "_CHECKOUT", tmp_path / "pretrained")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(ADDRESS, raising=False)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""


@pytest.fixture
def address(published: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(published)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_in_a_checkout(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "pretrained")
    model = ecg_keras.load_pretrained(NAME)
    assert model.path == tmp_path / "pretrained" / FILE
    expected = load_model(published / FILE).predict(SIGNALS)
    np.testing.assert_array_equal(model.predict(SIGNALS), expected)
    # Wherever a model file is named, so can a published one be.
    np.testing.assert_array_equal(load_model(NAME).predict(SIGNALS), expected)
    (opened,) = ecg_keras.open_models([NAME])
    assert opened.path == model.path


def test_another_file_in_a_checkout_is_refused(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "pretrained")
    with (tmp_path / "pretrained" / FILE).open("ab") as file:
        file.write(b"!")
    with pytest.raises(ModelFileError, match=f"{FILE} is not the published model {NAME}"):
        pretrained_file(NAME)


def test_downloaded_once(
    published: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS, address)
    path = pretrained_file(NAME)
    assert path.is_relative_to(tmp_path / "cache")
    assert path.read_bytes() == (published / FILE).read_bytes()
    monkeypatch.setenv(ADDRESS, "http://127.0.0.1:9/nobody-listens")
    assert pretrained_file(NAME) == path
    monkeypatch.delenv(ADDRESS)
    assert pretrained_file(NAME) == path
    path.write_bytes(b"damaged in the cache")
    assert pretrained_file(NAME, address=address) == path
    assert path.read_bytes() == (published / FILE).read_bytes()


def test_no_address() -> None:
    with pytest.raises(DownloadError, match=f"not part of this installation; set {ADDRESS} to"):
        ecg_keras.load_pretrained(NAME)


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("http://127.0.0.1:9/nobody-listens", r"cannot be downloaded \(ConnectionError\)"),
        ("{address}empty", r"cannot be downloaded \(404\)"),
        ("gopher://127.0.0.1", "is not an address of http or https"),
    ],
)
def test_bad_addresses(address: str, where: str, sentence: str) -> None:
    with pytest.raises(DownloadError, match=sentence):
        pretrained_file(NAME, address=where.format(address=address))


def test_another_file_on_the_server_is_refused(
    published: Path, address: str, tmp_path: Path
) -> None:
    (published / "changed").mkdir(exist_ok=True)
    (published / "changed" / FILE).write_bytes(b"something else")
    with pytest.raises(DownloadError, match="holds another file than the published model"):
        pretrained_file(NAME, address=address + "changed")
    assert not list((tmp_path / "cache").rglob("*.keras"))


def test_unknown_name() -> None:
    with pytest.raises(OptionError, match="no pretrained model 'toy'; .* lists toy-of-three"):
        ecg_keras.load_pretrained("toy")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(list_pretrained=True)
    assert capsys.readouterr().out == "toy-of-three: a toy with three classes\n"
    with pytest.raises(OptionError, match="no model is named"):
        predict(out=tmp_path / "answers")
    with pytest.raises(OptionError, match="no folder is named"):
        predict(pretrained=(NAME,))
    with pytest.raises(OptionError, match="no pretrained model 'other'"):
        predict(pretrained=("other",), out=tmp_path / "answers")


def test_half_precision(published: Path, tmp_path: Path) -> None:
    contract = toy_contract(input_length=100)
    network = toy_model(contract)
    save_model(network, tmp_path / "half.keras", half=True)
    half = load_model(tmp_path / "half.keras")
    assert half.network.dtype_policy.name == "float32"
    for ours, full in zip(half.network.get_weights(), network.get_weights(), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, full.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(
        half.predict(SIGNALS), load_model(published / FILE).predict(SIGNALS), atol=1e-3
    )


def test_weights_too_large_for_half_precision(tmp_path: Path) -> None:
    network = toy_model(toy_contract())
    layer = network.get_layer("diagnosis")
    layer.set_weights([w + 1e5 for w in layer.get_weights()])
    with pytest.raises(ModelFileError, match="too large for half precision"):
        save_model(network, tmp_path / "half.keras", half=True)


def test_the_list_is_that_of_the_folder() -> None:
    there = {path.name for path in CHECKOUT.glob("*.keras")}
    assert there == {model.file for model in PUBLISHED.values()}
    for model in PUBLISHED.values():
        content = (CHECKOUT / model.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == model.sha256
        assert (CHECKOUT / model.file).with_suffix(".md").is_file()
        assert len(content) < 15e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_answer_as_plain_numpy(name: str) -> None:
    """With the weights of the file, on one signal in millivolts."""
    model = load_model(CHECKOUT / PUBLISHED[name].file)
    contract = model.contract
    forwards: dict[str, Any] = {"MLBF-Net": mlbf_numpy.forward, "MRM-Net": mrm_numpy.forward}
    shape = (1, contract.input_length, len(contract.leads))
    signal = np.random.default_rng(0).normal(0, 0.3, shape).astype(np.float32)
    scaled = (signal.astype(np.float64) - contract.mean) / contract.std
    expected = forwards[contract.network](scaled, weights_of(model.network))
    require_answers(model.network, signal, expected)
