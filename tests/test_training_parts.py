"""What a training run is made of."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cgpipe.errors import DataError, TrainingError, UsageError
from cgpipe.media.folders import find_pictures
from cgpipe.training.config import Stage, TrainConfig, load_config
from cgpipe.training.data import Place, UnpairedPictures, augment, epoch_length, training_batches
from cgpipe.training.losses import adversarial_loss, cycle_loss, discriminator_loss
from cgpipe.training.pool import ImagePool
from cgpipe.training.schedule import learning_rate_factor
from cgpipe.training.state import load_state, save_state


def pictures_in(folder: Path, count: int, side: int = 48) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(folder.name))
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), random.integers(0, 255, (side, side, 3), np.uint8))
    return find_pictures(folder)


SMALL = {"load_height": 40, "load_width": 40, "load_min": 32, "crop_height": 32, "crop_width": 32}


# -- configuration ---------------------------------------------------------------------------------------------------


def test_a_recipe_overrides_the_defaults_and_the_command_line_overrides_both(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('epochs = 7\nlr = 1\nsource = "summer"\n[gen_settings]\nchannels = 32\n')
    config = load_config(recipe, {"source": "day", "checkpoint_dir": tmp_path})
    assert (config.epochs, config.lr, config.source, config.checkpoint_dir) == (7, 1, "day", tmp_path)
    assert config.batch_size == TrainConfig().batch_size
    assert config.generator_settings() == {"norm": "instance", "channels": 32}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 7", "unknown setting 'epoch'"),
        ('epochs = "7"', "epochs must be of type int"),
        ("epochs = ", "not a TOML recipe"),
        ("epochs = 0", "greater than 0"),
        ("lamda = -1", "must not be negative"),
        ("crop_height = 300", "does not fit"),
        ('source = "zebra"', "different names"),
        ("[[stages]]\nepoch = 3", "stages"),
        ("[[stages]]\nfrom_epoch = 3\ncrop_width = 999", "does not fit"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(recipe, {})


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.toml"):
        load_config(tmp_path / "nothing.toml", {})


def test_the_recipe_of_the_shipped_models_is_the_default() -> None:
    recipe = load_config(Path(__file__).parent.parent / "train" / "horse2zebra.toml", {})
    assert replace(recipe, licence="unknown") == TrainConfig()


def test_stages_take_over_at_their_epoch_and_stay() -> None:
    config = TrainConfig(lamda=10.0, stages=(Stage(from_epoch=5, crop_height=96), Stage(from_epoch=2, lamda=5.0)))
    assert [(c.lamda, c.crop_height) for c in map(config.at_epoch, (0, 2, 5))] == [(10, 128), (5, 128), (5, 96)]


def test_what_the_command_line_says_holds_for_the_whole_run(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[[stages]]\nfrom_epoch = 3\nlamda = 1.0\nidt_coef = 0.1\n")
    config = load_config(recipe, {"lamda": 7.0}).at_epoch(3)
    assert (config.lamda, config.idt_coef) == (7.0, 0.1)
    assert load_config(None, {"lamda": 7.0}).at_epoch(3).lamda == 7.0
    recipe.write_text("lamda = 4.0")
    assert load_config(recipe, {}).at_epoch(3).lamda == 4.0


@pytest.mark.parametrize(
    ("epochs", "decay", "words"),
    [(40, 100, "40 epochs at"), (5, 5, "5 epochs at"), (200, 100, "from epoch 100")],
)
def test_the_schedule_is_said_in_words(epochs: int, decay: int, words: str) -> None:
    assert words in TrainConfig(epochs=epochs, decay_epoch=decay).schedule()


# -- data ------------------------------------------------------------------------------------------------------------


def test_pictures_are_found_below_folders_and_nothing_else_is(tmp_path: Path) -> None:
    pictures_in(tmp_path / "x" / "y", 2)
    (tmp_path / "x" / "notes.txt").write_text("no picture")
    (tmp_path / "x" / ".hidden.png").write_bytes(b"")
    assert [p.name for p in find_pictures(tmp_path / "x")] == ["0.png", "1.png"]


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="trainA"):
        find_pictures(tmp_path / "trainA")
    with pytest.raises(DataError, match="holds no pictures"):
        find_pictures(tmp_path)


@pytest.mark.parametrize(("a", "b", "batch", "steps"), [(10, 7, 1, 10), (10, 7, 4, 2), (1, 1, 4, 1)])
def test_an_epoch_shows_the_larger_set_once(a: int, b: int, batch: int, steps: int) -> None:
    assert epoch_length(a, b, batch) == steps


def test_an_epoch_shows_every_picture_of_the_larger_set_and_the_smaller_one_in_turn(tmp_path: Path) -> None:
    for domain, count in (("a", 6), ("b", 3)):
        folder = tmp_path / domain
        folder.mkdir()
        for index in range(count):
            cv2.imwrite(str(folder / f"{index}.png"), np.full((40, 40, 3), 20 * index, np.uint8))
    dataset = UnpairedPictures(find_pictures(tmp_path / "a"), find_pictures(tmp_path / "b"), TrainConfig(**SMALL))  # type: ignore[arg-type]
    shown = [dataset[Place(0, index)] for index in range(6)]
    grey = {d: sorted(round((float(s[d].mean()) + 1) * 127.5 / 20) for s in shown) for d in "ab"}
    assert grey == {"a": [0, 1, 2, 3, 4, 5], "b": [0, 0, 1, 1, 2, 2]}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_taken_up_anywhere(tmp_path: Path, workers: int) -> None:
    a, b = pictures_in(tmp_path / "a", 9), pictures_in(tmp_path / "b", 5)
    whole = list(training_batches(UnpairedPictures(a, b, TrainConfig(**SMALL)), 3, 0, 4))  # type: ignore[arg-type]
    config = TrainConfig(workers=workers, **SMALL)  # type: ignore[arg-type]
    rest = list(training_batches(UnpairedPictures(a, b, config), 3, 2, 4))
    assert len(whole) == 4
    assert len(rest) == 2
    for expected, batch in zip(whole[2:], rest, strict=True):
        assert torch.equal(expected["a"], batch["a"])
        assert torch.equal(expected["b"], batch["b"])


def test_seeds_and_epochs_differ(tmp_path: Path) -> None:
    a = pictures_in(tmp_path / "a", 5)
    first = [
        UnpairedPictures(a, a, TrainConfig(seed=seed, **SMALL))[Place(epoch, 0)]["a"]  # type: ignore[arg-type]
        for seed, epoch in itertools.product((0, 1), (0, 1))
    ]
    assert not any(torch.equal(x, y) for x, y in itertools.combinations(first, 2))


def test_crops_lie_within_pictures_of_every_size() -> None:
    config = TrainConfig(**SMALL)  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    for height, width in ((10, 10), (500, 20), (32, 32)):
        crop = augment(np.full((height, width, 3), 7, np.uint8), config, random)
        assert crop.shape == (32, 32, 3)
        assert (crop == 7).all()


# -- losses, pool, schedule ------------------------------------------------------------------------------------------


def test_lsgan_is_the_squared_distance_from_what_is_claimed() -> None:
    judgement = [(1.0, torch.tensor([[0.0, 2.0]])), (0.5, torch.tensor([[3.0]]))]
    assert adversarial_loss(judgement, real=True) == pytest.approx(1 + 0.5 * 4)
    assert adversarial_loss(judgement, real=False) == pytest.approx(2 + 0.5 * 9)
    assert discriminator_loss(judgement, judgement) == pytest.approx(0.5 * (3 + 6.5))


def test_the_cycle_loss_is_the_mean_difference() -> None:
    assert cycle_loss(torch.zeros((1, 3, 2, 2)), torch.full((1, 3, 2, 2), -0.25)) == 0.25


def test_a_pool_fills_first_and_then_gives_back_old_pictures_half_of_the_time() -> None:
    pool = ImagePool(10, seed=1)
    numbers = torch.arange(1000.0)[:, None, None, None]
    given = pool.exchange(numbers).flatten()
    assert torch.equal(given[:10], numbers.flatten()[:10])
    fresh = (given[10:] == numbers.flatten()[10:]).float().mean()
    assert 0.45 < fresh < 0.55
    assert len(set(given[10:].tolist())) == 990  # What was exchanged is gone.


def test_a_pool_goes_on_from_its_state() -> None:
    pool, other = ImagePool(4, seed=1), ImagePool(4, seed=2)
    pool.exchange(torch.rand((9, 3, 2, 2)))
    other.load_state_dict(pool.state_dict())
    more = torch.rand((20, 3, 2, 2))
    assert torch.equal(pool.exchange(more), other.exchange(more))


def test_no_pool_gives_back_what_comes() -> None:
    pictures = torch.rand((3, 3, 2, 2))
    assert ImagePool(0).exchange(pictures) is pictures


@pytest.mark.parametrize(
    ("epoch", "epochs", "decay", "factor"),
    [(0, 200, 100, 1), (100, 200, 100, 1), (150, 200, 100, 0.5), (200, 200, 100, 0), (39.9, 40, 100, 1), (5, 5, 5, 1)],
)
def test_the_learning_rate_falls_linearly_after_the_decay_epoch(
    epoch: float, epochs: int, decay: int, factor: float
) -> None:
    assert learning_rate_factor(epoch, epochs=epochs, decay_epoch=decay) == pytest.approx(factor)


# -- state -----------------------------------------------------------------------------------------------------------


def test_state_comes_back(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", {"x": torch.arange(3), "y": {"z": [1, "two"]}})
    state = load_state(tmp_path / "state.pt")
    assert torch.equal(state["x"], torch.arange(3))
    assert state["y"] == {"z": [1, "two"]}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path / "state.pt", {"step": 1})
    (tmp_path / ".state.pt.partial").symlink_to("/dev/full")
    with pytest.raises(TrainingError, match="last good state is kept"):
        save_state(tmp_path / "state.pt", {"step": 2})
    assert load_state(tmp_path / "state.pt")["step"] == 1


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off"])
def test_a_missing_or_damaged_state_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "state.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"state\.pt"):
        load_state(path)
