"""Networks as TorchScript: made here, traced and scripted, and hostile ones that must do nothing."""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from cgpipe.engine.translator import Translator
from cgpipe.errors import CgpipeError, ModelError, UsageError
from cgpipe.models import find_model, import_model, load_any
from cgpipe.models.probe import Told
from cgpipe.models.program import Program
from cgpipe.models.torchscript_file import TorchScript, checked_torchscript

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::FutureWarning")


class Drawing(nn.Module):
    """Mixes the colours of pictures whose pixels are in some range."""

    def __init__(self, low: float, high: float, *, half: bool = False) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.mix = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.mix.weight.copy_(
                1.3 * torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0, 0.2, 0.8]])[..., None, None]
            )
            self.mix.bias.fill_(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.mix((x - self.low) * (2 / (self.high - self.low)) - 1))
        return (y + 1) * ((self.high - self.low) / 2) + self.low


def expected(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        y = Drawing(0, 255)(torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None])
    return y[0].permute(1, 2, 0).numpy()


def traced(module: nn.Module, size: int = 32) -> Any:
    return torch.jit.trace(module.eval(), torch.rand(1, 3, size, size), check_trace=False)


def written(path: Path, module: Any) -> Path:
    torch.jit.save(module, str(path))
    return path


@pytest.mark.parametrize("make", [traced, torch.jit.script])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (-1, 1)])
def test_traced_and_scripted_networks_run_in_their_range(
    tmp_path: Path, picture: np.ndarray[Any, Any], make: Callable[[nn.Module], Any], low: int, high: int
) -> None:
    model = load_any(written(tmp_path / "x.pt", make(Drawing(low, high).eval())))
    assert isinstance(model.generator, Program)
    assert model.generator.signature.pixels == f"{low}..{high}"
    assert np.abs(Translator(model)(picture) - expected(picture)).max() <= 1


class Pale(nn.Module):
    """Gives no dark pixels, as a network does that has learned little: only its last operator tells its range."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(torch.tanh(F.pixel_unshuffle(x, 2).clamp(min=-0.1)), 2).contiguous()


def exported(path: Path, module: nn.Module) -> Path:
    torch.export.save(torch.export.export(module.eval(), (torch.rand(1, 3, 96, 128),)), path)
    return path


@pytest.mark.parametrize(
    "write",
    [
        lambda path: written(path, traced(Pale())),
        lambda path: written(path, torch.jit.script(Pale())),
        lambda path: exported(path.with_suffix(".pt2"), Pale()),
    ],
    ids=["traced", "scripted", "exported"],
)
def test_the_last_operator_tells_the_range(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    model = load_any(write(tmp_path / "x.pt"))
    assert isinstance(model.generator, Program)
    assert (model.generator.signature.pixels, model.generator.signature.output_pixels) == ("-1..1", "-1..1")


def test_every_device_has_a_module_of_its_own(tmp_path: Path) -> None:
    program = load_any(written(tmp_path / "x.pt", traced(Drawing(0, 1)))).generator
    assert isinstance(program, Program) and isinstance(program.feed, TorchScript)
    # Moving a module would move the one that the CPU uses.
    assert program.feed._on("cpu:0") is not program.feed._on("cpu")


def test_warnings_come_as_before_after_threads_have_run_it(tmp_path: Path, picture: np.ndarray[Any, Any]) -> None:
    program = load_any(written(tmp_path / "x.pt", traced(Drawing(0, 1)))).generator
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool, torch.no_grad():
        list(pool.map(program, [torch.zeros(1, 3, 32, 32)] * 40))
    assert list(warnings.filters) == before


class Square(nn.Module):
    """Takes pictures of 128x128 alone, as networks with fully connected layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.drawing, self.gain = Drawing(0, 1), nn.Linear(3 * 128 * 128, 1)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gain = self.gain(x.reshape(x.shape[0], -1))
        return gain, self.drawing(x) + gain[..., None, None]


def test_one_size_and_several_outputs_are_found(tmp_path: Path) -> None:
    model = load_any(written(tmp_path / "x.pt", torch.jit.script(Square())))
    assert model.generator.fixed_size == (128, 128)
    assert Translator(model)(np.zeros((50, 70, 3), np.uint8)).shape == (50, 70, 3)


def test_an_import_keeps_it(tmp_path: Path, models_folder: Path, picture: np.ndarray[Any, Any]) -> None:
    path = written(tmp_path / "anime.pt", traced(Drawing(-1, 1)))
    entry = import_model(path, source="photo", target="anime")
    path.unlink()
    assert entry.card is not None and entry.card.architecture == "torchscript"
    assert np.abs(Translator(load_any(find_model("anime")))(picture) - expected(picture)).max() <= 1


class Saves(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.path)
        return x


class SavesWhenLoaded(nn.Module):
    """Its code runs when torch.jit.load sets it up."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        torch.save(torch.zeros(1), self.path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Endless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool((x < 1e9).any()):
            x = x * 1.0
        return x


class Widens(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x], 3)


class Styled(nn.Module):
    """Brightens by a row of numbers, the mean of a picture, and a number."""

    def forward(self, x: torch.Tensor, levels: torch.Tensor, other: torch.Tensor, gain: float) -> torch.Tensor:
        return (x * gain + levels.mean() + other.mean()).clamp(0, 1)


class Listed(nn.Module):
    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        return x[0]


def test_other_inputs_have_names_and_are_numbers_files_or_pictures(
    tmp_path: Path, picture: np.ndarray[Any, Any]
) -> None:
    path = written(tmp_path / "x.pt", torch.jit.script(Styled()))
    np.save(tmp_path / "levels.npy", np.float32([[0.3, 0.1]]))
    Image.fromarray(np.full((8, 8, 3), 51, np.uint8)).save(tmp_path / "other.png")
    wanted = np.rint(np.clip(picture * 0.5 + 255 * (0.2 + 0.2), 0, 255))
    for levels in ("0.3,0.1", str(tmp_path / "levels.npy")):
        given = [f"levels={levels}", f"other={tmp_path / 'other.png'}", "gain=0.5"]
        told = Told(pixels="0..1", output_pixels="0..1")
        found = Translator(load_any(path, inputs=given, told=told))(picture)
        assert np.abs(found.astype(int) - wanted).max() <= 1
    with pytest.raises(UsageError, match="needs a value for its input other"):
        load_any(path, inputs=["levels=1"])
    with pytest.raises(UsageError, match="no input style"):
        load_any(path, inputs=["style=1"])


@pytest.mark.parametrize("make", [Saves, SavesWhenLoaded])
def test_torchscript_that_writes_a_file_is_refused_and_writes_none(tmp_path: Path, make: Callable[[str], Any]) -> None:
    canary = tmp_path / "canary"
    path = written(tmp_path / "x.pt", torch.jit.script(make(str(canary))))
    with pytest.raises(ModelError, match=r"x\.pt: Its code uses save.* Nothing was run"):
        load_any(path)
    assert not canary.exists()
    loaded = torch.jit.load(str(path))
    loaded(torch.zeros(1))
    assert canary.exists()  # so it was worth looking


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Endless(), "loop that may never"),
        (Widens(), "neither the same size nor a whole number of times"),
        (Listed(), "gives a picture first"),
    ],
)
def test_what_cannot_run_is_refused_in_a_sentence(tmp_path: Path, module: nn.Module, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load_any(written(tmp_path / "x.pt", torch.jit.script(module)))


def with_code(content: bytes, change: Callable[[str], str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w") as changed:
        for name in archive.namelist():
            code = archive.read(name)
            changed.writestr(name, change(code.decode()) if name.endswith(".py") else code)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "code",
    [
        'torch.save(x, "f")',
        'x.save("f")',
        'getattr(torch, "save")(x, "f")',
        'getattr(torch, "sa\\x76e")(x, "f")',
        "torch . from_file(x)",
        "ops.image.write_file(x)",
        "ops . evil.run(x)",
        "torch.classes.evil.Run()",
        "ops.prim.rpc_async(x)",
        "tôrch.relu(x)",
    ],
)
def test_code_is_read_before_it_is_loaded(tmp_path: Path, code: str) -> None:
    content = written(tmp_path / "x.pt", traced(Drawing(0, 1))).read_bytes()
    checked_torchscript(content)
    with pytest.raises(ModelError):
        checked_torchscript(with_code(content, lambda text: f"{text}\n    _9 = {code}\n"))


def test_damaged_torchscript_is_a_model_error(tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt", traced(Drawing(0, 1)))
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 12):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with contextlib.suppress(CgpipeError):
            load_any(path)
