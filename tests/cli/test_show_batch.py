"""The picture of a step's batch."""

import cv2
import numpy as np
import pytest

from xception_jax import experiment
from xception_jax.cli.show_batch import show_batch, tile
from xception_jax.config import default
from xception_jax.data import UnreadableImages, train_batch

pytestmark = pytest.mark.usefixtures("one_device")


def test_show_batch_mixes_as_the_step_does(tmp_path):
    """Rows 0 and 1 are of the same two images; the caption has the share, by which the pixels are mixed."""
    config = default()
    config.update(image_size=32, batch_size=8, mixup=1.0)
    config.data.update(name="synthetic", num_examples=8, num_classes=3)
    config.model.update(stem="small", width=0.01, middle_blocks=0)
    run = experiment.create(config)
    settings = {"batch_size": 8, "seed": 0, "step": 7, "broken": UnreadableImages()}
    plain = tile(train_batch(run.source, run.input, run.augmentation, **settings)["image"], [""] * 8)
    path = show_batch(run, 7, tmp_path)
    captions = [line.split("\t")[2] for line in path.with_suffix(".txt").read_text().splitlines()]
    share, first, _, rest, second = captions[0].split()
    assert captions[1].split()[1::3] == [second, first]
    shown = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    a, b = (np.float64(plain[:96, 96 * i : 96 * (i + 1)]) for i in (0, 1))
    assert np.abs(shown[:96, :96] - (float(share) * a + float(rest) * b)).max() < 3  # the shares are rounded
    assert 0.02 < float(share) < 0.98
