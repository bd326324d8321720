"""The layout of the package: few rooms, and names that tell a newcomer what each file holds."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
HOUSE = FOLDER.parent / "lt_sweeps"
ROOMS = sorted(path.parent for path in HOUSE.glob("*/__init__.py"))
MODULES = {path: ast.parse(path.read_text()) for path in sorted(HOUSE.rglob("*.py"))}
Definition = ast.ClassDef | ast.FunctionDef


def public(kind: type[Definition]) -> Iterator[tuple[Path, str]]:
    """Module and name of each class or function that modules define for use elsewhere."""
    for path, module in MODULES.items():
        for node in module.body:
            if isinstance(node, kind) and not node.name.startswith("_"):
                yield path, node.name


def names(path: Path) -> set[str]:
    """The names that can be imported from a module."""
    found: set[str] = set()
    for node in MODULES[path].body:
        if isinstance(node, Definition):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_the_house_is_seen_at_a_glance() -> None:
    assert len([path for path in HOUSE.iterdir() if path.name != "__pycache__"]) <= 18
    assert len(ROOMS) <= 14


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_it_is_for_and_where_to_start(room: Path) -> None:
    entry = room / "__init__.py"
    docstring = ast.get_docstring(MODULES[entry])
    assert docstring and len(docstring.splitlines()) <= 6
    _, start, starts = docstring.partition("Start at ")
    if not start:
        assert names(entry) - {"annotations"}, "a room that names no start is one itself"
    for name in re.findall(r"`([\w.]+)`", starts):
        module, _, item = name.partition(".")
        if (room / module / "__init__.py").exists():
            assert not item
        else:
            path = room / f"{module}.py"
            assert path.exists(), f"{room.name} has no {module}"
            assert not item or item in names(path), f"{path} has no {item}"


def test_no_two_public_classes_share_a_name() -> None:
    counts = Counter(name for _, name in public(ast.ClassDef))
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_function_is_named_as_its_module() -> None:
    # `from lt_sweeps.plan.plan import plan` would hide one behind the other.
    assert [path for path, name in public(ast.FunctionDef) if name == path.stem] == []


def test_no_module_is_named_as_one_of_the_standard_library() -> None:
    assert {path.stem for path in MODULES} & (sys.stdlib_module_names - {"__main__"}) == set()


def test_the_tests_have_the_same_rooms() -> None:
    tests = {path.name for path in FOLDER.iterdir() if path.is_dir()}
    assert {room.name for room in ROOMS} <= tests


def test_what_tests_share_is_a_fixture() -> None:
    # A test that imports another test's file breaks when that one moves.
    tests = {path.stem: ast.parse(path.read_text()) for path in FOLDER.rglob("test_*.py")}
    for name, test in tests.items():
        for node in ast.walk(test):
            if isinstance(node, ast.ImportFrom):
                assert not {*(node.module or "").split(".")} & tests.keys(), name
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & tests.keys(), name
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"), name


def test_no_test_has_a_limit_of_time_of_its_own() -> None:
    # A machine may be ten times slower: `_limit` in conftest.py ends a test that waits in vain.
    by_hand = ("benchmarks", "campaign", "slurm")
    paths = [p for p in FOLDER.rglob("*.py") if p.relative_to(FOLDER).parts[0] not in by_hand]
    waits = ("check_output", "communicate", "get", "join", "poll", "run", "wait")
    for path in paths:
        for call in [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]:
            called = ast.unparse(call.func)
            keys = {key.arg for key in call.keywords}
            where = f"{path}:{call.lineno}"
            assert called not in ("time.monotonic", "time.perf_counter", "time.time"), where
            assert called != "settings" or "deadline" not in keys, where
            assert called.rpartition(".")[2] not in waits or "timeout" not in keys, where


def test_torch_is_seeded_without_its_slow_function() -> None:
    """`torch.manual_seed` formats the whole call stack twice; see `seed_torch`."""
    slow = [path.name for path, module in MODULES.items() if "torch.manual_seed" in _names(module)]
    assert not slow


def _names(module: ast.Module) -> set[str]:
    return {ast.unparse(node) for node in ast.walk(module) if isinstance(node, ast.Attribute)}


def test_every_text_is_read_in_one_encoding() -> None:
    # Some clusters set a locale that is not UTF-8, in which our own yaml could not be read.
    readers = {"read_text", "write_text"}
    named = {"encoding", "errors"}
    bare = [
        f"{path.name}:{call.lineno}"
        for path, module in MODULES.items()
        for call in ast.walk(module)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        if call.func.attr in readers and not named & {word.arg for word in call.keywords}
        if len(call.args) < 1 + (call.func.attr == "write_text")
    ]
    assert not bare


def test_the_tools_name_files_that_exist() -> None:
    # pyright passes over a file that has moved, which then loses its strict types without a word.
    settings = FOLDER.parent.joinpath("pyproject.toml").read_text(encoding="utf-8")
    files = re.findall(r'"((?:lt_sweeps|tests)/[^"*]*[.]py)"', settings)
    assert files and not [name for name in files if not (FOLDER.parent / name).exists()]


def test_a_union_is_registered_class_by_class() -> None:
    # Python 3.10 cannot read `X | Y` from the annotation of a `functools.singledispatch` variant.
    unions = [
        f"{path.name}:{function.lineno}"
        for path, module in MODULES.items()
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef) and function.args.args
        if any(ast.unparse(each).endswith(".register") for each in function.decorator_list)
        if "|" in ast.unparse(function.args.args[0].annotation or ast.Constant(0))
    ]
    assert not unions


def test_a_protocol_has_no_constructor() -> None:
    # Python 3.10 ignores the `__init__` that a class inherits from a `typing.Protocol`.
    constructors = [
        f"{path.name}:{function.lineno}"
        for path, module in MODULES.items()
        for kind in ast.walk(module)
        if isinstance(kind, ast.ClassDef) and "Protocol" in map(ast.unparse, kind.bases)
        for function in kind.body
        if isinstance(function, ast.FunctionDef) and function.name == "__init__"
    ]
    assert not constructors
