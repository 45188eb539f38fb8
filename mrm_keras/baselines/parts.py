"""Shared parts of the baselines: input, output, and layers as in PyTorch."""

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
    """Create the input of a network, the standardised signal, and the contract.

    Args:
        network: its name.
        num_classes: number of classes.
        input_length: of the signal, in samples.
        num_leads: of the signal.
        contract: description of input and output in the model file; None for task ``cpsc2018``
            at 100 Hz, unstandardised.

    Returns:
        The input ``signal``, ``(batch, input_length, num_leads)`` after the contract layer, and
        the contract.

    Raises:
        OptionError: if the contract has other sizes.
    """
    contract = contract or default_contract(
        network=network, num_classes=num_classes, input_length=input_length, num_leads=num_leads
    )
    contract.require_sizes(num_classes=num_classes, input_length=input_length, num_leads=num_leads)
    signal = keras.Input((input_length, num_leads), name="signal")
    return signal, SignalContract(contract, name="contract")(signal), contract


def answering(signal: Any, logits: Any, name: str) -> keras.Model:
    """Complete a network: probabilities from logits, float32 under any policy."""
    diagnosis = layers.Activation("sigmoid", dtype="float32", name="diagnosis")(logits)
    return keras.Model(signal, {"diagnosis": diagnosis}, name=name)


def convolution(x: Any, filters: int, kernel: int, *, name: str, **options: Any) -> Any:
    """Convolve, by default with stride 1 and no padding; initialised as in PyTorch."""
    options = {"use_bias": False, **options}
    conv = layers.Conv1D(filters, kernel, kernel_initializer=torch_uniform(), name=name, **options)
    return conv(x)


def dense(x: Any, units: int, *, name: str, **options: Any) -> Any:
    """A fully connected layer in float32, initialised as in PyTorch."""
    return layers.Dense(
        units, kernel_initializer=torch_uniform(), dtype="float32", name=name, **options
    )(x)


def batch_norm(x: Any, *, name: str, **options: Any) -> Any:
    """Batch norm with PyTorch's momentum and epsilon, without a preceding convolution."""
    return layers.BatchNormalization(
        momentum=BATCH_NORM_MOMENTUM, epsilon=EPSILON, name=name, **options
    )(x)


def conv_norm(
    x: Any, filters: int, kernel: int, *, name: str, strides: int = 1, relu: bool = True
) -> Any:
    """Convolution with an odd kernel, batch norm, and optionally ReLU."""
    return ConvBlock(filters, (kernel,), strides=strides, relu=relu, name=name)(x)


def mean_pool_head(x: Any, num_classes: int) -> Any:
    """Mean over time and one linear layer: logits ``(batch, num_classes)``, float32."""
    x = layers.GlobalAveragePooling1D(dtype="float32", name="head_pool")(x)  # (C)
    return dense(x, num_classes, name="head_linear")


def concat_pool_head(x: Any, num_classes: int) -> Any:
    """The head of the PTB-XL benchmark (Strodthoff 2021, section II-D).

    Maximum and mean over time, concatenated; a hidden layer of 128; and batch norm and dropout
    (0.25, then 0.5) before each of the two layers.

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
