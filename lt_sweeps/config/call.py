"""`Call`: a function and its arguments as a value, checked before anything runs.

`Config` is a resolved yaml as a value: the arguments of a call, or the config of a cell.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lt_sweeps.config.identity import ANY, in_order, public_name, source_behind
from lt_sweeps.config.spelling import listed, nearest, unknown
from lt_sweeps.config.user_code import files_named, modules_named
from lt_sweeps.config.users_mistakes import raised_in
from lt_sweeps.config.yaml_types import fits, wanted_instead

_KEPT = object()
_Made = TypeVar("_Made")


class Config(dict[str, Any]):
    """A mapping of JSON values that is hashable; two configs are equal if their JSON texts are.

    A config is made once, when Hydra composes it or a file is read, and must not change afterwards.
    So it can be part of a frozen value, and a key of a cache.
    """

    @functools.cached_property
    def text(self) -> str:
        # Only the top level is sorted: a function may depend on the order within an argument.
        return json.dumps({key: self[key] for key in sorted(self)})

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(self.text)

    def __eq__(self, other: object) -> bool:  # 1, 1.0 and True are different settings
        return self.text == other.text if isinstance(other, Config) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other


@dataclass(frozen=True)
class Call:
    """A function, named by its import path, with the arguments that a yaml gives it.

    Hashable and printable. The function's signature is the schema: `Call.of` refuses unknown names
    and wrong types. The framework supplies some arguments itself (evidence, shapes, stages): they
    are passed by name when the function is called, and only if the function has such a parameter.
    """

    target: str
    args: Config = field(default_factory=Config)

    @classmethod
    def of(cls, config: Mapping[str, Any], *, where: str, supplied: Collection[str] = ()) -> Call:
        """Build the call that `config` (`_target_` plus arguments) describes.

        Args:
            where: the key that a user knows this by (`method`, `recipe`); every error begins with
                it.
            supplied: names that the framework will pass; a yaml may not set them.

        Raises:
            ValueError: `config` is not a mapping, the target cannot be imported, or an argument is
                unknown, missing or of the wrong type.
        """
        if not isinstance(config, Mapping):
            raise ValueError(f"{where}: got {config!r}; give a `_target_` and its arguments")
        args = Config(config)
        target = args.pop("_target_", None)
        if not isinstance(target, str):
            raise ValueError(f"{where}: no `_target_`; give the import path of a function")
        call = cls(target, args)
        call._check(where, supplied)
        return call

    @property
    def function(self) -> Callable[..., Any]:
        return _resolve(self.target)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the function's parameters."""
        return tuple(_signature(self.target).parameters)

    def bound(self) -> dict[str, Any]:
        """Return all arguments that the framework does not supply, including defaults."""
        return {
            name: self.args.get(name, parameter.default)
            for name, parameter in _signature(self.target).parameters.items()
            if name in self.args or parameter.default is not inspect.Parameter.empty
        }

    def __call__(self, **supplied: Any) -> Any:
        wanted = {name: value for name, value in supplied.items() if name in self.names}
        return self.function(**{**self.args, **wanted})

    def identity(self, *, files: bool = True) -> dict[str, Any]:
        """Return the function and all its arguments as JSON values, for stage keys.

        A function of this package is identified by its public name, which stays when its file
        moves. A function from elsewhere is identified by its import path, by the source behind it
        (without comments and layout) and, with `files`, by the content of the files that its
        arguments name, so that a result does not survive an edit of the code or files behind it.
        The source of functions that its arguments name by `_target_` counts too, because the
        function will call them.
        """
        omitted = getattr(self.function, "omitted_at", {})
        args = {
            name: value
            for name, value in self.bound().items()
            if (at := omitted.get(name, _KEPT)) != value and (at is not ANY or value is None)
        }
        name, called = public_name(self.function), modules_named(args)
        args = args if name is not None else {key: in_order(value) for key, value in args.items()}
        own = (self.target, getattr(self.function, "__module__", None) or "")
        source = source_behind(*(own if name is None else ("",)), *called)
        identity = {"target": name or self.target, "args": args, **source}
        counted = files and (name is None or source)
        if counted and (content := files_named(self.bound())):
            identity["files"] = content
        return identity

    @property
    def ours(self) -> bool:
        """Whether the function is part of this package."""
        return public_name(self.function) is not None

    def __str__(self) -> str:
        args = ", ".join(f"{name}={value!r}" for name, value in sorted(self.args.items()))
        return f"{self.target.rpartition('.')[2]}({args})"

    def _check(self, where: str, supplied: Collection[str]) -> None:
        settable = [name for name in self.names if name not in supplied]
        if wrong := sorted(set(self.args) - set(settable)):
            raise ValueError(
                f"{where}: `{self.target}` takes no {listed(wrong)}; it "
                + (f"takes {listed(settable)}" if settable else "has no keys")
                + nearest(wrong[0], settable)
            )
        bound = self.bound()
        if missing := [name for name in settable if name not in bound]:
            raise ValueError(
                f"{where}: `{self.target}` needs a value for {listed(missing)}"
                + nearest(missing[0], supplied)
            )
        hints = _hints(self.target)
        for name, value in self.args.items():
            if name in hints and not fits(value, hints[name]):
                instead = wanted_instead(value, hints[name])
                raise ValueError(f"{where}.{name}: got {value!r}; give {instead}")


def made(kind: Callable[..., _Made], fields: Mapping[str, Any], *, where: str) -> _Made:
    """Call a class or a function with fields of a yaml. Raises: ValueError: as `Call.of`."""
    target = f"{kind.__module__}.{kind.__qualname__}"
    names = Call(target, Config({})).names
    if wrong := [key for key in fields if key not in names]:
        raise ValueError(unknown(where, wrong[0], names, what="keys"))
    return Call.of({"_target_": target, **fields}, where=where)()


@functools.cache
def _resolve(target: str) -> Callable[..., Any]:
    path, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(path) if path else None
    except Exception as error:  # importing a user-defined module runs its code
        where = None if isinstance(error, ModuleNotFoundError) else raised_in(error)
        if where is None and not isinstance(error, ImportError):
            raise
        raise ValueError(f"`{target}` cannot be imported: {where or error}") from None
    function = getattr(module, name, None)
    if inspect.ismodule(function):
        raise ValueError(f"`{target}` is a module; give a function in it: {target}.NAME")
    if not callable(function):
        names = [n for n in dir(module) if not n.startswith("_")]
        raise ValueError(f"`{path}` has no function `{name}`{nearest(name, names)}")
    return function


@functools.cache
def _signature(target: str) -> inspect.Signature:
    try:
        signature = inspect.signature(_resolve(target))
    except ValueError:
        if not inspect.isbuiltin(_resolve(target)):
            raise
        raise ValueError(
            f"`{target}` is built into Python, and its signature cannot be read; give a function "
            "of your own that calls it"
        ) from None
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(
                f"`{target}` takes `{parameter}`; write a function that names each argument"
            )
    return signature


@functools.cache
def _hints(target: str) -> dict[str, Any]:
    function = _resolve(target)
    if inspect.isclass(function):
        function = function.__init__  # type: ignore[misc]
    return typing.get_type_hints(function, include_extras=True)
