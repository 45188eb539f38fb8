"""Convolutions over time, each computed in the fastest way for its kernel length.

A convolution with a long kernel is reduced to a small number of products.  Any correlation of a
block of N samples with k taps, of which V = N - k + 1 outputs need no sample outside the block,
can be written

    y = A ((G w) * (D x)),    D: (R, N),  G: (R, k),  A: (V, R),

with R elementwise products instead of the k V of the direct sum.  Here D and G are discrete
Fourier transforms.  Since the signal is real, the products at frequencies 0 and N/2 are real and
those at 0 < f < N/2 complex, and a complex product takes three real ones,

    (a + bi)(c + di) = (p - r) + (p + q)i,    p = (a + b) c,  q = a (d - c),  r = b (c + d),

so that R = 2 + 3 (N/2 - 1); A is the inverse transform of p, q and r, restricted to the V outputs.
With C input and C' output channels each product becomes a (C, C') matrix product, and the whole
convolution R of them.  With 33 taps and N = 96 that is 143 products for 64 outputs, 2.2 per output
instead of 33, with rounding errors like those of any other order of summation in float32.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.provenance import FORMS
from ecg_keras.model.backend import tf

Array = NDArray[np.float32]

# From this length on the Fourier form is faster, measured on CPUs with 128 or more channels.
LONG_KERNEL = 16
FORMS["MRM-Net's convolutions"] = f"by Fourier transform from {LONG_KERNEL} taps on"


def convolve(x: Any, kernel: Any, strides: int) -> Any:
    """Correlate x with the kernel, like PyTorch's Conv1d with padding k // 2.

    Args:
        x: ``(batch, time, C)``.
        kernel: ``(k, C, C')``, float32, k odd.
        strides: in samples.

    Returns:
        ``(batch, (time - 1) // strides + 1, C')`` in the precision of x.
    """
    taps = kernel.shape[0]
    if taps >= LONG_KERNEL and strides == 1:
        return long_convolve(x, kernel, before=taps // 2, length=x.shape[1])
    if taps >= LONG_KERNEL and strides == 2:
        return long_convolve_by_twos(x, kernel)
    kernel = tf.cast(kernel, x.dtype)
    if strides == 1:
        return short_convolve(x, kernel)
    return tf.nn.conv1d(tf.pad(x, ((0, 0), (taps // 2,) * 2, (0, 0))), kernel, strides, "VALID")


@tf.custom_gradient
def short_convolve(x: Any, kernel: Any) -> tuple[Any, Callable[..., Any]]:
    """Correlate x with a short kernel; the gradient of the kernel is one matrix product per tap.

    With oneDNN, TensorFlow's own gradient of a kernel runs at a third of the speed of its
    convolution; as matrix products it runs at four fifths.

    Args:
        x: ``(batch, time, C)``.
        kernel: ``(k, C, C')``, k odd.

    Returns:
        ``(batch, time, C')``, and the function that returns both gradients.
    """
    taps, channels, filters = kernel.shape
    length = x.shape[1]

    def gradient(dy: Any) -> tuple[Any, Any]:
        backwards = tf.transpose(kernel[::-1], (0, 2, 1))
        padded = tf.pad(x, ((0, 0), (taps // 2,) * 2, (0, 0)))
        rows = tf.reshape(dy, (-1, filters))
        by_tap = [
            tf.matmul(
                tf.reshape(padded[:, tap : tap + length], (-1, channels)), rows, transpose_a=True
            )
            for tap in range(taps)
        ]
        return tf.nn.conv1d(dy, backwards, 1, "SAME"), tf.stack(by_tap)

    return tf.nn.conv1d(x, kernel, 1, "SAME"), gradient


def long_convolve_by_twos(x: Any, kernel: Any) -> Any:
    """Convolve with stride 2: two time steps folded into the channels, then stride 1.

    With x[t] = (x[2t], x[2t + 1]) and the kernel folded in the same way, half the taps on twice
    the channels sum the same products, and the transforms work on a signal of half the length.
    """
    taps, channels, filters = kernel.shape
    length = x.shape[1]
    # Folds start at even samples; a kernel of odd half-width gets an extra tap in front.
    odd = taps // 2 % 2
    kernel = tf.pad(kernel, ((odd, 1 - odd), (0, 0), (0, 0)))
    kernel = tf.reshape(kernel, ((taps + 1) // 2, 2 * channels, filters))
    x = tf.pad(x, ((0, 0), (0, length % 2), (0, 0)))
    x = tf.reshape(x, (-1, (length + 1) // 2, 2 * channels))
    return long_convolve(x, kernel, before=(taps // 2 + odd) // 2, length=(length + 1) // 2)


def long_convolve(x: Any, kernel: Any, *, before: int, length: int) -> Any:
    """Correlate x with a long kernel by the products derived in this module.

    Args:
        x: ``(batch, time, C)``.
        kernel: ``(k, C, C')``, float32.
        before: number of zeros before x.
        length: number of outputs; x is followed by as many zeros as needed.

    Returns:
        ``(batch, length, C')`` in the precision of x.
    """
    taps, channels, filters = kernel.shape
    d, g, a = fourier_products(taps)
    products, block = d.shape
    hop = len(a)
    blocks = -(-length // hop)
    reach = -(-block // hop)  # hops that a block covers
    after = (blocks + reach - 1) * hop - before - x.shape[1]
    dtype = x.dtype
    batch = tf.shape(x)[0]

    x = tf.pad(x, ((0, 0), (before, after), (0, 0)))
    x = tf.reshape(x, (-1, blocks + reach - 1, hop, channels))
    x = tf.transpose(x, (2, 1, 0, 3))  # (hop, blocks + reach - 1, batch, C)
    x = tf.concat(
        [
            tf.slice(x, (0, i, 0, 0), (min(hop, block - i * hop), blocks, -1, -1))
            for i in range(reach)
        ],
        axis=0,
    )
    x = tf.matmul(tf.cast(d, dtype), tf.reshape(x, (block, -1)))
    x = tf.reshape(x, (products, -1, channels))  # (R, blocks * batch, C)

    w = tf.matmul(g, tf.reshape(kernel, (taps, -1)))
    w = tf.cast(tf.reshape(w, (products, channels, filters)), dtype)  # (R, C, C')

    y = tf.reshape(tf.matmul(x, w), (products, -1))
    y = tf.matmul(tf.cast(a, dtype), y)  # (hop, blocks * batch * C')
    y = tf.transpose(tf.reshape(y, (hop, blocks, batch, filters)), (2, 1, 0, 3))
    return tf.slice(tf.reshape(y, (-1, blocks * hop, filters)), (0, 0, 0), (-1, length, -1))


@lru_cache
def fourier_products(taps: int) -> tuple[Array, Array, Array]:
    """D, G and A of this module's derivation, for blocks of about three times the taps.

    Args:
        taps: k.

    Returns:
        Arrays ``(R, N)``, ``(R, k)`` and ``(V, R)``, with N even.
    """
    block = 3 * (taps // 2 * 2)
    half = block // 2
    frequency, sample = np.arange(half + 1), np.arange(block)
    signal = np.exp(-2j * np.pi * np.outer(frequency, sample) / block)
    kernel = signal[:, :taps].conj()  # conjugate: a correlation, not a convolution
    inverse = signal.conj().T[: block - taps + 1] / block
    inverse[:, 1:half] *= 2  # the negative frequencies, which are not stored
    ends, inner = [0, half], slice(1, half)

    a, b = signal[inner].real, signal[inner].imag
    c, d = kernel[inner].real, kernel[inner].imag
    # Re(z (u + vi)) = u Re z - v Im z, with u + vi = (p - r) + (p + q)i
    re, im = inverse[:, inner].real, -inverse[:, inner].imag
    to_signal = np.concatenate([signal[ends].real, a + b, a, b])
    to_kernel = np.concatenate([kernel[ends].real, c, d - c, c + d])
    back = np.concatenate([inverse[:, ends].real, re + im, im, -re], axis=1)
    return to_signal.astype("float32"), to_kernel.astype("float32"), back.astype("float32")
