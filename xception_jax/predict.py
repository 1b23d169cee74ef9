"""What a network predicts for images: `python -m xception_jax.predict --weights=WEIGHTS IMAGES-OR-FOLDERS`."""

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from xception_jax.cli import called, common, weights_flags
from xception_jax.errors import UserError

USAGE = "--weights=WEIGHTS IMAGES-OR-FOLDERS [--model=NAME] [--output=FILE]"


def define_flags() -> None:
    """The command's flags."""
    weights_flags.define()
    flags.DEFINE_integer("top", 5, "Classes to report per image; numbers to print.", lower_bound=1)
    common.define_path("output", None, "A table to write: .csv, .jsonl or .parquet.")
    common.define_path("features", None, "Features to write: .npz or .parquet.")
    common.define_path("explain", None, "A folder for heat maps of the first class (Grad-CAM).")
    flags.DEFINE_enum("crops", "1", ["1", "10"], "Views of each image to average over.")
    flags.DEFINE_integer("batch_size", 16, "Images at a time.", lower_bound=1)


def main(arguments: Sequence[str]) -> int:
    """Predicts, prints and writes; returns 1 if images could not be read."""
    flag = flags.FLAGS
    if flag.weights is None or not arguments:
        raise called.wrong_usage("predict", USAGE)
    from xception_jax.cli import prediction_output
    from xception_jax.data import UnreadableImages
    from xception_jax.data.sources.image_files import find_images
    from xception_jax.evaluation.report import Seen
    from xception_jax.filesystem import table_files
    from xception_jax.inference.predictor import Predictor
    from xception_jax.parallel import host_memory
    from xception_jax.terminal.console import progress

    if flag.output:
        table_files.check_table(Path(flag.output))
    if flag.features and Path(flag.features).suffix not in (".npz", ".parquet"):
        raise UserError(f"{flag.features} is not a features file: its name must end in .npz or .parquet")
    host_memory.reuse_step_memory()
    files, remarks = find_images([Path(a) for a in arguments])
    for remark in remarks:
        print(remark)
    pretrained = weights_flags.load_given()
    if flag.crops != "1":  # prediction sets were found with one view
        pretrained = dataclasses.replace(pretrained, conformal=None)
    predictor = Predictor(pretrained, batch_size=min(flag.batch_size, len(files)), crops=int(flag.crops))
    logging.set_verbosity(logging.ERROR)  # unreadable images are listed at the end
    top = prediction_output.rows_each(pretrained, flag.top)
    broken, treated = UnreadableImages(), list[str]()
    columns: dict[str, list] = {name: [] for name in prediction_output.columns_of(pretrained)}
    features = []
    began = time.monotonic()  # all is compiled by now; whatever follows counts
    with progress("images") as bar:
        task = bar.add_task("", total=len(files))
        for prediction in predictor(files, broken, treated):
            prediction_output.append(columns, prediction, pretrained, top)
            if flag.features:
                features.append(prediction.features)
            if flag.explain:
                name = prediction_output.class_name(pretrained, int(prediction.scores.argmax()))
                prediction_output.write_explanation(Path(flag.explain), prediction, name)
            bar.advance(task)
    count = len(columns["file"]) // top
    speed = count / (time.monotonic() - began)
    if flag.output:
        table_files.write_table(Path(flag.output), columns)
    elif columns["file"]:
        prediction_output.show(columns, flag.top, pretrained)
    if features:
        prediction_output.write_features(Path(flag.features), columns["file"][::top], features)
    print(f"{count} images, {speed:.1f} images/s")
    if treated:
        print(Seen(broken.reasons, Counter(treated)))
    if broken.reasons:
        listed = (f"{name}: {reason}" for name, reason in sorted(broken.reasons.items()))
        print(f"{len(broken.reasons)} of {len(files)} images could not be read:", *listed, sep="\n  ")
    return 1 if broken.reasons else 0


if __name__ == "__main__":
    common.run(main, define_flags)
