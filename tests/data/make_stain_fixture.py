"""Writes stain.npz: a tile, its L*a*b*, and its normalizations before fractions are dropped, as scikit-image has them.

    pip install scikit-image && python tests/data/make_stain_fixture.py

It was run once, with scikit-image 0.26.
"""

from pathlib import Path

import numpy as np
from skimage.color import lab2rgb, rgb2lab
from skimage.filters import gaussian

# Means and population standard deviations of L*, a* and b*: Slideflow's.
PRESETS = {
    "v1": ((63.71194, 20.716246, -12.290746), (14.52781, 8.344005, 8.300264)),
    "v2": ((69.20197, 19.82498, -4.690998), (17.71583, 14.156416, 5.4176064)),
    "v3": ((58.12343, 26.483482, -12.701005), (14.675022, 7.5744166, 5.226378)),
}

rng = np.random.default_rng(0)
blobs = gaussian(rng.normal(size=(24, 24, 3)), 2, channel_axis=-1)  # in the colours of haematoxylin and eosin
tile = np.clip(np.array((200, 130, 180)) + 250 * blobs + rng.normal(0, 4, blobs.shape), 0, 255).astype(np.uint8)
lab = rgb2lab(tile / 255)
found = {}
for name, (means, stds) in PRESETS.items():
    normalized = (lab - lab.mean((0, 1))) / lab.std((0, 1)) * stds + means
    found[name] = 255 * np.clip(lab2rgb(normalized), 0, 1)
np.savez_compressed(Path(__file__).with_name("stain.npz"), tile=tile, lab=lab, **found)
