"""One folder a responsibility, and imports that go one way."""

import ast
import collections
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "xception_jax"
# Each may import those of earlier lines, and its own. Modules are in the test of what is at the top.
LAYERS = (
    ("errors", "version"),
    ("filesystem",),
    ("extension", "formats", "parallel", "terminal"),
    ("ops",),
    ("inputs",),
    ("models",),
    ("tasks",),
    ("data",),
    ("workdir",),
    ("config",),
    ("pretrained",),
    ("experiment",),
    ("evaluation",),
    ("training",),
    ("inference", "planning", "resilience"),
    ("finetuning",),
    ("benchmarking",),
    ("cli",),
)
COMMANDS = {"evaluate", "finetune", "main", "predict", "convert", "compare", "plan", "benchmark", "doctor"}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The training command as `resilience` runs it, which writes down what it is given.
EXCEPTIONS = {("resilience/recorded_run.py", "main")}


def imported(path):
    """The rooms that a file imports from, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("xception_jax."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "xception_jax":
            inner = node.module.split(".")[1:]
            yield from inner[:1] or [a.name for a in node.names if a.name != "__version__"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(path):
    name = path.relative_to(PACKAGE).as_posix()
    room = name.split("/")[0].removesuffix(".py")
    if room == "__init__" or room in COMMANDS:
        return
    for other in imported(path):
        allowed = other == room or (other in RANK and RANK[other] < RANK[room]) or (name, other) in EXCEPTIONS
        assert allowed, f"{name} imports {other}"


def test_nothing_but_commands_at_the_top():
    modules = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == COMMANDS | {"config", "experiment", "errors", "version"}
    assert {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"} == RANK.keys() - modules


def test_every_public_name_is_documented():
    """In docs/api.md, and by itself."""
    import xception_jax

    document = (PACKAGE.parent / "docs" / "api.md").read_text()
    for name in set(xception_jax.__all__) - {"__version__"}:
        assert f"`{name}" in document or f", `{name}" in document, name
        assert getattr(xception_jax, name).__doc__, name
    assert not hasattr(xception_jax, "no_such_name")


def test_no_two_modules_have_one_name():
    """But for those that are the same thing of another room, or of another platform."""
    same = {"registry", "run", "step"} | {path.stem for path in (PACKAGE / "ops").glob("*.py")}
    count = collections.Counter(path.stem for path in PACKAGE.rglob("*.py") if path.stem not in same | {"__init__"})
    assert [name for name, number in count.items() if number > 1] == []
