"""Training on several GPUs of one machine."""

from collections.abc import Sequence
from typing import Any

from data_prep.errors import OptionError
from ecg_keras.model.backend import tf


def gpus() -> list[str]:
    """Return the names of the GPUs of this machine that TensorFlow can use."""
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def devices_strategy(devices: Sequence[str], *, batch_size: int) -> Any:
    """Choose how devices share the training steps.

    With several devices, each holds a copy of the network and takes an equal share of every batch;
    gradients are averaged.  A step then equals a step on the whole batch, except that batch norm
    normalises each share separately; its moving statistics are averaged after each epoch.

    Args:
        devices: names of devices; with fewer than two, TensorFlow's default strategy is used.
        batch_size: records per step, over all devices.

    Returns:
        A ``tf.distribute.Strategy``; build the network in its scope.

    Raises:
        OptionError: if the batch size is not a multiple of the number of devices.
    """
    if len(devices) < 2:
        return tf.distribute.get_strategy()
    if batch_size % len(devices):
        raise OptionError(
            f"--batch-size {batch_size} cannot be shared equally by {len(devices)} GPUs; give a"
            f" multiple of {len(devices)}, or set CUDA_VISIBLE_DEVICES to fewer of them."
        )
    return tf.distribute.MirroredStrategy(devices)


def average_statistics(model: Any) -> None:
    """Average the moving statistics of batch norms over all devices.

    Each device keeps its own moving statistics, and only the first device's would be saved.  They
    are linear in the batch statistics, so averaging after each epoch gives the same result as
    averaging after each step.  (Averaging at each step would synchronise the devices within the
    step, and Keras then counts the losses added by layers several times.)

    Args:
        model: a model built in the scope of its strategy.
    """
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return
    for variable in model.non_trainable_weights:
        values = model.distribute_strategy.experimental_local_results(variable.value)
        variable.assign(tf.add_n([tf.convert_to_tensor(value) for value in values]) / len(values))
