"""Checkpoints of further projects, each held against an independent copy of its network; and whatever wraps them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_networks import ancestor_resnet, junyanz_resnet, junyanz_unet, patch_discriminator, randomise, run
from reference_others import UGATIT, AnimeGAN, TransformerNet, WhiteBox, WhiteBoxWBC, numbered_resnet
from shell import invoke
from torch import nn

from cgpipe.engine.translator import Translator
from cgpipe.errors import ModelError, UsageError
from cgpipe.models import import_model, load_any, load_model
from cgpipe.models.foreign import ForeignModel, read_foreign
from cgpipe.networks import build_generator

Save = Callable[[Any], Path]


class On255(nn.Module):
    """What a network on pixels from 0 to 255 makes of a picture in [-1, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network((x + 1) * 127.5) / 127.5 - 1


def check(model: ForeignModel, reference: nn.Module, size: int = 32) -> None:
    """The network does what the project's does, in double precision, and its settings build it again."""
    again = build_generator(model.architecture, **model.settings)
    again.load_state_dict(model.generator.state_dict(), strict=True)
    assert not model.generator.training
    expected = run(reference, size)
    tolerance = 1e-6 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(run(again.eval(), size), expected, rtol=0, atol=tolerance)


# --- kinds -----------------------------------------------------------------------------------------------------------

KINDS: Mapping[str, tuple[Callable[[], nn.Module], str, int]] = {
    "PyTorch-GAN": (lambda: numbered_resnet(up="resize"), "ResNet of PyTorch-GAN", 32),
    "PyTorch-GAN, 9 blocks": (lambda: numbered_resnet(up="resize", blocks=9), "ResNet of PyTorch-GAN", 32),
    "pix2pixHD": (
        lambda: numbered_resnet(ngf=2, steps=4, blocks=3, inside="conv_block"),
        "global generator of pix2pixHD",
        64,
    ),
    "three steps": (lambda: numbered_resnet(steps=3, blocks=6, inside="conv_block"), "ResNet of pytorch-CycleGAN", 32),
    "resize": (lambda: numbered_resnet(up="resize", inside="conv_block"), "resizing and convolving", 32),
    "resize and reflect": (
        lambda: numbered_resnet(up="reflect", mode="bilinear", inside="conv_block"),
        "resizing and convolving",
        32,
    ),
    "fast neural style": (lambda: On255(TransformerNet()), "fast neural style", 32),
    "U-GAT-IT": (UGATIT, "generator of U-GAT-IT", 32),
    "U-GAT-IT, light": (lambda: UGATIT(light=True), "U-GAT-IT, light", 48),
    "AnimeGANv2": (AnimeGAN, "AnimeGANv2", 32),
    "white-box": (WhiteBox, "white-box cartoonisation (White-box", 32),
    "white-box of traiNNer": (WhiteBoxWBC, "white-box cartoonisation (traiNNer", 32),
}


def inside(network: nn.Module) -> dict[str, torch.Tensor]:
    return dict((network.network if isinstance(network, On255) else network).state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_does_what_its_project_does(saved: Save, kind: str) -> None:
    make, recognised, size = KINDS[kind]
    reference = randomise(make())
    model = read_foreign(saved(inside(reference)))
    assert recognised in model.recognised_as
    check(model, reference, size)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_translates_and_is_imported(saved: Save, kind: str, models_folder: Path) -> None:
    make, _, _ = KINDS[kind]
    path = saved(inside(randomise(make())))
    entry = import_model(path, source="photo", target="drawing")
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    foreign, own = load_any(path), load_model(entry.path)
    result = Translator(foreign, precision="fp32")(picture)
    assert result.shape == picture.shape
    assert np.abs(Translator(own, precision="fp32")(picture).astype(int) - result).max() <= 1


def test_old_files_of_fast_neural_style_have_running_statistics(saved: Save) -> None:
    reference = randomise(On255(TransformerNet()))
    weights = inside(reference)
    weights |= {"in1.running_mean": torch.zeros(4), "res1.in1.running_var": torch.ones(16)}
    check(read_foreign(saved(weights)), reference)


def test_a_network_of_one_size_takes_any_picture(saved: Save) -> None:
    generator = read_foreign(saved(inside(randomise(UGATIT(size=64))))).generator
    assert generator.fixed_size == (64, 64)
    for height, width in ((64, 64), (100, 37), (20, 400), (1, 9)):
        assert generator(torch.rand(2, 3, height, width)).shape == (2, 3, height, width)


@pytest.mark.parametrize("kind", KINDS)
def test_one_tensor_less_or_of_another_shape_is_named(saved: Save, kind: str) -> None:
    make, _, _ = KINDS[kind]
    weights = inside(make())
    name = [key for key in weights if key.endswith("weight") and weights[key].ndim == 4][2]
    for change in ({name: weights[name][:, :, :1]}, {"extra.weight": torch.zeros(1)}):
        with pytest.raises(ModelError, match="|".join(change)):
            read_foreign(saved({**weights, **change}))
    weights.pop(name)
    with pytest.raises(ModelError):
        read_foreign(saved(weights))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["enc_content.model.0.conv.weight"], "MUNIT"),
        (["head_0.conv_0.weight_orig"], "SPADE"),
        (["model1_1.1.weight", "model.1.weight"], "local enhancer of pix2pixHD"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "diffusion"),
        (["conv_first.weight"], "upscaler"),
        (["down_convs.0.weight"], "pytorch-CartoonGAN"),
        (["mapping_network.shared.0.weight"], "StarGAN v2"),
        (["down1.model.0.weight"], "U-Net of PyTorch-GAN"),
        (["features.0.weight"], "classifier"),
    ],
)
def test_what_is_known_and_not_run_is_called_by_its_name(saved: Save, keys: list[str], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        read_foreign(saved({key: torch.zeros(1) for key in keys}))


# --- wrapping --------------------------------------------------------------------------------------------------------


def prefixed(prefix: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in weights.items()}


WRAPPINGS: Mapping[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "state_dict": lambda g, d: {"state_dict": g, "epoch": 3},
    "model": lambda g, d: {"model": g},
    "model_state_dict": lambda g, d: {"model_state_dict": g, "optimizer_state_dict": {"state": {}}},
    "generator": lambda g, d: {"generator": g, "discriminator": d},
    "netG": lambda g, d: {"netG": g, "netD": d},
    "Lightning": lambda g, d: {
        "state_dict": prefixed("netG.", g) | prefixed("netD.", d),
        "pytorch-lightning_version": "2.1",
        "hyper_parameters": {"lr": 1e-4},
        "callbacks": {"ModelCheckpoint": {"best": 0.5}},
    },
    "Lightning, a model inside": lambda g, d: {"state_dict": prefixed("model.", g) | prefixed("loss.vgg.", d)},
    "prefix generator.": lambda g, d: prefixed("generator.", g),
    "module. many times": lambda g, d: prefixed("module.module._orig_mod.module.", g),
    "module. inside": lambda g, d: {"state_dict": prefixed("module.netG.module.", g)},
    "running average": lambda g, d: {"params": {key: value + 1 for key, value in g.items()}, "params_ema": g},
    "running average beside": lambda g, d: {"g": prefixed("", {k: v * 2 for k, v in g.items()}), "g_ema": g, "d": d},
    "deep": lambda g, d: {"models": {"trainer": {"networks": {"G": g}}}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("make", [junyanz_resnet, junyanz_unet, ancestor_resnet, lambda: On255(TransformerNet())])
def test_a_generator_is_found_whatever_it_is_wrapped_in(
    saved: Save, wrapping: str, make: Callable[[], nn.Module]
) -> None:
    reference = randomise(make())
    discriminator = dict(patch_discriminator().state_dict())
    model = read_foreign(saved(WRAPPINGS[wrapping](inside(reference), discriminator)))
    check(model, reference, 128 if make is junyanz_unet else 32)
    assert any("running average" in note for note in model.notes) == ("running average" in wrapping)


PAIRS = {
    "G_AB, G_BA": ("G_AB", "G_BA"),
    "netG_A2B": ("netG_A2B", "netG_B2A"),
    "genA2B": ("genA2B", "genB2A"),
    "G_A, G_B": ("G_A", "G_B"),
    "netG_AtoB": ("netG_AtoB", "netG_BtoA"),
    "ancestor": ("Gba", "Gab"),
}


@pytest.mark.parametrize("names", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("flat", [False, True])
def test_a_direction_chooses_where_the_names_are_clear(saved: Save, names: tuple[str, str], flat: bool) -> None:
    networks = {name: randomise(junyanz_resnet(blocks=6), seed=seed) for seed, name in enumerate(names)}
    content: dict[str, Any] = {}
    for name, network in networks.items():
        content |= prefixed(f"{name}.", network.state_dict()) if flat else {name: network.state_dict()}
    path = saved({"state_dict": content} if flat else content)
    check(read_foreign(path, direction="AtoB"), networks[names[0]])
    check(read_foreign(path, direction="BtoA"), networks[names[1]])
    check(read_foreign(path, generator=names[1]), networks[names[1]])
    with pytest.raises(UsageError, match=r"both directions \(.*--direction AtoB"):
        read_foreign(path)


def test_several_generators_are_listed_and_one_is_named(saved: Save) -> None:
    networks = {name: randomise(junyanz_resnet(blocks=6), seed=seed) for seed, name in enumerate(("winter", "autumn"))}
    path = saved({"nets": {name: network.state_dict() for name, network in networks.items()}})
    with pytest.raises(UsageError, match=r"generators nets\.winter, nets\.autumn: choose one with --generator NAME"):
        read_foreign(path, direction="AtoB")
    check(read_foreign(path, generator="autumn"), networks["autumn"])
    check(read_foreign(path, generator="nets.winter"), networks["winter"])
    check(read_foreign(path, target="autumn"), networks["autumn"])
    with pytest.raises(UsageError, match=r"no generator summer .* nets\.winter, nets\.autumn"):
        read_foreign(path, generator="summer")


def test_the_commands_take_a_generators_name(saved: Save, models_folder: Path) -> None:
    weights = junyanz_resnet(blocks=6).state_dict()
    path = str(saved({"winter": weights, "autumn": weights}))
    assert "winter, autumn" in invoke("models", "show", path).output
    shown = invoke("models", "show", path, "--generator", "winter")
    assert shown.exit_code == 0, shown.output
    taken = invoke("models", "import", path, "--generator", "autumn", "--from", "summer", "--to", "autumn")
    assert taken.exit_code == 0, taken.output
    assert (models_folder / "summer2autumn.safetensors").exists()


def test_a_content_that_holds_itself_ends(saved: Save) -> None:
    content: dict[str, Any] = {"weights": junyanz_resnet(blocks=6).state_dict()}
    content["self"] = content
    assert read_foreign(saved(content)).architecture == "resnet_6blocks"
    with pytest.raises(ModelError, match="no generator"):
        read_foreign(saved({"a": {"b": {"c": {"d": {"e": {"f": content}}}}}}))


# --- files of other kinds --------------------------------------------------------------------------------------------


def archive_of(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (archive_of("net/archive_format", "net/models/model.json"), "net.pt2", "a damaged program of torch.export"),
        (archive_of("serialized_exported_program.json", "version"), "net.pt2", "a damaged program of torch.export"),
        (archive_of("net/archive_format", "net/version"), "net.pt2", r"torch\.export program .* without a graph"),
        (archive_of("metadata.json", "model.weights.h5"), "net.keras", "a Keras network"),
        (archive_of("arr_0.npy"), "net.npz", r"NumPy arrays \(\.npz\)"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(40), "net.tflite", "TensorFlow Lite"),
        (b"7767517\n75 83\nInput data 0 1 data\n", "net.param", "ncnn"),
        (b"ftrt" + bytes(40), "net.engine", "TensorRT"),
    ],
)
def test_files_of_other_kinds_are_called_by_their_names(tmp_path: Path, content: bytes, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=says):
        load_any(tmp_path / name)
