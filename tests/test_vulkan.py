"""``--device vulkan``: which GPUs are taken, what is refused, and, where a driver is installed, the same pictures."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from shell import run_python

from cgpipe.engine.network import Network
from cgpipe.engine.translator import choose_device
from cgpipe.errors import CgpipeWarning, MissingDependencyError, UsageError
from cgpipe.networks import build_generator


def pretend(monkeypatch: pytest.MonkeyPatch, *kinds: int) -> None:
    """A stand-in for ncnn that sees GPUs of these types."""
    infos = [SimpleNamespace(type=lambda kind=kind: kind, device_name=lambda: "a name") for kind in kinds]
    ncnn = SimpleNamespace(
        get_gpu_count=lambda: len(infos),
        get_default_gpu_index=lambda: len(infos) - 1,
        get_gpu_info=lambda number: infos[number],
    )
    monkeypatch.setitem(sys.modules, "ncnn", ncnn)


def test_a_gpu_is_taken_by_its_number_or_as_ncnn_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1, 0)
    assert [str(choose_device(name)) for name in ("vulkan:0", "vulkan")] == ["vulkan:0", "vulkan:1"]
    with pytest.raises(UsageError, match=r"'vulkan:2' does not exist: Vulkan finds 2 .*--device cpu"):
        choose_device("vulkan:2")


def test_without_a_driver_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    with pytest.raises(UsageError, match=r"Vulkan finds 0 .* install a Vulkan driver"):
        choose_device("vulkan")


def test_a_driver_without_a_gpu_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 3)
    with pytest.warns(CgpipeWarning, match=r"\(a name\): --device cpu is faster"):
        choose_device("vulkan")


def test_without_ncnn_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(MissingDependencyError, match=r"cgpipe\[ncnn\]"):
        choose_device("vulkan")


@pytest.mark.parametrize(
    ("runtime", "options", "message"),
    [
        ("", {"engine": "eager"}, "by ncnn: use --engine auto, not eager"),
        ("", {"precision": "fp16"}, "in fp32: use --precision auto, not fp16"),
        ("ONNX Runtime", {}, "use --device cpu, not vulkan"),
    ],
)
def test_what_vulkan_cannot_do_is_refused(
    runtime: str, options: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, 0)
    generator = build_generator("compact", channels=4, blocks=0)
    generator.runtime = runtime
    with pytest.raises(UsageError, match=message):
        Network(generator, torch.device("vulkan:0"), **options)  # type: ignore[arg-type]


REAL = """
import warnings
import torch
from cgpipe.engine.network import Network
from cgpipe.engine.vulkan import find_gpu
from cgpipe.errors import UsageError
from cgpipe.networks import build_generator
warnings.simplefilter("ignore")
try:
    find_gpu(torch.device("vulkan"))
except UsageError:
    raise SystemExit(7)
torch.manual_seed(0)
generator = build_generator("compact", channels=8, blocks=1, deep_channels=8, deep_blocks=1)
x = torch.rand(1, 3, 64, 48) * 2 - 1
on_cpu = Network(generator, torch.device("cpu"), precision="fp32")(x)
on_gpu = Network(generator, torch.device("vulkan:0"))(x)
torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=0)
"""


@pytest.mark.slow
def test_vulkan_makes_the_same_pictures() -> None:
    pytest.importorskip("ncnn", reason="the extra ncnn is not installed")
    done = run_python(REAL)  # in a process of its own: drivers start threads
    if done.returncode == 7:
        pytest.skip("no Vulkan driver is installed")
    assert (done.returncode, done.stderr) == (0, "")
