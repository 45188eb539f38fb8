"""Training on several GPUs of one machine."""

from collections.abc import Sequence
from typing import Any

from data_prep.errors import OptionError
from ecg_keras.model.backend import tf


def gpus() -> list[str]:
    """Return the names of this machine's GPUs that TensorFlow can use."""
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def devices_strategy(devices: Sequence[str], *, batch_size: int) -> Any:
    """Choose how the steps of a fit are shared among devices.

    Several devices hold the same network each, take equal shares of every batch and average
    their gradients.  A step is then that of the whole batch but for batch norm, which normalises
    each share by itself; its moving statistics are averaged after each epoch.

    Args:
        devices: names of devices; with less than two of them nothing is shared.
        batch_size: records a step, all devices together.

    Returns:
        A ``tf.distribute.Strategy``, in whose scope the network is to be built.

    Raises:
        OptionError: where the devices cannot take equal shares.
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
    """Give every device the mean of what the devices' batch norms have seen.

    Each device keeps moving statistics of its own, of which the first device's would be saved.
    They are linear in those of the batches, so averaging them now or after each step is one.
    (Averaged at each step, they would halt the devices in the midst of their steps, where Keras
    counts the losses that layers add for several devices.)

    Args:
        model: built in the scope of its strategy.
    """
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return
    for variable in model.non_trainable_weights:
        values = model.distribute_strategy.experimental_local_results(variable.value)
        variable.assign(tf.add_n([tf.convert_to_tensor(value) for value in values]) / len(values))
