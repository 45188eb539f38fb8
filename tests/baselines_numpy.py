"""The networks MRM-Net is compared with in plain NumPy, float64, from their papers' figures.

It shares no code with ``mrm_keras.baselines``; weights are given by their paths.  Arrays are
(batch, time, channel).
"""

from collections.abc import Callable

import numpy as np
from mrm_numpy import Array, Weights, batch_norm, relu
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import expit


def conv(x: Array, kernel: Array, *, stride: int = 1, pad: int = 0, value: float = 0.0) -> Array:
    """PyTorch's Conv1d without bias; kernel is (k, in, out)."""
    x = np.pad(x, ((0, 0), (pad, pad), (0, 0)), constant_values=value)
    windows = sliding_window_view(x, len(kernel), axis=1)[:, ::stride]  # (batch, time, in, k)
    return np.tensordot(windows, kernel, axes=((3, 2), (0, 1)))


def pool(x: Array, size: int, stride: int) -> Array:
    """Windows of PyTorch's pools without padding, (batch, time, channel, size)."""
    return sliding_window_view(x, size, axis=1)[:, ::stride]


def norm_of(x: Array, w: Weights, name: str, kernel: int, *, stride: int = 1) -> Array:
    """Convolution of odd kernel, centred, and batch norm."""
    weights = w[f"{name}/kernel_{kernel}"]
    return batch_norm(conv(x, weights, stride=stride, pad=kernel // 2), w, name)


def linear(x: Array, w: Weights, name: str) -> Array:
    return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]


def hard_sigmoid(x: Array) -> Array:
    return np.clip(x + 3, 0, 6) / 6


def hard_swish(x: Array) -> Array:
    return x * hard_sigmoid(x)


def mish(x: Array) -> Array:
    return x * np.tanh(np.log1p(np.exp(x)))


def head(x: Array, w: Weights) -> Array:
    """Concatenated pools, batch norm, 128, ReLU, batch norm, classes."""
    x = np.concatenate([x.max(axis=1), x.mean(axis=1)], axis=-1)
    x = relu(linear(batch_norm(x, w, "head_norm_1"), w, "head_hidden"))
    return linear(batch_norm(x, w, "head_norm_2"), w, "head_linear")


def mean_head(x: Array, w: Weights) -> Array:
    return linear(x.mean(axis=1), w, "head_linear")


def fcn(x: Array, w: Weights) -> Array:
    x = relu(batch_norm(conv(x, w["conv_1/kernel"], pad=3), w, "norm_1"))
    x = relu(norm_of(x, w, "conv_2", 5))
    return relu(norm_of(x, w, "conv_3", 3))


def max_pool_3_2(x: Array) -> Array:
    """PyTorch's MaxPool1d(3, 2, padding=1)."""
    x = np.pad(x, ((0, 0), (1, 1), (0, 0)), constant_values=-np.inf)
    return pool(x, 3, 2).max(axis=-1)


def resnet1d_wang(x: Array, w: Weights) -> Array:
    x = conv(x, w["stem/kernel"], stride=2, pad=3)
    x = max_pool_3_2(relu(batch_norm(x, w, "stem_norm")))
    return mean_head(residual_blocks(x, w), w)


def residual_blocks(x: Array, w: Weights) -> Array:
    for i, stride in ((1, 1), (2, 2), (3, 2)):
        y = relu(norm_of(x, w, f"block_{i}_conv_1", 5, stride=stride))
        y = norm_of(y, w, f"block_{i}_conv_2", 3)
        if stride == 2:
            x = norm_of(x, w, f"block_{i}_shortcut", 1, stride=2)
        x = relu(x + y)
    return x


def xresnet1d101(x: Array, w: Weights, kernel: int) -> Array:
    for i, stride in ((1, 2), (2, 1), (3, 1)):
        x = relu(norm_of(x, w, f"stem_{i}", kernel, stride=stride))
    x = max_pool_3_2(x)
    for stage, blocks in ((1, 3), (2, 4), (3, 23), (4, 3)):
        for block in range(1, blocks + 1):
            name = f"stage_{stage}_block_{block}"
            halves = stage > 1 and block == 1
            y = relu(norm_of(x, w, f"{name}_conv_1", 1))
            y = relu(norm_of(y, w, f"{name}_conv_2", kernel, stride=2 if halves else 1))
            y = norm_of(y, w, f"{name}_conv_3", 1)
            if halves:
                # PyTorch's AvgPool1d(2, ceil_mode=True)
                x = np.stack([x[:, t : t + 2].mean(axis=1) for t in range(0, x.shape[1], 2)], 1)
            if (stage, block) == (1, 1):
                x = norm_of(x, w, f"{name}_shortcut", 1)
            x = relu(x + y)
    return x


def inception_time(x: Array, w: Weights) -> Array:
    kept = x
    for depth in range(1, 7):
        name = f"inception_{depth}"
        narrow = conv(x, w[f"{name}_bottleneck/kernel"])
        padded = np.pad(x, ((0, 0), (1, 1), (0, 0)), constant_values=-np.inf)
        parts = [norm_of(narrow, w, f"{name}_conv_{k}", k) for k in (39, 19, 9)]
        parts.append(norm_of(pool(padded, 3, 1).max(axis=-1), w, f"{name}_conv_pool", 1))
        x = relu(np.concatenate(parts, axis=-1))
        if depth in (3, 6):
            x = kept = relu(x + norm_of(kept, w, f"shortcut_{depth}", 1))
    return mean_head(x, w)


# MobileNetV3, Table 2 as it is printed: kernel, exp size, #out, SE, NL, s.
MOBILENET_V3_SMALL = """
    3 16 16 SE RE 2
    3 72 24 -- RE 2
    3 88 24 -- RE 1
    5 96 40 SE HS 2
    5 240 40 SE HS 1
    5 240 40 SE HS 1
    5 120 48 SE HS 1
    5 144 48 SE HS 1
    5 288 96 SE HS 2
    5 576 96 SE HS 1
    5 576 96 SE HS 1
"""
# A quarter of each expansion, to the nearest multiple of 8 that keeps nine tenths of it.
SQUEEZED = {16: 8, 96: 24, 240: 64, 120: 32, 144: 40, 288: 72, 576: 144}


def mobilenet_v3(x: Array, w: Weights) -> Array:
    x = hard_swish(norm_of(x, w, "stem", 15, stride=2))
    channels = 16
    for i, line in enumerate(MOBILENET_V3_SMALL.split("\n")[1:-1], start=1):
        kernel, exp, out, squeeze, nl, stride = line.split()
        act = hard_swish if nl == "HS" else relu
        y, name = x, f"block_{i}"
        if int(exp) != channels:
            y = act(norm_of(y, w, f"{name}_expand", 1))
        half = int(kernel) // 2
        padded = np.pad(y, ((0, 0), (half, half), (0, 0)))
        windows = sliding_window_view(padded, int(kernel), axis=1)[:, :: int(stride)]
        depthwise = w[f"{name}_depth/kernel"][:, :, 0]  # (k, channel)
        y = batch_norm(np.einsum("btck,kc->btc", windows, depthwise), w, f"{name}_depth_norm")
        # Before the activation in the blocks that widen, after it in the one that does not.
        y = y if int(exp) != channels else act(y)
        if squeeze == "SE":
            weights = relu(linear(y.mean(axis=1), w, f"{name}_squeeze_reduce"))
            y = y * hard_sigmoid(linear(weights, w, f"{name}_squeeze_expand"))[:, None]
        y = act(y) if int(exp) != channels else y
        y = norm_of(y, w, f"{name}_narrow", 1)
        x = x + y if stride == "1" and int(out) == channels else y
        channels = int(out)
    x = hard_swish(norm_of(x, w, "last", 1)).mean(axis=1)
    return linear(hard_swish(linear(x, w, "head_hidden")), w, "head_linear")


def mvmsnet(x: Array, w: Weights) -> Array:
    views = {
        "right": [3],
        "high_lateral": [0, 4],
        "septal": [6, 7],
        "anterior": [8, 9],
        "lateral": [10, 11],
        "inferior": [1, 2, 5],
    }
    features = np.zeros((len(x), 128))
    for view, leads in views.items():
        y = mish(batch_norm(conv(x[:, :, leads], w[f"{view}_stem/kernel"]), w, f"{view}_stem_norm"))
        for block in (1, 2):
            y = res2_block(y, w, f"{view}_block_{block}")
        y = y.mean(axis=1)
        features += y * expit(linear(y, w, f"{view}_weight"))
    return linear(features, w, "head_linear")


def res2_block(x: Array, w: Weights, name: str) -> Array:
    y = batch_norm(mish(conv(x, w[f"{name}_widen/kernel"])), w, f"{name}_widen_norm")
    parts = [
        mish(norm_of(y[:, :, 52 * i : 52 * i + 52], w, f"{name}_scale_{i + 1}", 15, stride=2))
        for i in range(3)
    ]
    last = np.pad(y[:, :, 156:], ((0, 0), (1, 1), (0, 0)))
    parts.append(pool(last, 3, 2).mean(axis=-1))
    y = norm_of(np.concatenate(parts, axis=-1), w, f"{name}_narrow", 1)
    a = f"{name}_attention"

    def reduced(z: Array) -> Array:
        return hard_swish(batch_norm(linear(z, w, f"{a}_reduce")[:, :], w, f"{a}_norm"))

    whole = expit(linear(reduced(y.mean(axis=1, keepdims=True)), w, f"{a}_channel"))
    each = expit(linear(reduced(y), w, f"{a}_time"))
    shortcut = conv(x, w[f"{name}_shortcut/kernel"], stride=2) + w[f"{name}_shortcut/bias"]
    return mish(y * each * whole + batch_norm(shortcut, w, f"{name}_shortcut_norm"))


def ecg_bnn(x: Array, w: Weights) -> Array:
    for i in range(1, 7):
        signs = np.where(w[f"block_{i}_conv/kernel"] >= 0, 1.0, -1.0)
        if i > 1:
            x = np.where(x >= 0, 1.0, -1.0)
        x = conv(x, signs, stride=2 if i == 1 else 1, pad=5, value=1.0)
        x = pool(x, 7, 2).max(axis=-1)
        x = np.where(x > 0, x, w[f"block_{i}_prelu/alpha"] * x)
        x = batch_norm(x, w, f"block_{i}")
    return x.sum(axis=1)


FORWARD: dict[str, Callable[[Array, Weights], Array]] = {
    "fcn_wang": lambda x, w: mean_head(fcn(x, w), w),
    "fcn_wang_benchmark": lambda x, w: head(fcn(x, w), w),
    "resnet1d_wang": resnet1d_wang,
    "resnet1d_wang_benchmark": lambda x, w: head(
        residual_blocks(relu(norm_of(x, w, "stem", 7)), w), w
    ),
    "xresnet1d101": lambda x, w: mean_head(xresnet1d101(x, w, 3), w),
    "xresnet1d101_benchmark": lambda x, w: head(xresnet1d101(x, w, 5), w),
    "ECG_BNN": ecg_bnn,
    "MobileNetV3": mobilenet_v3,
    "InceptionTime": inception_time,
    "MVMSNet": mvmsnet,
}
