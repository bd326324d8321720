"""`Network`: a model, its prunable layers, and how its weights are drawn."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lt_sweeps.config.call import Call, fits, identity_of, nearest
from lt_sweeps.config.seeds import Seed, draw, repeated

KINDS = ("conv", "hidden", "output")
_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Layer:
    """One prunable weight tensor."""

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def size(self) -> int:
        return functools.reduce(int.__mul__, self.shape, 1)


@dataclass(frozen=True)
class Network:
    """A model as a value: it builds an ordinary `nn.Module` and knows its prunable layers.

    Prunable are the weights of convolution and linear modules that match `include` and not
    `exclude` (patterns on parameter names); never biases or normalisation.
    """

    net: Call
    input_shape: tuple[int, int, int]
    classes: int
    init: Call | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls, config: Mapping[str, Any], input_shape: tuple[int, int, int], classes: int
    ) -> Network:
        """The network that a model yaml describes, for this input and number of classes.

        Raises:
            ValueError: an unknown key, a net that cannot be built, or nothing to prune in it.
        """
        allowed = ["net", "init", "prunable", "kinds"]
        for key in config:
            if key not in allowed:
                raise ValueError(f"model: no key `{key}`; it has {allowed}{nearest(key, allowed)}")
        if not isinstance(config.get("net"), Mapping):
            raise ValueError("model: no `net`; give `net: {_target_: your.Module, ...}`")
        _check_patterns(config)
        prunable = {"include": ["*"], "exclude": [], **(config.get("prunable") or {})}
        if unknown := sorted(set(prunable) - {"include", "exclude"}):
            raise ValueError(f"model.prunable: no key {unknown}; keys are ['include', 'exclude']")
        init, kinds = config.get("init"), config.get("kinds") or {}
        if wrong := sorted(set(kinds.values()) - set(KINDS)):
            raise ValueError(f"model.kinds: got {wrong[0]!r}; a kind is one of {list(KINDS)}")
        network = cls(
            Call.of(config["net"], where="model.net", supplied=("input_shape", "classes")),
            input_shape,
            classes,
            Call.of(init, where="model.init", supplied=("module",)) if init else None,
            tuple(prunable["include"]),
            tuple(prunable["exclude"]),
            tuple(sorted(kinds.items())),
        )
        if empty := [layer.name for layer in network.layers if not layer.size]:
            raise ValueError(f"model: {network.net} has no weights in {empty}")
        if not network.layers:
            raise ValueError(
                f"model: {network.net} has no prunable weight; `prunable` matches none of "
                f"{[layer.name for layer in _candidates(network)]}"
            )
        return network

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def layers(self) -> tuple[Layer, ...]:
        """The prunable layers in the module's order."""
        candidates = _candidates(self)
        names = [layer.name for layer in candidates]
        patterns = {
            "prunable.include": self.include,
            "prunable.exclude": self.exclude,
            "kinds": [pattern for pattern, _ in self.kinds],
        }
        for key, listed in patterns.items() if candidates else ():
            for pattern in listed:
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise ValueError(f"model.{key}: `{pattern}` matches none of {names}")
        return tuple(layer for layer in candidates if self._prunes(layer.name))

    @property
    def head(self) -> str | None:
        """The name of the output layer: the last linear module."""
        linear = [n for n, part in self.module().named_modules() if isinstance(part, nn.Linear)]
        return linear[-1] if linear else None

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def normalised(self) -> bool:
        """Whether it has batch norms with running statistics."""
        return any(name.endswith("running_mean") for name, _ in self.module().named_buffers())

    @property
    def parameters(self) -> int:
        """The number of its parameters, prunable or not: biases and normalisation count too."""
        return sum(tensor.numel() for tensor in self.module().parameters())

    def module(self, device: str = "meta") -> nn.Module:
        """A fresh module; on `meta`, its shapes only."""
        with torch.device(device):
            return self.net(input_shape=self.input_shape, classes=self.classes)

    def draw(self, seed: Seed, *index: int | str) -> dict[str, Tensor]:
        """The initial `state_dict`, drawn on the CPU from the seed's `init` role alone.

        Every `index` gives another draw.
        """

        def drawn() -> dict[str, Tensor]:
            torch.manual_seed(draw(seed.role("init"), "init", *index))
            module = self.module("cpu")
            if self.init is not None:
                self.init(module=module)
            return {name: tensor.detach() for name, tensor in module.state_dict().items()}

        return dict(repeated(drawn, f"model: {self.net}"))

    def _prunes(self, name: str) -> bool:
        included = any(fnmatchcase(name, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(name, pattern) for pattern in self.exclude)

    def identity(self) -> dict[str, Any]:
        return {
            "net": self.net.identity(),
            "init": self.init.identity() if self.init else None,
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "prunable": [layer.name for layer in self.layers],
            **identity_of(type(self)),
        }


@functools.cache
def _candidates(network: Network) -> tuple[Layer, ...]:
    """The weights of all convolutions and linear modules; the last linear one is the output."""
    try:
        module = network.module()
    except (TypeError, NotImplementedError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"model: {network.net} cannot be built: {error}") from error
    weighted = {
        f"{name}.weight".lstrip("."): part
        for name, part in module.named_modules()
        if isinstance(part, (*_CONV, nn.Linear))
    }
    linear = [name for name, part in weighted.items() if isinstance(part, nn.Linear)]
    kinds = dict(network.kinds)

    def kind(name: str, part: nn.Module) -> str:
        for pattern, chosen in kinds.items():
            if fnmatchcase(name, pattern):
                return chosen
        if isinstance(part, _CONV):
            return "conv"
        return "output" if name == linear[-1] else "hidden"

    return tuple(
        Layer(name, tuple(part.weight.shape), kind(name, part)) for name, part in weighted.items()
    )


def _check_patterns(config: Mapping[str, Any]) -> None:
    """Raises: ValueError: `prunable` or `kinds` is not of the form that a model yaml has."""
    prunable, kinds = config.get("prunable") or {}, config.get("kinds") or {}
    if not isinstance(prunable, Mapping) or not all(
        fits(listed, list[str]) for listed in prunable.values()
    ):
        raise ValueError(
            f"model.prunable: got {prunable!r}; give `include` and `exclude`, lists of patterns"
        )
    if not isinstance(kinds, Mapping):
        raise ValueError(f"model.kinds: got {kinds!r}; give kinds by pattern of names")
