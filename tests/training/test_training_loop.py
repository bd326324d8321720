"""Invariants of the science that every training must have, with any method."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fixtures.tiny_cell import CONV, SGD, TINY

from lt_sweeps.config.cells import Cell
from lt_sweeps.config.seeds import Seed
from lt_sweeps.execution.materialize import snapshot, ticket
from lt_sweeps.execution.train_pack import compute
from lt_sweeps.plan.packing import packs
from lt_sweeps.plan.planning import Plan, plan
from lt_sweeps.plan.unit import Unit
from lt_sweeps.storage.manifest import Machine
from lt_sweeps.storage.store import Store
from lt_sweeps.storage.ticket import stack
from lt_sweeps.training.evaluation import Evaluation
from lt_sweeps.training.fixed_mask import FixedMask
from lt_sweeps.training.training_loop import TrainingLoop

Make = Callable[..., Cell]
Run = Callable[..., tuple[Plan, Store]]

ADAMW = {**SGD, "optimizer": "adamw", "lr": 0.01, "momentum": 0.0, "nesterov": False}
ADAM = {**ADAMW, "optimizer": "adam"}
HALF = {"_target_": "lt_sweeps.sparsity.schedules.one_shot", "sparsity": 0.5}
METHODS: dict[str, dict] = {
    "dense": {},
    "imp": {},
    "one_shot": {},
    "magnitude": {"finetune": {"length": "2ep"}},
    "gmp": {"every": "3it", "finetune": {"length": "2ep"}},
    "imp_continued": {"protocol": "ticket", "to": "1ep"},
    "renda": {"retrain": "2ep"},
    "rigl": {"every": "2it"},
    "at_init": {},
    "amc": {"episodes": 4, "warmup": 2, "finetune": {"length": "2ep"}},
    "slimming": {"finetune": {"length": "2ep"}},
    "transfer": {
        "source": {**TINY["dataset"], "classes": 3},
        "search": {"_target_": "lt_sweeps.plan.methods.imp"},
        "search_recipe": {},
        "mask": "random",
    },
}


LEARNED: dict[str, dict] = {
    "continuous_sparsification": {"rounds": 2, "protocol": "ticket", "to": "1ep"},
    "l0": {"lmbda": 0.01, "mask": "sample"},
    "soft_threshold": {"s_init": -2.0},
    "dnw": {},
}
METHODS |= {name: {"finetune": {"length": "2ep"}, **keys} for name, keys in LEARNED.items()}


def method(name: str) -> dict:
    return {"_target_": f"lt_sweeps.plan.methods.{name}", **METHODS[name]}


def files(root: Path, pattern: str = "**/*.safetensors") -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.glob(pattern))}


MORE = {
    "at_init": {"mask_criterion": {"_target_": "lt_sweeps.sparsity.criteria.snip", "examples": 32}}
}
# Arguments, besides the sparsity of a schedule, in which replicates of a stack may differ.
VARIED: dict[str, list[dict]] = {
    "slimming": [{"percent": 0.3}, {"percent": 0.6}],
    "continuous_sparsification": [{"scaling": False, "s0": s0} for s0 in (-0.01, 0.01)],
    "l0": [{"droprate": 0.3}, {"droprate": 0.6}],
    "soft_threshold": [{"s_init": -2.0}, {"s_init": -1.0}],
}


@pytest.mark.parametrize("name", METHODS)
def test_a_replicate_in_a_stack_equals_the_same_seed_alone(
    cell: Make, run: Run, tmp_path: Path, name: str
) -> None:
    """The stacks mix seeds, sparsities, and all else in which a method's replicates may differ."""
    cells = [
        cell(
            method={**method(name), **VARIED.get(name, [{}, {}])[i]},
            schedule={**HALF, "sparsity": sparsity},
            model=CONV,
            recipe=SGD,
            seed=seed,
            **MORE.get(name, {}),
        )
        for i, sparsity in enumerate((0.3, 0.8))
        for seed in (0, 1)
    ]
    made, _ = run(*cells, root=tmp_path / "together", backend="loop")
    sizes = dict.fromkeys((unit.stage.key for unit in made.units), 99)
    stacks = packs(made.units, stack_size=sizes, workers=1)
    mixed = any(len({unit.stage for unit in pack.units}) > 1 for pack in stacks)
    assert mixed == (name != "dense")
    run(*cells, root=tmp_path / "alone", alone=True, backend="loop")
    together, alone = files(tmp_path / "together"), files(tmp_path / "alone")
    assert together == alone and len(together) > 1


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_the_dense_network_as_its_level_0(cell: Make, name: str) -> None:
    more = MORE.get(name, {})
    (planned,) = plan([cell(method=method(name), model=CONV, schedule=HALF, **more)]).cells
    (dense,) = plan([cell(model=CONV)]).cells
    level_0 = next(s for s in planned.trainings if planned.levels.get(s.key) == 0)
    assert level_0 == dense.trainings[0]


@pytest.mark.parametrize("backend", ["stacked", "vmap"])
def test_another_backend_is_equal_up_to_rounding(
    cell: Make, run: Run, tmp_path: Path, backend: str
) -> None:
    cells = [cell(model=CONV, recipe=SGD, schedule__levels=1, seed=seed) for seed in (0, 1)]
    made, loop = run(*cells, root=tmp_path / "loop", backend="loop")
    _, other = run(*cells, root=tmp_path / backend, backend=backend)
    for unit in made.units[:2]:
        mine, theirs = (s.read(unit.stage.key, unit.seed).state for s in (loop, other))
        for tensor_name, tensor in mine.items():
            assert torch.allclose(tensor.double(), theirs[tensor_name].double(), atol=1e-4)


def test_two_seeds_differ_in_everything_that_is_drawn(cell: Make, run: Run) -> None:
    made, store = run(cell(seed=0), cell(seed=1))
    first, second = (ticket(made.units[0].stage, Seed.of(s), store) for s in (0, 1))
    assert not torch.equal(first.state["hidden.0.weight"], second.state["hidden.0.weight"])


def test_a_seed_role_set_apart_changes_that_draw_alone(cell: Make, run: Run) -> None:
    made, store = run(cell(), cell(seeds={"order": 5}))
    stage = made.units[0].stage
    plain, apart = (Seed.of(0), Seed.of(0, {"order": 5}))
    starts = [ticket(stage.start, seed, store).state for seed in (plain, apart)]
    ends = [ticket(stage, seed, store).state for seed in (plain, apart)]
    assert torch.equal(starts[0]["hidden.0.weight"], starts[1]["hidden.0.weight"])
    assert not torch.equal(ends[0]["hidden.0.weight"], ends[1]["hidden.0.weight"])


@pytest.mark.parametrize("freeze", ["zero", "init"])
@pytest.mark.parametrize("recipe", [SGD, ADAM, ADAMW], ids=["sgd", "adam", "adamw"])
def test_a_pruned_weight_never_moves_nor_gathers_momentum(
    cell: Make, run: Run, monkeypatch: pytest.MonkeyPatch, recipe: dict, freeze: str
) -> None:
    frozen = {"_target_": f"lt_sweeps.sparsity.freezes.{freeze}"}
    made, store = run(cell(recipe=recipe, freeze=frozen, schedule__levels=1))
    stage, seed = made.units[-1].stage, Seed.of(0)
    start = ticket(stage.start, seed, store)
    loop = TrainingLoop([Unit(stage, seed)], store, Machine(), moments=[frozenset()])
    loop.start(start)
    assert isinstance(loop.masking, FixedMask)
    update, pruned = loop.update(), loop.masking.mask == 0
    before = loop.stack.weights[pruned].clone()
    assert pruned.sum() > 10 and (freeze == "zero" or before.abs().sum() > 0)
    for step in range(8):
        update(step)
        assert torch.equal(loop.stack.weights[pruned], before)
        assert all(
            not flat[pruned].any()
            for flat in loop.masking.optimizer.tensors.values()
            if flat.shape == pruned.shape
        )
        assert (loop.stack.weights[~pruned] != start.state["hidden.0.weight"].flatten()[0]).any()


@pytest.mark.parametrize("freeze", ["zero", "init"])
@pytest.mark.parametrize("stored", ["evaluated", "snapshot", "checkpoint"])
def test_a_pruned_weight_that_moved_is_found_before_anything_is_stored(
    cell: Make, run: Run, freeze: str, stored: str
) -> None:
    frozen = {"_target_": f"lt_sweeps.sparsity.freezes.{freeze}"}
    made, store = run(cell(freeze=frozen, schedule__levels=1))
    unit = made.units[-1]
    loop = TrainingLoop([unit], store, Machine(), moments=[frozenset([2])])
    loop.start(ticket(unit.stage.start, unit.seed, store))
    assert isinstance(loop.masking, FixedMask)
    pruned = loop.masking.mask == 0
    assert loop.masking.moved().tolist() == [0] and pruned.any()
    last = pruned[0].nonzero()[-1]
    loop.stack.weights[0, last] += 2**-20
    assert loop.masking.moved().tolist() == [1]
    with pytest.raises(AssertionError, match="pruned weights moved by step 2"):
        if stored == "evaluated":
            loop.scorer.validate(2)
        elif stored == "snapshot":
            loop.files.snapshot(2, 2)
        else:
            loop.files.write_checkpoint(2, 0.0)
    assert not loop.history.rows[0] and not store.has(unit.stage.key, unit.seed, 2)
    assert not store.checkpoints(unit.stage.key, unit.seed)
    loop.stack.weights[0].fill_(torch.nan)
    loop.masking.check(2)  # a diverged replicate is a result


def test_in_every_file_the_pruned_weights_are_where_they_were_pinned(cell: Make, run: Run) -> None:
    made, store = run(cell(recipe=SGD, schedule__levels=3))
    seed, before = Seed.of(0), None
    for unit in made.units:
        stored = store.read(unit.stage.key, seed)
        for name, kept in stored.mask.items():
            assert (stored.state[name][~kept] == 0).all()
            assert before is None or bool((kept <= before[name]).all()), "masks only shrink"
        before = stored.mask


def test_an_all_kept_ticket_rewound_with_its_momentum_continues_the_dense_run_bit_for_bit(
    cell: Make, run: Run, tmp_path: Path
) -> None:
    """Weights, moments, learning rate, batch-norm statistics and data order are all restored."""
    rewound = {"_target_": "lt_sweeps.sparsity.resets.rewind", "to": "6it", "momentum": True}
    made, store = run(cell(model=CONV, recipe=SGD, schedule__levels=1, reset=rewound))
    dense = made.units[0].stage
    at_6 = snapshot(dense, 6, Seed.of(0), store)
    assert at_6.step == 6 and at_6.optimizer and all(k.all() for k in at_6.mask.values())
    loop = TrainingLoop([Unit(dense, Seed.of(0))], store, Machine(), moments=[frozenset()])
    loop.step = 6
    loop.start(at_6)
    loop.run(until=dense.step)
    end = ticket(dense, Seed.of(0), store).state
    mine = loop.stack.state()
    assert set(mine) == set(end)
    assert all(torch.equal(mine[name], end[name]) for name in end)


def test_a_rewound_level_starts_at_the_weights_and_step_of_the_dense_run(
    cell: Make, run: Run
) -> None:
    made, store = run(cell(recipe=SGD, schedule__levels=1, reset__to="2ep"))
    dense, sparse = (unit.stage for unit in made.units)
    start, then = ticket(sparse.start, Seed.of(0), store), snapshot(dense, 8, Seed.of(0), store)
    assert start.step == 8 and not start.optimizer
    for name, kept in start.mask.items():
        assert torch.equal(start.state[name][kept], then.state[name][kept])
    assert torch.equal(start.state["output.bias"], then.state["output.bias"])


def test_keep_goes_on_from_the_trained_weights(cell: Make, run: Run) -> None:
    made, store = run(
        cell(schedule__levels=1, reset={"_target_": "lt_sweeps.sparsity.resets.keep"})
    )
    dense, sparse = (unit.stage for unit in made.units)
    start, end = ticket(sparse.start, Seed.of(0), store), ticket(dense, Seed.of(0), store)
    kept = start.mask["hidden.0.weight"]
    assert start.step == 0
    assert torch.equal(start.state["hidden.0.weight"][kept], end.state["hidden.0.weight"][kept])


def test_snapshots_change_nothing(cell: Make, run: Run, tmp_path: Path) -> None:
    plain = cell(recipe=SGD, schedule__levels=1)
    more = cell(recipe=SGD, schedule__levels=1, reset__to="5it")
    made, store = run(plain, root=tmp_path / "plain")
    _, watched = run(plain, more, root=tmp_path / "watched")
    dense = made.units[0].stage.key
    assert store.path(dense, 0).read_bytes() == watched.path(dense, 0).read_bytes()


def test_a_snapshot_asked_for_later_is_made_again_without_touching_the_ticket(
    cell: Make, run: Run
) -> None:
    made, store = run(cell(recipe=SGD, schedule__levels=1))
    dense = made.units[0].stage.key
    before = store.path(dense, 0).read_bytes()
    run(cell(recipe=SGD, schedule__levels=1, reset__to="5it"))
    assert store.has(dense, 0, 5) and store.path(dense, 0).read_bytes() == before


@pytest.mark.parametrize("left", [8, 12])
def test_a_checkpoint_past_a_missing_snapshot_is_not_gone_on_from(
    cell: Make, run: Run, left: int
) -> None:
    """It was left by a run that was killed at its end, or by a run that saved another snapshot."""
    made, store = run(cell(recipe=ADAM, schedule__levels=1))
    dense = made.units[0]
    loop = TrainingLoop([dense], store, Machine(), moments=[frozenset()])
    loop.start(ticket(dense.stage.start, dense.seed, store))
    loop.files.write_checkpoint(left, seconds=0.0)
    loop.files.wait()
    later, _ = run(cell(recipe=ADAM, schedule__levels=1, reset__to="5it"))
    assert store.has(dense.stage.key, 0, 5) and not later.missing(store)
    assert not store.checkpoints(dense.stage.key, 0)


def test_a_treatment_differs_from_its_control_when_they_could_share_a_pack(
    cell: Make, run: Run
) -> None:
    arms = [
        cell(recipe=SGD, schedule__levels=1, reset__to="2ep", reset__momentum=m)
        for m in (False, True)
    ]
    made, store = run(*arms)
    control, treatment = (store.read(c.last.key, 0).state["output.weight"] for c in made.cells)
    assert not torch.equal(control, treatment)
    lone, alone = run(arms[1], root=store.root / "lone")
    assert torch.equal(alone.read(lone.cells[0].last.key, 0).state["output.weight"], treatment)


def test_pruning_recovers_from_a_level_that_diverged(cell: Make, run: Run) -> None:
    made, store = run(cell(recipe={**SGD, "lr": 1e30}, schedule__levels=2))
    for unit in made.units:
        start = ticket(unit.stage.start, Seed.of(0), store)
        assert all(t.isfinite().all() for t in start.state.values())
        stored = store.read(unit.stage.key, 0)
        assert all((stored.state[n][~kept] == 0).all() for n, kept in stored.mask.items())


def test_a_replicate_that_never_had_a_finite_loss_is_a_result(cell: Make, run: Run) -> None:
    recipe = {**SGD, "lr": 1e30, "evaluate_every": "1ep"}
    made, store = run(cell(recipe=recipe, schedule__levels=1, reset__to="5it"))
    assert not made.missing(store)


class Killed(Exception):
    pass


def kill_at(step: int) -> Callable[[int], None]:
    def progress(now: int) -> None:
        if now >= step:
            raise Killed

    return progress


@pytest.mark.parametrize("recipe", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("step", [1, 11])
def test_interrupted_and_resumed_equals_uninterrupted_byte_for_byte(
    cell: Make,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: dict,
    step: int,
) -> None:
    monkeypatch.setattr("lt_sweeps.training.training_loop._TELL", 0.0)
    cells = [cell(model=CONV, recipe=recipe, schedule__levels=1, seed=seed) for seed in (0, 1)]
    run(*cells, root=tmp_path / "whole")
    made, store = plan(cells), Store(tmp_path / "torn")
    dense = [unit for unit in made.units if unit.stage.level == 0]
    machine = Machine(checkpoint_every=0.0)
    with pytest.raises(Killed):
        compute(dense, made.moments, store, machine, progress=kill_at(step))
    assert store.checkpoints(dense[0].stage.key, 0), "it was in the middle of its work"
    began: list[int] = []
    compute(dense, made.moments, store, Machine(), progress=began.append)
    assert began[0] == step - 1, "it went on from its checkpoint"
    run(*cells, root=tmp_path / "torn")
    whole, torn = files(tmp_path / "whole"), files(tmp_path / "torn")
    assert torn == whole


def test_checkpoints_of_different_steps_are_continued_apart(
    cell: Make, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack may be formed again from units that were stopped at different times."""
    cells = [cell(recipe=SGD, schedule__levels=1, seed=seed) for seed in (0, 1)]
    run(*cells, root=tmp_path / "whole", backend="loop")
    made, store = plan(cells), Store(tmp_path / "torn")
    machine = Machine(checkpoint_every=0.0, backend="loop")
    for unit, calls in zip(made.units[:2], (3, 9), strict=True):
        left = iter(range(calls))
        stopped = lambda left=left: next(left, None) is None  # noqa: E731
        with pytest.raises(Exception, match="stopped at step"):
            compute([unit], made.moments, store, machine, stopped=stopped)
    steps = {max(store.checkpoints(unit.stage.key, unit.seed)) for unit in made.units[:2]}
    assert len(steps) == 2
    monkeypatch.setattr("lt_sweeps.training.training_loop._TELL", 0.0)
    began: list[int] = []
    compute(made.units[:2], made.moments, store, Machine(backend="loop"), progress=began.append)
    assert min(began) == min(steps), "no step was trained twice"
    run(*cells, root=tmp_path / "torn", backend="loop")
    assert files(tmp_path / "torn") == files(tmp_path / "whole")


@pytest.mark.parametrize("lacks", ["a tensor", "a shape", "a row of metadata"])
def test_a_checkpoint_of_another_version_of_the_code_is_set_aside_and_computed_again(
    cell: Make,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lacks: str,
) -> None:
    monkeypatch.setattr("lt_sweeps.training.training_loop._TELL", 0.0)
    cells = [cell(recipe=SGD, schedule__levels=1, seed=seed) for seed in (0, 1)]
    run(*cells, root=tmp_path / "whole", backend="loop")
    made, store = plan(cells), Store(tmp_path / "torn")
    dense = [unit for unit in made.units if unit.stage.level == 0]
    machine = Machine(checkpoint_every=0.0, backend="loop")
    with pytest.raises(Killed):
        compute(dense, made.moments, store, machine, progress=kill_at(1))
    key = dense[1].stage.key
    (step,) = store.checkpoints(key, 1)
    metadata, tensors = store.read_checkpoint(key, 1, step)
    if lacks == "a tensor":
        del tensors["weights"]
    elif lacks == "a shape":  # which an assignment would have broadcast
        tensors["weights"] = tensors["weights"][None]
    else:
        del metadata["since"]
    for name in ("format", "body_sha256", "entries_sha256", "metadata_sha256"):
        del metadata[name]
    store.write_checkpoint(key, 1, step, tensors, metadata)
    run(*cells, root=tmp_path / "torn", backend="loop")
    assert (
        f"1.partial-{step}.safetensors: a checkpoint of another version of the code" in caplog.text
    )
    aside = list((tmp_path / "torn").glob("tickets/*/*.corrupt-*"))
    assert [path.name for path in aside] == [f"1.partial-{step}.safetensors.corrupt-0"]
    aside[0].unlink()
    assert files(tmp_path / "torn") == files(tmp_path / "whole")


def test_a_diverged_replicate_keeps_its_nans_to_itself(
    cell: Make, run: Run, tmp_path: Path
) -> None:
    cells = [cell(recipe=SGD, seed=seed) for seed in (0, 1)]
    made = plan(cells)
    dense = made.units[:2]
    store = Store(tmp_path / "results")
    start = stack([ticket(unit.stage.start, unit.seed, store) for unit in dense])
    start.state["hidden.0.weight"][0] = torch.nan
    loop = TrainingLoop(dense, store, Machine(backend="loop"), moments=[frozenset()] * 2)
    loop.start(start)
    loop.run()
    run(cells[1], root=tmp_path / "alone", backend="loop")
    mine, alone = (s.read(dense[1].stage.key, 1).state for s in (store, Store(tmp_path / "alone")))
    assert all(torch.equal(mine[name], alone[name]) for name in alone)
    about = [(store.metadata(u.stage.key, u.seed) or {})["metrics"] for u in dense]
    assert '"finite": false' in about[0] and '"finite": true' in about[1]


def test_a_constant_predictor_scores_its_class_frequency(
    cell: Make, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = {
        "_target_": "lt_sweeps.data.synthetic",
        "shape": [1, 4, 4],
        "classes": 3,
        "train": 64,
        "validation": 37,
        "test": 41,
    }
    stage = plan([cell(dataset=dataset)]).units[0].stage
    labels = stage.training.task.dataset.load()["test"].targets
    store = Store(tmp_path)
    start = ticket(stage.start, Seed.of(0), store)
    for name, tensor in start.state.items():
        tensor.zero_()
        if name == "output.bias":
            tensor[0, 1] = 5.0
    for batch in (1, 7, 41, 500):
        monkeypatch.setattr("lt_sweeps.data.batches.EVALUATE_BATCH", batch)
        loop = TrainingLoop([Unit(stage, Seed.of(0))], store, Machine(), moments=[frozenset()])
        loop.start(start)
        ((_, accuracy, one_class, _),) = loop.scorer.measure("test")
        assert accuracy == (labels == 1).double().mean().item()
        assert one_class


@pytest.mark.parametrize("model", [CONV, TINY["model"]], ids=["resnet", "fc"])
def test_convolutions_see_few_images_at_once_and_score_the_same(
    cell: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: dict
) -> None:
    stage = plan([cell(model=model, dataset__validation=230)]).units[0].stage
    store = Store(tmp_path)
    loop = TrainingLoop([Unit(stage, Seed.of(0))], store, Machine(), moments=[frozenset()])
    loop.start(ticket(stage.start, Seed.of(0), store))
    loop.update()(0)
    seen, logits = [], loop.stack.logits
    monkeypatch.setattr(loop.stack, "logits", lambda x: seen.append(len(x)) or logits(x))
    scores = loop.scorer.measure("val")
    assert seen == ([100, 100, 30] if model is CONV else [230])
    assert Evaluation(loop.stack, loop.batches).measure("val") == scores


def test_evaluating_leaves_batch_norm_statistics_alone(cell: Make, tmp_path: Path) -> None:
    stage = plan([cell(model=CONV)]).units[0].stage
    store = Store(tmp_path)
    loop = TrainingLoop([Unit(stage, Seed.of(0))], store, Machine(), moments=[frozenset()])
    loop.start(ticket(stage.start, Seed.of(0), store))
    loop.update()(0)
    before = loop.stack.state()
    loop.scorer.results(1)
    after = loop.stack.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert before["norm.running_mean"].any()


def test_a_training_that_ends_between_two_evaluations_can_be_tested(cell: Make, run: Run) -> None:
    """Like the canary's two steps, which may begin at any step."""
    made, store = run(cell(recipe__evaluate_every="5it", schedule__levels=1, reset__to="6it"))
    unit = made.units[-1]
    loop = TrainingLoop([unit], store, Machine(), moments=[frozenset()])
    loop.start(ticket(unit.stage.start, unit.seed, store))
    loop.run(until=8)
    (results,) = loop.scorer.results(loop.step)
    assert loop.step == 8 and results["best_step"] == 8


def test_the_reported_test_accuracy_is_the_one_at_the_lowest_validation_loss(
    cell: Make, run: Run
) -> None:
    import json

    made, store = run(cell(recipe__evaluate_every="2it"))
    about = store.metadata(made.units[0].stage.key, 0) or {}
    history, metrics = json.loads(about["history"]), json.loads(about["metrics"])
    lowest = min(history, key=lambda row: row["val_loss"])
    assert metrics["best_step"] == lowest["step"]
    assert metrics["best_val_loss"] == lowest["val_loss"]
    assert [row["step"] for row in history] == [0, 2, 4, 6, 8, 10, 12]


def test_fresh_order_differs_between_levels_and_same_order_does_not(
    cell: Make, run: Run, tmp_path: Path
) -> None:
    orders = {}
    for order in ("same", "fresh"):
        made = plan([cell(recipe__order=order, schedule__levels=1)])
        for unit in made.units:
            loop = TrainingLoop([unit], Store(tmp_path), Machine(), moments=[frozenset()])
            orders[order, unit.stage.level] = loop.batches.index(0)
    assert torch.equal(orders["same", 0], orders["same", 1])
    assert not torch.equal(orders["fresh", 0], orders["fresh", 1])


def test_augmentation_is_a_crop_and_a_flip_of_the_image(cell: Make, tmp_path: Path) -> None:
    unit = plan([cell(recipe__augment="crop_flip")]).units[0]
    batches = TrainingLoop([unit], Store(tmp_path), Machine(), moments=[frozenset()]).batches
    index = batches.index(0)
    x, _ = batches.take(index)
    images = unit.stage.training.task.dataset.load()["train"].inputs.float() / 255
    padded = torch.nn.functional.pad(images, (4,) * 4)
    for picture, (number, top, left, flip) in zip(x[0], index[0].tolist(), strict=True):
        crop = padded[number, :, top : top + 4, left : left + 4]
        assert torch.allclose(picture, crop.flip(2) if flip else crop)


def test_a_training_leaves_denormal_numbers_to_the_scores_after_it(cell: Make, run: Run) -> None:
    """Otherwise a pruning in the same process would find ties that a new process does not find."""
    run(cell())
    assert bool((torch.full((8,), 1e-30) * 1e-10).all())
