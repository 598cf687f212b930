"""Model files that ask for too much, or hold what no network can compute with: refused, by name, before any harm."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import card_of
from fuzz.models import CASES, OUTCOMES
from fuzz.models import run as fuzz
from PIL import Image
from reference_networks import ancestor_resnet, junyanz_resnet, junyanz_unet, randomise, run
from safetensors.torch import load_file, save_file
from shell import invoke
from torch import nn

from cgpipe.engine.export import export_model
from cgpipe.engine.translator import Translator
from cgpipe.errors import ModelError, ModelNotFoundError
from cgpipe.models import find_model, import_model, list_models, load_any, load_model, read_card
from cgpipe.models.foreign import read_foreign
from cgpipe.models.header import METADATA_KEY, read_header

FileModel = Callable[..., Path]


def with_card(path: Path, **change: Any) -> Path:
    """The file with other values in its card."""
    card = {**json.loads(read_header(path).card or ""), **change}
    save_file(load_file(path), path, {METADATA_KEY: json.dumps(card)})
    return path


def with_header(path: Path, header: str, data: bytes = b"\0" * 4) -> Path:
    path.write_bytes(struct.pack("<Q", len(header.encode())) + header.encode() + data)
    return path


def tensor(shape: str, end: int = 4) -> str:
    return f'{{"t":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}'


# --- weights with which nothing can be computed ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, file_model: FileModel, value: float) -> None:
    weights = junyanz_resnet(blocks=6).state_dict()
    weights["model.4.bias"][1] = value
    torch.save(weights, tmp_path / "diverged.pth")
    with pytest.raises(ModelError, match=r"diverged\.pth: Tensor model\.4\.bias is not finite"):
        read_foreign(tmp_path / "diverged.pth")

    path = file_model(tmp_path)
    ours = load_file(path)
    ours["stem.weight"][0, 0, 0, 0] = value
    save_file(ours, path, {METADATA_KEY: read_header(path).card or ""})
    with pytest.raises(ModelError, match=r"horse2zebra\.safetensors: Tensor stem\.weight is not finite"):
        load_model(path)


def test_numbers_beyond_float32_are_not_finite(tmp_path: Path) -> None:
    weights = {name: value.double() for name, value in junyanz_resnet(blocks=6).state_dict().items()}
    weights["model.1.bias"][0] = 1e300
    torch.save(weights, tmp_path / "double.pth")
    with pytest.raises(ModelError, match=r"model\.1\.bias is not finite"):
        read_foreign(tmp_path / "double.pth")


def test_a_variance_below_zero_is_refused(tmp_path: Path) -> None:
    weights = junyanz_resnet(blocks=6, norm="batch").state_dict()
    weights["model.5.running_var"][0] = -1
    torch.save(weights, tmp_path / "batch.pth")
    with pytest.raises(ModelError, match=r"model\.5\.running_var holds a variance below 0"):
        read_foreign(tmp_path / "batch.pth")


@pytest.mark.filterwarnings("ignore")  # quantised tensors are deprecated
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: value.to_sparse(), "sparse"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "quantised"),
        (lambda value: value.to("meta"), "without its contents"),
        (lambda value: value.to(torch.complex64), "complex64"),
        (lambda value: value > 0, "bool"),
    ],
)
def test_tensors_of_unusual_kinds_are_refused_by_name(tmp_path: Path, change: Callable[..., Any], says: str) -> None:
    weights = junyanz_resnet(blocks=6).state_dict()
    weights["model.4.weight"] = change(weights["model.4.weight"])
    torch.save(weights, tmp_path / "odd.pth")
    with pytest.raises(ModelError, match=rf"odd\.pth: Tensor model\.4\.weight is .*{says}"):
        read_foreign(tmp_path / "odd.pth")


def test_foreign_safetensors_that_are_broken_are_model_errors(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(junyanz_resnet(blocks=6).state_dict(), path)
    content = path.read_bytes()
    for damaged in (content[:-5], content + b"x", content.replace(b'"F32"', b'"Q32"'), content.replace(b"[0,", b"[4,")):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"foreign\.safetensors"):
            load_any(path)


# --- more work or memory than a file can be worth -------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        '{"t":' + "[" * 100_000 + "]" * 100_000 + "}",
        tensor("[1e999]"),
        tensor("[-1]"),
        tensor("[true]"),
        tensor("[" + ",".join(["9999"] * 200_000) + "]"),
        tensor("[" + "9" * 5000 + "]"),
        tensor("[1000000000]"),
        tensor("[1]", end=10**18),
        tensor('"four"'),
        '{"t":3}',
        '{"__metadata__":{"cgpipe":3}}',
        "{" + ",".join(f'"t{index}":{tensor("[0]")[5:-1]}' for index in range(11_000)) + "}",
        '{"__metadata__":' + json.dumps({"cgpipe": '{"format_version":1,"settings":' + "[" * 9**5 + "]" * 9**5}) + "}",
        " " * 5_000_000,
        "{" + " " * 5_000_000 + "}",
    ],
    ids=lambda header: header[:40].strip() or "blanks",
)
def test_headers_out_of_bounds_are_refused_at_once_and_break_nothing(
    models_folder: Path, file_model: FileModel, header: str
) -> None:
    file_model(models_folder, "cat", "dog")
    bad = with_header(models_folder / "bad.safetensors", header)
    started = time.perf_counter()
    with pytest.raises(ModelError, match=r"bad\.safetensors"):
        read_card(bad)
    found = find_model("dog")
    assert found.entry.name == "cat2dog"
    assert any("bad.safetensors" in warning for warning in found.warnings)
    assert [entry.name for entry in list_models() if entry.problem] == ["bad"]
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"channels": 16, "blocks": 10**9}},
        {"settings": {"channels": 10**30, "blocks": 1}},
        {"settings": {"channels": 16, "blocks": "many"}},
        {"settings": {"channels": 0, "blocks": 1}},
        {"settings": {"channels": 16, "blocks": 1e300}},
        {"architecture": "unet", "settings": {"levels": 10**9}},
        {"settings": {"channels": 16, "blocks": 1, "norm": [1]}},
        {"settings": {"self": 1}},
        {"settings": {"architecture": "unet"}},
        {"description": "\ud800"},
        {"made_by": {"recipe": "\udfff"}},
        {"training_size": 10**12},
        {"working_scales": [10**8, 10**9]},
        {"settings": {"a": json.loads("[" * 40 + "]" * 40)}},
    ],
    ids=lambda change: json.dumps(change)[:50],
)
def test_cards_out_of_bounds_are_refused_at_once(tmp_path: Path, file_model: FileModel, change: Any) -> None:
    path = with_card(file_model(tmp_path), **change)
    started = time.perf_counter()
    with pytest.raises(ModelError, match=r"horse2zebra\.safetensors"):
        load_model(path)
    assert time.perf_counter() - started < 5


def peak() -> int:
    """Bytes that this process has had resident at most."""
    resource = pytest.importorskip("resource", reason="measures as POSIX does")
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def packed(path: Path, instructions: bytes | None = None, zeros: int = 0) -> Path:
    """A checkpoint packed small: with other instructions, or with so many zeros in one of its tensors."""
    torch.save({"a": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            replaced = instructions if instructions and name.endswith("data.pkl") else content
            archive.writestr(name, bytes(zeros) if zeros and name.endswith("/0") else replaced)
    return path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"zeros": 200_000_000}, "unpack to 0.2 GB"),
        ({"instructions": b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x20\x85R."}, "raw bytes beside its tensors"),
        ({"instructions": b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"."}, "endlessly nested tuples"),
        ({"instructions": b"\x80\x02" + b"(" * 3_000_000}, "far more than a network's weights"),
        ({"instructions": b"\x80\x02" + b"N" * 17_000_000}, "MB of pickle instructions"),
    ],
)
def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, arguments: Any, says: str) -> None:
    path = packed(tmp_path / "bomb.pth", **arguments)
    before, started = peak(), time.perf_counter()
    with pytest.raises(ModelError, match=says):
        read_foreign(path)
    assert peak() - before < 100_000_000
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("old", [False, True])
def test_a_tensor_that_repeats_one_number_without_end_is_refused(tmp_path: Path, old: bool) -> None:
    weights = junyanz_resnet(blocks=6).state_dict()
    weights["model.1.weight"] = torch.zeros(1).expand(10**6, 3, 7, 7)
    torch.save(weights, tmp_path / "wide.pth", _use_new_zipfile_serialization=not old)
    with pytest.raises(ModelError, match=r"would unpack to 0\.6 GB"):
        read_foreign(tmp_path / "wide.pth")


def test_an_optimiser_beside_the_weights_is_no_bomb(tmp_path: Path) -> None:
    network = junyanz_resnet(blocks=9)
    optimiser = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    content = {"Gab": network.state_dict(), "Gba": network.state_dict(), "g_optimizer": optimiser.state_dict()}
    for old in (False, True):
        torch.save(content, tmp_path / "latest.ckpt", _use_new_zipfile_serialization=not old)
        assert read_foreign(tmp_path / "latest.ckpt", direction="AtoB").architecture == "resnet_9blocks"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_pipes_and_devices_are_refused_without_waiting(models_folder: Path, file_model: FileModel) -> None:
    file_model(models_folder, "cat", "dog")
    os.mkfifo(models_folder / "pipe.safetensors")
    (models_folder / "folder.safetensors").mkdir()
    (models_folder / "nowhere.safetensors").symlink_to("gone")
    (models_folder / "endless.safetensors").symlink_to("/dev/zero")
    assert find_model("dog").entry.name == "cat2dog"
    problems = {entry.name: entry.problem for entry in list_models() if entry.problem}
    assert problems.keys() == {"pipe", "folder", "nowhere", "endless"}
    for name in problems:
        with pytest.raises(ModelError):
            load_any(models_folder / f"{name}.safetensors")


def test_one_bad_file_is_named_and_the_list_goes_on(models_folder: Path, file_model: FileModel) -> None:
    file_model(models_folder, "cat", "dog")
    with_header(models_folder / "bad.safetensors", tensor("[1e999]"))
    result = invoke("models", "list")
    assert result.exit_code == 0, result.output
    assert "cat2dog" in result.output
    assert "Damaged: " in result.output and "bad.safetensors" in result.output


def test_a_default_that_is_no_text_is_an_error_not_a_traceback(models_folder: Path) -> None:
    (models_folder / "default.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="default model cannot be used"):
        find_model()


by_forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes of POSIX")


@by_forks
@pytest.mark.slow
def test_hostile_files_of_every_kind_do_nothing() -> None:
    counts = fuzz(3 * len(CASES), seed=1)
    assert sum(counts.values()) == 3 * len(CASES)
    assert {name: counts[name] for name in OUTCOMES[2:]} == dict.fromkeys(OUTCOMES[2:], 0)


@by_forks
def test_the_fuzz_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.models.load_any", lambda path, direction: pickle.loads(Path(path).read_bytes()))
    monkeypatch.setattr("fuzz.models.find_model", lambda *_, **__: None)
    assert fuzz(len(CASES), seed=3)["tracebacks"] > 0


# --- gray pictures --------------------------------------------------------------------------------------------------


class OnGray(nn.Module):
    """What a network on gray pictures, (N, 1 or 3, H, W), makes of the luma of an RGB one; in RGB."""

    def __init__(self, network: nn.Module, taken: int) -> None:
        super().__init__()
        self.network, self.taken = network, taken

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.taken == 1:
            x = (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        y: torch.Tensor = self.network(x)
        return y.expand(-1, 3, -1, -1)


@pytest.mark.parametrize("channels", [(1, 1), (1, 3), (3, 1)])
def test_a_network_on_gray_pictures_runs(tmp_path: Path, channels: tuple[int, int]) -> None:
    reference = randomise(junyanz_resnet(blocks=6, channels=channels))
    torch.save(reference.state_dict(), tmp_path / "gray.pth")
    model = read_foreign(tmp_path / "gray.pth")
    assert any("gray" in note for note in model.notes)
    torch.testing.assert_close(
        run(model.generator), run(OnGray(reference, channels[0])).contiguous(), rtol=0, atol=1e-6
    )


def test_a_gray_u_net_runs(tmp_path: Path) -> None:
    weights = randomise(junyanz_unet()).state_dict()
    weights["model.model.0.weight"] = weights["model.model.0.weight"][:, :1]
    weights["model.model.3.weight"] = weights["model.model.3.weight"][:, :1]
    weights["model.model.3.bias"] = weights["model.model.3.bias"][:1]
    torch.save(weights, tmp_path / "gray.pth")
    y = read_foreign(tmp_path / "gray.pth").generator(torch.rand(1, 3, 128, 128))
    assert torch.equal(y[:, 0], y[:, 2])


def test_a_gray_network_is_imported_and_exported(tmp_path: Path, models_folder: Path) -> None:
    torch.save(randomise(junyanz_resnet(blocks=6, channels=(1, 1))).state_dict(), tmp_path / "gray.pth")
    import_model(tmp_path / "gray.pth", source="day", target="night")
    model = load_any(find_model("night"))
    export_model(model, tmp_path / "gray.pt2", "torch-export")
    picture = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    result = Translator(model)(picture)
    assert (result[..., 0] == result[..., 1]).all() and (result[..., 0] == result[..., 2]).all()
    luma = np.repeat(np.asarray(Image.fromarray(picture).convert("L"))[..., None], 3, axis=2)
    assert np.abs(Translator(model)(luma).astype(int) - result).mean() < 3  # but for the luma's rounding


def test_one_of_ours_on_gray_pictures_runs(tmp_path: Path) -> None:
    weights = randomise(junyanz_resnet(blocks=6, channels=(1, 1)))
    torch.save(weights.state_dict(), tmp_path / "gray.pth")
    foreign = read_foreign(tmp_path / "gray.pth")
    tensors = foreign.generator.state_dict()
    share = tensors["stem.conv.weight"].sum(1, keepdim=True)
    narrow = {**tensors, "stem.conv.weight": share, "head.weight": tensors["head.weight"][:1].clone()}
    narrow["head.bias"] = tensors["head.bias"][:1].clone()
    one_channel = {**foreign.settings, "in_channels": 1, "out_channels": 1}
    card = card_of(foreign.architecture, settings=one_channel, training_size=None)
    save_file(narrow, tmp_path / "ours.safetensors", {METADATA_KEY: card.to_json()})
    model = load_model(tmp_path / "ours.safetensors")
    torch.testing.assert_close(run(model.generator), run(foreign.generator), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [(4, 4), (3, 4), (2, 3), (1, 2)])
def test_networks_of_other_channels_are_imported(
    tmp_path: Path, models_folder: Path, channels: tuple[int, int]
) -> None:
    network = randomise(junyanz_resnet(blocks=6, channels=channels)).eval()
    torch.save(network.state_dict(), tmp_path / "other.pth")
    import_model(tmp_path / "other.pth", source="day", target="night")
    picture = torch.rand((1, channels[0], 32, 32)) * 2 - 1
    made = load_any(find_model("night")).generator(picture)
    assert made.shape[1] == channels[1]
    torch.testing.assert_close(made, network(picture), rtol=0, atol=1e-4)


# --- which model -----------------------------------------------------------------------------------------------------


def test_show_and_export_take_a_direction(tmp_path: Path) -> None:
    path, written = tmp_path / "latest.ckpt", tmp_path / "out.pt2"
    weights = randomise(ancestor_resnet(blocks=6)).state_dict()
    torch.save({"Gab": weights, "Gba": weights}, path)
    for command in (["show", path], ["export", path, "--format", "torch-export", "-o", written]):
        asked = invoke("models", *command)
        assert asked.exit_code != 0 and "--direction" in asked.output
        done = invoke("models", *command, "--direction", "AtoB")
        assert done.exit_code == 0, done.output
    assert written.exists()


def test_a_model_half_trained_is_never_preferred(models_folder: Path, file_model: FileModel) -> None:
    file_model(models_folder, "horse", "zebra", made_by={"steps": 100, "finished": False})
    assert find_model("zebra").entry.place == "shipped"
    assert not any(entry.shadowed for entry in list_models())
    file_model(models_folder, "horse", "zebra", name="mine")
    assert find_model("zebra").entry.name == "mine"
    file_model(models_folder, "cat", "dog", made_by={"finished": False})
    only = find_model("dog")
    assert only.entry.name == "cat2dog"
    assert any("has not finished" in warning for warning in only.warnings)
    with pytest.raises(ModelNotFoundError):
        find_model("cow")
