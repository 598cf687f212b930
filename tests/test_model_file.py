"""Our own model file: the card in its header, and what is said of files that cannot be used."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cgpipe.errors import ModelError, ModelNotFoundError
from cgpipe.models import Model, ModelCard, load_model, read_card, save_model
from cgpipe.models.header import METADATA_KEY, read_header
from cgpipe.networks import build_generator

MakeModel = Callable[..., Model]


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    return make_model("horse", "zebra", working_scales=(192, 384), quality={"testA at 256": {"zebra": 0.87}})


@pytest.fixture
def path(tmp_path: Path, model: Model) -> Path:
    save_model(tmp_path / "model.safetensors", model)
    return tmp_path / "model.safetensors"


def rewrite_header(path: Path, change: dict[str, Any], *, without: str = "") -> None:
    """Puts other values into the card of a model file."""
    card = {**json.loads(read_header(path).card or ""), **change}
    card.pop(without, None)
    save_file(load_file(path), path, {METADATA_KEY: json.dumps(card)})


def test_file_gives_back_card_and_float32_weights(path: Path, model: Model) -> None:
    loaded = load_model(path)
    assert loaded.card == model.card
    for name, weight in loaded.generator.state_dict().items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, model.generator.state_dict()[name].half().float(), rtol=0, atol=0)


def test_loaded_generator_is_ready_for_inference(path: Path) -> None:
    generator = load_model(path).generator
    assert not generator.training
    assert not any(weight.requires_grad for weight in generator.parameters())


def test_float32_file_translates_exactly_as_before(tmp_path: Path, model: Model) -> None:
    save_model(tmp_path / "exact.safetensors", model, dtype=torch.float32)
    picture = torch.rand(1, 3, 32, 48) * 2 - 1
    with torch.inference_mode():
        expected = model.generator.eval()(picture)
        torch.testing.assert_close(
            load_model(tmp_path / "exact.safetensors").generator(picture), expected, rtol=0, atol=0
        )


def test_same_model_gives_same_bytes_and_no_other_file(path: Path, model: Model) -> None:
    first = path.read_bytes()
    save_model(path, model)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_running_variances_beyond_half_precision_are_kept(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model("horse", "zebra", norm="batch")
    variance = next(buffer for name, buffer in model.generator.named_buffers() if name.endswith("running_var"))
    variance.fill_(1e6)
    save_model(tmp_path / "batch.safetensors", model)
    loaded = load_model(tmp_path / "batch.safetensors").generator
    assert next(b for name, b in loaded.named_buffers() if name.endswith("running_var")).eq(1e6).all()


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_half_precision_cannot_hold_are_refused_and_the_old_file_stays(
    path: Path, model: Model, value: float
) -> None:
    before = path.read_bytes()
    next(model.generator.parameters()).data.view(-1)[0] = value
    with pytest.raises(ModelError, match=r"model\.safetensors is not written: tensor stem\.weight"):
        save_model(path, model)
    assert path.read_bytes() == before


def test_card_is_read_without_torch(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cgpipe.models import read_card;"
        f"print(read_card(Path({str(path)!r})).pair); assert 'torch' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "horse to zebra\n"


def test_card_equals_itself_after_a_trip_through_json(model: Model) -> None:
    card = replace(model.card, made_by={"steps": 20700, "crops": (128, 256)}, notes="Weak on white horses.")
    assert ModelCard.from_json(card.to_json()) == card


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", "Horse"),
        ("target", ""),
        ("target", 7),
        ("architecture", ""),
        ("settings", ["ngf"]),
        ("settings", {"size": float("nan")}),
        ("quality", {"zebra": object()}),
        ("training_size", 0),
        ("training_size", 256.0),
        ("large_side", -512),
        ("working_scales", (512, 128)),
        ("working_scales", (256,)),
        ("licence", ""),
        ("notes", None),
        ("format_version", 2),
        ("format_version", "1"),
    ],
)
def test_card_refuses_unusable_values_by_field(model: Model, field: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"^{field} "):
        replace(model.card, **{field: value})


REQUIRED = [
    "architecture",
    "settings",
    "source",
    "target",
    "training_size",
    "made_by",
    "quality",
    "licence",
    "format_version",
]


@pytest.mark.parametrize("field", REQUIRED)
def test_missing_field_is_named_with_the_file(path: Path, field: str) -> None:
    rewrite_header(path, {}, without=field)
    with pytest.raises(ModelError, match=rf"model\.safetensors: {field} is missing"):
        load_model(path)


def test_newer_version_asks_for_a_newer_cgpipe(path: Path) -> None:
    rewrite_header(path, {"format_version": 2, "domains": ["horse", "zebra"]}, without="source")
    with pytest.raises(ModelError, match=r"model\.safetensors: format_version is 2.*update cgpipe"):
        read_card(path)


def test_unknown_field_is_passed_over(path: Path, model: Model) -> None:
    rewrite_header(path, {"favourite_colour": "black and white"})
    assert load_model(path).card == model.card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "pix2pix"}, "unknown architecture 'pix2pix'"),
        ({"settings": {"wings": 2}}, "wings"),
        ({"settings": {"channels": -16}}, "settings"),
        ({"settings": {"architecture": "unet_128"}}, "settings"),
        ({"settings": {"channels": 32, "blocks": 1}}, r"Tensor stem\.weight has shape \(16, 48, 3, 3\)"),
        ({"settings": {"channels": 16, "blocks": 2}}, "is missing"),
        ({"settings": {"channels": 16, "blocks": 0}}, "does not belong"),
        ({"settings": {"channels": 10**6, "blocks": 1}}, r"need \(1000000, 48, 3, 3\)"),
    ],
)
def test_weights_that_do_not_fit_the_header_are_refused(path: Path, change: dict[str, Any], message: str) -> None:
    rewrite_header(path, {"architecture": "compact-flat", **change})
    with pytest.raises(ModelError, match=rf"model\.safetensors.*{message}"):
        load_model(path)


@pytest.mark.parametrize("kept", [0, 4, 8, 9, 200, -1])
def test_cut_off_file_is_named_whatever_is_left(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    for read in (read_card, load_model):
        with pytest.raises(ModelError, match=r"model\.safetensors: It is (cut off|damaged|not a safetensors file)"):
            read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 a zip archive",
        b"<html>not found</html>",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"{}}}",
    ],
)
def test_other_files_are_not_taken_for_ours(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"other\.safetensors: It is not a safetensors file"):
        load_model(tmp_path / "other.safetensors")


def test_safetensors_of_another_project_points_to_import(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="cgpipe models import"):
        load_model(tmp_path / "other.safetensors")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path)


def test_unwritable_place_is_named(tmp_path: Path, model: Model) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="cannot be written"):
        save_model(tmp_path / "file" / "model.safetensors", model)


@pytest.mark.parametrize("architecture", ["resnet_6blocks", "resnet_9blocks_antialias", "unet_128"])
def test_other_architectures_come_back_too(tmp_path: Path, model: Model, architecture: str) -> None:
    settings = {"ngf": 2, "norm": "instance_affine"}
    generator = build_generator(architecture, **settings).eval()
    card = replace(model.card, architecture=architecture, settings=settings)
    save_model(tmp_path / "other.safetensors", Model(card, generator), dtype=torch.float32)
    picture = torch.rand(1, 3, 128, 128) * 2 - 1
    with torch.inference_mode():
        expected = generator(picture)
        torch.testing.assert_close(load_model(tmp_path / "other.safetensors").generator(picture), expected)
