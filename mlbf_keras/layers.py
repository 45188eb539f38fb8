"""The boxes of MLBF-Net (Fig. 1, Table I) that have weights, one layer for all leads together.

The twelve branches have the same architecture and differ only in their weights, so each layer here
holds the weights of all branches, stacked on the first axis, and computes them side by side.  The
results are the same; some five hundred variables become forty, and twenty-four recurrences one.
"""

import itertools
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from data_prep.errors import OptionError
from data_prep.provenance import FORMS
from ecg_keras.model.backend import keras, tf

ops = keras.ops

LEAKY_SLOPE = 0.3  # Keras' default when the paper was written; not given in the paper.

# A batch is convolved in this many slices of similar length.  For 64 random recordings with the
# lengths of CPSC 2018, four slices compute 1.3 times the recorded samples, eight 1.1 times and one
# 3.6 times.  On two cores four, six and eight took the same time, and each extra slice costs
# seconds before the first step.
SLICES = 4

# The convolutions compute this many neighbouring outputs at once: TensorFlow's CPU kernels are
# slow with the paper's twelve channels.  With four, the extra products cost more than is saved.
PHASES = 2
FORMS["MLBF-Net's convolutions"] = (
    f"each batch in {SLICES} slices of similar length, {PHASES} outputs at once"
)


def stacked(make: Callable[[], Any], stack_dims: int) -> Callable[..., Any]:
    """Initialise each member of a stack of weights separately.

    For the whole stack, an initialiser would count the stack axes in the fan-in.

    Args:
        make: returns a new initialiser, with its own seed, for each member.
        stack_dims: number of leading axes of the shape that form the stack.

    Returns:
        An initialiser for the stacked shape.
    """

    def initialise(shape: tuple[int, ...], dtype: Any = None) -> Any:
        stack, member = tuple(shape[:stack_dims]), tuple(shape[stack_dims:])
        count = 1
        for size in stack:
            count *= size
        members = [make()(member, dtype=dtype) for _ in range(count)]
        return ops.reshape(ops.stack(members), stack + member)

    return initialise


def keep_mask(x: Any, rate: float, seed: Any) -> Any:
    """Draw a dropout mask: 0 for a fraction ``rate`` of the entries of ``x``, 1 for the others.

    One 32-bit random number serves two entries: sixteen bits resolve the rate to 1.5e-5, and
    half as many random numbers take half the time.

    Args:
        x: any tensor with a last axis of known size.
        rate: fraction of zeros, in [0, 1).
        seed: int32 pair for a stateless generator.

    Returns:
        A tensor with the shape and type of ``x``.
    """
    shape, width = tf.shape(x), x.shape[-1]
    half = tf.concat([shape[:-1], [(width + 1) // 2]], axis=0)
    bits = tf.random.stateless_uniform(half, seed, None, None, dtype=tf.int32)
    numbers = tf.reshape(tf.bitcast(bits, tf.uint16), tf.concat([shape[:-1], [-1]], axis=0))
    if width % 2:
        numbers = numbers[..., :width]
    return tf.cast(numbers >= tf.constant(round(rate * 65536), tf.uint16), x.dtype)


def widened(kernels: Any, strides: int) -> Any:
    """Rewrite kernels for signals whose neighbouring samples are folded into the channels.

    A "same" convolution computes :data:`PHASES` neighbouring outputs at once if each time step
    holds ``PHASES * strides`` samples: stride 1, fewer taps, more channels.  Each entry of the
    wide kernel is an entry of the given one, or zero for samples outside its support.

    Args:
        kernels: ``(branch, tap, channel, filter)``; an even number of taps for stride 2, since
            for odd ones TensorFlow's alignment depends on the parity of the signal length.
        strides: 1 or 2.

    Returns:
        ``(branch, step, PHASES * strides * channel, PHASES * filter)``, an odd number of steps.
    """
    branches, taps, channels, filters = kernels.shape
    held = PHASES * strides
    before = (taps - strides) // 2
    # Output o reads sample o * strides + t - before with tap t.
    first = -(before // held) - (before % held > 0)
    last = ((PHASES - 1) * strides + taps - 1 - before) // held
    reach = max(-first, last)
    sample = np.arange(-reach * held, (reach + 1) * held).reshape(-1, held)
    tap = sample[:, :, None] - strides * np.arange(PHASES) + before  # (step, sample, output)
    choice = tf.constant(tap[..., None] == np.arange(taps), kernels.dtype)
    wide = tf.einsum("sxot,btcf->bsxcof", choice, kernels)
    return tf.reshape(wide, (branches, 2 * reach + 1, held * channels, PHASES * filters))


def _convolve(x: Any, kernel: Any, bias: Any) -> Any:
    """LeakyReLU of the "same" convolution whose kernel was :func:`widened`.

    Args:
        x: ``(batch, 1, time, channel)``.
        kernel: ``(step, samples per step * channel, PHASES * filter)``.
        bias: ``(filter,)``.

    Returns:
        ``(batch, 1, ceil(time / strides), filter)``.
    """
    channels, (filters,) = x.shape[3], bias.shape
    held = kernel.shape[1] // channels
    strides = held // PHASES
    batch, time = tf.shape(x)[0], tf.shape(x)[2]
    x = tf.pad(x, [[0, 0], [0, 0], [0, -time % held], [0, 0]])
    x = tf.reshape(x, [batch, 1, tf.shape(x)[2] // held, held * channels])
    y = _convolve_wide(x, kernel, tf.tile(bias, [PHASES]))
    y = tf.reshape(y, [batch, 1, tf.shape(y)[2] * PHASES, filters])
    return _begin(y, (time + strides - 1) // strides)


@tf.custom_gradient
def _convolve_wide(x: Any, kernel: Any, bias: Any) -> tuple[Any, Callable[..., Any]]:
    """LeakyReLU of a "same" convolution with stride 1.

    The output of the LeakyReLU has the sign of its input, so its gradient needs only the output,
    and TensorFlow may fuse the three operations.

    Args:
        x: ``(batch, 1, time, channel)``.
        kernel: ``(tap, channel, filter)``, an odd number of taps.
        bias: ``(filter,)``.

    Returns:
        ``(batch, 1, time, filter)``, and the function that returns the three gradients.
    """
    same: dict[str, Any] = {"strides": [1, 1, 1, 1], "padding": "SAME"}
    linear = tf.nn.bias_add(tf.nn.conv2d(x, kernel[None], **same), bias)
    y = tf.nn.leaky_relu(linear, alpha=LEAKY_SLOPE)

    def gradient(dy: Any) -> tuple[Any, Any, Any]:
        dz = tf.raw_ops.LeakyReluGrad(gradients=dy, features=y, alpha=LEAKY_SLOPE)
        dx = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x), filter=kernel[None], out_backprop=dz, **same
        )
        d_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=[1, *kernel.shape], out_backprop=dz, **same
        )[0]
        return dx, d_kernel, tf.raw_ops.BiasAddGrad(out_backprop=dz)

    return y, gradient


@tf.custom_gradient
def _reordered(x: Any, order: Any, back: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the rows ``x[order]``; their gradient is reordered by ``back``, the inverse."""
    return tf.gather(x, order), lambda dy: (tf.gather(dy, back), None, None)


@tf.custom_gradient
def _begin(x: Any, length: Any) -> tuple[Any, Callable[..., Any]]:
    """Return ``x[:, :, :length]``, with a gradient that pads, or does nothing if nothing was cut.

    TensorFlow's own gradient of a slice fills and copies the whole array on one core, which is
    fifteen times slower and took an eighth of a training step.
    """

    def gradient(dy: Any) -> tuple[Any, None]:
        return tf.pad(dy, [[0, 0], [0, 0], [0, tf.shape(x)[2] - length], [0, 0]]), None

    return x[:, :, :length], gradient


# Separate functions in TensorFlow's graph are traced, differentiated and optimised once for all
# branches and slices; this takes most of the time before the first step.
_once = tf.function(autograph=False, experimental_attributes={"_noinline": True})


@_once
def _convolve_silence(
    time: int, kernels: list[Any], biases: list[Any], rate: float, seeds: Any
) -> list[Any]:
    """Run the blocks of one branch over an all-zero signal.

    Args:
        time: length of the padded signals.
        kernels: of each convolution, three per block, each :func:`widened`.
        biases: ``(filter,)`` of each convolution.
        rate: of the dropout after each block.
        seeds: ``(block, 2)`` int32, of that dropout.

    Returns:
        The input of each block and the output of the last, ``(1, 1, time / 2**block, ...)``.
    """
    silences = [tf.zeros([1, 1, time, kernels[0].shape[1] // PHASES], kernels[0].dtype)]
    for block, weights in enumerate(_blocks(kernels, biases, rate)):
        silence = _convolve_block(silences[-1], weights)
        silences.append(silence * keep_mask(silence, rate, seeds[block]) if rate else silence)
    return silences


@_once
def _convolve_slice(
    x: Any,
    silences: list[Any],
    reaches: tuple[int, ...],
    kernels: list[Any],
    biases: list[Any],
    rate: float,
    seeds: Any,
) -> Any:
    """Run the blocks of one branch over recordings, and append the features of the padding.

    Args:
        x: ``(batch, 1, recorded, channel)``: the signals of the branch, up to the end of the
            longest recording.
        silences: from :func:`_convolve_silence` with the same kernels, biases, rate and seeds.
        reaches: of each block, in samples of its input.
        kernels: of each convolution, three per block, each :func:`widened`.
        biases: ``(filter,)`` of each convolution.
        rate: of the dropout after each block.
        seeds: ``(block, 2)`` int32, of that dropout.

    Returns:
        ``(batch, time / 2**blocks, filter)``.
    """
    batch = tf.shape(x)[0]
    for block, weights in enumerate(_blocks(kernels, biases, rate)):
        # Lengths are multiples of the fold of a convolution, if the end of the signal allows it.
        recorded, full = tf.shape(x)[2], silences[block].shape[2]
        touched = _whole_steps((recorded + reaches[block] + 1) // 2)
        touched = tf.minimum(touched, (full + 1) // 2)
        beyond = recorded + _whole_steps(2 * reaches[block] + 2 * PHASES + 3)
        beyond = silences[block][:, :, recorded:beyond]
        x = tf.concat([x, tf.repeat(beyond, batch, axis=0)], axis=2)
        x = _begin(_convolve_block(x, weights), touched)
        if rate:
            x *= keep_mask(x, rate, seeds[block])
    beyond = silences[-1][:, :, tf.shape(x)[2] :]
    return tf.concat([x, tf.repeat(beyond, batch, axis=0)], axis=2)[:, 0]


def _blocks(kernels: list[Any], biases: list[Any], rate: float) -> list[list[tuple[Any, Any]]]:
    """Return the three kernels and biases of each block, the last scaled for dropout.

    A LeakyReLU passes the factor 1 / (1 - rate) from the weights to its output.
    """
    weights = list(zip(kernels, biases, strict=True))
    if rate:
        weights[2::3] = [(kernel / (1 - rate), bias / (1 - rate)) for kernel, bias in weights[2::3]]
    return [weights[i : i + 3] for i in range(0, len(weights), 3)]


def _sliced(signal: Any) -> tuple[list[Any], list[Any], Any, Any]:
    """Sort recordings by length and cut them into slices of about equal numbers of samples.

    Args:
        signal: ``(batch, time, channel)``, zeros after the end of each recording.

    Returns:
        :data:`SLICES` arrays ``(rows, recorded, channel)``, each up to the end of its longest
        recording, and the number of recordings in each slice: a slice of a small batch may have
        none, and then has one row of zeros, since oneDNN computes wrong shapes from no rows.  Then
        two index arrays ``(batch,)``: from the rows of the slices to those of the batch, and the
        inverse.  If XLA compiles the whole step, which needs fixed shapes, there is one slice: the
        batch as it is.
    """
    # TensorFlow has no public function for this.
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        rows = tf.range(tf.shape(signal)[0])
        return [signal], [tf.shape(signal)[0]], rows, rows
    time = signal.shape[1]
    used = tf.reduce_any(signal != 0, axis=2)
    ends = tf.reduce_max(tf.where(used, tf.range(1, time + 1), 1), axis=1)
    order = tf.argsort(ends)
    back = tf.math.invert_permutation(order)
    signal, ends = _reordered(signal, order, back), tf.gather(ends, order)
    share = tf.cumsum(ends) * SLICES / tf.reduce_sum(ends)
    bounds = tf.searchsorted(share, tf.range(1, SLICES, dtype=share.dtype))
    bounds = [0, *tf.unstack(bounds), tf.shape(ends)[0]]
    slices, counts = [], []
    for start, end in itertools.pairwise(bounds):
        recorded = tf.maximum(tf.reduce_max(ends[start:end]), 1)  # no rows give the least int
        rows = signal[start:end, : tf.minimum(_whole_steps(recorded), time)]
        slices.append(tf.pad(rows, [[0, tf.cast(start == end, tf.int32)], [0, 0], [0, 0]]))
        counts.append(end - start)
    return slices, counts, order, back


def _whole_steps(samples: Any) -> Any:
    """Round up to a multiple of the samples in one step of a folded stride-2 convolution."""
    return -(-samples // (2 * PHASES)) * 2 * PHASES


def _convolve_block(x: Any, weights: list[tuple[Any, Any]]) -> Any:
    for kernel, bias in weights:
        x = _convolve(x, kernel, bias)
    return x


@keras.saving.register_keras_serializable("ecg_keras")
class BranchConvolutions(keras.layers.Layer):
    """The convolutional subnetwork of every branch (MLBF-Net, eq. 1 and Table I).

    Each block is two convolutions with stride 1 and one with stride 2, each followed by a
    LeakyReLU, and a dropout.

    Most of a batch is padding (three quarters of CPSC 2018 padded to 60 s), and the features of
    the padding do not depend on the recording; nor do those of one recording depend on the others.
    So the rows of a batch are sorted by length and cut into :data:`SLICES` slices of about equal
    numbers of samples.  The convolutions run over each slice only to the end of its longest
    recording, and over one all-zero signal of full length, from which the features of the padding
    are taken; then the rows are put back in their order.  A recording affects the output of a block
    up to ``reach`` samples after its end, and the last ``reach`` samples of a block's output are
    wrong because its input was cut.  Each block therefore gets ``2 * reach`` extra samples of the
    features of the all-zero signal.  Outputs and gradients are those of the full computation (the
    gradient of the signal only up to the end of the longest recording of its slice: the zeros after
    it are not an input).

    After the longest recording of each slice, dropout draws one mask for all recordings of the
    batch: each recording still gets independent masks of the right rate, but in this part shares
    them with the rest of the batch.

    Args:
        branches: number of branches; the input channels are assigned to them in order.
        filters: number of filters of every convolution.
        kernel_sizes: taps of the three convolutions of each block; the last must be even.
        dropout: fraction of the outputs of a block dropped in training.

    Raises:
        OptionError: if the last kernel of a block has an odd number of taps.

    Call arguments:
        signal: ``(batch, time, channel)``, millivolts; zeros after the end of each recording.

    Returns:
        f_CNN: a list with one ``(batch, ceil(time / 2**blocks), filters)`` per branch.
    """

    def __init__(
        self,
        branches: int,
        filters: int = 12,
        kernel_sizes: tuple[tuple[int, int, int], ...] = ((3, 3, 24),) * 4 + ((3, 3, 48),),
        dropout: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.branches = branches
        self.filters = filters
        self.kernel_sizes = tuple(tuple(sizes) for sizes in kernel_sizes)
        if any(last % 2 for *_, last in self.kernel_sizes):
            raise OptionError(
                "the last kernel of each block, which halves the time, must have an even number of"
                f" taps, not {', '.join(str(last) for *_, last in self.kernel_sizes)}."
            )
        self.dropout = dropout
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create one stack of kernels and one of biases per convolution."""
        assert input_shape[-1] is not None
        channels = input_shape[-1] // self.branches
        self.kernels, self.biases = [], []
        for block, sizes in enumerate(self.kernel_sizes, 1):
            for position, taps in enumerate(sizes, 1):
                self.kernels.append(
                    self.add_weight(
                        name=f"block_{block}_conv_{position}_kernel",
                        shape=(self.branches, taps, channels, self.filters),
                        initializer=stacked(keras.initializers.GlorotUniform, 1),
                    )
                )
                self.biases.append(
                    self.add_weight(
                        name=f"block_{block}_conv_{position}_bias",
                        shape=(self.branches, self.filters),
                        initializer="zeros",
                    )
                )
                channels = self.filters

    def call(self, signal: Any, training: bool = False) -> list[Any]:
        """Convolve every branch."""
        time, channels = signal.shape[1:]
        kernels = [
            tf.unstack(widened(tf.cast(kernel, self.compute_dtype), strides))
            for kernel, strides in zip(self.kernels, itertools.cycle((1, 1, 2)))
        ]
        biases = [tf.unstack(tf.cast(b, self.compute_dtype)) for b in self.biases]
        reaches = tuple(sum(taps // 2 for taps in sizes) for sizes in self.kernel_sizes)
        blocks = len(reaches)
        drops = bool(training and self.dropout)
        rate = self.dropout if drops else 0.0
        seed = self.seed_generator.next() if drops else tf.zeros([2], tf.int32)
        seeds = tf.random.split(tf.cast(seed, tf.int32), self.branches * (SLICES + 1) * blocks)
        seeds = tf.reshape(seeds, [self.branches, SLICES + 1, blocks, 2])
        shape = self.compute_output_shape((None, time, channels))[0]

        slices, counts, order, back = _sliced(signal)
        slices = [
            tf.split(tf.cast(x[:, None], self.compute_dtype), self.branches, axis=3) for x in slices
        ]
        features = []
        for branch in range(self.branches):
            weights = [k[branch] for k in kernels], [b[branch] for b in biases], rate
            silences = _convolve_silence(time, *weights, seeds[branch, -1])
            parts = [
                _convolve_slice(x[branch], silences, reaches, *weights, seeds[branch, i])
                for i, x in enumerate(slices)
            ]
            parts = [
                tf.slice(part, [0, 0, 0], [count, -1, -1])
                for part, count in zip(parts, counts, strict=True)
            ]
            joined = _reordered(tf.concat(parts, axis=0), back, order)
            features.append(tf.ensure_shape(joined, shape))
        return features

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> list[tuple[int | None, ...]]:
        """Return the shape of one feature map per branch."""
        batch, time, _ = input_shape
        assert time is not None
        for _ in self.kernel_sizes:
            time = -(-time // 2)
        return [(batch, time, self.filters)] * self.branches

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "branches": self.branches,
            "filters": self.filters,
            "kernel_sizes": self.kernel_sizes,
            "dropout": self.dropout,
        }


def _times(weight: Any, x: Any) -> Any:
    """Multiply ``(branch, in, out)`` weights by ``(branch, in, batch)`` columns."""
    return tf.matmul(weight, x, transpose_a=True)


def _scan(step: Callable[..., Any], state: Any, steps: int, reverse: bool) -> tuple[Any, Any]:
    """Run ``state, outputs = step(t, state)`` over time and stack the outputs in order of time."""
    outputs = step(tf.constant(0), state)[1]
    arrays = [tf.TensorArray(tf.float32, steps, element_shape=o.shape) for o in outputs]

    def body(count: Any, state: Any, arrays: Any) -> tuple[Any, Any, Any]:
        t = steps - 1 - count if reverse else count
        state, outputs = step(t, state)
        return count + 1, state, [a.write(t, o) for a, o in zip(arrays, outputs, strict=True)]

    _, state, arrays = tf.while_loop(
        lambda count, *_: count < steps,
        body,
        (tf.constant(0), state, arrays),
    )
    return state, [a.stack() for a in arrays]


def _gru_states(
    x: Any, kernel: Any, recurrent: Any, bias: Any, *, reverse: bool, keep: bool
) -> list[Any]:
    """Run one GRU per branch, side by side.

    Args:
        x: ``(time, branch, in, batch)``; with the batch last, every operation of a step uses
            contiguous vectors.
        kernel: ``(branch, in, 3 * unit)``: update gate, reset gate, candidate.
        recurrent: ``(branch, unit, 3 * unit)``.
        bias: ``(branch, 2, 3 * unit)``: of the input, and of the recurrence.
        reverse: run from the last time step to the first.
        keep: also return what the gradient needs.

    Returns:
        States ``(time, branch, unit, batch)``; with ``keep`` also update gate, reset gate,
        candidate and the candidate's recurrent part, of the same shape.
    """
    branches, units = recurrent.shape[:2]

    def step(t: Any, h: Any) -> tuple[Any, list[Any]]:
        from_input = _times(kernel, x[t]) + bias[:, 0, :, None]
        from_state = _times(recurrent, h) + bias[:, 1, :, None]
        update, reset = tf.split(tf.sigmoid((from_input + from_state)[:, : 2 * units]), 2, axis=1)
        recalled = from_state[:, 2 * units :]
        candidate = tf.tanh(from_input[:, 2 * units :] + reset * recalled)
        h = update * h + (1 - update) * candidate
        return h, [h, update, reset, candidate, recalled] if keep else [h]

    start = tf.zeros([branches, units, tf.shape(x)[3]])
    return _scan(step, start, x.shape[0], reverse)[1]


def _gru_gradients(
    dy: Any, x: Any, kept: list[Any], kernel: Any, recurrent: Any, *, reverse: bool
) -> tuple[Any, Any, Any, Any]:
    """Backpropagate through :func:`_gru_states`, accumulating the gradients of the weights.

    Args:
        dy: gradient of the states, ``(time, branch, unit, batch)``.
        x: as in the forward pass.
        kept: the result of the forward pass.
        kernel: as in the forward pass.
        recurrent: as in the forward pass.
        reverse: as in the forward pass.

    Returns:
        The gradients of ``x``, ``kernel``, ``recurrent`` and ``bias``.
    """
    states, updates, resets, candidates, recalls = kept
    steps, one_before = x.shape[0], 1 if reverse else -1
    start = tf.zeros_like(states[0])

    def step(t: Any, carried: Any) -> tuple[Any, list[Any]]:
        dh, d_kernel, d_recurrent, d_bias = carried
        before = t + one_before
        exists = (before >= 0) & (before < steps)
        h = tf.where(exists, states[tf.clip_by_value(before, 0, steps - 1)], start)
        update, reset, candidate, recalled = updates[t], resets[t], candidates[t], recalls[t]
        dh += dy[t]
        d_update = dh * (h - candidate) * update * (1 - update)
        d_candidate = dh * (1 - update) * (1 - candidate * candidate)
        d_reset = d_candidate * recalled * reset * (1 - reset)
        from_input = tf.concat([d_update, d_reset, d_candidate], axis=1)
        from_state = tf.concat([d_update, d_reset, d_candidate * reset], axis=1)
        d_kernel += tf.matmul(x[t], from_input, transpose_b=True)
        d_recurrent += tf.matmul(h, from_state, transpose_b=True)
        d_bias += tf.reduce_sum(tf.stack([from_input, from_state], axis=1), axis=3)
        dh = dh * update + tf.matmul(recurrent, from_state)
        return (dh, d_kernel, d_recurrent, d_bias), [tf.matmul(kernel, from_input)]

    branches, _, gates = recurrent.shape
    nothing = (
        start, tf.zeros_like(kernel), tf.zeros_like(recurrent), tf.zeros([branches, 2, gates])
    )  # fmt: skip
    (_, d_kernel, d_recurrent, d_bias), (dx,) = _scan(step, nothing, steps, not reverse)
    return dx, d_kernel, d_recurrent, d_bias


@cache
def _recurrence() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return :func:`_gru_states` and :func:`_gru_gradients` as graphs, compiled if XLA can.

    A step is some thirty operations on tensors of a few kilobytes.  The compiled loop takes a
    tenth of the time of TensorFlow's interpreter; the compiler keeps one version per shape.
    """
    states, gradients = (
        tf.function(f, jit_compile=True, autograph=False) for f in (_gru_states, _gru_gradients)
    )
    try:
        with tf.init_scope():
            one = [tf.zeros(shape) for shape in ([1] * 4, [1, 1, 3], [1, 1, 3], [1, 2, 3])]
            states(*one, reverse=False, keep=False)
    except tf.errors.OpError as error:
        reason = next(iter(error.message.splitlines()), "")
        print(
            "MLBF-Net's recurrence runs without XLA, more slowly, because XLA fails on this device:"
            f" {reason}",
            file=sys.stderr,
        )
        return tuple(tf.function(f, autograph=False) for f in (_gru_states, _gru_gradients))
    return states, gradients


def _gru(x: Any, *weights: Any, reverse: bool, training: bool) -> Any:
    """Run the GRUs of :func:`_gru_states` with a hand-written gradient.

    TensorFlow's own gradient of a loop stores every intermediate result of every step in lists,
    and took six times as long.  Outside training the gates are recomputed if a gradient is needed.
    """
    states, gradients = _recurrence()

    @tf.custom_gradient
    def run(x: Any, *weights: Any) -> tuple[Any, Callable[..., Any]]:
        # In eager mode, TensorFlow would look for its own gradient of the compiled loop.
        held = [tf.stop_gradient(value) for value in (x, *weights)]
        kept = states(*held, reverse=reverse, keep=training)

        def gradient(dy: Any) -> tuple[Any, Any, Any, Any]:
            gates = kept
            if not training:
                gates = states(*held, reverse=reverse, keep=True)
            return gradients(dy, x, gates, *weights[:2], reverse=reverse)

        return kept[0], gradient

    return run(x, *weights)


@keras.saving.register_keras_serializable("ecg_keras")
class BranchBiGRU(keras.layers.Layer):
    """The bidirectional GRU of every branch (MLBF-Net, eq. 2 and Fig. 2).

    The recurrences, two per branch, are independent of each other; those of one direction run as
    one loop over time with a batched matrix product.  The recurrence has its own bias vector
    (Keras' ``reset_after=True``), since Table VI of the paper counts 1,872 parameters.

    Args:
        units: of each direction.
        dropout: fraction of the outputs dropped in training.

    Call arguments:
        features: f_CNN: a list with one ``(batch, time, feature)`` per branch.

    Returns:
        f_BiGRU: ``(batch, time, branch, 2 * units)``, float32: forward, then backward.
    """

    def __init__(self, units: int = 12, dropout: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.dropout = dropout
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: list[tuple[int | None, ...]]) -> None:
        """Create the weights of both directions of every branch."""
        branches, width, gates = len(input_shape), input_shape[0][-1], 3 * self.units
        self.kernel = self.add_weight(
            name="kernel",
            shape=(2, branches, width, gates),
            initializer=stacked(keras.initializers.GlorotUniform, 2),
        )
        self.recurrent_kernel = self.add_weight(
            name="recurrent_kernel",
            shape=(2, branches, self.units, gates),
            initializer=stacked(keras.initializers.OrthogonalInitializer, 2),
        )
        self.bias = self.add_weight(name="bias", shape=(2, branches, 2, gates), initializer="zeros")

    def call(self, features: list[Any], training: bool = False) -> Any:
        """Run every branch in both directions."""
        # The recurrence stays in float32: its steps are too small to gain from half precision,
        # and rounding errors would accumulate over 469 of them.
        x = tf.transpose(tf.cast(tf.stack(features), tf.float32), [2, 0, 3, 1])
        directions = []
        for direction, reverse in enumerate((False, True)):
            weights = [
                tf.cast(w[direction], tf.float32)
                for w in (self.kernel, self.recurrent_kernel, self.bias)
            ]
            directions.append(_gru(x, *weights, reverse=reverse, training=bool(training)))
        y = tf.concat(directions, axis=2)  # (time, branch, 2 * units, batch)
        y = tf.transpose(y, [3, 0, 1, 2])
        if training and self.dropout:
            y *= keep_mask(y, self.dropout, self.seed_generator.next()) / (1 - self.dropout)
        return y

    def compute_output_spec(self, features: list[Any], training: bool = False) -> Any:
        """Return the shape of both directions of every branch."""
        batch, time, _ = features[0].shape
        shape = (batch, time, len(features), 2 * self.units)
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "units": self.units, "dropout": self.dropout}


@keras.saving.register_keras_serializable("ecg_keras")
class BranchAttention(keras.layers.Layer):
    """The attention module (MLBF-Net, eq. 5 to 7), one per branch.

    ``u_t = tanh(f_t W + b)``, ``alpha = softmax over t (u_t . u_w)``, output
    ``sum over t of alpha_t f_t``.  The fused features form one branch.

    Call arguments:
        features: ``(batch, time, branch, feature)``.

    Returns:
        f_att ``(batch, branch, feature)``, and the weights alpha ``(batch, time, branch)``.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create W, b and u_w of every branch."""
        _, _, branches, width = input_shape
        self.kernel = self.add_weight(
            name="kernel",
            shape=(branches, width, width),
            initializer=stacked(keras.initializers.GlorotUniform, 1),
        )
        self.bias = self.add_weight(name="bias", shape=(branches, width), initializer="zeros")
        self.context = self.add_weight(
            name="context",
            shape=(branches, width, 1),
            initializer=stacked(keras.initializers.GlorotUniform, 1),
        )

    def call(self, features: Any) -> tuple[Any, Any]:
        """Weigh the time steps and sum them."""
        # Branch first: one transposition, and every product and sum uses contiguous memory.
        f = ops.transpose(features, [2, 0, 1, 3])  # (branch, batch, time, feature)
        u = ops.tanh(ops.matmul(f, self.kernel[:, None]) + self.bias[:, None, None])
        scores = ops.sum(u * self.context[:, None, None, :, 0], axis=-1)
        alpha = ops.softmax(ops.cast(scores, "float32"), axis=-1)  # (branch, batch, time)
        attended = ops.matmul(ops.cast(alpha, f.dtype)[:, :, None], f)[:, :, 0]
        attended, alpha = ops.transpose(attended, [1, 0, 2]), ops.transpose(alpha, [1, 2, 0])
        return attended, alpha

    def compute_output_spec(self, features: Any) -> Any:
        """Return the shapes of the features, and of the float32 weights per branch and step."""
        batch, time, branches, width = features.shape
        return (
            keras.KerasTensor((batch, branches, width), dtype=self.compute_dtype),
            keras.KerasTensor((batch, time, branches), dtype="float32"),
        )


@keras.saving.register_keras_serializable("ecg_keras")
class BranchSoftmax(keras.layers.Layer):
    """The fully connected layer and softmax at the end of every branch (MLBF-Net, Table I).

    Args:
        num_classes: number of classes.
        activation: ``"softmax"``, or ``"sigmoid"`` for records with several labels, which the
            paper does not have.

    Call arguments:
        features: ``(batch, branch, feature)``.

    Returns:
        Probabilities ``(batch, branch, num_classes)``, float32.
    """

    def __init__(self, num_classes: int, activation: str = "softmax", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.activation = activation

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights of every branch."""
        _, branches, width = input_shape
        self.kernel = self.add_weight(
            name="kernel",
            shape=(branches, width, self.num_classes),
            initializer=stacked(keras.initializers.GlorotUniform, 1),
        )
        self.bias = self.add_weight(
            name="bias", shape=(branches, self.num_classes), initializer="zeros"
        )

    def call(self, features: Any) -> Any:
        """Classify every branch."""
        logits = ops.einsum("blf,lfc->blc", features, self.kernel) + self.bias
        logits = ops.cast(logits, "float32")
        return ops.sigmoid(logits) if self.activation == "sigmoid" else ops.softmax(logits, axis=-1)

    def compute_output_spec(self, features: Any) -> Any:
        """Return the shape of the float32 probabilities per branch and class."""
        batch, branches, _ = features.shape
        return keras.KerasTensor((batch, branches, self.num_classes), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "activation": self.activation,
        }
