"""`Network`: a model, its prunable layers, and how its weights are drawn."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from lt_sweeps.config.call import Call, check_keys, identity_of
from lt_sweeps.config.seeds import Seed, draw, global_draws, repeated
from lt_sweeps.models import libraries
from lt_sweeps.models.functional import picked
from lt_sweeps.models.pretrained import FORMS, Pretrained

_KINDS = "kinds (conv, hidden, output) by pattern of names"
# The keys of a model's yaml, with the types of their values.
_KEYS: Mapping[str, Any] = {
    "net": Mapping[str, Any] | None,
    "init": Any,  # `Call.of` answers
    "prunable": Mapping[str, Any] | None,
    "kinds": Annotated[Mapping[str, Literal["conv", "hidden", "output"]] | None, _KINDS],
    "weights": Annotated[str | None, FORMS],
    "redraw": Sequence[str] | None,
}
_PRUNABLE = {"include": Sequence[str], "exclude": Sequence[str]}
_SHAPES = ("input_shape", "classes", "outputs")  # passed to a net that names them
_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_OF_INSTANCES = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_HELD = 2.0**-25  # a smaller part of a number is lost in float32
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# The weights of a module that are prunable unless a pattern says otherwise, by their own names.
_USUAL: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((*_CONV, nn.Linear), "weight"),
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
        )
        if empty := [layer.name for layer in network.layers if not layer.size]:
            raise ValueError(f"model: {network.net} has no weights in {empty}")
        if scalars := [layer.name for layer in network.layers if not layer.shape]:
            raise ValueError(f"model.prunable: {scalars[0]} is a single number; leave it out")
        if not network.layers:
            if not (parameters := _parameters(network)):
                raise ValueError(
                    f"model: {network.net} has no parameters; a layer in a list or dict of Python "
                    "has none, so put it in a `torch.nn.ModuleList`"
                )
            raise ValueError(
                f"model.prunable: it leaves no weight of {network.net}; there are "
                f"{_offered(parameters)}"
            )
        if still := [layer.name for layer in network.layers if layer.name in network.untrained]:
            raise ValueError(
                f"model.prunable: {network.net} does not train {', '.join(still[:3])} "
                f"(requires_grad=False); leave them out: model.prunable.exclude={still}"
            )
        network._check_trainable()
        network._check_weights()
        return network

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def layers(self) -> tuple[Layer, ...]:
        """The prunable layers in the module's order."""
        parameters = _parameters(self)
        patterns = {
            "prunable.include": self.include,
            "prunable.exclude": self.exclude,
            "kinds": [pattern for pattern, _ in self.kinds],
        }
        for key, listed in patterns.items():
            for pattern in listed:
                if pattern != "*" and not any(each.matches(pattern) for each in parameters):
                    raise ValueError(
                        f"model.{key}: `{pattern}` matches no parameter; there are "
                        f"{_offered(parameters)}"
                    )
        kinds = dict(self.kinds)
        return tuple(
            Layer(each.name, each.shape, each.kind(kinds))
            for each in parameters
            if any(each.included(pattern) for pattern in self.include)
            and not any(each.matches(pattern) for pattern in self.exclude)
        )

    @property
    def told_kinds(self) -> dict[str, Any]:
        """What `kinds` adds to a key, where more than a schedule reads it: unusual kinds."""
        usual = dataclasses.replace(self, kinds=()).layers if self.kinds else self.layers
        pairs = zip(self.layers, usual, strict=True)
        kinds = {layer.name: layer.kind for layer, other in pairs if layer.kind != other.kind}
        return {"kinds": kinds} if kinds else {}

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def sizes(self) -> dict[str, int]:
        """How many numbers each parameter has, prunable or not; one with two names counts once."""
        return {each.name: math.prod(each.shape) for each in _parameters(self)}

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def untrained(self) -> tuple[str, ...]:
        """The parameters that the module itself freezes, by `requires_grad`."""
        named = self.module().named_parameters()
        return tuple(name for name, parameter in named if not parameter.requires_grad)

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def head(self) -> str | None:
        """The name of the output layer: the last linear module."""
        linear = [n for n, part in self.module().named_modules() if isinstance(part, nn.Linear)]
        return linear[-1] if linear else None

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def normalised(self) -> bool:
        """Whether it has batch norms with running statistics."""
        return any(name.endswith("running_mean") for name, _ in self.module().named_buffers())

    @functools.cache  # noqa: B019 (networks are few)
    def lingering(self, batches: int) -> dict[str, float | None]:
        """The norms, each with its momentum, whose statistics so many batches do not make anew.

        Running statistics of momentum m hold (1 - m)^n of what they were before n batches; those
        of a batch norm without momentum are the mean of all batches that it has ever seen. An
        instance norm without momentum never changes its own.
        """
        kinds = (*_NORMS, *_OF_INSTANCES)
        norms = {
            name: part.momentum
            for name, part in self.module().named_modules()
            if isinstance(part, kinds)
            and part.track_running_stats
            and not (part.momentum is None and isinstance(part, _OF_INSTANCES))
        }
        return {
            name: momentum
            for name, momentum in norms.items()
            if momentum is None or (0 < momentum < 1 and (1 - momentum) ** batches >= _HELD)
        }

    @property
    def parameters(self) -> int:
        """The number of its parameters, prunable or not: biases and normalisation count too."""
        return sum(self.sizes.values())

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
            kind = type(module).__name__
            raise ValueError(f"model: {self.net} is of type {kind}; give a `torch.nn.Module`")
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

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def tied(self) -> dict[str, str]:
        """Second names of tensors in its `state_dict`, each with the tensor's first name."""
        module = self.module()
        named = (*module.named_parameters(), *module.named_buffers())
        own = {id(tensor): name for name, tensor in named}
        names = {n: own.get(id(t), n) for n, t in module.state_dict(keep_vars=True).items()}
        return {name: first for name, first in names.items() if name != first}

    def example(self, count: int = 1) -> Tensor:
        """Inputs of its shape and type that it can be run on: zeros, or the first token."""
        return torch.zeros(count, *self.input_shape, dtype=self.input_dtype)

    def draw(self, seed: Seed, *index: int | str) -> dict[str, Tensor]:
        """The initial `state_dict`, drawn on the CPU from the seed's `init` role alone.

        Every `index` gives another draw.
        """

        def drawn() -> dict[str, Tensor]:
            torch.manual_seed(draw(seed.role("init"), "init", *index))
            module = self.module("cpu")
            if self.init is not None:
                self._initialize(module)
            return state_of(module)

        state = dict(repeated(drawn, f"model: {self.net}"))
        if other := sorted(state.keys() ^ self._saved):  # as torch's `orthogonal` has
            raise ValueError(
                f"model: {self.net} has {', '.join(other[:3])} on the CPU or on torch's device "
                "`meta` alone; a net has the same tensors wherever it is built"
            )
        if self.weights is not None and not index:  # another draw is a draw
            given = self.weights.read()
            loaded = state.keys() & given.keys() - self.drawn
            state |= {name: given[name].to(state[name].dtype).clone() for name in loaded}
        return state

    def _initialize(self, module: nn.Module) -> None:
        """Raises: ValueError: `init` changes more than values, which no other module would have."""
        assert self.init is not None
        before = _described(module)
        self.init(module=module)
        after = _described(module)
        if before != after:
            other = [line for line in after if line not in before] or ["less"]
            raise ValueError(
                f"model.init: `{self.init.target}` makes the net have `{other[0]}`; it may set "
                "values of parameters and buffers alone, so do all else in model.net"
            )

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def _saved(self) -> frozenset[str]:
        """What a ticket holds, by name."""
        return frozenset(state_of(self.module()))

    @property
    @functools.cache  # noqa: B019 (networks are few)
    def drawn(self) -> frozenset[str]:
        """What the seed draws although there are pretrained weights: all of it without any."""
        state = state_of(self.module())
        if self.weights is None:
            return frozenset(state)
        head = {name for name in state if self.head and name.startswith(f"{self.head}.")}
        absent, other = self.weights.misfits({name: state[name] for name in head})
        named = {n for n in state if any(_lies_in(n, pattern) for pattern in self.redraw)}
        return frozenset(named | (head if absent | other else set()))

    @functools.cache  # noqa: B019 (networks are few, and cells that have one are many)
    def _check_trainable(self) -> None:
        """Raises: ValueError: weights of a type, or gradients of a kind, that nothing trains."""
        module = self.module()
        types = {str(p.dtype).removeprefix("torch.") for p in module.parameters()}
        if types not in ({"float32"}, {"float64"}):
            raise ValueError(
                f"model: {self.net} has weights of {', '.join(sorted(types))}; give all of them "
                "float32 or all float64 (with precision=bf16 their products are bfloat16)"
            )
        for name, parameter in module.named_parameters():
            if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
                raise ValueError(
                    f"model: {self.net} has a hook on the gradient of {name}, which is not called "
                    "here; change gradients in a torch.autograd.Function, or by recipe.clip"
                )
        for name, part in module.named_modules():
            if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.sparse:
                raise ValueError(
                    f"model: {self.net}: {name} has sparse gradients, which no optimizer here "
                    "takes; give sparse=False, which computes the same"
                )

    def _check_weights(self) -> None:
        """Raises: ValueError: pretrained weights are of another network, or patterns of nothing."""
        if self.weights is None:
            if self.redraw:
                raise ValueError(f"model.redraw: got {[*self.redraw]}; it goes with model.weights")
            return
        state = state_of(self.module())
        surplus = self._surplus(state)
        for pattern in self.redraw:
            if not any(_lies_in(name, pattern) for name in (*state, *surplus)):
                raise ValueError(
                    f"model.redraw: `{pattern}` matches no tensor; there are {[*state]}"
                )
        absent, other = (names - self.drawn for names in self.weights.misfits(state))
        surplus = [n for n in surplus if not any(_lies_in(n, p) for p in self.redraw)]
        if misfit := sorted(absent) or sorted(other) or surplus:
            more = f" and {len(misfit) - 3} more" if len(misfit) > 3 else ""
            how = "has no" if absent else "has another shape of" if other else "has"
            which = f"{self.net} has" if absent or other else f"{self.net} does not have"
            raise ValueError(
                f"model.weights: `{self.weights.path}` {how} {', '.join(misfit[:3])}{more}, which "
                f"{which}; name in model.redraw what is not taken from it, or give other weights"
            )

    def _surplus(self, state: Mapping[str, Tensor]) -> list[str]:
        """The tensors of the pretrained weights that the network does not have.

        The weights of a deeper network would else be taken for those of its first blocks. A tied
        weight may have all of its names, and a counter of batches may be there or not.
        """
        assert self.weights is not None
        names = self.weights.read().keys() - state.keys() - self.tied.keys()
        return sorted(n for n in names if not n.endswith("num_batches_tracked"))

    def holding(self, state: Mapping[str, Tensor]) -> nn.Module:
        """A module on the CPU with the weights and buffers of a ticket."""
        with torch.random.fork_rng(devices=[]):
            module = self.module("cpu")
        if set(state_of(module)) != set(state):
            raise ValueError(f"model: {self.net} has other parameters than this ticket")
        module.load_state_dict(dict(state), strict=False)  # a tied weight has one name in it
        return module

    def identity(self) -> dict[str, Any]:
        return {
            "net": self.net.identity(),
            "init": self.init.identity() if self.init else None,
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "prunable": [layer.name for layer in self.layers],
            **self._started,
            **self._release,
            **identity_of(type(self)),
        }

    @property
    def _release(self) -> dict[str, str]:
        """What a network of timm adds to the identity: another release may build another one."""
        if self.net.function is not libraries.timm:
            return {}
        return {"timm": importlib.metadata.version("timm")}

    @property
    def _started(self) -> dict[str, Any]:
        """What pretrained weights add to the identity: nothing where there are none."""
        if self.weights is None:
            return {}
        return {"weights": self.weights.sha256, "drawn": sorted(self.drawn)}


def _only(output: str | int, module: nn.Module, args: object, outputs: object) -> Tensor:
    """The output that counts, in place of all that a net returned."""
    return picked(outputs, output)


def _described(module: nn.Module) -> list[str]:
    """What a module is beside the values of its tensors: its layers, and what it trains."""
    named = module.named_parameters()
    trained = [f"{name}.requires_grad={parameter.requires_grad}" for name, parameter in named]
    return [*(line.strip() for line in repr(module).splitlines()), *trained]


def _lies_in(name: str, pattern: str) -> bool:
    """Whether a pattern names a parameter or a module around it: `block.1` is not `block.10`."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def outside_state(module: nn.Module) -> list[tuple[str, str, Tensor]]:
    """Tensors that its `state_dict` does not hold, each with its module's name and its own.

    Buffers with persistent=False, and tensors that are plain attributes.
    """
    saved = module.state_dict(keep_vars=True).keys()
    return [
        (owner, leaf, tensor)
        for owner, part in module.named_modules()
        for leaf, tensor in {**vars(part), **part._buffers}.items()
        if isinstance(tensor, Tensor) and f"{owner}.{leaf}".lstrip(".") not in saved
    ]


def is_bias(name: str) -> bool:
    """Whether a parameter is added: `bias`, `in_proj_bias` of attention, `bias_ih_l0` of a GRU."""
    leaf = name.rpartition(".")[2]
    return leaf.endswith("bias") or leaf.startswith("bias_")


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Its `state_dict`, in which a tied weight has its first name alone."""
    own = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    return {name: t.detach() for name, t in module.state_dict().items() if name in own}


@dataclass(frozen=True)
class _Parameter:
    """A parameter, the names that it has (the first is its own), and the modules that use it."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    owners: tuple[type[nn.Module], ...]
    usual: bool  # `include: ["*"]` prunes it
    head: bool  # of the last linear module

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def offered(self) -> bool:
        """Whether a pattern can match it; a bias or a scale is matched by its name in full."""
        return self.usual or len(self.shape) > 1

    def matches(self, pattern: str) -> bool:
        return any(n == pattern or (self.offered and fnmatchcase(n, pattern)) for n in self.names)

    def included(self, pattern: str) -> bool:
        return self.usual if pattern == "*" else self.matches(pattern)

    def kind(self, kinds: Mapping[str, str]) -> str:
        said = {pattern: kind for pattern, kind in kinds.items() if self.matches(pattern)}
        if len({*said.values()}) > 1:
            raise ValueError(f"model.kinds: {said} all match {self.name}; give it one kind")
        convolves = any(issubclass(owner, (*_CONV, *_TRANSPOSED)) for owner in self.owners)
        usual = "conv" if convolves else "output" if self.head else "hidden"
        return next(iter(said.values()), usual)


@functools.cache
def _parameters(network: Network) -> tuple[_Parameter, ...]:
    """All parameters in the module's order, each once."""
    try:
        module = network.module()
    except (TypeError, LookupError, NotImplementedError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"model: {network.net} cannot be built: {error}") from error
    except ValueError as error:
        if "to unpack" not in str(error):
            raise  # a net of ours says what is wrong
        shape = list(network.input_shape)
        raise ValueError(f"model: {network.net} takes no inputs of {shape}: {error}") from error
    names: dict[int, list[str]] = {}
    owners: dict[int, list[nn.Module]] = {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if lazy := [name for name, value in parameters.items() if nn.parameter.is_lazy(value)]:
        raise ValueError(
            f"model: {network.net}: lazy layers have no weights before a forward pass; give the "
            f"sizes of {lazy}"
        )
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), []).append(name)
        owners.setdefault(id(parameter), []).append(module.get_submodule(name.rpartition(".")[0]))
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]

    def usual(name: str, part: nn.Module) -> bool:
        leaf = name.rpartition(".")[2]
        return any(isinstance(part, kinds) and fnmatchcase(leaf, own) for kinds, own in _USUAL)

    return tuple(
        _Parameter(
            tuple(names[key]),
            tuple(parameters[names[key][0]].shape),
            tuple(type(part) for part in owners[key]),
            any(usual(name, part) for name, part in zip(names[key], owners[key], strict=True)),
            any(
                part is linear[-1] and name.rpartition(".")[2] == "weight"
                for name, part in zip(names[key], owners[key], strict=True)
                if linear
            ),
        )
        for key in names
    )


def _offered(parameters: Sequence[_Parameter]) -> str:
    """What patterns can match, for a message."""
    usual = [each.name for each in parameters if each.usual]
    others = [each.name for each in parameters if each.offered and not each.usual]
    return f"{usual}" + (f"; more can be named: {others}" if others else "")
