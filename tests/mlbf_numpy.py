"""MLBF-Net's answer in plain NumPy, written from the paper's equations, in float64.

It shares no code with ``mlbf_keras`` but its weights: every branch runs by itself, over every
sample of every record, and every recurrence step by step.  Arrays are (batch, time, channel).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from data_prep.labels import LEADS

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def leaky_relu(x: Array) -> Array:
    """Slope 0.3 below zero."""
    return np.where(x > 0, x, 0.3 * x)


def conv1d(x: Array, kernel: Array, bias: Array, *, stride: int = 1) -> Array:
    """A convolution padded as little as gives ceil(time / stride), the odd zero at the end.

    Kernel is (k, in, out).
    """
    length = -(-x.shape[1] // stride)
    padding = max((length - 1) * stride + len(kernel) - x.shape[1], 0)
    padded = np.pad(x, ((0, 0), (padding // 2, padding - padding // 2), (0, 0)))
    y = np.zeros((len(x), length, kernel.shape[2])) + bias
    for tap, weights in enumerate(kernel):
        y += padded[:, tap : tap + (length - 1) * stride + 1 : stride] @ weights
    return y


def convolutions(x: Array, w: Weights, branch: int, name: str = "f_cnn") -> Array:
    """f_CNN of one branch (eq. 1): as many blocks as there are weights for."""
    block = 1
    while f"{name}/block_{block}_conv_1_kernel" in w:
        for position, stride in ((1, 1), (2, 1), (3, 2)):
            conv = f"{name}/block_{block}_conv_{position}"
            x = conv1d(x, w[f"{conv}_kernel"][branch], w[f"{conv}_bias"][branch], stride=stride)
            x = leaky_relu(x)
        block += 1
    return x


def gru(x: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """One GRU from the first step to the last; columns are update gate, reset gate, candidate."""
    units = len(recurrent)
    gates = [slice(i * units, (i + 1) * units) for i in range(3)]
    (w_z, w_r, w_h), (u_z, u_r, u_h), (b_z, b_r, b_h), (c_z, c_r, c_h) = (
        [matrix[..., gate] for gate in gates] for matrix in (kernel, recurrent, bias[0], bias[1])
    )
    h = np.zeros((len(x), units))
    states = []
    for t in range(x.shape[1]):
        z = expit(x[:, t] @ w_z + b_z + h @ u_z + c_z)
        r = expit(x[:, t] @ w_r + b_r + h @ u_r + c_r)
        candidate = np.tanh(x[:, t] @ w_h + b_h + r * (h @ u_h + c_h))
        h = z * h + (1 - z) * candidate
        states.append(h)
    return np.stack(states, axis=1)


def bigru(x: Array, w: Weights, branch: int, name: str = "f_bigru") -> Array:
    """f_BiGRU of one branch (eq. 2): forward, then backward."""
    weights = [w[f"{name}/{weight}"] for weight in ("kernel", "recurrent_kernel", "bias")]
    forward = gru(x, *(weight[0, branch] for weight in weights))
    backward = gru(x[:, ::-1], *(weight[1, branch] for weight in weights))[:, ::-1]
    return np.concatenate([forward, backward], axis=-1)


def attention(f: Array, w: Weights, branch: int, name: str) -> tuple[Array, Array]:
    """f_att (batch, feature) and alpha (batch, time) of one branch (eq. 5 to 7)."""
    u = np.tanh(f @ w[f"{name}/kernel"][branch] + w[f"{name}/bias"][branch])
    alpha = softmax(u @ w[f"{name}/context"][branch][:, 0], axis=1)
    return (alpha[:, :, None] * f).sum(axis=1), alpha


def batch_norm(x: Array, w: Weights, name: str, channels: slice) -> Array:
    """By the moving statistics, epsilon 1e-3 as Keras has it."""
    gamma, beta, mean, variance = (
        w[f"{name}/{weight}"][channels]
        for weight in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def forward(signal: Array, w: Weights) -> dict[str, Array]:
    """The probabilities of each head of MLBF-Net, (batch, class)."""
    f_bigru = [
        bigru(convolutions(signal[:, :, j : j + 1], w, j), w, j) for j in range(signal.shape[2])
    ]
    f_att, _ = attention(np.concatenate(f_bigru, axis=-1), w, 0, "fused_attention")
    f_att = batch_norm(f_att, w, "fused_norm", slice(None))
    logits = f_att @ w["diagnosis/kernel"] + w["diagnosis/bias"]
    answers = {"diagnosis": softmax(logits, axis=-1)}
    if "lead_softmax/kernel" in w:
        for j, f in enumerate(f_bigru):
            f_att, _ = attention(f, w, j, "lead_attention")
            width = f_att.shape[1]
            f_att = batch_norm(f_att, w, "lead_norm", slice(j * width, (j + 1) * width))
            logits = f_att @ w["lead_softmax/kernel"][j] + w["lead_softmax/bias"][j]
            answers[f"lead_{LEADS[j]}"] = softmax(logits, axis=-1)
    return answers


def forward_branchnet(signal: Array, w: Weights) -> Array:
    """The probabilities of BranchNet on all leads at once, (batch, class)."""
    f_att, _ = attention(bigru(convolutions(signal, w, 0), w, 0), w, 0, "attention")
    f_att = batch_norm(f_att, w, "norm", slice(None))
    return softmax(f_att @ w["diagnosis/kernel"] + w["diagnosis/bias"], axis=-1)
