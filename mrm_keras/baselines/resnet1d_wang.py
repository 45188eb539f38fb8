"""The residual network of the PTB-XL benchmark, after Wang et al. 2017."""

from data_prep.backend import keras
from data_prep.contract import Contract
from mrm_keras.baselines.parts import answering, concat_pool_head, conv_norm, signal_input

layers = keras.layers


def build_resnet1d_wang(
    *,
    num_classes: int = 9,
    input_length: int = 1000,
    num_leads: int = 12,
    contract: Contract | None = None,
) -> keras.Model:
    """Build the residual network of the PTB-XL benchmark after Wang et al. 2017 (Fig. 1c).

    Wang's three residual blocks have three convolutions each (8, 5, 3) and 64, 128, 128 filters;
    the network that the benchmark (Strodthoff 2021) and all since call ``resnet1d_wang`` has a
    stem of kernel 7, three blocks of two convolutions (5, 3) with 128 filters throughout, and
    halves the time in the second and third.  That one is built, as the PTB-XL figures are its.

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
        "resnet1d_wang",
        num_classes=num_classes,
        input_length=input_length,
        num_leads=num_leads,
        contract=contract,
    )  # (1000, 12)
    x = conv_norm(x, 128, 7, name="stem")  # (1000, 128)
    for i, strides in enumerate((1, 2, 2), start=1):  # (1000, 128), (500, 128), (250, 128)
        y = conv_norm(x, 128, 5, strides=strides, name=f"block_{i}_conv_1")
        y = conv_norm(y, 128, 3, relu=False, name=f"block_{i}_conv_2")
        if strides > 1:
            x = conv_norm(x, 128, 1, strides=strides, relu=False, name=f"block_{i}_shortcut")
        x = layers.Add(name=f"block_{i}_add")([x, y])
        x = layers.ReLU(name=f"block_{i}")(x)
    return answering(signal, concat_pool_head(x, num_classes), "resnet1d_wang")
