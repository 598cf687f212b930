"""What can be asked for: checks, keywords, and the fingerprint of what decides a result."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cgpipe import options
from cgpipe.errors import CgpipeWarning, ModelError, UsageError
from cgpipe.models.choose import choose_model
from cgpipe.options import Cut, Encoding, Group, Hardware, Look, ModelChoice, Options, Work, takes_options

MODEL = {"content": "00"}

OTHER: dict[str, Any] = {
    "to": "zebra",
    "source": "horse",
    "model": "x.safetensors",
    "direction": "BtoA",
    "generator": "netG_A",
    "model_inputs": ("style=1",),
    "like": ("painting.jpg",),
    "like_steps": 7,
    "like_strength": 2.0,
    "like_now": True,
    "batch_statistics": True,
    "size": 512,
    "strength": 0.5,
    "mask": "mask.png",
    "tile": 512,
    "tile_mode": "fast",
    "side_by_side": True,
    "steady": 0.5,
    "deinterlace": False,
    "device": "cpu",
    "precision": "fp32",
    "engine": "eager",
    "batch_size": 4,
    "hwaccel": "cuda",
    "format": "png",
    "quality": 80,
    "codec": "hevc",
    "crf": 20.0,
    "preset": "slow",
    "pix_fmt": "yuv420p",
    "audio": False,
    "start": 1.0,
    "end": 2.0,
    "fps": 25.0,
    "duration": 3.0,
    "workers": 3,
    "ahead": 5,
    "overwrite": True,
    "checksum": True,
    "recursive": False,
    "shard": "2/8",
    "ray": "local",
}
"""Another value than the default for every field that there is."""

NEVER = {
    "to",
    "source",
    "model",
    "direction",
    "generator",
    "model_inputs",
    "like",
    "like_steps",
    "like_strength",
    "like_now",
    "batch_statistics",
    "device",
    "precision",
    "engine",
    "batch_size",
} | {
    "tile",
    "hwaccel",
    "format",
    "workers",
    "ahead",
    "overwrite",
    "checksum",
    "recursive",
    "shard",
    "ray",
}
"""What decides nothing by itself; a model's part is told by what was chosen."""


def every_field() -> list[str]:
    return [option.name for group in vars(Options()).values() for option in fields(group)]


@pytest.mark.parametrize("name", every_field())
def test_every_field_counts_unless_it_says_that_it_does_not(name: str) -> None:
    plain, other = Options(), Options.gather({name: OTHER[name]})
    assert (plain.fingerprint(MODEL) == other.fingerprint(MODEL)) == (name in NEVER)
    of_pictures = plain.fingerprint(MODEL, pictures_only=True) == other.fingerprint(MODEL, pictures_only=True)
    assert of_pictures == (name in NEVER | {"audio"})


def test_a_field_that_is_added_counts_by_itself_and_only_where_it_is_used() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class NewLook(Look):
        grain: float = options.option(0.0)

    before = Options(look=Look(strength=0.5)).fingerprint(MODEL)
    assert Options(look=NewLook(strength=0.5)).fingerprint(MODEL) == before
    assert Options(look=NewLook(strength=0.5, grain=1.0)).fingerprint(MODEL) != before


def test_other_pixels_or_another_model_are_another_result(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Options().fingerprint(MODEL)
    assert Options().fingerprint({"content": "01"}) != before
    monkeypatch.setattr(options, "PIXELS_VERSION", options.PIXELS_VERSION + 1)
    assert Options().fingerprint(MODEL) != before


def test_of_a_mask_the_content_counts_and_not_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    one.write_bytes(b"mask")
    two.write_bytes(b"mask")
    os.utime(two, ns=(0, 5))

    def told(mask: str | Path) -> str:
        return Options.gather({"mask": mask}).fingerprint(MODEL)

    before = told(one)
    assert told(two) == told(str(one)) == before
    monkeypatch.chdir(tmp_path)
    assert told("one.png") == before
    one.write_bytes(b"maSk")
    assert told(one) != before
    assert Options.gather({"preset": "one.png"}).fingerprint(MODEL) == replace(
        Options(), encoding=Encoding(preset="one.png")
    ).fingerprint(MODEL)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Look(size=0), "at least 1 pixel"),
        (lambda: Look(size="large"), "'large' is not a valid value"),  # type: ignore[arg-type]
        (lambda: Look(strength=2.5), "strength must be between 0 and 2"),
        (lambda: Look(strength=float("nan")), "strength"),
        (lambda: ModelChoice(direction="AB"), "direction 'AB'"),  # type: ignore[arg-type]
        (lambda: Hardware(batch_size=0), "batch_size must be at least 1"),
        (lambda: Encoding(quality=101), "quality must be between 1 and 100"),
        (lambda: Work(workers=-1), "workers must be at least 0"),
        (lambda: Work(ahead=0), "ahead must be at least 1"),
    ],
)
def test_values_that_cannot_be_used(make: Callable[[], Group], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_keywords_are_fields_and_whole_groups() -> None:
    look = Look(strength=0.5)
    gathered = Options.gather({"look": look, "size": 128, "to": "zebra", "workers": 0})
    assert gathered == Options(choice=ModelChoice(to="zebra"), look=Look(strength=0.5, size=128), work=Work(workers=0))
    assert Options.gather({}, "video") == Options()
    assert Options.gather({"cut": None, "end": 3}, "video").cut == Cut(end=3)


def test_a_function_shows_the_options_that_it_takes() -> None:
    @takes_options("pictures")
    def translate(inputs: str, *, options: Options) -> Options:
        """What it does."""
        return options

    assert translate("x", to="zebra", look=Look(size=7)) == Options(choice=ModelChoice(to="zebra"), look=Look(size=7))
    shown = inspect.signature(translate).parameters
    assert {"inputs", "to", "strength", "quality", "look"} < set(shown)
    assert not {"options", "crf", "audio"} & set(shown)
    assert shown["strength"].default == 1.0
    with pytest.raises(TypeError, match=r"translate\(\): unexpected keyword argument 'crf'"):
        translate("x", crf=3)
    with pytest.raises(TypeError, match="'strenght'; did you mean 'strength'"):
        translate("x", strenght=3)


def test_who_hears_of_a_job_is_a_group_too() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Told:
        on_result: Callable[[str], None] | None = None
        progress: bool | None = None

    @takes_options("pictures", told=Told)
    def translate(inputs: str, *, options: Options, told: Told, gallery: bool = False) -> tuple[Told, float, bool]:
        return told, options.look.strength, gallery

    assert translate("x", progress=True, strength=0.5, gallery=True) == (Told(progress=True), 0.5, True)
    shown = list(inspect.signature(translate).parameters)
    assert shown[:4] == ["inputs", "gallery", "on_result", "progress"] and "told" not in shown
    with pytest.raises(TypeError, match="'on_resul'"):
        translate("x", on_resul=print)


def test_a_model_of_ours_decides_by_its_content_alone(models_folder: Path, file_model: Any) -> None:
    path = file_model(models_folder, "horse", "zebra")
    chosen = choose_model(ModelChoice(to="zebra"))
    assert chosen.domain == "zebra"
    by_name = choose_model(ModelChoice(model="horse2zebra"))
    assert by_name.domain == "zebra"
    assert chosen.deciding == by_name.deciding == choose_model(ModelChoice(model=path, direction="BtoA")).deciding
    moved = path.rename(models_folder / "other.safetensors")
    assert choose_model(ModelChoice(model=moved)).deciding == chosen.deciding
    file_model(models_folder, "horse", "zebra")
    assert choose_model(ModelChoice(model="horse2zebra")).deciding != chosen.deciding
    assert chosen.load.__self__ is chosen
    (models_folder / "broken.safetensors").write_bytes(b"no model")
    with pytest.warns(CgpipeWarning, match="broken"):
        assert choose_model(ModelChoice(to="zebra")).load().card.target == "zebra"


def test_the_way_through_a_foreign_file_decides(tmp_path: Path) -> None:
    path = tmp_path / "both.pth"
    torch.save({"Gab": {}, "Gba": {}}, path)
    ways = [
        ModelChoice(model=path),
        ModelChoice(model=path, direction="AtoB"),
        ModelChoice(model=path, direction="BtoA"),
        ModelChoice(model=path, batch_statistics=True),
        ModelChoice(model=path, to="zebra"),
    ]
    assert len({Options().fingerprint(choose_model(way).deciding) for way in ways}) == len(ways)
    path.unlink()
    with pytest.raises(ModelError):
        choose_model(ways[0])


def test_tiles_count_where_they_decide_the_pixels() -> None:
    plain, sized = Options(), Options(look=Look(tile=512))
    fast, fast_sized = Options(look=Look(tile_mode="fast")), Options(look=Look(tile=512, tile_mode="fast"))
    assert plain.fingerprint(MODEL) == sized.fingerprint(MODEL)
    assert len({each.fingerprint(MODEL) for each in (plain, fast, fast_sized)}) == 3


@pytest.mark.parametrize("given", [{"tile": 63}, {"tile": "no"}, {"tile_mode": "quick"}])
def test_tiles_of_no_use_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="tile"):
        Look(**given)
