"""A multirun becomes the cells that Hydra would compose, but composes only a few of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import hydra
import pytest
from fixtures.command_line import CommandLine
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from lt_sweeps.cli.command_line import main
from lt_sweeps.config.cells import Cell
from lt_sweeps.config.errors import CONF, options
from lt_sweeps.config.sweep_spec import SweepSpec
from lt_sweeps.execution import local_launcher, search_trial

Multirun = Callable[..., list[Cell]]
DEFAULT = ["large_final", "magnitude_increase", "random"]


@pytest.fixture
def multirun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Multirun:
    """Run the command line up to the launcher; return the cells that the launcher received."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> list[Cell]:
        cells: list[Cell] = []
        monkeypatch.setattr(local_launcher, "launch", lambda given, **_: cells.extend(given) or 0)
        monkeypatch.setattr(search_trial, "objective_of", lambda *_, **__: 0.5)  # nothing has run
        assert main(words) == 0
        return cells

    return run


@pytest.fixture
def conf(tmp_path: Path) -> Callable[..., str]:
    """Write a user's own folder of options; return the flag that adds the folder."""

    def write(**options: str) -> str:
        for path, text in options.items():
            file = tmp_path / "own" / f"{path.replace('__', '/')}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return f"--config-dir={tmp_path / 'own'}"

    return write


@pytest.fixture
def composes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The overrides of every `compose` that Hydra is asked for."""
    asked: list[list[str]] = []
    load = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, config_name: str, overrides: list[str], *args, **kwargs):
        asked.append(overrides)
        return load(self, config_name, overrides, *args, **kwargs)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    return asked


def composed_by_hydra(words: tuple[str, ...], folder: Path = CONF) -> object:
    old = hydra.__version__.startswith("1.3")
    with hydra.initialize_config_dir(str(folder), **({"version_base": "1.3"} if old else {})):
        return OmegaConf.to_container(hydra.compose("config", list(words)), resolve=True)


def values(cells: list[Cell], key: str) -> list[object]:
    return [cell.choices.get(key, cell.config.get(key)) for cell in cells]


def test_the_default_sweep_is_five_seeds_of_three_criteria(multirun: Multirun) -> None:
    cells = multirun()
    given = list(zip(values(cells, "seed"), values(cells, "mask_criterion"), strict=True))
    assert given == list(product(range(5), DEFAULT))


@pytest.mark.parametrize(
    "words",
    [
        ("mask_criterion=large_final,random", "seed=3", "schedule.levels=2,5"),
        ("mask_criterion=random", "reset=rewind,keep", "freeze=zero,init", "seed=1"),
        ("mask_criterion=random", "seed=1", "model.net.hidden=[10],[20,20]", "seeds.init=1,2"),
        ("mask_criterion=random", "seed=1,2", "name=s-${seed}-${recipe.lr}", "recipe.lr=2.5"),
        ("mask_criterion=random", "seed=1", "name=b,'${recipe.lr}'"),
        ("mask_criterion=random", "seed=1", "++recipe.lr=null,'a b'", "+new=x,3"),
        ("mask_criterion=random", "seed=0", "seeds={init:1},{init:2}", "seeds.init=4,5"),
        ("method.lmbda=1,2", "seed=0", "method=l0"),
        ("method=gmp,rigl", "seed=0", "method.every=40it,50it"),
    ],
    ids=["plain", "groups", "lists", "references", "reference", "plus", "inside", "keys", "each"],
)
def test_every_cell_is_what_hydra_composes_for_its_words(
    multirun: Multirun, words: tuple[str, ...]
) -> None:
    cells = multirun(*words)
    assert len(cells) == len({cell.overrides for cell in cells}) > 1
    for cell in cells:
        assert {**cell.config, "report": cell.report} == composed_by_hydra(cell.overrides)


def test_options_that_change_the_same_key_are_composed_together(
    multirun: Multirun, conf: Callable[..., str]
) -> None:
    text = "# @package _global_\nshared: {}\n"
    freeze = "freeze: {_target_: lt_sweeps.sparsity.freezes.zero}\n"
    reset = "reset: {_target_: lt_sweeps.sparsity.resets.keep}\n"
    own = conf(freeze__one=text.format("one") + freeze, reset__two=text.format("two") + reset)
    cells = multirun(own, "freeze=zero,one", "reset=keep,two", "seed=1", "mask_criterion=random")
    # freeze follows reset in the defaults list, so it has the last word
    assert values(cells, "shared") == [None, "two", "one", "one"]


def test_a_thousand_cells_of_nine_criteria_are_nine_composes(
    multirun: Multirun, composes: list[list[str]]
) -> None:
    criteria = sorted(options("mask_criterion"))[:9]
    words = [f"mask_criterion={','.join(criteria)}", "seed=range(5)", "schedule.levels=range(1,25)"]
    assert len(multirun(*words)) == 9 * 5 * 24
    own = 2  # before our sweeper starts: one for hydra.mode, one for the sweeper itself
    assert len(composes) <= 9 + own


def test_values_inside_a_chosen_option_share_its_compose(
    multirun: Multirun, composes: list[list[str]]
) -> None:
    """A compose for each value was most of the time of planning one_shot, with 49 in all."""
    cells = multirun("seed=0", "method=l0", "method.lmbda=range(20)")
    assert {cell.config["method"]["lmbda"] for cell in cells} == {*range(20)}
    assert len(composes) <= len(DEFAULT) + 2


def test_a_pattern_of_options_leaves_out_what_is_none(multirun: Multirun) -> None:
    cells = multirun("recipe=glob(*)", "mask_criterion=glob(sn*)", "method=at_init", "seed=0")
    assert {str(cell.choices["recipe"]) for cell in cells} == options("recipe")


def test_options_of_different_groups_are_composed_one_group_at_a_time(
    multirun: Multirun, composes: list[list[str]]
) -> None:
    criteria = "mask_criterion=large_final,random,movement"
    assert len(multirun(criteria, "reset=keep,rewind", "freeze=zero,init")) == 5 * 3 * 2 * 2
    assert len(composes) <= 1 + 2 + 1 + 1 + 2


def test_an_override_replaces_the_sweep_of_the_config(multirun: Multirun) -> None:
    assert values(multirun("seed=7"), "seed") == [7, 7, 7]
    assert values(multirun("++seed=7", "mask_criterion=random"), "seed") == [7]


def test_the_flag_m_makes_no_difference(multirun: Multirun) -> None:
    words = ("seed=1,2", "mask_criterion=random")
    assert multirun("-m", *words) == multirun(*words) == multirun(*words, "--multirun")


def test_choices_name_the_option_of_every_group(multirun: Multirun) -> None:
    (cell,) = multirun("seed=0", "mask_criterion=movement", "method=one_shot")
    assert cell.choices["mask_criterion"] == "movement"
    assert cell.choices["method"] == "one_shot"
    assert cell.choices["tracker"] == "none"
    assert "experiment" not in cell.choices
    assert not any(group.startswith("hydra") for group in cell.choices)


def test_a_config_holds_nothing_of_hydra(multirun: Multirun) -> None:
    (cell,) = multirun("seed=0", "mask_criterion=random")
    assert "hydra" not in cell.config
    assert type(cell.config["model"]) is dict


def test_plan_is_the_same_cells_with_dry_run(multirun: Multirun) -> None:
    (plan,) = multirun("plan", "seed=0", "mask_criterion=random")
    (cell,) = multirun("seed=0", "mask_criterion=random")
    assert plan.config == {**cell.config, "dry_run": True}


EXPERIMENT = """# @package _global_
defaults: [{override /method: one_shot}]
hydra: {sweeper: {params: {seed: "range(2)", mask_criterion: movement}}}
"""


@pytest.mark.parametrize("word", ["experiment=paper/table", "+experiment=paper/table"])
def test_an_experiment_brings_its_sweep(
    multirun: Multirun, conf: Callable[..., str], word: str
) -> None:
    cells = multirun(conf(experiment__paper__table=EXPERIMENT), word)
    assert values(cells, "seed") == [0, 1]
    assert values(cells, "mask_criterion") == ["movement"] * 2
    assert values(cells, "method") == ["one_shot"] * 2
    assert values(cells, "experiment") == ["paper/table"] * 2


def test_an_override_wins_over_an_experiment(multirun: Multirun, conf: Callable[..., str]) -> None:
    cells = multirun(conf(experiment__x=EXPERIMENT), "experiment=x", "seed=9", "method=imp")
    assert (values(cells, "seed"), values(cells, "method")) == ([9], ["imp"])


def test_an_experiment_can_drop_a_default_sweep(
    multirun: Multirun, conf: Callable[..., str]
) -> None:
    text = "# @package _global_\nhydra: {sweeper: {params: {seed: null, mask_criterion: null}}}\n"
    (cell,) = multirun(conf(experiment__x=text), "experiment=x")
    assert (cell.config["seed"], cell.choices["mask_criterion"]) == (0, "large_final")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("report: 3", "report: got 3; give keys of conf/report/_keys.yaml"),
        ("report: {published: 3}", "report.published: got 3; give a list of: any value"),
        ("task: 3", "task: got 3; give loss, metrics, metric, output"),
        ("tracker: 3", "tracker: got 3; give a `_target_` and its keys"),
        ("model: {init: 3}", "model.init: got 3; give a `_target_` and its arguments"),
    ],
)
def test_a_number_in_the_place_of_a_mapping_is_one_line(
    text: str, said: str, conf: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    own = conf(experiment__mine=f"# @package _global_\n{text}\n")
    assert main(["plan", own, "experiment=mine", "seed=0", "mask_criterion=random"]) == 1
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"params": 3}, "params: got 3"),
        ({"variants": {"a": 3}}, "variants.a: got 3"),
        ({"defaults_for": {"model": None}}, "defaults_for.model: got None"),
        ({"defaults_for": {"model": {"fc": 3}}}, "defaults_for.model.fc: got 3"),
    ],
)
def test_params_variants_and_defaults_for_must_be_mappings(
    spec: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=f"^hydra.sweeper.{said}; give a mapping$"):
        SweepSpec.of(OmegaConf.create({"hydra": {"sweeper": spec}}))


def test_a_key_of_an_options_own_group_is_set_for_that_option_alone(
    multirun: Multirun, conf: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The fully connected net has no blocks, and keeps its own hidden layers."""
    keys = 'dataset: synthetic, model.net.blocks: "[[8]]", model.net.hidden: "[32]"'
    text = f"hydra: {{sweeper: {{defaults_for: {{model: {{conv2: {{{keys}}}}}}}}}}}"
    own = conf(experiment__mine=f"# @package _global_\n{text}\n")
    words = ("experiment=mine", "seed=0", "mask_criterion=random", "model=fc,conv2")
    assert main(["plan", own, *words]) == 1
    assert "experiment mine defines no dataset for model=fc: give dataset=;" in (
        capsys.readouterr().err
    )
    own = conf(experiment__mine=f"# @package _global_\n{text.replace('dataset: synthetic, ', '')}")
    fc, conv = (cell.config["model"]["net"] for cell in multirun(own, *words))
    assert fc["hidden"] == [300, 100] and "blocks" not in fc
    assert (conv["blocks"], conv["hidden"]) == ([[8]], [32])


def test_a_key_that_the_sweeper_does_not_take_is_refused(
    conf: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = "hydra: {sweeper: {variant: {a: {reset: keep}, b: {reset: rewind}}}}"
    own = conf(experiment__mine=f"# @package _global_\n{text}\n")
    assert main(["plan", own, "experiment=mine"]) == 1
    said = "variant; did you mean `variants`? keys: defaults_for, params, variants"
    assert capsys.readouterr().err == f"error: hydra.sweeper: {said}\n"


def test_several_experiments_each_bring_their_own_sweep(
    multirun: Multirun, conf: Callable[..., str]
) -> None:
    other = EXPERIMENT.replace("range(2)", "5").replace("one_shot", "dense")
    own = conf(experiment__x=EXPERIMENT, experiment__y=other)
    cells = multirun(own, "experiment=x,y")
    assert values(cells, "experiment") == ["x", "x", "y"]
    assert values(cells, "method") == ["one_shot", "one_shot", "dense"]
    assert values(cells, "seed") == [0, 1, 5]


def test_a_folder_joins_by_the_search_path_too(
    multirun: Multirun, conf: Callable[..., str], tmp_path: Path
) -> None:
    conf(experiment__x=EXPERIMENT)
    assert len(multirun(f"hydra.searchpath=[file://{tmp_path / 'own'}]", "experiment=x")) == 2


def test_a_single_run_is_one_cell(multirun: Multirun) -> None:
    (cell,) = multirun("hydra.mode=RUN", "seed=3")
    assert (cell.config["seed"], cell.choices["mask_criterion"]) == (3, "large_final")


def test_hydras_own_sweeper_gives_the_same_cells(multirun: Multirun) -> None:
    words = ("seed=1,2", "mask_criterion=random")
    basic = multirun("hydra/sweeper=basic", *words)
    ours = multirun(*words)
    asked = [{**c.config, "search": None} for c in basic]  # its jobs join one sweep
    assert asked == [c.config for c in ours]
    assert [c.choices for c in basic] == [c.choices for c in ours]
    (search,) = set(values(basic, "search"))
    assert str(search).startswith("default-basic-")


def test_a_foreign_launcher_runs_every_cell_by_itself(multirun: Multirun) -> None:
    cells = multirun("hydra/launcher=basic", "seed=1,2", "mask_criterion=random")
    assert values(cells, "seed") == [1, 2]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{1: 0.5}", ".t: the key 1 is not a string, and the sweep's jobs would read it as one; "),
        ("[{true: 0}]", ".t.0: the key True is not a string, and the sweep's jobs would read it"),
        ("{a: .inf}", ".t.a: got inf; give a finite number"),
    ],
)
def test_a_value_that_a_job_would_read_as_another_is_refused(
    value: str, said: str, conf: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys of JSON objects are strings, so a job would find '1' in the manifest instead of 1."""
    own = conf(schedule__mine=f"_target_: lt_sweeps.sparsity.schedules.geometric\nt: {value}\n")
    assert main(["plan", own, "schedule=mine", "seed=0", "mask_criterion=random"]) == 1
    assert capsys.readouterr().err.startswith(f"error: schedule{said}")


def test_hydra_leaves_no_folders(multirun: Multirun, tmp_path: Path) -> None:
    multirun("mask_criterion=random")
    multirun("hydra.mode=RUN", "seed=3")
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_set_only_in_the_options_that_take_it(multirun: Multirun) -> None:
    words = ("mask_criterion=random", "seed=1", "schedule=one_shot", "schedule.sparsity=0.5")
    cells = multirun("method=gmp,imp,rigl", "method.every=50it", "recipe.lr=0.1,0.2", *words)
    every = [cell.config["method"].get("every") for cell in cells]
    assert every == ["50it", "50it", None, None, "50it", "50it"]
    assert [cell.untaken for cell in cells[:3:2]] == [("mask_criterion",), ("method.every",)]
    assert [cell.config["recipe"]["lr"] for cell in cells] == [0.1, 0.2] * 3


def test_an_argument_that_a_yaml_does_not_list_is_hinted_at(
    command_line: CommandLine, conf: Callable[..., str]
) -> None:
    own = conf(mask_criterion__mine="_target_: lt_sweeps.sparsity.criteria.large_final")
    _, _, said = command_line(own, "mask_criterion=mine", "mask_criterion.final=best")
    assert "mine takes no final; it takes granularity; hint: `lt_sweeps." in said
    assert "has `final`, so list it in mask_criterion/mine.yaml" in said


def test_values_of_a_key_are_tried_only_for_those_options_that_take_it(multirun: Multirun) -> None:
    words = ("mask_criterion=snip,random", "method=at_init", "seed=1")
    cells = multirun(*words, "mask_criterion.examples=32,64")
    taken = [
        (c.choices["mask_criterion"], c.config["mask_criterion"].get("examples")) for c in cells
    ]
    assert taken == [("snip", 32), ("snip", 64), ("random", None)]


def test_a_key_of_one_method_of_an_experiment_is_laid_over_that_method(
    multirun: Multirun, conf: Callable[..., str]
) -> None:
    text = """
        # @package _global_
        hydra: {sweeper: {params: {seed: 0, mask_criterion: random},
          variants: {a: {method: imp}, b: {method: magnitude}}}}
    """
    own = conf(experiment__mine="\n".join(map(str.strip, text.splitlines()[1:])))
    cells = multirun(own, "experiment=mine", "method.finetune=null")
    given = [(cell.choices["method"], cell.config["method"].get("finetune", "-")) for cell in cells]
    assert given == [("imp", "-"), ("magnitude", None)]


def test_a_search_may_try_a_method_with_a_criterion_that_it_does_not_take(
    multirun: Multirun,
) -> None:
    words = ("hydra/sweeper=basic", "seed=1", "mask_criterion=random")
    (cell,) = multirun(*words, "method=gmp")
    assert cell.untaken == ("mask_criterion",)
