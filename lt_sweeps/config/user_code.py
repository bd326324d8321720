"""The code of users that a result depends on: a module and what it imports, found but not run.

A user's function counts in a result's identity by the source of its module and of every module of
the user's that this one imports: at its top, inside a function, by a relative name, in a circle.
Of an installed package the version counts, and the checksums that its installer has listed. Not
seen are modules whose names are put together while the code runs, and files that the code opens
without being given their names: an argument that names a file makes its content count.
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

from lt_sweeps.config.keys import GROUPS

# What this package stands on does not count for its own functions, and so not for a user's.
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
    """Whether a file is one of an installed package."""
    return not _SITE.isdisjoint(file.parts)


def is_of_python(file: Path) -> bool:
    """Whether a file comes with Python itself."""
    return not is_installed(file) and any(map(file.is_relative_to, _PYTHON))


@functools.cache
def code_behind(*modules: str) -> dict[str, str]:
    """A hash by name of these modules and all that they import: modules, and installed packages.

    Python's own modules and the packages that this one requires are left out.

    Raises:
        ValueError: a module's source cannot be found or read, or is not what Python runs.
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
    """The code behind the functions that configs of cells name by `_target_`, as `code_behind`."""
    options = [config.get(group) for config in configs for group in (*GROUPS, "task")]
    return code_behind(*sorted(set(modules_named(options))))


def modules_named(values: Any) -> Iterator[str]:
    """The module of each function that a `_target_` in some values names, however deep."""
    modules = (_module_of(target) for target in targets(values) if isinstance(target, str))
    return filter(None, modules)


def targets(values: Any) -> Iterator[Any]:
    """What each `_target_` in some values says, however deep it stands."""
    if isinstance(values, Mapping):
        if "_target_" in values:
            yield values["_target_"]
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from targets(value)


@functools.cache
def _module_of(target: str) -> str:
    """The module of a function by its import path, which may name a class around it too."""
    while target and _spec(target) is None:
        target = target.rpartition(".")[0]
    return target


def files_named(arguments: Mapping[str, Any]) -> dict[str, str]:
    """A hash of the content of each file that an argument names, by argument.

    A file in a list or a mapping counts too: as `paths.0`, or `paths.vocabulary`.

    Raises:
        ValueError: a file cannot be read.
    """
    files = {name: Path(text) for name, text in _texts(arguments) if _is_file(text)}
    hashes: dict[str, str] = {}
    for name, path in files.items():
        try:
            now = path.stat()
            stamp = (now.st_size, now.st_mtime_ns, now.st_ctime_ns)
            hashes[name] = _content(path.absolute(), stamp)
        except OSError as error:
            raise ValueError(f"{name}: `{path}` cannot be read: {error}") from None
    return hashes


def _texts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each text among some values and in their lists and mappings, with its place."""
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
    except (OSError, ValueError):  # no path: too long, or with a zero byte
        return False


# A large file is not read again for every cell, unless it has changed.
@functools.lru_cache(maxsize=1024)
def _content(path: Path, stamp: tuple[int, ...]) -> str:
    return file_sha256(path)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, which may be larger than memory."""
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.hexdigest()


def _spec(name: str) -> ModuleSpec | None:
    """Where a module lies. Unlike `importlib.util.find_spec` this runs no package around it."""
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
    """The file of a module; None for a namespace, a built-in module, and any other name."""
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
    """The code without comments and layout; None for what is not valid Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python gives them when it imports the module
            return ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _check_compiled(file: Path, tree: ast.Module, size: int, name: str) -> None:
    """Raises: ValueError: Python takes other code from its cache than the file holds.

    It takes a file of equal size and time, in seconds, for the one that it compiled: so are two
    variants from one archive, or two that a script writes within a second.
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
        return  # Python itself says what is wrong, or compiles the file
    if not same:
        raise ValueError(
            f"`{name}`: Python runs {compiled}, which was compiled from other code than {file} "
            "holds, of the same size and time; delete it"
        )


def _without_layout(tree: ast.Module) -> bytes:
    """Code as one text, which is the same in every version of Python from 3.10 on."""
    shown: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **shown).replace(", type_params=[]", "").encode()


def names_imported(content: bytes, name: str) -> Iterator[str]:
    """What may be a module among the names that the code of a module imports.

    The code of a package has the name `PACKAGE.__init__`.
    """
    tree = _parsed(content)
    return iter(()) if tree is None else _imports(tree, name, False)


def _imports(tree: ast.Module, name: str, is_package: bool) -> Iterator[str]:
    """What may be a module among the names that a module imports; the rest are names in one."""
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
                given = dict(zip(("name", "package"), node.args, strict=False))
                given |= {str(keyword.arg): keyword.value for keyword in node.keywords}
                word, package = _literal(given.get("name")), _literal(given.get("package"))
                # Dots count from the package that it is given, or else from its own.
                yield (
                    _absolute(word, package, True) if package else _absolute(word, name, is_package)
                )


def _literal(node: ast.expr | None) -> str:
    """The text that an argument is; nothing where it is made while the code runs."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _exported(package: str) -> Iterator[str]:
    """What `from PACKAGE import *` may import of its modules: those that `__all__` lists."""
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
    """The full name of what the module `name` imports as `imported`, which may begin with dots."""
    rest = imported.lstrip(".")
    dots = len(imported) - len(rest)
    if not dots:
        return imported
    parts = name.split(".")
    above = parts[: len(parts) + is_package - dots]
    return ".".join([*above, *filter(None, [rest])])


@functools.cache
def _release(package: str) -> str | None:
    """A hash of an installed package's version and code as its installer listed them, if it did."""
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
