"""The fully convolutional network of Wang et al. 2017 (arXiv 1611.06455)."""

from data_prep.backend import keras
from data_prep.contract import Contract
from mrm_keras.baselines.parts import (
    answering,
    batch_norm,
    concat_pool_head,
    conv_norm,
    convolution,
    signal_input,
)

layers = keras.layers


def build_fcn_wang(
    *,
    num_classes: int = 9,
    input_length: int = 1000,
    num_leads: int = 12,
    contract: Contract | None = None,
) -> keras.Model:
    """Build the fully convolutional network of Wang et al. 2017 (arXiv 1611.06455, Fig. 1b).

    Its paper ends in a global average pool and a softmax for one-label tasks.  The head here is
    that of the PTB-XL benchmark (Strodthoff 2021, arXiv 2004.13701), which named this network
    ``fcn_wang``; so is the padding of the kernel of 8, three zeros on either side, which the
    paper leaves open and which makes the signal one sample shorter.

    Args:
        num_classes: number of classes, each with a probability of its own.
        input_length: of the signal, in samples.
        num_leads: number of leads.
        contract: what the model file is to promise; see :func:`signal_input`.

    Returns:
        The model, uncompiled.

    Raises:
        OptionError: the contract contradicts the other arguments.
    """
    signal, x, _ = signal_input(
        "fcn_wang",
        num_classes=num_classes,
        input_length=input_length,
        num_leads=num_leads,
        contract=contract,
    )  # (1000, 12)
    x = layers.ZeroPadding1D(3, name="pad_1")(x)
    x = convolution(x, 128, 8, name="conv_1")  # (999, 128)
    x = batch_norm(x, name="norm_1")
    x = layers.ReLU(name="relu_1")(x)
    x = conv_norm(x, 256, 5, name="conv_2")  # (999, 256)
    x = conv_norm(x, 128, 3, name="conv_3")  # (999, 128)
    return answering(signal, concat_pool_head(x, num_classes), "fcn_wang")
