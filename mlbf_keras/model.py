"""MLBF-Net as a functional Keras model (Zhang et al., "MLBF-Net", Fig. 1)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import OptionError
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract, SignalContract, plain_contract
from mlbf_keras.layers import BranchAttention, BranchBiGRU, BranchConvolutions, BranchSoftmax

if TYPE_CHECKING:
    from ecg_keras.model.model_files import ECGModel

NETWORKS = ("MLBF-Net", "BranchNet")
SAMPLING_RATE = 250.0  # Hz; section IV-C1
INPUT_LENGTH = 15000  # samples: 60 s


def default_contract(
    *,
    network: str = "MLBF-Net",
    num_classes: int = 9,
    input_length: int = INPUT_LENGTH,
    num_leads: int = 12,
    single_label: bool = True,
) -> Contract:
    """Return the contract of a network built without one, at 250 Hz.

    See :func:`ecg_keras.model.contract.plain_contract`.
    """
    return plain_contract(
        network=network,
        sampling_rate=SAMPLING_RATE,
        fit="pad",
        single_label=single_label,
        num_classes=num_classes,
        input_length=input_length,
        num_leads=num_leads,
    )


def _answers_of(contract: Contract, single_label: bool) -> str:
    """Return the activation of the heads, after checking that the contract agrees."""
    if contract.single_label != single_label:
        raise OptionError(
            f"the contract promises single_label={contract.single_label}, but the model was asked"
            f" for {single_label}; give both the same."
        )
    return "softmax" if single_label else "sigmoid"


def build_model(
    *,
    input_length: int = INPUT_LENGTH,
    num_leads: int = 12,
    num_classes: int = 9,
    filters: int = 12,
    gru_units: int = 12,
    dropout: float = 0.2,
    auxiliary_heads: bool = True,
    single_label: bool = True,
    contract: Contract | None = None,
) -> Any:
    """Build MLBF-Net: one branch per lead, and a head on the features of all (Fig. 1).

    Args:
        input_length: L, samples of the input; 15,000 are 60 s at 250 Hz.
        num_leads: number of leads, and of branches.
        num_classes: C.
        filters: number of filters of every convolution.
        gru_units: of each direction of the GRU.
        dropout: fraction dropped after each block, after the GRU and after the attention.
        auxiliary_heads: give each branch its own attention and softmax; without them the network
            is the single-loss ablation of Table V.
        single_label: one label per record, by softmax, as in the paper.  False is our extension
            to records with several labels: each class has its own probability, by sigmoid, and
            :func:`compile_model` uses binary instead of categorical cross-entropy.
        contract: description of input and output in the model file; by default
            :func:`default_contract`.

    Returns:
        A model from ``signal`` ``(batch, input_length, num_leads)`` in millivolts to a dict of
        float32 probabilities ``(batch, num_classes)``: ``"diagnosis"``, then ``"lead_I"`` to
        ``"lead_V6"``.

    Raises:
        OptionError: if the contract contradicts the other arguments.
    """
    contract = contract or default_contract(
        num_classes=num_classes,
        input_length=input_length,
        num_leads=num_leads,
        single_label=single_label,
    )
    contract.require_sizes(num_classes=num_classes, input_length=input_length, num_leads=num_leads)
    activation = _answers_of(contract, single_label)
    signal = keras.Input((input_length, num_leads), name="signal")
    x = SignalContract(contract, name="contract")(signal)

    # Convolutional subnetwork of each branch: five blocks, each halving the time.
    f_cnn = BranchConvolutions(num_leads, filters=filters, dropout=dropout, name="f_cnn")(x)
    # [(batch, 469, 12)] * 12

    # Bidirectional GRU of each branch.
    f_bigru = BranchBiGRU(gru_units, dropout=dropout, name="f_bigru")(f_cnn)
    # (batch, 469, 12, 24)

    # Integrity: the features of all leads side by side, with one attention over them.
    time, width = f_bigru.shape[1], num_leads * 2 * gru_units
    fused = keras.layers.Reshape((time, 1, width), name="fused")(f_bigru)
    # (batch, 469, 1, 288)
    f_att, _ = BranchAttention(name="fused_attention")(fused)
    f_att = keras.layers.Reshape((width,), name="fused_features")(f_att)
    # (batch, 288)
    f_att = keras.layers.BatchNormalization(name="fused_norm")(f_att)
    f_att = keras.layers.Dropout(dropout, name="fused_dropout")(f_att)
    diagnosis = keras.layers.Dense(
        num_classes, activation=activation, dtype="float32", name="diagnosis"
    )(f_att)
    outputs = {"diagnosis": diagnosis}

    # Diversity: an attention and a prediction for each lead.
    if auxiliary_heads:
        f_att, _ = BranchAttention(name="lead_attention")(f_bigru)  # (batch, 12, 24)
        # Normalising the 288 channels at once also normalises the 24 of each branch.
        f_att = keras.layers.Reshape((width,), name="lead_features")(f_att)
        f_att = keras.layers.BatchNormalization(name="lead_norm")(f_att)
        f_att = keras.layers.Dropout(dropout, name="lead_dropout")(f_att)
        f_att = keras.layers.Reshape((num_leads, 2 * gru_units), name="lead_rows")(f_att)
        f_out = BranchSoftmax(num_classes, activation, dtype="float32", name="lead_softmax")(f_att)
        # (batch, 12, 9)
        for index, lead in enumerate(contract.leads):
            outputs[f"lead_{lead}"] = f_out[:, index]
    return keras.Model(signal, outputs, name="mlbf_net")


def build_branchnet(
    *,
    input_length: int = INPUT_LENGTH,
    num_leads: int = 12,
    num_classes: int = 9,
    filters: int = 12,
    gru_units: int = 12,
    dropout: float = 0.2,
    single_label: bool = True,
    contract: Contract | None = None,
) -> Any:
    """Build BranchNet on all leads at once, the baseline of Table IV.

    Arguments and errors are those of :func:`build_model`; all leads are channels of one branch.

    Returns:
        A model from ``signal`` ``(batch, input_length, num_leads)`` in millivolts to
        ``{"diagnosis": (batch, num_classes)}``.
    """
    contract = contract or default_contract(
        network="BranchNet",
        num_classes=num_classes,
        input_length=input_length,
        num_leads=num_leads,
        single_label=single_label,
    )
    contract.require_sizes(num_classes=num_classes, input_length=input_length, num_leads=num_leads)
    activation = _answers_of(contract, single_label)
    signal = keras.Input((input_length, num_leads), name="signal")
    x = SignalContract(contract, name="contract")(signal)
    f_cnn = BranchConvolutions(1, filters=filters, dropout=dropout, name="f_cnn")(x)
    f_bigru = BranchBiGRU(gru_units, dropout=dropout, name="f_bigru")(f_cnn)
    # (batch, 469, 1, 24)
    f_att, _ = BranchAttention(name="attention")(f_bigru)
    f_att = keras.layers.Reshape((2 * gru_units,), name="features")(f_att)
    f_att = keras.layers.BatchNormalization(name="norm")(f_att)
    f_att = keras.layers.Dropout(dropout, name="dropout")(f_att)
    diagnosis = keras.layers.Dense(
        num_classes, activation=activation, dtype="float32", name="diagnosis"
    )(f_att)
    return keras.Model(signal, {"diagnosis": diagnosis}, name="branchnet")


def compile_model(
    model: Any, *, learning_rate: float = 1e-3, loss_weight: float = 1.0, jit_compile: bool = False
) -> Any:
    """Compile with Adam and ``L = L_c + lambda * sum of L_j`` (eq. 10).

    Each L is the cross-entropy of one head: categorical, or binary if the contract allows several
    labels per record.

    Args:
        model: from :func:`build_model` or :func:`build_branchnet`.
        learning_rate: Adam's, constant.
        loss_weight: lambda, the weight of each branch's cross-entropy.
        jit_compile: compile the whole step with XLA; slower on a CPU, not tested on a GPU.

    Returns:
        The model.
    """
    heads = list(model.output)
    kind = "categorical" if model.get_layer("contract").contract.single_label else "binary"
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss={head: f"{kind}_crossentropy" for head in heads},
        loss_weights={head: 1.0 if head == "diagnosis" else loss_weight for head in heads},
        jit_compile=jit_compile,
    )
    # Otherwise the first step is traced an extra time just to create these variables.
    model.optimizer.build(model.trainable_variables)
    return model


def load_model(path: str | Path) -> "ECGModel":
    """Open a model file of this package.

    Args:
        path: a ``.keras`` file written by ``mlbf-train``.

    Returns:
        The network with its contract.

    Raises:
        ModelFileError: if the file is missing, corrupt, or of another network.
    """
    from ecg_keras.model import model_files

    return model_files.load_model(path, networks=NETWORKS)
