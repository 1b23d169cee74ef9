"""Paths that users give: remote ones, those of a home directory, and what they are for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xception_jax.cli.common import keep_compiled_programs
from xception_jax.data import open_source
from xception_jax.errors import UserError
from xception_jax.filesystem import paths
from xception_jax.pretrained import hub, load
from xception_jax.training import loop

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", ["gs://bucket/run", "s3://a/b.csv", "hdfs://h/x", "http://h/x", "file:///tmp/x"])
@pytest.mark.parametrize("kind", [str, Path])
def test_remote_storage_is_refused(path, kind):
    with pytest.raises(UserError, match="is remote storage, which is not supported"):
        paths.local(kind(path))


@pytest.mark.parametrize("path", ["runs/mine", "/a/gs://b", "./gs:/b", "C:/runs", "a b:c", "gs:"])
def test_local_folders_are_not(path):
    assert paths.local(path) == Path(path)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("main", ["--config=configs/quickstart.py", "--workdir=gs://bucket/run"]),
        ("predict", ["x.jpg", "--weights=imagenet", "--output=s3://bucket/x.csv"]),
        ("predict", ["x.jpg", "--weights=imagenet", "--explain=s3://bucket/x"]),
        ("predict", ["x.jpg", "--weights=imagenet", "--features=s3://bucket/x.npz"]),
        ("convert", ["--weights=imagenet", "--to=npz", "--output=hdfs://host/x.npz"]),
        ("compare", ["a", "b", "--json=gs://bucket/x.json"]),
        ("plan", ["--topology=cpu:1", "--json=gs://bucket/x.json"]),
        ("benchmark", ["--json=gs://bucket/x.json"]),
        ("doctor", ["--workdir=gs://bucket/run"]),
        ("predict", ["gs://bucket/x.jpg", "--weights=imagenet"]),
        ("finetune", ["--data=gs://bucket/x", "--weights=imagenet"]),
        ("evaluate", ["--data=gs://bucket/x", "--weights=imagenet"]),
    ],
)
def test_every_path_refuses_it_at_once(tmp_path, module, arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if module == "main":
        arguments = [f"--config={ROOT / 'configs' / 'quickstart.py'}", *arguments[1:]]
    command = [sys.executable, "-m", f"xception_jax.{module}", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    *others, line = done.stderr.splitlines()
    assert "is remote storage, which is not supported" in line
    assert all(other.startswith("config: ") for other in others)  # the installed one, of finetune
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run[28]", "run*", "what?"])
def test_work_directory_that_is_a_pattern_to_orbax_is_refused(tiny, tmp_path, name):
    with pytest.raises(UserError, match=f'because its path has a "\\{set(name).intersection("[*?").pop()}"'):
        loop.train(tiny, tmp_path / name)
    with pytest.raises(UserError, match="is remote storage"):
        loop.train(tiny, "gs://bucket/run")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def no_home(monkeypatch):
    """As in a container whose user is in no list of users."""

    def home(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr(Path, "expanduser", lambda path: home() if str(path).startswith("~") else path)
    for name in ("XCEPTION_JAX_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_home_nothing_is_kept(no_home, monkeypatch):
    monkeypatch.setattr("xception_jax.cli.common.sys.modules", {})  # this process' JAX is left as it is
    keep_compiled_programs()
    assert os.environ.pop("JAX_COMPILATION_CACHE_DIR") == ""


def test_without_a_home_weights_need_a_folder(no_home, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="there is no home directory to keep weights in; set XCEPTION_JAX_CACHE"):
        hub.find("imagenet", None)
    assert hub.find(str(tmp_path), None) == tmp_path  # a path needs none
    monkeypatch.setenv("XCEPTION_JAX_CACHE", str(tmp_path))
    assert hub.cache() == tmp_path / "weights"
    with pytest.raises(UserError, match="~/run cannot be used: there is no such home directory"):
        paths.local("~/run")


def test_a_cache_that_cannot_be_made_is_said_before_the_download(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XCEPTION_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"weights cannot be kept in .*file/weights \(Not a directory\); set XCEPTION"):
        hub.find("imagenet", None)


def test_home_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    assert paths.writable(tmp_path / "new" / "cache")
    assert not paths.writable(tmp_path / "file" / "cache")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not paths.writable(tmp_path / "new")


def test_name_of_published_weights_is_not_a_folder_s(tmp_path, monkeypatch, capsys):
    """A folder of that name beside the user is ./imagenet, or any other path to it, and a Path is always one."""
    monkeypatch.chdir(tmp_path)
    for name in ("imagenet", "timm/xception65.ra3_in1k", "timm/mine"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(hub, "imagenet", lambda model: Path("downloaded", model))
    monkeypatch.setattr(hub, "hugging_face", lambda name: Path("hub", name))
    assert hub.find("imagenet", None) == Path("downloaded/xception")
    assert capsys.readouterr().out == "imagenet means the published weights; those in this folder are ./imagenet\n"
    assert hub.find("timm/xception65.ra3_in1k", None) == Path("hub/timm/xception65.ra3_in1k")
    assert "./timm/xception65.ra3_in1k" in capsys.readouterr().out
    assert hub.find("./imagenet", None) == Path("imagenet")
    assert hub.find("timm/mine", None) == Path("timm/mine")
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match=f"{tmp_path / 'imagenet'} "):
        load(Path("imagenet"))  # an empty folder


def test_data_on_remote_storage_is_refused():
    with pytest.raises(UserError, match=r"gs:/+bucket/x is remote storage"):
        open_source("folder", "train", {"path": "gs://bucket/x", "train_split": "train"})
