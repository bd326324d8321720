"""Which parameters are prunable, their kinds, and the draws of their initial values."""

import pytest
import torch
from torch import nn

from lt_sweeps.config.seeds import Seed
from lt_sweeps.models.network import Network

CONV4 = {"net": {"_target_": "lt_sweeps.models.Conv", "blocks": [[8, 8]], "hidden": [16, 16]}}


class Odd(nn.Module):
    """A linear module that is not the last one used, and a norm called `weight`."""

    def __init__(self, classes: int, width: int = 4) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.inner = nn.Linear(16, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(self.norm(x.flatten(1))))


ODD = {"net": {"_target_": f"{__name__}.Odd"}}


def frozen(module: Odd) -> None:
    module.norm.requires_grad_(False)


def slower(module: Odd) -> None:
    module.norm.momentum = 0.01


def scripted(classes: int) -> nn.Module:
    return torch.jit.script(Odd(classes))


def partly_scripted(classes: int) -> nn.Module:
    net = Odd(classes)
    net.register_module("inner", torch.jit.script(net.inner))
    return net


def of(config: dict) -> Network:
    return Network.of(config, (1, 4, 4), 3)


def test_convolutions_hidden_and_output_layers_are_told_apart() -> None:
    assert [layer.kind for layer in of(CONV4).layers] == [
        "conv",
        "conv",
        "hidden",
        "hidden",
        "output",
    ]


def test_biases_and_normalisation_are_never_prunable() -> None:
    assert [layer.name for layer in of(ODD).layers] == ["inner.weight", "head.weight"]


def test_patterns_choose_and_kinds_can_be_said() -> None:
    network = of({**ODD, "prunable": {"exclude": ["head*"]}, "kinds": {"inner*": "output"}})
    assert [(layer.name, layer.kind) for layer in network.layers] == [("inner.weight", "output")]


def test_a_user_defined_model_gets_the_arguments_that_it_names() -> None:
    assert of(ODD).layers[1].shape == (3, 4)


def test_cells_with_one_network_build_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, built = of(ODD), []
    monkeypatch.setattr(Network, "module", lambda *_: built.append(1))
    assert of(ODD) == first and not built


def test_a_draw_is_the_seeds_alone_and_leaves_the_global_generator(monkeypatch) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = of(ODD).draw(Seed(1))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    again, other = of(ODD).draw(Seed(1)), of(ODD).draw(Seed(2))
    assert torch.equal(first["inner.weight"], again["inner.weight"])
    assert not torch.equal(first["inner.weight"], other["inner.weight"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "model: no `net`"),
        ({**ODD, "widht": 3}, "model: no key `widht`"),
        (
            {"net": {**ODD["net"], "widht": 3}},
            r"model.net: .*takes no widht; it takes .*did you",
        ),
        ({"net": {**ODD["net"], "width": "wide"}}, "model.net.width: got 'wide'; give a whole"),
        ({"net": {"_target_": "torch.nn.Flatten"}}, "model: Flatten.* has no parameters"),
        ({**ODD, "prunable": {"only": []}}, "model.prunable: no key"),
        (
            {**ODD, "prunable": {"exclude": ["haed*"]}},
            "exclude: `haed.*matches no parameter",
        ),
        ({**ODD, "prunable": {"include": "head*"}}, "include: got 'head.*'; give a list of"),
        ({**ODD, "prunable": {"include": [5]}}, r"include: got \[5\]; give a list of: a string"),
        ({**ODD, "kinds": "conv"}, "model.kinds: got 'conv'; give kinds .* by pattern"),
        (
            {
                "net": {"_target_": "fixtures.plain_training.Tied"},
                "prunable": {"include": ["scale"]},
            },
            r"model.prunable: .*Tied\S* does not train scale .*exclude=\[scale\]",
        ),
        ({"net": None}, "model: no `net`"),
        (
            {**ODD, "kinds": {"inner*": "dense"}},
            r"model.kinds: got {.*'dense'}; give kinds \(conv, ",
        ),
        ({**ODD, "kinds": {"outer*": "conv"}}, "model.kinds: `outer\\*` matches no parameter"),
        ({**ODD, "kinds": {"inner*": ["conv"]}}, "model.kinds: got .*; give kinds"),
        ({**ODD, "kinds": {3: "conv"}}, "model.kinds: got {3: 'conv'}; give kinds"),
        ({**ODD, "kinds": 0}, "model.kinds: got 0; give kinds"),
        ({**ODD, "redraw": 3}, "model.redraw: got 3; give a list of: a string or null"),
        ({**ODD, "init": ""}, "model.init: got ''; give a `_target_`"),
        ({**ODD, "weights": 3}, "model.weights: got 3; give a file, "),
        (
            {**ODD, "kinds": {"inner*": "conv", "*": "output"}},
            r"model.kinds: \*: output, inner\*: conv all match inner\S+; give it one",
        ),
        (
            {"net": {"_target_": "torch.nn.Linear", "in_features": -1, "out_features": 2}},
            "cannot be",
        ),
    ],
)
def test_a_wrong_model_is_refused_with_the_reason(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of(config)


@pytest.mark.parametrize(
    ("init", "what"), [("frozen", "norm.weight.requires_grad=False"), ("slower", "momentum=0.01")]
)
def test_an_init_that_changes_more_than_values_is_refused(init: str, what: str) -> None:
    network = of({**ODD, "init": {"_target_": f"{__name__}.{init}"}})
    with pytest.raises(
        ValueError, match=f"model.init: .*{init}` changes the net, which has `.*{what}"
    ):
        network.draw(Seed(0))


class Lazy(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.LazyLinear(classes))


def no_net() -> str:
    return ""


class Picky(nn.Module):
    def __init__(self, heads: int, *, refuse: type[Exception] = AssertionError) -> None:
        raise refuse("embed_dim must be divisible by num_heads")


class PickyOfValue(Picky):
    def __init__(self, heads: int) -> None:
        super().__init__(heads, refuse=ValueError)


@pytest.mark.parametrize(
    ("name", "kind"), [("Picky", "AssertionError"), ("PickyOfValue", "ValueError")]
)
def test_the_error_of_a_users_net_is_said_with_its_key_and_its_place(name: str, kind: str) -> None:
    """The line used to begin with the place alone."""
    fault = rf".*test_network.py:\d+: {kind}: embed_dim must be divisible by num_heads"
    with pytest.raises(
        ValueError, match=rf"^model.net: {name}\(heads=3\) cannot be built: {fault}"
    ):
        of({"net": {"_target_": f"{__name__}.{name}", "heads": 3}})


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ({"_target_": f"{__name__}.Lazy"}, "lazy layers have no weights .*; give the sizes of"),
        (
            {"_target_": f"{__name__}.no_net"},
            "model: no_net.* returns a value of type str; give a `torch.nn",
        ),
    ],
)
def test_a_net_without_weights_to_look_at_is_refused(net: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of({"net": net})


@pytest.mark.parametrize(
    ("kind", "which"), [("scripted", "it"), ("partly_scripted", "its `inner`")]
)
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_module_that_torch_jit_has_compiled_is_refused(kind: str, which: str) -> None:
    with pytest.raises(ValueError, match=rf"^model: {kind}\(\): {which} is compiled by torch.jit"):
        of({"net": {"_target_": f"{__name__}.{kind}"}})
