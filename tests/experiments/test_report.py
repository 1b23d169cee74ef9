"""The page of results: made of records, and the committed one is."""

import json
import re

import pytest

from experiments import records, report

SEEDS = {"xception": [0.60, 0.61, 0.62], "inception_v3": [0.50, 0.51, 0.52], "no_residual": [0.60, 0.62],
         "segments_1": [0.55, 0.56, 0.57]}  # fmt: skip


@pytest.fixture
def found(tmp_path):
    """Records of some variants, in which Xception is ten points better than Inception V3."""
    shared = {
        "config": {"batch_size": 64, "num_epochs": 1.0, "image_size": 32, "model.width": 0.125, "model.stem": "small"},
        "parameters": 1000, "steps": 20, "images_per_second": 100.0, "date": "2026-01-02T00:00:00",
        "code": {"commit": "abcdef0123", "dirty": False}, "device": {"count": 1, "kind": "cpu"},
        "versions": {"python": "3", "jax": "1", "flax": "1", "optax": "1"},
    }  # fmt: skip
    for variant, values in SEEDS.items():
        for seed, top1 in enumerate(values):
            curve = [{"step": 10, "top1": top1 / 2}, {"step": 20, "top1": top1}]
            record = {**shared, "variant": variant, "seed": seed, "curve": curve, "test": {"top1": top1}}
            if variant == "segments_1":
                record["config"] = shared["config"] | {"model.segments": 1}
            records.write(tmp_path, record)
    return report.by_variant(tmp_path)


def row(page, begin):
    return next(line for line in page.splitlines() if line.startswith(f"| {begin}"))


def test_verdicts_follow_from_the_records(found):
    page = report.markdown(found, {})
    assert "+10.00" in row(page, "Xception is more accurate")
    assert "3, 3 | **holds**" in row(page, "Xception is more accurate")
    assert "3, 2 | **too few seeds**" in row(page, "Residual connections help")
    assert "3, 0 | **not measured**" in row(page, "No activation between")
    assert "| 56.00 | +5.00 (" in row(page, "1 | 1,000")
    assert "| Xception | 22,855,952 | 22,855,952 |" in page
    assert "| Inception V3 | 23,626,728 | 23,626,728 |" in page


def test_the_page_in_html_holds_its_figures(found, tmp_path):
    path = report.draw(found, "accuracy", tmp_path / "images")
    drawn = path.read_text()
    assert "xception (3 seeds)" in re.sub(r"<!--|-->", "", drawn)
    page = report.html("![a](images/accuracy.svg)\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", tmp_path)
    assert page.count("<svg") == 1
    assert "<img" not in page
    assert "<td>1</td>" in page


@pytest.mark.slow
def test_the_committed_page_is_that_of_the_committed_records():
    found = report.by_variant(report.RESULTS)
    figures = report.drawable(found)
    made = report.markdown(found, figures)
    assert (report.DOCS / "reproduction.md").read_text() == made, "run python -m experiments.report"
    assert all((report.DOCS / path).is_file() for path in figures.values())


def test_records_say_all_that_repeats_a_run():
    for record in records.read_all(report.RESULTS):
        assert record["code"]["commit"]
        assert json.dumps(record["config"])
        assert record["command"].startswith("python -m xception_jax.main --config=experiments/cifar10/config.py:")
