"""Stain normalization of histology tiles: Reinhard's method, in the variant "Reinhard-Fast" of the pathology models.

E. Reinhard et al., "Color transfer between images", 2001, in the CIE L*a*b* space: sRGB is converted to linear light,
to XYZ under D65 and to L*a*b*; each channel gets the target's mean and standard deviation; the result is converted
back.

Shape legend: H height, W width.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

Channels = tuple[float, float, float]

# sRGB's primaries in XYZ (IEC 61966-2-1), and the white of D65 (2 degrees).
XYZ_OF_RGB = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
RGB_OF_XYZ = np.linalg.inv(XYZ_OF_RGB)
WHITE = np.array([0.95047, 1.0, 1.08883])
# Below this, L*a*b* is linear, with the slope of the cube root at this point.
CUT = 6 / 29


def _linear_of_byte() -> Float[np.ndarray, "256"]:
    x = np.arange(256) / 255
    return np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)


LINEAR_OF_BYTE = _linear_of_byte()


def lab_of_rgb(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """L* in 0..100, a* and b* in about -128..127, float64."""
    xyz = LINEAR_OF_BYTE[image] @ (XYZ_OF_RGB / WHITE[:, None]).T
    f = np.where(xyz > CUT**3, np.cbrt(xyz), xyz / (3 * CUT**2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def rgb_of_lab(lab: Float[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The closest sRGB colour: out-of-gamut values are clipped, fractions of a byte are truncated."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = WHITE * np.where(f > CUT, f**3, 3 * CUT**2 * (f - 4 / 29))
    linear = np.maximum(xyz @ RGB_OF_XYZ.T, 0)
    rgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return (255 * np.clip(rgb, 0, 1)).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Reinhard:
    """Reinhard-Fast normalization.

    Attributes:
      means, stds: of the target's L*, a* and b*; population standard deviations.
    """

    means: Channels
    stds: Channels

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """A tile in the target's colours. A constant channel gets the target's mean."""
        lab = lab_of_rgb(image)
        mean, std = lab.mean((0, 1)), lab.std((0, 1))
        scale = np.where(std > 1e-8, np.array(self.stds) / np.maximum(std, 1e-8), 0)
        return rgb_of_lab((lab - mean) * scale + np.array(self.means))


# Slideflow's targets.
PRESETS = {
    "v1": Reinhard((63.71194, 20.716246, -12.290746), (14.52781, 8.344005, 8.300264)),
    "v2": Reinhard((69.20197, 19.82498, -4.690998), (17.71583, 14.156416, 5.4176064)),
    "v3": Reinhard((58.12343, 26.483482, -12.701005), (14.675022, 7.5744166, 5.226378)),
}


def standardize(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """Mean 0 and population standard deviation 1 over all pixels and channels, float32.

    The deviation is at least 1 / sqrt(H W 3), as in TensorFlow's `per_image_standardization`.
    """
    x = image.astype(np.float64)
    return ((x - x.mean()) / max(x.std(), x.size**-0.5)).astype(np.float32)
