"""Which functions a stored config may name: reading somebody's results runs none of their code.

A config names functions by import path (`_target_`), and planning it imports and calls them. What a
person composes is that person's; a config that is read from a folder may be anybody's. So a command
that reads one calls `check_trusted` before anything is made of it.
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
"""What a config may name of torch and torchvision: nothing that runs code named by an argument."""
_TARGET = re.compile(r"_target_\s*[:=]\s*([\w.,]+)")


def trusted_modules(given: str | Collection[str] | None) -> tuple[str, ...]:
    """The modules of `trust=mylab,theirlab.nets`, or of a list of their names.

    Raises: ValueError: one is not the name of a module.
    """
    names = given.split(",") if isinstance(given, str) else given or ()
    names = tuple(filter(None, names if isinstance(names, Collection) else [names]))
    for name in names:
        if not all(part.isidentifier() for part in str(name).split(".")):
            raise ValueError(f"trust: got {name!r}; give modules: trust=mylab,theirlab.nets")
    return names


def check_trusted(config: Any, *, where: str, trust: Collection[str] = ()) -> None:
    """Check every function that a stored config names, however deep in it.

    Args:
        where: the file that holds the config; it opens the error.
        trust: modules, or packages of modules, whose functions may run too.

    Raises: ValueError: a function is neither an option of this package nor in a trusted module.
    """
    wrong = [target for target in targets(config) if not _is_trusted(target, trust)]
    if wrong:  # the hint names all of their modules, so that one try is enough
        modules = dict.fromkeys(str(target).rpartition(".")[0] for target in wrong)
        hint = f"; hint: trust={','.join(modules)} if you know its code"
        raise ValueError(
            f"{where}: names `{wrong[0]}`, which is no option of {OURS}, and code that others "
            f"name is not run{hint if all(map(_is_module, modules)) else ''}"
        )


def own_modules(config: Any) -> list[str]:
    """The modules of the functions that a config names and that are no options of this package."""
    texts = {target for target in targets(config) if isinstance(target, str)}
    return sorted({target.rpartition(".")[0] for target in texts if not is_ours(target)})


def is_ours(target: str) -> bool:
    """Whether a function is an option of this package: one that a yaml of its `conf/` names, or
    a loss or an optimizer of torch, or a transform of torchvision.

    No other function of the package counts, because its modules lead to those that they import:
    `lt_sweeps.x.os.system` runs any command.
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
    """The functions that the yamls of the package name."""
    found = (_TARGET.findall(path.read_text("utf-8")) for path in CONF.rglob("*.yaml"))
    names = {name for names in found for name in ",".join(names).split(",")}
    return frozenset(name for name in names if name.startswith(f"{OURS}."))
