"""Explains an MLBF-Net: attention over time, and the contribution of each lead."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.records import Record
from ecg_keras.explanation.methods import (
    Attention,
    Explanation,
    View,
    explain,
    explainable,
    in_twelve,
)
from ecg_keras.model.backend import keras
from ecg_keras.model.model_files import ECGModel


class Explainer:
    """Explains the predictions of one MLBF-Net, or of an ensemble.

    Nothing is trained or changed: the attention weights are outputs of the network's own layers,
    read through a second functional model on the same layers.

    Args:
        models: from :func:`mlbf_keras.load_model`.

    Attributes:
        models: the networks, each with its attention weights and gradients.

    Raises:
        OptionError: if the networks differ in the form of input, in heads or in attention.
    """

    def __init__(self, models: Sequence[ECGModel]) -> None:
        self.models = explainable(models, attention_network)
        self._step = 2 ** len(models[0].network.get_layer("f_cnn").kernel_sizes)

    def explain(self, record: Record) -> Explanation:
        """Explain the prediction for one recording.

        Args:
            record: from :func:`data_prep.records.read_record`.

        Returns:
            Probabilities of the ensemble and of each lead's head, probabilities without each lead,
            attention and relevance along the recording.

        Raises:
            RecordError: if the recording cannot be used.
        """
        return explain(
            self.models,
            record,
            attention=lambda seen, weights: tuple(
                self._attention(seen, alpha) for alpha in weights.values()
            ),
        )

    def _attention(self, seen: View, alpha: np.ndarray) -> Attention:
        """Draw weights ``(time, branch)`` along the recording, relative to uniform weights."""
        edges = step_edges(len(alpha), self._step)
        inside = alpha[edges[:-1] < seen.recorded]
        above = alpha * len(alpha) - 1  # alpha sums to 1 over time
        if alpha.shape[1] == 1:
            values, whose = above[:, 0], "of the head on all leads"
        else:
            values = in_twelve(above, self.models[0].contract.leads)
            whose = "of each lead's own head"
        caption = (
            "How much each moment weighs in the sum that is classified (α of MLBF-Net, eq. 6):"
            " blue more than if all moments weighed alike (+1 is twice as much), orange less (−1"
            f" is nothing). One step is {seen.seconds / seen.recorded * self._step:.2f} s, and also"
            " knows what the recurrent layer remembers of the moments before and after it."
        )
        if seen.recorded < edges[-2]:
            caption += (
                f" {1 - inside.sum(axis=0).mean():.0%} of the weight lies on the silence after"
                " the recording, which fills the input up and is not drawn."
            )
        return Attention(
            f"Attention {whose}",
            caption,
            seen.shading("attention, above even", edges, values, least=1.0),
        )


def attention_network(network: Any) -> Any:
    """Extend a network to output its attention weights too (MLBF-Net, eq. 6).

    Args:
        network: a Keras model of this package.

    Returns:
        A Keras model on the same layers, from ``signal`` to a pair: the network's outputs, and
        the weights alpha ``(batch, time, branch)`` by layer name: ``fused_attention`` and, if the
        leads have heads, ``lead_attention``; for a BranchNet ``attention``.
    """
    names = ("fused_attention", "lead_attention", "attention")
    layers = {layer.name: layer for layer in network.layers if layer.name in names}
    weights = {name: layers[name].output[1] for name in names if name in layers}
    return keras.Model(network.input, (network.output, weights), name="attention")


def step_edges(steps: int, step: int) -> np.ndarray:
    """Bounds of the time steps of f_BiGRU in samples of the input, ``(steps + 1,)``.

    Each block ends with a stride-2 convolution whose output j is centred between inputs 2j and
    2j + 1; so after five blocks output j is centred on samples 32 j to 32 j + 31.

    Args:
        steps: number of time steps.
        step: samples per step, 2 to the power of the number of blocks.
    """
    return np.arange(steps + 1) * step
