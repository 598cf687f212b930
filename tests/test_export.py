"""Exported networks compute what the network computes, and appear whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cgpipe.cli import cli
from cgpipe.engine import export
from cgpipe.engine.export import SUFFIXES, Normalised, export_model
from cgpipe.errors import CgpipeError, MissingDependencyError, UsageError

MakeModel = Callable[..., Any]


@pytest.mark.parametrize("with_normalisation", [False, True])
@pytest.mark.parametrize("format", SUFFIXES)
def test_every_format_is_checked_and_written(
    format: Any, with_normalisation: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    for package in {"onnx": ("onnxruntime", "onnxscript"), "openvino": ("openvino",)}.get(format, ()):
        pytest.importorskip(package, reason=f"the extra {format} is not installed")
    path = tmp_path / f"net{SUFFIXES[format]}"
    done = export_model(make_model(), path, format, with_normalisation=with_normalisation)
    assert done.error <= 1.01 / 255
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
    with pytest.raises(CgpipeError, match="has not been written"):
        export_model(make_model(), tmp_path / "net.pt", "torchscript")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end in \.xml"):
        export_model(make_model(), tmp_path / "net.bin", "openvino")


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
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "multiples of 4" in result.output
    assert path.is_file()
