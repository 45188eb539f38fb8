"""Starting a training from the weights of another model."""

from dataclasses import dataclass
from typing import Any

from data_prep.errors import OptionError
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import ECGModel, load_model


def model_to_start_from(name: str) -> ECGModel:
    """Open the model that ``--init`` names.

    Args:
        name: a ``.keras`` file.

    Raises:
        ModelFileError: if there is no such model.
    """
    return load_model(name)


@dataclass(frozen=True)
class Start:
    """Which layers of a network have the weights of another model.

    Attributes:
        taken: names of the layers that were given its weights.
        new: names of the layers that begin anew.
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]


def head_layers(network: Any) -> tuple[str, ...]:
    """Name the layers that give the classes: on the way to each answer, the last with weights.

    All others are the network's features.

    Args:
        network: a functional Keras model.
    """
    heads: dict[str, None] = {}
    pending = list(network.outputs)
    while pending:
        operation, node, _ = pending.pop()._keras_history
        if getattr(operation, "weights", ()):
            heads[operation.name] = None
        else:
            pending += operation._inbound_nodes[node].input_tensors
    return tuple(heads)


def start_from(network: Any, source: ECGModel) -> Start:
    """Give a network the weights of another model of the same kind, layer by layer.

    A layer is taken if the source has one of its name with weights of the same shapes.  Heads
    are taken only if both have the same classes in the same order, and the same kind of answer.
    The length of the input may differ: no layer's weights depend on it.

    Args:
        network: a Keras model with a contract; its weights change.
        source: from which the weights are taken.

    Returns:
        Which layers were taken.

    Raises:
        OptionError: if the source holds another network, or none of its layers fits.
    """
    contract, given = network.get_layer("contract").contract, source.contract
    if contract.network != given.network:
        raise OptionError(
            f"{source.path} holds {given.network} and cannot start {contract.network}; name a"
            " model of the same network with --init."
        )
    layers = {layer.name: layer.get_weights() for layer in source.network.layers}
    heads = () if _same_answers(contract, given) else head_layers(network)
    taken, new = [], []
    for layer in network.layers:
        if not layer.weights:
            continue
        weights = layers.get(layer.name, [])
        if layer.name in heads or [w.shape for w in weights] != [
            tuple(w.shape) for w in layer.weights
        ]:
            new.append(layer.name)
        else:
            layer.set_weights(weights)
            taken.append(layer.name)
    if not taken:
        raise OptionError(
            f"no layer of {source.path} has the shape of one here; train with the widths that it"
            " has, or without --init."
        )
    return Start(tuple(taken), tuple(new))


def _same_answers(one: Contract, other: Contract) -> bool:
    return (one.class_names, one.single_label) == (other.class_names, other.single_label)


def freeze_features(network: Any, start: Start) -> None:
    """Let training change nothing but the heads.

    The statistics of frozen batch norms stay as they are too.

    Args:
        network: that :func:`start_from` was applied to.
        start: what it returned.

    Raises:
        OptionError: if a layer that would be frozen has begun anew.
    """
    heads = head_layers(network)
    if untrained := [name for name in start.new if name not in heads]:
        raise OptionError(
            f"--freeze features would keep {', '.join(untrained)} at random weights, as the model"
            " of --init has no such layers; train with the widths that it has, or leave out"
            " --freeze."
        )
    for layer in network.layers:
        if layer.weights and layer.name not in heads:
            layer.trainable = False
