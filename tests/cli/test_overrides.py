"""What a user gives in place of what came with the weights, and how it is said."""

import dataclasses

import numpy as np
import pytest

from xception_jax.cli.overrides import described, override
from xception_jax.errors import UserError
from xception_jax.inputs.spec import Decoding, InputSpec, Normalization
from xception_jax.models.variables import Weights
from xception_jax.pretrained import Pretrained

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pretrained(spec=InputSpec()):
    return Pretrained("file.h5", "xception", {}, 3, Weights({}, {}), spec, ("ant", "bee", "cat"))


def shown(given, pixels=(0, 51, 255), spec=InputSpec()):
    """What the network is shown of grey pixels."""
    image = np.tile(np.array(pixels, np.uint8)[:, None], (1, len(pixels), 1, 3))
    return np.asarray(override(pretrained(spec), given).input.normalization(image))[0, 0]


def test_nothing_given_changes_nothing():
    assert override(pretrained(), {}) == pretrained()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["-1", "1"], [-1, -0.6, 1]),
        (["0", "1"], [0, 0.2, 1]),
        (["0", "255"], [0, 51, 255]),
        (["-127.5", "127.5"], [-127.5, -76.5, 127.5]),
    ],
)
@pytest.mark.parametrize("usual", [Normalization(), IMAGENET, Normalization(standardize=True)])
def test_input_range_is_what_black_and_white_become(given, expected, usual):
    found = shown({"input_range": given}, spec=InputSpec(normalization=usual))
    np.testing.assert_allclose(found, np.repeat(np.array(expected)[:, None], 3, 1), rtol=1e-5, atol=1e-4)


def test_mean_and_std_are_of_each_colour_and_one_of_them_can_be_given():
    mean, std = np.array(IMAGENET.mean), np.array(IMAGENET.std)
    grey = np.array([0, 0.2, 1])[:, None]
    both = {"mean": ["0.485", "0.456", "0.406"], "std": ["0.229", "0.224", "0.225"]}
    np.testing.assert_allclose(shown(both), (grey - mean) / std, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shown({"mean": both["mean"]}), (grey - mean) / 0.5, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shown({"std": both["std"]}), (grey - 0.5) / std, rtol=1e-4, atol=1e-5)


def test_resize_rule_size_filter_and_scores():
    given = {"resize": "squash", "interpolation": "area", "image_size": 331, "scores": "linear"}
    found = override(pretrained(InputSpec(299, 0.8975, "bicubic")), given)
    assert found.input == InputSpec(331, 1.0, "area", resize="squash")
    assert found.scores == "linear"
    given = {"orientation": False, "background": ["0", "10", "255"], "white": 4095, "max_pixels": 9}
    assert override(pretrained(), given).input.decoding == Decoding(False, (0, 10, 255), 4095, 9)
    kept = override(pretrained(InputSpec(299, 0.8975, "bicubic")), {"resize": "crop"})
    assert kept.input == InputSpec(299, 0.8975, "bicubic")


@pytest.mark.parametrize(
    "text", ["red\ngreen owl\nblue\n", "red\r\ngreen owl\r\nblue", "\ufeffred\ngreen owl \nblue\n\n"]
)
def test_classes_are_the_lines_of_a_file(tmp_path, text):
    (tmp_path / "names.txt").write_text(text, "utf-8", newline="")
    found = override(pretrained(), {"classes": str(tmp_path / "names.txt")})
    assert found.class_names == ("red", "green owl", "blue")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_range": ["0", "1"], "std": ["1", "1", "1"]}, "give one or the other"),
        ({"input_range": ["0", "1", "2"]}, "--input_range=0,1,2 is not 2 numbers"),
        ({"input_range": ["1", "-1"]}, "--input_range is 1,-1; the second number must be the larger one"),
        ({"mean": ["0.5"]}, "--mean=0.5 is not 3 numbers"),
        ({"mean": ["a", "b", "c"]}, "--mean=a,b,c is not 3 numbers"),
        ({"std": ["nan", "1", "1"]}, "--std=nan,1,1 is not 3 numbers"),
        ({"std": ["1", "0", "1"]}, "--std is 1,0,1; all three must be positive"),
    ],
)
def test_contradictions_are_refused(given, message):
    with pytest.raises(UserError) as error:
        override(pretrained(), given)
    assert message in str(error.value)


def test_half_a_normalization_is_no_normalization():
    standardizes = pretrained(InputSpec(normalization=Normalization(standardize=True)))
    with pytest.raises(UserError, match="standardize each image; to change that, give both --mean and --std"):
        override(standardizes, {"mean": ["0", "0", "0"]})


def test_classes_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("ant\nbee\n")
    with pytest.raises(UserError, match=r"names.txt has 2 class names, one per line, but file.h5 has 3 outputs"):
        override(pretrained(), {"classes": str(path)})
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"names.txt is not a text file in UTF-8"):
        override(pretrained(), {"classes": str(path)})


@pytest.mark.parametrize(
    ("spec", "given", "said"),
    [
        (InputSpec(), {}, "input: 299 px, crop 0.875, bilinear, pixels -1 to 1; scores: softmax"),
        (
            InputSpec(299, 0.9, "bicubic", IMAGENET),
            {"resize": "squash", "scores": "linear"},
            "input: 299 px, squash (given), bicubic, mean 0.485/0.456/0.406, std 0.229/0.224/0.225; "
            "scores: linear (given)",
        ),
        (
            InputSpec(normalization=Normalization(standardize=True), stain=((1, 2, 3), (4, 5, 6))),
            {"image_size": 96},
            "input: 96 px (given), crop 0.875, bilinear, each image standardized, stain normalized; scores: softmax",
        ),
        (
            InputSpec(),
            {"input_range": ["0", "255"], "interpolation": "area"},
            "input: 299 px, crop 0.875, area (given), pixels 0 to 255 (given); scores: softmax",
        ),
    ],
)
def test_line_says_what_the_network_is_shown_and_what_was_given(spec, given, said):
    assert described(override(pretrained(spec), given), given) == f"weights: file.h5; {said}"


def test_a_head_is_that_of_the_file():
    """`load` has read the weights with it; those of a graph or of a single layer have their own."""
    read = dataclasses.replace(pretrained(), options={"head": "dense 8, gelu"})
    assert override(read, {"head": "dense 8 gelu"}) == read
    for found, has in ((read, '"dense 8, gelu"'), (pretrained(), "no head of several layers")):
        with pytest.raises(UserError, match=f'--head="dense 8 relu" is not the head of file.h5, which has {has}'):
            override(found, {"head": "dense 8 relu"})
