"""Networks that enlarge pictures (``--size output``), as ONNX, TorchScript, torch.export; and jobs of each kind."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from clips import Sound, make_clip
from PIL import ExifTags, Image
from shell import invoke
from torch import nn
from torch.nn import functional as F

from cgpipe import translate_folder, translate_video
from cgpipe.engine.translator import Translator
from cgpipe.errors import MediaError, ModelError, UsageError
from cgpipe.evaluation.evaluate import evaluate
from cgpipe.media.frames import Batch
from cgpipe.models import load_any
from cgpipe.networks.fixed import by_parts
from cgpipe.scratch import scratch
from cgpipe.training.distill import distill
from cgpipe.training.distill_config import DistillConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore:.*Found with a test card"
)


class Upscaler(nn.Module):
    """Brightens and enlarges, as networks for super-resolution do: convolutions, then a shuffle of their channels."""

    def __init__(self, times: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.times = times
        self.near, self.wide = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3 * times * times, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = F.pixel_shuffle(self.wide(F.leaky_relu(self.near(x), 0.2)), self.times)
        return (F.interpolate(x, scale_factor=float(self.times)) + 0.1 * fine).clamp(0, 1)


def written(folder: Path, kind: str, times: int, size: tuple[int, int] | None = None) -> Path:
    """An export of the network, for any size of pictures or for one alone."""
    module, example = Upscaler(times).eval(), torch.rand(1, 3, *(size or (24, 40)))
    path = folder / f"upscaler.{kind}"
    if kind == "pt":
        torch.jit.trace(module, example, check_trace=False).save(str(path))  # type: ignore[no-untyped-call]
    elif kind == "pt2":
        sides = None if size else ({2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
        torch.export.save(torch.export.export(module, (example,), dynamic_shapes=sides), path)
    else:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        axes = None if size else {"x": {2: "h", 3: "w"}, "y": {2: "H", 3: "W"}}
        torch.onnx.export(
            module, (example,), str(path), dynamo=False, dynamic_axes=axes, input_names=["x"], output_names=["y"]
        )
    return path


def expected(pixels: np.ndarray[Any, Any], times: int) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        made = Upscaler(times)(torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None])
    return (255 * made[0].permute(1, 2, 0)).numpy()


@pytest.fixture
def picture() -> np.ndarray[Any, Any]:
    y, x = np.mgrid[0:30, 0:46]
    return np.stack([5 * x, 8 * y, (x + y) * 3], -1).astype(np.uint8)


@pytest.mark.parametrize(("kind", "times"), [("onnx", 2), ("onnx", 4), ("pt", 2), ("pt", 4), ("pt2", 2), ("pt2", 4)])
def test_pictures_are_written_at_the_size_that_the_network_gives(
    tmp_path: Path, kind: str, times: int, picture: np.ndarray[Any, Any]
) -> None:
    model = load_any(written(tmp_path, kind, times))
    assert model.generator.enlarges == times
    assert f"enlarged {times} times" in (model.card.notes or "")
    made = Translator(model, size="output")(picture)
    assert made.shape == (30 * times, 46 * times, 3)
    assert np.abs(made - expected(picture, times)).max() <= 1
    for size in ("auto", "full", 256):
        with pytest.raises(UsageError, match=rf"{times} times as high and wide.*--size output"):
            Translator(model, size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_one_of_a_fixed_size_sees_other_pictures_in_parts(
    tmp_path: Path, kind: str, picture: np.ndarray[Any, Any]
) -> None:
    model = load_any(written(tmp_path, kind, 2, size=(32, 32)))
    wide = np.concatenate([picture, picture[:, ::-1]], 1)
    for pixels in (wide, np.concatenate([wide, wide[::-1]]), wide[:20, :20]):
        made = Translator(model, size="output")(pixels)
        assert np.abs(made - expected(pixels, 2))[:-4, :-4].max() <= 1  # beyond it there is reflection in place of 0


def test_parts_are_joined_where_they_overlap() -> None:
    torch.manual_seed(0)
    x, seen = torch.rand(2, 3, 75, 130), []

    def run(part: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(part.shape[2:]))
        return F.interpolate(part, scale_factor=3.0)

    assert torch.equal(by_parts(run, x, (40, 40), 8, 3), F.interpolate(x, scale_factor=3.0))
    assert set(seen) == {(40, 40)} and len(seen) == 3 * 4


def test_strength_and_masks_lie_between_enlargement_and_result(tmp_path: Path, picture: np.ndarray[Any, Any]) -> None:
    model = load_any(written(tmp_path, "pt", 2))
    full, none, half = (Translator(model, size="output", strength=strength)(picture) for strength in (1, 0, 0.5))
    plain = F.interpolate(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), scale_factor=2, mode="bicubic")
    assert np.abs(none - plain[0].permute(1, 2, 0).clamp(0, 255).numpy()).max() <= 1
    assert np.abs(half - (full / 2 + none / 2)).max() <= 1
    mask = np.zeros((30, 46), np.uint8)
    mask[:, 23:] = 255
    masked = Translator(model, size="output")(picture, mask)
    assert (masked[:, :40] == none[:, :40]).all() and (masked[:, 56:] == full[:, 56:]).all()


def test_sixteen_bits_stay(tmp_path: Path, picture: np.ndarray[Any, Any]) -> None:
    made = Translator(load_any(written(tmp_path, "pt", 2)), size="output")(picture.astype(np.uint16) * 257)
    assert made.dtype == np.uint16 and np.abs(made / 257 - expected(picture, 2)).max() <= 1


def test_a_folder_keeps_what_belongs_to_its_pictures(tmp_path: Path, picture: np.ndarray[Any, Any]) -> None:
    path = written(tmp_path, "pt", 2)
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Ada"
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base.ExifImageWidth: 46, ExifTags.Base.ExifImageHeight: 30})
    packet = b'<x:xmpmeta><rdf:D exif:PixelXDimension="46" tiff:ImageLength="30"/></x:xmpmeta>'
    Image.fromarray(picture).save(photos / "turned.jpg", exif=exif, xmp=packet, quality=95)
    opacity = np.full((30, 46, 1), 80, np.uint8)
    Image.fromarray(np.concatenate([picture, opacity], 2)).save(photos / "clear.png")
    frames = [Image.fromarray(np.roll(picture, shift, 1)) for shift in (0, 9)]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:], duration=200)
    words = ("translate", photos, "--model", path, "--from", "small", "--to", "large", "-o", out, "--size")
    refused = invoke(*words, "auto")
    assert refused.exit_code == 2 and "--size output" in refused.output and not out.exists()
    done = invoke(*words, "output", "--gallery")
    assert done.exit_code == 0, done.output
    with Image.open(out / "turned.jpg") as made:
        assert made.size == (60, 92)
        kept = made.getexif()
        assert kept[ExifTags.Base.Artist] == "Ada" and kept[ExifTags.Base.Orientation] == 1
        details = kept.get_ifd(ExifTags.IFD.Exif)
        assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (60, 92)
        assert b'PixelXDimension="60"' in made.info["xmp"] and b'ImageLength="92"' in made.info["xmp"]
    with Image.open(out / "clear.png") as made:
        assert made.size == (92, 60) and set(np.asarray(made)[..., 3].flatten()) == {80}
    with Image.open(out / "moving.gif") as made:
        assert made.size == (92, 60) and getattr(made, "n_frames", 1) == 2
    assert "3 already done" in invoke(*words, "output").output
    page = (tmp_path / "out.html").read_text()
    assert "turned.jpg" in page


def test_a_clip_is_written_large_beside_its_original_and_held_still(tmp_path: Path) -> None:
    path = written(tmp_path, "pt", 2)
    clip = make_clip(tmp_path / "in.mp4", count=5, sounds=[Sound(seconds=0.2)])
    words = ("video", clip, tmp_path / "out.mp4", "--model", path, "--size", "output")
    for more, size in (((), (192, 128)), (("--side-by-side", "--steady", "0.5", "--overwrite"), (384, 128))):
        done = invoke(*words, *more)
        assert done.exit_code == 0, done.output
        with av.open(str(tmp_path / "out.mp4")) as made:
            assert [stream.type for stream in made.streams] == ["video", "audio"]
            assert {(frame.width, frame.height) for frame in made.decode(video=0)} == {size}


@pytest.mark.parametrize(("kind", "times"), [("onnx", 1), ("pt", 1), ("pt2", 1), ("onnx", 2)])
def test_each_kind_runs_a_folder_a_clip_with_sound_and_a_job_that_goes_on(
    tmp_path: Path, kind: str, times: int, picture: np.ndarray[Any, Any]
) -> None:
    path = written(tmp_path, kind, times)
    look: dict[str, Any] = {"model": path, "size": "output" if times > 1 else "auto"}
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture).save(tmp_path / "photos" / "a.png")
    assert translate_folder(tmp_path / "photos", tmp_path / "out", workers=0, **look).translated == 1
    made = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert np.abs(made - expected(picture, times)).max() <= 1
    clip = make_clip(tmp_path / "in.mp4", count=5, sounds=[Sound(seconds=0.2)])
    report = translate_video(clip, tmp_path / "out.mp4", **look)
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert [stream.type for stream in file.streams] == ["video", "audio"]
        sizes = [(frame.width, frame.height) for frame in file.decode(video=0)]
    assert (report.frames, sizes) == (5, [(96 * times, 64 * times)] * 5)

    def stop(frames: int) -> None:
        raise KeyboardInterrupt

    numbered = tmp_path / "frames" / "%03d.png"
    with pytest.raises(KeyboardInterrupt):
        translate_video(clip, numbered, on_frames=stop, **look)
    report = translate_video(clip, numbered, **look)
    assert report.resumed >= 1 and report.frames == 5
    assert {Image.open(frame).size for frame in (tmp_path / "frames").glob("*.png")} == {(96 * times, 64 * times)}


def test_what_cannot_be_enlarged_is_refused_in_a_sentence(tmp_path: Path, picture: np.ndarray[Any, Any]) -> None:
    path = written(tmp_path, "pt", 2)
    with pytest.raises(UsageError, match=r"--size output is for networks that enlarge"):
        Translator.find(model="horse2zebra-fast", size="output")
    with pytest.raises(UsageError, match="cannot be run by tiles"):
        Translator.find(model=path, size="output", tile=64)
    with pytest.raises(UsageError, match="enlarges pictures, and a student keeps their size"):
        distill(DistillConfig(teacher=str(path), source="small", target="large", dataset_dir=tmp_path))
    with pytest.raises(UsageError, match="enlarges pictures, and results of another size"):
        evaluate(str(path), tmp_path)
    large = torch.from_numpy(scratch((64, 64, 3), np.uint8, tmp_path))
    with pytest.raises(MediaError, match="too large to be enlarged in memory"):
        Translator.find(model=path, size="output").translate(Batch(pixels=large[None], origins=(None,)))
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Upsample(size=(90, 90)), torch.rand(1, 3, 64, 64)), buffer)  # type: ignore
    (tmp_path / "odd.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ModelError, match=r"neither the same size nor a whole number of times as large"):
        load_any(tmp_path / "odd.pt")
