"""`Call`: a function and its arguments as a value, checked before anything runs.

`Config` is the value that a resolved yaml becomes; it holds the arguments of a call and a cell.
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
    """A mapping of JSON values that is a value itself: hashable, equal for equal text.

    A config is made once, where Hydra composes it or a file is read, and never changed. From then
    on it can be part of a frozen value and a key of a cache.
    """

    @functools.cached_property
    def text(self) -> str:
        # Within a value the order counts: a function may go through a mapping in its order.
        return json.dumps({key: self[key] for key in sorted(self)})

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(self.text)

    def __eq__(self, other: object) -> bool:  # 1, 1.0 and True are different settings
        return self.text == other.text if isinstance(other, Config) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other


@dataclass(frozen=True)
class Call:
    """A function by its import path, with the arguments that a yaml gives it.

    Hashable and printable. The function's signature is the schema: `Call.of` refuses unknown names
    and wrong types. The framework passes what it supplies itself (evidence, shapes, stages) by
    name at the time of the call, and only to a function that names it.
    """

    target: str
    args: Config = field(default_factory=Config)

    @classmethod
    def of(cls, config: Mapping[str, Any], *, where: str, supplied: Collection[str] = ()) -> Call:
        """The call that `config` (`_target_` plus arguments) describes.

        Args:
            where: the key that a person knows this by (`method`, `recipe`); it opens every error.
            supplied: names that the framework will pass; a yaml may not set them.

        Raises:
            ValueError: it is no mapping, the target cannot be imported, or an argument is unknown,
                missing or of another type.
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
        """The parameters that the function takes."""
        return tuple(_signature(self.target).parameters)

    def bound(self) -> dict[str, Any]:
        """Every argument that is not supplied by the framework, defaults included."""
        return {
            name: self.args.get(name, parameter.default)
            for name, parameter in _signature(self.target).parameters.items()
            if name in self.args or parameter.default is not inspect.Parameter.empty
        }

    def __call__(self, **supplied: Any) -> Any:
        wanted = {name: value for name, value in supplied.items() if name in self.names}
        return self.function(**{**self.args, **wanted})

    def identity(self, *, files: bool = True) -> dict[str, Any]:
        """What makes two calls the same: the function and all arguments, as JSON values.

        A function of this package counts by its public name, which stays when its file moves. A
        function from elsewhere counts by its import path, by the source behind it (comments and
        layout aside) and, with `files`, by the content of files that its arguments name, so that a
        result does not survive an edit of what made it. So does the source of functions that its
        arguments name by `_target_`, which it will call.
        """
        omitted = getattr(self.function, "omitted_at", {})
        args = {k: v for k, v in self.bound().items() if omitted.get(k, _KEPT) not in (ANY, v)}
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
        """Whether the function comes with this package."""
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
    """What a class or a function makes of fields in a yaml. Raises: ValueError: as `Call.of`."""
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
    except Exception as error:  # a module of the user's runs when it is imported
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
            f"`{target}` is built into Python and does not say what it takes; call it in a "
            "function of your own"
        ) from None
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"`{target}` takes `{parameter}`; give each argument a name instead")
    return signature


@functools.cache
def _hints(target: str) -> dict[str, Any]:
    function = _resolve(target)
    if inspect.isclass(function):
        function = function.__init__  # type: ignore[misc]
    return typing.get_type_hints(function, include_extras=True)
