"""The names of what can be chosen of a network's input. Imports no JAX, which `--help` does not wait for."""

from typing import Literal, get_args

Resize = Literal["squash", "crop", "pad"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
INTERPOLATIONS = ("bilinear", "bicubic", "area", "lanczos", "nearest")
