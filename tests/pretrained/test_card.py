"""Files beside weights: what they say is used if it can be true of these weights; if not, one line says why."""

import dataclasses
import json
import os

import hypothesis
import pytest
from hypothesis import strategies as st

from xception_jax.inputs.spec import InputSpec, Normalization
from xception_jax.models.variables import Weights
from xception_jax.pretrained.card import KNOWN_KEYS, MAX_BYTES, card_of, described, with_cards
from xception_jax.pretrained.pretrained import Pretrained

USUAL = InputSpec(crop_fraction=0.8975, interpolation="bicubic")
WEIGHTS = Pretrained("here", "xception", {"bn_epsilon": 1e-5}, 3, Weights({}, {}), USUAL)
NAMES = ["cat", "dog", "owl"]
CFG = {
    "input_size": [3, 96, 96],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "crop_pct": 0.9,
    "interpolation": "bilinear",
    "license": "apache-2.0",
}
GOOD = {"architecture": "legacy_xception", "num_classes": 3, "label_names": NAMES, "pretrained_cfg": CFG}
SPEC = InputSpec(96, 0.9, "bilinear", Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def cfg(**changes):
    return GOOD | {"pretrained_cfg": CFG | changes}


def read(tmp_path, capsys, **contents):
    """The weights with the cards given by file name ("config_json"), and the warnings."""
    for name, content in contents.items():
        stem, _, suffix = name.rpartition("_")
        data = content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content))
        (tmp_path / f"{stem}.{suffix}").write_bytes(data if isinstance(data, bytes) else data.encode())
    found = with_cards(WEIGHTS, tmp_path / "model.safetensors")
    return found, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    "card",
    [
        GOOD,
        {key: value for key, value in GOOD.items() if key != "pretrained_cfg"} | CFG,  # all at the first level
        cfg(label_names=NAMES) | {"label_names": None},
        GOOD | {"label_names": {"0": "cat", "1": "dog", "2": "owl"}},
        GOOD | {"architecture": "xception.tf_in1k"},
        {"id2label": {"2": "owl", "0": "cat", "1": " dog\n"}, "pretrained_cfg": CFG},
    ],
)
def test_good_cards(tmp_path, capsys, card):
    found, said = read(tmp_path, capsys, config_json=card)
    assert said == []
    assert (found.input, found.licence, found.class_names) == (SPEC, "apache-2.0", tuple(NAMES))


@pytest.mark.parametrize("key", ["input_size", "mean", "std", "crop_pct", "interpolation", "license"])
def test_null_says_nothing(tmp_path, capsys, key):
    found, said = read(tmp_path, capsys, config_json=cfg(**{key: None}))
    assert said == []
    usual = {"input_size": "image_size", "crop_pct": "crop_fraction", "interpolation": "interpolation"}
    if key in usual:
        assert found.input == dataclasses.replace(SPEC, **{usual[key]: getattr(USUAL, usual[key])})
    assert found.class_names == tuple(NAMES)


BAD = {
    "list": ([], "not an object"),
    "text": ('"model"', "not an object"),
    "cut": (json.dumps(GOOD)[:90], "damaged"),
    "empty": ("", "damaged"),
    "binary": (b"\xff\xfe\x00{", "not text"),
    "deep": ("[" * 200_000, "nested too deeply"),
    "deep object": ('{"pretrained_cfg":' * 100_000, "nested too deeply"),
    "large": (b" " * (MAX_BYTES + 1), "larger than 16 MiB"),
    "digits": ('{"crop_pct": ' + "9" * 10_000 + "}", "digits"),
    "other program": ({"batch_size": 3, "lr": 0.1}, "says nothing of classes or input"),
    "other architecture": (GOOD | {"architecture": "resnet50"}, "describes 'resnet50', but the weights are of xc"),
    "aligned architecture": (GOOD | {"architecture": "xception41"}, "describes 'xception41'"),
    "architecture number": (GOOD | {"architecture": 3}, "describes 3"),
    "cfg list": (GOOD | {"pretrained_cfg": [1]}, "pretrained_cfg is [1]"),
    "names text": (GOOD | {"label_names": "cat"}, "class names are 'cat'"),
    "names none": (GOOD | {"label_names": []}, "class names are []"),
    "names mixed": (GOOD | {"label_names": ["cat", None, "owl"]}, "a class name is None"),
    "name empty": (GOOD | {"label_names": ["cat", " ", "owl"]}, "a class name is ' '"),
    "name surrogate": (json.dumps(GOOD).replace("dog", "\\ud800"), "a class name is"),
    "name escape": (json.dumps(GOOD).replace("dog", "\\u001b[2J"), "a class name is"),
    "ids from 1": ({"id2label": {"1": "cat", "2": "dog", "3": "owl"}}, "not numbered from 0 to 2"),
    "ids doubled": ({"id2label": {"0": "cat", "00": "dog", "1": "owl"}}, "not numbered from 0 to 2"),
    "size number": (cfg(input_size=96), "input_size is 96, not [3, side, side]"),
    "size oblong": (cfg(input_size=[3, 96, 128]), "input_size is [3, 96, 128]"),
    "size negative": (cfg(input_size=[3, -96, -96]), "a side has 1 to"),
    "size huge": (cfg(input_size=[3, 10**9, 10**9]), "a side has 1 to"),
    "size fraction": (cfg(input_size=[3, 96.0, 96.0]), "input_size is"),
    "size bool": (cfg(input_size=[3, True, True]), "input_size is"),
    "size texts": (cfg(input_size=["3", "96", "96"]), "input_size is"),
    "crop text": (cfg(crop_pct="0.9"), "crop_pct is '0.9', not a number"),
    "crop zero": (cfg(crop_pct=0), "crop_pct is 0; it must be"),
    "crop two": (cfg(crop_pct=2.0), "crop_pct is 2.0; it must be"),
    "crop infinite": (json.dumps(cfg()).replace("0.9", "1e999"), "crop_pct is inf"),
    "crop integer": (json.dumps(cfg()).replace("0.9", "9" * 400), "too large"),
    "crop mode": (cfg(crop_mode="middle"), "crop_mode is 'middle', not one of center, squash, border"),
    "crop mode list": (cfg(crop_mode=["center"]), "crop_mode is ['center'], not one of"),
    "crop bool": (cfg(crop_pct=True), "crop_pct is True"),
    "mean one": (cfg(mean=[0.5]), "mean is [0.5], not three"),
    "mean texts": (cfg(mean=["a", "b", "c"]), "mean is 'a'"),
    "mean nan": (cfg(mean=[float("nan")] * 3), "mean is nan"),
    "mean of 255": (cfg(mean=[123.7, 116.3, 103.5]), "mean is 123.7; it must be"),
    "std zero": (cfg(std=[0.5, 0, 0.5]), "std is 0; it must be"),
    "std negative": (cfg(std=[-0.5] * 3), "std is -0.5; it must be"),
    "interpolation number": (cfg(interpolation=3), "interpolation is 3"),
    "license list": (cfg(license=["mit"]), "license is ['mit']"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_card_is_one_line_and_nothing_else(tmp_path, capsys, kind):
    card, reason = BAD[kind]
    found, said = read(tmp_path, capsys, config_json=card)
    assert found == WEIGHTS
    (line,) = said
    assert line.startswith(f"warning: {tmp_path}/config.json is not used: ")
    assert reason in line
    assert len(line) < 400


@pytest.mark.parametrize("names", [NAMES[:2], [f"thing {i}" for i in range(1000)]])
def test_names_of_another_number_are_not_used(tmp_path, capsys, names):
    """The rest of the card is: it came with the weights that these were fine-tuned from."""
    found, (line,) = read(tmp_path, capsys, config_json=GOOD | {"label_names": names, "num_classes": len(names)})
    assert (found.class_names, found.input) == ((), SPEC)
    assert line.endswith(f"is used in part: it names {len(names)} classes, but the network has 3 outputs")


def test_an_interpolation_that_is_not_ours_leaves_the_usual_one(tmp_path, capsys):
    found, (line,) = read(tmp_path, capsys, config_json=cfg(interpolation="random"))
    assert found.input == dataclasses.replace(SPEC, interpolation="bicubic")
    assert found.class_names == tuple(NAMES)
    assert "its interpolation is 'random'; bicubic is used" in line


@pytest.mark.parametrize(
    ("facts", "rule"),
    [({}, "squash"), ({"crop_pct": 0.9}, "crop"), ({"crop_mode": "border"}, "pad")]
    + [({"crop_pct": 0.9, "crop_mode": mode}, rule) for mode, rule in (("center", "crop"), ("squash", "squash"))],
)
def test_resize_rule(facts, rule):
    """Of weights that are usually squashed."""
    keras = dataclasses.replace(WEIGHTS, input=InputSpec(crop_fraction=1.0, resize="squash"))
    found, _ = described(keras, {"pretrained_cfg": facts})
    assert found.input.resize == rule


@pytest.mark.parametrize(
    "files",
    [
        {"labels_txt": "cat\ndog\nowl\n\n"},
        {"labels_txt": b"\xef\xbb\xbfcat\r\ndog\r\nowl\r\n"},
        {"labels_txt": "0 cat\n1 dog\n2 owl\n"},
        {"class_indices_json": {"dog": 1, "owl": 2, "cat": 0}},
        {"imagenet_classes_json": NAMES},
        {"imagenet_class_index_json": {"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "owl"]}},
        {"config_json": {"pretrained_cfg": CFG, "id2label": {str(i): f"LABEL_{i}" for i in range(3)}}}
        | {"labels_txt": "cat\ndog\nowl"},
    ],
)
def test_lists_of_names(tmp_path, capsys, files):
    found, said = read(tmp_path, capsys, **files)
    assert found.class_names == tuple(NAMES)
    assert said == []


def test_names_of_numbers_are_not_taken_for_indices(tmp_path, capsys):
    """Keras sorts folders as texts: "10" comes before "2"."""
    found, _ = read(tmp_path, capsys, class_indices_json={"1": 0, "10": 1, "2": 2})
    assert found.class_names == ("1", "10", "2")


def test_the_first_list_that_fits_is_used(tmp_path, capsys):
    found, (line,) = read(tmp_path, capsys, labels_txt="a\nb\nc\nd", class_indices_json={"x": 0, "y": 1, "z": 2})
    assert found.class_names == ("x", "y", "z")
    assert line.endswith("labels.txt is not used: it names 4 classes, but the network has 3 outputs")


def test_names_in_a_config_come_before_lists(tmp_path, capsys):
    found, said = read(tmp_path, capsys, config_json=GOOD, labels_txt="x\ny\nz")
    assert found.class_names == tuple(NAMES)
    assert said == []


@pytest.mark.parametrize("name", ["config.json", "labels.txt"])
def test_what_is_no_file(tmp_path, capsys, name):
    (tmp_path / "folder" / name).mkdir(parents=True)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / name).symlink_to("nowhere")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / name)
    for kind, reason in {"folder": "it is not a file", "link": "cannot be read (No such", "pipe": "not a file"}.items():
        assert with_cards(WEIGHTS, tmp_path / kind / "a.h5") == WEIGHTS
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line
        assert str(tmp_path / kind / name) in line


def test_unreadable_file(tmp_path, capsys, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(GOOD))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    assert with_cards(WEIGHTS, tmp_path / "a.h5") == WEIGHTS
    assert capsys.readouterr().err.endswith("it cannot be read (Permission denied)\n")


def test_no_card_no_words(tmp_path, capsys):
    assert with_cards(WEIGHTS, tmp_path / "a.h5") is WEIGHTS
    assert capsys.readouterr().err == ""


def test_a_card_says_all_that_is_known(capsys):
    """Through JSON and back: a regression on stained tiles, with settings that no other format has."""
    stain = (1.0, 2.0, -3.0), (4.0, 5.0, 6.0)
    spec = InputSpec(128, 1.0, "area", Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), standardize=True), stain, "pad")
    options = {"bn_epsilon": 1e-2, "pool_padding": "symmetric"}
    known = dataclasses.replace(
        WEIGHTS, input=spec, options=options, class_names=tuple(NAMES), licence="MIT", scores="linear"
    )
    card = json.loads(json.dumps(card_of(known, "legacy_xception", options)))
    assert described(WEIGHTS, card) == (known, [])


@pytest.mark.parametrize("ours", [[], {"bn_epsilon": 0}, {"pool_padding": "none"}, {"stain": [1]}, {"scores": "votes"}])
def test_settings_of_ours_are_checked_too(tmp_path, capsys, ours):
    found, (line,) = read(tmp_path, capsys, config_json=GOOD | {"xception_jax": ours})
    assert found == WEIGHTS
    assert "is not used: its " in line


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from([3, 0.5, 96])
ANYTHING = st.recursive(
    LEAVES,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "stain", "mean"]), x),
    max_leaves=6,
)


@hypothesis.given(st.dictionaries(st.sampled_from(KNOWN_KEYS), ANYTHING, min_size=1))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_card_is_at_most_one_line(tmp_path, capsys, card):
    """Whatever is used of it fits the network."""
    (tmp_path / "config.json").write_text(json.dumps(card))
    found = with_cards(WEIGHTS, tmp_path / "model.safetensors")
    assert capsys.readouterr().err.count("\n") <= 1
    assert len(found.class_names) in (0, 3)
    assert 1 <= found.input.image_size <= 4096
    assert 0 < found.input.crop_fraction <= 1
    assert all(s > 0 for s in found.input.normalization.std)
