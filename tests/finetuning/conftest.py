"""A tiny network with random weights, and folders of pictures that its features tell apart."""

import cv2
import numpy as np
import pytest
from flax import nnx

from xception_jax.inputs.spec import InputSpec
from xception_jax.models import build_network, variables
from xception_jax.pretrained import Pretrained
from xception_jax.pretrained.layouts import native

OPTIONS = {"stem": "small", "width": 0.05, "middle_blocks": 0}


@pytest.fixture(scope="session")
def backbone():
    """Untrained weights without a head: random features are enough for digits."""
    _, weights = variables.split(build_network("xception", num_classes=0, rngs=nnx.Rngs(0), **OPTIONS))
    return Pretrained("random", "xception", OPTIONS, 0, weights, InputSpec(32, 1.0, resize="squash"))


@pytest.fixture(scope="session")
def weights_file(backbone, tmp_path_factory):
    """`backbone` as a file."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    path.write_bytes(native.write(backbone))
    return path


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """SPLIT/CLASS/IMAGE: scikit-learn's digits 0 to 3, 20 for training, 6 for validation, 6 for the test, of each."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    for label in range(4):
        pixels = (images[labels == label][:32].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        for i, image in enumerate(pixels):
            split = "train" if i < 20 else "validation" if i < 26 else "test"
            folder = root / split / f"digit {label}"
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(image, (32, 32), interpolation=cv2.INTER_NEAREST))
    return root
