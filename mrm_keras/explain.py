"""Explains an MRM-Net: attention over time and channels, and relevance for a class."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.records import Record
from ecg_keras.explanation.methods import Attention, Explanation, View, explain, explainable
from ecg_keras.model.backend import keras
from ecg_keras.model.model_files import ECGModel

_SAMPLES = {"low": 2, "high": 4}  # of the input per step of the branch


class Explainer:
    """Explains the predictions of one MRM-Net, or of an ensemble.

    Nothing is trained or changed: the attentions are parts of the network's own layers, called
    separately in a second functional model.

    Args:
        models: from :func:`mrm_keras.load_model`.

    Attributes:
        models: the networks, each with its attention weights and gradients.

    Raises:
        OptionError: if the networks differ in the form of input, in heads or in attention.
    """

    def __init__(self, models: Sequence[ECGModel]) -> None:
        self.models = explainable(models, attention_network)

    def explain(self, record: Record) -> Explanation:
        """Explain the prediction for one recording.

        Args:
            record: from :func:`data_prep.records.read_record`.

        Returns:
            Probabilities of the ensemble and of both branches, probabilities without each lead,
            attention and relevance along the recording, and the weights of the channels.

        Raises:
            RecordError: if the recording cannot be used.
        """
        return explain(
            self.models,
            record,
            attention=lambda seen, weights: tuple(
                _attention(seen, name, weights[f"{name}_spatial"][:, 0])
                for name in _SAMPLES
                if f"{name}_spatial" in weights
            ),
            channels=lambda weights: {
                name: weights[f"{name}_channel"][:, 0]
                for name in _SAMPLES
                if f"{name}_channel" in weights
            },
        )


def attention_network(network: Any) -> Any:
    """Extend a network to output its attention weights too (MRM-Net, eq. 1 and 2).

    Args:
        network: a Keras model of this package.

    Returns:
        A function from ``signal`` to a pair: the network's outputs, and for each of its branches
        the weights ``low_spatial`` ``(batch, time, 1)`` and ``low_channel`` ``(batch, 1, C)`` (or
        ``high_…``), in 0..1.
    """
    names = [layer.name for layer in network.layers]
    layers = {
        branch: network.get_layer(f"{branch}_attention")
        for branch in _SAMPLES
        if f"{branch}_attention" in names
    }
    features = {branch: layer.input for branch, layer in layers.items()}
    inside = keras.Model(network.input, (network.output, features), name="attention")

    def look(signal: Any) -> tuple[Any, dict[str, Any]]:
        answers, z = inside(signal, training=False)
        weights = {}
        for branch, layer in layers.items():
            weights[f"{branch}_spatial"] = layer.spatial(z[branch])
            weights[f"{branch}_channel"] = layer.channel(z[branch])
        return answers, weights

    return look


def step_edges(steps: int, samples: int) -> np.ndarray:
    """Bounds of a branch's time steps in samples of the input, ``(steps + 1,)``.

    Output i of a pool of the trunk is the larger of its inputs i - 1 and i, so each of the four
    pools shifts time by half a sample: output i of the trunk is centred on sample i - 2. The low
    branch pools the outputs 2j and 2j + 1. The high branch first convolves with stride 2, so its
    pool combines steps centred on the outputs 4j and 4j + 2.

    Args:
        steps: number of time steps.
        samples: of the input per step: 2 for the low branch, 4 for the high.
    """
    centres = np.arange(steps) * samples + {2: 0.5, 4: 1.0}[samples] - 2
    # A sample extends from half a sample before its centre to half a sample after.
    return np.append(centres - samples / 2, centres[-1] + samples / 2) + 0.5


def _attention(seen: View, branch: str, weights: np.ndarray) -> Attention:
    edges = step_edges(len(weights), _SAMPLES[branch])
    # The mean over time does not show where the network looked.
    shading = seen.shading("attention, above mean", edges, weights - weights.mean(), least=0.25)
    step = seen.seconds / seen.recorded * _SAMPLES[branch]
    return Attention(
        f"Spatial attention of the {branch} branch",
        "The factor in 0..1 by which each moment passes on (SA of MRM-Net, eq. 2), drawn as"
        f" difference from its mean of {weights.mean():.2f}; it lies between {weights.min():.2f}"
        f" and {weights.max():.2f}. One step is {step:.2f} s.",
        shading,
    )
