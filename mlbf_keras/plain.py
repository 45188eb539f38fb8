"""MLBF-Net's layers in operations that every runtime supports, for inference only.

The training layers use compiled loops and functions specific to TensorFlow.  These compute the
same from the same weights, with Keras layers and one plain loop.
"""

from collections.abc import Callable
from typing import Any

from ecg_keras.export.export import float32_copy
from ecg_keras.model.backend import keras, tf
from mlbf_keras.layers import LEAKY_SLOPE, BranchAttention, BranchBiGRU, BranchConvolutions

layers, ops = keras.layers, keras.ops


def branch_convolutions(layer: Any, signal: Any) -> list[Any]:
    """``BranchConvolutions``: a sequence of ``Conv1D`` per branch."""
    weights = [layer.get_weights()[i : i + 2] for i in range(0, 6 * len(layer.kernel_sizes), 2)]
    taps = [taps for block in layer.kernel_sizes for taps in block]
    signals = ops.split(signal, layer.branches, axis=-1) if layer.branches > 1 else [signal]
    f_cnn = []
    for branch, x in enumerate(signals):
        for position, (size, (kernels, biases)) in enumerate(zip(taps, weights, strict=True)):
            strides = 2 if position % 3 == 2 else 1
            conv = layers.Conv1D(layer.filters, size, strides=strides, padding="same")
            x = conv(x)
            conv.set_weights([kernels[branch], biases[branch]])
            x = layers.LeakyReLU(LEAKY_SLOPE)(x)
        f_cnn.append(x)
    return f_cnn


def branch_attention(layer: Any, features: Any) -> tuple[Any, Any]:
    """``BranchAttention`` with one branch: the head on all leads."""
    _, time, branches, width = features.shape
    assert branches == 1, "only the branches' own heads have more, and they are not exported"
    kernel, bias, context = (values[0] for values in layer.get_weights())
    f = layers.Reshape((time, width))(features)
    hidden = layers.Dense(width, activation="tanh")
    score = layers.Dense(1, use_bias=False)
    alpha = layers.Softmax(axis=1)(score(hidden(f)))  # (batch, time, 1)
    hidden.set_weights([kernel, bias])
    score.set_weights([context])
    return layers.Dot(axes=(1, 1))([alpha, f]), alpha


class LoopedBiGRU(BranchBiGRU):
    """``BranchBiGRU`` as one loop over time for both directions of all branches.

    Results are collected in a tensor that is shifted by one step at each step: LiteRT has no list
    of tensors whose size, the batch, is not known in advance.
    """

    def call(self, features: list[Any], training: bool = False) -> Any:
        """Run every branch in both directions, without dropout."""
        _, time, width = features[0].shape
        units = self.units
        both = 2 * len(features)
        # All forward recurrences, then all backward ones on the reversed signal.
        x = tf.stack(features)  # (branch, batch, time, in)
        x = tf.concat([x, tf.reverse(x, [2])], axis=0)  # (both, batch, time, in)
        kernel = tf.reshape(self.kernel, [both, width, 3 * units])
        recurrent = tf.reshape(self.recurrent_kernel, [both, units, 3 * units])
        bias = tf.reshape(self.bias, [both, 2, 1, 3 * units])

        batch = tf.shape(x)[1]
        from_input = tf.matmul(tf.reshape(x, [both, -1, width]), kernel) + bias[:, 0]
        from_input = tf.reshape(from_input, [both, batch, time, 3 * units])
        from_input = tf.transpose(from_input, [2, 0, 1, 3])  # (time, both, batch, 3 unit)

        def step(t: Any, h: Any, states: Any) -> tuple[Any, Any, Any]:
            now, past = from_input[t], tf.matmul(h, recurrent) + bias[:, 1]
            update, reset = tf.split(tf.sigmoid((now + past)[..., : 2 * units]), 2, axis=-1)
            candidate = tf.tanh(now[..., 2 * units :] + reset * past[..., 2 * units :])
            h = update * h + (1 - update) * candidate
            return t + 1, h, tf.concat([states[1:], h[None]], axis=0)

        start = tf.zeros([both, batch, units])
        _, _, states = tf.while_loop(
            lambda t, *_: t < time,
            step,
            (tf.constant(0), start, tf.zeros([time, both, batch, units])),
            shape_invariants=(
                tf.TensorShape([]),
                tf.TensorShape([both, None, units]),
                tf.TensorShape([time, both, None, units]),
            ),
            parallel_iterations=1,
        )
        forward, backward = tf.split(states, 2, axis=1)
        y = tf.concat([forward, tf.reverse(backward, [0])], axis=-1)
        return tf.transpose(y, [2, 0, 1, 3])  # (batch, time, branch, 2 unit)


def branch_bigru(layer: Any, features: list[Any]) -> Any:
    """``BranchBiGRU`` as a :class:`LoopedBiGRU`."""
    return float32_copy(layer, LoopedBiGRU)(features)


PLAIN: dict[type, Callable[..., Any]] = {
    BranchAttention: branch_attention,
    BranchBiGRU: branch_bigru,
    BranchConvolutions: branch_convolutions,
}
