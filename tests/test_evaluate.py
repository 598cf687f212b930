"""One model measured on folders of pictures: the figures against formulas written out here, and what is written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from conftest import card_of
from reference_networks import junyanz_resnet, randomise
from shell import invoke

from cgpipe.errors import CgpipeError, CgpipeWarning, DataError, MediaError, UsageError
from cgpipe.evaluation.evaluate import evaluate
from cgpipe.evaluation.evaluator import Evaluator
from cgpipe.evaluation.inception import Inception, has_inception, load_extractor
from cgpipe.evaluation.scales import by_side, kid_by_side
from cgpipe.models import Model, find_model, load_model, save_model
from cgpipe.networks import build_generator
from cgpipe.networks.efficientnet import EfficientNetLite

FileModel = Callable[..., Path]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """testA with five pictures and testB with four, 32x32; and trainA with two more."""
    root = tmp_path / "red2blue"
    noise = np.random.default_rng(0)
    for name, count in (("testA", 5), ("testB", 4), ("trainA", 2)):
        (root / name).mkdir(parents=True)
        for index in range(count):
            coarse = noise.integers(0, 255, (8, 8, 3), np.uint8)
            cv2.imwrite(str(root / name / f"{index}.png"), coarse.repeat(4, 0).repeat(4, 1))
    return root


def features_of(
    folder: Path, network: EfficientNetLite, translate: Callable[[torch.Tensor], torch.Tensor]
) -> np.ndarray:
    pixels = np.stack([cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())])
    with torch.inference_mode():
        pictures = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2) / 127.5 - 1
        return network(translate(pictures).clamp(-1, 1))[0].double().numpy()


def kid_by_loops(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    def within(rows: np.ndarray) -> float:
        pairs = [kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return sum(pairs) / len(pairs)

    return within(x) + within(y) - 2 * float(np.mean([kernel(a, b) for a in x for b in y]))


def fid_by_eigenvalues(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(a)
    half = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(half @ b @ half).clip(0)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * cross)


def test_figures_of_a_model_are_those_of_the_formulas(
    dataset: Path, tmp_path: Path, file_model: FileModel, models_folder: Path
) -> None:
    path = file_model(tmp_path, "red", "blue")
    report = evaluate(str(path), dataset, size=32)
    assert report.evaluation.input_count == 5
    assert report.back is None
    network, generator = EfficientNetLite("lite2"), load_model(path).generator
    made, real = (
        features_of(dataset / "testA", network, generator),
        features_of(dataset / "testB", network, lambda x: x),
    )
    figures = report.evaluation.figures["lite2"]
    assert figures.kid == pytest.approx(1000 * kid_by_loops(made, real), rel=1e-3, abs=1e-3)
    assert figures.fid == pytest.approx(fid_by_eigenvalues(made, real), rel=1e-3)
    assert figures.class_share is None


def test_the_models_own_direction_its_way_back_and_files(
    dataset: Path, tmp_path: Path, file_model: FileModel, models_folder: Path
) -> None:
    there, back = file_model(tmp_path, "blue", "red"), file_model(tmp_path, "red", "blue")
    report = evaluate(str(there), dataset, size=32, output=tmp_path / "out")
    assert (report.evaluation.inputs, report.evaluation.reference) == ("red2blue/testB", "red2blue/testA")
    assert "red2blue" in str(report.back)
    assert report.evaluation.cycle_error is not None
    assert [path.name for path in report.files] == ["blue2red-0001.jpg", "figures.md", "figures.json", "figures.html"]
    page = report.files[3].read_text()
    assert "KID x1000, lite0" in page and '"from":["./blue2red-0001.jpg"]' in page
    assert cv2.imread(str(report.files[0])).shape == (3 * 32 + 16, 4 * 32 + 20, 3)
    values = json.loads(report.files[2].read_text())
    assert values["figures"]["lite0"]["kid"] == report.evaluation.figures["lite0"].kid
    assert "5 of red2blue/testA" in report.files[1].read_text()
    back.unlink()
    alone = evaluate(str(there), dataset, size=32, output=tmp_path / "alone", direction="AtoB")
    assert alone.evaluation.cycle_error is None
    assert alone.evaluation.inputs == "red2blue/testA"
    assert cv2.imread(str(alone.files[0])).shape[0] == 2 * 32 + 12


def test_several_folders_count_as_one_set(
    dataset: Path, tmp_path: Path, file_model: FileModel, models_folder: Path
) -> None:
    folders = [dataset / "testA", dataset / "trainA"]
    report = evaluate(str(file_model(tmp_path)), inputs=folders, reference=[dataset / "testB"], size=32)
    assert report.evaluation.input_count == 7
    assert report.evaluation.inputs == "red2blue/testA and red2blue/trainA"
    assert report.evaluation.class_name == "zebra"
    uncounted = evaluate(str(file_model(tmp_path)), dataset, class_name=None, size=32)
    assert uncounted.evaluation.class_name is None


def test_what_changes_outside_masks(dataset: Path, tmp_path: Path) -> None:
    """The left half changes by 40 levels and the right by 10; the mask is the left half, or everything."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(5):
        mask = np.full((64, 64), 255, np.uint8)
        mask[:, 32:] = 255 if index == 4 else 0
        cv2.imwrite(str(masks / f"{index}.png"), mask)
    change = torch.full((1, 3, 32, 32), 10 / 127.5)
    change[..., :16] = 40 / 127.5

    def shift(pictures: torch.Tensor) -> torch.Tensor:
        return pictures * 0.5 + change

    def unclipped(pictures: torch.Tensor) -> torch.Tensor:
        return pictures * 0.5

    evaluator = Evaluator(dataset / "testA", dataset / "testB", size=32, networks=["lite0"], masks=masks)
    measured = evaluator.evaluate(shift).background_change
    pixels = [cv2.imread(str(dataset / "testA" / f"{index}.png"))[..., ::-1] for index in range(4)]
    expected = [np.abs(-0.5 * (picture[:, 16:] - 127.5) + 10).mean() for picture in pixels]
    assert measured == pytest.approx(np.mean(expected), rel=1e-4)
    assert "outside the masks" in evaluator.evaluate(unclipped).to_markdown()
    cv2.imwrite(str(masks / "3.png"), np.zeros((32, 64), np.uint8))
    with pytest.raises(MediaError, match=r"testA/3\.png: The mask is 64x32"):
        evaluator.evaluate(shift)
    (masks / "3.png").unlink()
    with pytest.raises(MediaError, match="no mask"):
        evaluator.evaluate(shift)
    with pytest.raises(UsageError, match="no mask"):
        Evaluator(dataset / "testA", dataset / "testB", size=32, networks=["lite0"], masks=tmp_path / "none")


def test_masks_of_pictures_that_a_list_names(dataset: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(5):
        cv2.imwrite(str(masks / f"{index}.png"), np.zeros((32, 32), np.uint8))
    (tmp_path / "inputs.txt").write_text("".join(f"{dataset}/testA/{index}.png\n" for index in range(5)))
    evaluator = Evaluator(tmp_path / "inputs.txt", dataset / "testB", size=32, networks=["lite0"], masks=masks)
    assert evaluator.evaluate(lambda pictures: pictures - 0.25).background_change > 20


def test_what_is_not_measured_is_not_asked_for_in_vain(
    dataset: Path, tmp_path: Path, file_model: FileModel, models_folder: Path
) -> None:
    model = str(file_model(tmp_path, "red", "blue"))
    for asked in ({"masks": dataset / "testA"}, {"class_name": "zebra"}, {"back": model}):
        with pytest.raises(UsageError, match="Of pairs nothing is measured"):
            evaluate(model, dataset, paired=True, size=32, **asked)
        with pytest.raises(UsageError, match="Of videos alone nothing is measured"):
            evaluate(model, videos=[tmp_path / "clip.mp4"], **asked)
    with pytest.raises(UsageError, match="windows of 11 pixels"):
        evaluate(model, dataset, paired=True, size=8)


def test_a_way_back_takes_what_was_made(
    dataset: Path, tmp_path: Path, file_model: FileModel, models_folder: Path
) -> None:
    settings = {"channels": 16, "blocks": 1, "in_channels": 4, "out_channels": 4}
    model, other = file_model(tmp_path, "red", "blue"), tmp_path / "blue2red.safetensors"
    card = card_of(settings=settings, source="blue", target="red")
    save_model(other, Model(card, build_generator("compact-flat", **settings)))
    with pytest.raises(UsageError, match="takes 4 channels and makes 4"):
        evaluate(str(model), dataset, size=32, back=str(other))
    assert evaluate(str(model), dataset, size=32).back is None


def test_a_shipped_model_stays_as_it_is(dataset: Path, models_folder: Path) -> None:
    before = find_model(file="horse2zebra").path.read_bytes()
    with pytest.raises(UsageError, match="ships with cgpipe"):
        evaluate("horse2zebra", dataset, size=32, record=True)
    assert find_model(file="horse2zebra").path.read_bytes() == before


def test_figures_and_scales_are_recorded(
    dataset: Path, tmp_path: Path, file_model: FileModel, models_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgpipe.evaluation.record.kid_by_side", partial(kid_by_side, sides=(32, 64)))
    path = file_model(tmp_path, "red", "blue", quality={"before": 1})
    weights = load_model(path).generator.state_dict()
    report = evaluate(str(path), dataset, size=32, record=True)
    model = load_model(path)
    assert model.card.quality["before"] == 1
    assert model.card.quality["red2blue/testA at 32"]["pictures"] == 5
    by_side = model.card.quality["kid_x1000 by side"]
    assert set(by_side) == {"32", "64"}
    assert model.card.working_scales in {(32, 32), (64, 64), (32, 64)}
    assert report.evaluation.input_count == 5
    assert all(torch.equal(weights[name], value) for name, value in model.generator.state_dict().items())


def test_kid_by_side_against_the_formula(dataset: Path) -> None:
    def darker(pictures: torch.Tensor) -> torch.Tensor:
        return pictures - 0.5

    measured = kid_by_side(darker, dataset / "testA", dataset / "testB", sides=(128, 256))
    shown = by_side(darker, dataset / "testA", lambda features, logits: features, sides=(256,))[256].double().numpy()
    real = (
        by_side(lambda x: x, dataset / "testB", lambda features, logits: features, sides=(256,))[256].double().numpy()
    )
    assert measured[256] == pytest.approx(1000 * kid_by_loops(shown, real), rel=1e-3, abs=1e-3)
    assert set(measured) == {128, 256}


def test_a_damaged_picture_is_named(dataset: Path, tmp_path: Path, models_folder: Path, file_model: FileModel) -> None:
    file_model(models_folder, "red", "blue")
    spoilt = dataset / "testA/3.png"
    spoilt.write_bytes(spoilt.read_bytes()[:60])
    with pytest.raises(MediaError, match=r"testA/3\.png: The file is damaged"):
        evaluate("red2blue", dataset, size=32)


def test_another_projects_file(dataset: Path, tmp_path: Path, models_folder: Path) -> None:
    path = tmp_path / "latest_net_G_A.pth"
    torch.save(randomise(junyanz_resnet(ngf=4, blocks=6), seed=1).state_dict(), path)
    report = evaluate(str(path), dataset, size=32)
    assert report.evaluation.class_name is None
    with pytest.raises(UsageError, match="models import"):
        evaluate(str(path), dataset, size=32, record=True)
    zebras = evaluate(str(path), dataset, source="horse", to="zebra", size=32)
    assert zebras.evaluation.class_name == "zebra"


def test_the_command_prints_the_figures_and_says_what_is_missing(
    dataset: Path, tmp_path: Path, file_model: FileModel, models_folder: Path
) -> None:
    path = str(file_model(tmp_path, "red", "blue"))
    result = invoke("evaluate", path, dataset, "--size", "32", "--class", "zebra")
    assert result.exit_code == 0, result.output
    assert "seen as zebra" in result.output
    assert "5 pictures of red2blue/testA translated at 32x32, against 4 of red2blue/testB" in result.output
    result = invoke("evaluate", path)
    assert result.exit_code == 2
    assert "--inputs and --reference" in result.output
    result = invoke("evaluate", path, tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.output
    for wrong in ({"size": 30}, {"class_name": "zebar"}):
        with pytest.raises(UsageError):
            evaluate(path, dataset, **wrong)
    with pytest.raises(DataError, match="at least two"):
        one = tmp_path / "one"
        (one / "x").mkdir(parents=True)
        (dataset / "testA" / "0.png").rename(one / "x" / "0.png")
        evaluate(path, inputs=[one / "x"], reference=[dataset / "testB"], size=32)


class Extractor(torch.nn.Module):
    """In the place of torch-fidelity's, which downloads its weights."""

    def __init__(self, name: str, features: list[str]) -> None:
        super().__init__()
        assert (name, features) == ("inception-v3-compat", ["2048"])

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
        assert pixels.dtype == torch.uint8
        return (pixels.float().flatten(1)[:, :8],)


class CleanNetwork(torch.nn.Module):
    """In the place of clean-fid's."""

    def __init__(self, path: str, download: bool) -> None:
        super().__init__()
        assert (Path(path) / "inception-2015-12-05.pt").read_text() == "weights"
        assert not download

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.shape[1:] == (3, 299, 299)
        assert pictures.dtype == torch.float32
        return pictures.flatten(1)[:, :: 299 * 50]


def download_weights(fpath: str) -> None:
    (Path(fpath) / "inception-2015-12-05.pt").write_text("weights")


def no_connection(fpath: str) -> None:
    (Path(fpath) / "inception-2015-12-05.pt").write_text("wei")
    raise URLError("no connection")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Makes one of the packages with Inception be there and no other, with modules that hold what they are given."""
    monkeypatch.setattr("cgpipe.evaluation.inception.user_cache_path", lambda name: tmp_path / "cache")

    def forget() -> None:
        has_inception.cache_clear()
        load_extractor.cache_clear()

    def make(package: str = "", **modules: dict[str, object]) -> None:
        forget()
        monkeypatch.setattr("cgpipe.evaluation.inception.find_spec", lambda name: name == package)
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        for name, holds in modules.items():
            module = ModuleType(f"{package}.{name}")
            module.__dict__.update(holds)
            monkeypatch.setitem(sys.modules, module.__name__, module)

    yield make
    forget()


def install_clean_fid(install: Callable[..., None], download: Callable[[str], None]) -> None:
    install(
        "cleanfid",
        downloads_helper={"check_download_inception": download},
        inception_torchscript={"InceptionV3W": CleanNetwork},
        resize={"build_resizer": lambda mode: lambda x: cv2.resize(x, (299, 299)).astype(np.float32)},
    )


def test_inception_judges_where_torch_fidelity_is_installed(
    dataset: Path, tmp_path: Path, file_model: FileModel, install: Callable[..., None]
) -> None:
    install()
    with pytest.raises(CgpipeError, match="pip install torch-fidelity"):
        Inception()
    install("torch_fidelity", feature_extractor_inceptionv3={"FeatureExtractorInceptionV3": Extractor})
    report = evaluate(str(file_model(tmp_path)), dataset, size=32)
    row = report.evaluation.figures["inception"]
    assert (row.resolution, row.class_share) == (299, None)
    assert report.evaluation.figures["lite0"].class_share is not None
    assert "torch-fidelity" in report.evaluation.to_markdown()


def test_inception_judges_where_clean_fid_is_installed(
    dataset: Path, tmp_path: Path, file_model: FileModel, install: Callable[..., None]
) -> None:
    install_clean_fid(install, download_weights)
    report = evaluate(str(file_model(tmp_path)), dataset, size=32)
    assert "clean-fid" in report.evaluation.figures["inception"].weights
    assert [path.name for path in (tmp_path / "cache" / "inception").iterdir()] == ["inception-2015-12-05.pt"]


def test_inception_is_left_out_where_its_weights_cannot_be_had(
    dataset: Path, tmp_path: Path, file_model: FileModel, install: Callable[..., None]
) -> None:
    install_clean_fid(install, no_connection)
    with pytest.warns(CgpipeWarning, match="Inception is omitted: .*no connection"):
        report = evaluate(str(file_model(tmp_path)), dataset, size=32)
    assert list(report.evaluation.figures) == ["lite0", "lite2"]
    assert not list((tmp_path / "cache" / "inception").iterdir())
