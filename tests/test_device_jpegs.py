"""JPEGs that a device decodes and encodes: the whole way, with a codec of the processor in the device's place."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.ExifTags import Base

from cgpipe.engine import jpegs
from cgpipe.engine.jpegs import JPEG_VARIABLE, find_codec, smoothed, upright
from cgpipe.jobs import pictures as jobs
from cgpipe.jobs.folder import translate_folder
from cgpipe.jobs.journal import NAME
from cgpipe.jobs.report import FileResult
from cgpipe.media.frames import JpegBatch
from cgpipe.media.pictures.decode import TURNS
from cgpipe.media.pictures.jpegs import is_plain, read_jpeg

pytestmark = pytest.mark.usefixtures("zebra_model")


class CpuCodec:
    """Decodes and encodes as reader and writer do it.

    Args:
        refused: a file that fails, and all others with it.
    """

    device = torch.device("cpu")

    def __init__(self, refused: bytes = b"") -> None:
        self.refused = refused
        self.decoded = self.encoded = 0

    def decode(self, batch: JpegBatch[Any]) -> torch.Tensor:
        contents = [content.numpy() for content in batch.contents()]
        if any(content.tobytes() == self.refused for content in contents):
            raise RuntimeError("Error while decoding JPEG images")
        read = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        planes = torch.from_numpy(np.stack([cv2.imdecode(content, read) for content in contents])).permute(0, 3, 1, 2)
        self.decoded += len(batch)
        return upright(planes, batch.orientation).permute(0, 2, 3, 1).contiguous()

    def encode(self, pixels: torch.Tensor, quality: int) -> Sequence[torch.Tensor]:
        ways = (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR)
        self.encoded += len(pixels)
        pictures = [cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) for picture in pixels.numpy()]
        files = [cv2.imencode(".jpg", p, (*ways, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444))[1] for p in pictures]
        return [torch.from_numpy(file.ravel()) for file in files]


def photo(seed: int = 0, width: int = 72, height: int = 48) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(cv2.blur(pixels, (5, 5)))


def coded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **({"quality": 90} | options))
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[Base.Orientation], tags[Base.Artist] = orientation, "somebody"
    return tags


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
PLAIN = coded(photo())
PLAINS = {
    "420.jpg": PLAIN,
    "444.jpg": coded(photo(1), subsampling=0),
    "422.jpeg": coded(photo(2), subsampling=1),
    "gray.jpg": coded(photo(3).convert("L")),
    "tags.jpg": coded(photo(4), exif=exif(1), icc_profile=SRGB, xmp=XMP, dpi=(300, 300), comment=b"a word"),
    "restart.jpg": coded(photo(5), restart_marker_rows=1),
    "other size.jpg": coded(photo(6, 61, 47)),
    **{f"turned {n}.jpg": coded(photo(n), exif=exif(n)) for n in range(2, 9)},
}
ODD = {
    "progressive.jpg": coded(photo(), progressive=True),
    "cmyk.jpg": coded(photo().convert("CMYK")),
    "rgb.jpg": coded(photo(), keep_rgb=True),
    "gray with a profile.jpg": coded(photo().convert("L"), icc_profile=SRGB),
    "tiny.jpg": coded(photo(0, 20, 20)),
    "two.jpg": coded(photo(), "MPO", save_all=True, append_images=[photo(1)]),
    "followed.jpg": PLAIN + b"a film",
    "opaque.png": coded(photo(), "PNG"),
}
BROKEN = {"cut.jpg": PLAIN[:-200], "head.jpg": PLAIN[:300], "no picture.jpg": b"hello" * 40}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(NAME)}


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> CpuCodec:
    codec = CpuCodec()
    monkeypatch.setattr(jobs, "find_codec", lambda device, pictures: codec)
    return codec


@pytest.mark.parametrize("workers", [0, 1])
def test_the_files_are_those_of_reader_and_writer(
    tmp_path: Path, codec: CpuCodec, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    photos = put(tmp_path / "photos", PLAINS | ODD | BROKEN)
    report = translate_folder(photos, tmp_path / "coded", to="zebra", workers=workers, batch_size=1)
    assert {failure.input.name for failure in report.failures} == set(BROKEN)
    assert codec.decoded == len(PLAINS)
    assert codec.encoded == len(PLAINS) + len(ODD) - 1  # on a CPU all lies where the codec is; PNG stays PNG
    again = translate_folder(photos, tmp_path / "coded", to="zebra")
    assert (again.skipped, again.translated) == (len(PLAINS | ODD), 0)
    monkeypatch.setattr(jobs, "find_codec", lambda device, pictures: None)
    expected = translate_folder(photos, tmp_path / "plain", to="zebra", workers=0, batch_size=1)
    assert [f.reason for f in expected.failures] == [f.reason for f in report.failures]
    assert made(tmp_path / "coded") == made(tmp_path / "plain")


def test_a_file_that_the_device_refuses_is_decoded_by_the_reader(tmp_path: Path, codec: CpuCodec) -> None:
    photos = put(tmp_path / "photos", PLAINS)
    codec.refused = PLAIN
    report = translate_folder(photos, tmp_path / "out", to="zebra", workers=0, batch_size=4)
    assert (report.translated, report.failures) == (len(PLAINS), [])
    assert codec.decoded == len(PLAINS) - 1


def test_pictures_that_the_device_cannot_encode_are_written_by_the_writer(tmp_path: Path, codec: CpuCodec) -> None:
    def refuse(pixels: torch.Tensor, quality: int) -> Sequence[torch.Tensor]:
        raise RuntimeError("image encoding failed")

    photos = put(tmp_path / "photos", PLAINS)
    translate_folder(photos, tmp_path / "one", to="zebra", workers=0, batch_size=4)
    codec.encode = refuse  # type: ignore[method-assign]
    translate_folder(photos, tmp_path / "other", to="zebra", workers=0, batch_size=4)
    assert made(tmp_path / "one") == made(tmp_path / "other")


def test_processes_write_the_same_files_and_their_journals(
    tmp_path: Path, codec: CpuCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = put(tmp_path / "photos", PLAINS | {f"deep {name}": content for name, content in PLAINS.items()})
    expected = translate_folder(photos, tmp_path / "one", to="zebra", workers=0, batch_size=1)
    monkeypatch.setattr(jobs, "EACH_WRITES", 8)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "444.jpg").write_bytes(b"not ours")
    ended: list[int] = []
    before = multiprocessing.active_children()

    def ours() -> list[Any]:
        return [process for process in multiprocessing.active_children() if process not in before]

    def lose_one(result: FileResult) -> None:
        if not ended and (writers := ours()):
            ended.append(writers[0].pid)
            writers[0].kill()

    report = translate_folder(photos, tmp_path / "other", to="zebra", workers=0, batch_size=1, on_result=lose_one)
    assert ended
    assert [failure.input.name for failure in report.failures] == ["444.jpg"]
    assert report.translated == expected.translated - 1
    # A process that is killed may leave what it was writing under a hidden name.
    outputs = {name: content for name, content in made(tmp_path / "other").items() if not name.startswith(".cgpipe-")}
    assert outputs == made(tmp_path / "one") | {"444.jpg": b"not ours"}
    again = translate_folder(photos, tmp_path / "other", to="zebra", workers=0, overwrite=False)
    assert (again.skipped, again.translated) == (expected.translated - 1, 0)
    assert made(tmp_path / "other") == outputs, "the next run removes what a killed process left"
    assert not ours()


def test_quality_and_format_are_as_asked(tmp_path: Path, codec: CpuCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = put(tmp_path / "photos", {"a.jpg": PLAIN, "b.png": ODD["opaque.png"]})
    clear = photo().convert("RGBA")
    clear.putalpha(128)
    clear.save(photos / "clear.png")
    for way, options in (("low", {"quality": 40}), ("all", {"format": "jpeg"}), ("png", {"format": "png"})):
        codec.encoded = 0
        translate_folder(photos, tmp_path / way, to="zebra", workers=0, batch_size=1, **options)
        assert codec.encoded == {"low": 1, "all": 2, "png": 0}[way]
    monkeypatch.setattr(jobs, "find_codec", lambda device, pictures: None)
    for way, options in (("low", {"quality": 40}), ("all", {"format": "jpeg"}), ("png", {"format": "png"})):
        translate_folder(photos, tmp_path / f"{way} plain", to="zebra", workers=0, batch_size=1, **options)
        assert made(tmp_path / way) == made(tmp_path / f"{way} plain")


@pytest.mark.parametrize("content", PLAINS.values(), ids=PLAINS)
def test_plain_jpegs_travel_as_they_are(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    jpeg = read_jpeg(file)
    assert jpeg is not None
    assert jpeg.content == content


@pytest.mark.parametrize("content", [*ODD.values(), *BROKEN.values()], ids=[*ODD, *BROKEN])
def test_others_are_left_to_the_reader(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    assert read_jpeg(file) is None


def test_any_damage_to_the_header_is_left_to_the_reader() -> None:
    header = PLAIN.index(b"\xff\xda") + 4
    numbers = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(PLAIN)
        damaged[numbers.integers(header)] = numbers.integers(256)
        is_plain(bytes(damaged[: numbers.integers(header)]) + b"\xff\xd9")
        is_plain(bytes(damaged))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_turned_as_the_reader_turns_them(orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    planes = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    turned = upright(planes, orientation)[0].permute(1, 2, 0).numpy()
    assert (turned == TURNS[orientation](pixels)).all()


def test_the_processor_and_the_environment_leave_jpeg_to_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_codec(torch.device("cpu"), 1000) is None
    assert find_codec(torch.device("cuda"), 2) is None
    monkeypatch.setenv(JPEG_VARIABLE, "cpu")
    assert find_codec(torch.device("cuda"), 1000) is None


def test_torchvisions_operators_are_as_they_are_called() -> None:
    jpegs._load_operators()
    decode, encode = (torch.ops.image.decode_jpegs_cuda.default, torch.ops.image.encode_jpegs_cuda.default)
    assert str(decode._schema).endswith("(Tensor[] encoded_images, int mode, Device device) -> Tensor[]")
    assert str(encode._schema).endswith("(Tensor[] decoded_images, int quality) -> Tensor[]")


def within_lines(content: bytes) -> torch.Tensor:
    """Planes as of a decoder that interpolates chroma of 4:2:0 within lines alone, as nvJPEG does."""
    with av.open(io.BytesIO(content), format="mjpeg") as file:
        frame = next(file.decode(video=0))
        assert isinstance(frame, av.VideoFrame)
    lines = [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]
    luma, *chroma = (plane.astype(np.float64) for plane in lines)
    wide = [np.stack([three(plane, -1), three(plane, 1)], 2).reshape(len(plane), -1).repeat(2, 0) for plane in chroma]
    u, v = (plane[: frame.height, : frame.width] - 128 for plane in wide)
    rgb = np.stack([luma + 1.402 * v, luma - 0.344136 * u - 0.714136 * v, luma + 1.772 * u])
    return torch.from_numpy(rgb.round().clip(0, 255).astype(np.uint8))


def three(plane: np.ndarray, side: int) -> np.ndarray:
    """Three quarters of each value, and one of that beside it."""
    beside = np.concatenate([plane[:, :1], plane[:, :-1]] if side < 0 else [plane[:, 1:], plane[:, -1:]], 1)
    return 0.75 * plane + 0.25 * beside


@pytest.mark.parametrize("size", [(72, 48), (61, 47)])
def test_chroma_is_interpolated_between_lines_as_by_the_reader(size: tuple[int, int]) -> None:
    colours = np.random.default_rng(0).integers(60, 196, (9, 12, 3), np.uint8)
    content = coded(Image.fromarray(cv2.resize(colours, size), "YCbCr").convert("RGB"), subsampling=2, quality=95)
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)
    planes = within_lines(content)[None]
    before = np.abs(planes[0].permute(1, 2, 0).numpy() - expected)
    after = np.abs(smoothed(planes)[0].permute(1, 2, 0).numpy() - expected)
    assert before.mean() > 1.5
    assert after.mean() < 0.6
    assert after.max() < 8


class LineCodec(CpuCodec):
    """As nvJPEG."""

    smooths = False

    def decode(self, batch: JpegBatch[Any]) -> torch.Tensor:
        if not batch.halved:
            return super().decode(batch)
        planes = torch.stack([within_lines(content.numpy().tobytes()) for content in batch.contents()])
        return upright(smoothed(planes) if self.smooths else planes, batch.orientation).permute(0, 2, 3, 1).contiguous()


class WrongCodec(LineCodec):
    def decode(self, batch: JpegBatch[Any]) -> torch.Tensor:
        return super().decode(batch).flip(3)


def test_a_codec_is_tried_and_taken_if_it_is_near() -> None:
    codec = LineCodec()
    assert jpegs._is_near(codec)
    assert codec.smooths
    assert not jpegs._is_near(WrongCodec())


@pytest.mark.parametrize(("smooths", "near"), [(True, 1), (False, 4)])
def test_chroma_is_interpolated_before_pictures_are_turned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smooths: bool, near: int
) -> None:
    colours = cv2.resize(np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8), (96, 72))
    turned = {f"{n}.jpg": coded(Image.fromarray(colours), subsampling=2, exif=exif(n)) for n in range(1, 9)}
    photos = put(tmp_path / "photos", turned)
    codec = LineCodec()
    codec.smooths = smooths
    for way, found in (("device", codec), ("reader", None)):
        monkeypatch.setattr(jobs, "find_codec", lambda device, pictures, found=found: found)
        translate_folder(photos, tmp_path / way, to="zebra", workers=0, strength=0.0)
    for name in turned:
        here, there = (cv2.imread(str(tmp_path / way / name)) for way in ("device", "reader"))
        assert near - 1 <= cv2.absdiff(here, there).mean() < near
