"""Answer a user's mistake in one line: what was given, the nearest valid name, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import IOBase
from pathlib import Path
from traceback import walk_tb
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from lt_sweeps.config.spelling import nearest, unknown
from lt_sweeps.config.users_mistakes import raised_in

CONF = next(
    folder
    for folder in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf")
    if folder.is_dir()
)

OF_VERBS = ("importer", "export_form")
"""Groups whose options only the commands `import` and `export` accept."""
_OPEN = ("model.kinds", "report.labels")
"""Mappings whose keys the user chooses; their yaml lists none."""
_PLUGINS = {
    **dict.fromkeys(("hydra/launcher/submitit_local", "hydra/launcher/submitit_slurm"), "submitit"),
    **{f"hydra/launcher/{name}": name for name in ("joblib", "ray", "rq")},
    **{f"hydra/sweeper/{name}": name for name in ("ax", "nevergrad", "optuna")},
}
"""Hydra's own plugins: the option that each adds -> the middle part of its package's name."""
_NO_GROUP = (  # in Hydra 1.3, and in 1.4
    r"Could not override '(.+?)'\. No match in the|No earlier Group Default for '(.+?)' exists"
)


def complaint(error: BaseException) -> str | None:
    """Return the one-line answer to a mistake, in user-defined code too; None for a bug of ours."""
    if plugin := _broken_plugin(error):
        return plugin
    if isinstance(error, RuntimeError) and _module_of(error) == "submitit":
        said = _one_line(error).removeprefix("sbatch: error: ")
        return f"hydra/launcher: {said}; hint: leave out hydra/launcher=submitit_slurm to run here"
    match error:
        case MissingConfigException():
            return _unknown_option(error)
        case OverrideParseException():
            return _override(error.override)
        case HydraException():
            return _composition(error)
        case OmegaConfBaseException():
            return _config(error)
        case YAMLError():
            return _one_line(error)
        case UnicodeDecodeError():
            return f"{_being_read(error)}: {error.reason} at byte {error.start}; save it as UTF-8"
        case MemoryError():
            return f"memory: {_one_line(error)}; there is not enough on this machine"
        case RuntimeError() if "can't allocate memory" in str(error):  # raised by torch
            return f"memory: {_one_line(error).partition(': ')[2]}"
        case FileNotFoundError() if error.errno is None:  # raised by this package
            return _one_line(error)
        case OSError() if error.filename is not None:  # raised by the file system
            return f"{error.filename}: {error.strerror}"
        case UserWarning() if "is not available" in str(error):  # hydra.searchpath
            return f"{_one_line(error).split('path=')[-1]} hint: hydra.searchpath=[file://DIR]"
        case ValueError() if _module_of(error) in ("lt_sweeps", "hydra"):
            return str(error)
    return raised_in(error)


def yaml_value(key: str, text: str) -> Any:
    """Parse the value that a user typed for a key as yaml, with Hydra's numbers: 1e-3 is one.

    Raises: ValueError: the value is not valid yaml.
    """
    try:
        return OmegaConf.to_container(OmegaConf.create(f"- {text}"))[0]  # type: ignore[index]
    except (YAMLError, OmegaConfBaseException):
        raise ValueError(f"{key}: got {text}; close the brackets and quotes of a value") from None


def options(group: str) -> set[str]:
    """Return the options of a group that come with the package, including those in subfolders.

    A file whose name starts with an underscore is a fragment that options share, not an option.
    """
    folder = CONF / group
    files = (file.relative_to(folder).with_suffix("") for file in folder.rglob("[!_]*.yaml"))
    return {file.as_posix() for file in files}


def groups() -> set[str]:
    """Return the package's groups that overrides choose from: folders of `conf/` with options."""
    folders = {folder.name for folder in CONF.iterdir() if options(folder.name)}
    return folders - {"hydra", *OF_VERBS}


def _override(word: str) -> str:
    """Say what is wrong with an override that Hydra cannot parse."""
    key, _, value = word.partition("=")
    if "=~" in word:
        return f"{key}: got {value}; write {key}=$HOME/..., since no shell replaces ~ here"
    if re.search(r"\S\s+[\w.@/]+=", word):
        return f"{word}: several overrides in one; give each by itself"
    if re.search(r"=,|,,|,$", word):
        return f"{word}: a comma has no value on one side"
    return (
        f"{word}: not of the form key=value; a value with special characters "
        "needs quotes: key='\"a value\"'"
    )


def _unknown_option(error: MissingConfigException) -> str:
    path = error.missing_cfg_file or ""
    if error.options is None:
        place = f"looked in {CONF} and hydra.searchpath"
        return f"{_source(str(error))}{path or '--config-path'}: no such config; {place}"
    group, option = _split(path)
    if name := _PLUGINS.get(path):
        package = f"hydra-{name}-{group.removeprefix('hydra/')}"
        return f"{group}: {option} is not installed; pip install {package}"
    others = {name for name in error.options if name[0] != "_"}
    line = unknown(group, option, options(group) | others, what="options")
    return _source(str(error)) + line


def _source(text: str) -> str:
    """Return the config file with the mistake; empty if the mistake is on the command line."""
    matched = re.match(r"In '(.+?)':", text)
    return f"{matched[1]}: " if matched and matched[1] not in ("config", "hydra/config") else ""


def _split(path: str) -> tuple[str, str]:
    """Split a path into group and option.

    A group is a folder of conf/ or conf/hydra/; an option may be nested.
    """
    depth = 2 if path.startswith("hydra/") else 1
    parts = path.split("/")
    return "/".join(parts[:depth]), "/".join(parts[depth:])


def _composition(error: HydraException) -> str:
    text, cause = str(error), error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        key = re.match(r"Could not override '(.+?)'", text)
        return _unknown_key(key[1] if key else str(cause.full_key), cause)
    if matched := re.search(r"Multiple values for (\S+)\.|(\S+) appears more than once", text):
        group = matched[1] or matched[2]
        return f"{group}: already has an option; replace it without a plus: {group}=OPTION"
    if matched := re.search(r"An item is already at '(.+?)'", text):
        return f"+{matched[1]}: this key exists already; write {matched[1]}=VALUE without a plus"
    if matched := re.search(r"Could not delete from config\. '(.+?)' does not exist", text):
        return f"~{matched[1]}: no such key"
    if "@experiment." in text:
        return f"{_source(text)}begin the file with `# @package _global_`"
    if matched := re.search(_NO_GROUP, text):
        name = matched[1] or matched[2]
        group = name.partition("@")[0].rpartition("/")[2]
        if group != name and group in groups():
            return f"{_source(text)}a group begins with a slash: override /{group}"
        return _source(text) + unknown("group", name, groups(), what="groups")
    if "does not have a `_target_` field" in text:
        which = "the yaml of hydra/launcher or hydra/sweeper has no `_target_`"
        return f"hydra: {which}; one for your cluster begins with defaults: [slurm, _self_]"
    if matched := re.search(r"Ambiguous value for argument '(.+?)'", text):
        return f"{matched[1]}: several values; this command takes one"
    if not text and isinstance(cause, OmegaConfBaseException):
        return _config(cause)
    return _one_line(error) if cause is None else f"{_one_line(error)}: {_one_line(cause)}"


def _config(error: OmegaConfBaseException) -> str:
    if isinstance(error, ConfigAttributeError | ConfigKeyError) and error.full_key:
        return _unknown_key(error.full_key, error)
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if first.startswith("Missing mandatory value"):
        return f"{error.full_key}: no value given; write {error.full_key}=VALUE"
    return f"{error.full_key}: {first}" if error.full_key else first


def _unknown_key(key: str, error: OmegaConfBaseException) -> str:
    node = error.parent_node
    if not isinstance(node, DictConfig):
        return f"{key}: no such key"
    inside = str(node._get_full_key(None))
    if key == inside:  # a mapping was given
        key = f"{inside}.{error.key}"
    root = node._get_root()
    launcher = yaml.safe_load((CONF / "hydra/launcher/slurm.yaml").read_text("utf-8"))
    known = [*_keys(OmegaConf.to_container(root)), *_keys(launcher, "hydra.launcher.")]
    # `lr` is more likely to mean `recipe.lr` than a name with a similar spelling.
    same = [name for name in known if name.endswith(f".{key}")]
    near = f"; did you mean `{same[0]}`?" if same else nearest(key, known) or ";"
    names = ", ".join(sorted(name for name in map(str, node) if name != "hydra" and name[0] != "_"))
    if inside and not names:
        return f"{key}: unknown key; {inside} has no keys{_with_key(inside, str(error.key))}"
    return f"{key}: unknown key{near} {f'keys of {inside}' if inside else 'keys'}: {names}"


def _with_key(inside: str, name: str) -> str:
    """Say how a key can be set: by choosing another option of its group, or by adding the key."""
    group = inside.replace(".", "/")
    for option in sorted(options(group)):
        if name in (yaml.safe_load((CONF / group / f"{option}.yaml").read_text("utf-8")) or {}):
            return f"; {group}={option} has it"
    return f"; to add one, write ++{inside}={{NAME: VALUE}}" if inside in _OPEN else ""


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    for name, value in config.items() if isinstance(config, dict) else ():
        if f"{prefix}{name}" != "hydra" and not str(name).startswith("_"):
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")


def _being_read(error: BaseException) -> str:
    """Return the file that a frame has open, because a decoding error does not name its file."""
    for frame, _ in walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, IOBase) and isinstance(name := getattr(value, "name", None), str):
                return name
    return "a file"


def _broken_plugin(error: BaseException) -> str:
    """Describe the error of a Hydra plugin at import; Hydra imports all installed plugins."""
    for frame, _ in walk_tb(error.__traceback__):
        name = frame.f_globals.get("__name__", "")
        if name.startswith("hydra_plugins.") and frame.f_code.co_name == "<module>":
            package = name.split(".")[1].replace("_", "-")
            return (
                f"{package}: this plugin of Hydra cannot be imported: {_one_line(error)}; "
                f"pip uninstall {package}"
            )
    return ""


def _module_of(error: BaseException) -> str:
    """Return the top-level package of the frame that raised an error."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "").split(".")[0] if frames else ""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return re.sub(r" full_key: \S+( object_type=\S+)?", "", text) or type(error).__name__
