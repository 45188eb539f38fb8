"""The networks compared with MRM-Net in its Tables II to IV, each after its own paper.

Every builder returns, like ``mrm_keras.model.build_model``, a functional model from ``signal``
``(batch, input_length, lead)`` in millivolts to ``{"diagnosis": (batch, num_classes)}``, float32
probabilities, with the contract as its first layer.  The MRM-Net paper trains all of them in the
same way (Adam, 1e-3, binary cross-entropy) and gives only their names; the docstring of each
builder says what its source leaves open and what we chose.  A module describes its network
from the standardised signal to the logits; ``parts.baseline`` makes this the builder.

The published code of MRM-Net is a fork of MVMSNet's (github.com/ysxGitHub/MVMS-net), so the paper
very probably compared the versions found there: these have the plain names.  Names that end in
``_benchmark`` are the versions of the PTB-XL benchmark (Strodthoff 2021, arXiv 2004.13701), which
many published figures on PTB-XL refer to.

All were written in PyTorch: convolutions are padded equally on both sides, batch norm has epsilon
1e-5 and keeps 0.9 of its moving statistics, initial weights are uniform within 1/sqrt(fan-in).
"""

from mrm_keras.baselines.ecg_bnn import build_ecg_bnn
from mrm_keras.baselines.fcn_wang import build_fcn_wang, build_fcn_wang_benchmark
from mrm_keras.baselines.inception_time import build_inception_time
from mrm_keras.baselines.mobilenet_v3 import build_mobilenet_v3
from mrm_keras.baselines.mvmsnet import build_mvmsnet
from mrm_keras.baselines.parts import Builder
from mrm_keras.baselines.resnet1d_wang import build_resnet1d_wang, build_resnet1d_wang_benchmark
from mrm_keras.baselines.xresnet1d101 import build_xresnet1d101, build_xresnet1d101_benchmark

BUILDERS: dict[str, Builder] = {
    "fcn_wang": build_fcn_wang,
    "resnet1d_wang": build_resnet1d_wang,
    "xresnet1d101": build_xresnet1d101,
    "ECG_BNN": build_ecg_bnn,
    "MobileNetV3": build_mobilenet_v3,
    "InceptionTime": build_inception_time,
    "MVMSNet": build_mvmsnet,
    "fcn_wang_benchmark": build_fcn_wang_benchmark,
    "resnet1d_wang_benchmark": build_resnet1d_wang_benchmark,
    "xresnet1d101_benchmark": build_xresnet1d101_benchmark,
}
