"""Every back end gives what eager gives, and says what it lacks."""

from __future__ import annotations

import importlib
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shell import run_python

from cgpipe.engine import backends, network
from cgpipe.engine.backends import ENGINES, auto_engine, check_engine, prepare
from cgpipe.engine.compiling import compiled_or_eager, has_compiler
from cgpipe.engine.rewrites import rewrite
from cgpipe.engine.to_ncnn import to_ncnn
from cgpipe.engine.translator import Translator
from cgpipe.errors import CgpipeWarning, MissingDependencyError, UsageError
from cgpipe.models import load_any
from cgpipe.models.zoo import SHIPPED_FOLDER
from cgpipe.networks import Generator, build_generator

CPU = torch.device("cpu")
NEEDS = {"onnx": ("onnxruntime", "onnxscript"), "openvino": ("openvino",), "ncnn": ("ncnn",)}
NETWORKS: dict[str, dict[str, Any]] = {
    "compact": {"channels": 16, "blocks": 2, "deep_channels": 16, "deep_blocks": 1, "attention": True},
    "compact-xs": {"channels": 16, "blocks": 1, "deep_channels": 16, "deep_blocks": 1, "signed_skip": True},
    "resnet_6blocks": {"ngf": 4},
    "unet_128": {"ngf": 4},
}


def generator_of(name: str = "compact") -> Generator:
    torch.manual_seed(0)
    return rewrite(build_generator(name, **NETWORKS[name]).eval().requires_grad_(False), CPU)


def picture(generator: Generator, rows: int, columns: int, count: int = 1) -> torch.Tensor:
    step = generator.multiple
    x = torch.rand((count, 3, rows * step, columns * step), generator=torch.Generator().manual_seed(1)) * 2 - 1
    return x.contiguous(memory_format=torch.channels_last)


def skip_without(engine: str) -> None:
    for package in NEEDS.get(engine, ()):
        pytest.importorskip(package, reason=f"the extra {engine} is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "name"),
    [*product(["torchscript", "openvino", "ncnn"], NETWORKS), ("onnx", "compact"), ("onnx", "unet_128")],
)
def test_engines_agree_at_every_size(engine: Any, name: str) -> None:
    skip_without(engine)
    generator = generator_of(name)
    with torch.inference_mode():
        run = prepare(generator, engine)
        for x in (picture(generator, 2, 3), picture(generator, 3, 2, count=2)):
            torch.testing.assert_close(run(x), generator(x), atol=1e-3, rtol=0)


@pytest.mark.parametrize("engine", ["torchscript", "openvino"])
def test_engines_agree_in_bf16(engine: Any) -> None:
    skip_without(engine)
    generator = generator_of()
    x = picture(generator, 3, 3)
    with torch.inference_mode():
        expected = generator(x)
        result = prepare(generator.to(torch.bfloat16), engine)(x.to(torch.bfloat16))
    assert (result.float() - expected).abs().mean() < 0.02


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what was compiled, with the headers that take longest; in a user's cache folder of its own."""
    return tmp_path_factory.mktemp("cache") / "cgpipe" / "compiled"


@pytest.mark.slow
def test_compiling_agrees_and_is_kept_between_runs(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_compiler():
        pytest.skip("needs a C++ compiler")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr("cgpipe.engine.compiling.user_cache_path", lambda name: kept.parent.parent / name)
    generator = build_generator("compact-flat", channels=16, blocks=0).eval().requires_grad_(False)
    x = picture(generator, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(prepare(generator, "compile")(x), generator(x), atol=1e-4, rtol=0)
    assert any(path.is_file() for path in kept.rglob("*"))


COMPILED_SUM = """
import warnings, torch
from cgpipe.engine.compiling import compiled_or_eager
warnings.simplefilter("error")
double = torch.compile(lambda x: 2 * x)
torch.manual_seed(1)
result = compiled_or_eager(lambda: double(torch.rand(1000)))
torch.manual_seed(1)
torch.testing.assert_close(result, 2 * torch.rand(1000))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder is set as on Linux")
def test_what_a_killed_process_left_half_written_is_compiled_anew(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_compiler():
        pytest.skip("needs a C++ compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept.parent.parent))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(kept))
    torch.compile(lambda x: 2 * x)(torch.rand(1000))
    libraries = [path for path in kept.rglob("*.so") if path.stat().st_size]
    assert libraries
    for path in libraries:
        path.unlink()  # this process still runs what was in it
        path.write_bytes(b"")
    assert run_python(COMPILED_SUM).returncode == 0
    assert list(kept.parent.iterdir()) == [kept]
    assert all(path.stat().st_size for path in kept.rglob("*.so"))


@pytest.mark.slow
def test_where_compiling_fails_all_goes_on_eagerly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "of another project").touch()
    double = torch.compile(lambda x: 2 * x)
    try:
        with (
            config.patch({"cpp.cxx": ("false",)}),
            pytest.warns(CgpipeWarning, match="Compiling failed .*: continuing without"),
        ):
            result = compiled_or_eager(lambda: double(torch.ones(1000)))
    finally:
        torch.compiler.set_stance("default")
    assert torch.equal(result, torch.full((1000,), 2.0))
    assert (tmp_path / "compiled" / "of another project").exists()


def test_without_a_compiler_it_says_so_and_goes_on_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    generator = generator_of()
    with pytest.warns(UserWarning, match=r"needs a C\+\+ compiler"):
        assert prepare(generator, "compile") is generator


@pytest.mark.parametrize("engine", NEEDS)
def test_a_missing_extra_is_an_error_that_says_what_to_install(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("cgpipe.engine.export.import_module", missing)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'cgpipe\[{engine}\]'"):
        check_engine(engine, CPU)


@pytest.mark.parametrize("engine", NEEDS)
def test_what_runs_on_a_cpu_alone_is_refused_on_a_gpu(engine: Any) -> None:
    skip_without(engine)
    with pytest.raises(UsageError, match="only on a CPU"):
        check_engine(engine, torch.device("cuda"))


@pytest.mark.parametrize("engine", ["onnx", "ncnn"])
def test_what_runs_in_fp32_alone_refuses_bf16(engine: Any) -> None:
    skip_without(engine)
    with pytest.raises(UsageError, match="fp32"):
        prepare(generator_of().to(torch.bfloat16), engine)


class Other(Generator):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.erf(x)


class Doubling(Generator):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Branching(Generator):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.mean() > 0 else -x


@pytest.mark.parametrize("kind", [Other, Doubling, Branching])
def test_a_network_that_ncnn_does_not_run_is_an_error_that_says_so(kind: Any) -> None:
    with pytest.raises(UsageError, match="another engine"):
        to_ncnn(kind())


def test_ncnns_text_names_every_blob_once_and_reads_it_once() -> None:
    text, weights = to_ncnn(generator_of())
    magic, counts, *layers = text.splitlines()
    made: list[str] = []
    used: list[str] = []
    for line in layers:
        _, _, inputs, outputs, *rest = line.split()
        used += rest[: int(inputs)]
        made += rest[int(inputs) : int(inputs) + int(outputs)]
    assert (magic, counts) == ("7767517", f"{len(layers)} {len(made)}")
    assert len({*made}) == len(made)
    assert sorted(used) == sorted(blob for blob in made if blob != "translated")
    assert len(weights) >= 4 * sum(parameter.numel() for parameter in generator_of().parameters())


def test_auto_is_ncnn_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CGPIPE_ENGINE")
    monkeypatch.setattr(backends, "find_spec", lambda name: object())
    monkeypatch.setattr(backends, "cpu_multiplies_bf16", lambda: False)
    compact, other = generator_of(), generator_of("resnet_6blocks")
    assert auto_engine(compact, "fp32") == "ncnn"
    assert (auto_engine(compact, "bf16"), auto_engine(other, "fp32")) == ("eager", "eager")
    monkeypatch.setenv("CGPIPE_ENGINE", "eager")
    assert auto_engine(compact, "fp32") == "eager"
    monkeypatch.delenv("CGPIPE_ENGINE")
    monkeypatch.setattr(backends, "cpu_multiplies_bf16", lambda: True)
    assert auto_engine(compact, "fp32") == "eager"
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert auto_engine(compact, "fp32") == "eager"


def test_auto_translates_by_ncnn_what_eager_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ncnn", reason="the extra ncnn is not installed")
    model = load_any(SHIPPED_FOLDER / "horse2zebra-fast.safetensors")
    pixels = np.random.default_rng(0).integers(0, 255, (96, 80, 3), np.uint8)
    exact = Translator(model, device="cpu", precision="fp32", engine="eager")(pixels)
    monkeypatch.delenv("CGPIPE_ENGINE")
    monkeypatch.setattr(backends, "cpu_multiplies_bf16", lambda: False)
    automatic = Translator(model, device="cpu", precision="fp32")
    close = np.abs(automatic(pixels).astype(int) - exact) <= 1
    assert (automatic.describe()["engine"], close.all()) == ("ncnn", True)


def test_large_pictures_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(network, "auto_engine", lambda generator, precision: "ncnn")
    monkeypatch.setattr(network, "prepare", lambda generator, engine, gpu: made.append(engine) or generator)
    monkeypatch.setattr(network, "MOST_PIXELS", 16 * 16)
    run = network.Network(generator_of(), CPU, precision="fp32")
    for side in (16, 32, 16):
        assert run(torch.zeros(1, 3, side, side)).shape == (1, 3, side, side)
    assert (made, run.engine) == (["ncnn", "eager"], "ncnn")


def test_every_engine_is_known() -> None:
    assert list(ENGINES) == ["eager", "compile", "torchscript", "onnx", "openvino", "ncnn"]
    assert importlib.import_module("cgpipe.cli.options").engine_of(None, False, False) == "auto"
