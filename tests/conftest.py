"""Fixtures that several test files share."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import Chromium
from runs import make_dataset, make_recipe

from cgpipe.models import Model, ModelCard, save_model
from cgpipe.networks import build_generator

MakeModel = Callable[..., Model]
FileModel = Callable[..., Path]


def pytest_configure() -> None:
    """Ctrl-C and hang-ups work in what the tests start, even where the shell that started the tests ignores them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.environ["CGPIPE_ENGINE"] = "eager"  # the same pixels, whatever is installed
    os.environ["CGPIPE_MODELS"] = tempfile.mkdtemp(prefix="cgpipe-models-")


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["CGPIPE_MODELS"], ignore_errors=True)


@pytest.hookimpl(trylast=True)  # once it is known which tests are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first: each goes to one process, and no other should wait for it in the end."""
    work: Counter[Path] = Counter()
    for item in items:
        work[item.path] += 20 if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -work[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that need a GPU are skipped without one; on a machine that should have one they fail."""
    if item.get_closest_marker("needs_cuda") and not torch.cuda.is_available():
        if os.environ.get("CGPIPE_REQUIRE_CUDA") == "1":
            pytest.fail("CGPIPE_REQUIRE_CUDA=1, but torch finds no CUDA device", pytrace=False)
        pytest.skip("needs CUDA")


@pytest.fixture(autouse=True)
def on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that need no GPU see none where there is one, nor do processes that they start: a CPU is exact."""
    if not request.node.get_closest_marker("needs_cuda"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def no_models_left() -> Iterator[None]:
    """A test that trains leaves no model where the user, or another test, would find it by name."""
    yield
    shutil.rmtree(os.environ["CGPIPE_MODELS"], ignore_errors=True)


@pytest.fixture(autouse=True)
def no_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed, no test downloads the weights of Inception."""
    monkeypatch.setattr("cgpipe.evaluation.inception.find_spec", lambda name: None)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """torch has two threads, as on a machine with two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def card_of(architecture: str = "compact-flat", **fields: Any) -> ModelCard:
    """The card of a model from horse to zebra that a test made, with these fields."""
    known = {"source": "horse", "target": "zebra", "training_size": 256, "settings": {}, "quality": {}}
    made: dict[str, Any] = {"made_by": {"recipe": "a test"}, "licence": "Apache-2.0"}
    return ModelCard(architecture=architecture, **{**known, **made, **fields})


@pytest.fixture
def make_model() -> MakeModel:
    """``make_model("horse", "zebra", norm="batch", **fields of the card)``: a tiny generator with random weights."""

    def make(source: str = "horse", target: str = "zebra", *, norm: str = "instance", **fields: Any) -> Model:
        settings = {"channels": 16, "blocks": 1, "norm": norm}
        card = card_of(settings=settings, source=source, target=target, **fields)
        return Model(card, build_generator("compact-flat", **settings))

    return make


@pytest.fixture
def file_model(make_model: MakeModel) -> FileModel:
    """``file_model(folder, "horse", "zebra", name="mine", **fields)``: writes such a model, and gives its path."""

    def file(folder: Path, source: str = "horse", target: str = "zebra", *, name: str = "", **fields: Any) -> Path:
        path = folder / f"{name or f'{source}2{target}'}.safetensors"
        save_model(path, make_model(source, target, **fields))
        return path

    return file


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache folder is empty, and apart from that of other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's models folder, empty and apart from the real one."""
    folder = tmp_path / "my models"
    folder.mkdir()
    monkeypatch.setenv("CGPIPE_MODELS", str(folder))
    return folder


@pytest.fixture
def zebra_model(own_cache: None, models_folder: Path, file_model: FileModel) -> Path:
    """A tiny model, quick to run, that answers to ``--to zebra`` in place of the shipped one."""
    return file_model(models_folder, "horse", "zebra")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The browser of a test file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        browser = Chromium(driver, tmp_path_factory.mktemp("chromium"))
        yield browser
        browser.close()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two sets of coloured noise to train on, and two pictures of each to test on."""
    return make_dataset(tmp_path / "dataset")


@pytest.fixture
def recipe(tmp_path: Path, dataset: Path) -> Path:
    """A recipe for a run of 32 steps on :func:`dataset`."""
    return make_recipe(tmp_path / "recipe.toml", dataset)


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """``put(name, content)``: writes a file."""

    def put(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return put


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    """``saved(content)``: written by torch.save, as other projects write their checkpoints."""

    def save(content: Any) -> Path:
        torch.save(content, tmp_path / "latest_net_G.pth")
        return tmp_path / "latest_net_G.pth"

    return save


@pytest.fixture
def picture() -> np.ndarray[Any, Any]:
    """A picture of 64x48 with another gradient in each channel."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([4 * x % 256, 5 * y % 256, (x + y) * 2 % 256], -1).astype(np.uint8)
