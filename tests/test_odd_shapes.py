"""Pictures of one pixel, of one line, and of a strip 20,000 pixels long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import card_of
from PIL import Image

import cgpipe
from cgpipe.engine.translator import Translator
from cgpipe.media.pictures.read import read_picture
from cgpipe.models import Model
from cgpipe.networks import build_generator

TINY = [(1, 1), (1, 2), (2, 2), (64, 1), (1, 64), (3, 3), (4, 4), (4, 64), (5, 9)]

NETWORKS = {
    "compact": {"channels": 16, "blocks": 1, "deep_channels": 16, "deep_blocks": 1, "padding": "reflect"},
    "compact of zeros": {"channels": 16, "blocks": 1, "deep_channels": 16, "deep_blocks": 1},
    "resnet": {"blocks": 1, "ngf": 4},
    "resnet of CUT": {"blocks": 1, "ngf": 4, "antialias": True},
    "resnet with batch norm": {"blocks": 1, "ngf": 4, "norm": "batch"},
    "unet": {"levels": 5, "ngf": 4},
}


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8, endpoint=True)


def model_of(name: str, scales: tuple[int, int] | None = None) -> Model:
    kind = name.split()[0]
    card = card_of(kind, training_size=None, working_scales=scales)
    return Model(card=card, generator=build_generator(kind, **NETWORKS[name]))


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_tiny_pictures_even_first(name: str, precision: str) -> None:
    for shape in TINY:
        translate = Translator(model_of(name), device="cpu", precision=precision)  # type: ignore[arg-type]
        assert translate(noise(*shape)).shape == (*shape, 3)


@pytest.mark.parametrize("size", range(1, 9))
def test_any_size_of_at_least_a_pixel_works(size: int) -> None:
    for name in ("compact", "resnet"):
        translate = Translator(model_of(name, (64, 128)), device="cpu", size=size)
        assert translate(noise(40, 70)).shape == (40, 70, 3)


def test_tiny_pictures_among_others_do_not_end_a_job(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, (height, width) in enumerate([*TINY, (40, 50)]):
        Image.fromarray(noise(height, width)).save(photos / f"{number}.png")
    report = cgpipe.translate_folder(photos, to="monet", source="photo", device="cpu")
    assert (report.translated, report.exit_code) == (len(TINY) + 1, 0)
    written = [read_picture(tmp_path / "photos-monet" / f"{number}.png") for number in range(len(TINY))]
    assert [frame.pixels.shape[:2] for frame in written] == TINY


def test_memory_goes_with_the_pixels_and_not_with_the_square_of_a_side() -> None:
    """A strip takes little more than a square picture of as many pixels at the working size, 2 megapixels."""
    program = """
import resource, numpy as np, cgpipe
translate = cgpipe.Translator.find(file="horse2zebra-fast", device="cpu", precision="fp32")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for height, width in ((8, 20000), (30000, 10)):
    translate(np.full((height, width, 3), 90, np.uint8))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_200_000, "kilobytes"
