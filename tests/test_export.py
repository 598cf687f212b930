"""Exported networks compute what the network computes, and appear whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from shell import invoke

from cgpipe.engine import export, quantise
from cgpipe.engine.export import SUFFIXES, Normalised, export_model
from cgpipe.engine.translator import Translator
from cgpipe.errors import CgpipeError, MissingDependencyError, UsageError
from cgpipe.models import find_model, load_model

MakeModel = Callable[..., Any]


@pytest.mark.parametrize(
    ("format", "with_normalisation"),
    # The network alone as ONNX is written by the test of int8 and by test_backends.py.
    [
        pytest.param(format, normalised, marks=pytest.mark.slow if format == "onnx" else ())
        for format, normalised in [*product(SUFFIXES, [True]), ("torchscript", False), ("openvino", False)]
    ],
)
def test_every_format_is_checked_and_written(
    format: Any, with_normalisation: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    for package in {"onnx": ("onnxruntime", "onnxscript"), "openvino": ("openvino",)}.get(format, ()):
        pytest.importorskip(package, reason=f"the extra {format} is not installed")
    path = tmp_path / f"net{SUFFIXES[format]}"
    model = make_model()
    done = export_model(model, path, format, with_normalisation=with_normalisation)
    assert done.error <= 1.01 / 255
    network = Normalised(model.generator) if with_normalisation else model.generator
    pictures = export._example(network, count=3, rows=5, columns=7)  # as many and as large as none was before
    difference = export._LOADERS[format](path)(pictures).float() - network(pictures).float()
    assert difference.abs().max() <= (1.01 if with_normalisation else 0.01)
    expected = {path.name, "net.bin"} if format == "openvino" else {path.name}
    assert {file.name for file in tmp_path.iterdir()} == expected


def test_a_torchscript_file_takes_pixels(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model()
    export_model(model, tmp_path / "net.pt", "torchscript", with_normalisation=True)
    pixels = torch.randint(0, 256, (2, 24, 36, 3), dtype=torch.uint8)
    result = export._load_torchscript(tmp_path / "net.pt")(pixels)
    assert result.dtype == torch.uint8
    difference = result.int() - Normalised(model.generator)(pixels).int()
    assert difference.abs().max() <= 1


def test_what_computes_something_else_is_not_written(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_LOADERS", {"torchscript": lambda path: lambda x: -x})
    with pytest.raises(CgpipeError, match="was not written"):
        export_model(make_model(), tmp_path / "net.pt", "torchscript")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end in \.xml"):
        export_model(make_model(), tmp_path / "net.bin", "openvino")


def test_what_is_right_at_one_size_alone_is_not_written(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path) -> export.Run:
        run = export._load_torchscript(path)
        return lambda x: run(x) if 4 * x.shape[2] == 3 * x.shape[3] else -run(x)

    monkeypatch.setattr(export, "_LOADERS", {"torchscript": load})
    with pytest.raises(CgpipeError, match="was not written"):
        export_model(make_model(), tmp_path / "net.pt", "torchscript")


@pytest.mark.parametrize(("format", "there"), [("torchscript", "net.pt"), ("openvino", "net.bin")])
def test_an_existing_file_is_replaced_only_if_asked(
    format: Any, there: str, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export._WRITERS, "openvino", export._WRITERS["torchscript"])
    monkeypatch.setitem(export._LOADERS, "openvino", export._LOADERS["torchscript"])
    (tmp_path / there).write_text("mine")
    path = tmp_path / f"net{SUFFIXES[format]}"
    with pytest.raises(UsageError, match=rf"{there} exists.*--overwrite"):
        export_model(make_model(), path, format)
    assert (tmp_path / there).read_text() == "mine"
    export_model(make_model(), path, format, overwrite=True)
    assert path.stat().st_size > 1000


def test_a_missing_extra_is_said(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(export, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"cgpipe\[onnx\]"):
        export_model(make_model(), tmp_path / "net.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote(file_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "zebra.pt"
    arguments = ["models", "export", str(file_model(tmp_path)), "--format", "torchscript", "-o", str(path)]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert "multiples of 4" in result.output
    assert path.is_file()


def zebra_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        rng = np.random.default_rng(index)
        small = rng.integers(0, 255, (12, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.mark.slow
def test_int8_is_written_with_what_it_costs(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    folder = zebra_pictures(tmp_path / "pictures", 6)
    path = tmp_path / "net.onnx"
    words = ["models", "export", "horse2zebra-fast", "--format", "onnx", "-o", str(path), "--int8", str(folder)]
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    told = re.search(r"on 2 pictures: ([\d.]+) dB, the worst ([\d.]+) dB", result.output)
    assert told and 25 < float(told[2]) <= float(told[1]) < 60
    # Ranges that other numbers would need are in the file: it holds 8-bit weights, and less of them than of floats.
    weights = {tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 4}
    assert onnx.TensorProto.INT8 in weights
    small = load_model(find_model(file="horse2zebra-fast").path)
    x = torch.rand((1, 3, 64, 96)) * 2 - 1
    difference = (export.load_onnx(path)(x) - small.generator(x)).abs().mean()
    assert 0 < difference < 0.1


def test_int8_is_calibrated_with_what_the_network_sees(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 bits in 16 fill the range, and the short side of a large picture is that of a style."""
    card = {"working_scales": (64, 96), "large_side": 128, "made_by": {"value_range": {"horse": [100, 4095]}}}
    model = make_model(**card)
    pixels = np.random.default_rng(0).integers(100, 4096, (480, 480, 3), np.uint16)
    assert cv2.imwrite(str(tmp_path / "12.png"), pixels[..., ::-1])
    seen: list[torch.Tensor] = []

    def generate(self: Translator, x: torch.Tensor, network: Callable[..., torch.Tensor]) -> torch.Tensor:
        seen.append(x.clone())
        return network(x)

    monkeypatch.setattr(Translator, "_generate", generate)
    Translator(model, precision="fp32")(pixels)
    assert min(seen[-1].shape[2:]) == 128
    [calibrating] = quantise._seen(model, [tmp_path / "12.png"])
    torch.testing.assert_close(calibrating, seen[-1], atol=1e-4, rtol=0)


def test_int8_asks_for_pictures_and_for_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    folder = zebra_pictures(tmp_path / "pictures", 2)
    words = ["models", "export", "horse2zebra-fast", "-o", str(tmp_path / "net"), "--int8", str(folder)]
    few = invoke(*words, "--format", "onnx")
    assert few.exit_code == 2 and "at least 3 pictures" in few.output
    other = invoke(*words, "--format", "openvino")
    assert other.exit_code == 2 and "only with --format onnx" in other.output
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
