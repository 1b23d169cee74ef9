"""The paper's tables and figures beside what was measured here, on one page made of recorded results:

    python -m experiments.report

writes docs/reproduction.md with its figures, and docs/reproduction.html. Nothing in them is edited by hand.
"""

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import full_scale, records
from experiments.claims import CLAIMS, FEWEST_SEEDS, Claim, difference, verdict
from experiments.paper import ACCURACY, JFT, SIZES, SPEED_RATIO
from xception_jax.benchmarking.output import with_range

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "cifar10" / "results"
DOCS = HERE.parent / "docs"
H100 = DOCS / "records" / "h100"
SPECTRUM_SPEED = DOCS / "records" / "cpu" / "spectrum.json"
FULL_SCALE = DOCS / "records" / "full_scale"
PHOTO_TAGS = DOCS / "records" / "photo_tags"
HEADS_FIGURES = {"map_at_100": "MAP@100, %", "macro_average_precision": "macro average precision, %"}
IMAGES = "images/reproduction"
# From a regular convolution to a depthwise one.
SPECTRUM = ("segments_1", "segments_2", "segments_4", "segments_16", "xception")
# The figures: what is drawn against each other, by the paper's number.
FIGURES = {
    "accuracy": ("Xception and Inception V3 (the paper's figure 6)", ("xception", "inception_v3")),
    "residual": ("With residual connections and without (figure 9)", ("xception", "no_residual")),
    "between": (
        "The activation between depthwise and pointwise convolutions (figure 10)",
        ("xception", "relu_between", "elu_between"),
    ),
    "spectrum": ("Segments of the channels, at about equal parameters", SPECTRUM),
}

Records = Mapping[str, Sequence[dict[str, Any]]]  # by variant, in the order of the seeds


def by_variant(folder: Path) -> Records:
    """The records in a folder."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records.read_all(folder):
        found.setdefault(record["variant"], []).append(record)
    return found


def percent(runs: Iterable[dict[str, Any]], figure: str = "top1") -> list[float]:
    """A figure of the test split of each run, in percent."""
    return [100 * run["test"][figure] for run in runs]


def minutes(run: dict[str, Any]) -> float:
    """How long a run trained, at its usual speed."""
    return run["steps"] * run["config"]["batch_size"] / run["images_per_second"] / 60


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def claims_table(found: Records) -> str:
    """Each claim, the paper's figures, ours, and the verdict."""
    head = ("the paper says", "where", "its figures", "here, points of top-1", "seeds", "verdict at this scale")
    return table(head, [_claim_row(claim, found) for claim in CLAIMS])


def _claim_row(claim: Claim, found: Records) -> tuple[str, ...]:
    better, worse = percent(found.get(claim.better, ())), percent(found.get(claim.worse, ()))
    seeds, said = f"{len(better)}, {len(worse)}", f"**{verdict(better, worse)}**"
    return claim.text, claim.where, claim.paper, lead(better, worse), seeds, said


def lead(better: Sequence[float], worse: Sequence[float]) -> str:
    """The difference of the means, with its 95 % interval; "" if a side has too few seeds for a verdict."""
    if min(len(better), len(worse)) < FEWEST_SEEDS:
        return ""
    mean, (low, high) = difference(better, worse)
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", "\N{MINUS SIGN}")


def commands_table() -> str:
    """The commands that test each claim: small, and as the paper has it."""
    rows = [
        (
            claim.text,
            f"`--variants={claim.better},{claim.worse}`",
            " and ".join(f"`--config={config}`" for config in claim.full),
        )
        for claim in CLAIMS
    ]
    return table(("claim", "small, of the sweep below", "at full scale: `python -m xception_jax.main`"), rows)


def runs_table(found: Records) -> str:
    """What each variant reached, and what it cost."""
    rows = []
    for variant, runs in found.items():
        reached = percent(runs)
        deviation = f"{statistics.stdev(reached):.2f}" if len(reached) > 1 else ""
        rows.append(
            (
                variant,
                f"{runs[0]['parameters']:,}",
                f"{len(runs)}",
                f"{statistics.mean(reached):.2f}",
                deviation,
                ", ".join(f"{value:.2f}" for value in reached),
                f"{statistics.median(map(minutes, runs)):.0f} min",
            )
        )
    head = ("variant", "parameters", "seeds", "test top-1, %", "deviation", "each", "a run took")
    return table(head, rows)


def spectrum_table(found: Records) -> str:
    """Variants between a regular convolution and a depthwise one, with the last one's lead over each."""
    depthwise, rows = SPECTRUM[-1], []
    (speeds,) = json.loads(SPECTRUM_SPEED.read_text())["results"]
    for variant in SPECTRUM:
        if not (runs := found.get(variant)):
            continue
        ahead = "" if variant == depthwise else lead(percent(found[depthwise]), percent(runs))
        segments = runs[0]["config"].get("model.segments", "one a channel")
        cost = f"{runs[0]['parameters']:,}", f"{_small_work(runs[0]['config']) / 1e6:.1f} M"
        speed = with_range(speeds[variant]["images_per_second"]), with_range(speeds[variant]["of_depthwise"])
        rows.append((f"{segments}", *cost, f"{statistics.mean(percent(runs)):.2f}", ahead, *speed))
    head = ("segments", "parameters", "multiply-adds, 32 px", "test top-1, %", "depthwise is better by, points")
    head += ("training, images/s", "times depthwise's")
    return table(head, rows)


def _small_work(config: Mapping[str, Any]) -> int:
    """Multiply-adds of a recorded run's Xception, an image."""
    names = ("width", "segments", "stem")
    options = {name: config[f"model.{name}"] for name in names if f"model.{name}" in config}
    return _work("xception", {"num_classes": 10, **options}, config["image_size"])[0]


def conditions(found: Records) -> str:
    """What the small runs have in common, by their records."""
    runs = [run for of_variant in found.values() for run in of_variant]
    base = found["xception"][0]
    config, versions = base["config"], base["versions"]
    steps = sorted({run["steps"] for run in runs})
    dates = sorted({run["date"][:10] for run in runs})
    commits = sorted({(run["code"]["commit"] or "unknown")[:7] for run in runs})
    devices = sorted({f"{run['device']['count']} x {run['device']['kind']}" for run in runs})
    return (
        f"Budget, set before the runs: {', '.join(f'{n:,}' for n in steps)} steps of {config['batch_size']} images, "
        f"{config['num_epochs']:g} x 45,000; {config['image_size']} px, width {config['model.width']:g}, "
        "but for the spectrum's. All variants but the recipes have the same data, augmentation and schedule; nothing "
        "was tuned for any. The final averaged weights are tested once, on CIFAR-10's 10,000 test images. Intervals "
        "are 95 %, by Welch's t-test over seeds; each is for its own claim, not for all together. This test was chosen "
        "with 15 results in view: first the deviation was to be one for all variants, but runs without residual "
        "connections spread several times as much as the others. With that one deviation (2.02 points, intervals of "
        "3.68 on either side) "
        "nothing could be told of no activation against ReLU and ELU; the other verdicts are the same.\n\n"
        f"{len(runs)} runs, {' and '.join(dates)}, code {', '.join(commits)}; {', '.join(devices)}; Python "
        f"{versions['python']}, JAX {versions['jax']}, flax {versions['flax']}, optax {versions['optax']}."
    )


def size_table() -> str:
    """Table 3's parameters beside the networks' own, and table 3's ratio beside what was measured."""
    counted = [(name, f"{paper:,}", f"{_parameters(*network):,}") for name, (paper, network) in SIZES.items()]
    return table(("network", "parameters, paper", "here"), counted)


def _parameters(name: str, options: Mapping[str, Any]) -> int:
    from xception_jax.models.variables import num_parameters

    return num_parameters(_abstract(name, options)[1])


def _abstract(name: str, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """A network's structure and the shapes of its arrays."""
    from flax import nnx

    from xception_jax.models import build_network, variables

    return nnx.eval_shape(lambda: variables.split(build_network(name, rngs=nnx.Rngs(0), **options)))


def speed_table() -> str:
    """Xception's training speed as a share of Inception V3's: the paper's, and measured on an H100."""
    rows = [("the paper, 60 K80", *(f"{n} steps/s" for n in SPEED_RATIO), f"{SPEED_RATIO[0] / SPEED_RATIO[1]:.2f}")]
    xception, inception_v3 = (_measured(name, "train") for name in ("xception", "inception_v3"))
    for side, title in (("ours", "H100, bfloat16, batch 128: this project"), ("timm eager", "the same: timm, eager")):
        speeds = [network[side]["images_per_second"]["median"] for network in (xception, inception_v3)]
        rows.append((title, *(f"{speed:,.0f} images/s" for speed in speeds), f"{speeds[0] / speeds[1]:.2f}"))
    return table(("training on", "Xception", "Inception V3", "ratio"), rows)


def work_table() -> str:
    """The two networks at equal parameters: what they compute, write, and need."""
    columns = []
    for name in ("xception", "inception_v3"):
        multiply_adds, activations = _work(name, {}, 299)
        training, inference = (_measured(name, what)["ours"] for what in ("train", "infer"))
        columns.append(
            {
                "multiply-adds, an image of 299 px": f"{multiply_adds / 1e9:.2f} G",
                "activations: results of convolutions": f"{activations / 1e6:.2f} M",
                "H100, bfloat16, batch 128: inference": f"{inference['images_per_second']['median']:,.0f} images/s",
                "its peak memory": f"{inference['memory']['bytes'] / 1e9:.1f} GB",
                "training": f"{training['images_per_second']['median']:,.0f} images/s",
                "peak memory of training": f"{training['memory']['bytes'] / 1e9:.1f} GB",
            }
        )
    return table(("", "Xception", "Inception V3"), [(row, columns[0][row], columns[1][row]) for row in columns[0]])


def _work(name: str, options: Mapping[str, Any], image_size: int) -> tuple[int, int]:
    """Multiply-adds, and numbers that convolutions and products write, for an image."""
    import jax
    import jax.numpy as jnp

    from xception_jax import ops
    from xception_jax.models import variables
    from xception_jax.training.summary import multiply_adds

    graphdef, weights = _abstract(name, options)
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    with ops.as_reference():
        jaxpr = jax.make_jaxpr(lambda w, x: variables.merge(graphdef, w)(x))(weights, image).jaxpr
    return multiply_adds(jaxpr), _written(jaxpr)


def _written(jaxpr: Any) -> int:
    """The sizes of results of convolutions and products, of nested programs too."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            total += equation.outvars[0].aval.size
        inner = (getattr(value, "jaxpr", value) for value in equation.params.values())
        total += sum(_written(value) for value in inner if hasattr(value, "eqns"))
    return total


def _measured(name: str, what: str) -> dict[str, dict[str, Any]]:
    """What was measured of a network on an H100, by side; what: "train" or "infer"."""
    results = json.loads((H100 / f"{name}-128.json").read_text())["results"]
    (found,) = (result for result in results if result["what"] == what)
    return found["sides"]


def accuracy_table() -> str:
    """Table 1."""
    rows = [(name, f"{one:.3f}", f"{five:.3f}", "not measured") for name, (one, five) in ACCURACY.items()]
    return table(("ImageNet, single crop", "top-1, paper", "top-5, paper", "here"), rows)


def jft_table() -> str:
    """Table 2."""
    rows = [(name, f"{without:.2f}", f"{with_:.2f}", "not measured") for name, (without, with_) in JFT.items()]
    return table(("JFT, MAP@100", "no FC layers, paper", "with, paper", "here"), rows)


def full_scale_section() -> str:
    """What each full-scale config needs."""
    done = full_scale.read_all(FULL_SCALE)
    return f"""{table(full_scale.HEAD, full_scale.rows(done))}

{full_scale.conditions(done)}"""


def heads_table(found: Records) -> str:
    """Heads on features of photographs: the small twin of table 2."""
    linear, rows = found["linear"], []
    for variant, name in (("linear", "none"), ("fc", "two of 1024")):
        runs = found[variant]
        means = [f"{statistics.mean(percent(runs, figure)):.1f}" for figure in HEADS_FIGURES]
        pair = percent(runs, "map_at_100"), percent(linear, "map_at_100")
        rows.append((name, str(len(runs)), *means, *(("", "") if runs is linear else (lead(*pair), verdict(*pair)))))
    baseline = (f"{100 * linear[0]['baseline'][figure]:.1f}" for figure in HEADS_FIGURES)
    rows.append(("labels by their frequencies", "", *baseline, "", ""))
    head = (
        "fully connected layers",
        "seeds",
        *HEADS_FIGURES.values(),
        "MAP@100 is better by, points",
        "that they help",
    )
    return table(head, rows)


def markdown(found: Records, figures: Mapping[str, str]) -> str:
    """The page; `figures` are the images' paths by name."""
    drawn = "\n\n".join(f"![{title}]({figures[name]})" for name, (title, _) in FIGURES.items() if name in figures)
    return f"""# The paper's claims, and what was measured

Made by `python -m experiments.report` from the records in `experiments/cifar10/results` and `docs/records`; not edited
by hand. The paper is F. Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", arXiv 1610.02357v3.
Full-scale training has not been run. The small runs test the claims on CIFAR-10 with networks an eighth as wide: a
verdict is about that scale, and no more.

## Verdicts

{claims_table(found)}

{conditions(found)}

## Commands

{commands_table()}

The sweep, all variants, three seeds; it resumes, and writes its records as it goes:

```bash
python -m experiments.cifar10.data FOLDER
python -m experiments.sweep --config=experiments/cifar10/config.py --seeds=3 --jobs=2 --workdir=runs/cifar10 \\
    --records=experiments/cifar10/results -- --config.data.path=FOLDER
python -m experiments.report
```

## Full scale

That each full-scale config can be run, and what it needs, by `python -m experiments.full_scale`; each record has its
commands. The training step is compiled for {full_scale.CHIPS} TPU v5e (`{full_scale.TOPOLOGY}`): its images/s are the
plan's, what memory and arithmetic allow the slice at most, not a measurement. A batch of 32 is one replica's, here a
chip's; other batches are divided over the chips. JFT's runs have its {full_scale.JFT_CLASSES:,} classes. The losses are
of {full_scale.STEPS} steps of {full_scale.SMALL_BATCH} random images of full size on a CPU, and show no more than that
they are finite; beside them is the most memory that the process had. The input is that of JPEG files of 500x375 pixels
and 107 kB: the median of {full_scale.TURNS} turns with the slowest and the fastest, and the process' peak memory at the
config's own batch; configs that make views alike share it. Other programs ran beside all of it: compiling takes less on
a machine of one's own, and the fastest turn is the least disturbed. What has not been done yet is empty.

{full_scale_section()}

## Curves

Validation accuracy against steps, as in the paper's figures; a line for each seed, and their mean.

{drawn}

## Runs

{runs_table(found)}

## The spectrum

Between a regular convolution and a depthwise one the paper sees a spectrum, and leaves it to future work (sections 1.2
and 5). Widths are such that all variants have 0.32 M to 0.35 M parameters; intervals are as above. Speed is that of the
training step on two CPU cores, 64 images, the variants in turns (`python -m experiments.spectrum_speed`).

{spectrum_table(found)}

## Table 1: ImageNet

{accuracy_table()}

## Table 2: JFT

{jft_table()}

JFT is not public. Small, and of several labels an image, too: heads on the features of a frozen Xception, trained on
ImageNet, 150 px; 4,999 photographs with some of 371 tags, 499 of them in test. Each seed splits off other validation
images, which choose the regularization. The intervals are over seeds, by Welch's t-test:

{heads_table(by_variant(PHOTO_TAGS))}

```bash
python -m experiments.photo_tags --data=TABLE --weights=imagenet --workdir=runs/photo_tags -- --config.image_size=150
```

## Table 3: size and speed

{size_table()}

{speed_table()}

The paper's steps cannot be compared with images: what a step on 60 GPUs is, it does not say. The ratio can. At equal
parameters the two networks do not work equally: Xception computes 1.5 times as much and writes four times as much, and
what limits it on an H100 is memory ([performance](performance.md)).

{work_table()}

Published weights that are compared with Xception's are not the paper's Inception V3: Keras' has no gamma, torchvision's
and timm's pad otherwise, and the network with 23,626,728 parameters is Chollet's of August 2016 (`flavour="paper"`).
"""


def draw(found: Records, name: str, folder: Path) -> Path:
    """Draws a figure as SVG: validation accuracy against steps."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "xception_jax"  # the same names in the file each time
    title, variants = FIGURES[name]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for number, variant in enumerate(variants):
        curves = [{p["step"]: 100 * p["top1"] for p in run["curve"]} for run in found.get(variant, ())]
        for curve in curves:
            axes.plot(list(curve), list(curve.values()), color=f"C{number}", alpha=0.3, linewidth=1)
        if curves:
            steps = sorted(set.intersection(*map(set, curves)))
            means = [statistics.mean(curve[step] for curve in curves) for step in steps]
            axes.plot(steps, means, color=f"C{number}", linewidth=2, label=f"{variant} ({len(curves)} seeds)")
    axes.set(title=title, xlabel="steps", ylabel="validation top-1, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    path = folder / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    return path


def html(page: str, folder: Path) -> str:
    """The page as one file, with its figures in it."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(page)

    def embedded(image: re.Match[str]) -> str:
        svg = (folder / image[1]).read_text()
        return svg[svg.index("<svg") :]

    body = re.sub(r'<img src="([^"]+\.svg)"[^>]*>', embedded, body)
    style = (
        "body{max-width:70rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif}"
        "table{border-collapse:collapse;display:block;overflow-x:auto}td,th{border:1px solid #ccc;padding:.3rem .6rem}"
        "svg{max-width:100%;height:auto}pre{overflow-x:auto;background:#f4f4f4;padding:1rem}"
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>The paper\'s claims</title>'
        f'<meta name="viewport" content="width=device-width"><style>{style}</style>{body}</html>\n'
    )


def drawable(found: Records) -> dict[str, str]:
    """The paths of the figures whose variants have records, in docs/, by name."""
    return {
        name: f"{IMAGES}/{name}.svg" for name, (_, variants) in FIGURES.items() if all(v in found for v in variants)
    }


def main() -> None:
    """Writes the page and its figures."""
    found = by_variant(RESULTS)
    figures = drawable(found)
    for name in figures:
        draw(found, name, DOCS / IMAGES)
    page = markdown(found, figures)
    (DOCS / "reproduction.md").write_text(page)
    (DOCS / "reproduction.html").write_text(html(page, DOCS))
    print(f"{sum(map(len, found.values()))} runs: {DOCS / 'reproduction.md'}, {DOCS / 'reproduction.html'}")


if __name__ == "__main__":
    main()
