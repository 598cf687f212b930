"""The whole way of a pair of one's own: two folders, one recipe, one command, and ``--to`` works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from runs import make_recipe
from shell import invoke

SETTINGS = {
    **{"source": "dawn", "target": "noon", "batch_size": 4, "epochs": 12, "decay_epoch": 8},
    **{"lr": 2e-3, "lamda": 1.0, "idt_coef": 0.0, "ema": 0.9, "stages": []},
}


def write_blobs(folder: Path, count: int, tint: tuple[int, int, int]) -> None:
    """Soft grey shapes in a light of one colour, blue, green, red."""
    noise = np.random.default_rng(count)
    folder.mkdir(parents=True)
    for index in range(count):
        grey = cv2.resize(noise.random((5, 5), np.float32), (40, 40), interpolation=cv2.INTER_CUBIC)
        pixels = 128 + 60 * (grey[..., None] - 0.5) + np.array(tint)
        cv2.imwrite(str(folder / f"{index}.png"), pixels.clip(0, 255).astype(np.uint8))


def warmth(folder: Path) -> float:
    """Mean of red less blue over the pictures of a folder."""
    pictures = np.stack([cv2.imread(str(path)) for path in sorted(folder.glob("*.png"))]).astype(float)
    return float(pictures[..., 2].mean() - pictures[..., 0].mean())


def detail(folder: Path) -> float:
    """Mean difference between neighbouring pixels of a row, over the pictures of a folder."""
    pictures = np.stack([cv2.imread(str(path)) for path in sorted(folder.glob("*.png"))]).astype(float)
    return float(np.abs(np.diff(pictures, axis=2)).mean())


@pytest.mark.slow
@pytest.mark.usefixtures("models_folder")
def test_from_two_folders_to_a_look(tmp_path: Path) -> None:
    data, run, photos = tmp_path / "data", tmp_path / "run", tmp_path / "photos"
    write_blobs(data / "trainA", 24, (-40, 0, 40))
    write_blobs(data / "trainB", 20, (40, 0, -40))
    write_blobs(photos, 5, (-40, 0, 40))
    recipe = make_recipe(tmp_path / "recipe.toml", data, **SETTINGS)

    folders = ["--checkpoint-dir", str(run), "--results-dir", str(run / "samples")]
    trained = invoke("train", "--config", recipe, *folders)
    assert trained.exit_code == 0, trained.output
    translated = invoke("translate", photos, "--to", "noon")
    assert translated.exit_code == 0, translated.output

    assert len(list((tmp_path / "photos-noon").glob("*.png"))) == 5
    assert warmth(photos) > 70
    assert warmth(tmp_path / "photos-noon") < 0  # untrained, or with a generator that does nothing, it would stay


def test_the_drawn_pair_can_be_trained_on(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "train" / "drawn_pair.py"
    subprocess.run([sys.executable, script, tmp_path / "balls"], check=True)
    counts = {folder.name: len(list(folder.iterdir())) for folder in (tmp_path / "balls").iterdir()}
    assert counts == {"trainA": 300, "trainB": 300, "testA": 24, "testB": 24}
    assert detail(tmp_path / "balls" / "trainB") > 1.5 * detail(tmp_path / "balls" / "trainA")
