"""The paper's figures (F. Chollet, arXiv 1610.02357v3)."""

from typing import Any

# Table 1: ImageNet validation, single crop, single model: top-1 and top-5.
ACCURACY = {
    "VGG-16": (0.715, 0.901),
    "ResNet-152": (0.770, 0.933),
    "Inception V3": (0.782, 0.941),
    "Xception": (0.790, 0.945),
}
# Table 2: MAP@100 on FastEval14k, without and with two fully connected layers of 4096.
JFT = {"Inception V3": (6.36, 6.50), "Xception": (6.70, 6.78)}
# Table 3: parameters with 1000 classes, and the network that has them.
SIZES: dict[str, tuple[int, tuple[str, dict[str, Any]]]] = {
    "Inception V3": (23_626_728, ("inception_v3", {"flavour": "paper"})),
    "Xception": (22_855_952, ("xception", {})),
}
# Table 3: steps a second, Xception's and Inception V3's.
SPEED_RATIO = (28, 31)
