"""Read the options of the commands `import`, `export` and `report`: one yaml file each.

Hydra composes the options of a sweep. These commands compose nothing: an option is one file, a
`_target_` with arguments, in a folder of our `conf/` or of the folder that `--config-dir` names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lt_sweeps.config.call import Config
from lt_sweeps.config.errors import CONF, OF_VERBS
from lt_sweeps.config.spelling import unknown


def option_names(group: str, config_dir: str | None = None) -> dict[str, Path]:
    """Return option -> file for a group; a user's file replaces ours of the same name.

    Raises: ValueError: `config_dir` is not a folder.
    """
    if config_dir is not None:
        check_own_options(config_dir)
    folders = [CONF, *([Path(config_dir)] if config_dir else [])]
    files = (file for folder in folders for file in sorted((folder / group).glob("[!_]*.yaml")))
    return {file.stem: file for file in files}


def check_own_options(folder: str) -> None:
    """Raises: ValueError: the `folder` of user-defined options does not exist."""
    if not Path(folder).is_dir():
        raise ValueError(
            f"--config-dir: got {folder}; give a folder that holds GROUP/NAME.yaml of your own"
        )


def refuse_hidden_options(folder: Path) -> None:
    """Refuse a file of the user that Hydra would not read, because ours has the same name.

    Files of the groups of `option_names` are read, and files with the content of ours do no harm.

    Raises: ValueError: the folder has such a file.
    """
    for file in sorted(folder.rglob("*.yaml")):
        name = file.relative_to(folder)
        ours = CONF / name
        if name.parts[0] in (*OF_VERBS, "figure") or not ours.is_file() or file.samefile(ours):
            continue
        if file.read_bytes() != ours.read_bytes():
            raise ValueError(
                f"{file}: lt_sweeps has an option of this name, which would be used instead; "
                "rename yours"
            )


def read_option(group: str, name: str, *, where: str, config_dir: str | None = None) -> Config:
    """Read the yaml of an option.

    Raises: ValueError: the group has no such option, or the file has no `_target_`.
    """
    files = option_names(group, config_dir)
    if name not in files:
        raise ValueError(unknown(where, name, files, what="options"))
    # Parsed as Hydra parses all other options: 1e-3 is a number, and no key may be given twice.
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(files[name]), resolve=True)
    except OSError as error:
        if error.errno is not None:
            raise
        content = None  # OmegaConf's error for a file that holds a number
    if not isinstance(content, dict) or not isinstance(content.get("_target_"), str):
        raise ValueError(f"{where}: {files[name]} has no `_target_`, the path of a function")
    return Config(content)
