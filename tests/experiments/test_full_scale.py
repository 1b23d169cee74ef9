"""Full-scale configs: what is kept of them, and how it is shown. Nothing of full size is compiled here."""

import json

import pytest

from experiments import full_scale
from experiments.full_scale import CHIPS, CONFIGS, JFT_CLASSES, REPLICA, settings_of
from experiments.report import FULL_SCALE
from xception_jax import experiment
from xception_jax.training.recipe import create_recipe

PLAN = {"batch_per_chip": 128, "dtype": "bfloat16", "fits": False, "needed": 18e9, "limit": 16e9,
        "images_per_second": {"traffic": 4000.0, "flops": 3000.0}, "compile_seconds": 80.4}  # fmt: skip
TRAINING = {"losses": [7.0, 6.5, 6.25], "peak_bytes": 3.21e9}
INPUT = {"settings": full_scale.views(CONFIGS[0]), "images_per_second": [900, 1000, 1100], "peak_bytes": 4e8,
         "cores": 2, "processor": "Xeon"}  # fmt: skip
SHARED = {"date": "2026-01-02T03:04:05+00:00", "code": {"commit": "abcdef0123"}, "versions": {"jax": "1.2"}}


@pytest.fixture
def measured(monkeypatch):
    """Parts that return at once; the list of those done."""
    done = []

    def part(name, figures):
        def do(config, folder):
            done.append((config, name))
            return figures | {"versions": SHARED["versions"]}

        return do

    parts = {"plan": PLAN, "training": TRAINING, "input": INPUT}
    monkeypatch.setattr(full_scale, "PARTS", {name: part(name, figures) for name, figures in parts.items()})
    return done


def test_what_is_done_is_not_done_again(measured, tmp_path):
    """Nor is an input like another's."""
    one, other = CONFIGS[:2]
    full_scale.main([f"--records={tmp_path}", "--parts=training", one])
    full_scale.main([f"--records={tmp_path}", "--parts=plan,training,input", one, other])
    assert sorted(measured) == sorted([*((c, p) for c in (one, other) for p in ("plan", "training")), (one, "input")])
    first, second = full_scale.read_all(tmp_path)
    assert second["input"] == first["input"]


def test_the_table():
    record = {"config": "configs/a.py:b", "plan": SHARED | PLAN, "training": SHARED | TRAINING, "input": SHARED | INPUT}
    partly = {"config": "configs/c.py", "input": SHARED | INPUT}
    assert full_scale.rows([record, partly]) == [
        ("`configs/a.py:b`", "128, bfloat16", "no", "18.0 of 16.0", "3,000", "80 s", "7.000, 6.500, 6.250", "3.2",
         "1,000 (900 to 1,100)", "32", "0.4"),
        ("`configs/c.py`", *[""] * 7, "1,000 (900 to 1,100)", "32", "0.4"),
    ]  # fmt: skip
    assert full_scale.conditions([record]) == "2026-01-02; 2 cores, Xeon; jax 1.2; code abcdef0."


def test_records_are_of_the_configs_as_they_are():
    """And of committed code."""
    for record in full_scale.read_all(FULL_SCALE):
        config, parts = record["config"], {part: record[part] for part in full_scale.PARTS if part in record}
        assert config in CONFIGS
        assert not any(done["code"]["dirty"] for done in parts.values())
        for done in parts.values():
            assert config in done["command"] or done is parts["input"]
        if "plan" in parts:
            asked = settings_of(config).batch_size
            assert parts["plan"]["batch_per_chip"] == (asked if asked == REPLICA else asked // CHIPS)
        if "input" in parts:
            assert parts["input"]["settings"] == json.loads(json.dumps(full_scale.views(config)))


def test_what_is_planned_of_several_labels_an_image_is_trained_by_them():
    """Without the data that says so."""
    config = settings_of("configs/paper.py:jft_xception")
    config.data.update(name="synthetic", num_classes=JFT_CLASSES, num_examples=32)
    planned = create_recipe(experiment.create(config))
    assert planned.abstract_batch["label"].shape == (32, JFT_CLASSES)
    assert planned.settings.task.name == "multi_label"
