"""Keras on TensorFlow, imported without the log lines TensorFlow prints while it loads."""

import os
import sys
import tempfile

from data_prep.errors import OptionError

__all__ = ["keras", "tf"]


def _import_silently() -> None:
    """Import TensorFlow with standard error caught, and show what was caught only if it fails.

    The lines come from C++ before any log level is read, so only the file descriptor stops them.
    """
    # Real errors are raised as exceptions; TensorFlow logs as errors only that there is no GPU, or
    # that oneDNN does not handle an operation.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow enables oneDNN by default on newer processors only; on older ones, too, it cuts the
    # time of a training step of these networks by a third.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
        except BaseException:
            caught.seek(0)
            os.write(kept, caught.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _require_tensorflow(backend: str) -> None:
    if backend != "tensorflow":
        raise OptionError(
            f"Keras runs on {backend!r} here, but these networks need TensorFlow; unset"
            " KERAS_BACKEND or set it to 'tensorflow'."
        )


# Checked before the import, which fails if another backend is set but not installed.
_require_tensorflow(os.environ.setdefault("KERAS_BACKEND", "tensorflow"))
if "tensorflow" not in sys.modules:
    _import_silently()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

_require_tensorflow(keras.backend.backend())

# Each model of an ensemble is traced once; TensorFlow warns as if this were needless retracing.
tf.get_logger().setLevel("ERROR")
