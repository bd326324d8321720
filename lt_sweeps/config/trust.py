"""Check which functions a stored config names, so that reading results runs no foreign code.

A config names functions by import path (`_target_`), and planning the config imports and calls
them. A config that a user composes is the user's own; a config that is read from a folder may be
anybody's. So a command that reads a stored config calls `check_trusted` before it uses the config.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from typing import Any

from lt_sweeps.config.errors import CONF
from lt_sweeps.config.user_code import targets

OURS = __name__.partition(".")[0]
_LOSS = r"torch\.nn\.functional\.(\w+_loss|(binary_)?cross_entropy(_with_logits)?)"
_OPEN = re.compile(rf"torch\.optim\.[A-Z]\w*|torchvision\.transforms\.v2\.[A-Z]\w*|{_LOSS}")
"""What a config may name in torch and torchvision: nothing that runs code named by an argument."""
_TARGET = re.compile(r"_target_\s*[:=]\s*([\w.,]+)")


def trusted_modules(given: str | Collection[str] | None) -> tuple[str, ...]:
    """Return the modules in `trust=mylab,theirlab.nets`, or in a list of their names.

    Raises: ValueError: a name cannot be the name of a module.
    """
    names = given.split(",") if isinstance(given, str) else given or ()
    names = tuple(filter(None, names if isinstance(names, Collection) else [names]))
    for name in names:
        if not all(part.isidentifier() for part in str(name).split(".")):
            raise ValueError(f"trust: got {name!r}; give modules: trust=mylab,theirlab.nets")
    return names


def check_trusted(config: Any, *, where: str, trust: Collection[str] = ()) -> None:
    """Check every function that a stored config names, at any depth.

    Args:
        where: the file that holds the config; the error begins with it.
        trust: modules, or packages of modules, whose functions may run in addition.

    Raises: ValueError: a function is neither an option of this package nor in a trusted module.
    """
    wrong = [target for target in targets(config) if not _is_trusted(target, trust)]
    if wrong:  # the hint names all of their modules, so that one try is enough
        modules = dict.fromkeys(str(target).rpartition(".")[0] for target in wrong)
        hint = f"; hint: trust={','.join(modules)} if you know its code"
        raise ValueError(
            f"{where}: names `{wrong[0]}`, which is not part of {OURS}, and only trusted code is "
            f"run{hint if all(map(_is_module, modules)) else ''}"
        )


def own_modules(config: Any) -> list[str]:
    """Return the modules of the functions in a config that are not options of this package."""
    texts = {target for target in targets(config) if isinstance(target, str)}
    return sorted({target.rpartition(".")[0] for target in texts if not is_ours(target)})


def is_ours(target: str) -> bool:
    """Whether a function is an option of this package, so that a stored config may name it.

    Such functions are named by a yaml of our `conf/`, or are a loss or an optimizer of torch, or a
    transform of torchvision. Other functions of the package do not count, because a path can lead
    through a module to the modules that it imports: `lt_sweeps.x.os.system` runs any command.
    """
    return target in _options() or _OPEN.fullmatch(target) is not None


def _is_trusted(target: Any, trust: Collection[str]) -> bool:
    if target is None or (isinstance(target, str) and is_ours(target)):
        return True
    return isinstance(target, str) and any(target.startswith(f"{module}.") for module in trust)


def _is_module(name: str) -> bool:
    top, *rest = name.split(".")
    return top != OURS and all(part.isidentifier() for part in (top, *rest))


@functools.cache
def _options() -> frozenset[str]:
    """Return the functions that the yamls of the package name."""
    matches = (_TARGET.findall(path.read_text("utf-8")) for path in CONF.rglob("*.yaml"))
    names = {name for names in matches for name in ",".join(names).split(",")}
    return frozenset(name for name in names if name.startswith(f"{OURS}."))
