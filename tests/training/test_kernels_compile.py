"""Our kernels compile for GPUs. This needs no GPU, because Triton brings the assembler."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from lt_sweeps.training.own_kernels import ROUNDING

COUNT = "i32"
CHAIN, UPDATE = "lt_sweeps.training.backends.chain_kernels", "lt_sweeps.training.kept_update"


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], capability: int) -> Any:
    compiler = pytest.importorskip("triton.compiler")
    target = pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    try:
        source = compiler.ASTSource(fn=kernel, signature=signature, constexprs=values)
    except TypeError:
        pytest.skip("this Triton is called otherwise")
    options = {**ROUNDING}
    return importlib.import_module("triton").compile(source, target=target, options=options)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("products", ["*fp32", "*bf16"])
def test_the_recorded_kernels_of_a_chain(products: str, capability: int) -> None:
    pytest.importorskip("triton")
    kernels = importlib.import_module(CHAIN)
    types = dict.fromkeys(("x", "logits", "ahead"), products)
    types |= dict.fromkeys(("bias", "grad", "losses"), "*fp32") | {"labels": "*i64"}
    types |= dict.fromkeys(("stride", "grad_stride", "count", "width", "batch", "classes"), COUNT)
    sizes = {"rows": 64, "columns": 16}
    for biased in (True, False):
        for kernel, constants in (
            (kernels._add_relu, {"block": 1024}),
            (kernels._relu_backward, sizes),
            (kernels._cross_entropy, sizes),
        ):
            constants = {**constants, "biased": biased}
            assert compiled(kernel, types, constants, capability).asm["cubin"]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("skips", [True, False])
def test_the_recorded_kernels_of_an_update(skips: bool, capability: int) -> None:
    pytest.importorskip("triton")
    update = importlib.import_module(UPDATE)
    types = dict.fromkeys(("weights", "grads", "first", "second", "steps", "rate"), "*fp32")
    types |= {"mask": "*u8", "size": COUNT}
    adam = {"beta1": 0.9, "beta2": 0.999, "log_beta1": -0.1, "log_beta2": -1e-3, "eps": 1e-8}
    for name, own in (
        ("adam", {**adam, "decoupled": False}),
        ("adam", {**adam, "decoupled": True}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("sgd", {"momentum": 0.0, "nesterov": False}),
    ):
        constants = {**own, "decay": 1e-4, "skips": skips, "block": 512}
        assert compiled(update._KERNELS[name, skips], types, constants, capability).asm["cubin"]


@pytest.mark.parametrize("module", [CHAIN, UPDATE])
def test_each_launch_says_how_its_kernel_rounds(module: str) -> None:
    """Triton's default depends on its version and on the environment."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    code = ast.parse(Path(spec.origin).read_text("utf-8"))
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call)]
    launches = [c for c in calls if ast.unparse(c.func).startswith("kernel[")]
    assert launches
    for launch in launches:
        assert "**ROUNDING" in ast.unparse(launch)
