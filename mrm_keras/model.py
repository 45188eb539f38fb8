"""MRM-Net: two resolutions that learn from each other (arXiv 2406.16928)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import OptionError
from data_prep.signals import fit_standardisation, prepare
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract, SignalContract, plain_contract
from mrm_keras.layers import EPSILON, AttentionFusion, BaseBlock, ConvBlock, MutualLearning
from mrm_keras.layers import torch_uniform as uniform

if TYPE_CHECKING:
    import numpy as np

    from data_prep.store import Store
    from ecg_keras.model.model_files import ECGModel

NETWORK = "MRM-Net"
SAMPLING_RATE = 100.0


def fitted_contract(
    store: "Store", train: "np.ndarray", *, network: str = "MRM-Net", task: str, input_length: int
) -> Contract:
    """Return the contract of a network to be trained, standardised by its training records.

    Mean and standard deviation are computed after cutting or stretching the recordings to the
    input length.

    Args:
        store: of all records.
        train: indices of the training records.
        network: name of the network.
        task: a task of the store.
        input_length: in samples at 100 Hz; shorter recordings are stretched to it.

    Raises:
        RecordError: if the training records have no samples, or all are equal.
    """
    mean, std = fit_standardisation(
        prepare(
            store.signal(i),
            fs=store.fs,
            target_fs=SAMPLING_RATE,
            length=input_length,
            fit="stretch",
        )
        for i in train
    )
    return Contract(
        network=network,
        task=task,
        class_names=store.class_names(task),
        sampling_rate=SAMPLING_RATE,
        input_length=input_length,
        fit="stretch",
        single_label=False,
        mean=mean,
        std=std,
    )


def default_contract(
    *, network: str = NETWORK, num_classes: int, input_length: int, num_leads: int
) -> Contract:
    """Return the contract of a network built without one, at 100 Hz.

    See :func:`ecg_keras.model.contract.plain_contract`.
    """
    return plain_contract(
        network=network,
        sampling_rate=SAMPLING_RATE,
        fit="stretch",
        single_label=False,
        num_classes=num_classes,
        input_length=input_length,
        num_leads=num_leads,
    )


def build_model(
    *,
    num_classes: int = 9,
    input_length: int = 1000,
    num_leads: int = 12,
    low_channels: int = 128,
    high_channels: int = 256,
    alpha: float = 0.01,
    beta: float = 0.01,
    gamma: float = 0.1,
    temperature: float = 4.0,
    flatten: Literal["channel", "time"] = "channel",
    fusion: Literal["mutual", "add", "concat", "low", "high"] = "mutual",
    dropout: float = 0.2,
    contract: Contract | None = None,
) -> keras.Model:
    """Build MRM-Net as in the paper (MRM-Net, Fig. 1).

    Args:
        num_classes: number of classes, each with its own probability.
        input_length: of the signal, in samples.
        num_leads: number of leads.
        low_channels: C, channels of the low branch. The trunk has C/4, C/2, C and C: for the
            paper's 128 this is Table I, for other widths (Table VII) the authors' published code.
        high_channels: channels of the high branch, 2C under ``fusion="mutual"``.
        alpha: weight of the mutual loss between Z1 and Z2 (eq. 7).
        beta: weight of the mutual loss between Z3 and Z4.
        gamma: weight of the mutual loss between the outputs of both branches.
        temperature: T of the mutual losses.
        flatten: order in which the mutual losses flatten features; see :class:`MutualLearning`.
        fusion: how both branches are combined. ``"mutual"`` is MRM-Net. ``"add"`` and
            ``"concat"`` (Table V) bring Z3 to the size of Z4 by a convolution of kernel 3 and
            stride 2 with batch norm and ReLU, and add both, or concatenate them and reduce them
            by a BaseBlock, before a single head (the paper does not say which features it fused).
            ``"low"`` and ``"high"`` (Table VI) are one branch alone.
        dropout: rate of the dropout in the multi-scale fusion blocks.
        contract: description of input and output in the model file; its classes, length and
            leads must agree with the other arguments. By default
            :func:`default_contract`.

    Returns:
        A model from ``signal`` ``(batch, input_length, num_leads)`` in millivolts to a dict of
        float32 probabilities ``(batch, num_classes)``: with ``"mutual"`` these are ``diagnosis``
        (the mean of the two others), ``low`` and ``high``, otherwise only ``diagnosis``.

    Raises:
        OptionError: if the contract contradicts the other arguments, the fusion or flattening is
            unknown, or the features of the two branches differ in size although the fusion needs
            equal sizes.
    """
    contract = contract or default_contract(
        num_classes=num_classes, input_length=input_length, num_leads=num_leads
    )
    contract.require_sizes(num_classes=num_classes, input_length=input_length, num_leads=num_leads)
    # Shapes in the comments are for the default arguments.
    signal = keras.Input((input_length, num_leads), name="signal")
    x = SignalContract(contract, name="contract")(signal)  # (1000, 12)
    x = trunk(x, low_channels)  # (1004, 128)

    if fusion in ("low", "high"):
        channels, strides = (low_channels, 1) if fusion == "low" else (high_channels, 2)
        z = multi_scale_fusion(x, channels, strides=strides, dropout=dropout, name=fusion)
        z = attention_fusion(z, name=fusion)
        answers = {"diagnosis": probabilities(logits(z, num_classes, "head"), "diagnosis")}
        return keras.Model(signal, answers, name="mrm_net")

    z1 = multi_scale_fusion(x, low_channels, strides=1, dropout=dropout, name="low")  # (502, 128)
    z2 = multi_scale_fusion(x, high_channels, strides=2, dropout=dropout, name="high")  # (251, 256)
    if z1.shape[1] // 2 != z2.shape[1] or (
        fusion == "mutual" and z1.shape[1] * z1.shape[2] != z2.shape[1] * z2.shape[2]
    ):
        raise OptionError(
            f"the two branches' features, {z1.shape[1:]} and {z2.shape[1:]}, must be of equal size"
            " to be compared; take an input length that is a multiple of 4 and twice as many high"
            " channels as low ones."
        )
    if fusion == "mutual":
        z1, z2 = MutualLearning(alpha, temperature, flatten, name="mutual_z1_z2")([z1, z2])
    z3 = attention_fusion(z1, name="low")  # (502, 128)
    z4 = attention_fusion(z2, name="high")  # (251, 256)

    if fusion == "mutual":
        z3, z4 = MutualLearning(beta, temperature, flatten, name="mutual_z3_z4")([z3, z4])
        out1 = logits(z3, num_classes, "low_head")  # (9)
        out2 = logits(z4, num_classes, "high_head")  # (9)
        out1, out2 = MutualLearning(
            gamma, temperature, dtype="float32", name="mutual_out1_out2"
        )([out1, out2])  # fmt: skip
        low, high = probabilities(out1, "low"), probabilities(out2, "high")
        diagnosis = keras.layers.Average(dtype="float32", name="diagnosis")([low, high])
        answers = {"diagnosis": diagnosis, "low": low, "high": high}
        return keras.Model(signal, answers, name="mrm_net")

    up = ConvBlock(high_channels, (3,), strides=2, name="low_to_high")(z3)  # (251, 256)
    if fusion == "add":
        z = keras.layers.Add(name="fused")([up, z4])  # (251, 256)
    elif fusion == "concat":
        z = keras.layers.Concatenate(name="concatenated")([up, z4])  # (251, 512)
        z = BaseBlock(high_channels, name="fused")(z)  # (251, 256)
    else:
        raise OptionError(
            f"there is no fusion {fusion!r}; choose mutual, add, concat, low or high."
        )
    answers = {"diagnosis": probabilities(logits(z, num_classes, "head"), "diagnosis")}
    return keras.Model(signal, answers, name="mrm_net")


def trunk(x: Any, channels: int) -> Any:
    """Four ConvBlock1, each lengthening the signal by one sample (MRM-Net, Table I)."""
    widths = (max(1, channels // 4), max(1, channels // 2), channels, channels)
    for i, (kernel, filters) in enumerate(zip((11, 7, 5, 3), widths, strict=True), start=1):
        x = ConvBlock(filters, (kernel,), pool="overlap", name=f"trunk_{i}")(x)
    return x


def multi_scale_fusion(x: Any, channels: int, *, strides: int, dropout: float, name: str) -> Any:
    """The average over four kernel sizes plus a parallel ConvBlock2 (MRM-Net, Fig. 2)."""
    scales = ConvBlock(
        channels, (3, 13, 23, 33), strides=strides, pool="halve", name=f"{name}_multi_scale"
    )(x)
    scales = keras.layers.Dropout(dropout, name=f"{name}_dropout")(scales)
    parallel = ConvBlock(channels, (3,), strides=strides, pool="halve", name=f"{name}_conv_block")
    return keras.layers.Add(name=f"{name}_z")([scales, parallel(x)])


def attention_fusion(z: Any, *, name: str) -> Any:
    """Three BaseBlocks, both attentions, and a BaseBlock to the channels of z (Fig. 3a)."""
    channels = z.shape[-1]
    for i in (1, 2, 3):
        z = BaseBlock(channels, name=f"{name}_block_{i}")(z)
    z = AttentionFusion(name=f"{name}_attention")(z)  # (time, 2 channels)
    return BaseBlock(channels, name=f"{name}_fusion")(z)


def logits(z: Any, num_classes: int, name: str) -> Any:
    """Linear(LN(AvgPool(z))) (MRM-Net, section III-C), float32 under any policy."""
    z = keras.layers.GlobalAveragePooling1D(dtype="float32", name=f"{name}_pool")(z)
    z = keras.layers.LayerNormalization(epsilon=EPSILON, dtype="float32", name=f"{name}_norm")(z)
    return keras.layers.Dense(
        num_classes, kernel_initializer=uniform(), dtype="float32", name=f"{name}_linear"
    )(z)


def probabilities(out: Any, name: str) -> Any:
    """One probability per class from its logit, float32 under any policy."""
    return keras.layers.Activation("sigmoid", dtype="float32", name=name)(out)


def compile_model(
    model: keras.Model, *, learning_rate: float = 1e-3, jit_compile: bool = False
) -> keras.Model:
    """Compile for training: Adam, and binary cross-entropy on the output of each branch (eq. 4).

    ``diagnosis`` has a loss only if it is the only output; the mutual terms of eq. 7 are added by
    the model itself, in training only.  Targets are a dict of one 0/1 array ``(batch,
    num_classes)`` for each of the model's heads, including ``diagnosis``.

    Args:
        model: from :func:`build_model`.
        learning_rate: of Adam.
        jit_compile: whether XLA compiles the steps.

    Returns:
        The same model.
    """
    heads = [head for head in model.output_names if head != "diagnosis"] or ["diagnosis"]
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss={head: keras.losses.BinaryCrossentropy() for head in heads},
        jit_compile=jit_compile,
    )
    # Otherwise the first step is traced an extra time just to create these variables.
    model.optimizer.build(model.trainable_variables)
    return model


def load_model(path: str | Path) -> "ECGModel":
    """Open a model file of this package: of MRM-Net or of a baseline.

    Args:
        path: a ``.keras`` file written by ``mrm-train``.

    Returns:
        The network with its contract.

    Raises:
        ModelFileError: if the file is missing, corrupt, or of another network.
    """
    from ecg_keras.model import model_files
    from mrm_keras.baselines import BUILDERS

    return model_files.load_model(path, networks=(NETWORK, *BUILDERS))
