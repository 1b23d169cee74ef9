"""`xception-jax doctor`: what is wrong is followed by what mends it."""

import os

import jax
import pytest

from xception_jax import doctor
from xception_jax.cli import health
from xception_jax.ops import trust


def findings(check):
    return {finding.about: finding for finding in check()}


def test_a_machine_in_order(tmp_path):
    found = [finding for check in health.checks(tmp_path / "not" / "yet") for finding in check()]
    assert {"versions", "devices", "host", "kernels", "input", "disk", "cache", "weights"} == {f.about for f in found}
    assert {f.about for f in found if f.mend} <= {"disk", "cache"}  # which may be full here, or switched off


def test_kernels_that_are_not_trusted_are_named(monkeypatch):
    bad = {"wrong": {"error": 0.3}, "slower": {"speedup": 0.5}, "failed": {"failure": "no such GPU"}, "ok": {}}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(trust, "verdicts", lambda dtype: [trust.Verdict("separable", dtype, **v) for v in bad.values()])
    found = list(health.kernels())
    assert len(found) == len(bad) * len(trust.BOUNDS)
    for word, finding in zip(bad, found, strict=False):
        assert word in finding.found
        assert ("plain form is used" in finding.mend) == (word != "ok")


def test_a_gpu_that_jax_does_not_use_is_noticed(monkeypatch):
    monkeypatch.setattr(health.Path, "exists", lambda self: str(self) == "/proc/driver/nvidia/version")
    assert 'pip install "jax[cuda12]"' in findings(health.devices)["devices"].mend


def test_a_full_disk_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setattr(health.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e9}))
    assert "free some space" in findings(lambda: health.disk(tmp_path))["disk"].mend


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_noticed(tmp_path):
    tmp_path.chmod(0o500)
    assert "another --workdir" in findings(lambda: health.disk(tmp_path))["disk"].mend


def test_a_cache_that_cannot_be_used_is_noticed(tmp_path):
    file = tmp_path / "file"
    file.touch()
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(file / "below"))
    try:
        assert "JAX_COMPILATION_CACHE_DIR" in findings(health.compiled_programs)["cache"].mend
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_folder_for_weights_that_cannot_be_used_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XCEPTION_JAX_CACHE", str(tmp_path / "file"))
    assert "XCEPTION_JAX_CACHE" in findings(health.weights)["weights"].mend


@pytest.mark.parametrize(("mend", "code"), [("", 0), ("turn it off and on again", 1)])
def test_exit_code_and_arrows(monkeypatch, capsys, mend, code):
    monkeypatch.setattr(health, "checks", lambda _: [lambda: iter([health.Finding("thing", "is so", mend)])])
    monkeypatch.setattr(doctor.flags, "FLAGS", type("Flags", (), {"workdir": "runs"}))
    assert doctor.main([]) == code
    assert (f"-> {mend}" in capsys.readouterr().out) == bool(mend)
