"""MRM-Net's answer in plain NumPy and SciPy, written from the paper's figures, in float64.

It shares no code with ``mrm_keras``: four convolutions that are really averaged, pools that
really pad with minus infinity.  Arrays are (batch, time, channel).
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def conv1d(x: Array, kernel: Array, bias: Array | float = 0.0, *, stride: int = 1) -> Array:
    """PyTorch's Conv1d with padding k // 2; kernel is (k, in, out)."""
    half = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (half, half), (0, 0)))
    length = padded.shape[1] - len(kernel) + 1
    taps = [padded[:, tap : tap + length] @ weights for tap, weights in enumerate(kernel)]
    return np.sum(taps, axis=0)[:, ::stride] + bias


def batch_norm(x: Array, w: Weights, name: str) -> Array:
    """By the moving statistics, epsilon 1e-5."""
    mean, variance = w[f"{name}/moving_mean"], w[f"{name}/moving_variance"]
    return (x - mean) / np.sqrt(variance + 1e-5) * w[f"{name}/gamma"] + w[f"{name}/beta"]


def max_pool(x: Array, *, stride: int, padding: int) -> Array:
    """PyTorch's MaxPool1d(2, stride, padding)."""
    x = np.pad(x, ((0, 0), (padding, padding), (0, 0)), constant_values=-np.inf)
    starts = range(0, x.shape[1] - 1, stride)
    return np.stack([x[:, t : t + 2].max(axis=1) for t in starts], axis=1)


def relu(x: Array) -> Array:
    """The positive part."""
    return np.maximum(x, 0.0)


def layer_norm(x: Array, gamma: Array, beta: Array) -> Array:
    """Over the last axis, epsilon 1e-5."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def conv_norm(x: Array, w: Weights, name: str, sizes: tuple[int, ...], stride: int = 1) -> Array:
    """The mean of one convolution of each size, then batch norm."""
    scales = [conv1d(x, w[f"{name}/kernel_{size}"], stride=stride) for size in sizes]
    return batch_norm(np.mean(scales, axis=0), w, name)


def base_block(x: Array, w: Weights, name: str) -> Array:
    """Two convolutions and a residual."""
    y = relu(conv_norm(x, w, f"{name}/conv_1", (3,)))
    y = conv_norm(y, w, f"{name}/conv_2", (3,))
    if f"{name}/projection/kernel_1" in w:
        x = conv_norm(x, w, f"{name}/projection", (1,))
    return relu(y + x)


def channel_attention(z: Array, w: Weights, name: str) -> Array:
    """CA of eq. 1, (batch, 1, channel)."""

    def mlp(v: Array) -> Array:
        hidden = relu(v @ w[f"{name}/reduce/kernel"] + w[f"{name}/reduce/bias"])
        return hidden @ w[f"{name}/expand/kernel"] + w[f"{name}/expand/bias"]

    return expit(mlp(z.mean(axis=1)) + mlp(z.max(axis=1)))[:, None]


def spatial_attention(z: Array, w: Weights, name: str) -> Array:
    """SA of eq. 2, (batch, time, 1)."""
    both = np.stack([z.mean(axis=-1), z.max(axis=-1)], axis=-1)
    return expit(conv1d(both, w[f"{name}/conv/kernel"], w[f"{name}/conv/bias"]))


def attention(z: Array, w: Weights, name: str) -> Array:
    """LN(concat[CA * Z, SA * Z]), (batch, time, 2 channel)."""
    by_channel = channel_attention(z, w, f"{name}/channel") * z
    by_time = spatial_attention(z, w, f"{name}/spatial") * z
    both = np.concatenate([by_channel, by_time], axis=-1)
    return layer_norm(both, w[f"{name}/norm/gamma"], w[f"{name}/norm/beta"])


def branch(x: Array, w: Weights, name: str, stride: int) -> tuple[Array, Array]:
    """From the trunk's output to (Z1, Z3) of the low or (Z2, Z4) of the high branch."""
    scales = relu(conv_norm(x, w, f"{name}_multi_scale", (3, 13, 23, 33), stride))
    parallel = relu(conv_norm(x, w, f"{name}_conv_block", (3,), stride))
    z = max_pool(scales, stride=2, padding=0) + max_pool(parallel, stride=2, padding=0)
    y = z
    for i in (1, 2, 3):
        y = base_block(y, w, f"{name}_block_{i}")
    return z, base_block(attention(y, w, f"{name}_attention"), w, f"{name}_fusion")


def head(z: Array, w: Weights, name: str) -> Array:
    """Linear(LN(AvgPool(Z)))."""
    pooled = layer_norm(z.mean(axis=1), w[f"{name}_norm/gamma"], w[f"{name}_norm/beta"])
    return pooled @ w[f"{name}_linear/kernel"] + w[f"{name}_linear/bias"]


def trunk(x: Array, w: Weights) -> Array:
    """Four ConvBlock1 of Table I."""
    for i, size in enumerate((11, 7, 5, 3), start=1):
        x = max_pool(relu(conv_norm(x, w, f"trunk_{i}", (size,))), stride=1, padding=1)
    return x


def forward(signal: Array, w: Weights, *, fusion: str = "mutual") -> dict[str, Array]:
    """The probabilities of each head, (batch, class)."""
    x = trunk(signal, w)
    if fusion in ("low", "high"):
        _, z = branch(x, w, fusion, stride=1 if fusion == "low" else 2)
        return {"diagnosis": expit(head(z, w, "head"))}
    _, z3 = branch(x, w, "low", stride=1)
    _, z4 = branch(x, w, "high", stride=2)
    if fusion == "mutual":
        low, high = expit(head(z3, w, "low_head")), expit(head(z4, w, "high_head"))
        return {"diagnosis": (low + high) / 2, "low": low, "high": high}
    up = relu(conv_norm(z3, w, "low_to_high", (3,), stride=2))
    if fusion == "add":
        z = up + z4
    else:
        z = base_block(np.concatenate([up, z4], axis=-1), w, "fused")
    return {"diagnosis": expit(head(z, w, "head"))}


def mutual_loss(
    a: NDArray[Any],
    b: NDArray[Any],
    *,
    temperature: float = 4.0,
    flatten: Literal["channel", "time"] = "channel",
) -> float:
    """T^2 times the mean over the batch of KL(a || b) + KL(b || a), eq. 5 and 6 term by term.

    Channel by channel is how PyTorch's ``view(batch, -1)`` flattens (batch, channel, time).
    """
    if flatten == "channel":
        a, b = (np.moveaxis(x, -1, 1) for x in (a, b))
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    p, q = softmax(a / temperature, axis=1), softmax(b / temperature, axis=1)
    per_record = (p * np.log(p / q)).sum(axis=1) + (q * np.log(q / p)).sum(axis=1)
    return float(temperature**2 * per_record.mean())
