"""A user's transformer and recurrent net: attention, recurrent weights, and any named parameter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from fixtures.method_cases import ADAM, METHODS, method_cells
from fixtures.tiny_cell import compute_cells, tiny_cell
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from lt_sweeps.config.call import Config
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.plan_preview import Estimate, preview
from lt_sweeps.interchange.effective_size import network_size
from lt_sweeps.interchange.exported_tables import export_tables
from lt_sweeps.interchange.followed_paths import Unfollowed
from lt_sweeps.models import initializers
from lt_sweeps.models.network import Network
from lt_sweeps.plan.cost import Speeds
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import plan
from lt_sweeps.training.backends.backend import choose_backend
from lt_sweeps.training.stack import Stack

TOKENS = 8


def tokens(x: Tensor) -> Tensor:
    return (x.flatten(1).clamp(0, 0.99) * TOKENS).long()


class Encoder(nn.Module):
    """Tokens, one layer of a transformer, and a linear layer on their mean."""

    def __init__(self, classes: int, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, width)
        self.encoder = nn.TransformerEncoderLayer(width, 2, 12, dropout=0.0, batch_first=True)
        for name in ("dropout", "dropout1", "dropout2"):
            setattr(self.encoder, name, nn.Identity())  # vmap takes no dropout
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.encoder(self.embedding(tokens(x))).mean(1))


class Recurrent(nn.Module):
    """Tokens, an LSTM, and a linear layer on its last state."""

    def __init__(self, classes: int, width: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.lstm(self.embedding(tokens(x)))[0][:, -1])


class Tied(nn.Module):
    """A linear layer whose weight is that of an embedding."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 8)
        self.inner = nn.Linear(8, 8)
        self.output = nn.Linear(8, TOKENS, bias=False)
        self.output.weight = self.embedding.weight
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.inner(self.embedding(tokens(x)).mean(1)))[:, : self.classes]


class Scores(nn.Module):
    """Attention written with plain operations."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(4, 4), nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.squeeze(1)
        return ((self.query(rows) @ rows.mT).softmax(-1) @ self.value(rows)).mean(1)


class Mixed(nn.Module):
    """A parameter outside torch's modules, and log-probabilities as outputs."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 4))
        self.output = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output((x.squeeze(1) * self.scale).mean(1)).log_softmax(-1)


class Branching(nn.Module):
    """Its path through the network depends on the values of the inputs."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inner, self.output = nn.Linear(8, 8), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)[:, :8]
        return self.output(self.inner(rows).relu() if rows.mean() < 0.5 else rows)


ATTENTION = "encoder.self_attn.in_proj_weight"
USUAL = {
    Encoder: {
        ATTENTION: "hidden",
        "encoder.self_attn.out_proj.weight": "hidden",
        "encoder.linear1.weight": "hidden",
        "encoder.linear2.weight": "hidden",
        "output.weight": "output",
    },
    Recurrent: {
        "lstm.weight_ih_l0": "hidden",
        "lstm.weight_hh_l0": "hidden",
        "output.weight": "output",
    },
    Tied: {"embedding.weight": "output", "inner.weight": "hidden"},
}


def model(kind: type[nn.Module], **more: Any) -> dict[str, Any]:
    return {"net": {"_target_": f"{__name__}.{kind.__name__}"}, **more}


def of(kind: type[nn.Module], *include: str, exclude: tuple[str, ...] = ()) -> Network:
    prunable = {"include": list(include or ("*",)), "exclude": [*exclude]}
    return Network.of(model(kind, prunable=prunable), (1, 4, 4), 4)


@pytest.mark.parametrize("kind", USUAL)
def test_attention_and_recurrent_weights_are_prunable_and_a_tied_weight_once(kind: Any) -> None:
    assert {layer.name: layer.kind for layer in of(kind).layers} == USUAL[kind]


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 4)
        self.apart = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, bias=False, add_bias_kv=True)


def test_every_cell_and_apart_projections_count() -> None:
    names = [layer.name for layer in of(Parts).layers]
    projections = [f"apart.{which}_proj_weight" for which in "qkv"]
    assert names == ["cell.weight_ih", "cell.weight_hh", *projections, "apart.out_proj.weight"]


def test_a_pattern_names_embeddings_and_a_whole_name_a_bias() -> None:
    usual = [layer.name for layer in of(Recurrent).layers]
    assert [la.name for la in of(Recurrent, "*", "emb*").layers] == ["embedding.weight", *usual]
    assert [la.name for la in of(Recurrent, "output.*").layers] == ["output.weight"]
    assert [la.name for la in of(Recurrent, "output.bias").layers] == ["output.bias"]
    assert [la.name for la in of(Tied, "*", exclude=("output.weight",)).layers] == ["inner.weight"]


def test_a_pattern_that_matches_nothing_says_what_there_is() -> None:
    usual = r"lstm.weight_ih_l0, lstm.weight_hh_l0, output.weight"
    more = r"more can be named: embedding.weight"
    wanted = rf"`\*.bias` matches no parameter; there are {usual}; {more}"
    with pytest.raises(ValueError, match=wanted):
        of(Recurrent, "*.bias")


@pytest.mark.parametrize("freeze", ["zero", "init"])
@pytest.mark.parametrize("kind", USUAL)
def test_two_levels_prune_exactly_and_nothing_pruned_moves(
    kind: Any, freeze: str, tmp_path: Path
) -> None:
    chosen = model(kind, prunable={"include": ["*", "embedding.weight"]})
    freezes = {"_target_": f"lt_sweeps.sparsity.freezes.{freeze}"}
    cells = [tiny_cell(model=chosen, freeze=freezes, seed=seed) for seed in (0, 1)]
    made, store = compute_cells(*cells, root=tmp_path)
    for cell in made.cells:
        initial = cell.last.network.draw(cell.seed)
        first, second = (store.read(t.key, cell.seed) for t in cell.trainings[-2:])
        for layer in cell.last.network.layers:
            left = layer.size
            for ticket in (first, second):
                left -= int(left * ((1 - 0.8) * 100.0) / 100)
                assert int(ticket.mask[layer.name].sum()) == left, layer
            assert bool((first.mask[layer.name] | ~second.mask[layer.name]).all())
        for ticket in (first, second):
            for name, mask in ticket.mask.items():
                pinned = initial[name][None] * (freeze == "init")
                assert torch.equal(ticket.state[name][~mask], pinned[~mask]), name
                assert not torch.equal(ticket.state[name][mask], initial[name][None][mask])
    if kind is Encoder:
        q, k, v = second.mask[ATTENTION][0].chunk(3)
        assert all(0 < int(part.sum()) < part.numel() for part in (q, k, v))


@pytest.mark.parametrize("kind", USUAL)
def test_criteria_that_call_the_network_see_every_prunable_weight(
    kind: Any, tmp_path: Path
) -> None:
    names = {"snip": {"examples": 32}, "grasp": {"examples": 32}, "synflow": {"rounds": 5}}
    cells = [
        tiny_cell(
            model=model(kind),
            mask_criterion={"_target_": f"lt_sweeps.sparsity.criteria.{name}", **more},
            method={"_target_": "lt_sweeps.plan.methods.at_init"},
            schedule={"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5},
        )
        for name, more in names.items()
    ]
    made, store = compute_cells(*cells, root=tmp_path)
    for cell in made.cells:
        mask = store.read(cell.last.key, cell.seed).mask
        total = sum(layer.size for layer in cell.last.network.layers)
        assert sum(int(m.sum()) for m in mask.values()) == pytest.approx(total / 2, abs=len(mask))


@pytest.mark.parametrize(
    ("kind", "more"), [(Encoder, ("embedding.weight", "output.bias")), (Tied, ("inner.bias",))]
)
def test_every_method_takes_attention_embeddings_and_a_bias(
    kind: Any, more: tuple[str, ...], tmp_path: Path
) -> None:
    _every_method(kind, more, tmp_path)


def test_every_method_takes_recurrent_weights(tmp_path: Path) -> None:
    _every_method(Recurrent, ("embedding.weight",), tmp_path)


def _every_method(kind: type[nn.Module], more: tuple[str, ...], root: Path) -> None:
    chosen = model(kind, prunable={"include": ["*", *more]})
    names = [name for name in METHODS if name not in ("slimming", "transfer")]
    cells = [changed for name in names for changed in method_cells(tiny_cell, name, ADAM)[:1]]
    cells = [Cell(Config({**cell.config, "model": chosen}), cell.choices, ()) for cell in cells]
    made, store = compute_cells(*cells, root=root)
    for cell in made.cells:
        ticket = store.read(cell.last.key, cell.seed)
        for layer in cell.last.network.layers:
            if not ticket.state:  # a mask that was scored and never trained
                continue
            mask, values = ticket.mask[layer.name], ticket.state[layer.name]
            assert mask.shape[1:] == layer.shape
            assert not values[~mask].any(), (str(cell.last), layer)


def test_an_export_leaves_sizes_empty_and_says_why(
    swept: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = export_tables(swept(tiny_cell(model=model(Recurrent))), trust=__name__)
    rows = pd.read_parquet(out / "records.parquet")
    assert len(rows) == 3
    assert rows["weights_effective"].isna().all()
    said = capsys.readouterr().out
    assert said.count("effective size: Recurrent(): left empty, because it calls lstm") == 1


def test_effective_size_follows_no_path_through_recurrence_or_unknown_use() -> None:
    for kind, because in {Recurrent: "lstm", Scores: "softmax"}.items():
        network = of(kind)
        present = {layer.name: torch.ones(layer.shape) for layer in network.layers}
        with pytest.raises(Unfollowed, match=f"it calls {because}"):
            network_size(network, present)
    named = of(Mixed, "scale")
    with pytest.raises(Unfollowed, match="scale belongs to neither"):
        network_size(named, {"scale": torch.ones(4, 4)})
    assert network_size(of(Mixed), {"output.weight": torch.ones(4, 4)}).weights_effective == 16


@pytest.mark.parametrize("kind", [Encoder, Tied])
def test_vmap_and_loop_agree_with_the_module(kind: Any) -> None:
    network = of(kind)
    states = [network.draw(Seed(seed)) for seed in (0, 1)]
    state = {name: torch.stack([s[name] for s in states]).double() for name in states[0]}
    x, y = torch.rand(2, 5, 1, 4, 4, dtype=torch.float64), torch.randint(4, (2, 5))
    grads, losses, logits = {}, {}, {}
    for backend in ("loop", "vmap"):
        stack = Stack(network.module("cpu").double(), 2, backend=backend)
        stack.load(state)
        losses[backend] = stack.loss(x, y)
        grads[backend] = stack.grads.clone()
        logits[backend] = stack.logits(x[0])
    torch.testing.assert_close(losses["loop"], losses["vmap"])
    torch.testing.assert_close(grads["loop"], grads["vmap"])
    torch.testing.assert_close(logits["loop"], logits["vmap"])
    for replicate, seed in enumerate(states):
        module = network.module("cpu").double()
        module.load_state_dict({n: t.double() for n, t in seed.items()}, strict=False)
        loss = nn.functional.cross_entropy(module(x[replicate]), y[replicate])
        torch.testing.assert_close(losses["loop"][replicate], loss.detach())


def test_vmap_refuses_a_recurrent_layer_and_a_gpu_takes_the_loop() -> None:
    module = of(Recurrent).module("cpu")
    with pytest.raises(ValueError, match="`vmap` has no rule for LSTM; `loop` can"):
        Stack(module, 2, backend="vmap")
    assert choose_backend(module, torch.device("cuda")) == "loop"


class ByShape(Branching):
    """Its path through the network depends only on the shape of the inputs."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)[:, :8]
        return self.output(self.inner(rows) if x.shape[-1] == 4 and rows.dim() > 1 else rows)


class Checked(Branching):
    """Looks at the values of the inputs, but computes the same in any batch."""

    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("not a number")
        return self.output(self.inner(x.flatten(1)[:, :8]).relu())


@pytest.mark.parametrize("backend", ["stacked", "grouped", "vmap"])
def test_a_branch_on_data_is_refused_where_replicates_are_together(backend: str) -> None:
    module = of(Branching).module("cpu")
    with pytest.raises(ValueError, match=f"`{backend}` cannot compute .* branches .*`loop` can$"):
        Stack(module, 2, backend=backend)
    assert choose_backend(module, torch.device("cuda")) == "loop"
    Stack(of(ByShape).module("cpu"), 2, backend=backend)
    assert choose_backend(of(ByShape).module("cpu"), torch.device("cuda")) == "stacked"


def test_a_model_that_branches_on_data_trains(tmp_path: Path) -> None:
    made, store = compute_cells(tiny_cell(model=model(Checked)), root=tmp_path)
    (cell,) = made.cells
    ticket, initial = store.read(cell.last.key, cell.seed), cell.last.network.draw(cell.seed)
    for name, mask in ticket.mask.items():
        assert not ticket.state[name][~mask].any()
        assert not torch.equal(ticket.state[name][mask], initial[name][None][mask])


def test_the_plan_says_which_share_is_prunable_and_what_large_stays_dense(
    tmp_path: Path,
) -> None:
    text = previewed(tiny_cell(model=model(Recurrent)), root=tmp_path)
    assert "312 of 412 parameters (75.7 %)" in text
    assert "stays dense" in text
    assert "embedding.weight (11.7 % of all parameters)" in text


def test_the_plan_shows_each_width_of_a_model(tmp_path: Path) -> None:
    nets = [{"_target_": "lt_sweeps.models.FC", "hidden": [width]} for width in (4, 6)]
    cells = [tiny_cell(model__net=net, seed=seed) for net in nets for seed in (0, 1)]
    text = previewed(*cells, root=tmp_path)
    assert text.count("hidden.0.weight (hidden)") == 2


def previewed(*cells: Cell, root: Path) -> str:
    made = plan(cells)
    todo = packs(
        made.units, stack_size=dict.fromkeys((unit.stage.key for unit in made.units), 9), workers=1
    )
    estimate = Estimate.of(todo, Speeds.of(root), device="cpu", at_once=1)
    console = Console(record=True, width=200)
    console.print(preview(made, todo, estimate, sweep=root / "sweeps" / "one"))
    return " ".join(console.export_text().split())


def test_an_initializer_draws_q_k_v_and_each_gate_apart() -> None:
    attention, lstm = nn.MultiheadAttention(64, 2), nn.LSTM(64, 64)
    for module in (attention, lstm):
        initializers.xavier_normal(module)
    gates = dict(lstm.named_parameters())
    parts = [*attention.in_proj_weight.chunk(3), *gates["weight_hh_l0"].chunk(4)]
    for part in parts:
        assert part.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert not attention.in_proj_bias.any()
    assert not gates["bias_hh_l0"].any()


class Table(nn.Module):
    """A module with a table: in its `state_dict`, in a buffer outside it, or in an attribute."""

    held: bool | None = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inner, self.output = nn.Linear(16, 8), nn.Linear(8, classes)
        table = torch.arange(8.0) / 8
        if self.held is None:
            self.table = table
        else:
            self.register_buffer("table", table, persistent=self.held)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.inner(x.flatten(1)).relu() + self.table)


class LooseTable(Table):
    held = False


class AttributeTable(Table):
    held = None


def trained(kind: type[nn.Module], root: Path, *include: str) -> dict[str, Tensor]:
    prunable = {"include": ["*", *include]}
    made, store = compute_cells(tiny_cell(model=model(kind, prunable=prunable)), root=root)
    return dict(store.read(made.cells[0].last.key, made.cells[0].seed).state)


@pytest.mark.parametrize("kind", [LooseTable, AttributeTable])
def test_a_table_that_no_state_holds_is_there_in_training(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    held, loose = trained(Table, tmp_path / "held"), trained(kind, tmp_path / "loose")
    assert loose.keys() == held.keys() - {"table"}
    assert all(torch.equal(tensor, held[name]) for name, tensor in loose.items())


@pytest.mark.parametrize("kind", [Table, LooseTable, AttributeTable])
def test_a_table_that_is_added_begins_no_path(kind: type[nn.Module]) -> None:
    network = of(kind)
    kept = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in network.layers}
    kept["inner.weight"][0] = False  # also ends the weights that read this unit
    assert network_size(network, kept).weights_effective == 7 * 16 + 7 * 4


class Straight(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inner, self.block = nn.Linear(16, 8), nn.Linear(8, 8)
        self.output = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.block(self.inner(x.flatten(1))).relu())


class Again(Straight):
    """A network whose backward pass computes a block again, to save memory."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x.flatten(1))
        return self.output(checkpoint(lambda y: self.block(y).relu(), y, use_reentrant=False))


@pytest.mark.parametrize(
    ("name", "more"), [("grasp", {"examples": 32}), ("synflow", {"rounds": 3})]
)
def test_a_block_that_is_computed_again_is_scored_as_any_other(
    name: str, more: dict[str, int], tmp_path: Path
) -> None:
    masks = []
    for kind in (Straight, Again):
        cell = tiny_cell(
            model=model(kind),
            mask_criterion={"_target_": f"lt_sweeps.sparsity.criteria.{name}", **more},
            method={"_target_": "lt_sweeps.plan.methods.at_init"},
            schedule={"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5},
        )
        made, store = compute_cells(cell, root=tmp_path / kind.__name__)
        masks.append(store.read(made.cells[0].last.key, made.cells[0].seed).mask)
    assert all(torch.equal(kept, masks[1][layer]) for layer, kept in masks[0].items())


class Computed(nn.Module):
    """Weights that torch computes before each call: by `weight_norm`, and by `prune`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.normed = nn.utils.weight_norm(nn.Linear(16, 8))
        self.masked = nn.Linear(8, 8)
        prune.l1_unstructured(self.masked, "weight", 0.5)
        self.output = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.masked(self.normed(x.flatten(1)).relu()).relu())


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_torch_computes_before_each_call_train(tmp_path: Path) -> None:
    state = trained(Computed, tmp_path, "normed.weight_v", "masked.weight_orig")
    network = of(Computed, "*", "normed.weight_v", "masked.weight_orig")
    initial = network.draw(Seed.of(0, {}))
    for name in ("normed.weight_v", "normed.weight_g", "masked.weight_orig"):
        assert not torch.equal(state[name][0], initial[name])
        pruned = initial[name].numel() - int(state[name].count_nonzero())
        assert pruned == {128: 45, 64: 22, 8: 0}[initial[name].numel()]


class Half(nn.Linear):
    def __init__(self, classes: int, dtype: str = "float16") -> None:
        super().__init__(16, classes, dtype=getattr(torch, dtype))


class Looked(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.rows, self.output = nn.Embedding(8, 4, sparse=True), nn.Linear(4, classes)


class Scaled(nn.Linear):
    def __init__(self, classes: int) -> None:
        super().__init__(16, classes)
        self.scale = nn.Parameter(torch.tensor(1.0))


def test_a_single_number_is_not_prunable() -> None:
    with pytest.raises(ValueError, match="scale is a single number; leave it out"):
        of(Scaled, "*", "scale")


class Hooked(nn.Linear):
    def __init__(self, classes: int) -> None:
        super().__init__(16, classes)
        self.weight.register_hook(lambda grad: grad / 2)


class Viewed(nn.Module):
    """Its decoder has a parameter of its own, which is a view of the encoder's weight."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, classes), nn.Linear(classes, 16)
        self.decoder.weight = nn.Parameter(self.encoder.weight.t())


class Turned(nn.Linear):
    """Has a buffer of complex numbers."""

    turn: Tensor

    def __init__(self, classes: int, double: bool = False) -> None:
        super().__init__(16, classes)
        kind = torch.complex128 if double else torch.complex64
        self.register_buffer("turn", torch.ones(classes, dtype=kind))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1)) * self.turn.real


class Parted(nn.Linear):
    """Its two parameters are drawn at once; it has a constant that is not in its tickets."""

    constant: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__(16, classes)
        drawn = torch.randn(classes, 17) / 4
        self.weight, self.bias = nn.Parameter(drawn[:, :16]), nn.Parameter(drawn[:, 16])
        constant = torch.ones(classes, dtype=torch.complex128)
        self.register_buffer("constant", constant, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1)) * self.constant.real.float()


def test_parameters_may_be_separate_parts_of_one_tensor(cell: Any, run: Any) -> None:
    made, store = run(cell(model={"net": {"_target_": f"{__name__}.Parted"}}))
    assert not made.missing(store)


def test_a_ticket_holds_complex_buffers(cell: Any, run: Any) -> None:
    made, store = run(cell(model={"net": {"_target_": f"{__name__}.Turned"}}))
    assert not made.missing(store)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ({"_target_": f"{__name__}.Turned", "double": True}, "buffer turn of complex128, which"),
        ({"_target_": f"{__name__}.Viewed"}, "decoder.weight is a view of encoder.weight"),
        ({"_target_": f"{__name__}.Hooked"}, "has a hook on the gradient of weight"),
        ({"_target_": f"{__name__}.Half"}, "has weights of float16; give all of them float32"),
        ({"_target_": f"{__name__}.Half", "dtype": "complex64"}, "has weights of complex64"),
        ({"_target_": f"{__name__}.Looked"}, "rows has sparse gradients"),
    ],
)
def test_parameters_that_no_optimizer_here_can_train_are_refused(
    net: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Network.of({"net": net}, (1, 4, 4), 4)


class Orthogonal(nn.Sequential):
    """A parametrisation that has one more tensor on the CPU than on `meta`."""

    def __init__(self, classes: int, trivially: bool = True) -> None:
        inner = nn.utils.parametrizations.orthogonal(nn.Linear(16, 8), use_trivialization=trivially)
        super().__init__(nn.Flatten(), inner, nn.Linear(8, classes))


class PlainlyOrthogonal(Orthogonal):
    """The same network, changed as the refusal advises."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, trivially=False)


def test_a_net_that_is_another_one_on_meta_is_refused_by_its_draw() -> None:
    line = r"has 1.parametrizations.weight.0.base only on the CPU or .*use_trivialization=False"
    with pytest.raises(ValueError, match=line):
        of(Orthogonal).draw(Seed.of(0, {}))
    assert "2.weight" in of(PlainlyOrthogonal).draw(Seed.of(0, {}))
