"""What a training run is made of."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cgpipe.data.dataset import find_sample_pictures, find_training_pictures, sets_to_test_on
from cgpipe.data.direction import A_TO_B
from cgpipe.data.loading import augment, load_8_bits, resize
from cgpipe.data.pictures import find_pictures
from cgpipe.data.unpaired import Epoch, TrainingPictures, pictures_in_epoch, training_batches
from cgpipe.errors import DataError, TrainingError, UsageError
from cgpipe.networks import GENERATORS, build_generator
from cgpipe.training.augment import diffaugment
from cgpipe.training.collapse import CollapseWatch
from cgpipe.training.config import Stage, TrainConfig, load_config
from cgpipe.training.device_plan import plan_device
from cgpipe.training.distill_config import load_distill_config
from cgpipe.training.losses import cycle_loss, discriminator_loss, generator_loss, gradient_penalty, patch_nce
from cgpipe.training.methods import build_method
from cgpipe.training.pool import ImagePool
from cgpipe.training.schedule import Plateau, learning_rate_factor
from cgpipe.training.state import load_state, save_state


def pictures_in(folder: Path, count: int, side: int = 48) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(folder.name))
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), random.integers(0, 255, (side, side, 3), np.uint8))
    return find_pictures(folder)


SMALL = {"load_height": 40, "load_width": 40, "load_min": 32, "crop_height": 32, "crop_width": 32}


RECIPES = sorted(Path(__file__).parents[1].glob("train/*.toml"))


# -- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_recipes_of_the_shipped_models_can_be_read(recipe: Path) -> None:
    if recipe.name == "fast.toml":
        assert load_distill_config(recipe, {"teacher": "x"}).student == "compact-xs"
    else:
        papers = {"cyclegan-paper.toml": "resnet_9blocks", "pix2pix.toml": "unet_256"}
        assert load_config(recipe, {}).gen_net.startswith(papers.get(recipe.name, "compact"))


def test_a_recipe_overrides_the_defaults_and_the_command_line_overrides_both(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('epochs = 7\nlr = 1\nsource = "summer"\n[gen_settings]\nchannels = 32\n')
    config = load_config(recipe, {"source": "day", "checkpoint_dir": tmp_path})
    assert (config.epochs, config.lr, config.source, config.checkpoint_dir) == (7, 1, "day", tmp_path)
    assert config.batch_size == TrainConfig().batch_size
    assert config.generator_settings() == {"norm": "instance", "channels": 32}


def test_a_recipe_may_begin_with_a_bom_and_name_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'dataset_dir = "~/data"\r\nmethod = "style"\r\nphotos = "p"\r\nlike = ["~/a.jpg", "b.jpg"]\r\n',
        encoding="utf-8-sig",
    )
    config = load_config(recipe, {})
    assert (config.dataset_dir, config.like) == (tmp_path / "data", (tmp_path / "a.jpg", Path("b.jpg")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 7", "unknown setting 'epoch'.* Did you mean epochs"),
        ("version = 2", "of a newer cgpipe. Known: preprocess"),
        ('checkpoint_dir = "C:\\runs\\new"', "control character"),
        ('epochs = "7"', "epochs must be of type int"),
        ("epochs = ", "not a TOML recipe"),
        ("epochs = 0", "greater than 0"),
        ("lamda = -1", "must not be negative"),
        ("crop_height = 300", "does not fit"),
        ("load_height = 80\nload_min = 140", "load_min 140"),
        ('preprocess = "none"\nbatch_size = 1\nload_height = 80\nload_min = 140', "load_min 140"),
        ('source = "zebra"', "different names"),
        ("[[stages]]\nepoch = 3", "stages"),
        ('gan_loss = "least squares"', "gan_loss must be one of lsgan, vanilla"),
        ('freeze = "discriminator_c"', "freeze takes a_to_b"),
        ('freeze = "a_to_b,b_to_a,discriminator_a,discriminator_b"', "nothing would be trained"),
        ('direction = "BtoA"', "cyclegan trains both directions"),
        ('method = "cut"\nfreeze = "b_to_a"', "freeze takes a_to_b, discriminator_b, not 'b_to_a'"),
        ('method = "cut"\ndirection = "BtoA"\ninit_a_to_b = "x"', "has no a_to_b"),
        ('method = "pix3pix"', "method must be one of cyclegan, cut, fastcut, pix2pix"),
        ('method = "cut"\nmasks_b = "x"', "translates no b"),
        ("nce_weight = -1", "must not be negative"),
        ('preprocess = "none"', "batch_size to 1, or crop"),
        ('preprocess = "scale_width"\nbatch_size = 1\ngan_loss = "wgan-gp"', "must have one size"),
        ('preprocess = "zoom"', "preprocess must be one of resize_and_crop, scale_width"),
        ('diffaugment = "colour"', "diffaugment takes color"),
        ('gen_net = "whitebox"', "gen_net 'whitebox' is not one of compact"),
        ('gan_loss = "hinge"\nlabel_smoothing = 0.1', "no labels to smooth"),
        ("label_smoothing = 1.0", "less than 1"),
        ('gan_loss = "wgan-gp"\nnorm = "batch"', "batch norm mixes"),
        ("[[stages]]\nfrom_epoch = 3\ncrop_width = 999", "does not fit"),
        ("feature_taps = []", "feature_taps takes blocks"),
        ('target = "Zebra"', "target must consist of lowercase letters"),
        ("moment_taps = [4, 17]", "0 to 16 in rising order"),
        ("moment_taps = [4, 2]", "0 to 16 in rising order"),
        ("moment_lite1_taps = [22]", "EfficientNet-Lite1, 0 to 21 in rising order"),
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


RECIPES = Path(__file__).parent.parent / "train"


@pytest.mark.parametrize(
    "name", [*sorted({path.name for path in RECIPES.glob("*2*.toml")} - {"pix2pix.toml"}), "balls.toml"]
)
def test_the_recipes_can_be_read(name: str) -> None:
    config = load_config(RECIPES / name, {})
    assert config.licence == "Apache-2.0"
    assert config.decay_epoch < config.epochs


def test_the_recipe_of_the_shipped_models_is_the_default() -> None:
    recipe = load_config(RECIPES / "horse2zebra.toml", {})
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
    [
        (40, 100, "40 epochs at learning rate 0.0002 throughout (it would fall from epoch 100 on)"),
        (5, 5, "5 epochs at learning rate 0.0002 throughout"),
        (200, 100, "from epoch 100 on falling linearly to 0"),
    ],
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


def test_linked_folders_and_files_are_followed_and_loops_end(tmp_path: Path) -> None:
    pictures_in(tmp_path / "elsewhere", 2)
    pictures_in(tmp_path / "set" / "own", 1)
    try:
        (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (tmp_path / "set" / "own" / "loop").symlink_to(tmp_path / "set", target_is_directory=True)
        (tmp_path / "set" / "file.png").symlink_to(tmp_path / "elsewhere" / "0.png")
        (tmp_path / "whole").symlink_to(tmp_path / "set", target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")
    found = [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path / "whole")]
    assert found == ["whole/file.png", "whole/linked/0.png", "whole/linked/1.png", "whole/own/0.png"]


def test_a_list_names_pictures_relative_to_its_folder_in_its_order(tmp_path: Path) -> None:
    pictures_in(tmp_path / "sets" / "summer", 3)
    list_file = tmp_path / "sets" / "summer.txt"
    list_file.write_text(f"summer/2.png\n\n{tmp_path / 'sets' / 'summer' / '0.png'}\n")
    assert [path.name for path in find_pictures(list_file)] == ["2.png", "0.png"]
    for text, message in (
        ("summer/2.png\n\nsummer/7.png\n", r"summer\.txt, line 3: there is no file .*7\.png"),
        ("\n \n", "is empty"),
        ("summer.txt", "line 1: .* is not a picture"),
        ("summer", "line 1: there is no file"),
    ):
        list_file.write_text(text)
        with pytest.raises(DataError, match=message):
            find_pictures(list_file)
    list_file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as a list"):
        find_pictures(list_file)
    with pytest.raises(DataError, match=r"There is no list .*winter\.txt"):
        find_pictures(tmp_path / "winter.txt")


def test_both_domains_must_differ_and_be_named(tmp_path: Path) -> None:
    pictures_in(tmp_path / "summer", 1)
    for other in ("summer", "summer/../summer"):
        config = TrainConfig(domain_a=tmp_path / "summer", domain_b=tmp_path / other)
        with pytest.raises(DataError, match="Both domains are"):
            find_training_pictures(config)
    with pytest.raises(UsageError, match="name both"):
        TrainConfig(domain_a=tmp_path / "summer")


def test_the_test_set_of_a_dataset_is_not_taken_for_pictures_from_elsewhere(tmp_path: Path) -> None:
    pictures_in(tmp_path / "dataset" / "testA", 1)
    pictures_in(tmp_path / "dataset" / "testB", 1)
    own = [*pictures_in(tmp_path / "summer", 2)]
    domains = {"domain_a": tmp_path / "summer", "domain_b": tmp_path / "winter"}
    plain = TrainConfig(dataset_dir=tmp_path / "dataset", source="summer", target="winter")
    assert find_sample_pictures(plain, "a", own) == [tmp_path / "dataset" / "testA" / "0.png"]
    assert sets_to_test_on(plain, "winter") == (tmp_path / "dataset" / "testB", tmp_path / "dataset" / "testA")
    elsewhere = replace(plain, **domains)
    assert find_sample_pictures(elsewhere, "a", own) == own
    with pytest.raises(DataError, match="--test-a and --test-b"):
        sets_to_test_on(elsewhere, "summer")
    named = replace(elsewhere, test_a=tmp_path / "dataset" / "testB", test_b=tmp_path / "nothing")
    assert find_sample_pictures(named, "a", own) == [tmp_path / "dataset" / "testB" / "0.png"]
    with pytest.raises(DataError, match=r"There is no folder .*nothing"):
        find_sample_pictures(named, "b", own)


@pytest.mark.parametrize(("a", "b", "batch", "steps"), [(10, 7, 1, 10), (10, 7, 4, 2), (1, 1, 4, 1)])
def test_an_epoch_shows_the_larger_set_once(a: int, b: int, batch: int, steps: int) -> None:
    assert pictures_in_epoch(a, b, batch) == steps * batch


def test_an_epoch_shows_every_picture_of_the_larger_set_and_the_smaller_one_in_turn(tmp_path: Path) -> None:
    for domain, count in (("a", 6), ("b", 3)):
        folder = tmp_path / domain
        folder.mkdir()
        for index in range(count):
            cv2.imwrite(str(folder / f"{index}.png"), np.full((40, 40, 3), 20 * index, np.uint8))
    sets = TrainingPictures(find_pictures(tmp_path / "a"), find_pictures(tmp_path / "b"))
    epoch = Epoch(sets, 0, TrainConfig(**SMALL))  # type: ignore[arg-type]
    shown = [epoch[place].pictures for place in range(6)]
    grey = {d: sorted(round((float(s[d].mean()) + 1) * 127.5 / 20) for s in shown) for d in "ab"}
    assert grey == {"a": [0, 1, 2, 3, 4, 5], "b": [0, 0, 1, 1, 2, 2]}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_taken_up_anywhere(tmp_path: Path, workers: int) -> None:
    a, b = pictures_in(tmp_path / "a", 9), pictures_in(tmp_path / "b", 5)
    config = TrainConfig(**SMALL)  # type: ignore[arg-type]
    whole = list(training_batches(TrainingPictures(a, b), config, epoch=3))
    rest = list(training_batches(TrainingPictures(a, b), config, epoch=3, first=4, workers=workers))
    assert len(whole) == 4
    assert len(rest) == 2
    for expected, batch in zip(whole[2:], rest, strict=True):
        assert torch.equal(expected["a"], batch["a"])
        assert torch.equal(expected["b"], batch["b"])


def test_seeds_and_epochs_differ(tmp_path: Path) -> None:
    a = pictures_in(tmp_path / "a", 5)
    first = [
        Epoch(TrainingPictures(a, a, seed=seed), epoch, TrainConfig(**SMALL))[0].pictures["a"]  # type: ignore[arg-type]
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


def coordinates(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture whose pixels say where they are: red the row, green the column, in 255ths of the sides."""
    rows, columns = np.linspace(0, 255, height), np.linspace(0, 255, width)
    grid = np.stack([*np.meshgrid(rows, columns, indexing="ij"), np.zeros((height, width))], axis=-1)
    return grid.round().astype(np.uint8)


def shown_share(pixels: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Which part of the height and the width of a picture of coordinates is there."""
    spans = [float(np.ptp(pixels[..., channel])) / 255 for channel in (0, 1)]
    return spans[0], spans[1]


@pytest.mark.parametrize(
    ("preprocess", "size", "shares"),
    [
        # A picture of 96 by 64 (width by height), load 60 by 48, crop 32.
        ("resize_and_crop", (32, 32), (32 / 48, 32 / 60)),
        ("scale_width", (40, 60), (1, 1)),
        ("scale_width_and_crop", (32, 32), (32 / 40, 32 / 60)),
        ("scale_shortest", (48, 72), (1, 1)),
        ("scale_shortest_and_crop", (32, 32), (32 / 48, 32 / 72)),
        ("crop", (32, 32), (32 / 64, 32 / 96)),
        ("none", (64, 96), (1, 1)),
    ],
)
def test_every_way_to_prepare_pictures_does_what_it_says(
    preprocess: Any, size: tuple[int, int], shares: tuple[float, float]
) -> None:
    sizes = {"load_height": 48, "load_width": 60, "load_min": 0, "crop_height": 32, "crop_width": 32}
    config = TrainConfig(preprocess=preprocess, batch_size=1, stages=(), **sizes)  # type: ignore[arg-type]
    shown = augment(coordinates(64, 96), config, np.random.default_rng(0))
    assert shown.shape == (*size, 3)
    assert shown_share(shown) == pytest.approx(shares, abs=0.04)


@pytest.mark.parametrize("preprocess", ["scale_width_and_crop", "scale_shortest_and_crop", "crop"])
def test_a_picture_smaller_than_the_crop_is_enlarged_in_its_shape(preprocess: Any) -> None:
    config = TrainConfig(
        preprocess=preprocess, load_min=0, load_height=20, load_width=20, crop_height=32, crop_width=32
    )
    shown = augment(coordinates(20, 40), config, np.random.default_rng(0))
    assert shown.shape == (32, 32, 3)
    assert shown_share(shown) == pytest.approx((1, 0.5), abs=0.04)


@pytest.mark.parametrize(("preprocess", "size"), [("none", (64, 96)), ("scale_width", (48, 64))])
def test_without_a_crop_sides_are_what_the_generator_takes(preprocess: Any, size: tuple[int, int]) -> None:
    config = TrainConfig(preprocess=preprocess, batch_size=1, load_min=0, load_width=66, stages=())
    assert augment(coordinates(70, 99), config, np.random.default_rng(0), multiple=16).shape[:2] == size


@pytest.mark.parametrize(("multiple", "least", "size"), [(4, 24, (24, 48)), (16, 24, (32, 64)), (8, 72, (72, 144))])
def test_without_a_crop_a_tiny_picture_is_enlarged_in_its_shape(
    multiple: int, least: int, size: tuple[int, int]
) -> None:
    config = TrainConfig(preprocess="none", batch_size=1, stages=())
    enlarged = augment(coordinates(3, 6), config, np.random.default_rng(0), multiple=multiple, least=least)
    assert enlarged.shape[:2] == size


def test_sizes_vary_with_load_min_in_every_shape() -> None:
    random = np.random.default_rng(0)
    for preprocess, sides in (("scale_width", 1), ("scale_shortest", 0)):
        config = TrainConfig(preprocess=preprocess, batch_size=1, load_height=60, load_width=60, load_min=50, stages=())  # type: ignore[arg-type]
        found = {augment(coordinates(30, 60), config, random).shape[sides] for _ in range(60)}
        assert found == set(range(50, 61))


def test_pictures_are_mirrored_half_of_the_time_or_never() -> None:
    random, picture = np.random.default_rng(0), coordinates(8, 8)
    for flip, least, most in ((True, 20, 44), (False, 0, 0)):
        config = TrainConfig(preprocess="none", batch_size=1, flip=flip, stages=())
        mirrored = [bool((augment(picture, config, random) == picture[:, ::-1]).all()) for _ in range(64)]
        assert least <= sum(mirrored) <= most


def test_the_default_preparation_is_a_resized_square_a_crop_and_a_flip() -> None:
    picture = np.random.default_rng(1).integers(0, 255, (300, 200, 3), np.uint8)
    for seed in range(8):
        random = np.random.default_rng(seed)
        side = int(random.integers(140, 280, endpoint=True))
        top, left = (int(random.integers(0, side - 128, endpoint=True)) for _ in range(2))
        crop = resize(picture, side, side)[top : top + 128, left : left + 128]
        expected = crop[:, ::-1] if random.random() < 0.5 else crop
        assert (augment(picture, TrainConfig(), np.random.default_rng(seed)) == expected).all()


SHAPES = [
    *[((256, 512), (286, 286)), ((512, 256), (286, 286)), ((200, 800), (256, 256)), ((300, 1200), (310, 310))],
    *[((100, 600), (128, 128)), ((600, 100), (128, 128)), ((64, 64), (280, 280)), ((5, 7), (40, 3)), ((1, 90), (9, 9))],
]


@pytest.mark.parametrize(("before", "after"), SHAPES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_each_side_is_resized_as_it_needs_like_pillow(
    before: tuple[int, int], after: tuple[int, int], channels: int
) -> None:
    # Without black and white, where it would matter which side is resized, and clipped, first.
    pixels = np.random.default_rng(0).integers(70, 186, (*before, channels), np.uint8)
    ours, exact = resize(pixels, *after), resize(pixels.astype(np.float32), *after)
    planes = [Image.fromarray(pixels[..., c]).resize(after[::-1], Image.Resampling.BICUBIC) for c in range(channels)]
    theirs = np.stack([np.asarray(plane) for plane in planes], axis=-1).astype(int)
    assert ours.dtype == np.uint8 and exact.dtype == np.float32
    for made in (ours, exact.round()):
        difference = np.abs(made - theirs)
        assert difference.max() <= 2 and difference.mean() < 0.3  # Pillow rounds between the two passes


def test_wide_pictures_are_not_aliased() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 512, 3), np.uint8)
    assert resize(noise, 286, 286).std() == pytest.approx(44.9, abs=0.5)
    stripes = np.tile(np.array([0, 255], np.uint8), (600, 50))[..., None].repeat(3, axis=2)
    assert resize(stripes, 128, 50).std() < 5


def test_grey_and_16_bit_pictures_are_read_as_what_they_show(tmp_path: Path) -> None:
    grey = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)
    colour = np.stack([grey, 255 - grey, grey // 2], axis=-1)  # BGR
    for name, pixels, shown in (
        ("grey.png", grey, np.stack([grey] * 3, axis=-1)),
        ("grey16.png", grey.astype(np.uint16) * 257, np.stack([grey] * 3, axis=-1)),
        ("colour16.png", colour.astype(np.uint16) * 257, colour[..., ::-1]),
        ("grey16.tif", grey.astype(np.uint16) * 257, np.stack([grey] * 3, axis=-1)),
        ("colour.bmp", colour, colour[..., ::-1]),
    ):
        cv2.imwrite(str(tmp_path / name), pixels)
        read = load_8_bits(tmp_path / name)
        assert read.dtype == np.uint8
        assert (read == shown).all(), name
    cv2.imwrite(str(tmp_path / "grey.jpg"), grey)
    assert np.abs(load_8_bits(tmp_path / "grey.jpg").astype(int) - grey[..., None]).max() < 12


# -- losses, pool, schedule ------------------------------------------------------------------------------------------


def test_lsgan_is_the_squared_distance_from_what_is_claimed() -> None:
    judgement = [(1.0, torch.tensor([[0.0, 2.0]])), (0.5, torch.tensor([[3.0]]))]
    assert generator_loss(judgement) == pytest.approx(1 + 0.5 * 4)
    assert discriminator_loss(judgement, judgement) == pytest.approx(0.5 * (3 + 6.5))
    # With the label 0.8 instead of 1, the mean of 0.8 ** 2 and 1.2 ** 2, and half of 2.2 ** 2.
    assert discriminator_loss(judgement, judgement, smoothing=0.2) == pytest.approx(0.5 * (1.04 + 2.42 + 6.5))


def cross_entropy(logit: float, label: float) -> float:
    likely = 1 / (1 + math.exp(-logit))
    return -label * math.log(likely) - (1 - label) * math.log(1 - likely)


@pytest.mark.parametrize(
    ("kind", "generator", "discriminator"),
    [
        ("vanilla", cross_entropy(0.5, 1), 0.5 * (cross_entropy(2.0, 1) + cross_entropy(0.5, 0))),
        ("hinge", -0.5, 0.5 * (0 + 1.5)),
        ("wgan-gp", -0.5, 0.5 * (-2.0 + 0.5)),
    ],
)
def test_adversarial_losses_are_those_of_their_papers(kind: Any, generator: float, discriminator: float) -> None:
    real, fake = [(1.0, torch.tensor([[2.0]]))], [(1.0, torch.tensor([[0.5]]))]
    assert generator_loss(fake, kind) == pytest.approx(generator)
    assert discriminator_loss(real, fake, kind) == pytest.approx(discriminator)


def test_vanilla_labels_can_be_smoothed() -> None:
    real, fake = [(1.0, torch.tensor([[2.0]]))], [(1.0, torch.tensor([[0.5]]))]
    wanted = 0.5 * (cross_entropy(2.0, 0.9) + cross_entropy(0.5, 0))
    assert discriminator_loss(real, fake, "vanilla", smoothing=0.1) == pytest.approx(wanted)


def test_the_gradient_penalty_asks_for_a_slope_of_one() -> None:
    real, fake = torch.rand((2, 3, 4, 4)), torch.rand((2, 3, 4, 4))
    for factor, wanted in ((1.0, 0.0), (3.0, 0.5 * 10 * 4)):
        # The mean of N logits that are x times sqrt(N) each has the slope 1.
        penalty = gradient_penalty(lambda x, f=factor: [(f, x * 48**0.5)], real, fake)  # type: ignore[misc]
        assert float(penalty) == pytest.approx(wanted, abs=1e-5)


def test_the_cycle_loss_is_the_mean_difference() -> None:
    assert cycle_loss(torch.zeros((1, 3, 2, 2)), torch.full((1, 3, 2, 2), -0.25)) == 0.25


def test_patch_nce_is_the_cross_entropy_of_finding_a_patch_among_its_picture_s() -> None:
    found, wanted = (F.normalize(torch.randn((2, 5, 7)), dim=-1) for _ in range(2))
    costs = []
    for picture in range(2):
        for place in range(5):
            likeness = [float(found[picture, place] @ wanted[picture, other]) / 0.07 for other in range(5)]
            costs.append(math.log(sum(math.exp(value) for value in likeness)) - likeness[place])
    assert float(patch_nce(found, wanted)) == pytest.approx(sum(costs) / 10, rel=1e-5)
    assert patch_nce(wanted, wanted) < patch_nce(found, wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(patch_nce(found, wanted)) == pytest.approx(sum(costs) / 10, rel=1e-5)


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


def test_a_pool_can_hold_pictures_of_several_sizes() -> None:
    mixed, plain = ImagePool(2, one_size=False), ImagePool(2)
    for side in (2, 3, 4, 5, 6, 7):
        for pool in (mixed, plain):
            pool.exchange(torch.rand((1, 3, side, side)))
    assert [len(pool.state_dict()["pictures"]) for pool in (mixed, plain)] == [2, 1]


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


@pytest.mark.parametrize(
    ("policy", "epoch", "factor"),
    [
        *[
            ("cosine", 100, 1),
            ("cosine", 150, 0.5),
            ("cosine", 200, 0),
            ("cosine", 125, (1 + math.cos(math.pi / 4)) / 2),
        ],
        *[("step", 99, 1), ("step", 100, 0.1), ("step", 129, 0.1), ("step", 130, 0.01), ("plateau", 150, 1)],
    ],
)
def test_policies_fall_in_their_own_way(policy: Any, epoch: float, factor: float) -> None:
    found = learning_rate_factor(epoch, epochs=200, decay_epoch=100, policy=policy, step=30)
    assert found == pytest.approx(factor)


def test_a_plateau_makes_the_learning_rate_fall_and_progress_does_not() -> None:
    plateau, factors = Plateau(patience=2), []
    for loss in (5.0, 4.0, 4.0, 3.99, 4.0, 4.0, 3.0):
        for _ in range(3):
            plateau.add(torch.tensor(loss))
        plateau.end_epoch()
        factors.append(plateau.factor)
    assert factors == pytest.approx([1, 1, 1, 0.2, 0.2, 0.04, 0.04])


# -- networks and what the discriminators see ------------------------------------------------------------------------


def networks(**settings: Any) -> Any:
    return build_method(TrainConfig(feature_weight=0.0, **({"ngf": 2, "ndf": 2} | settings)))


def kinds_of(network: torch.nn.Module) -> set[str]:
    return {type(module).__name__ for module in network.modules()}


@pytest.mark.parametrize("settings", [{}, {"method": "cut"}, {"norm": "none"}], ids=["cyclegan", "cut", "no norm"])
def test_passes_that_are_joined_give_the_same_losses(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    built = networks(gen_net="resnet_6blocks", **settings).double()
    real = {domain: torch.rand(2, 3, 32, 32, dtype=torch.float64) for domain in "ab"}

    def learnt() -> list[torch.Tensor]:
        torch.manual_seed(1)
        built.zero_grad()
        losses, fake = built.generator_losses(real, built.config)
        losses |= built.discriminator_losses(real, {domain: pictures.detach() for domain, pictures in fake.items()})
        torch.stack(list(losses.values())).sum().backward()
        return [*losses.values(), *(weight.grad for weight in built.parameters())]

    joined = learnt()
    monkeypatch.setattr("cgpipe.training.methods.base._can_join", lambda *_: False)
    for one, other in zip(joined, learnt(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize(("norm", "sizes"), [("instance", (2, 2)), ("batch", (1, 1, 1, 1))])
def test_a_batch_norm_never_sees_two_domains_at_once(norm: str, sizes: tuple[int, ...]) -> None:
    built = networks(norm=norm, gen_net="resnet_6blocks")
    seen: list[int] = []
    for network in (built.a_to_b, built.discriminator_a):
        network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    real = {domain: torch.rand(1, 3, 32, 32) for domain in "ab"}
    list(built.translated(A_TO_B, real["a"], real["b"]))
    built.discriminate("a", real["a"], real["b"])
    assert tuple(seen) == sizes


def test_pictures_of_different_sizes_go_one_after_the_other() -> None:
    built = networks(gen_net="resnet_6blocks")
    wide, high = built.translated(A_TO_B, torch.rand(1, 3, 32, 48), torch.rand(1, 3, 48, 32))
    assert (wide.shape, high.shape) == ((1, 3, 32, 48), (1, 3, 48, 32))


def test_norm_is_that_of_generators_and_discriminators() -> None:
    for norm, layer in (("batch", "BatchNorm2d"), ("instance", "InstanceNorm"), ("instance_affine", "InstanceNorm")):
        built = networks(norm=norm, gen_net="resnet_6blocks")
        assert all(layer in kinds_of(network) for network in (built.a_to_b, built.discriminator_b))
    built = networks(norm="none", gen_net="resnet_6blocks")
    assert not kinds_of(built) & {"BatchNorm2d", "InstanceNorm"}


@pytest.mark.parametrize(("gen_net", "layers"), [("resnet_6blocks", 6), ("unet_128", 2), ("unet_256", 3)])
def test_dropout_is_there_when_it_is_asked_for(gen_net: str, layers: int) -> None:
    for dropout in (True, False):
        built = networks(gen_net=gen_net, dropout=dropout, crop_height=256, crop_width=256, load_min=256)
        found = [module for module in built.b_to_a.modules() if isinstance(module, torch.nn.Dropout)]
        assert len(found) == (layers if dropout else 0)


def test_every_generator_can_be_named_and_the_help_names_it() -> None:
    words = next(f.metadata["help"] for f in fields(TrainConfig) if f.name == "gen_net")
    for name in GENERATORS:
        built = networks(gen_net=name, crop_height=256, crop_width=256, load_min=256)
        wanted = build_generator(name, **({} if name.startswith("compact") else {"ngf": 2}))
        assert str(built.a_to_b) == str(wanted)
        assert name.removesuffix("_antialias") in words or name in ("resnet", "unet")


@torch.no_grad()
def outputs_on_the_way(generator: torch.nn.Module, picture: torch.Tensor) -> list[torch.Tensor]:
    """What every module gives when a picture is translated, and the same after ReLU."""
    passed: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> None:
        passed.extend((output.clone(), output.relu()))

    hooks = [module.register_forward_hook(keep) for module in generator.modules()]
    generator(picture)
    for hook in hooks:
        hook.remove()
    return passed


@pytest.mark.parametrize(
    ("gen_net", "layers"),
    [
        *[("compact", 5), ("compact-flat", 3), ("compact-xs", 5), ("resnet_9blocks", 5), ("resnet_6blocks", 5)],
        *[("resnet_9blocks_antialias", 5), ("unet_128", 5), ("unet_256", 5)],
    ],
)
def test_every_generator_has_layers_to_compare_patches_of(gen_net: str, layers: int) -> None:
    side = 256 if gen_net == "unet_256" else 128
    built = networks(gen_net=gen_net, method="cut", crop_height=side, crop_width=side, load_min=256)
    generator, picture = built.a_to_b.eval(), torch.rand((1, 3, side, side)) * 2 - 1
    features = generator.encode(picture)
    assert len(features) == layers
    assert features[0] is picture
    sizes = [feature.shape[2] for feature in features]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] >= side // 16
    passed = outputs_on_the_way(generator, picture)
    assert all(any(torch.equal(feature, output) for output in passed) for feature in features[1:])
    losses, fake = built.generator_losses({d: torch.rand((2, 3, side, side)) * 2 - 1 for d in "ab"}, built.config)
    torch.stack(list(losses.values())).sum().backward()
    assert set(losses) == {"adversarial_b", "nce_a", "nce_b"} and set(fake) == {"b"}
    learning = [*built.projection.parameters(), *generator.parameters()]
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in learning)


def test_a_pixel_discriminator_judges_every_pixel_and_patches_are_fewer() -> None:
    for dis_net, side in (("pixel", 64), ("n_layers", 6)):
        ((_, logits),) = networks(dis_net=dis_net).discriminator_a(torch.zeros((1, 3, 64, 64)))
        assert logits.shape == (1, 1, side, side)


def test_gpu_ids_choose_the_device() -> None:
    assert plan_device("-1", "fp32").device == torch.device("cpu")
    for ids in ("99", "first"):
        with pytest.raises(UsageError, match="--gpu-ids"):
            plan_device(ids, "fp32")


def test_a_cpu_does_not_train_in_fp16() -> None:
    with pytest.raises(UsageError, match="fp16"):
        plan_device("-1", "fp16")


@pytest.mark.parametrize("kind", ["color", "translation", "cutout"])
def test_diffaugment_changes_each_picture_in_its_own_way_and_lets_gradients_through(kind: str) -> None:
    torch.manual_seed(0)  # two of four may fall alike by chance
    pictures = (torch.rand((1, 3, 32, 24)) * 2 - 1).repeat(4, 1, 1, 1).requires_grad_()
    changed = diffaugment(pictures, (kind,))
    assert changed.shape == pictures.shape
    assert not any(torch.equal(x, y) for x, y in itertools.combinations(changed, 2))
    changed.sum().backward()
    assert pictures.grad is not None and (pictures.grad != 0).any(dim=(1, 2, 3)).all()


def test_two_pictures_of_a_pair_change_colour_alike_and_keep_theirs() -> None:
    red, gray = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.2])
    pair = torch.cat([gray, red])[None, :, None, None].expand(1, 4, 8, 8)
    torch.manual_seed(0)
    changed = diffaugment(pair, ("color",), 1)
    for part in (slice(0, 1), slice(1, 4)):
        torch.manual_seed(0)
        assert torch.equal(changed[:, part], diffaugment(pair[:, part], ("color",)))


def test_translation_moves_and_cutout_cuts() -> None:
    picture = torch.rand((1, 3, 32, 32)) + 1
    moved, cut = diffaugment(picture, ("translation",)), diffaugment(picture, ("cutout",))
    shown = (moved[0, 0] != 0).sum()
    assert 28 * 28 <= shown <= 32 * 32
    assert set(moved[moved != 0].tolist()) <= set(picture.flatten().tolist())
    hole = int((cut[0, 0] == 0).sum())
    assert 8 * 8 <= hole <= 16 * 16
    assert torch.equal(cut[cut != 0], picture[cut != 0])


def test_nothing_to_augment_gives_back_what_comes() -> None:
    pictures = torch.rand((1, 3, 8, 8))
    assert diffaugment(pictures, ()) is pictures


# -- collapse --------------------------------------------------------------------------------------------------------


def test_a_collapse_is_said_when_it_stays_and_only_once() -> None:
    real = torch.rand((4, 3, 16, 16)) * 2 - 1
    one = torch.full_like(real, 0.3)
    other = -real
    for made, word in ((real + 0.01, "identity"), (one, "one output")):
        watch = CollapseWatch()
        said = [list(watch.check(500, "a to b", real, pictures)) for pictures in (made, other, made, made, made)]
        assert [len(texts) for texts in said] == [0, 0, 0, 1, 0]
        assert word in said[3][0]
        again = CollapseWatch()
        again.seen = dict(watch.seen)
        assert [list(again.check(500, "a to b", real, made)) for _ in range(3)] == [[], [], []]
        assert len([*again.check(500, "b to a", real, made), *again.check(500, "b to a", real, made)]) == 1


def test_a_fresh_generator_may_make_a_grey_of_everything() -> None:
    watch, real = CollapseWatch(), torch.rand((4, 3, 16, 16)) * 2 - 1
    said = [list(watch.check(step, "a to b", real, torch.zeros_like(real))) for step in (100, 499, 500, 501)]
    assert [len(texts) for texts in said] == [0, 0, 0, 1]


def test_pictures_that_are_alike_themselves_show_no_collapse_to_one_output() -> None:
    watch, one = CollapseWatch(), torch.rand((1, 3, 16, 16))
    assert not [*watch.check(500, "a to b", one, -one), *watch.check(500, "a to b", one, -one)]


# -- state -----------------------------------------------------------------------------------------------------------


def test_state_comes_back(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", {"x": torch.arange(3), "y": {"z": [1, "two"]}})
    state = load_state(tmp_path / "state.pt")
    assert torch.equal(state["x"], torch.arange(3))
    assert state["y"] == {"z": [1, "two"]}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_full_disk_leaves_the_last_good_state(tmp_path: Path) -> None:
    import resource

    save_state(tmp_path / "state.pt", {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(TrainingError, match=r"File too large.*last saved state is kept"):
            save_state(tmp_path / "state.pt", {"step": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_state(tmp_path / "state.pt")["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off"])
def test_a_missing_or_damaged_state_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "state.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"state\.pt"):
        load_state(path)


def test_each_way_there_and_back_can_have_a_weight_of_its_own() -> None:
    pictures = {domain: torch.rand((1, 3, 32, 32)) * 2 - 1 for domain in "ab"}
    torch.manual_seed(0)
    built = networks(lamda=2.0)

    def losses(**settings: Any) -> dict[str, torch.Tensor]:
        result: dict[str, torch.Tensor] = built.generator_losses(pictures, replace(built.config, **settings))[0]
        return result

    alike, apart = losses(), losses(lamda_b=6.0)
    torch.testing.assert_close(apart["cycle_b"], 3 * alike["cycle_b"])
    torch.testing.assert_close(apart["cycle_a"], alike["cycle_a"])
    assert "cycle_b" not in losses(lamda_b=0.0)
