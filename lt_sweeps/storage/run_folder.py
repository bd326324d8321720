"""`RunFolder`: write and read the files of a cell and seed (without torch).

`<root>/runs/<cell signature>/<seed>/` holds the results of a cell and seed, as plain text:

    config.yaml    the chosen options, and the resolved config
    records.jsonl  a `Record` per line, in the order of the levels
    DONE           written last: the checksum of a records.jsonl that is complete
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lt_sweeps.config.file_version import version
from lt_sweeps.storage.atomic_write import append_whole, json_lines, write_whole
from lt_sweeps.storage.checked_read import DamagedFile, read_file, read_yaml
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.record_lines import parse_record


@dataclass(frozen=True)
class CellRecords:
    """The records of a cell and seed so far, and whether they are complete (`done`).

    `faults` says what is wrong with them, as *path:line: why*: a line that cannot be read, or
    records that differ from those that `DONE` was written for. `half_written` names a last line
    that was cut short while the cell is not done: its writer will write it again.
    """

    records: tuple[Record, ...]
    done: bool
    faults: tuple[str, ...] = ()
    half_written: str = ""


def is_run(folder: Path) -> bool:
    """Whether a folder has the name of a cell and seed; a backup (`0~`, `copy of 0`) has not."""
    # A signature has 16 characters, so the name of its copy is longer.
    name = f"{folder.parent.name}/{folder.name}"
    return re.fullmatch(r"[\w-]{1,16}/[0-9]+(-[a-z]+[0-9]+)*", name) is not None


@dataclass(frozen=True)
class RunFolder:
    """The folder of a cell and seed: `<root>/runs/<cell signature>/<seed>`."""

    path: Path

    @classmethod
    def of(cls, root: Path, signature: str, seed: object) -> RunFolder:
        return cls(root / "runs" / signature / str(seed))

    @property
    def name(self) -> str:
        """`<signature>/<seed>`, as `FrozenCell.name`."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def records(self) -> Path:
        return self.path / "records.jsonl"

    @property
    def done(self) -> Path:
        return self.path / "DONE"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    def write_config(self, choices: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Write the chosen options and the resolved config, unless the file is equal already."""
        identity = {"signature": self.path.parent.name, "seed": self.path.name}
        content = {**identity, "choices": dict(choices), "config": dict(config)}
        text = yaml.safe_dump(content, sort_keys=False).encode()
        _write_unless_there(self.config, text)

    def read_config(self) -> dict[str, Any]:
        """Read the chosen options (`choices`) and the resolved config (`config`).

        Raises:
            FileNotFoundError: the file does not exist.
            DamagedFile: the file is not the config of this cell and seed.
        """
        file = self.config
        content = read_yaml(file)
        if not isinstance(content, dict) or not all(
            isinstance(content.get(name), dict) for name in ("choices", "config")
        ):
            raise DamagedFile(file, "not a cell's config; it holds `choices` and `config`")
        mine = (self.path.parent.name, self.path.name)
        if (content.get("signature"), content.get("seed")) != mine:
            identity = f"cell {content.get('signature')} seed {content.get('seed')}"
            raise DamagedFile(file, f"the config of {identity}; its folder says otherwise")
        return content

    def write(self, records: Sequence[Record], *, complete: bool) -> None:
        """Write the records, and then `DONE` if the cell will have no others."""
        content = json_lines(record.as_written for record in records)
        _write_unless_there(self.records, content)
        if complete:
            write_whole(self.done, _checksum(content))

    def append(self, records: Sequence[Record]) -> None:
        """Append records to the file; the caller must hold the lock of the cell."""
        append_whole(self.records, json_lines(record.as_written for record in records))

    def read(
        self, *, needed: Collection[str] = (), stages: Sequence[str] | None = None
    ) -> CellRecords:
        """Read the records.

        Args:
            needed: metrics that every finite replicate must have.
            stages: keys of the stages that a finished cell has a record of.

        Raises: NewerFormat: a later version wrote them.
        """
        checksum, faults = self._checksum()  # read first: its records were written before it
        done = bool(checksum or faults)
        try:
            content = read_file(self.records)
        except FileNotFoundError:
            missing = f"{self.records}: missing, though the cell is DONE"
            return CellRecords((), done, (*faults, *([missing] if done else [])))
        except DamagedFile as error:
            return CellRecords((), done, (*faults, str(error)))
        records: list[Record] = []
        half_written = ""
        *lines, tail = content.split(b"\n")
        for number, line in enumerate([*lines, *filter(None, [tail])], start=1):
            location, parsed = f"{self.records}:{number}", parse_record(line, self.records, needed)
            if isinstance(parsed, Record):
                records.append(parsed)
            elif number > len(lines) and not done and parsed.startswith("not valid JSON"):
                half_written = f"{location}: half-written line of an unfinished cell, left out"
            else:
                faults.append(f"{location}: {parsed}")
        if checksum and checksum != _checksum(content):
            faults = faults or [f"{self.records}: not the records whose checksum DONE holds"]
            faults[-1] += f"; {self.cure()}"
        if not faults and (fault := _miscounted(records, stages, done)):
            faults.append(f"{self.records}: {fault}; {self.cure()}")
        return CellRecords(tuple(records), done, tuple(faults), half_written)

    def _checksum(self) -> tuple[bytes, list[str]]:
        """Return the checksum in `DONE`, or what is wrong with it; neither if it is absent."""
        try:
            content = read_file(self.done)
        except FileNotFoundError:
            return b"", []
        except DamagedFile as error:
            return b"", [str(error)]
        whole = re.fullmatch(rb"[0-9a-f]{64}\n", content)
        return (content, []) if whole else (b"", [f"{self.done}: not a checksum; {self.cure()}"])

    def cure(self) -> str:
        """Name the command that writes the records again: it resumes a sweep with this cell."""
        root, cell = self.path.absolute().parents[2], self.path.parent.name.encode()
        paths = sorted(root.glob("sweeps/*/manifest.json"))
        for name, content in _manifests(tuple((path, version(path)) for path in paths)).items():
            if cell in content and b'"experiment": "imported"' not in content:
                return f"`lt-sweeps resume {name} root={root}` writes it again"
        return "the command that computed the cell writes it again"


@functools.lru_cache(maxsize=1)  # once for all damaged cells of a root
def _manifests(versions: tuple[tuple[Path, str | None], ...]) -> Mapping[str, bytes]:
    """Read the manifests of a root's sweeps; not parsed, because they may be damaged, too."""
    contents = {}
    for path, _ in versions:
        with suppress(OSError):
            contents[path.parent.name] = path.read_bytes()
    return contents


def _write_unless_there(path: Path, content: bytes) -> None:
    with suppress(FileNotFoundError, DamagedFile):
        if read_file(path) == content:
            return
    write_whole(path, content)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def _miscounted(records: Sequence[Record], stages: Sequence[str] | None, done: bool) -> str:
    """Say which records are duplicate, missing, or of another cell's stages; empty if none."""
    written = [record.stage for record in records]
    if twice := sorted({stage for stage in written if written.count(stage) > 1}):
        return f"stage {twice[0]} is there twice"
    if stages is None:
        return ""
    if unknown := sorted(set(written) - set(stages)):
        return f"stage {unknown[0]} does not belong to its cell"
    missing = len(set(stages) - set(written))
    return f"DONE, and {missing} of {len(stages)} records are missing" if done and missing else ""
