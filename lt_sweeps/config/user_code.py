"""Find the user-defined code that a result depends on, a module and its imports; none of it runs.

A user-defined function is identified by the source of its module and of every user-defined module
that this one imports: at the top, inside a function, by a relative name, in a circle. An installed
package is identified by its version and by the checksums that its installer listed. Two things are
not seen: modules whose names are put together while the code runs, and files that the code opens
without being given their names. If an argument names a file, its content counts.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import marshal
import os
import struct
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from lt_sweeps.config.file_version import known_sha256
from lt_sweeps.config.keys import GROUPS

# The dependencies of this package are not part of any identity, of our functions or a user's.
_SHARED = {
    *("PIL", "filelock", "hydra", "jinja2", "lt_sweeps", "matplotlib", "numpy", "omegaconf"),
    *("pandas", "psutil", "pyarrow", "rich", "safetensors", "scipy", "sklearn", "statsmodels"),
    *("submitit", "torch", "torchvision", "wandb", "yaml"),
}
_SITE = {"site-packages", "dist-packages"}
_PYTHON = {
    Path(os.__file__).parent,
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")),
}


def is_installed(file: Path) -> bool:
    """Whether a file belongs to an installed package."""
    return not _SITE.isdisjoint(file.parts)


def is_of_python(file: Path) -> bool:
    """Whether a file comes with Python itself."""
    return not is_installed(file) and any(map(file.is_relative_to, _PYTHON))


@functools.cache
def code_behind(*modules: str) -> dict[str, str]:
    """Return a hash, by name, of these modules and of all modules and packages that they import.

    Python's own modules and the packages that this package requires are left out.

    Raises:
        ValueError: a module's source cannot be found or read, or is not the code that Python runs.
    """
    hashes: dict[str, str] = {}
    waiting, seen = list(modules), set[str]()
    while waiting:
        name = waiting.pop()
        top, package = name.partition(".")[0], name.rpartition(".")[0]
        if not name or name in seen or top in _SHARED:
            continue
        seen.add(name)
        if name.endswith(".*"):
            waiting += _exported(package)
            continue
        waiting.append(package)  # importing a module runs the packages around it
        file = _file(name)
        if file is None:
            if name in modules and _spec(name) is None:
                raise ValueError(f"`{name}` has no source, which stage keys need; put it in a file")
        elif is_installed(file) and (release := _release(top)):
            hashes[top] = release
        elif not is_of_python(file):
            content = _read(file, name)
            tree = _parsed(content) if file.suffix == ".py" else None
            text = content if tree is None else _without_layout(tree)
            if tree is not None:
                _check_compiled(file, tree, len(content), name)
            hashes[name] = hashlib.sha256(text).hexdigest()
            waiting += [] if tree is None else _imports(tree, name, file.stem == "__init__")
    return hashes


def code_named(*configs: Mapping[str, Any]) -> dict[str, str]:
    """Return `code_behind` of the functions that configs of cells name by `_target_`."""
    options = [config.get(group) for config in configs for group in (*GROUPS, "task")]
    return code_behind(*sorted(set(modules_named(options))))


def modules_named(values: Any) -> Iterator[str]:
    """Yield the module of each function that a `_target_` in `values` names, at any depth."""
    modules = (_module_of(target) for target in targets(values) if isinstance(target, str))
    return filter(None, modules)


def targets(values: Any) -> Iterator[Any]:
    """Yield the content of each `_target_` in `values`, at any depth."""
    if isinstance(values, Mapping):
        if "_target_" in values:
            yield values["_target_"]
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from targets(value)


@functools.cache
def _module_of(target: str) -> str:
    """Return the module of a function's import path, which may also name a class around it."""
    while target and _spec(target) is None:
        target = target.rpartition(".")[0]
    return target


def files_named(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return, by argument, a hash of the content of each file that an argument names.

    A file in a list or a mapping counts too: as `paths.0`, or `paths.vocabulary`.

    Raises:
        ValueError: a file cannot be read.
    """
    files = {name: Path(text) for name, text in _texts(arguments) if _is_file(text)}
    hashes: dict[str, str] = {}
    for name, path in files.items():
        try:
            hashes[name] = known_sha256(path)
        except OSError as error:
            raise ValueError(f"{name}: `{path}` cannot be read: {error}") from None
    return hashes


def _texts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each string in `values`, also in lists and mappings, with its dotted name."""
    for name, value in values.items():
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _texts({f"{name}.{key}": inner for key, inner in value.items()})
        elif isinstance(value, list | tuple):
            yield from _texts({f"{name}.{i}": inner for i, inner in enumerate(value)})


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # not a path: too long, or with a zero byte
        return False


def _spec(name: str) -> ModuleSpec | None:
    """Find a module. Unlike `importlib.util.find_spec`, this runs no package around the module."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    parent, path = name.rpartition(".")[0], None
    if parent:
        around = _spec(parent)
        if around is None or around.submodule_search_locations is None:
            return None
        path = list(around.submodule_search_locations)
    specs = (finder.find_spec(name, path) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def _file(name: str) -> Path | None:
    """Return a module's file; None for a namespace, a built-in module, and any other name."""
    spec = _spec(name)
    if spec is None:
        file = getattr(sys.modules.get(name), "__file__", None)  # a script has a file and no spec
    else:
        file = spec.origin if spec.has_location else None
    return Path(file) if file else None


def _read(file: Path, name: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"`{name}` has no source, which stage keys need: {error}") from None


def _parsed(content: bytes) -> ast.Module | None:
    """Parse code, without comments and layout; None if it is not valid Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python gives them when it imports the module
            return ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _check_compiled(file: Path, tree: ast.Module, size: int, name: str) -> None:
    """Raises: ValueError: Python would run code from its cache that differs from the file.

    Python uses its cache if the file has the same size and time, in seconds, as the file that it
    compiled. Two variants from one archive can agree in both, as can two that a script writes
    within a second.
    """
    compiled = Path(importlib.util.cache_from_source(str(file)))
    try:
        cached, changed = compiled.read_bytes(), int(file.stat().st_mtime)
        of_this = struct.pack("<III", 0, changed & 0xFFFFFFFF, size & 0xFFFFFFFF)
        if cached[:16] != importlib.util.MAGIC_NUMBER + of_this:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python gives them when it compiles the module
            code = compile(tree, str(file), "exec", dont_inherit=True)
        same = marshal.loads(cached[16:]) == code
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, RecursionError):
        return  # Python itself reports the error, or compiles the file
    if not same:
        raise ValueError(
            f"`{name}`: Python runs {compiled}, compiled from other code than {file} holds now, "
            f"with the same size and time; delete {compiled}"
        )


def _without_layout(tree: ast.Module) -> bytes:
    """Return code as one text, which is the same in every version of Python from 3.10 on."""
    shown: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **shown).replace(", type_params=[]", "").encode()


def names_imported(content: bytes, name: str) -> Iterator[str]:
    """Yield the imported names in a module's code that may be modules.

    The code of a package has the name `PACKAGE.__init__`.
    """
    tree = _parsed(content)
    return iter(()) if tree is None else _imports(tree, name, False)


def _imports(tree: ast.Module, name: str, is_package: bool) -> Iterator[str]:
    """Yield the imported names that may be modules; the others are names inside a module."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                base = _absolute("." * node.level + (node.module or ""), name, is_package)
                yield base
                yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)
            case ast.Call(
                func=ast.Attribute(attr="import_module")
                | ast.Name(id="import_module" | "__import__")
            ):
                passed = dict(zip(("name", "package"), node.args, strict=False))
                passed |= {str(keyword.arg): keyword.value for keyword in node.keywords}
                word, package = _literal(passed.get("name")), _literal(passed.get("package"))
                # Dots count from the package that is given, or otherwise from the module's own.
                yield (
                    _absolute(word, package, True) if package else _absolute(word, name, is_package)
                )


def _literal(node: ast.expr | None) -> str:
    """Return the text of an argument; empty if the text is computed while the code runs."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _exported(package: str) -> Iterator[str]:
    """Yield the names that `from PACKAGE import *` may import as modules: those in `__all__`."""
    file = _file(package)
    tree = _parsed(_read(file, package)) if file is not None and file.suffix == ".py" else None
    for node in ast.walk(tree) if tree is not None else ():
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AugAssign(target=ast.Name(id="__all__"), value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value)
            ):
                words = (_literal(each) for each in ast.walk(value) if isinstance(each, ast.expr))
                yield from (f"{package}.{word}" for word in words if word)


def _absolute(imported: str, name: str, is_package: bool) -> str:
    """Return the full name of `imported`, which may begin with dots, in the module `name`."""
    rest = imported.lstrip(".")
    dots = len(imported) - len(rest)
    if not dots:
        return imported
    parts = name.split(".")
    above = parts[: len(parts) + is_package - dots]
    return ".".join([*above, *filter(None, [rest])])


@functools.cache
def _release(package: str) -> str | None:
    """Hash an installed package's version and listed code; None if it has no metadata."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(package)
        if not names:
            return None
        distribution = importlib.metadata.distribution(names[0])
    about = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
    record = distribution.read_text("RECORD") or ""
    listed = sorted(line for line in record.splitlines() if ".py,sha256=" in line)
    if not about:
        return None
    return hashlib.sha256("\n".join([about, *listed]).encode()).hexdigest()
