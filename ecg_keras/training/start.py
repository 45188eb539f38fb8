"""Starting a training from the weights of another model."""

from dataclasses import dataclass
from typing import Any

from data_prep.errors import OptionError
from ecg_keras.model.model_files import ECGModel


@dataclass(frozen=True)
class Start:
    """Which layers of a network start from the weights of another model.

    Attributes:
        taken: names of the layers whose weights were copied.
        new: names of the layers that keep their random initial weights.
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]


def head_layers(network: Any) -> tuple[str, ...]:
    """Find the heads: the last layers with weights on the path to each output.

    All other layers are the network's features.

    Args:
        network: a functional Keras model.

    Returns:
        The names of the heads.
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
    """Copy the weights of another model of the same network, layer by layer.

    A layer is copied if the source has a layer of the same name with weights of the same shapes.
    Heads are copied only if both models have the same classes in the same order, and both are
    single-label or both multi-label.  The input lengths may differ, since no layer's weights
    depend on them.

    Args:
        network: a Keras model with a contract; modified in place.
        source: the model to copy from.

    Returns:
        Which layers were copied.

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
    answers, answers_given = ((c.class_names, c.single_label) for c in (contract, given))
    heads = () if answers == answers_given else head_layers(network)
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
            f"no layer of {source.path} has the shape of a layer of this network; train with the"
            " same widths, or without --init."
        )
    return Start(tuple(taken), tuple(new))


def freeze_features(network: Any, start: Start) -> None:
    """Freeze all layers except the heads.

    The moving statistics of frozen batch norms do not change either.

    Args:
        network: the network that was passed to :func:`start_from`.
        start: the result of that call.

    Raises:
        OptionError: if a layer to be frozen still has random weights.
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
