"""What the commands have in common: mistakes end in one line, and exit code 2; compiled programs are kept."""

import contextlib
import inspect
import io
import itertools
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from xception_jax.errors import StorageError, TrainingError, UserError, suggest
from xception_jax.filesystem import paths

# Flags that are defined here belong to the command that asks for them: its --help lists them.
flags.disclaim_key_flags()


def fail(error: Exception | str, code: int = 2) -> NoReturn:
    """Prints one line and exits."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


def fail_for_memory(said: str) -> NoReturn:
    """Prints, in one line, that there is too little memory and what needs less of it, and exits."""
    reason = said.splitlines()[0].rstrip(".")
    fail(
        f"too little memory: {reason}; take smaller batches, or in training compute them in parts "
        "(config.optimizer.accumulate_steps)"
    )


@contextlib.contextmanager
def errors_in_one_line(interrupted: str = "interrupted") -> Iterator[None]:
    """Within the context, a user's mistake ends the program by one line and exit code 2, a failed run with 1.

    Data that cannot be read for now ends it with 75, the code after which schedulers start it again.

    Args:
      interrupted: what is said after Ctrl-C.
    """
    try:
        yield
    except UserError as e:
        fail(e)
    except TrainingError as e:
        fail(e, 1)
    except StorageError as e:
        fail(e, os.EX_TEMPFAIL)
    except (RuntimeError, ValueError) as e:  # the latter from a step in this thread, see `host_memory`
        if not str(e).startswith("RESOURCE_EXHAUSTED"):
            raise
        fail_for_memory(str(e).removeprefix("RESOURCE_EXHAUSTED: "))
    except MemoryError as e:  # the host's, most often from NumPy, which says how much was wanted
        fail_for_memory(str(e) or "the host has no more")
    except BrokenPipeError:  # who read what is printed has gone, `head` for one: there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as e:
        if e.filename is None:
            raise
        fail(f"{e.filename} cannot be used: {e.strerror}")
    except KeyboardInterrupt:
        fail(interrupted, 130)


def keep_compiled_programs() -> None:
    """Keeps compiled programs between runs, so that a second start takes seconds.

    They are in `$JAX_COMPILATION_CACHE_DIR`: nowhere if that is empty, and if it is not set, in the user's cache, if
    there is one that can be written. Those that took less than `$JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` are not
    kept.
    """
    cache = paths.cache()
    default = cache / "compiled" if cache and paths.writable(cache) else ""
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(default))
    # JAX' own limit, a second, would leave out the program that makes the first state.
    shortest = os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    if jax := sys.modules.get("jax"):  # otherwise it reads the variables when it is imported: --help needs no jax
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", float(shortest))


def prepare() -> None:
    """What every command does first."""
    absl_logging.set_verbosity(absl_logging.WARNING)  # absl shows what other libraries are informed of, too
    keep_compiled_programs()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files and classes may be in any script


def with_underscores(argument: str) -> str:
    """`--image-size=71` as `--image_size=71`: both are understood."""
    return re.sub(r"^--?[^=]+", lambda name: "--" + name[0].lstrip("-").replace("-", "_"), argument)


# Settings that say how long training is; the last two may be None.
LENGTHS = ("num_epochs", "num_steps", "num_examples")
HELP = re.compile(r"--?(help|helpshort|helpfull|helpxml)|-\?")


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether one of the arguments is --help, or one of its kinds."""
    return any(HELP.fullmatch(argument) for argument in arguments)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """What absl leaves of a command line, the program's name first; --help ends with 0, where absl has 1.

    Raises:
      UserError, flags.Error: the command line is mistyped, or contradicts itself.
    """
    try:
        rest = flags.FLAGS(argv)
    except SystemExit as e:
        sys.exit(0 if asks_for_help(argv) else e.code)
    replace_length(argv)
    return rest


def replace_length(arguments: Sequence[str]) -> None:
    """Makes a length of training that is given on the command line the only one: the config file may have another.

    Raises:
      UserError: two are given.
    """
    given = [key for key in LENGTHS if any(re.match(rf"--?config\.{key}(=|$)", a) for a in arguments)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(f'--config.{key}' for key in given)} are lengths of training; give one of them")
    for key in LENGTHS[1:]:
        if given and key not in given:
            flags.FLAGS.config[key] = None


def before_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments up to `--`, and the rest, which are no flags, even where they begin with a dash."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at:])


def define_config(help: str) -> flags.FlagHolder:
    """Defines the flag --config: an experiment's file, whose section `user` may be added to on the command line.

    What else does not exist is refused by `check_config_flags`.
    """
    from ml_collections import config_flags  # which `benchmark` does without, as it runs beside any peer

    return config_flags.DEFINE_config_file("config", None, help, lock_config=False, accept_new_attributes=True)


def define_path(name: str, default: str | None, help: str) -> flags.FlagHolder[str | None]:
    """Defines a flag that is a path: remote storage is refused at once."""
    holder = flags.DEFINE_string(name, default, help)

    def check(path: str | None) -> bool:
        try:
            return path is None or bool(paths.local(path))
        except UserError as e:
            raise flags.ValidationError(str(e)) from None

    flags.register_validator(name, check)
    return holder


def define_reading() -> None:
    """The flags of commands that load weights for what files do not say, or must not."""
    flags.DEFINE_string("model", None, "The network expected; by default whichever of ours the weights are of.")
    flags.DEFINE_list("ignore", [], "Arrays to leave out of a file: names or patterns, such as fc.*, with commas.")
    flags.DEFINE_string("head", None, "Layers before the logits of a PyTorch file, such as 'dense 512 gelu'.")


def run(main: Callable[[list[str]], int | None], define_flags: Callable[[], None], config: Path | None = None) -> None:
    """Runs a command that takes arguments beside its flags.

    Args:
      main: takes the arguments; returns the exit code.
      define_flags: called only now: modules that are imported for other purposes define none.
      config: the config file of a command that needs one, if --config names no other.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            define_flags()
            own, paths = before_dashes(argv[1:])
            if config and not config_files(own) and not asks_for_help(own):
                own = [f"--config={config}", *own]
            rest = parse_flags([argv[0], *check_config_flags(list(map(with_underscores, own))), *paths])
        except (UserError, flags.Error) as e:
            fail(e)
        return rest

    def call(argv: Sequence[str]) -> int | None:
        with errors_in_one_line():
            return main(list(argv[1:]))

    prepare()
    app.run(call, flags_parser=parse)


def check_config_flags(arguments: Sequence[str]) -> list[str]:
    """The arguments, in which --config names a file that exists: one in this folder, or one of `xception_jax.configs`.

    Raises:
      UserError: a --config flag names a file or a setting that does not exist.
    """
    checked: list[str] = []
    for argument in arguments:
        if checked and checked[-1] in ("--config", "-config"):
            argument = find_config(argument)
        elif path := re.match(r"--?config=(.+)", argument):
            argument = f"--config={find_config(path[1])}"
        checked.append(argument)
    keys = [found[1] for argument in arguments if (found := re.match(r"--config\.([^=]+)", argument))]
    if keys or any(":" in path for path in config_files(checked)):  # a choice may be mistyped, too
        from xception_jax import config as config_lib  # imports jax, which --help does not need

        declared = [key for path in config_files(checked) for key in config_lib.flatten(config_of(path))]
        for key in keys:
            config_lib.check_key(key, declared)
    return checked


def config_files(arguments: Sequence[str]) -> list[str]:
    """The config files that arguments name, each with its choice."""
    after = [path for flag, path in itertools.pairwise(arguments) if flag in ("--config", "-config")]
    return after + [found[1] for argument in arguments if (found := re.match(r"--?config=(.+)", argument))]


def config_of(given: str) -> Any:
    """The settings of a config file, which may have some of its own: "FILE", or "FILE:CHOICE" of those it offers."""
    path, _, choice = given.partition(":")
    get_config = runpy.run_path(path)["get_config"]
    if choice and not inspect.signature(get_config).parameters:
        raise UserError(f'{path} offers no choices, but --config has ":{choice}" after it; leave that out')
    return get_config(*filter(None, [choice]))


def find_config(given: str) -> str:
    """`given`, "FILE" or "FILE:CHOICE", with the path of a file that exists; errors as of `find_config_file`."""
    path, colon, choice = given.partition(":")
    return f"{find_config_file(Path(path))}{colon}{choice}"


def find_config_file(path: Path) -> Path:
    """The config file of that path; if there is none, configs/NAME.py is the installed one.

    Raises:
      UserError: there is no such Python file; the message names those beside it and those installed.
    """
    if path.is_file() and path.suffix == ".py":
        return path
    installed = {str(Path("configs", p.name)): p for p in installed_configs()}
    if str(path) in installed:
        print(f"config: {installed[str(path)]}", file=sys.stderr)
        return installed[str(path)]
    there = {str(p) for p in path.parent.glob("*.py") if "def get_config(" in p.read_text(errors="replace")}
    raise UserError(f"there is no config file {path}; {suggest(str(path), there | installed.keys())}")


def installed_configs() -> list[Path]:
    """The files of the package `xception_jax.configs`: in a checkout, those in its configs/."""
    folder = resources.files("xception_jax.configs")
    return [Path(str(p)) for p in folder.iterdir() if p.name.endswith(".py") and not p.name.startswith("_")]
