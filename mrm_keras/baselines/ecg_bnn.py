"""The ultra-light binary network (Pu 2023, arXiv 2304.01568)."""

from typing import Any

from data_prep.errors import OptionError
from ecg_keras.model.backend import keras, tf
from ecg_keras.model.contract import Contract
from mrm_keras.baselines.parts import baseline, batch_norm
from mrm_keras.layers import Shape, torch_uniform

layers = keras.layers


@tf.custom_gradient
def binarise(x: Any) -> Any:
    """Take the sign of x, +1 for 0; gradients pass where |x| <= 1 (the straight-through estimator).

    Args:
        x: any tensor of real numbers.

    Returns:
        A tensor of -1 and 1, and the function that returns its gradient.
    """

    def gradient(upstream: Any) -> Any:
        return tf.where(tf.abs(x) <= 1, upstream, tf.zeros_like(upstream))

    return tf.where(x >= 0, tf.ones_like(x), -tf.ones_like(x)), gradient


@keras.saving.register_keras_serializable("ecg_keras")
class BinaryConvolution(keras.layers.Layer):
    """Convolution that uses only the signs of its weights and, optionally, of its input (ECG_BNN).

    The weights are stored and trained in full precision, with gradients from the straight-through
    estimator.  The signal is padded with ones, since a binary signal has no zeros.

    Args:
        filters: C', the number of output channels.
        kernel_size: k, in samples.
        strides: in samples.
        padding: number of ones before and after the signal.
        binary_input: whether the input is also binarised.

    Call arguments:
        x: ``(batch, time, C)``.

    Returns:
        ``(batch, (time + 2 padding - k) // strides + 1, C')``.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        padding: int = 0,
        binary_input: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.binary_input = binary_input

    def build(self, input_shape: Shape) -> None:
        """Create the weights whose signs are used."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, input_shape[-1], self.filters),
            initializer=torch_uniform(),
            autocast=False,
        )

    def call(self, x: Any) -> Any:
        """Binarise, pad, convolve."""
        if self.binary_input:
            x = binarise(x)
        x = tf.pad(x, ((0, 0), (self.padding,) * 2, (0, 0)), constant_values=1)
        kernel = tf.cast(binarise(tf.convert_to_tensor(self.kernel)), x.dtype)
        return tf.nn.conv1d(x, kernel, self.strides, "VALID")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """``(batch, time', C')``."""
        batch, time, _ = input_shape
        if time is not None:
            time = (time + 2 * self.padding - self.kernel_size) // self.strides + 1
        return (batch, time, self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "binary_input": self.binary_input,
        }


@baseline("ECG_BNN")
def build_ecg_bnn(x: Any, contract: Contract) -> Any:
    """Build the ultra-light binary network (Pu 2023, arXiv 2304.01568).

    Six blocks of binary convolution 7, max-pool, PReLU and batch norm; the last has one channel per
    class, whose sum over time is the logit of the class.  The first block has binary weights but
    takes the signal unbinarised; in all others weights and input are binary.  The paper classifies
    one lead of 10 s at 360 Hz; the MRM-Net paper does not say how it used twelve leads at 100 Hz;
    here the first block simply takes all leads.  The paper's gradient estimator changes its shape
    during training; we use the plain straight-through estimator instead.
    """
    if x.shape[1] < 300:
        raise OptionError(
            f"ECG_BNN halves the signal seven times and needs 300 samples at least, not"
            f" {x.shape[1]}; give it more."
        )
    # Time after each block: 248, 123, 61, 30, 14, 6.
    widths = (8, 16, 32, 32, 64, len(contract.class_names))
    for i, filters in enumerate(widths, start=1):
        first = i == 1
        x = BinaryConvolution(
            filters, 7, strides=2 if first else 1, padding=5, binary_input=not first,
            name=f"block_{i}_conv",
        )(x)  # fmt: skip
        x = layers.MaxPooling1D(7, 2, name=f"block_{i}_pool")(x)
        x = layers.PReLU(
            keras.initializers.Constant(0.25), shared_axes=[1, 2], name=f"block_{i}_prelu"
        )(x)
        x = batch_norm(x, name=f"block_{i}")
    x = layers.Dropout(0.5, dtype="float32", name="head_dropout")(x)
    mean = layers.GlobalAveragePooling1D(dtype="float32", name="head_mean")(x)
    return layers.Rescaling(x.shape[1], dtype="float32", name="head_sum")(mean)
