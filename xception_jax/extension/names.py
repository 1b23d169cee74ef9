"""Components by name: built-in, registered by a program, or imported."""

import functools
import importlib
import inspect
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from xception_jax.errors import UserError, reason, suggest

T = TypeVar("T")
# How an unknown name may have come into a run.
ELSEWHERE = "(a name that another program registered is not known here; use package.module:function)"
FROM_PYTHON = (
    "was given from Python, by another program; give it again there, as evaluate_run(..., source=..., loss=...) does, "
    "or set this name to one that can be imported, package.module:function"
)
BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Registry(Generic[T]):
    """The names of one kind of component.

    A name is built-in, registered, or "package.module:attribute", which is imported.

    Args:
      kind: the kind of component, for messages: "model".
      known: the built-in ones.
    """

    def __init__(self, kind: str, known: Mapping[str, T]):
        self._kind = kind
        self._known, self._built_in = dict(known), frozenset(known)

    def register(self, name: str, thing: T) -> T:
        """Adds a name, and returns `thing`. Registering a name again replaces it, so that notebook cells can be rerun.

        Raises:
          UserError: the name contains a colon, or is a built-in one; or this cannot be called.
        """
        if ":" in name:
            raise UserError(f'"{name}" cannot be registered as a {self._kind}: names with a colon are for imports')
        if name in self._built_in:
            raise UserError(f'"{name}" is a built-in {self._kind}; register yours under another name')
        if not callable(thing):
            raise UserError(f'{self._kind} "{name}" is of type {type(thing).__name__}; register a function or a class')
        self._known[name] = thing
        return thing

    def find(self, name: str) -> T:
        """The component with this name.

        Raises:
          UserError: unknown name; the message has the closest name, or says what cannot be imported.
        """
        if name in self._known:
            return self._known[name]
        if ":" in name:
            return self._imported(name)
        raise UserError(f'unknown {self._kind} "{name}"; {or_elsewhere(suggest(name, self._known))}')

    def _imported(self, name: str) -> T:
        module_name, _, attribute = name.partition(":")
        what = f'{self._kind} "{name}"'
        if "<" in attribute or "(" in attribute:  # as `name_of` calls lambdas and partials
            raise UserError(f"{what} {FROM_PYTHON}")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as e:
            if e.name is None or not f"{module_name}.".startswith(f"{e.name}."):
                raise  # the module exists, but one of its own imports does not
            raise UserError(f"{what} cannot be imported: no module {e.name} is installed or in this folder") from None
        try:
            found = operator.attrgetter(attribute)(module)
        except AttributeError:
            if module_name == "__main__":  # of another program
                raise UserError(f"{what} {FROM_PYTHON}") from None
            there = [n for n, x in vars(module).items() if callable(x) and getattr(x, "__module__", "") == module_name]
            hint = suggest(attribute, there) if there else "it defines no functions or classes"
            raise UserError(f"{what}: {module_name} has no {attribute}; {hint}") from None
        if not callable(found):
            raise UserError(f"{what} is of type {type(found).__name__}; name a function or a class")
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._known or ":" in name

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._known))


def or_elsewhere(hint: str) -> str:
    """A suggestion of known names; if none is near, with what else an unknown name may be."""
    return hint if "did you mean" in hint else f"{hint} {ELSEWHERE}"


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's or class's parameters, without *args, **kwargs, self, and what a partial has set."""
    return tuple(p.name for p in signature(function).parameters.values() if p.kind in BY_NAME)


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """What a function or class is called with; what a `functools.partial` has set is set for good."""
    if isinstance(function, functools.partial):
        found = [*signature(function.func).parameters.values()]
        return inspect.Signature([p for p in found[len(function.args) :] if p.name not in function.keywords])
    if inspect.isclass(function):  # the signature of a network's class is hidden by its metaclass
        found = [*inspect.signature(getattr(function, "__init__")).parameters.values()]  # noqa: B009
        return inspect.Signature(found[1:])
    return inspect.signature(function)


def check_options(what: str, options: Iterable[str], choices: Collection[str], section: str = "") -> None:
    """Raises UserError for an option that is not one of the choices.

    Args:
      what: has no such option: 'model "xception"'.
      options: names of options.
      choices: names of those that it has.
      section: what precedes names in messages: "data.".
    """
    for option in options:
        if option not in choices:
            quoted = f"{section}{option}" if section else f'"{option}"'
            raise UserError(f"{what} has no option {quoted}; {suggest(option, choices)}")


def name_of(thing: Any) -> str:
    """What a config calls a function or class that was given as an object: "package.module:function".

    A partial is called by its function and its arguments, "package.module:function(gamma=2.0)".
    """
    if isinstance(thing, functools.partial):
        keywords = (f"{name}={_written(value)}" for name, value in sorted(thing.keywords.items()))
        return f"{name_of(thing.func)}({', '.join([*map(_written, thing.args), *keywords])})"
    described = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{described.__module__}:{described.__qualname__}"


def _written(value: Any) -> str:
    """An argument of a partial."""
    return repr(value) if _is_plain(value) else name_of(value)


def _is_plain(value: Any) -> bool:
    """Whether a value is all that its `repr` tells."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, str | bool | int | float | None)


def tells_apart(thing: Any) -> bool:
    """Whether `name_of` a thing is that of no other: not of lambdas, local functions, and objects with a state."""
    if isinstance(thing, functools.partial):
        return all(_is_plain(x) or tells_apart(x) for x in (thing.func, *thing.args, *thing.keywords.values()))
    state = getattr(thing, "__self__", None)  # of a method
    return "<" not in getattr(thing, "__qualname__", "<") and (state is None or inspect.ismodule(state))


def wanted(
    function: Callable[..., Any], offered: Mapping[str, Any], given: int, what: str, section: str
) -> dict[str, Any]:
    """The settings in `offered` that a function has a parameter for.

    Args:
      function: a component.
      offered: settings by name.
      given: how many arguments it gets besides, by position.
      what: it is, for messages: 'loss "focal"'.
      section: of the config, to which settings are added that are missing: "user".

    Raises:
      UserError: it cannot be called with these; a setting is missing, say.
    """
    names = {*parameters(function)} - {p.name for p in [*signature(function).parameters.values()][:given]}
    chosen = {name: value for name, value in offered.items() if name in names}
    check_call(function, given, chosen, what, section)
    return chosen


def check_call(function: Callable[..., Any], given: int, names: Collection[str], what: str, section: str) -> None:
    """Raises UserError if a function cannot be called with settings of these names; the rest is as for `wanted`."""
    found = signature(function)
    try:
        found.bind(*[None] * given, **dict.fromkeys(names))
    except TypeError as e:
        missing = [
            p.name
            for p in [*found.parameters.values()][given:]
            if p.default is p.empty and p.kind in BY_NAME and p.name not in names
        ]
        if missing:
            how = ", ".join(f"config.{section}.{name}" for name in missing)
            raise UserError(f"{what} needs {', '.join(missing)}, without a default; set {how}") from None
        raise UserError(
            f"{what} does not take the arguments that it gets ({reason(e)}); see docs/extending.md"
        ) from None
