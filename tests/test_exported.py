"""Networks as programs of torch.export: made here, and hostile ones that must do nothing."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.engine.export import export_model
from cgpipe.engine.translator import Translator
from cgpipe.errors import CgpipeError, ModelError
from cgpipe.models import find_model, import_model, load_any
from cgpipe.models.exported_file import Exported, checked_exported
from cgpipe.models.program import Program

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Everything(nn.Module):
    """What picture-to-picture networks are made of: norms, strides, sizes that are computed, constants, views."""

    def __init__(self, norm: type[nn.Module] = nn.InstanceNorm2d) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), norm(8)
        self.down, self.up = nn.Conv2d(8, 16, 3, 2, 1), nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.attention, self.head = nn.Linear(16, 16), nn.Conv2d(8, 3, 3, padding=1)
        self.register_buffer("gain", torch.tensor([0.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.leaky_relu(self.norm(self.stem(x)), 0.2)
        down = self.down(y)
        weights = torch.sigmoid(self.attention(down.mean((2, 3))))[:, :, None, None]
        up = F.interpolate(self.up(down * weights), size=x.shape[2:], mode="bilinear", align_corners=False)
        first, second = torch.split(up, 4, dim=1)
        y = torch.cat([first.mul(2), F.silu(second)], 1) + y.reshape(y.shape[0], 8, -1).view_as(y)
        return torch.tanh(x + self.gain * torch.tensor(0.3) * self.head(y))


def exported(path: Path, module: nn.Module, *, free: bool = True, dtype: torch.dtype = torch.float32) -> Path:
    sides = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO} if free else None
    shapes = (sides,) if sides else None
    program = torch.export.export(module.eval(), (torch.rand(1, 3, 64, 96, dtype=dtype),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return exported(tmp_path_factory.mktemp("exported") / "x.pt2", Everything()).read_bytes()


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "anime.pt2").write_bytes(content)
    return tmp_path / "anime.pt2"


@pytest.fixture
def picture() -> np.ndarray[Any, Any]:
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([4 * x % 256, 5 * y % 256, (x + y) * 2 % 256], -1).astype(np.uint8)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, nn.BatchNorm2d])
def test_every_step_gives_what_torch_gives(tmp_path: Path, norm: type[nn.Module]) -> None:
    module = Everything(norm)
    run = Exported(checked_exported(exported(tmp_path / "x.pt2", module).read_bytes()))
    (port,) = run.inputs
    assert port.shape == (1, 3, None, None)
    x = torch.rand(1, 3, 40, 56)
    with torch.no_grad():
        assert (torch.from_numpy(np.asarray(run({port.name: x.numpy()}, 1)[0])) == module(x)).all()


def test_it_translates_pictures_of_any_size(file: Path, picture: np.ndarray[Any, Any]) -> None:
    module = Everything()
    model = load_any(file)
    assert isinstance(model.generator, Program)
    assert model.generator.signature.pixels == "-1..1"
    with torch.no_grad():
        wanted = module(torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1)
    found = Translator(model, size="full")(picture).astype(float)
    assert np.abs(found - (wanted[0].permute(1, 2, 0).numpy() + 1) * 127.5).max() <= 1


def test_one_of_a_fixed_size_is_a_scale(tmp_path: Path) -> None:
    model = load_any(exported(tmp_path / "x.pt2", Everything(), free=False))
    assert model.generator.fixed_size == (64, 96)
    assert Translator(model)(np.zeros((50, 70, 3), np.uint8)).shape == (50, 70, 3)


def test_an_import_keeps_it(file: Path, models_folder: Path, picture: np.ndarray[Any, Any]) -> None:
    wanted = Translator(load_any(file))(picture)
    entry = import_model(file, source="photo", target="anime")
    file.unlink()
    assert entry.card is not None and entry.card.architecture == "torch-export"
    assert (Translator(load_any(find_model("anime")))(picture) == wanted).all()


def test_our_own_exports_come_back(tmp_path: Path, picture: np.ndarray[Any, Any]) -> None:
    model = load_any(find_model(file="horse2zebra-fast"))
    export_model(model, tmp_path / "net.pt2", "torch-export")
    picture = picture.repeat(2, 0).repeat(2, 1)
    found = Translator(load_any(tmp_path / "net.pt2"), size="full", precision="fp32")(picture)
    assert np.abs(found.astype(int) - Translator(model, size="full", precision="fp32")(picture)).max() <= 1


def changed(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with another graph."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w") as result:
        for name in archive.namelist():
            entry = archive.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(entry)
                change(program["graph_module"]["graph"])
                entry = json.dumps(program).encode()
            result.writestr(name, entry)
    return buffer.getvalue()


def with_target(target: str) -> Callable[[dict[str, Any]], None]:
    def change(graph: dict[str, Any]) -> None:
        graph["nodes"][0]["target"] = target

    return change


@pytest.mark.parametrize(
    "target",
    [
        *("torch.ops.aten.from_file.default", "torch.ops.image.write_file.default", "os.system", "_operator.call"),
        *("torch.ops.aten.conv2d.__init__", "torch.ops.higher_order.cond", "builtins.eval", "math.trunc.__self__"),
    ],
)
def test_a_step_that_does_more_than_compute_is_refused(content: bytes, target: str) -> None:
    with pytest.raises(ModelError, match=r"not among the operators .* Nothing was run"):
        checked_exported(changed(content, with_target(target)))


def endless(graph: dict[str, Any]) -> None:
    graph["nodes"] *= 400


def giant(graph: dict[str, Any]) -> None:
    sizes = {"name": "size", "arg": {"as_ints": [1 << 20, 1 << 20]}, "kind": 1}
    graph["nodes"][0] = graph["nodes"][0] | {"target": "torch.ops.aten.zeros.default", "inputs": [sizes]}


@pytest.mark.parametrize(("change", "says"), [(endless, "more than 10000"), (giant, "more numbers than any picture")])
def test_one_without_measure_is_refused(content: bytes, change: Callable[[dict[str, Any]], None], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        checked_exported(changed(content, change))


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def test_what_torch_would_unpickle_is_never_unpickled(file: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = io.BytesIO()
    torch.save(Evil(canary), evil)

    def poisoned(ending: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(file) as archive, zipfile.ZipFile(buffer, "w") as result:
            for name in archive.namelist():
                result.writestr(name, evil.getvalue() if ending in name else archive.read(name))
        return buffer.getvalue()

    # The example inputs are left out; as weights the same bytes are refused.
    content = poisoned("sample_inputs")
    (tmp_path / "inputs.pt2").write_bytes(content)
    load_any(tmp_path / "inputs.pt2")
    content = poisoned("weights/weight_0")
    pickled = content.replace(b'"use_pickle": false', b'"use_pickle": true ')
    with pytest.raises(ModelError):
        checked_exported(pickled)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Evil(canary)))
    assert canary.exists()  # so it was worth looking


def test_a_damaged_one_is_a_model_error(file: Path, content: bytes) -> None:
    for place in range(0, len(content), len(content) // 12):
        file.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with suppress(CgpipeError):
            load_any(file)
