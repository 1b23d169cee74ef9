"""The files of experiments/launch, as far as they run without a cluster; ssh, srun and gcloud are stand-ins."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.test_distributed import free_port
from xception_jax import main
from xception_jax.parallel import distributed

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "experiments" / "launch"
RUN = ["--config=configs/quickstart.py", "--config.data.name=synthetic", "--workdir=/tmp/a b"]

# What it is called with, and one of $CODES, in turn, as its exit code.
RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "$(basename "$0")" "$@" >>"$RECORD"
count=$(grep -cx "$(basename "$0")" "$RECORD")
codes=($CODES)
exit "${codes[count - 1]:-0}"
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes an executable of a name; the names and arguments of all that were called are in the file $RECORD."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("RESTART_SECONDS", "0")

    def make(name: str, script: str = RECORDER) -> None:
        path = folder / name
        path.write_text(script)
        path.chmod(0o755)

    return make


def launch(file: str, *arguments: str, codes: str = "0", cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {**os.environ, "CODES": codes, "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.run(
        ["bash", str(LAUNCH / file), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "record").read_text().splitlines()


def assert_is_command(words: list[str]) -> None:
    """`-m xception_jax.main`, and flags that it has."""
    assert words[:2] == ["-m", "xception_jax.main"]
    for word in words[2:]:
        assert re.match(r"--([\w]+)", word)[1] in main.flags.FLAGS


@pytest.mark.parametrize("file", sorted(p.name for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch")))
def test_shell_takes_it(file):
    result = subprocess.run(["bash", "-n", str(LAUNCH / file)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("codes", "tries", "last"), [("0", 1, 0), ("75 134 137 0", 4, 0), ("75 1", 2, 1), ("2", 1, 2), ("130", 1, 130)]
)
def test_restarts_what_may_go_on(stand_in, tmp_path, codes, tries, last):
    stand_in("train")
    assert launch("restart.sh", "train", "a b", codes=codes).returncode == last
    assert calls(tmp_path) == ["train", "a b"] * tries


@pytest.mark.slow
def test_hosts_are_one_run(stand_in, tmp_path, monkeypatch):
    """Two real processes on this machine, as a dry run; ssh runs here what it is given."""
    stand_in("ssh", '#!/usr/bin/env bash\nexec bash -c "$3"\n')
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("PORT", str(free_port()))
    result = launch("hosts.sh", "localhost localhost", *RUN, "--mode=check")
    assert result.returncode == 0, result.stderr
    assert "on 2 x cpu" in result.stdout
    assert result.stdout.splitlines()[-1] == "ok: the run would be written to /tmp/a b"


def test_tpu_pod(stand_in, tmp_path):
    stand_in("gcloud")
    stand_in("python3")
    assert launch("tpu_pod.sh", "my-tpu", "my-zone", *RUN).returncode == 0
    *words, command = calls(tmp_path)
    assert words == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "my-tpu", "--zone=my-zone", "--worker=all"]
    (tmp_path / "record").unlink()
    (tmp_path / "xception_jax").symlink_to(ROOT)  # a host's home directory
    subprocess.run(["bash", "-c", command.removeprefix("--command=")], cwd=tmp_path, check=True)
    name, *words = calls(tmp_path)
    assert name == "python3"
    assert_is_command(words)
    assert words[2:] == ["--distributed", *RUN]


@pytest.mark.parametrize(("code", "queued"), [(0, False), (1, False), (2, False), (75, True), (137, True)])
def test_slurm_queues_again_what_may_go_on(stand_in, tmp_path, monkeypatch, code, queued):
    stand_in("srun")
    stand_in("scontrol")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert launch("slurm.sbatch", *RUN, codes=str(code)).returncode == code
    words = calls(tmp_path)
    assert words[:2] == ["srun", "python"]
    assert_is_command(words[2:7])
    assert words[4:7] == RUN
    assert words[7:] == (["scontrol", "requeue", "7"] if queued else [])


def test_jobset():
    job_set = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (replicated,) = job_set["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"][0] == "python"
    assert_is_command([*container["command"][1:], *container["args"]])
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert tuple(environment) == distributed.VARIABLES
    # The first pod's name, in the headless service that JobSet makes for the set.
    host = f"{job_set['metadata']['name']}-{replicated['name']}-0-0.{job_set['metadata']['name']}"
    assert environment["JAX_COORDINATOR_ADDRESS"].split(":")[0] == host
    assert int(environment["JAX_NUM_PROCESSES"]) == job["completions"] == job["parallelism"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1, 2]
    assert rule["onExitCodes"]["containerName"] == container["name"]
