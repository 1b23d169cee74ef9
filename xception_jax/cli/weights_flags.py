"""Flags of commands that run trained weights: which, and what of them the user knows better."""

from typing import TYPE_CHECKING

from absl import flags

from xception_jax.cli import common
from xception_jax.inputs.choices import INTERPOLATIONS, RESIZES

if TYPE_CHECKING:  # --help needs neither the networks nor jax
    from xception_jax.pretrained import Pretrained

# Flags of what usually comes with the weights.
OVERRIDES = (
    *("image_size", "resize", "interpolation", "mean", "std", "input_range", "classes", "scores", "head"),
    *("orientation", "background", "white", "max_pixels"),
)

flags.disclaim_key_flags()  # they belong to the command that asks for them: its --help lists them


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string(
        "weights", None, "A file, a folder, a work directory (@best, @last or @STEP of it), or a name such as imagenet."
    )
    common.define_reading()
    flags.DEFINE_integer("image_size", None, "Pixels. Default: as the weights were trained.", lower_bound=1)
    # The defaults of the others, too, are as the weights were trained.
    flags.DEFINE_enum("resize", None, RESIZES, "How an image becomes a square, see docs/weights.md.")
    flags.DEFINE_enum("interpolation", None, INTERPOLATIONS, "The filter that resizes images, as in Pillow.")
    flags.DEFINE_list("mean", None, "Means of red, green and blue, subtracted from pixels in 0..1.")
    flags.DEFINE_list("std", None, "Standard deviations of red, green and blue, which divide pixels after --mean.")
    flags.DEFINE_list(
        "input_range", None, "Values of black and white: -1,1 or 0,1 or 0,255. Replaces --mean and --std."
    )
    flags.DEFINE_bool("orientation", None, "Turn images upright by their EXIF data.")
    flags.DEFINE_list("background", None, "Colour behind transparent images: red, green and blue, 0 to 255.")
    flags.DEFINE_integer("white", None, "The value of white in images with more than 8 bits.", lower_bound=1)
    flags.DEFINE_integer("max_pixels", None, "Larger images are not decoded.", lower_bound=1)
    flags.DEFINE_string("classes", None, "A text file with the name of each output's class, one per line.")
    flags.DEFINE_enum("scores", None, ["softmax", "sigmoid", "linear"], "What the outputs are.")


def load_given() -> "Pretrained":
    """The weights that the flags name, with what the flags say; prints what the network is shown.

    Raises:
      UserError: as `pretrained.load`, or the flags contradict each other.
    """
    from xception_jax.cli import overrides
    from xception_jax.pretrained import load

    flag = flags.FLAGS
    given = {name: flag[name].value for name in OVERRIDES if flag[name].value is not None}
    pretrained = overrides.override(load(flag.weights, flag.model, flag.ignore, flag.head), given)
    print(overrides.described(pretrained, given))
    for line in pretrained.assumed:
        if not any(f"--{name}" in line for name in given):
            print(f"assumed: {line}")
    return pretrained
