"""What a network predicts for images: `python -m xception_jax.predict --weights=WEIGHTS IMAGES-OR-FOLDERS`."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from xception_jax.cli import common
from xception_jax.errors import UserError
from xception_jax.inputs.choices import INTERPOLATIONS, RESIZES

USAGE = "usage: python -m xception_jax.predict --weights=WEIGHTS IMAGES-OR-FOLDERS [--model=NAME] [--output=FILE]"
# Flags of what usually comes with the weights.
OVERRIDES = (
    *("image_size", "resize", "interpolation", "mean", "std", "input_range", "classes", "scores", "head"),
    *("orientation", "background", "white", "max_pixels"),
)


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string(
        "weights", None, "A file, a folder, a work directory (@best, @last or @STEP of it), or a name such as imagenet."
    )
    flags.DEFINE_string("model", None, "The network expected; by default whichever the weights are of.")
    common.define_ignore()
    flags.DEFINE_string("head", None, "What is before the logits of a PyTorch file, as --head='dense 512 gelu'.")
    flags.DEFINE_integer("top", 5, "Classes to report per image.", lower_bound=1)
    common.define_path("output", None, "A table to write: .csv, .jsonl or .parquet.")
    common.define_path("features", None, "Features to write: .npz or .parquet.")
    common.define_path("explain", None, "A folder for heat maps of the first class (Grad-CAM).")
    flags.DEFINE_enum("crops", "1", ["1", "10"], "Views of each image to average over.")
    flags.DEFINE_integer("batch_size", 16, "Images at a time.", lower_bound=1)
    flags.DEFINE_integer("image_size", None, "Pixels; by default as the weights were trained.", lower_bound=1)
    # The other things that are by default as the weights were trained.
    flags.DEFINE_enum("resize", None, RESIZES, "How an image becomes a square, see docs/weights.md.")
    flags.DEFINE_enum("interpolation", None, INTERPOLATIONS, "The filter by which it is resized, as Pillow's.")
    flags.DEFINE_list("mean", None, "Subtracted from red, green and blue in 0..1.")
    flags.DEFINE_list("std", None, "By which they are then divided.")
    flags.DEFINE_list("input_range", None, "Instead of these, what black and white become: -1,1 or 0,1 or 0,255.")
    flags.DEFINE_bool("orientation", None, "Turn pictures upright by their EXIF data.")
    flags.DEFINE_list("background", None, "Red, green and blue, 0 to 255, behind transparent pictures.")
    flags.DEFINE_integer("white", None, "The value of white in pictures of more than 8 bits.", lower_bound=1)
    flags.DEFINE_integer("max_pixels", None, "Larger pictures are not decoded.", lower_bound=1)
    flags.DEFINE_string("classes", None, "A text file with the name of each output's class, one per line.")
    flags.DEFINE_enum("scores", None, ["softmax", "sigmoid", "linear"], "The meaning of the outputs.")


def main(arguments: Sequence[str]) -> int:
    """Predicts, prints and writes; returns 1 if images could not be read."""
    flag = flags.FLAGS
    if flag.weights is None or not arguments:
        raise UserError(USAGE)
    from xception_jax.cli import overrides, predictions, tables
    from xception_jax.data import UnreadableImages
    from xception_jax.data.sources.images import find_images
    from xception_jax.evaluation.report import Seen
    from xception_jax.inference.predictor import Predictor
    from xception_jax.parallel import host_memory
    from xception_jax.pretrained import load
    from xception_jax.terminal.console import progress

    if flag.output:
        tables.check_table(Path(flag.output))
    if flag.features and Path(flag.features).suffix not in (".npz", ".parquet"):
        raise UserError(f"{flag.features} is not a features file: its name must end in .npz or .parquet")
    host_memory.reuse_step_memory()
    files, remarks = find_images([Path(a) for a in arguments])
    for remark in remarks:
        print(remark)
    given = {name: flag[name].value for name in OVERRIDES if flag[name].value is not None}
    pretrained = overrides.override(load(flag.weights, flag.model, flag.ignore, flag.head), given)
    print(overrides.described(pretrained, given))
    for line in pretrained.assumed:
        if not any(f"--{name}" in line for name in given):
            print(f"assumed: {line}")
    predictor = Predictor(pretrained, batch_size=min(flag.batch_size, len(files)), crops=int(flag.crops))
    logging.set_verbosity(logging.ERROR)  # unreadable images are listed at the end
    top = min(flag.top, pretrained.num_classes)
    broken, treated = UnreadableImages(), list[str]()
    columns: dict[str, list] = {
        name: [] for name in predictions.COLUMNS if name != "uncertainty" or pretrained.uncertainty
    }
    features = []
    began = time.monotonic()  # all is compiled by now; whatever follows counts
    with progress("images") as bar:
        task = bar.add_task("", total=len(files))
        for prediction in predictor(files, broken, treated):
            predictions.append_ranks(columns, prediction, pretrained, top)
            if flag.features:
                features.append(prediction.features)
            if flag.explain:
                predictions.write_explanation(Path(flag.explain), prediction, columns["class_name"][-top])
            bar.advance(task)
    count = len(columns["file"]) // top
    speed = count / (time.monotonic() - began)
    if flag.output:
        tables.write_table(Path(flag.output), columns)
    elif columns["file"]:
        predictions.show(columns, top, pretrained.scores)
    if features:
        predictions.write_features(Path(flag.features), columns["file"][::top], features)
    print(f"{count} images, {speed:.1f} images/s")
    if treated:
        print(Seen(broken.reasons, Counter(treated)))
    if broken.reasons:
        listed = (f"{name}: {reason}" for name, reason in sorted(broken.reasons.items()))
        print(f"{len(broken.reasons)} of {len(files)} images could not be read:", *listed, sep="\n  ")
    return 1 if broken.reasons else 0


if __name__ == "__main__":
    common.run(main, define_flags)
