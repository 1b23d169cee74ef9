"""JPEG files that resemble photographs, for when no real ones are available."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH = 375, 500  # ImageNet's mean, at 110 kB
COUNT, QUALITY = 128, 95


def write_photographs(folder: Path) -> None:
    """Writes COUNT images as files."""
    for i, encoded in enumerate(photographs(COUNT)):
        (folder / f"{i}.jpg").write_bytes(encoded)


def photographs(count: int) -> Iterator[bytes]:
    """Images whose spectrum falls off as in photographs, half of them in portrait format."""
    rng = np.random.default_rng(0)
    for i in range(count):
        image = photograph(rng)
        image = image if i % 2 else image.transpose(1, 0, 2)
        yield cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def photograph(rng: np.random.Generator) -> np.ndarray:
    """Noise at every scale, with amplitude proportional to the scale; uint8 [HEIGHT, WIDTH, 3]."""
    total = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for pixels in (1, 2, 4, 8, 16, 32, 64, 128):
        noise = rng.standard_normal((-(-HEIGHT // pixels), -(-WIDTH // pixels), 3), np.float32)
        noise = 0.7 * noise.mean(-1, keepdims=True) + 0.3 * noise  # grey more than coloured
        total += pixels**0.4 * cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(127 + 50 * total / total.std(), 0, 255).astype(np.uint8)
