"""The program `xception-jax`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from xception_jax.cli.common import check_config_flags, find_config_file, parse_flags
from xception_jax.cli.dispatch import COMMANDS
from xception_jax.errors import UserError
from xception_jax.version import __version__

PROGRAM = Path(sys.executable).with_name("xception-jax")


def run(*arguments: str, cwd: Path | None = None) -> tuple[int, str, str]:
    ran = subprocess.run([PROGRAM, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_commands(arguments):
    code, out, _ = run(*arguments)
    assert code == 0
    described = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  ")]
    assert [name for name, _ in described] == list(COMMANDS)


def test_version():
    assert run("--version") == (0, f"xception-jax {__version__}\n", "")


def test_wrong_usage_names_the_command_as_it_was_called():
    assert run("predict")[2].startswith("error: usage: xception-jax predict --weights=")


def test_settings_of_the_user_s_own_are_added_on_the_command_line():
    """Their types are those of Python's literals; what else does not exist is refused, as is a mistyped one."""
    program = (
        "from xception_jax import main; import sys; main.parse_flags(sys.argv); print(main.config().user.to_dict())"
    )
    given = ["--config=configs/quickstart.py", "--config.user.depth=2", "--config.user.name=abc"]
    ran = subprocess.run([sys.executable, "-c", program, *given], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("{'depth': 2, 'name': 'abc'}\n", "")


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        ([], (0.5, 5, 95)),
        (["num_epochs=2"], (2.0, None, None)),
        (["num_steps=7"], (0.5, 7, None)),
        (["num_examples=80"], (0.5, None, 80)),
    ],
)
def test_the_length_of_the_command_line_replaces_those_of_the_file(given, lengths, lengths_of):
    assert lengths_of(given) == lengths


def test_two_lengths_on_the_command_line_are_an_error(lengths_of):
    with pytest.raises(UserError, match=r"--config\.num_epochs and --config\.num_steps are lengths of training"):
        lengths_of(["num_steps=7", "num_epochs=2"])


@pytest.fixture
def lengths_of(tmp_path, monkeypatch):
    """num_epochs, num_steps and num_examples of a config file that has all, as the flags given change them."""
    path = tmp_path / "all.py"
    path.write_text(
        "from xception_jax.config import default\n\n\ndef get_config():\n"
        "    c = default()\n    c.num_epochs, c.num_steps, c.num_examples = 0.5, 5, 95\n    return c\n"
    )
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)

    def lengths(given):
        argv = ["train", f"--config={path}", *(f"--config.{setting}" for setting in given)]
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        parse_flags(argv)
        return values.config.num_epochs, values.config.num_steps, values.config.num_examples

    return lengths


@pytest.mark.parametrize("key", ["user.gama", "user.deep.gamma", "model.gamma"])
def test_settings_that_are_no_new_ones_of_the_user_s_are_refused(key, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'user': {'gamma': 1}})\n"
    )
    with pytest.raises(UserError, match=r'did you mean "(config\.)?user\.gamma"'):
        check_config_flags([f"--config={path}", f"--config.{key}=2"])


@pytest.mark.parametrize(
    ("name", "hint"), [("predcit", 'did you mean "predict"?'), ("x", f"choose from: {', '.join(sorted(COMMANDS))}")]
)
def test_an_unknown_command_ends_in_one_line(name, hint):
    assert run(name) == (2, "", f'error: unknown command "{name}"; {hint}\n')


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "--helpfull"])
def test_help_needs_no_jax(name, flag):
    """Importing JAX takes a second or more."""
    ran = help_without_jax(name, flag)
    module, flags, _ = COMMANDS[name]
    assert all(f.split("=")[0] in ran.stdout for f in flags)
    assert f"xception_jax.{module}" in ran.stdout or f"xception-jax {name}" in ran.stdout
    expected = {"main": "--workdir", "predict": "--output", "convert": "--ignore", "finetune": "--data"}
    assert expected.get(module, "") in ran.stdout  # also flags that several commands have


def test_help_of_evaluation_names_both_its_forms():
    said = help_without_jax("evaluate", "--help").stdout
    for needed in ("--workdir=RUN", "--weights=WEIGHTS --data=DATA", "xception-jax evaluate --weights=WEIGHTS --help"):
        assert needed in said
    assert "--step" in said


@pytest.mark.parametrize("flag", ["--weights=imagenet", "--data=photographs"])
def test_evaluation_of_weights_is_another_module(flag):
    """Also with one of its two flags alone, which says that the other is missing."""
    assert "only_present" in help_without_jax("evaluate", flag, "--help").stdout
    code, out, error = run("evaluate", flag)
    assert (code, out) == (2, "")
    assert "--weights=WEIGHTS --data=DATA" in error


def help_without_jax(*arguments):
    program = """
import sys
from xception_jax.cli import dispatch
try:
    dispatch.main()
finally:
    print(*sorted({"jax", "flax", "numpy"} & sys.modules.keys()), file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "\n"), ran.stderr
    return ran


def test_names_are_imported_from_the_current_folder(tmp_path):
    """As with `python -m`: a network of one's own is named by its module."""
    (tmp_path / "mine.py").write_text("raise SystemExit('mine.py was imported')\n")
    (tmp_path / "config.py").write_text(
        "from xception_jax.config import default\n\n\ndef get_config():\n"
        "    c = default()\n    c.data.name = 'digits'\n    c.model.name = 'mine:Net'\n    return c\n"
    )
    code, _, error = run("check", "--config=config.py", cwd=tmp_path)
    assert (code, error) == (1, "mine.py was imported\n")


@pytest.mark.parametrize("flag", [["--config=configs/quickstart.py"], ["--config", "configs/quickstart.py"]])
def test_a_config_that_this_folder_lacks_is_the_installed_one(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = check_config_flags([*flag, "--workdir=x"])[-2].removeprefix("--config=")
    assert "digits" in Path(found).read_text()
    assert capsys.readouterr().err == f"config: {found}\n"


def test_a_config_of_this_folder_comes_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = Path("configs", "quickstart.py")
    own.parent.mkdir()
    own.write_text("def get_config(): ...")
    assert find_config_file(own) == own
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("configs/mien.py", "configs/mine.py"), ("configs/quickstrat.py", "configs/quickstart.py"), ("x", "choose from")],
)
def test_a_mistyped_config_is_compared_with_both(name, nearest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs", "mine.py").write_text("def get_config(): ...")
    with pytest.raises(UserError, match=f"there is no config file {name}; .*{nearest}"):
        find_config_file(Path(name))


def test_a_config_file_may_offer_a_choice(tmp_path):
    """`--config=FILE:CHOICE`, as ml_collections passes it on: settings that only the choice has are known."""
    path = tmp_path / "many.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(choice='small'):\n"
        "    return ConfigDict({'own': 1} if choice == 'large' else {})\n"
    )
    arguments = [f"--config={path}:large", "--config.own=2"]
    assert check_config_flags(arguments) == arguments
    with pytest.raises(UserError, match='no key "own"'):
        check_config_flags([f"--config={path}", "--config.own=2"])


def test_a_choice_that_is_not_offered_is_one_line(tmp_path):
    with pytest.raises(UserError, match='has no run "jft_xceptoin"; did you mean "jft_xception"'):
        check_config_flags(["--config=configs/paper.py:jft_xceptoin"])
    path = tmp_path / "one.py"
    path.write_text("def get_config(): ...")
    with pytest.raises(UserError, match=r'one\.py offers no choices, but --config has ":large" after it'):
        check_config_flags([f"--config={path}:large"])


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_reads_ends_quietly(unbuffered):
    """`xception-jax predict --help | head -1`, with a pipe whose reading end is closed before the program starts."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "xception_jax.cli.dispatch", "predict", "--help"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
