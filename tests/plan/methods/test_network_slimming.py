"""Network Slimming removes whole channels that no other layer needs, and never all of a layer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fixtures.tiny_cell import CONV, SGD
from fixtures.training_loops import loop_of

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import ticket
from lt_sweeps.models.network import Network
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stages import ancestors
from lt_sweeps.sparsity.channel_pruning import scales, shares, slimmable
from lt_sweeps.sparsity.sparsifiers import Slimming
from lt_sweeps.storage.store import Store

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

SLIM = {"_target_": "lt_sweeps.plan.methods.slimming", "finetune": {"length": "1ep"}}
RESNET = Network.of(CONV, (1, 4, 4), 4)
VGG = Network.of({"net": {"_target_": "lt_sweeps.models.VGG", "depth": 11}}, (1, 4, 4), 4)
PLAIN = {**SGD, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}


def test_in_a_residual_network_only_the_channels_inside_a_block_can_go() -> None:
    assert [norm.scale for norm in slimmable(RESNET)] == [
        f"stages.{n}.0.norm1.weight" for n in range(3)
    ]
    for norm in slimmable(RESNET):
        block = norm.scale.removesuffix("norm1.weight")
        assert (norm.writer, *norm.readers) == (f"{block}conv1.weight", f"{block}conv2.weight")
    assert len(scales(RESNET)) == 7


def test_in_a_vgg_every_channel_can_go_and_the_next_layer_reads_it() -> None:
    norms = slimmable(VGG)
    assert len(norms) == len(scales(VGG)) == 8
    writers = [norm.writer for norm in norms]
    assert [norm.readers for norm in norms] == [(w,) for w in [*writers[1:], "output.weight"]]


def test_a_linear_layer_reads_every_pixel_of_a_channel() -> None:
    network = Network.of({"net": {"_target_": f"{__name__}.Flat"}}, (1, 4, 4), 3)
    (norm,) = slimmable(network)
    assert norm.readers == ("2.weight",)
    state = {"1.weight": torch.tensor([[3.0, 1.0]])}
    share = shares(network, state)["2.weight"][0]
    assert (share[:, :16] == torch.inf).all() and (share[:, 16:] == 0).all()


def Flat(input_shape, classes) -> torch.nn.Module:  # noqa: N802
    """A convolution of two channels, and a linear layer on all pixels of both."""
    parts = [torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.BatchNorm2d(2), torch.nn.Flatten()]
    module = torch.nn.Sequential(*parts[:2])
    module.append(_Read(2 * 16, classes))
    return module


class _Read(torch.nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.relu(input).flatten(1))


@pytest.mark.parametrize("percent", [0.3, 0.5, 0.9])
def test_the_threshold_is_the_released_code_s(percent: float) -> None:
    """Keep values above the one at position int(n percent) of all sorted values, without ties."""
    draws = torch.Generator().manual_seed(1)
    state = {
        norm.scale: (torch.randint(-9, 10, (1, size), generator=draws) / 4)
        for norm, size in zip(slimmable(RESNET), (4, 8, 16), strict=True)
    }
    ordered = torch.cat([scale[0].abs() for scale in state.values()]).sort().values
    threshold = ordered[int(28 * percent)]
    found = shares(RESNET, state)
    for norm in slimmable(RESNET):
        expected = state[norm.scale][0].abs() > threshold
        expected[state[norm.scale][0].abs().argmax()] = True
        rows = (found[norm.writer][0] > percent).flatten(1)
        columns = (found[norm.readers[0]][0] > percent).transpose(0, 1).flatten(1)
        assert torch.equal(rows.all(1), expected) and torch.equal(rows.any(1), expected)
        assert torch.equal(columns.all(1), expected) and torch.equal(columns.any(1), expected)


def test_a_layer_keeps_one_channel_when_all_are_alike() -> None:
    sizes = (4, 8, 16)
    state = {n.scale: torch.ones(1, size) for n, size in zip(slimmable(RESNET), sizes, strict=True)}
    found = shares(RESNET, state)
    for norm in slimmable(RESNET):
        assert (found[norm.writer][0] > 0.5).flatten(1).all(1).sum() == 1


def test_the_penalty_s_gradient_is_the_scale_s_sign(cell: Make, tmp_path: Path) -> None:
    after = {}
    for lmbda in (0.0, 0.25):
        slim = cell(model=CONV, recipe=PLAIN, method={**SLIM, "lmbda": lmbda})
        (unit,) = [u for u in plan([slim]).units if isinstance(u.stage.sparsifier, Slimming)]
        loop, _ = loop_of(unit, Store(tmp_path))
        views = loop.stack.views(loop.stack.weights)
        views["norm.weight"][0, :2] = torch.tensor([-0.5, 0.0])
        loop.update()(0)
        after[lmbda] = {name: view.clone() for name, view in views.items()}
    for name in after[0.0]:
        pushed = after[0.0][name] - after[0.25][name]
        expected = torch.full_like(pushed, 0.05 * 0.25) if name in scales(RESNET) else 0 * pushed
        if name == "norm.weight":
            expected[0, :2] = torch.tensor([-0.05 * 0.25, 0.0])
        assert torch.allclose(pushed, expected, atol=1e-6), name


def test_what_is_left_is_the_network_without_those_channels(cell: Make, run: Run) -> None:
    """Removed channels have no effect, whatever the shifts of their batch norms are."""
    made, store = run(cell(model=CONV, recipe=SGD, method={**SLIM, "percent": 0.6}))
    stage = made.units[-1].stage
    start = ticket(stage.start, Seed.of(0), store)
    module = stage.network.module("cpu").eval()
    state = {name: tensor[0].clone() for name, tensor in start.state.items()}
    x = torch.rand(8, 1, 4, 4)
    module.load_state_dict(state)
    before, gone = module(x), 0
    for norm in slimmable(RESNET):
        out = ~start.mask[norm.writer][0].flatten(1).any(1)
        gone += int(out.sum())
        assert not start.mask[norm.readers[0]][0][:, out].any()
        for name in (norm.scale, norm.scale.replace("weight", "bias")):
            state[name][out] += 7.0
    module.load_state_dict(state)
    assert gone == int(28 * 0.6) + 1
    assert torch.equal(module(x), before)


def test_batch_norms_start_from_the_scale_and_the_rest_from_the_model_s_initializer(
    cell: Make,
) -> None:
    init = {"init": {"_target_": "lt_sweeps.models.xavier_normal"}}
    slim = plan([cell(model={**CONV, **init}, recipe=SGD, method=SLIM)]).cells[0].last.network
    plain = plan([cell(model={**CONV, **init}, recipe=SGD)]).units[0].stage.network
    mine, theirs = slim.draw(Seed.of(0)), plain.draw(Seed.of(0))
    for name, tensor in mine.items():
        half = 0.5 if name in scales(plain) else 1.0
        assert torch.equal(tensor, half * theirs[name]), name


def test_the_result_is_one_and_the_penalised_training_a_search_for_it(cell: Make) -> None:
    made = plan([cell(model=CONV, recipe=SGD, method=SLIM)])
    (planned,) = made.cells
    assert list(planned.levels.values()) == [0, 1] and len(made.units) == 3
    (search,) = {u.stage for u in made.units} - set(planned.lasts)
    assert isinstance(search.sparsifier, Slimming)
    assert "slim(percent=0.5)" in "".join(str(stage) for stage in ancestors(planned.last))


@pytest.mark.parametrize(
    ("change", "model", "message"),
    [
        ({}, None, "slimming removes channels by their batch-norm scales, and FC.* has no batch"),
        (
            {},
            {**CONV, "prunable": {"include": ["output.weight"]}},
            "no batch norm of ResNet.* has such a channel",
        ),
        ({"percent": 1.0}, CONV, "method: percent=1; give a fraction"),
        ({"lmbda": -1e-4}, CONV, "method: lmbda=-0.0001; give 0 or more"),
        ({"scale": 0.0}, CONV, "method: scale=0; give a positive scale"),
        (
            {"protocol": "ticket"},
            CONV,
            "slimming cannot search for tickets, because its mas",
        ),
    ],
)
def test_a_wrong_argument_is_refused_when_the_plan_is_made(
    cell: Make, change: dict, model: dict | None, message: str
) -> None:
    group = {} if model is None else {"model": model}
    with pytest.raises(ValueError, match=message):
        plan([cell(recipe=SGD, method={**SLIM, **change}, **group)])
