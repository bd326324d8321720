"""Networks of tokens, with attention and tied weights, are exported and measured like others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

import lt_sweeps as lt
from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF
from lt_sweeps.config.seeds import Seed
from lt_sweeps.data import Dataset, Split
from lt_sweeps.interchange.compaction import compacted
from lt_sweeps.interchange.effective_size import network_size
from lt_sweeps.interchange.followed_paths import Unfollowed
from lt_sweeps.models import Transformer
from lt_sweeps.models.network import Network

T, WORDS = 5, 11
HALF = {"_target_": "lt_sweeps.sparsity.schedules.sparsities", "sparsity": [0.5]}


def words() -> Dataset:
    """Rows of tokens, each followed by the next number."""

    def load() -> dict[str, Split]:
        draws = torch.Generator().manual_seed(0)
        made = {n: torch.randint(WORDS, (s, T), generator=draws) for n, s in SIZES.items()}
        return {name: Split(x, (x + 1) % WORDS) for name, x in made.items()}

    return Dataset((T,), WORDS, SIZES["train"], lambda: None, load, input_dtype=torch.int64)


SIZES = {"train": 32, "val": 8, "test": 8}


def network(target: str = "Transformer", /, **args: object) -> Network:
    net = {"_target_": f"lt_sweeps.models.{target}", "width": 8, **args}
    return Network.of({"net": net}, (T,), WORDS, input_dtype=torch.int64)


SMALL = {"heads": 2, "depth": 1}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_a_tied_ticket_of_tokens_loads_strictly_is_measured_and_compacted(
    cell: Callable[..., Cell],
    swept: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    net = {"_target_": "lt_sweeps.models.Transformer", "width": 8, **SMALL, "tied": True}
    folder = swept(
        cell(
            dataset={"_target_": f"{__name__}.words"},
            task=yaml.safe_load((CONF / "task" / "tokens.yaml").read_text()),
            model={"net": net},
            schedule=HALF,
        )
    )
    ticket = lt.open(folder, trust=__name__).ticket(level=1)
    module, (x, _) = ticket.module("end"), ticket.examples()
    small = ticket.compact("end")
    assert "layers of type Embedding are never made smaller" in small.summary
    for form, name in {"state_dict": "", "prune": "_orig", "sparse": ""}.items():
        out, more = tmp_path / f"{form}.pt", ["at=end", f"trust={__name__}"]
        assert main(["export", str(ticket.path), f"form={form}", f"out={out}", *more]) == 0
        state = torch.load(out, weights_only=True)
        assert {f"tokens.weight{name}", f"output.weight{name}"} <= {*state}
    ours = Transformer((T,), WORDS, width=8, heads=2, depth=1, tied=True).eval()
    ours.load_state_dict(torch.load(tmp_path / "state_dict.pt", weights_only=True), strict=True)
    with torch.no_grad():
        assert torch.equal(ours(x), module(x))
        torch.testing.assert_close(small.module(x), module(x), rtol=1e-4, atol=1e-5)
    out = tmp_path / "stored.safetensors"
    capsys.readouterr()
    assert main(["export", str(ticket.path), f"out={out}", "at=end"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("written as it is stored, a tied weight under one name: ")
    assert len(said) == 2 and out.exists()

    tables = ["speed=true", "batch=4", "n=1", f"trust={__name__}", f"out={tmp_path}"]
    assert main(["export", str(folder), *tables]) == 0
    rows = pd.read_csv(tmp_path / "records.csv")
    assert rows["compact_speedup"].notna().sum() == 1
    assert (rows["parameters_effective"] <= rows["parameters_total"]).all()


def full(net: Network) -> dict[str, torch.Tensor]:
    return {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in net.layers}


@pytest.mark.parametrize("tied", [False, True])
def test_the_linear_layers_of_attention_are_followed(tied: bool) -> None:
    net = network(tied=tied, **SMALL)
    kept = full(net)
    dense = network_size(net, kept)
    assert dense.parameters_effective == dense.parameters_total
    # of each of 5 tokens: three and one projections, four times the width and back, and 11 words
    assert dense.flops_total == dense.flops_effective == 2 * T * (4 * 64 + 2 * 8 * 32 + 8 * WORDS)
    joined = "blocks.0.attention.in_proj_weight"
    # Without queries the keys reach no output, but the values do. Without values nothing does.
    for rows, gone in ((slice(0, 8), 2 * 64), (slice(8, 16), 2 * 64), (slice(16, 24), 4 * 64)):
        cut = kept[joined].clone()
        cut[rows] = False
        found = network_size(net, {**kept, joined: cut})
        assert dense.weights_effective - found.weights_effective == gone
    one_head = kept[joined].clone()
    one_head[16:20] = False  # the values of the first of two heads, each of four numbers
    found = network_size(net, {**kept, joined: one_head})
    assert dense.weights_effective - found.weights_effective == 2 * 64


def test_neurons_between_the_layers_of_a_block_go() -> None:
    net = network(**SMALL)
    module = net.holding(net.draw(Seed.of(0, {}))).eval()
    with torch.no_grad():
        module.get_parameter("blocks.0.inner.weight")[:10] = 0
    found = compacted(module, net.example())
    assert found.widths["blocks.0.inner"] == (32, 23)  # one stands for all that are constant
    x = torch.randint(WORDS, (4, T))
    with torch.no_grad():
        torch.testing.assert_close(found.module(x), module(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm_first", [False, True])
def test_neurons_of_torch_s_own_encoder_go_and_its_heads_stay(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
    with torch.no_grad():
        module.get_parameter("layers.0.linear1.weight")[:10] = 0
        module.get_parameter("layers.1.linear2.weight")[:, :5] = 0
    found = compacted(module, torch.zeros(1, 5, 8))
    assert found.widths["layers.0.linear1"] == (16, 7), "one stands for all that are constant"
    assert found.widths["layers.1.linear1"] == (16, 11)
    assert "layers.0.self_attn" in found.whole
    x = torch.randn(4, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(found.module(x), module(x))


def test_what_is_recurrent_stays_whole_and_says_so() -> None:
    net = network("Recurrent", vocabulary=WORDS)
    module = net.holding(net.draw(Seed.of(0, {}))).eval()
    assert "cells: layers of type LSTM are never made" in compacted(module, net.example()).summary
    with pytest.raises(
        Unfollowed, match="it calls lstm, which cannot be followed weight by weight"
    ):
        network_size(net, full(net))
