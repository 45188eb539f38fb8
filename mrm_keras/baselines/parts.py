"""What the networks of this folder share: how they begin and end, and PyTorch's layers."""

from typing import Any

from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract, SignalContract
from mrm_keras.layers import BATCH_NORM_MOMENTUM, EPSILON, ConvBlock, torch_uniform
from mrm_keras.model import default_contract

layers = keras.layers


def signal_input(
    network: str,
    *,
    num_classes: int,
    input_length: int,
    num_leads: int,
    contract: Contract | None,
) -> tuple[Any, Any, Contract]:
    """Open a network: its input, the standardised signal, and the contract.

    Args:
        network: its name.
        num_classes: as the builder was asked.
        input_length: of the signal, in samples.
        num_leads: of the signal.
        contract: the caller's; None for one of task ``cpsc2018`` at 100 Hz, unstandardised.

    Returns:
        The input ``signal``, ``(batch, input_length, num_leads)`` after the contract layer, and
        the contract.

    Raises:
        OptionError: if the contract promises other sizes.
    """
    contract = contract or default_contract(
        network=network, num_classes=num_classes, input_length=input_length, num_leads=num_leads
    )
    contract.require_sizes(num_classes=num_classes, input_length=input_length, num_leads=num_leads)
    signal = keras.Input((input_length, num_leads), name="signal")
    return signal, SignalContract(contract, name="contract")(signal), contract


def answering(signal: Any, logits: Any, name: str) -> keras.Model:
    """Close a network: probabilities from logits, float32 whatever the policy."""
    diagnosis = layers.Activation("sigmoid", dtype="float32", name="diagnosis")(logits)
    return keras.Model(signal, {"diagnosis": diagnosis}, name=name)


def convolution(x: Any, filters: int, kernel: int, *, name: str, **options: Any) -> Any:
    """Convolve with stride 1 and no padding but what ``options`` say, started as in PyTorch."""
    options = {"use_bias": False, **options}
    conv = layers.Conv1D(filters, kernel, kernel_initializer=torch_uniform(), name=name, **options)
    return conv(x)


def dense(x: Any, units: int, *, name: str, **options: Any) -> Any:
    """A fully connected layer in float32, started as in PyTorch."""
    return layers.Dense(
        units, kernel_initializer=torch_uniform(), dtype="float32", name=name, **options
    )(x)


def batch_norm(x: Any, *, name: str, **options: Any) -> Any:
    """Batch norm with PyTorch's momentum and epsilon, for use without a convolution before it."""
    return layers.BatchNormalization(
        momentum=BATCH_NORM_MOMENTUM, epsilon=EPSILON, name=name, **options
    )(x)


def conv_norm(
    x: Any, filters: int, kernel: int, *, name: str, strides: int = 1, relu: bool = True
) -> Any:
    """Convolution of odd kernel, batch norm, and ReLU if wanted."""
    return ConvBlock(filters, (kernel,), strides=strides, relu=relu, name=name)(x)


def mean_pool_head(x: Any, num_classes: int) -> Any:
    """Mean over time and one linear layer: logits ``(batch, num_classes)``, float32."""
    x = layers.GlobalAveragePooling1D(dtype="float32", name="head_pool")(x)  # (C)
    return dense(x, num_classes, name="head_linear")


def concat_pool_head(x: Any, num_classes: int) -> Any:
    """The head of the PTB-XL benchmark (Strodthoff 2021, section II-D).

    Maximum and mean over time side by side, a hidden layer of 128, and batch norm and dropout
    (0.25, then 0.5) before either layer.

    Args:
        x: ``(batch, time, C)``.
        num_classes: number of classes.

    Returns:
        Logits ``(batch, num_classes)``, float32.
    """
    maximum = layers.GlobalMaxPooling1D(dtype="float32", name="head_max")(x)
    mean = layers.GlobalAveragePooling1D(dtype="float32", name="head_mean")(x)
    x = layers.Concatenate(dtype="float32", name="head_pool")([maximum, mean])  # (2C)
    x = batch_norm(x, dtype="float32", name="head_norm_1")
    x = layers.Dropout(0.25, dtype="float32", name="head_dropout_1")(x)
    x = dense(x, 128, activation="relu", name="head_hidden")  # (128)
    x = batch_norm(x, dtype="float32", name="head_norm_2")
    x = layers.Dropout(0.5, dtype="float32", name="head_dropout_2")(x)
    return dense(x, num_classes, name="head_linear")
