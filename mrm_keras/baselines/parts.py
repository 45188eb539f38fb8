"""Shared parts of the baselines: the whole model, its heads, and layers as in PyTorch."""

from collections.abc import Callable
from typing import Any, Protocol

from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract, SignalContract
from mrm_keras.layers import BATCH_NORM_MOMENTUM, EPSILON, ConvBlock, torch_uniform
from mrm_keras.model import default_contract

layers = keras.layers


class Builder(Protocol):
    """Builds a baseline with the arguments of :func:`mrm_keras.model.build_model`."""

    def __call__(
        self,
        *,
        num_classes: int = 9,
        input_length: int = 1000,
        num_leads: int = 12,
        contract: Contract | None = None,
    ) -> keras.Model:
        """Return the model, uncompiled.

        Raises:
            OptionError: if the contract has other sizes, or the network cannot take such a signal.
        """


def baseline(network: str) -> Callable[[Callable[[Any, Contract], Any]], Builder]:
    """Make a function that builds a network's layers build the whole model of that name.

    Args:
        network: name of the network in the contract.

    Returns:
        A decorator for a function named ``build_`` and the model's name, from the standardised
        signal ``(batch, time, lead)`` and the contract to the logits ``(batch, class)``.
    """

    def complete(logits: Callable[[Any, Contract], Any]) -> Builder:
        def build(
            *,
            num_classes: int = 9,
            input_length: int = 1000,
            num_leads: int = 12,
            contract: Contract | None = None,
        ) -> keras.Model:
            sizes = {
                "num_classes": num_classes,
                "input_length": input_length,
                "num_leads": num_leads,
            }
            contract = contract or default_contract(network=network, **sizes)
            contract.require_sizes(**sizes)
            signal = keras.Input((input_length, num_leads), name="signal")
            out = logits(SignalContract(contract, name="contract")(signal), contract)
            # Probabilities are float32 under any policy.
            diagnosis = layers.Activation("sigmoid", dtype="float32", name="diagnosis")(out)
            name = logits.__name__.removeprefix("build_")
            return keras.Model(signal, {"diagnosis": diagnosis}, name=name)

        build.__name__, build.__doc__ = logits.__name__, logits.__doc__
        return build

    return complete


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


def linear_head(x: Any, contract: Contract) -> Any:
    """One linear layer: logits ``(batch, class)``, float32."""
    return dense(x, len(contract.class_names), name="head_linear")


def mean_pool_head(x: Any, contract: Contract) -> Any:
    """Mean over time and one linear layer: logits ``(batch, class)``, float32."""
    return linear_head(
        layers.GlobalAveragePooling1D(dtype="float32", name="head_pool")(x), contract
    )


def concat_pool_head(x: Any, contract: Contract) -> Any:
    """The head of the PTB-XL benchmark (Strodthoff 2021, section II-D).

    Maximum and mean over time, concatenated; a hidden layer of 128; and batch norm and dropout
    (0.25, then 0.5) before each of the two layers.

    Args:
        x: ``(batch, time, C)``.
        contract: with the classes.

    Returns:
        Logits ``(batch, class)``, float32.
    """
    maximum = layers.GlobalMaxPooling1D(dtype="float32", name="head_max")(x)
    mean = layers.GlobalAveragePooling1D(dtype="float32", name="head_mean")(x)
    x = layers.Concatenate(dtype="float32", name="head_pool")([maximum, mean])  # (2C)
    x = batch_norm(x, dtype="float32", name="head_norm_1")
    x = layers.Dropout(0.25, dtype="float32", name="head_dropout_1")(x)
    x = dense(x, 128, activation="relu", name="head_hidden")  # (128)
    x = batch_norm(x, dtype="float32", name="head_norm_2")
    x = layers.Dropout(0.5, dtype="float32", name="head_dropout_2")(x)
    return linear_head(x, contract)
