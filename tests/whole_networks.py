"""What the tests of both whole networks do alike."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Trace nothing but tf.data: to trace a network takes longer than a few steps."""
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Even though the `tf.config")
            yield
    finally:
        tf.config.run_functions_eagerly(False)


def weights_of(model: Any) -> dict[str, NDArray[np.float64]]:
    """All weights by path, for the same network in NumPy."""
    return {weight.path: weight.numpy().astype("float64") for weight in model.weights}


def shake(model: Any) -> dict[str, NDArray[np.float64]]:
    """Move what starts at zero or one away from there, return all weights by path."""
    rng = np.random.default_rng(4)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, size=weight.shape))
        elif weight.name in ("beta", "moving_mean") or weight.name.endswith("bias"):
            weight.assign(rng.uniform(-0.5, 0.5, size=weight.shape))
    return weights_of(model)


def targets(model: Any, labels: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {head: labels for head in model.output}


def require_answers(
    model: Any, signal: NDArray[np.float32], expected: Mapping[str, NDArray[np.floating]]
) -> None:
    """The heads in order, and their probabilities, which are not all the same."""
    answers = model(signal)
    assert list(answers) == list(expected)
    for head, probabilities in expected.items():
        assert answers[head].dtype == "float32" and np.ptp(probabilities) > 0.01
        np.testing.assert_allclose(answers[head], probabilities, rtol=1e-4)


def require_same_from_file(model: Any, path: Path, signal: NDArray[np.float32]) -> None:
    """The same answers to the last bit, the same weights and the same contract."""
    shake(model)
    model.save(path)
    again = keras.saving.load_model(path)
    answers, before = again(signal), model(signal)
    assert list(answers) == list(before)
    for head in before:
        np.testing.assert_array_equal(answers[head], before[head])
    assert [weight.path for weight in again.weights] == [weight.path for weight in model.weights]
    assert again.get_layer("contract").contract == model.get_layer("contract").contract


def require_float32_answers_in_bfloat16(
    build: Callable[[], Any],
    signal: NDArray[np.float32],
    *,
    layer: str,
    head: tuple[str, ...],
) -> None:
    """Bfloat16 inside, as in ``layer``, and probabilities near those of float32.

    The answers and all layers whose names begin as ``head`` says are computed in float32.
    """
    plain = build()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = build()
    finally:
        keras.config.set_dtype_policy(before)
    shake(plain)
    mixed.set_weights(plain.get_weights())
    assert mixed.get_layer(layer).compute_dtype == "bfloat16"
    precise = [each for each in mixed.layers if each.name.startswith((*head, "diagnosis"))]
    assert len(precise) > len(head)
    assert {each.name: each.compute_dtype for each in precise} == {
        each.name: "float32" for each in precise
    }
    assert {weight.dtype for weight in mixed.trainable_weights} == {"float32"}
    expected = plain(signal)
    for name, answer in mixed(signal).items():
        assert answer.dtype == "float32"
        assert 0 < np.abs(answer - expected[name]).max() < 0.02
