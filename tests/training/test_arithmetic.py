"""Precision and determinism: the requested setting is computed, stored and printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fixtures.tiny_cell import CONV, SGD
from torch import nn

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.execution.records import record_cell
from lt_sweeps.models import FC, Conv, ResNet
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.stored_tickets import StoredTickets
from lt_sweeps.storage.record import Record
from lt_sweeps.storage.run_folder import RunFolder
from lt_sweeps.storage.store import Store
from lt_sweeps.training.arithmetic import Arithmetic
from lt_sweeps.training.stack import Stack

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

BF16 = Arithmetic("bf16")
NETS: dict[str, Callable[[], torch.nn.Module]] = {
    "fc": lambda: FC((1, 8, 8), 10, hidden=[12, 8]),
    "conv": lambda: Conv((1, 8, 8), 10, blocks=[[4, 4]], hidden=[8]),
    "resnet": lambda: ResNet((1, 8, 8), 10, depth=8, width=4),
}
BACKENDS = [
    *(("fc", name) for name in ("loop", "chain", "stacked", "grouped", "vmap")),
    *(("conv", name) for name in ("loop", "stacked", "grouped", "vmap")),
    *(("resnet", name) for name in ("loop", "stacked", "grouped")),
]
HALF = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5}
ALONE = {"loop": True, "chain": True}  # backends that promise a CPU's row the bytes of a lone run


@pytest.fixture(autouse=True)
def _settings_of_the_process() -> Iterator[None]:
    yield
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark


def stacked(net: str, backend: str, replicates: int = 3, **options: Any) -> Stack:
    torch.manual_seed(0)
    stack = Stack(NETS[net](), replicates, backend=backend, **options)
    draws = torch.Generator().manual_seed(1)
    stack.weights.add_(0.01 * torch.randn(3, stack.layout.size, generator=draws)[:replicates])
    return stack


def batch(replicates: int = 3, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(2)
    x = torch.randn(3, size, 1, 8, 8, generator=draws)
    return x[:replicates], torch.randint(10, (3, size), generator=draws)[:replicates]


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.LayerNorm(4)])
def test_vmap_in_bf16_refuses_norms_on_a_cpu_in_one_line(norm: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(4, 4), norm)
    with pytest.raises(ValueError, match=f"no rule for {type(norm).__name__} in bf16 on a CPU; `l"):
        Stack(net, 2, backend="vmap", arithmetic=BF16)
    Stack(net, 2, backend="vmap").loss(torch.ones(2, 3, 4), torch.zeros(2, 3).long())


@pytest.mark.parametrize(("net", "backend"), BACKENDS)
def test_every_backend_multiplies_in_bf16_and_keeps_its_weights(net: str, backend: str) -> None:
    exact, rounded = stacked(net, backend), stacked(net, backend, arithmetic=BF16)
    losses = exact.loss(*batch()), rounded.loss(*batch())
    outputs = exact.logits(batch()[0][0]), rounded.logits(batch()[0][0])
    for pair in (losses, outputs, (exact.grads, rounded.grads)):
        assert {each.dtype for each in pair} == {torch.float32}
        difference = (pair[0] - pair[1]).norm() / pair[0].norm()
        assert 1e-5 < difference < 0.15, "rounded, and by no more than bf16 rounds"
    assert torch.equal(exact.weights, rounded.weights)


@pytest.mark.parametrize(("net", "backend"), [pair for pair in BACKENDS if pair[1] in ALONE])
def test_a_row_in_bf16_equals_the_same_replicate_alone(net: str, backend: str) -> None:
    together = stacked(net, backend, arithmetic=BF16)
    losses = together.loss(*batch())
    alone = stacked(net, backend, 1, arithmetic=BF16)
    assert torch.equal(alone.loss(*batch(1)), losses[:1])
    assert torch.equal(alone.grads, together.grads[:1])


def test_products_of_other_types_are_left_alone() -> None:
    stack = Stack(FC((1, 8, 8), 10, hidden=[8]).double(), 2, backend="loop")
    x, y = batch(2)
    assert stack.loss(x.double(), y).dtype == stack.logits(x[0].double()).dtype == torch.float64


METHODS: dict[str, dict[str, Any]] = {
    "imp": {},
    "rigl": {"every": "2it"},
    "continuous_sparsification": {"rounds": 2, "protocol": "ticket", "to": "1ep"},
    "supermask": {"statistics": 3},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_precision_is_another_result_with_its_own_records(
    cell: Make, run: Run, name: str
) -> None:
    method = {"_target_": f"lt_sweeps.plan.methods.{name}", **METHODS[name]}
    net = {"model": CONV, "recipe": SGD} if name == "supermask" else {}
    cells = [cell(method=method, schedule=HALF, precision=p, **net) for p in ("float32", "bf16")]
    made, store = run(*cells)
    assert not {s.key for s in made.cells[0].trainings} & {s.key for s in made.cells[1].trainings}
    said = []
    for planned in made.cells:
        assert record_cell(
            planned, StoredTickets(store, thorough=True)
        )  # also that no pruned weight has moved
        rows = RunFolder.of(store.root, planned.signature, planned.seed).read().records
        said.append({row.precision for row in rows})
        for stage in planned.trainings:
            facts = store.facts(stage.key, planned.seed)
            assert facts is not None and facts.precision == stage.training.precision
            if stage.stores_ticket:
                ticket = store.read(stage.key, planned.seed)
                assert {t.dtype for t in ticket.state.values()} <= {torch.float32, torch.int64}
                if stage.start.level and not stage.has_logits and stage.sparsifier.holds:
                    assert all(
                        (ticket.state[n][~kept] == 0).all() for n, kept in ticket.mask.items()
                    )
    assert said == [{"float32"}, {"bf16"}]


def test_float32_is_the_identity_that_results_had_before(cell: Make) -> None:
    plain, named = plan([cell()]), plan([cell(precision="float32")])
    assert [s.key for s in plain.cells[0].trainings] == [s.key for s in named.cells[0].trainings]


def test_a_stored_result_of_another_precision_is_not_taken(cell: Make, run: Run) -> None:
    from lt_sweeps.plan.ticket_checks import header_fault

    made, store = run(cell())
    stage = made.cells[0].last
    facts = store.facts(stage.key, made.cells[0].seed)
    assert facts is not None and not header_fault(stage, "end", facts)
    bf16 = plan([cell(precision="bf16")]).cells[0].last
    assert "precision float32 where" in header_fault(bf16, "end", facts)


def test_rows_from_before_there_was_a_precision_are_float32(cell: Make, run: Run) -> None:
    made, store = run(cell())
    planned = made.cells[0]
    record_cell(planned, StoredTickets(store, thorough=True))
    folder = RunFolder.of(store.root, planned.signature, planned.seed)
    rows = [json.loads(line) for line in folder.records.read_text().splitlines()]
    for row in rows:
        del row["precision"]
    folder.records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder.done.unlink()
    read = folder.read()
    assert not read.faults and {row.precision for row in read.records} == {"float32"}
    assert isinstance(read.records[0], Record)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["precision=float16"],
            "precision: got 'float16'; did you mean `float32`? give one of float32, tf32, bf16",
        ),
        (["precision=tf32", "device=cpu"], "precision: got tf32 on a cpu, which has no tf32; give"),
        (["deterministic=1"], "deterministic: got 1; give true or false"),
    ],
)
def test_a_precision_that_the_device_lacks_is_refused_in_one_line(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "seed=0", "device=cpu", *words]) != 0
    said = capsys.readouterr().err.strip()
    assert why in said and "\n" not in said


def test_precisions_are_swept_as_any_other_key(cells: Callable[..., list[Cell]]) -> None:
    made = plan(cells("seed=0", "mask_criterion=random", "precision=float32,bf16"))
    assert len({cell.signature for cell in made.cells}) == 2
    assert {s.training.precision for c in made.cells for s in c.trainings} == {"float32", "bf16"}


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_gpu_repeats_its_bytes_unless_it_need_not(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the settings around a step are tested, which need no GPU."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", None)  # it imports the compiler
    with Arithmetic("tf32", deterministic).set(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert torch.backends.cudnn.deterministic == deterministic
        assert torch.backends.cudnn.benchmark != deterministic
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
        # Torch reads it once, at the first product of a process, which a later one may follow.
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    with Arithmetic("float32").set(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="an older torch")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_float32_is_ieee_whatever_a_users_module_has_set(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels: Any = torch.backends.mkldnn if device == "cpu" else torch.backends.cudnn
    gpu: Any = torch.backends.cuda.matmul
    products = gpu if device == "cuda" else kernels.matmul
    parts = [kernels.conv, kernels.rnn, products]
    for name in ("tf32", "bf16"):
        monkeypatch.setattr(torch.backends, "fp32_precision", name)
        with Arithmetic().set(torch.device(device)):
            assert {part.fp32_precision for part in parts} == {"ieee"}
    if device == "cuda":
        with Arithmetic("tf32").set(torch.device(device)):
            assert {part.fp32_precision for part in parts} == {"tf32"}
            assert kernels.allow_tf32 and products.allow_tf32, "old and new names agree, or raise"


def test_a_model_without_a_kernel_that_repeats_is_refused_in_one_line() -> None:
    message = "pool_backward_cuda does not have a deterministic implementation, but you set ..."
    refusal = r"^deterministic: the model uses `pool_backward_cuda`, .*; give deterministic=false$"
    cuda = torch.device("cuda")
    with pytest.raises(ValueError, match=refusal), Arithmetic().set(cuda):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="out of memory"), Arithmetic().set(cuda):
        raise RuntimeError("out of memory")


def test_tf32_is_refused_where_the_environment_turns_it_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NVIDIA's libraries would compute in float32, but the record would say tf32."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    Arithmetic("tf32").check(torch.device("cuda"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(ValueError, match="precision: got tf32, and NVIDIA_TF32_OVERRIDE=0"):
        Arithmetic("tf32").check(torch.device("cuda"))
    Arithmetic("bf16").check(torch.device("cuda"))
