"""`torch.nn.qat` is not here: importing it, or from it, says why."""

from ._absent import QUANTIZATION

raise ImportError(f"{__name__} is not here: {QUANTIZATION}", name=__name__)
