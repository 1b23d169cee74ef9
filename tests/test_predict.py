"""Predictions, as users ask for them."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from tests.conftest import RECORDED_RUN
from xception_jax.data import UnreadableImages
from xception_jax.errors import UserError
from xception_jax.filesystem import table_files
from xception_jax.inference.grad_cam import grad_cam
from xception_jax.inference.predictor import Predictor
from xception_jax.inputs.spec import InputSpec, Normalization
from xception_jax.models import build_network, variables
from xception_jax.pretrained import Pretrained, load

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("cat", "dog", "owl", "rat", "yak")
OPTIONS = {"stem": "small", "width": 0.01, "middle_blocks": 0}


def pretrained(**changes):
    model = build_network("xception", num_classes=len(NAMES), rngs=nnx.Rngs(3), **OPTIONS)
    weights = variables.split(model)[1]
    spec = InputSpec(32, 1.0, "bilinear", Normalization())
    fields = {"source": "test", "model": "xception", "options": OPTIONS, "num_classes": len(NAMES), "weights": weights}
    return Pretrained(**(fields | {"input": spec, "class_names": NAMES} | changes)), model


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(5):
        path = tmp_path / "pictures" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (32, 32, 3), np.uint8))
        paths.append(path)
    return paths


@nnx.jit
def outputs(model, images):
    return model(images), model.features(images)


def read(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_scores_are_the_network_s(pictures):
    given, model = pretrained()
    predictor = Predictor(given, batch_size=2)
    found = list(predictor([str(p) for p in pictures], UnreadableImages()))
    with pytest.raises(UserError, match=r"takes a list of files; for one, predictor\(\['a.png'\]\)"):
        next(predictor("a.png"))
    assert [p.file for p in found] == [str(p) for p in pictures]
    for prediction, path in zip(found, pictures, strict=True):
        x = read(path).astype(np.float32)[None] / 127.5 - 1
        logits, maps = outputs(model, x)
        np.testing.assert_allclose(prediction.scores, jax.nn.softmax(logits)[0], rtol=1e-4)
        np.testing.assert_allclose(prediction.features, maps.mean((1, 2))[0], rtol=1e-4, atol=1e-6)


def test_each_image_is_standardized_where_the_weights_want_it(pictures):
    """As `tf.image.per_image_standardization`: deviation of the whole picture, not below 1 / sqrt(its numbers)."""
    given, model = pretrained(input=InputSpec(32, 1.0, "bilinear", Normalization(standardize=True)), scores="linear")
    cv2.imwrite(str(pictures[0]), np.full((32, 32, 3), 7, np.uint8))
    found = list(Predictor(given)(pictures, UnreadableImages()))
    for prediction, path in zip(found, pictures, strict=True):
        x = read(path).astype(np.float64)
        x = ((x - x.mean()) / max(x.std(), 1 / np.sqrt(x.size))).astype(np.float32)[None]
        np.testing.assert_allclose(prediction.scores, outputs(model, x)[0][0], rtol=2e-4, atol=1e-5)


def test_ten_crops_are_averaged(pictures):
    given, model = pretrained(input=InputSpec(32, 0.5, "area", Normalization()))
    cv2.imwrite(str(pictures[0]), np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
    with pytest.raises(UserError, match="crops is 5; it must be 1 or 10"):
        Predictor(given, crops=5)
    (prediction,) = Predictor(given, crops=10)(pictures[:1], UnreadableImages())
    x = read(pictures[0]).astype(np.float32) / 127.5 - 1
    corners = [(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)]
    crops = [x[i : i + 32, j : j + 32] for i, j in corners]
    views = np.stack(crops + [crop[:, ::-1] for crop in crops])
    np.testing.assert_allclose(prediction.scores, jax.nn.softmax(outputs(model, views)[0]).mean(0), rtol=1e-4)


def test_pathology_model_from_its_folder(tmp_path):
    """TensorFlow's own outputs of the fixture are without dropout; with it, they are near, and have an uncertainty."""
    folder = ROOT / "tests" / "pretrained" / "fixtures" / "pathology"
    with np.load(folder / "expected.npz") as file:
        tiles, expected = file["pictures"], file["probabilities"]
    paths = [tmp_path / f"{i}.png" for i in range(len(tiles))]
    for path, tile in zip(paths, tiles, strict=True):
        cv2.imwrite(str(path), cv2.cvtColor(tile, cv2.COLOR_RGB2BGR))
    given = dataclasses.replace(load(folder), uncertainty=False)
    plain = dataclasses.replace(given, input=dataclasses.replace(given.input, stain=None))
    size = tiles.shape[1]
    found = np.stack([p.scores for p in Predictor(plain, image_size=size)(paths, UnreadableImages())])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    uncertain = list(Predictor(load(folder), image_size=size)(paths, UnreadableImages()))
    assert all(p.uncertainty.min() > 0 for p in uncertain)


def test_grad_cam_is_the_class_activation_map():
    """For one linear layer on pooled features: sum over channels of the class's weights times the map, above zero."""
    _, model = pretrained()
    maps = np.random.default_rng(0).uniform(0, 1, (2, 3, 3, model.num_features)).astype(np.float32)
    kernel = np.asarray(model.head.logits.kernel[...])
    classes = (maps.mean((1, 2)) @ kernel).argmax(-1)
    expected = np.maximum(np.einsum("bhwd,db->bhw", maps, kernel[:, classes]), 0)
    expected /= expected.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(grad_cam(model, maps, classes), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def workdir():
    """A run of ours, hardly trained, on the digits."""
    return RECORDED_RUN


def run(module, *arguments, devices=2, check=False, **variables):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=check)


# With a clock of which each look takes ten seconds.
SLOW = """
import itertools, types
from xception_jax import predict
predict.time = types.SimpleNamespace(monotonic=itertools.count(0, 10).__next__)
predict.common.run(predict.main, predict.define_flags)
"""


def test_command(workdir, pictures, tmp_path):
    broken = pictures[0].with_name("broken.png")
    broken.write_text("no picture")
    odd = [
        pictures[0].with_name(name) for name in ("[b]x[i]:smiley:.png", os.fsdecode(b"\xff.png"), "n" * 250 + ".png")
    ]
    for path in odd:
        path.write_bytes(pictures[0].read_bytes())
    broken.with_name("notes.txt").write_text("no picture")
    output, features, folder = tmp_path / "x.csv", tmp_path / "x.npz", tmp_path / "explained"
    flags = [f"--weights={workdir}", "--top=2", f"--output={output}", f"--features={features}", f"--explain={folder}"]
    command = [sys.executable, "-c", SLOW, pictures[0].parent, *flags, "--batch_size=2"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert result.stdout.startswith(f"passed over in {broken.parent}: 1 .txt\n")
    assert "8 images, 0.8 images/s\n" in result.stdout  # all of them, in the time of all
    assert f"1 of 9 images could not be read:\n  {broken}: text, not a picture" in result.stdout
    rows = list(csv.DictReader(output.open()))
    assert list(rows[0]) == ["file", "rank", "class_index", "class_name", "probability"]
    names = [*(p.name for p in pictures), odd[0].name, odd[2].name, r"\xff.png"]
    assert [(Path(r["file"]).name, r["rank"]) for r in rows] == [(name, rank) for name in names for rank in "12"]
    assert all(r["class_name"] == r["class_index"] for r in rows)  # digits are called by their number
    with np.load(features) as found:
        assert found["files"].tolist() == [str(broken.with_name(name)) for name in names]
        assert found["features"].shape[0] == 8
    assert len(list(folder.glob("*.png"))) == 8
    assert cv2.imread(str(next(folder.glob("*.png")))).shape == (32, 64, 3)


def test_what_the_user_gives_comes_first(workdir, pictures, tmp_path):
    """Of a picture three times as wide as high, squashed and in another range: as of its pixels by our own hand."""
    wide, names, output = tmp_path / "wide.png", tmp_path / "names.txt", tmp_path / "x.csv"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 120, 3), np.uint8)).save(wide)
    names.write_text("".join(f"figure {i}\n" for i in range(10)))
    flags = ["--resize=squash", "--interpolation=bicubic", "--input-range=0,1", "--image-size=40"]
    flags += [f"--classes={names}", "--scores=linear", "--top=10"]
    said = run("xception_jax.predict", wide, f"--weights={workdir}", *flags, f"--output={output}", check=True).stdout
    shown = "40 px (given), squash (given), bicubic (given), pixels 0 to 1 (given); scores: linear (given)"
    assert said.splitlines()[0].endswith(f"; input: {shown}, 10 numbers (given)")
    found = load(workdir)
    model = build_network(found.model, num_classes=10, rngs=nnx.Rngs(0), **found.options)
    graphdef, _ = variables.split(model)
    view = np.asarray(Image.open(wide).resize((40, 40), Image.Resampling.BICUBIC), np.float32)
    logits = np.asarray(outputs(variables.merge(graphdef, found.weights), view[None] / 255)[0][0])
    rows = list(csv.DictReader(output.open()))
    (row,) = rows
    assert list(row) == ["file", *(f"figure {i}" for i in range(10))]
    np.testing.assert_allclose([float(row[f"figure {i}"]) for i in range(10)], logits, atol=0.02 * np.ptp(logits))


def test_other_tables(tmp_path):
    import pyarrow.parquet

    columns = {"file": ["a.png", "ü,1.png"], "rank": [1, 1], "class_name": ["cat", "dog"], "probability": [0.75, 1 / 3]}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for name in ("x.jsonl", "x.parquet"):
        table_files.write_table(tmp_path / name, columns)
    assert [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()] == rows
    assert pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist() == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights=imagenet", "--", "-nowhere.jpg"], "there is no file or folder -nowhere.jpg"),
        ([".", "--weights=imagnet"], 'neither a file nor a known name; did you mean "imagenet"'),
        ([".", "--weigths=imagenet"], "weights"),
        ([".", "--weights=imagenet", "--output=x.xls"], "its name must end in .csv, .jsonl, .parquet"),
        ([".", "--weights=imagenet", "--resize=stretch"], "resize"),
        (["--weights=imagenet"], "usage: python -m xception_jax.predict"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, message):
    (tmp_path / "a.png").write_bytes(b"")
    arguments = [str(tmp_path) if a == "." else a for a in arguments]
    result = run("xception_jax.predict", *arguments)
    lines = [line for line in result.stderr.splitlines() if line]
    assert result.returncode == 2
    assert len(lines) == 1, result.stderr
    assert message in lines[0]


@pytest.mark.slow
def test_real_imagenet_weights_on_real_photographs(tmp_path):
    """A third of 300 photographs, chosen to be easy; of the logits layer the last 889 of 2048 rows are available."""
    data = os.environ.get("XCEPTION_JAX_TEST_DATA")
    if not data:
        pytest.skip("set XCEPTION_JAX_TEST_DATA to a folder with xception_imagenet and imagenet_like")
    folder = Path(data)
    arrays = dict(np.load(folder / "xception_imagenet" / "xception_imagenet_notop.npz"))
    top = np.load(folder / "xception_imagenet" / "xception_imagenet_predictions_partial.npz")
    kernel = np.zeros((2048, 1000), np.float32)
    kernel[int(top["first_row"]) :] = top["kernel_rows"]
    kernel[int(top["partial_row_index"]), int(top["partial_row_first_col"]) :] = top["partial_row"]
    np.savez(tmp_path / "x.npz", **arrays, **{"predictions.kernel": kernel, "predictions.bias": top["bias"]})
    pictures, output = folder / "imagenet_like" / "images", tmp_path / "x.csv"
    some = sorted(p for p in pictures.rglob("*") if p.is_file())[::3]
    optimized = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    arguments = [f"--weights={tmp_path / 'x.npz'}", *some, f"--output={output}"]
    run("xception_jax.predict", *arguments, check=True, **optimized)
    labels = {r["file"]: int(r["imagenet_class"]) for r in csv.DictReader((pictures.parent / "labels.csv").open())}
    labels = {Path(name).name: label for name, label in labels.items()}
    rows = list(csv.DictReader(output.open()))
    right = [r for r in rows if int(r["class_index"]) == labels[Path(r["file"]).name]]
    assert len({r["file"] for r in rows}) == len(some) == 100
    assert sum(r["rank"] == "1" for r in right) >= 0.95 * 100
    assert len(right) >= 0.98 * 100
