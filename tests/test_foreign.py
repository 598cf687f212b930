"""Checkpoints of other projects, held against plain networks laid out as in those projects."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_networks import (
    ancestor_resnet,
    junyanz_resnet,
    junyanz_unet,
    mmgeneration_resnet,
    patch_discriminator,
    pixel_discriminator,
    randomise,
    run,
)
from safetensors.torch import save_file
from torch import nn

from cgpipe.errors import CgpipeError, ModelError, ModelNotFoundError, UsageError
from cgpipe.models.discriminator import read_discriminator
from cgpipe.models.foreign import ForeignModel, read_foreign
from cgpipe.networks import build_generator
from cgpipe.networks.discriminators import build_discriminator

Save = Callable[[Any], Path]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def check(model: ForeignModel, reference: nn.Module, size: int = 32) -> None:
    """The converted network does what the original does, and its settings build it again."""
    assert not model.generator.training
    again = build_generator(model.architecture, **model.settings)
    again.load_state_dict(model.generator.state_dict(), strict=True)
    torch.testing.assert_close(run(again.eval(), size), run(reference, size), rtol=0, atol=1e-6)


# --- discriminators -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "kind", "layers"), [(patch_discriminator, "n_layers", 3), (pixel_discriminator, "pixel", 0)]
)
@pytest.mark.parametrize("norm", ["instance", "instance_tracked", "instance_affine", "batch", "none"])
def test_discriminator(saved: Save, original: Callable[..., nn.Module], kind: str, layers: int, norm: str) -> None:
    reference = randomise(original(norm=norm)).train(norm == "instance_tracked")  # by the statistics of the picture
    found = read_discriminator(saved(reference.state_dict()))
    assert (found.kind, found.layers, found.ndf, found.channels) == (kind, layers, 4, 3)
    assert found.norm == norm.removesuffix("_tracked")
    ours = build_discriminator(kind, ndf=4, layers=3, norm=found.norm)
    ours.load_state_dict(found.weights)
    torch.testing.assert_close(run(ours.eval()), run(reference), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (junyanz_resnet(blocks=1).state_dict(), "a generator: name the file of a discriminator"),
        ({"model.2.filt": torch.zeros(4, 1, 3, 3)}, "discriminator of CUT"),
        ({"model.0.weight": None}, "its first layers are missing"),
        ({"model.8.bias": None}, r"8\.bias is missing"),
        ({"model.5.weight": torch.zeros(16, 9, 4, 4)}, r"5\.weight has shape \(16, 9, 4, 4\), not \(16, 8, 4, 4\)"),
        ({"model.2.bias": torch.full((8,), torch.nan)}, r"2\.bias is not finite"),
        ({"model.12.bias": torch.zeros(1)}, r"12\.bias does not belong"),
        ({"head.weight": torch.zeros(1)}, "Its keys are"),
        ([1], "holds a list"),
    ],
)
def test_what_is_no_discriminator_is_refused(saved: Save, changed: Any, says: str) -> None:
    content = changed
    if isinstance(changed, dict):
        content = {k: v for k, v in {**patch_discriminator().state_dict(), **changed}.items() if v is not None}
    with pytest.raises(ModelError, match=says):
        read_discriminator(saved(content))


# --- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [6, 9])
@pytest.mark.parametrize("norm", ["instance", "instance_affine", "batch", "none"])
@pytest.mark.parametrize("dropout", [False, True])
def test_resnet(saved: Save, blocks: int, norm: str, dropout: bool) -> None:
    reference = randomise(junyanz_resnet(blocks=blocks, norm=norm, dropout=dropout))
    model = read_foreign(saved(reference.state_dict()))
    assert model.recognised_as == "ResNet of pytorch-CycleGAN-and-pix2pix"
    assert model.architecture == f"resnet_{blocks}blocks"
    assert (model.settings["norm"], model.settings["dropout"], model.settings["ngf"]) == (norm, dropout, 4)
    check(model, reference)


@pytest.mark.parametrize(("blocks", "ngf"), [(1, 8), (4, 3), (12, 2)])
def test_resnet_of_any_depth_and_width(saved: Save, blocks: int, ngf: int) -> None:
    reference = randomise(junyanz_resnet(blocks=blocks, ngf=ngf))
    model = read_foreign(saved(reference.state_dict()))
    assert (model.architecture, model.settings["blocks"], model.settings["ngf"]) == ("resnet", blocks, ngf)
    check(model, reference)


@pytest.mark.parametrize("blocks", [6, 9])
@pytest.mark.parametrize("dropout", [False, True])
def test_resnet_of_cut(saved: Save, blocks: int, dropout: bool) -> None:
    reference = randomise(junyanz_resnet(blocks=blocks, dropout=dropout, smooth_down=True, smooth_up=True))
    model = read_foreign(saved(reference.state_dict()))
    assert model.recognised_as == "ResNet of CUT"
    assert (model.architecture, model.settings["dropout"]) == (f"resnet_{blocks}blocks_antialias", dropout)
    check(model, reference)


@pytest.mark.parametrize("way", ["down", "up"])
def test_resnet_of_cut_with_filters_one_way(saved: Save, way: str) -> None:
    reference = randomise(junyanz_resnet(blocks=6, smooth_down=way == "down", smooth_up=way == "up"))
    model = read_foreign(saved(reference.state_dict()))
    assert (model.architecture, model.settings["antialias"]) == ("resnet", way)
    check(model, reference)


@pytest.mark.parametrize(("levels", "ngf", "size"), [(7, 4, 128), (8, 2, 256), (6, 2, 64)])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("root", ["model", "unet_model"])
def test_unet(saved: Save, levels: int, ngf: int, size: int, norm: str, root: str) -> None:
    reference = randomise(junyanz_unet(levels=levels, ngf=ngf, norm=norm, root=root, dropout=True))
    model = read_foreign(saved(reference.state_dict()))
    assert model.architecture == {7: "unet_128", 8: "unet_256"}.get(levels, "unet")
    assert model.generator.multiple == size
    check(model, reference, size)


@pytest.mark.parametrize("blocks", [6, 9])
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("dropout", [False, True])
def test_resnet_of_the_ancestor(saved: Save, blocks: int, norm: str, dropout: bool) -> None:
    reference = randomise(ancestor_resnet(blocks=blocks, norm=norm, dropout=dropout))
    model = read_foreign(saved(reference.state_dict()))
    assert model.recognised_as == "ResNet of cycleGAN-PyTorch"
    assert model.settings["dropout"] == dropout
    check(model, reference)


# --- the traps ------------------------------------------------------------------------------------------------------


def both_directions(prefix: str = "module.") -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """A file of cycleGAN-PyTorch, and its generators by name."""
    generators = {"Gab": randomise(ancestor_resnet(), seed=3), "Gba": randomise(ancestor_resnet(), seed=4)}
    discriminator = nn.Sequential(nn.Conv2d(3, 4, 4))
    optimizer = torch.optim.Adam(discriminator.parameters())
    content: dict[str, Any] = {"epoch": 200, "g_optimizer": optimizer.state_dict()}
    for name, network in {**generators, "Da": discriminator, "Db": discriminator}.items():
        content[name] = OrderedDict((f"{prefix}{key}", value) for key, value in network.state_dict().items())
    return content, generators


@pytest.mark.parametrize(("direction", "name"), [("AtoB", "Gba"), ("BtoA", "Gab")])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_gba_translates_a_to_b(saved: Save, direction: Any, name: str, prefix: str) -> None:
    content, generators = both_directions(prefix)
    model = read_foreign(saved(content), direction=direction)
    assert any(name in note for note in model.notes)
    check(model, generators[name])


def test_both_directions_need_one_to_be_named(saved: Save) -> None:
    path = saved(both_directions()[0])
    with pytest.raises(UsageError, match=r"--direction AtoB or --direction BtoA") as error:
        read_foreign(path)
    assert path.name in str(error.value)


def test_an_unknown_direction_is_refused(saved: Save) -> None:
    with pytest.raises(UsageError, match="BtoC"):
        read_foreign(saved(both_directions()[0]), direction="BtoC")  # type: ignore[arg-type]


def test_a_direction_that_chooses_nothing_is_told(saved: Save) -> None:
    model = read_foreign(saved(randomise(junyanz_resnet(blocks=6)).state_dict()), direction="AtoB")
    assert model.notes == ("The file does not hold both directions: AtoB has no effect.",)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(saved: Save, prefix: str) -> None:
    reference = randomise(junyanz_resnet(blocks=6))
    check(read_foreign(saved({f"{prefix}{key}": value for key, value in reference.state_dict().items()})), reference)


@pytest.mark.parametrize("tracked", [STATISTICS, STATISTICS[:2]])
@pytest.mark.parametrize("affine", [False, True])
def test_running_statistics_of_instance_norm_are_dropped(saved: Save, tracked: tuple[str, ...], affine: bool) -> None:
    reference = randomise(junyanz_resnet(blocks=6, norm="instance_affine" if affine else "instance"))
    with_statistics = randomise(junyanz_resnet(blocks=6, norm="instance_tracked"), seed=5).state_dict()
    added = {key: value for key, value in with_statistics.items() if key.endswith(tracked)}
    assert len(added) == 17 * len(tracked)
    model = read_foreign(saved({**reference.state_dict(), **added}))
    assert model.settings["norm"] == ("instance_affine" if affine else "instance")
    assert any("Running statistics were dropped" in note for note in model.notes)
    check(model, reference)


def test_using_those_statistics_would_have_changed_the_picture(saved: Save) -> None:
    tracked = randomise(junyanz_resnet(blocks=6, norm="instance_tracked"))
    model = read_foreign(saved(tracked.state_dict()))
    assert (run(model.generator) - run(tracked)).abs().max() > 0.1


@pytest.mark.parametrize("make", [junyanz_resnet, ancestor_resnet, junyanz_unet])
def test_batch_norm_by_the_picture_is_what_training_mode_computes(saved: Save, make: Callable[..., nn.Module]) -> None:
    reference = randomise(make(norm="batch", dropout=False))
    size = 128 if make is junyanz_unet else 32
    path = saved(reference.state_dict())
    by_training, by_picture = read_foreign(path), read_foreign(path, batch_statistics=True)
    check(by_training, reference, size)
    assert by_training.settings["norm"] == "batch"
    assert any("--batch-statistics" in note for note in by_training.notes)
    assert by_picture.settings["norm"] == "instance_affine"
    check(by_picture, reference.train(), size)


def test_the_switch_without_batch_norm_is_told(saved: Save) -> None:
    model = read_foreign(saved(randomise(junyanz_resnet(blocks=6)).state_dict()), batch_statistics=True)
    assert model.notes == ("There is no batch norm: --batch-statistics changes nothing.",)


def test_batch_norm_from_before_batches_were_counted(saved: Save) -> None:
    reference = randomise(junyanz_resnet(blocks=6, norm="batch"))
    weights = {key: value for key, value in reference.state_dict().items() if not key.endswith("num_batches_tracked")}
    check(read_foreign(saved(weights)), reference)


def test_batch_norm_without_statistics_asks_for_the_switch(saved: Save) -> None:
    reference = randomise(junyanz_resnet(blocks=6, norm="batch"))
    path = saved({key: value for key, value in reference.state_dict().items() if not key.endswith(STATISTICS)})
    with pytest.raises(ModelError, match="--batch-statistics"):
        read_foreign(path)
    check(read_foreign(path, batch_statistics=True), reference.train())


def mmgeneration_file(**domains: nn.Module) -> dict[str, Any]:
    weights = {"discriminators.zebra.conv.weight": torch.zeros(1)}
    for domain, network in domains.items():
        weights |= {f"generators.{domain}.{key}": value for key, value in network.state_dict().items()}
    return {"meta": {"epoch": 1}, "state_dict": weights}


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("blocks", [6, 9])
def test_bgr_is_turned_to_rgb(saved: Save, norm: str, dropout: bool, blocks: int) -> None:
    reference = randomise(mmgeneration_resnet(norm=norm, dropout=dropout, blocks=blocks))
    model = read_foreign(saved(mmgeneration_file(photo=reference)))
    assert model.recognised_as == "ResNet of mmgeneration"
    assert any("BGR" in note for note in model.notes)
    check(model, InBgr(reference))


class InBgr(nn.Module):
    """What a network on BGR does to an RGB picture."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.flip(1)).flip(1)


def test_mmgeneration_is_chosen_from_by_the_domain_painted(saved: Save) -> None:
    horse, zebra = (randomise(mmgeneration_resnet(blocks=6), seed=seed) for seed in (6, 7))
    path = saved(mmgeneration_file(horse=horse, zebra=zebra))
    check(read_foreign(path, target="zebra"), InBgr(zebra))
    check(read_foreign(path, generator="horse"), InBgr(horse))
    with pytest.raises(UsageError, match=r"generators\.horse, generators\.zebra: choose one with --generator NAME"):
        read_foreign(path, target="donkey")


# --- kinds of file --------------------------------------------------------------------------------------------------


def test_the_format_of_torch_before_1_6(tmp_path: Path) -> None:
    reference, path = randomise(junyanz_resnet(blocks=6)), tmp_path / "horse2zebra.pth"
    torch.save(reference.state_dict(), path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    check(read_foreign(path), reference)


def test_safetensors_and_half_precision(tmp_path: Path) -> None:
    reference, path = randomise(junyanz_resnet(blocks=6)).half(), tmp_path / "weights.bin"
    save_file(reference.state_dict(), path)
    model = read_foreign(path)
    assert all(parameter.dtype == torch.float32 for parameter in model.generator.parameters())
    check(model, reference)


def test_one_of_ours_is_not_foreign(tmp_path: Path, file_model: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="cgpipe's own"):
        read_foreign(file_model(tmp_path))


def test_parameters_in_place_of_tensors(saved: Save) -> None:
    reference = randomise(junyanz_resnet(blocks=6))
    check(read_foreign(saved(dict(reference.named_parameters()))), reference)


# --- what is refused ------------------------------------------------------------------------------------------------


class Payload:
    """Pickles into a call that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def in_a_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def in_a_modern_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=5))


def in_a_zip(content: Any, path: Path) -> None:
    torch.save(content, path)


def in_the_old_format(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [in_a_pickle, in_a_modern_pickle, in_a_zip, in_the_old_format])
@pytest.mark.parametrize("inside", [lambda payload: payload, lambda payload: {**both_directions()[0], "Db": payload}])
@pytest.mark.parametrize("name", ["latest.ckpt", "model.safetensors"])
def test_a_file_that_would_run_code_is_refused_and_nothing_runs(
    tmp_path: Path, write: Callable[[Any, Path], None], inside: Callable[[Any], Any], name: str
) -> None:
    marker, path = tmp_path / "it ran", tmp_path / name
    write(inside(Payload(marker)), path)
    with pytest.raises(ModelError) as error:
        read_foreign(path, direction="AtoB")
    assert not marker.exists()
    assert "Nothing was run" in str(error.value)
    assert "mkdir" in str(error.value) or write in (in_a_pickle, in_a_modern_pickle)


def test_that_payload_does_run_where_pickles_are_trusted(tmp_path: Path) -> None:
    marker, path = tmp_path / "it ran", tmp_path / "latest.ckpt"
    in_a_pickle(Payload(marker), path)
    pickle.loads(path.read_bytes())
    assert marker.exists()


def test_a_whole_network_in_a_pickle_is_refused_by_its_class(saved: Save) -> None:
    with pytest.raises(ModelError, match=r"reference_networks\.Named.*state_dict\(\)"):
        read_foreign(saved(junyanz_resnet(blocks=1)))


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
def test_torchscript_is_no_checkpoint(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 4, 4)), tmp_path / "net.pt")
    with pytest.raises(ModelError, match="TorchScript"):
        read_foreign(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (patch_discriminator().state_dict(), "a discriminator"),
        ({"dis_model.0.weight": torch.zeros(1)}, "a discriminator"),
        ({"mlp_0.0.weight": torch.zeros(1)}, "feature network that CUT"),
        ({"rank_unet": 8, "sd_encoder": {"weight": torch.zeros(1)}}, "img2img-turbo"),
        ({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, "Its keys are conv1.weight, fc.bias"),
        ({"epoch": 3, "model": {}}, "Its keys are epoch, model"),
        ({}, "Its keys are none"),
        ({"Gab": 1, "Gba": "x"}, "Its keys are Gab, Gba"),
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(1), "holds a Tensor"),
        ({"model.10.conv_block.0.weight": torch.zeros(4, 4, 3, 3)}, "blocks are not made like"),
        ({"model.model.1.model.1.weight": torch.zeros(4, 3, 4, 4)}, "U-Net with 2 levels"),
        (
            {"generators.zebra.model.3.block.1.conv.weight": torch.zeros(4, 4, 3, 3)},
            r"model\.0\.conv\.weight is missing",
        ),
        ({"generators.zebra.to_rgb.weight": torch.zeros(1)}, "generators of a kind that cgpipe does not know"),
    ],
)
def test_other_contents_are_refused_with_what_they_look_like(saved: Save, content: Any, says: str) -> None:
    path = saved(content)
    with pytest.raises(ModelError, match=says) as error:
        read_foreign(path, direction="AtoB")
    assert path.name in str(error.value)


def changed(change: Callable[[dict[str, torch.Tensor]], Any], **settings: Any) -> dict[str, torch.Tensor]:
    weights = dict(junyanz_resnet(blocks=6, **settings).state_dict())
    change(weights)
    return weights


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            changed(lambda weights: weights.pop("model.13.conv_block.5.bias")),
            r"model\.13\.conv_block\.5\.bias is missing",
        ),
        (changed(lambda weights: weights.pop("model.1.weight")), r"model\.1\.weight is missing"),
        (
            changed(lambda weights: weights.update({"model.99.weight": torch.zeros(1)})),
            r"model\.99\.weight does not belong",
        ),
        (changed(lambda weights: weights.update({"model.4.gain": torch.zeros(1)})), r"model\.4\.gain does not belong"),
        (
            changed(lambda weights: weights.update({"model.4.weight": torch.zeros(8, 4, 5, 5)})),
            r"model\.4\.weight has shape \(8, 4, 5, 5\), where \(8, 4, 3, 3\) was expected",
        ),
        (changed(lambda weights: weights.update({"model.1.weight": torch.zeros(4)})), "not a convolution"),
        (changed(lambda weights: weights["model.7.filt"].mul_(2), smooth_down=True), r"filter model\.7\.filt"),
    ],
)
def test_nothing_is_loaded_that_does_not_fit(saved: Save, content: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        read_foreign(saved(content))


def a_zip_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"text")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"", "net.pth", "an empty file"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "net.pth", "a web page"),
        (b'{"message": "Not Found"}', "net.pth", "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "net.pth", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "generator.h5", "Keras"),
        (b'model_checkpoint_path: "model.ckpt-9"', "checkpoint", "TensorFlow"),
        (b"\x00" * 20 + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "model.ckpt-9.index", "TensorFlow"),
        (b"\x00" * 40, "model.ckpt-9.data-00000-of-00001", "TensorFlow"),
        pytest.param(a_zip_of("readme.txt"), "net.zip", "a zip archive", id="zip"),  # its bytes hold the time
        (pickle.dumps({"epoch": 1}), "net.pkl", "a Python pickle"),
        (bytes(range(1, 200)), "net.pth", "not a checkpoint that cgpipe knows"),
    ],
)
def test_other_files_are_refused_with_what_they_look_like(tmp_path: Path, content: bytes, name: str, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError, match=says) as error:
        read_foreign(path)
    assert name in str(error.value)
    assert "weights_only" not in str(error.value)


def in_safetensors(content: Any, path: Path) -> None:
    save_file(content, path)


@pytest.mark.parametrize("write", [in_a_zip, in_the_old_format, in_safetensors])
@pytest.mark.parametrize("share", [0.002, 0.1, 0.5, 0.99])
def test_a_file_cut_short_is_called_so(tmp_path: Path, write: Callable[[Any, Path], None], share: float) -> None:
    path = tmp_path / "net.pth"
    write(junyanz_resnet(blocks=2).state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match=r"cut short|cut off|damaged"):
        read_foreign(path)


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file"):
        read_foreign(tmp_path / "none.pth")
    with pytest.raises(CgpipeError, match="directory"):
        read_foreign(tmp_path)


# --- the layouts themselves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "keys"),
    [
        (junyanz_resnet(blocks=9), 48),
        (junyanz_resnet(blocks=6), 36),
        (junyanz_resnet(blocks=9, norm="batch"), 140),
        (junyanz_resnet(blocks=6, norm="batch"), 104),
        (junyanz_resnet(blocks=9, smooth_down=True, smooth_up=True), 52),
        (junyanz_resnet(blocks=6, smooth_down=True, smooth_up=True), 40),
        (junyanz_unet(levels=7, ngf=1), 28),
        (junyanz_unet(levels=7, ngf=1, norm="batch"), 70),
        (junyanz_unet(levels=8, ngf=1), 32),
        (junyanz_unet(levels=8, ngf=1, norm="batch"), 82),
        (ancestor_resnet(blocks=9), 48),
        (ancestor_resnet(blocks=6, norm="batch"), 104),
    ],
)
def test_references_have_as_many_keys_as_real_files(network: nn.Module, keys: int) -> None:
    assert len(network.state_dict()) == keys


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


@pytest.mark.parametrize("dropout", [False, True])
def test_reference_resnet_has_the_published_keys(dropout: bool) -> None:
    convolutions = {"1": (64, 3, 7, 7), "4": (128, 64, 3, 3), "7": (256, 128, 3, 3)}
    for block in range(10, 19):
        for place in (1, 6 if dropout else 5):
            convolutions[f"{block}.conv_block.{place}"] = (256, 256, 3, 3)
    biases = {**dict.fromkeys(convolutions, 256), "1": 64, "4": 128, "19": 128, "22": 64, "26": 3}
    convolutions |= {"19": (256, 128, 3, 3), "22": (128, 64, 3, 3), "26": (3, 64, 7, 7)}
    expected = {f"model.{key}.weight": shape for key, shape in convolutions.items()}
    expected |= {f"model.{key}.bias": (count,) for key, count in biases.items()}
    with torch.device("meta"):
        assert shapes(junyanz_resnet(ngf=64, dropout=dropout)) == expected


def test_reference_of_cut_has_the_published_keys() -> None:
    with torch.device("meta"):
        found = shapes(junyanz_resnet(ngf=64, smooth_down=True, smooth_up=True))
    assert {key: shape for key, shape in found.items() if "conv_block" not in key and "bias" not in key} == {
        "model.1.weight": (64, 3, 7, 7),
        "model.4.weight": (128, 64, 3, 3),
        "model.7.filt": (128, 1, 3, 3),
        "model.8.weight": (256, 128, 3, 3),
        "model.11.filt": (256, 1, 3, 3),
        "model.21.filt": (256, 1, 4, 4),
        "model.22.weight": (128, 256, 3, 3),
        "model.25.filt": (128, 1, 4, 4),
        "model.26.weight": (64, 128, 3, 3),
        "model.30.weight": (3, 64, 7, 7),
    }


@pytest.mark.parametrize("levels", [7, 8])
@pytest.mark.parametrize("root", ["model", "unet_model"])
def test_reference_unet_has_the_published_keys(levels: int, root: str) -> None:
    widths = [64, 128, 256] + [512] * (levels - 3)
    expected: dict[str, tuple[int, ...]] = {f"{root}.model.0": (64, 3, 4, 4), f"{root}.model.3": (128, 3, 4, 4)}
    nest = f"{root}.model.1"
    for level in range(1, levels):
        outer, inner, innermost = widths[level - 1], widths[level], level == levels - 1
        expected[f"{nest}.model.1"] = (inner, outer, 4, 4)
        expected[f"{nest}.model.{3 if innermost else 5}"] = (inner if innermost else 2 * inner, outer, 4, 4)
        nest += ".model.3"
    with torch.device("meta"):
        found = shapes(junyanz_unet(ngf=64, levels=levels, root=root))
    weights = {key.removesuffix(".weight"): shape for key, shape in found.items() if key.endswith(".weight")}
    assert weights == expected
