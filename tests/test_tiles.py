"""Networks run by tiles: the result of the whole picture, in the memory of a part."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from test_translator import model_of

from cgpipe.engine.cuda import GpuPipeline
from cgpipe.engine.stream import IN_FLIGHT
from cgpipe.engine.tiles.choice import Tiles
from cgpipe.engine.tiles.graph import NotTileableError, trace
from cgpipe.engine.tiles.operations import Region, Size, Span
from cgpipe.engine.tiles.passes import Moments, Passes, reach
from cgpipe.engine.tiles.planes import InMemory, OnDisk, Planes
from cgpipe.engine.translator import Translator
from cgpipe.errors import MediaError, UsageError
from cgpipe.models import Model
from cgpipe.models.choose import choose_model
from cgpipe.networks import Generator, build_generator
from cgpipe.options import ModelChoice

CPU = torch.device("cpu")
ON_DISK, IN_MEMORY, NOWHERE = (0, 1 << 40), (1 << 40, 1 << 40), (0, 0)
"""Bytes that planes may take in memory, and in all."""


def network(name: str, **settings: Any) -> Generator:
    """One with weights that make a picture, and batch norms that have seen some."""
    torch.manual_seed(0)
    generator = build_generator(name, **settings).eval().requires_grad_(False)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.weight.mul_(1.5)
    return generator


def painting(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Blotches, darker to the right: its tiles have other means than the whole."""
    rough = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=torch.Generator().manual_seed(seed))
    rough = rough * torch.linspace(1, 0.2, rough.shape[3])
    smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).byte().numpy()


@torch.inference_mode()
def by_tiles(generator: Generator, x: torch.Tensor, tile: int, memory: tuple[int, int], folder: Path) -> torch.Tensor:
    size = Size(*x.shape[2:])
    picture, result = InMemory(size, x), InMemory(size, x)
    picture.write(size.whole, x)
    with Planes(folder, memory[0]) as planes:
        graph = trace(generator, CPU, torch.float32)
        passes = Passes(graph=graph, picture=picture, size=size, tile=tile, planes=planes, room=memory[1])
        passes.learn()
        passes.result(result.write)
    return result.read(size.whole)


NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("compact", {"channels": 16, "deep_channels": 16}),
    ("compact-xs", {"channels": 16, "deep_channels": 16, "padding": "reflect", "norm": "batch"}),
    ("compact-flat", {"channels": 16, "blocks": 2, "norm": "instance_affine"}),
    ("compact-xs", {"channels": 16, "deep_channels": 16, "attention": True}),
    ("resnet", {"ngf": 8, "blocks": 2}),
    ("resnet", {"ngf": 8, "blocks": 1, "antialias": True, "norm": "instance_affine"}),
    ("resnet", {"ngf": 8, "blocks": 1, "upsample": "nearest", "up_edges": "reflect", "down_edges": "reflect"}),
    ("resnet", {"ngf": 4, "blocks": 1, "steps": 3, "upsample": "bilinear", "norm": "batch", "output": "linear"}),
    ("unet", {"levels": 5, "ngf": 8}),
    ("unet", {"levels": 5, "ngf": 8, "norm": "batch"}),
    ("animegan2", {}),
    ("whitebox", {"ngf": 8, "blocks": 1}),
]


@pytest.mark.parametrize("memory", [ON_DISK, NOWHERE], ids=["kept on disk", "computed again"])
@pytest.mark.parametrize(
    ("name", "settings"), NETWORKS, ids=[f"{n}-{'-'.join(map(str, s.values()))}" for n, s in NETWORKS]
)
def test_tiles_give_what_the_whole_picture_gives(
    name: str, settings: dict[str, Any], memory: tuple[int, int], tmp_path: Path
) -> None:
    if name == "animegan2" and memory is NOWHERE:
        pytest.skip("its 24 norms take as many passes")
    generator = network(name, **settings)
    x = torch.from_numpy(painting(96, 160)).permute(2, 0, 1)[None] / 127.5 - 1
    whole = generator(x)
    assert float(whole.std()) > 0.02
    made = by_tiles(generator, x, 64, memory, tmp_path)
    assert float((made - whole).abs().max()) < 0.1 / 127.5
    assert not list(tmp_path.iterdir())


def test_what_looks_at_the_whole_picture_is_refused_by_name() -> None:
    with pytest.raises(NotTileableError, match="256x256 alone"):
        trace(build_generator("ugatit", ngf=8), CPU, torch.float32)
    with pytest.raises(NotTileableError, match=r"gap_fc\.weight is used outside of its layer"):
        trace(build_generator("ugatit", ngf=8, size=None), CPU, torch.float32)


def test_a_network_sees_as_far_as_its_layers_do() -> None:
    generator = network("resnet", ngf=4, blocks=2, norm="none")
    found = reach(trace(generator, CPU, torch.float32), generator.multiple)
    x = torch.zeros(1, 3, 160, 160)
    x[..., 80, 80] = 1
    changed = (generator(x) - generator(torch.zeros_like(x))).abs().sum((0, 1)).sum(1).nonzero()
    seen = max(80 - int(changed.min()), int(changed.max()) - 80)
    assert seen <= found <= seen + generator.multiple


def test_moments_are_those_of_the_whole_however_it_is_divided() -> None:
    values = 1e3 + torch.randn(1, 4, 30, 50, dtype=torch.float64)
    moments = Moments()
    for part in values.split([7, 1, 22], 2):
        for piece in part.split(20, 3):
            moments.add(piece)
    assert moments.mean == pytest.approx(values.mean((0, 2, 3)), rel=1e-6)
    assert moments.squares / moments.count == pytest.approx(values.var((0, 2, 3), correction=0), rel=1e-3)


def test_a_plane_on_disk_gives_back_what_was_written(tmp_path: Path) -> None:
    values = torch.randn(1, 5, 40, 60)
    plane = OnDisk(Size(40, 60), values, tmp_path)
    for rows in (Span(0, 24), Span(24, 40)):
        for columns in (Span(0, 60),) if rows.start else (Span(0, 32), Span(32, 60)):
            plane.write(Region(rows, columns), values[..., slice(*rows), slice(*columns)])
    for region in (Size(40, 60).whole, Region(Span(5, 30), Span(17, 50))):
        assert torch.equal(plane.read(region), values[..., slice(*region.rows), slice(*region.columns)])
    plane.close()


# --- through the translator ----------------------------------------------------------------------------------------


def shipped(name: str) -> Model:
    return choose_model(ModelChoice(model=name)).load()


@pytest.mark.parametrize("name", ["zebra2horse-fast", "photo2monet"])
def test_a_shipped_model_gives_the_same_picture_by_tiles(name: str) -> None:
    picture = painting(203, 317)
    model = shipped(name)
    whole = Translator(model, device="cpu", precision="fp32", size="full")(picture)
    tiled = Translator(model, device="cpu", precision="fp32", size="full", tile=64)(picture)
    difference = np.abs(tiled.astype(int) - whole.astype(int))
    assert int(difference.max()) <= 1 and float((difference > 0).mean()) < 0.01


def test_strength_masks_and_16_bits_go_by_tiles_too() -> None:
    model = model_of(network("compact-xs", channels=16, deep_channels=16))
    picture = painting(120, 200).astype(np.uint16) * 257
    mask = np.zeros((120, 200), np.uint8)
    mask[:, 90:] = 255
    whole, tiled = (
        Translator(model, device="cpu", precision="fp32", size="full", strength=0.5, tile=tile)(picture, mask)
        for tile in ("off", 64)
    )
    assert tiled.dtype == np.uint16
    assert int(np.abs(tiled.astype(int) - whole.astype(int)).max()) <= 8
    assert np.array_equal(tiled[:, :90], picture[:, :90]) and not np.array_equal(tiled, picture)


def test_a_working_size_beyond_the_tile_goes_by_tiles_and_comes_back_up() -> None:
    model = model_of(network("compact-xs", channels=16, deep_channels=16))
    picture = painting(200, 260)
    whole, tiled = (
        Translator(model, device="cpu", precision="fp32", size=100, tile=tile)(picture) for tile in ("off", 64)
    )
    assert int(np.abs(tiled.astype(int) - whole.astype(int)).max()) <= 1
    assert not np.array_equal(tiled, picture)


def steps_at(values: np.ndarray[Any, Any], tile: int, fold: int) -> tuple[float, float]:
    """The mean step between neighbours across the borders of tiles, and inside, where the network's folds meet too."""
    across, inside = [], []
    for lines in (values.astype(float), values.astype(float).swapaxes(0, 1)):
        steps = np.abs(np.diff(lines, axis=0)).mean((1, 2))
        places = np.arange(fold - 1, len(steps), fold)
        across.append(steps[places[places % tile == tile - 1]])
        inside.append(steps[places[places % tile != tile - 1]])
    return float(np.concatenate(across).mean()), float(np.concatenate(inside).mean())


def test_fast_tiles_leave_no_seam_where_each_tile_for_itself_does() -> None:
    """Over the 112 borders between 64 tiles."""
    model = shipped("zebra2horse-fast")
    picture = painting(512, 512, seed=3)
    fast = Translator(model, device="cpu", precision="fp32", size="full", tile=64, tile_mode="fast")
    across, inside = steps_at(fast(picture), 64, model.generator.multiple)
    assert across < 1.02 * inside
    alone = Translator(model, device="cpu", precision="fp32", size="full", tile="off")
    tiles = picture.reshape(8, 64, 8, 64, 3).swapaxes(1, 2).reshape(64, 64, 64, 3)
    apart = alone(tiles).reshape(8, 8, 64, 64, 3).swapaxes(1, 2).reshape(512, 512, 3)
    across, inside = steps_at(apart, 64, model.generator.multiple)
    assert across > 1.3 * inside


def test_fast_tiles_of_any_side_give_one_picture() -> None:
    model = model_of(network("compact-xs", channels=16, deep_channels=16))
    picture = painting(200, 300)
    made = [
        Translator(model, device="cpu", precision="fp32", size="full", tile=tile, tile_mode="fast")(picture)
        for tile in (64, 128)
    ]
    assert int(np.abs(made[0].astype(int) - made[1].astype(int)).max()) <= 1


def test_tiles_are_taken_where_memory_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgpipe.engine.tiles.choice.LARGE_PIXELS", 10_000)
    monkeypatch.setattr("cgpipe.engine.tiles.tiled.LEAST_SIDE", 64)
    model = model_of(network("resnet", ngf=8, blocks=1))
    picture = painting(128, 160)
    whole = Translator(model, device="cpu", precision="fp32", size="full")(picture)
    monkeypatch.setattr("cgpipe.engine.tiles.choice.available_memory", lambda: 2 << 20)
    tiled = Translator(model, device="cpu", precision="fp32", size="full")
    assert tiled._tile_for(torch.from_numpy(picture)[None], None) in (64, 128)
    assert int(np.abs(tiled(picture).astype(int) - whole.astype(int)).max()) <= 1
    with pytest.raises(MediaError, match=r"takes about 0\.0 GB.*omit --tile off\."):
        Translator(model, device="cpu", precision="fp32", size="full", tile="off")(painting(256, 320))


@pytest.mark.parametrize("by_a_gpu", [False, True])
def test_after_an_out_of_memory_the_picture_goes_by_tiles(by_a_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgpipe.engine.tiles.tiled.LEAST_SIDE", 64)
    monkeypatch.setattr("cgpipe.engine.tiles.tiled.LARGEST_SIDE", 64)
    model = model_of(network("resnet", ngf=8, blocks=1))
    picture = painting(160, 200)
    whole = Translator(model, device="cpu", precision="fp32", size="full")(picture)
    translator = Translator(model, device="cpu", precision="fp32", size="full")

    network_of_all = _Refusing(translator.network)
    monkeypatch.setattr(translator, "network", network_of_all)
    if by_a_gpu:
        pipeline = GpuPipeline(_GpuAtOnce(), translator._within_memory, IN_FLIGHT)
        monkeypatch.setattr(translator, "_pipeline", pipeline)
    monkeypatch.setattr(translator._tiles, "_memory", network_of_all.held)
    with pytest.warns(UserWarning, match="continuing with tiles of 64"):
        tiled = translator(picture)
    assert int(np.abs(tiled.astype(int) - whole.astype(int)).max()) <= 1
    assert network_of_all.held.mock_calls


class _Refusing:
    """A network for which there is no memory; ``held`` fails while what it computed is still there."""

    def __init__(self, network: Any) -> None:
        self.precision = "fp32"
        self.ready_for = network.ready_for
        self.left: Any = None
        self.held = Mock(side_effect=self._check)  # gives None: no limit

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        computed = x + 1
        self.left = weakref.ref(computed)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def _check(self) -> None:
        assert self.left is None or self.left() is None, "the whole picture's planes are still in memory"


class _GpuAtOnce:
    """A pretended GPU that does at once what it is given, as CUDA allocates at once."""

    host_memory = device_memory = staticmethod(lambda size: torch.zeros(size, dtype=torch.uint8))
    stream = staticmethod(lambda: 0)
    mark = finish = staticmethod(lambda what: what)
    wait = staticmethod(lambda stream, event: None)

    def run(self, stream: int, work: Callable[[], object]) -> None:
        work()


def test_on_a_gpu_tiles_are_taken_where_its_free_memory_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgpipe.engine.tiles.tiled.trace", lambda generator, _, dtype: trace(generator, CPU, dtype))
    tiles = Tiles(network("resnet", ngf=64, blocks=1), torch.device("cuda"), "eager", "auto")
    held = 1 << 30

    def side(free: int, side: int) -> int | None:
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 80 << 30))
        return tiles.side_for((side, side), 1, fast=False)

    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: held)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: held)
    assert side(78 << 30, 8192) is None and side(78 << 30, 20000) == 960
    assert side(4 << 30, 4096) == 960 and side(1 << 30, 4096) == 448
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 0)
    assert side(79 << 30, 8192) is None, "what torch keeps for itself is free too"


def test_tiles_of_a_network_that_has_none_are_refused_at_once() -> None:
    light = model_of(build_generator("ugatit", ngf=8, size=None))
    with pytest.raises(UsageError, match=r"--tile 64: this network cannot be run by tiles: gap_fc"):
        Translator(light, device="cpu", tile=64)
    with pytest.raises(UsageError, match="by --engine eager alone"):
        Translator(model_of(network("resnet", ngf=4, blocks=1)), device="cpu", tile=64, engine="torchscript")
