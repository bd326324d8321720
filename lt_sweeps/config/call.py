"""`Call`: a function and its arguments as a value, checked before anything runs.

`Config` is the value that a resolved yaml becomes; it holds the arguments of a call and a cell.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import inspect
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lt_sweeps.config.user_code import code_behind, files_named, modules_named, raised_in

ANY = object()
_KEPT = object()
_Made = TypeVar("_Made")
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    type(None): "null",
    Any: "any value",
}


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
        args = args if name is not None else {key: _in_order(value) for key, value in args.items()}
        own = (self.target, getattr(self.function, "__module__", None) or "")
        source = _source(*(own if name is None else ("",)), *called)
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
        if unknown := sorted(set(self.args) - set(settable)):
            raise ValueError(
                f"{where}: `{self.target}` takes no {unknown}; it "
                + (f"takes {settable}" if settable else "has no keys")
                + nearest(unknown[0], settable)
            )
        bound = self.bound()
        if missing := [name for name in settable if name not in bound]:
            raise ValueError(
                f"{where}: `{self.target}` needs a value for {missing}"
                + nearest(missing[0], supplied)
            )
        hints = _hints(self.target)
        for name, value in self.args.items():
            if name in hints and not fits(value, hints[name]):
                allowed = f"{_readable(hints[name])}{_meant(value, hints[name])}"
                raise ValueError(f"{where}.{name}: got {value!r}; give {allowed}")


def made(kind: type[_Made], fields: Mapping[str, Any], *, where: str) -> _Made:
    """A value of a class whose fields a yaml gives. Raises: ValueError: as `Call.of`."""
    target = f"{kind.__module__}.{kind.__qualname__}"
    return Call.of({"_target_": target, **fields}, where=where)()


def check_keys(config: Any, keys: Mapping[str, Any], *, where: str) -> None:
    """Check a part of a yaml that no function takes as it is; `keys` has the type of each value.

    Raises: ValueError: it is no mapping, or has an unknown key or a value of another type.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"{where}: got {config!r}; give {', '.join(keys)}")
    for key, value in config.items():
        if key not in keys:
            raise ValueError(f"{where}: no key `{key}`; it has {[*keys]}{nearest(str(key), keys)}")
        if not fits(value, keys[key]):
            raise ValueError(f"{where}.{key}: got {value!r}; give {_readable(keys[key])}")


def omitted_at(**values: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Leave these arguments out of the stage key at these values, or at `ANY`.

    For an argument that was added after results existed, at the value that changes nothing; and
    for one that says where something lies and not what it is.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.omitted_at = values  # type: ignore[attr-defined]
        return function

    return mark


def public_name(function: Callable[..., Any]) -> str | None:
    """The name of a function or class of this package in stage keys: `criteria.large_final`.

    Its module, or a package around it, gives the first part: `FAMILY = "criteria"`. A family and
    its functions keep their names for ever, whatever file they move to: a stage key with an import
    path in it would turn every stored result into a missing one when somebody tidies up.

    Returns None for a function from outside this package, such as a wrapper that only calls itself
    by the name of what it wraps.

    Raises:
        ValueError: a function of this package in no family, which no result can name.
    """
    path = getattr(function, "__module__", None) or ""
    if not _is_ours(path):
        return None
    if getattr(importlib.import_module(path), function.__qualname__, None) is not function:
        return None
    while path:
        if family := vars(importlib.import_module(path)).get("FAMILY"):
            return f"{family}.{function.__qualname__}"
        path = path.rpartition(".")[0]
    raise ValueError(
        f"`{function.__module__}.{function.__qualname__}` has no name in stage keys; its module, "
        'or a package around it, needs a line such as `FAMILY = "criteria"`'
    )


def identity_of(kind: type) -> dict[str, Any]:
    """What a subclass of a user's adds to the identity of its values; nothing for classes of ours.

    Two values with equal fields compute different things if their classes differ.
    """
    if _is_ours(kind.__module__):
        return {}
    name = f"{kind.__module__}.{kind.__qualname__}"
    return {"class": {"target": name, **_source(name, kind.__module__)}}


def digest(value: Any) -> str:
    """A short name for a JSON value: equal for equal content, whatever the order of its keys.

    Raises:
        ValueError: something in it is not a JSON value, such as a function.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"a stage key is made of numbers, texts and lists: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def nearest(word: str, allowed: Collection[str]) -> str:
    """`; did you mean `x`?` if something allowed is close to `word`, else nothing.

    Case does not count, nor does a folder that both are in: `deconstructing/criteria`.
    """
    folder = word[: word.rfind("/") + 1]
    inside = [name for name in allowed if name.startswith(folder)]
    if not inside:
        folder, inside = "", list(allowed)
    names = {name.removeprefix(folder).lower(): name for name in inside}
    close = difflib.get_close_matches(word.removeprefix(folder).lower(), names, n=1)
    return f"; did you mean `{names[close[0]]}`?" if close else ""


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


@functools.cache
def _source(target: str, *modules: str) -> dict[str, str]:
    """The source behind a user's function: its own module, the one that offers it, and others."""
    offered = target.rpartition(".")[0]
    while offered and offered not in sys.modules:  # a class within a class
        offered = offered.rpartition(".")[0]
    hashes = code_behind(*dict.fromkeys(name for name in (offered, *modules) if name))
    return {"source": digest(hashes)} if hashes else {}


def _in_order(value: Any) -> Any:
    """A value of which a stage key tells the order of mappings too, where they are not sorted.

    A network may be built of `{b: 8, a: 16}` in this order. The order of arguments that go with a
    `_target_` is nothing.
    """
    if isinstance(value, list | tuple):
        return [_in_order(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    pairs = {key: _in_order(each) for key, each in value.items()}
    by_name = sorted(pairs, key=lambda key: (type(key).__name__, key))
    if "_target_" in pairs or [*pairs] == by_name:
        return pairs
    return {"in order": [[key, each] for key, each in pairs.items()]}


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == __name__.partition(".")[0]


def fits(value: Any, hint: Any) -> bool:
    """Whether a yaml or JSON value may stand where `hint` is the type (unknown hints accept)."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Annotated:
        return fits(value, inner[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is typing.Literal:
        return value in inner
    if hint is type(None):
        return value is None
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint in (int, str):
        return isinstance(value, hint)
    if hint is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        pairs = value.items() if isinstance(value, dict) and inner else ()
        named = all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in pairs)
        return isinstance(value, dict) and named
    if origin is not None and isinstance(origin, type) and issubclass(origin, Collection):
        item = inner[0] if inner else Any
        return isinstance(value, list) and all(fits(v, item) for v in value)
    return True


def _meant(value: Any, hint: Any) -> str:
    """A value that fits instead: the fraction of a percentage (`90%`), or a list of one value."""
    if isinstance(value, str) and (percent := re.fullmatch(r"(\d+\.?\d*) ?%", value)):
        return f"; did you mean {float(percent[1]) / 100:g}?" if fits(0.5, hint) else ""
    if isinstance(value, list) and value and all(fits(item, hint) for item in value):
        return f"; to try each, write {','.join(map(str, value))} without brackets"
    alone = fits([value], hint) and not fits([object()], hint)  # a list of anything says nothing
    return f"; did you mean [{value}]?" if alone else ""


def _readable(hint: Any) -> str:
    """What a person may write for a parameter annotated `hint`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return inner[1]
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_readable, inner))
    if isinstance(origin, type) and issubclass(origin, Collection):
        return "a mapping" if issubclass(origin, Mapping) else f"a list of: {_readable(inner[0])}"
    return _WORDS.get(hint, str(hint))
