"""MLBF-Net as one would plainly write it in Keras: what ``mlbf_keras`` must equal, and outrun.

Twelve branches side by side, each of the layers Keras has for it, one call for each row of the
paper's Table I.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.labels import LEADS
from ecg_keras.model.backend import keras

layers, ops = keras.layers, keras.ops


class Attention(keras.layers.Layer):
    """The attention module (MLBF-Net, eq. 5 to 7).

    Call arguments:
        features: ``(batch, time, feature)``.

    Returns:
        f_att ``(batch, feature)``.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make W, b and u_w."""
        width = input_shape[-1]
        glorot = keras.initializers.GlorotUniform
        self.kernel = self.add_weight(name="kernel", shape=(width, width), initializer=glorot())
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros")
        self.context = self.add_weight(name="context", shape=(width, 1), initializer=glorot())

    def call(self, features: Any) -> Any:
        """Weigh the time steps and sum them."""
        u = ops.tanh(ops.matmul(features, self.kernel) + self.bias)
        alpha = ops.softmax(ops.matmul(u, self.context), axis=1)
        return ops.sum(alpha * features, axis=1)


def build_plain_model(
    *,
    input_length: int = 15000,
    num_leads: int = 12,
    num_classes: int = 9,
    filters: int = 12,
    gru_units: int = 12,
    dropout: float = 0.2,
    auxiliary_heads: bool = True,
) -> keras.Model:
    """Build MLBF-Net with the arguments and heads of ``mlbf_keras.build_model``.

    Returns:
        A model from ``signal`` ``(batch, time, lead)`` to the dict of probabilities.
    """
    signal = keras.Input((input_length, num_leads), name="signal")
    heads, f_bigru = {}, []
    for j, lead in enumerate(LEADS[:num_leads]):
        name = f"lead_{lead}"
        x = f_cnn(signal[:, :, j : j + 1], filters, dropout, name=name)
        gru = layers.GRU(gru_units, return_sequences=True, reset_after=True, name="gru")
        x = layers.Bidirectional(gru, name=f"{name}_f_bigru")(x)
        x = layers.Dropout(dropout)(x)
        f_bigru.append(x)
        if auxiliary_heads:
            heads[name] = head(x, num_classes, dropout, name=name, answer=name)
    fused = layers.Concatenate()(f_bigru) if num_leads > 1 else f_bigru[0]
    diagnosis = head(fused, num_classes, dropout, name="fused", answer="diagnosis")
    return keras.Model(signal, {"diagnosis": diagnosis, **heads})


def f_cnn(x: Any, filters: int, dropout: float, *, name: str) -> Any:
    """The five convolutional blocks of one branch (Table I)."""
    for block, last in enumerate((24, 24, 24, 24, 48), start=1):
        for position, (taps, strides) in enumerate(((3, 1), (3, 1), (last, 2)), start=1):
            conv = f"{name}_block_{block}_conv_{position}"
            x = layers.Conv1D(filters, taps, strides=strides, padding="same", name=conv)(x)
            x = layers.LeakyReLU(0.3)(x)
        x = layers.Dropout(dropout)(x)
    return x


def head(features: Any, num_classes: int, dropout: float, *, name: str, answer: str) -> Any:
    """Attention, batch norm and the fully connected softmax."""
    f_att = Attention(name=f"{name}_attention")(features)
    f_att = layers.BatchNormalization(name=f"{name}_norm")(f_att)
    f_att = layers.Dropout(dropout)(f_att)
    return layers.Dense(num_classes, activation="softmax", dtype="float32", name=answer)(f_att)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Give the plain model the weights of one of ``mlbf_keras``.

    Args:
        source: from ``mlbf_keras.build_model``.
        target: from :func:`build_plain_model` with the same arguments.
    """
    values = unstacked({weight.path: np.asarray(weight) for weight in source.weights})
    assert values.keys() == {weight.path for weight in target.weights}
    for weight in target.weights:
        weight.assign(values[weight.path])


def unstacked(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Deal what belongs to stacked weights to the single branches.

    Args:
        arrays: weights, or their gradients, by the paths of ``mlbf_keras.build_model``.

    Returns:
        The same by the paths of :func:`build_plain_model`.
    """
    leads = LEADS[: len(arrays["f_cnn/block_1_conv_1_bias"])]
    plain: dict[str, NDArray[Any]] = {}
    for path, array in arrays.items():
        layer, weight = path.split("/")
        if layer == "f_bigru":
            for direction, stack in zip(("forward", "backward"), array, strict=True):
                cell = f"f_bigru/{direction}_gru/gru_cell"
                for lead, values in zip(leads, stack, strict=True):
                    plain[f"lead_{lead}_{cell}/{weight}"] = values
        elif layer == "fused_attention":
            plain[path] = array[0]
        elif layer in ("fused_norm", "diagnosis"):
            plain[path] = array
        else:
            if layer == "f_cnn":  # f_cnn/block_1_conv_1_kernel
                conv, weight = weight.rsplit("_", 1)
                below = f"_{conv}/{weight}"
            else:
                below = {
                    "lead_attention": f"_attention/{weight}",
                    "lead_norm": f"_norm/{weight}",
                    "lead_softmax": f"/{weight}",
                }[layer]
            if layer == "lead_norm":  # one row of all branches' channels
                array = array.reshape(len(leads), -1)
            for lead, values in zip(leads, array, strict=True):
                plain[f"lead_{lead}{below}"] = values
    return plain
