"""Each layer has its own density: by ERK, uniform, or as given."""

import json
import sys
from pathlib import Path

import pytest

from lt_sweeps.models.network import Network
from lt_sweeps.models.prunable import Layer
from lt_sweeps.sparsity.densities import erk, given, uniform

LAYERS = (
    Layer("a", (4, 10), "hidden"),
    Layer("b", (10, 10), "hidden"),
    Layer("c", (10, 6), "output"),
)


def resnet20() -> tuple[Layer, ...]:
    model = {
        "net": {"_target_": "lt_sweeps.models.ResNet", "depth": 20, "width": 16},
        "prunable": {"exclude": ["*.shortcut.weight", "output.weight"]},
    }
    return Network.of(model, (3, 32, 32), 10).layers


@pytest.mark.parametrize(
    ("sparsity", "golden"),
    [
        (0.8, [1.0, 0.624, 0.4433, 0.2873, 0.2094, 0.1375]),
        (0.9, [1.0, 0.3095, 0.2199, 0.1425, 0.1039, 0.0682]),
        (0.95, [0.5425, 0.1546, 0.1099, 0.0712, 0.0519, 0.0341]),
    ],
)
def test_erk_has_its_golden_densities_on_resnet_20(sparsity: float, golden: list[float]) -> None:
    """The stem, then layers with 16 to 16 channels, 16 to 32, 32 to 32, 32 to 64, 64 to 64."""
    layers, (target,) = resnet20(), erk(resnet20(), sparsity=sparsity)
    for at, density in zip((0, 1, 7, 8, 13, 14), golden, strict=True):
        assert target.keep[at] == pytest.approx(density * layers[at].size, abs=0.5 + 2)
    total = sum(layer.size for layer in layers)
    assert total == 267_696
    assert sum(target.keep) / total == pytest.approx(1 - sparsity, abs=6e-5)
    if sparsity == 0.9:
        assert sum(target.keep) / total == pytest.approx(0.10004, abs=1e-5)


def test_uniform_leaves_the_first_layer_whole_unless_told_otherwise() -> None:
    (target,) = uniform(LAYERS, sparsity=0.9)
    assert target.keep == (40, 10, 6)
    assert target.sparsity == pytest.approx(1 - 56 / 200)  # of the network, as everywhere
    (target,) = uniform(LAYERS, sparsity=0.9, dense_first=False)
    assert target.keep == (4, 10, 6) and target.sparsity == pytest.approx(0.9)


def test_given_densities_come_by_name_in_order_or_from_a_file(tmp_path: Path) -> None:
    expected = (40, 30, 6)
    by_name = {"c": 0.1, "a": 1, "b": 0.3}
    (tmp_path / "densities.json").write_text(json.dumps(by_name))
    (tmp_path / "densities.yaml").write_text("{c: 1e-1, a: 1, b: 3e-1}")
    for (target,) in (
        given(LAYERS, densities=by_name),
        given(LAYERS, densities=[1, 0.3, 0.1]),
        given(LAYERS, file=str(tmp_path / "densities.json")),
        given(LAYERS, file=str(tmp_path / "densities.yaml")),
    ):
        assert target.keep == expected and target.scope == "layer"
        assert target.sparsity == pytest.approx(1 - 76 / 200)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "give either densities or a file"),
        ({"densities": [0.1, 0.2]}, "2 numbers for 3 layers, a, b, c"),
        ({"densities": {"a": 0.5, "b": 0.5}}, "no density for c; give one for every layer"),
        ({"densities": {"a": 1, "b": 1, "c": 1, "d": 1}}, "no layer `d`"),
        ({"densities": [51.2, 0.4, 0.2]}, "51.2 for a lies outside .0, 1.; did you mean 0.512"),
        ({"densities": [0, 0.4, 0.2]}, "0 for a lies outside .0, 1.$"),
        ({"densities": {0: 0.5}}, "no layer `0`; layers are"),
        ({"file": __file__}, "schedule.file: .*test_densities.py cannot be read: "),
        ({"file": sys.executable}, f"schedule.file: {sys.executable} cannot be read: "),
        ({"densities": [0.001, 0.4, 0.2]}, "leaves nothing of a"),
        ({"densities": [1, 1, 1]}, "sparsity must rise"),
        ({"file": "nowhere.yaml"}, "schedule.file: nowhere.yaml cannot be read"),
    ],
)
def test_a_wrong_density_is_refused(how: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given(LAYERS, **how)


def test_a_sparsity_that_empties_a_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves nothing of b"):
        uniform(LAYERS, sparsity=0.999)
