"""The code behind a user-defined function is found from its source, wherever it is imported."""

import ast
import importlib
import os
import py_compile
import random
import sys
from pathlib import Path

import pytest

from lt_sweeps.config import file_version, user_code
from lt_sweeps.config.call import Call
from lt_sweeps.config.user_code import code_behind, files_named
from lt_sweeps.config.users_mistakes import told_by

LAB = {
    "lab/__init__.py": "LOADED = True\n",
    "lab/crit.py": "from lab.tools import sign\ndef score(final): return sign(final)\n",
    "lab/tools/__init__.py": "from .signs import sign\n",
    "lab/tools/signs.py": "from ..units import ONE\ndef sign(x): return ONE\n",
    "lab/units.py": "import lab.crit\nONE = 1\ndef late():\n    import lab_late\n",
    "lab_late.py": "import importlib\nimportlib.import_module('lab_named')\n",
    "lab_named.py": "try:\n    import lab_absent\nexcept ImportError:\n    pass\n",
    "lab/other.py": "OTHER = 1\n",
    "lab/data.txt": "no code\n",
}
BEHIND = {
    *("lab", "lab.crit", "lab.tools", "lab.tools.signs", "lab.units", "lab_late", "lab_named"),
}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package, which no other test has imported."""
    for name, text in LAB.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0].startswith("lab")]:
        monkeypatch.delitem(sys.modules, name)
    code_behind.cache_clear()
    return tmp_path


def edited(path: Path, old: str, new: str) -> dict[str, str]:
    path.write_text(path.read_text().replace(old, new))
    code_behind.cache_clear()
    return code_behind("lab.crit")


def test_modules_are_found_through_packages_relative_names_functions_and_circles(lab: Path) -> None:
    assert set(code_behind("lab.crit")) == BEHIND


def test_reading_imports_runs_no_code_of_the_user(lab: Path) -> None:
    (lab / "lab" / "__init__.py").write_text("raise SystemExit('it was run')\n")
    assert set(code_behind("lab.crit")) == BEHIND
    assert "lab" not in sys.modules


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("lab/crit.py", "sign(final)", "-sign(final)"),
        ("lab/__init__.py", "True", "False"),
        ("lab/tools/__init__.py", "import sign", "import sign as sign, ONE"),
        ("lab/tools/signs.py", "return ONE", "return -ONE"),
        ("lab/units.py", "ONE = 1", "ONE = 2"),
        ("lab_late.py", "import importlib", "import importlib, math"),
        ("lab_named.py", "pass", "print()"),
    ],
)
def test_an_edit_of_any_imported_module_changes_the_hash(
    lab: Path, file: str, old: str, new: str
) -> None:
    before = code_behind("lab.crit")
    assert edited(lab / file, old, new) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("lab/units.py", "ONE = 1", "ONE = 1  # the sign of a positive number"),
        ("lab/other.py", "OTHER = 1", "OTHER = 2"),
        ("lab/data.txt", "no code", "not code"),
    ],
)
def test_a_comment_or_a_module_that_nothing_imports_does_not_count(
    lab: Path, file: str, old: str, new: str
) -> None:
    before = code_behind("lab.crit")
    assert edited(lab / file, old, new) == before


def test_a_module_that_appears_later_changes_the_hash(lab: Path) -> None:
    before = code_behind("lab.crit")
    (lab / "lab_absent.py").write_text("X = 1\n")
    sys.path_importer_cache.clear()
    assert set(edited(lab / "lab/crit.py", "", "")) - set(before) == {"lab_absent"}


def test_modules_that_a_star_imports_count(lab: Path) -> None:
    (lab / "lab" / "tools" / "__init__.py").write_text("__all__ = ['signs', 'absent']\n")
    (lab / "lab_late.py").write_text("from lab.tools import *\n")
    assert set(code_behind("lab_late")) == {"lab_late", "lab", "lab.tools", *BEHIND} - {"lab_named"}


@pytest.mark.parametrize(
    "call",
    ["('.signs', 'lab.tools')", "('.signs', package='lab.tools')", "(name='lab.tools.signs')"],
)
def test_a_module_that_is_imported_from_a_package_by_its_name_counts(lab: Path, call: str) -> None:
    (lab / "lab_late.py").write_text(f"import importlib\nimportlib.import_module{call}\n")
    assert "lab.tools.signs" in code_behind("lab_late")


def test_code_that_python_takes_from_its_cache_in_place_of_the_file_is_refused(lab: Path) -> None:
    """Python compares only size and time, so it would run the earlier code under the later key."""
    file = lab / "lab" / "units.py"
    by_time = py_compile.PycInvalidationMode.TIMESTAMP
    file.write_text(file.read_text() + "SAME = ONE is 1\n")
    with pytest.warns(SyntaxWarning):  # of which the search says nothing
        py_compile.compile(str(file), doraise=True, invalidation_mode=by_time)
    before, at = code_behind("lab.crit"), file.stat()
    assert edited(file, "", "") == before
    file.write_text(file.read_text().replace("ONE = 1", "ONE = 2"))
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    code_behind.cache_clear()
    with pytest.raises(
        ValueError, match=r"^`lab.units`: Python runs .*units.*\.pyc, compiled from"
    ):
        code_behind("lab.crit")
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns + 2 * 10**9))
    code_behind.cache_clear()
    assert code_behind("lab.crit") != before


def test_code_has_the_same_hash_in_every_version_of_python(lab: Path) -> None:
    """A newer Python must not change keys, although its syntax trees have other fields."""
    (lab / "lab_named.py").write_text("class C:\n    def f(x, *, y=[]): return {**x}, y[1:]\n")
    assert code_behind("lab_named")["lab_named"][:16] == "5b424a5982e36a21"


def test_the_place_of_a_module_does_not_count(lab: Path, tmp_path_factory, monkeypatch) -> None:
    before, elsewhere = code_behind("lab.crit"), tmp_path_factory.mktemp("frozen") / "code"
    lab.rename(elsewhere)
    monkeypatch.syspath_prepend(elsewhere)
    code_behind.cache_clear()
    assert code_behind("lab.crit") == before


def test_an_installed_package_counts_by_what_its_installer_listed(lab: Path, monkeypatch) -> None:
    site = lab / "site-packages"
    user_code._release.cache_clear()
    described, package = site / "labtool-1.dist-info", site / "labtool" / "__init__.py"
    for folder in (described, package.parent):
        folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(site)
    package.write_text("import lab.other\n")
    by_hand = edited(lab / "lab/crit.py", "from", "import labtool, torch, os\nfrom")
    assert set(by_hand) - BEHIND == {"labtool", "lab.other"}  # no installer listed it

    seen = set[str]()
    for version, line in (("1.0", "a.py,sha256=1,9"), ("1.1", "a.py,sha256=1,9"), ("1.1", "")):
        (described / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: labtool\nVersion: {version}\n"
        )
        (described / "RECORD").write_text(line)
        user_code._release.cache_clear()
        importlib.invalidate_caches()
        found = edited(lab / "lab/crit.py", "", "")
        assert set(found) - BEHIND == {"labtool"}
        seen.add(found["labtool"])
    assert len(seen) == 3


def test_code_that_does_not_parse_is_hashed_by_its_bytes(lab: Path) -> None:
    before = code_behind("lab.crit")
    after = edited(lab / "lab_named.py", "try:", "try: (((")
    assert after["lab_named"] != before["lab_named"]
    assert edited(lab / "lab_named.py", "(((", "((((")["lab_named"] != after["lab_named"]


def test_a_module_without_a_file_is_refused(lab: Path) -> None:
    with pytest.raises(ValueError, match="`lab_absent` has no source, which stage keys need"):
        code_behind("lab_absent")


def test_random_edits_of_a_module_never_stop_the_search(lab: Path) -> None:
    draws = random.Random(0)
    source = Path(ast.__file__).read_bytes()[:4000]
    for _ in range(60):
        cut = bytearray(source[: draws.randrange(len(source))])
        for _ in range(draws.randrange(9)):
            if cut:
                cut[draws.randrange(len(cut))] = draws.randrange(256)
        (lab / "lab" / "units.py").write_bytes(cut + b"\nfrom ..... import x, lab\nimport lab.\n")
        code_behind.cache_clear()
        assert "lab.units" in code_behind("lab.crit")


def test_a_wrapper_in_the_name_of_a_function_of_ours_is_a_user_s_function(lab: Path) -> None:
    (lab / "lab_wraps.py").write_text(
        "import functools\nfrom lt_sweeps.sparsity.criteria import large_final\n"
        "@functools.wraps(large_final)\ndef smallest(final): return -large_final(final)\n"
    )
    ours = Call("lt_sweeps.sparsity.criteria.large_final").identity()
    assert Call("lab_wraps.smallest").identity() != ours
    assert "source" in Call("lab_wraps.smallest").identity()


def test_a_function_is_known_by_the_module_that_offers_it_too(lab: Path) -> None:
    (lab / "lab_partial.py").write_text(
        "import functools\nfrom lab import other\nhalved = functools.partial(abs, other.OTHER)\n"
    )
    assert "source" in Call("lab_partial.halved").identity()
    assert set(code_behind("lab_partial")) == {"lab", "lab.other", "lab_partial"}


def test_the_content_of_a_file_that_an_argument_names_counts(lab: Path, monkeypatch) -> None:
    (lab / "lab_init.py").write_text("def from_file(module, *, file: str): ...\n")
    monkeypatch.chdir(lab)
    identities = []
    for text in ("a", "bc", "a"):
        Path("weights.pt").write_text(text)
        identities.append(
            Call.of(
                {"_target_": "lab_init.from_file", "file": "weights.pt"},
                where="model.init",
                supplied=("module",),
            ).identity()
        )
    assert identities[0] == identities[2] != identities[1]


def test_an_argument_that_names_no_file_is_only_a_text(tmp_path: Path) -> None:
    texts = {"a": "sgd", "b": "x" * 5000, "c": "a\0b", "d": str(tmp_path), "e": "", "f": 3}
    assert files_named(texts) == {}


def test_an_error_is_told_in_one_line_that_is_never_empty() -> None:
    assert told_by(AssertionError()) == "AssertionError"
    assert told_by(RuntimeError("shapes\n  differ")) == "shapes differ"
    try:
        assert not __file__
    except AssertionError as error:
        assert "test_user_code.py" in told_by(error)


def test_files_in_lists_and_mappings_of_arguments_count_too(tmp_path: Path) -> None:
    """For example a tokenizer's `files: {vocabulary: v.txt, merges: [m.txt]}`."""
    names = []
    for name in ("v.txt", "m.txt"):
        (tmp_path / name).write_text(name)
        names.append(str(tmp_path / name))
    given = {"files": {"vocabulary": names[0], "merges": [names[1], "no file"]}, "width": 3}
    before = files_named(given)
    assert [*before] == ["files.vocabulary", "files.merges.0"]
    (tmp_path / "m.txt").write_text("other merges")
    after = files_named(given)
    assert [name for name in before if before[name] != after[name]] == ["files.merges.0"]


def test_a_file_that_is_written_again_within_a_tick_of_the_clock_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version stays the same; so the hash of a file that is as new as that is not kept."""
    path, reads = tmp_path / "weights.pt", []
    path.write_text("first")
    monkeypatch.setattr(file_version, "version_of", lambda at: "1-5-7-7")
    real = file_version.file_sha256
    monkeypatch.setattr(file_version, "file_sha256", lambda p: reads.append(p) or real(p))
    for settled in (False, True):
        monkeypatch.setattr(file_version, "is_settled", lambda _, now=settled: now)
        path.write_text("first")
        before = files_named({"weights": str(path)})
        path.write_text("other")
        changed = files_named({"weights": str(path)}) != before
        assert changed is not settled and len(reads) == (3 if settled else 2)
