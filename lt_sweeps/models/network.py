"""`Network`: a model as a value, which builds modules, draws their weights, and is hashed."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from lt_sweeps.config.call import Call
from lt_sweeps.config.identity import identity_of
from lt_sweeps.config.seeds import Seed, draw, global_draws, repeated, seed_torch
from lt_sweeps.config.spelling import listed
from lt_sweeps.config.yaml_types import check_keys
from lt_sweeps.models import libraries
from lt_sweeps.models.functional import picked
from lt_sweeps.models.module_checks import (
    check_prunable,
    check_scripted,
    check_trainable,
    initialize,
)
from lt_sweeps.models.module_state import outside_state, state_of, tied_names
from lt_sweeps.models.norm_statistics import has_statistics, lingering_norms
from lt_sweeps.models.output_layer import head_of
from lt_sweeps.models.pretrained import FORMS, Pretrained
from lt_sweeps.models.pretrained_fit import check_fit, drawn_names
from lt_sweeps.models.prunable import Layer, Parameter, parameters_of, prunable_layers

_KINDS = "kinds (conv, hidden, output) by pattern of names"
# The keys of a model's yaml, with the types of their values.
_KEYS: Mapping[str, Any] = {
    "net": Mapping[str, Any] | None,
    "init": Any,  # `Call.of` answers
    "prunable": Mapping[str, Any] | None,
    "kinds": Annotated[Mapping[str, Literal["conv", "hidden", "output"]] | None, _KINDS],
    "weights": Annotated[str | None, FORMS],
    "redraw": Sequence[str] | None,
    "head": str | None,
}
_PRUNABLE = {"include": Sequence[str], "exclude": Sequence[str]}
_SHAPES = ("input_shape", "classes", "outputs")  # passed to a net that names them


@dataclass(frozen=True)
class Network:
    """A model as a value: it builds an ordinary `nn.Module` and knows its prunable layers.

    Prunable is what matches `include` and not `exclude`, patterns on parameter names. `*` stands
    for the usual weights: those of convolutions, linear layers, attention and recurrent modules.
    Another pattern matches any parameter of two or more dimensions too (embeddings), and a name in
    full any parameter (a bias). A parameter with several names is pruned once.
    """

    net: Call
    input_shape: tuple[int, ...]
    classes: int
    init: Call | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()
    output: str | int | None = None  # the output that counts, where a net returns several
    weights: Pretrained | None = None
    redraw: tuple[str, ...] = ()  # patterns of the parameters that are drawn in spite of `weights`
    input_dtype: torch.dtype = torch.float32  # whole numbers are tokens
    told_head: str | None = None  # the output layer, where it is not the last linear one

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        input_shape: tuple[int, ...],
        classes: int,
        output: str | int | None = None,
        input_dtype: torch.dtype = torch.float32,
    ) -> Network:
        """The network that a model yaml describes, for this input and number of outputs.

        Raises:
            ValueError: an unknown key, a net that cannot be built, or nothing to prune in it.
        """
        check_keys(config, _KEYS, where="model")
        if config.get("net") is None:
            raise ValueError("model: no `net`; give `net: {_target_: your.Module, ...}`")
        prunable = {"include": ["*"], "exclude": [], **(config.get("prunable") or {})}
        check_keys(prunable, _PRUNABLE, where="model.prunable")
        init, kinds = config.get("init"), config.get("kinds") or {}
        network = cls(
            Call.of(config["net"], where="model.net", supplied=_SHAPES),
            input_shape,
            classes,
            Call.of(init, where="model.init", supplied=("module",)) if init is not None else None,
            tuple(prunable["include"]),
            tuple(prunable["exclude"]),
            tuple(sorted(kinds.items())),
            output,
            None if config.get("weights") is None else Pretrained.of(config["weights"]),
            tuple(config.get("redraw") or ()),
            input_dtype,
            config.get("head"),
        )
        network._check()
        return network

    @functools.cache  # noqa: B019 (networks are few, and cells that have one are many)
    def _check(self) -> None:
        """Raises: ValueError: it cannot be built, pruned or trained as it is described."""
        check_prunable(self.layers, self._parameters, self.untrained, self.net)
        check_trainable(self._outline, self.net)
        if self.weights is not None:
            check_fit(self._outline, self.weights, self.redraw, self.head, self.net)
        elif self.redraw:
            raise ValueError(f"model.redraw: got {listed(self.redraw)}; it goes with model.weights")

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def _outline(self) -> nn.Module:
        """The module on `meta`, built once for questions; it is never changed."""
        try:
            module = self.module()
        except (TypeError, LookupError, RuntimeError, ArithmeticError) as error:
            raise ValueError(f"model: {self.net} cannot be built: {error}") from error
        except ValueError as error:
            if "to unpack" not in str(error):
                raise  # a net of ours says what is wrong
            shape = list(self.input_shape)
            raise ValueError(f"model: {self.net} takes no inputs of {shape}: {error}") from error
        check_scripted(module, self.net)
        parameters = module.named_parameters(remove_duplicate=False)
        if lazy := [name for name, value in parameters if nn.parameter.is_lazy(value)]:
            raise ValueError(
                f"model: {self.net}: lazy layers have no weights before a forward pass; give the "
                f"sizes of {listed(lazy)}"
            )
        return module

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def _parameters(self) -> tuple[Parameter, ...]:
        """All parameters in the module's order, each once."""
        return parameters_of(self._outline, self.head)

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def layers(self) -> tuple[Layer, ...]:
        """The prunable layers in the module's order."""
        return prunable_layers(self._parameters, self.include, self.exclude, dict(self.kinds))

    @property
    def told_kinds(self) -> dict[str, Any]:
        """What `kinds` adds to a key, where more than a schedule reads it: unusual kinds."""
        usual = dataclasses.replace(self, kinds=()).layers if self.kinds else self.layers
        pairs = zip(self.layers, usual, strict=True)
        kinds = {layer.name: layer.kind for layer, other in pairs if layer.kind != other.kind}
        return {"kinds": kinds} if kinds else {}

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers each parameter has, prunable or not; one with two names counts once."""
        return {each.name: math.prod(each.shape) for each in self._parameters}

    @property
    def parameters(self) -> int:
        """The number of its parameters, prunable or not: biases and normalisation count too."""
        return sum(self.sizes.values())

    @property
    def untrained(self) -> tuple[str, ...]:
        """The parameters that the module itself freezes, by `requires_grad`."""
        named = self._outline.named_parameters()
        return tuple(name for name, parameter in named if not parameter.requires_grad)

    @property
    def head(self) -> str | None:
        """The name of the output layer."""
        return head_of(self._outline, self.told_head)

    @property
    def normalised(self) -> bool:
        """Whether it has norms with running statistics."""
        return has_statistics(self._outline)

    def lingering(self, batches: int) -> dict[str, float | None]:
        """The norms, each with its momentum, whose statistics so many batches do not make anew."""
        return lingering_norms(self._outline, batches)

    @property
    def tied(self) -> dict[str, str]:
        """Second names of tensors in its `state_dict`, each with the tensor's first name."""
        return tied_names(self._outline)

    def module(self, device: str = "meta") -> nn.Module:
        """A fresh module; on `meta`, only the shapes of what a `state_dict` holds."""
        module = self._built(device)
        if device == "meta":
            for owner, leaf, tensor in outside_state(module):
                if tensor.is_meta:
                    value = self._constants[owner, leaf].clone()
                    setattr(module.get_submodule(owner), leaf, value)
        if self.output is not None:
            module.register_forward_hook(functools.partial(_only, self.output))
        return module

    def _built(self, device: str) -> nn.Module:
        with torch.device(device):
            module = self.net(
                input_shape=self.input_shape, classes=self.classes, outputs=self.classes
            )
        if not isinstance(module, nn.Module):
            kind = "nothing" if module is None else f"a value of type {type(module).__name__}"
            raise ValueError(f"model: {self.net} returns {kind}; give a `torch.nn.Module`")
        return module

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def _constants(self) -> dict[tuple[str, str], Tensor]:
        """The tensors that no `state_dict` holds, such as tables of positions, as it builds them.

        Drawn ones would be others in the next process; the rehearsal refuses these.
        """
        with global_draws(0):
            outside = outside_state(self._built("cpu"))
        return {(owner, leaf): tensor.detach() for owner, leaf, tensor in outside}

    def example(self, count: int = 1) -> Tensor:
        """Inputs of its shape and type that it can be run on: zeros, or the first token."""
        return torch.zeros(count, *self.input_shape, dtype=self.input_dtype)

    def draw(self, seed: Seed, *index: int | str) -> dict[str, Tensor]:
        """The initial `state_dict`, drawn on the CPU from the seed's `init` role alone.

        Every `index` gives another draw.
        """

        def drawn() -> dict[str, Tensor]:
            seed_torch(draw(seed.role("init"), "init", *index))
            module = self.module("cpu")
            if self.init is not None:
                initialize(module, self.init)
            return state_of(module)

        state = dict(repeated(drawn, f"model: {self.net}"))
        saved = state_of(self._outline)
        if other := sorted(state.keys() ^ saved.keys()):
            raise ValueError(
                f"model: {self.net} has {', '.join(other[:3])} on the CPU or on torch's device "
                "`meta` alone; build the same tensors on both (torch's `orthogonal` does with "
                "use_trivialization=False)"
            )
        if self.weights is not None and not index:  # another draw is a draw
            given = self.weights.read()
            loaded = state.keys() & given.keys() - self.drawn
            state |= {name: given[name].to(state[name].dtype).clone() for name in loaded}
        return state

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def drawn(self) -> frozenset[str]:
        """What the seed draws although there are pretrained weights: all of it without any."""
        return drawn_names(self._outline, self.weights, self.redraw, self.head)

    def holding(self, state: Mapping[str, Tensor]) -> nn.Module:
        """A module on the CPU with the weights and buffers of a ticket."""
        with torch.random.fork_rng(devices=[]):
            module = self.module("cpu")
        if set(state_of(module)) != set(state):
            raise ValueError(f"model: {self.net} has other parameters than this ticket")
        module.load_state_dict(dict(state), strict=False)  # a tied weight has one name in it
        return module

    def identity(self) -> dict[str, Any]:
        started: dict[str, Any] = {}
        if self.weights is not None:
            started = {"weights": self.weights.sha256, "drawn": sorted(self.drawn)}
        if self.head != head_of(self._outline):
            started["head"] = self.head
        release = {}
        if self.net.function is libraries.timm:  # another release may build another network
            release = {"timm": importlib.metadata.version("timm")}
        return {
            "net": self.net.identity(),
            "init": self.init.identity() if self.init else None,
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "prunable": [layer.name for layer in self.layers],
            **started,
            **release,
            **identity_of(type(self)),
        }


def _only(output: str | int, module: nn.Module, args: object, outputs: object) -> Tensor:
    """The output that counts, in place of all that a net returned."""
    return picked(outputs, output)
