"""A compact network is smaller and computes the same; layers that stay are named, with a reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from fixtures.tiny_cell import CONV
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck  # of which ResNet-50 is made

import lt_sweeps as lt
from lt_sweeps import models
from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.interchange.compaction import compacted, load_compact
from lt_sweeps.interchange.exported_tables import export_tables
from lt_sweeps.interchange.ticket_speed import interleaved
from lt_sweeps.reporting.sweep_report import report
from lt_sweeps.storage.measured_speeds import read_speeds, speeds_path

Make = Callable[..., Cell]
Swept = Callable[..., Path]
HALF = {"_target_": "lt_sweeps.sparsity.schedules.sparsities", "sparsity": [0.5]}
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "fc": (lambda: models.FC((1, 4, 4), 4, hidden=[12, 8]), (1, 4, 4)),
    "conv": (lambda: models.Conv((1, 8, 8), 4, blocks=[[6, 8]], hidden=[12]), (1, 8, 8)),
    "resnet": (lambda: models.ResNet((3, 8, 8), 4, depth=8, width=4), (3, 8, 8)),
    "wide": (lambda: models.WideResNet((3, 8, 8), 4, depth=10, widen=1), (3, 8, 8)),
}


def net(kind: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode whose norms have statistics, shifts and scales of both signs."""
    torch.manual_seed(seed)
    make, shape = NETS[kind]
    return with_statistics(make().double().eval()), torch.randn(6, *shape, dtype=torch.float64)


def with_statistics(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                for tensor in (part.running_mean, part.weight, part.bias):
                    assert tensor is not None
                    tensor.normal_()
                assert part.running_var is not None
                part.running_var.uniform_(0.5, 2)
    return module


def kept_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def assert_same(module: nn.Module, x: Tensor, smaller: nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(smaller(x), module(x), rtol=1e-9, atol=1e-12)


@settings(max_examples=25)
@given(
    st.sampled_from([*NETS]),
    st.sampled_from(["rows", "columns", "weights"]),
    st.floats(0.1, 0.97),
    st.integers(0, 99),
)
def test_the_outputs_are_those_of_the_masked_network(
    kind: str, what: str, share: float, seed: int
) -> None:
    module, x = net(kind, seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim < 2 or (what == "rows" and "output" in name):
                continue
            size = {"rows": (len(weight), 1), "columns": (1, weight.shape[1])}.get(what)
            shape = weight.shape if size is None else (*size, *[1] * (weight.ndim - 2))
            weight *= torch.rand(shape, generator=draws) >= share
    found = compacted(module, x[:1])
    assert_same(module, x, found.module)
    fresh = load_compact(net(kind)[0], found.module.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(x), found.module(x))


def test_a_state_of_another_network_is_refused() -> None:
    state = compacted(*net("conv")).module.state_dict()
    with pytest.raises(ValueError, match="load_compact: the file has no hidden.1.bias, hidden"):
        load_compact(net("fc")[0], {n: t for n, t in net("fc")[0].state_dict().items() if "0" in n})
    with pytest.raises(ValueError, match="load_compact: .* has no .*; give the module that was"):
        load_compact(net("fc")[0], state)


@pytest.mark.parametrize("name", ["vgg", "bottlenecks", "transformer"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_pruned_filters_of_the_other_networks_leave_their_outputs(name: str, share: float) -> None:
    """The networks of conf/model that no test above compacts, in small sizes."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    if name == "vgg":
        module: nn.Module = models.VGG((3, 8, 8), 4, depth=11)
    elif name == "bottlenecks":
        ends = nn.Conv2d(3, 32, 3), nn.Linear(32 * 36, 4)
        module = nn.Sequential(ends[0], Bottleneck(32, 8), nn.Flatten(), ends[1])
    else:
        module = models.Transformer((6,), 11, width=8, heads=2, depth=1, tied=False)
        x = torch.randint(0, 11, (6, 6))
    module = with_statistics(module.double().eval())
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                kept = torch.rand(len(part.weight), generator=draws) >= share
                part.weight *= kept.view(-1, *[1] * (part.weight.ndim - 1))
    found = compacted(module, x[:1])
    assert kept_of(found.module) < kept_of(module)
    assert_same(module, x, found.module)


def test_constant_filters_leave_one_that_stands_for_all() -> None:
    module, x = net("conv")
    with torch.no_grad():
        for row in (0, 2, 3):  # their biases pass the ReLU, and reach a layer that pads
            module.blocks[0][0].weight[row] = 0  # type: ignore[index]
            module.blocks[0][0].bias[row] = 0.5 + row  # type: ignore[index]
    found = compacted(module, x[:1])
    assert found.widths["blocks.0.0"] == (6, 4)
    assert_same(module, x, found.module)


def test_constants_of_zero_leave_none() -> None:
    module, x = net("fc")
    with torch.no_grad():
        module.hidden[0].weight[:5] = 0  # type: ignore[index]
        module.hidden[0].bias[:5] = -1.0  # type: ignore[index]
    found = compacted(module, x[:1])
    assert found.widths["hidden.0"] == (12, 7) and kept_of(found.module) < kept_of(module)
    assert_same(module, x, found.module)


def test_layers_before_an_unread_channel_are_cut_too() -> None:
    module, x = net("fc")
    with torch.no_grad():
        module.output.weight[:, 1:] = 0  # type: ignore[index]
        module.hidden[1].weight[0, 3:] = 0  # type: ignore[index]
    found = compacted(module, x[:1])
    assert found.widths == {"hidden.0": (12, 3), "hidden.1": (8, 1), "output": (4, 4)}
    assert_same(module, x, found.module)


def test_layers_that_are_added_stay_whole_and_say_so() -> None:
    module, x = net("resnet")
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim == 4:
                weight[: len(weight) // 2] = 0
    found = compacted(module, x[:1])
    smaller = [name for name, (before, after) in found.widths.items() if after < before]
    assert smaller == [f"stages.{stage}.0.conv1" for stage in range(3)]
    assert "read by a layer with groups or by another" in found.whole["stages.0.0.conv2"]
    assert "whole: stem, stages.0.0.conv2" in found.summary
    assert_same(module, x, found.module)


class Attentive(nn.Module):
    """Attention between linear layers, whose widths its forward pass names."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.hidden = nn.Linear(8, 8)
        self.output = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x)
        y = self.attention(y, y, y, need_weights=False)[0]
        return self.output(torch.relu(self.hidden(y)).reshape(-1, x.shape[1], 8).mean(1))


def test_a_compiled_module_is_refused() -> None:
    net = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), backend="eager")
    with pytest.raises(ValueError, match="is compiled; build it without torch.compile"):
        compacted(net, torch.zeros(1, 4))  # type: ignore[arg-type]


def test_a_forward_pass_that_names_a_width_keeps_it() -> None:
    torch.manual_seed(0)
    module, x = Attentive().double().eval(), torch.randn(2, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        module.hidden.weight[:4] = 0
        module.into.weight[:4] = 0
    found = compacted(module, x[:1])
    assert all(before == after for before, after in found.widths.values())
    assert "the network computes something else" in found.whole["hidden"]
    assert "attention" in found.whole["attention.out_proj"]


def test_a_ticket_as_a_file_and_in_python(
    cell: Make, swept: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    criterion = {"_target_": "lt_sweeps.sparsity.criteria.large_final", "granularity": "filter"}
    folder = swept(cell(mask_criterion=criterion, schedule=HALF, model=CONV))
    ticket = lt.open(folder).ticket(level=1)
    small = ticket.compact("end")
    module, (x, _) = ticket.module("end"), ticket.examples()
    with torch.no_grad():
        torch.testing.assert_close(small.module(x), module(x), rtol=1e-4, atol=1e-5)
    assert kept_of(small.module) < kept_of(module)
    out = tmp_path / "small.safetensors"
    assert main(["export", str(ticket.path), "form=compact", f"out={out}"]) == 0
    assert "conv1" in capsys.readouterr().out
    loaded = lt.load_compact(module, safetensors.torch.load_file(out))
    with torch.no_grad():
        assert torch.equal(loaded(x), small.module(x))


def test_a_measured_speed_is_a_column_where_it_was_measured(
    cell: Make, swept: Swept, tmp_path: Path
) -> None:
    criterion = {"_target_": "lt_sweeps.sparsity.criteria.large_final", "granularity": "neuron"}
    folder = swept(*(cell(mask_criterion=criterion, schedule=HALF, seed=seed) for seed in (0, 1)))
    root = folder.parent.parent

    def drawn() -> str:
        console = Console(record=True, width=200, file=io.StringIO())
        report(folder, console=console, figures=[])
        return console.export_text()

    assert "speedup" not in drawn() and not speeds_path(root).exists()
    out = export_tables(folder, effective="false", speed="true", batch="8", n="3")
    (speed,) = (each for own in read_speeds(root).values() for each in own)
    assert (speed.form, speed.batch, speed.n, speed.seed) == ("compact", 8, 3, "0")
    assert speed.device and speed.machine and speed.threads == 1 and speed.speedup > 0
    text = drawn()
    assert "compact speedup" in text and f"{speed.speedup:.2f}x" in text
    rows = pd.read_csv(out / "records.csv")
    measured = rows[rows["compact_speedup"].notna()]
    assert list(measured["seed"]) == [0] and list(measured["level"]) == [1]
    speeds_path(root).write_text(speeds_path(root).read_text() + '{"stage": 1}\nhalf a li')
    assert len(read_speeds(root)) == 1, "a line that is cut short counts as none"


def test_two_networks_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Noted(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            order.append(self.name)
            assert not torch.backends.cudnn.allow_tf32, "float32 is what it says"
            return x

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    ticks = iter([0.0, 3.0, 3.0, 4.0] * 2)
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr("lt_sweeps.interchange.ticket_speed.time", clock)
    seconds = interleaved(Noted("a"), Noted("b"), torch.ones(1), n=1)
    assert order == ["a", "b", "a", "b"] and seconds[1] <= 3.0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"speed": "yes"}, "export: speed=yes; give true or false"),
        ({"batch": "0"}, "export: batch=0; give a whole number, 1 or more"),
        ({"n": "x"}, "export: n=x; give a whole number, 1 or more"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        export_tables(tmp_path, **words)
