"""Pictures larger than a generator knows: what the way to its scale and back costs, in looks, in time and in memory.

The looks of three ways to bring a change up are compared: as cgpipe does it, by bicubic resampling alone, and by the
fast guided filter (arXiv 1505.00996) on grey, 2 pixels around, epsilon 0.01. Each has two figures without a classifier:

- *error*, in levels of 255: what the generator makes of a test picture at 256x256 is the truth; picture and truth are
  reduced to 128x128, and what the way makes of these and the whole picture is compared with the truth. *Halo* is how
  far it leaves the range of values that the truth has within two pixels.
- *sharpness*: variance of the Laplacian after and before, where the change is below 4 levels, of pictures enlarged
  twice with grain of 6 levels added, so that there is detail that the generator does not see.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import commands
import cv2
import numpy as np
import torch
from results import Row, Table
from settings import CannotMeasureError, Settings
from torch.nn import functional as F

import cgpipe
from cgpipe.data.pictures import find_pictures
from cgpipe.engine.scale import add_change, mean_around, resize
from cgpipe.evaluation.evaluator import imagenet_class
from cgpipe.media.pictures.read import read_picture
from cgpipe.media.pictures.write import write_picture
from cgpipe.networks.efficientnet import EfficientNetLite

Way = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From pixels (1, H, W, 3), and what was seen and made of it (1, 3, h, w), to pixels."""

SIDE = 256
GRAIN, UNCHANGED = 6, 4
RUNS = 5


def bicubic(pixels: torch.Tensor, seen: torch.Tensor, translated: torch.Tensor) -> torch.Tensor:
    """All of the original's detail, whatever became of it."""
    change = F.interpolate(translated - seen, pixels.shape[1:3], mode="bicubic")
    return (pixels + change.permute(0, 2, 3, 1)).round().clamp(0, 255).to(torch.uint8)


def guided(pixels: torch.Tensor, seen: torch.Tensor, translated: torch.Tensor) -> torch.Tensor:
    """The change as a line in the grey value around each pixel."""
    change, grey = (translated - seen) / 255, seen.mean(1, keepdim=True) / 255
    mean, mean_grey = mean_around(change, 2), mean_around(grey, 2)
    slope = mean_around(grey * change, 2) - mean_grey * mean
    slope /= mean_around(grey * grey, 2) - mean_grey**2 + 0.01
    offset = mean - slope * mean_grey
    size, own = pixels.shape[1:3], pixels.float().mean(3)[:, None] / 255
    slope, offset = (F.interpolate(mean_around(layer, 2), size, mode="bilinear") for layer in (slope, offset))
    return (pixels + 255 * (slope * own + offset).permute(0, 2, 3, 1)).round().clamp(0, 255).to(torch.uint8)


WAYS: dict[str, Way] = {"as shipped": add_change, "bicubic alone": bicubic, "guided filter": guided}


class Classifiers:
    """Counts pictures that are seen as zebras."""

    def __init__(self) -> None:
        self.networks = [EfficientNetLite(variant) for variant in ("lite0", "lite2")]
        self.index = imagenet_class("zebra")
        self.seen = torch.zeros(2)
        self.count = 0

    def add(self, pixels: torch.Tensor) -> None:
        """Pixels (1, H, W, 3) of any size."""
        planes = F.interpolate(pixels.permute(0, 3, 1, 2).float(), (SIDE, SIDE), mode="bicubic", antialias=True)
        planes = planes.clamp(0, 255) / 127.5 - 1
        self.seen += torch.tensor([float(network(planes)[1].argmax() == self.index) for network in self.networks])
        self.count += 1

    def shares(self) -> str:
        """By Lite0 and by Lite2; counts anew from here."""
        shares = self.seen / self.count
        self.seen, self.count = torch.zeros(2), 0
        return " / ".join(f"{share:.1%}" for share in shares.tolist())


@torch.inference_mode()
def measure_scale(settings: Settings) -> list[Table]:
    """Looks, time and memory; the dataset has horses in testA and zebras in testB.

    Raises:
        CannotMeasureError: no dataset was given, or this is not Linux, which says how much memory was used.
    """
    if sys.platform != "linux":
        raise CannotMeasureError("peak memory is read from /proc, which is on Linux only")
    if settings.dataset is None:
        raise CannotMeasureError("it needs --dataset, a folder with horses in testA and zebras in testB")
    rows: list[Row] = []
    classifiers = Classifiers()
    for to, name in (("zebra", "testA"), ("horse", "testB")):
        paths = find_pictures(settings.dataset / name)[: 4 if settings.tiny else None]
        rows += shares_by_side(to, paths, classifiers)
        rows += ways_compared(to, paths, classifiers)
    example = read_picture(find_pictures(settings.dataset / "testA")[0]).pixels
    rows += [time_of_picture(settings, example), memory_of_picture(settings.folder, example)]
    return [Table(title="Pictures larger than the model knows", columns=dict.fromkeys(ROW, ""), rows=rows)]


ROW = ("what", "figure", "aim")


def row(*cells: str) -> Row:
    """A row of the table: what was measured, the figure, and what it is to be."""
    return dict(zip(ROW, cells, strict=True))


def enlarged(pixels: np.ndarray, width: int, height: int, grain: float = 0) -> np.ndarray:
    """Bicubic, with noise of a standard deviation of ``grain`` levels."""
    large = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
    if grain:
        noise = np.random.default_rng(0).normal(0, grain, large.shape)
        large = np.clip(np.rint(large + noise), 0, 255).astype(np.uint8)
    return large


def shares_by_side(to: str, paths: Sequence[Path], classifiers: Classifiers) -> Iterator[Row]:
    """How many are seen as zebras at the generator's own size, and enlarged for the whole translator."""
    translate = cgpipe.Translator.find(to, device="cpu")
    for side in (SIDE, 1024, 3000):
        for path in paths:
            pixels = read_picture(path).pixels
            classifiers.add(torch.from_numpy(translate(enlarged(pixels, side, side) if side > SIDE else pixels))[None])
        aim = "" if side == SIDE else "within 5 points of 256"
        yield row(f"{len(paths)} to {to}, {side}x{side}: seen as zebra by Lite0 / Lite2", classifiers.shares(), aim)


def ways_compared(to: str, paths: Sequence[Path], classifiers: Classifiers) -> Iterator[Row]:
    """The ways to bring a change up, on the same pictures and the same changes."""
    at_own_size = cgpipe.Translator.find(to, device="cpu", size="full", precision="fp32")

    def generate(seen: torch.Tensor) -> torch.Tensor:
        whole = at_own_size(seen[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy())
        return torch.from_numpy(whole).permute(2, 0, 1)[None].float()

    cases = []
    for path in paths:
        pixels = torch.from_numpy(enlarged(read_picture(path).pixels, SIDE, SIDE))[None]
        truth = generate(pixels.permute(0, 3, 1, 2).float()).permute(0, 2, 3, 1).to(torch.uint8)
        large = torch.from_numpy(enlarged(pixels[0].numpy(), 2 * SIDE, 2 * SIDE, GRAIN))[None]
        seen = resize(large, (SIDE, SIDE))
        cases.append((pixels, truth, large, seen, generate(seen)))
    for name, way in WAYS.items():
        error, halo, after, before = 0.0, 0.0, 0.0, 0.0
        for pixels, truth, large, seen, translated in cases:
            half = (SIDE // 2, SIDE // 2)
            brought = way(pixels, resize(pixels, half), resize(truth, half)).permute(0, 3, 1, 2).float()
            wanted = truth.permute(0, 3, 1, 2).float()
            error += float((brought - wanted).abs().mean()) / len(cases)
            highest, lowest = F.max_pool2d(wanted, 5, 1, 2), -F.max_pool2d(-wanted, 5, 1, 2)
            halo += float(((brought - highest).relu() + (lowest - brought).relu()).mean()) / len(cases)
            result = way(large, seen, translated)
            classifiers.add(result)
            still = mean_around((translated - seen).abs().amax(1, keepdim=True), 1) < UNCHANGED
            still = F.interpolate(still.float(), large.shape[1:3])[..., 1:-1, 1:-1] > 0
            before += float(laplacian(large)[still].square().sum())
            after += float(laplacian(result)[still].square().sum())
        yield row(f"to {to}, {name}: error, halo", f"{error:.2f}, {halo:.2f}", "")
        sharpness = f"{after / before:.1%}" if before else "everything changed"
        yield row(f"to {to}, {name}: sharpness where nothing changed", sharpness, "97% to 103%")
        yield row(f"to {to}, {name}: 512x512 with grain seen as zebra", classifiers.shares(), "")


def laplacian(pixels: torch.Tensor) -> torch.Tensor:
    """Of the grey values, without the border."""
    kernel = torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]])
    return F.conv2d(pixels.float().mean(3)[:, None], kernel)


def time_of_picture(settings: Settings, example: np.ndarray) -> Row:
    """Reading, translating and writing a photo, the model being loaded."""
    source = settings.folder / "photo.jpg"
    write_picture(source, enlarged(example, 4000, 3000, GRAIN))
    translate = cgpipe.Translator.find("zebra", device="cpu")
    seconds = []
    for _ in range(settings.times(RUNS) + 1):
        started = time.perf_counter()
        frame = read_picture(source)
        write_picture(settings.folder / "translated.jpg", translate(frame.pixels), frame.origin)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[1:])
    return row("4000x3000 JPEG, whole, model loaded", f"{median:.2f} s", "1.5 s on two cores")


LARGE = """
import sys, cgpipe
report = cgpipe.translate_folder(sys.argv[1], sys.argv[2], to="zebra", device="cpu", workers=0)
assert report.translated == 1, report.failures
status = open("/proc/self/status").read()  # what getrusage says is at least what the parent had
print(status.split("VmHWM:")[1].split()[0])
"""


def memory_of_picture(folder: Path, example: np.ndarray) -> Row:
    """Peak memory of a process that translates a picture of 100 megapixels, beyond that for one of 256x256."""
    peaks = []
    for width, height in ((SIDE, SIDE), (11600, 8650)):
        source = folder / f"{width}.jpg"
        write_picture(source, cv2.resize(example, (width, height), interpolation=cv2.INTER_CUBIC))
        peaks.append(1024 * int(commands.run("-c", LARGE, source, folder / f"out {width}")))
    times = (peaks[1] - peaks[0]) / (11600 * 8650 * 3)
    what = "100-megapixel JPEG: peak memory, and beyond a small picture's, in times its pixels"
    return row(what, f"{peaks[1] / 2**20:.0f} MiB, {times:.1f} times", "at most 4 times")
