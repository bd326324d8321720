"""Which parameters of a module are prunable, and their kind: conv, hidden or output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from lt_sweeps.config.spelling import listed, paired

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# The weights that are prunable by default: types of modules, and the names of their parameters.
_USUAL: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((*_CONVOLUTIONS, nn.Linear), "weight"),
    ((nn.MultiheadAttention,), "*_proj_weight"),  # q, k and v, joined or apart; out_proj is Linear
    ((nn.RNNBase, nn.RNNCellBase), "weight_*"),
)


@dataclass(frozen=True)
class Layer:
    """One prunable weight tensor."""

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Parameter:
    """A parameter, all its names (the first is the main one), and the modules that use it."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    owners: tuple[type[nn.Module], ...]
    usual: bool  # `include: ["*"]` prunes it
    head: bool  # the weight of the output layer

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def offered(self) -> bool:
        """Whether a pattern can match it; a bias or a scale is matched only by its full name."""
        return self.usual or len(self.shape) > 1

    def matches(self, pattern: str) -> bool:
        return any(n == pattern or (self.offered and fnmatchcase(n, pattern)) for n in self.names)

    def included(self, pattern: str) -> bool:
        return self.usual if pattern == "*" else self.matches(pattern)

    def kind(self, kinds: Mapping[str, str]) -> str:
        said = {pattern: kind for pattern, kind in kinds.items() if self.matches(pattern)}
        if len({*said.values()}) > 1:
            raise ValueError(f"model.kinds: {paired(said)} all match {self.name}; give it one kind")
        convolves = any(issubclass(kind, (*_CONVOLUTIONS, *_TRANSPOSED)) for kind in self.owners)
        usual = "conv" if convolves else "output" if self.head else "hidden"
        return next(iter(said.values()), usual)


def parameters_of(module: nn.Module, head: str | None) -> tuple[Parameter, ...]:
    """All parameters, each once, in the module's order; `head` is the name of its output layer."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return tuple(_parameter(module, own, head) for own in names.values())


def _parameter(module: nn.Module, names: Sequence[str], head: str | None) -> Parameter:
    owners = [module.get_submodule(name.rpartition(".")[0]) for name in names]
    return Parameter(
        tuple(names),
        tuple(module.get_parameter(names[0]).shape),
        tuple(type(part) for part in owners),
        any(_is_usual(name, part) for name, part in zip(names, owners, strict=True)),
        head is not None and f"{head}.weight".lstrip(".") in names,
    )


def _is_usual(name: str, part: nn.Module) -> bool:
    leaf = name.rpartition(".")[2]
    return any(isinstance(part, kinds) and fnmatchcase(leaf, own) for kinds, own in _USUAL)


def prunable_layers(
    parameters: Sequence[Parameter],
    include: Sequence[str],
    exclude: Sequence[str],
    kinds: Mapping[str, str],
) -> tuple[Layer, ...]:
    """The parameters that match `include` and not `exclude`.

    Raises: ValueError: a pattern matches no parameter, or `kinds` gives a parameter two kinds.
    """
    patterns = {"prunable.include": include, "prunable.exclude": exclude, "kinds": kinds}
    for key, own in patterns.items():
        for pattern in own:
            if pattern != "*" and not any(each.matches(pattern) for each in parameters):
                raise ValueError(
                    f"model.{key}: `{pattern}` matches no parameter; there are "
                    f"{offered(parameters)}"
                )
    return tuple(
        Layer(each.name, each.shape, each.kind(kinds))
        for each in parameters
        if any(each.included(pattern) for pattern in include)
        and not any(each.matches(pattern) for pattern in exclude)
    )


def offered(parameters: Sequence[Parameter]) -> str:
    """The names of parameters that patterns can match, for a message."""
    usual = [each.name for each in parameters if each.usual]
    others = [each.name for each in parameters if each.offered and not each.usual]
    return f"{listed(usual)}" + (f"; more can be named: {listed(others)}" if others else "")
