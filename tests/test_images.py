"""Picture files: every kind that users have, made here, read, written and read again."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps, TiffImagePlugin

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.pictures import heif, jpeg2000
from cgpipe.media.pictures.embed import into_png
from cgpipe.media.pictures.extras import PictureExtras
from cgpipe.media.pictures.formats import FORMATS
from cgpipe.media.pictures.huge import is_huge
from cgpipe.media.pictures.read import is_animation, read_picture
from cgpipe.media.pictures.tags import Tags
from cgpipe.media.pictures.write import write_picture

HEIGHT, WIDTH = 37, 53
SUFFIXES = {format.name: format.suffixes[0] for format in FORMATS if format.installed}
FAR = {"JPEG": 12, "WEBP": 12, "AVIF": 12, "HEIF": 12, "GIF": 16, "JPEG2000": 3}
"""How far from a smooth picture its file may be, of formats that are not lossless."""
if "HEIF" in SUFFIXES:
    heif.register()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6" dc:title="pony"/></x:xmpmeta>'
Base, IFD = ExifTags.Base, ExifTags.IFD


def smooth(channels: int = 3, dtype: type = np.uint8) -> Any:
    """A picture without sharp edges, different in every corner and channel; (height, width, channels)."""
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [across / WIDTH, down / HEIGHT, (across + 2 * down) / (WIDTH + 2 * HEIGHT), 1 - across / (2 * WIDTH)]
    return (np.dstack(planes[:channels]) * np.iinfo(dtype).max).astype(dtype)


DESCRIBED = {
    Base.DocumentName: "a document",
    Base.ImageDescription: "a pony",
    Base.Make: "a maker",
    Base.Model: "a camera",
    Base.Software: "a program",
    Base.DateTime: "2026:11:29 12:00:00",
    Base.HostComputer: "a computer",
    Base.Copyright: "(c) Ada",
    Base.Rating: 4,
    Base.RatingPercent: 75,
    **{entry: f"{entry.name}\0".encode("utf-16-le") for entry in Base if entry.name.startswith("XP")},
}
"""What else EXIF says of a picture."""


def exif_block(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[Base.Artist], exif[Base.Orientation] = "Ada", orientation
    exif.update(DESCRIBED)
    exif[IFD.Exif] = {Base.ISOSpeedRatings: 800, Base.ExifImageWidth: WIDTH, Base.ExifImageHeight: HEIGHT}
    exif[IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (48.0, 8.0, 15.0)}
    return exif.tobytes()


def tiff(pixels: Any, **entries: Any) -> bytes:
    """An uncompressed TIFF of the given values, whatever the directory says about them."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    fields = {
        "ImageWidth": width,
        "ImageLength": height,
        "BitsPerSample": (8 * pixels.itemsize,) * channels,
        "Compression": 1,
        "PhotometricInterpretation": 2 if channels > 2 else 1,
        "StripOffsets": 0,
        "SamplesPerPixel": channels,
        "RowsPerStrip": height,
        "StripByteCounts": pixels.nbytes,
        **entries,
    }
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in fields.items():
        directory[getattr(Base, name)] = value
    out = io.BytesIO()
    directory.save(out)
    return out.getvalue() + bytes(pixels.tobytes())


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def by_opencv(suffix: str, pixels: Any, *parameters: int) -> bytes:
    """Encoded from RGB, RGBA or gray, of 8 or 16 bits."""
    swapped = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]
    return bytes(cv2.imencode(suffix, np.ascontiguousarray(swapped), parameters)[1])


def png(pixels: Any, colour_type: int) -> bytes:
    """A 16-bit PNG of any colour type, such as gray with opacity (4), which no library here writes."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2").reshape(height, -1)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)), (b"IDAT", content)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [*chunks, (b"IEND", b"")]
    )


def icc_profile(space: bytes, tags: dict[bytes, bytes], connection: bytes) -> bytes:
    """The smallest profile that colour management accepts."""
    body, table, start = b"", struct.pack(">I", len(tags)), 132 + 12 * len(tags)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s12s4s", 0, b"lcms", 0x02100000, b"prtr", space, connection, bytes(12), b"acsp")
    header += bytes(68 - len(header)) + white[8:]
    header = header.ljust(128, b"\0")
    return struct.pack(">I", len(header + table + body)) + header[4:] + table + body


def gray_profile(gamma: float) -> bytes:
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return icc_profile(b"GRAY", {b"wtpt": white, b"kTRC": curve}, b"XYZ ")


def cmyk_profile() -> bytes:
    """Ink c, m, y, k of 0 or 1 gives a Lab colour, with mixtures between: cyan is (60, -20, -40), magenta is grey."""
    corners = np.array([(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)], float)
    light = (100 - 40 * corners[:, 0]) * (1 - 0.5 * corners[:, 1]) * (1 - 0.1 * corners[:, 2]) * (1 - corners[:, 3])
    lab = np.stack([light * 2.55, 128 - 20 * corners[:, 0], 128 - 40 * corners[:, 0]], 1)
    straight = bytes(range(256))
    matrix = struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + straight * 4
    table += lab.round().astype(np.uint8).tobytes() + straight * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return icc_profile(b"CMYK", {b"wtpt": white, b"A2B0": table}, b"Lab ")


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


Put = Callable[[str, bytes], Path]


def translate(path: Path, name: str, **options: Any) -> Path:
    """Reads and writes, as a translation that changes nothing would."""
    frame = read_picture(path)
    output = path.parent / name
    write_picture(output, frame.pixels, frame.origin, **options)
    return output


def near(left: Any, right: Any, tolerance: float) -> bool:
    return left.shape == right.shape and float(np.abs(left.astype(float) - right).max()) <= tolerance


# --- formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", SUFFIXES)
def test_every_format_keeps_size_and_colours(put: Put, format: str) -> None:
    path = put("a" + SUFFIXES[format], encoded(Image.fromarray(smooth()), format, quality=95))
    frame = read_picture(path)
    assert frame.origin.format == format
    assert (frame.origin.size, frame.origin.bits, frame.origin.gray) == ((HEIGHT, WIDTH), 8, False)
    again = opened(translate(path, "b" + SUFFIXES[format]))
    assert again.format == format
    tolerance = FAR.get(format, 0)
    assert near(frame.pixels, smooth(), tolerance)
    assert near(np.array(again.convert("RGB")), smooth(), 2 * tolerance)


def test_jpeg_decodes_as_pillow_does(put: Put) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3)).astype(np.uint8)
    kinds: list[dict[str, Any]] = [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}]
    for number, options in enumerate(kinds):
        path = put(f"{number}.jpg", encoded(Image.fromarray(noise), "JPEG", **options))
        assert near(read_picture(path).pixels, np.array(opened(path)), 2)


def test_jpeg_keeps_saturated_edges(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = (255, 128, 0)
    write_picture(tmp_path / "a.jpg", stripes)
    assert np.abs(read_picture(tmp_path / "a.jpg").pixels.astype(int) - stripes).mean() < 4


def test_the_suffix_decides_the_format_and_the_argument_overrides_it(put: Put) -> None:
    path = put("scan", encoded(Image.fromarray(smooth()), "PNG"))
    assert opened(translate(path, "b.webp")).format == "WEBP"
    assert opened(translate(path, "nameless")).format == "PNG"
    assert opened(translate(path, "c.png", format="jpg")).format == "JPEG"


def test_quality(put: Put) -> None:
    path = put("a.png", encoded(Image.fromarray(smooth()), "PNG"))
    for suffix in (".jpg", ".webp"):
        sizes = [translate(path, f"{quality}{suffix}", quality=quality).stat().st_size for quality in (10, 60, 95)]
        assert sizes == sorted(set(sizes))
    assert near(np.array(opened(translate(path, "whole.webp", quality=100))), smooth(), 0)
    for quality in (0, 101):
        with pytest.raises(UsageError, match="quality"):
            translate(path, "b.jpg", quality=quality)
    with pytest.raises(UsageError, match="Unknown picture format"):
        translate(path, "b.jpg", format="xcf")


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_gray_palette_and_one_bit(put: Put, mode: str, format: str) -> None:
    source = Image.fromarray(smooth()).convert(mode)
    path = put("a" + SUFFIXES[format], encoded(source, format))
    frame = read_picture(path)
    assert near(frame.pixels, np.array(source.convert("RGB")), 0)
    assert frame.origin.gray == (mode != "P")
    again = opened(translate(path, "b" + SUFFIXES[format]))
    assert (again.mode, again.size) == ("RGB", (WIDTH, HEIGHT))


def test_gray_jpeg(put: Put) -> None:
    path = put("a.jpg", encoded(Image.fromarray(smooth()).convert("L"), "JPEG"))
    frame = read_picture(path)
    assert frame.origin.gray
    assert near(frame.pixels, np.array(opened(path).convert("RGB")), 0)


def test_reduced_decoding(put: Put) -> None:
    large = np.array(Image.fromarray(smooth()).resize((640, 400)))
    path = put("a.jpg", encoded(Image.fromarray(large), "JPEG", quality=95, exif=exif_block(6)))
    for least, shape in {
        400: (640, 400),
        399: (640, 400),
        200: (320, 200),
        100: (160, 100),
        51: (160, 100),
        9: (80, 50),
    }.items():
        frame = read_picture(path, reduced_to=least)
        assert frame.pixels.shape[:2] == shape
        assert frame.origin.size == (640, 400)
    small = read_picture(path, reduced_to=100).pixels
    assert near(small, cv2.resize(np.rot90(large, -1), (100, 160), interpolation=cv2.INTER_AREA), 12)


def test_of_several_pictures_in_a_jpeg_the_first_is_read(put: Put) -> None:
    second = Image.new("RGB", (WIDTH, HEIGHT), "red")
    content = encoded(Image.fromarray(smooth()), "MPO", save_all=True, append_images=[second], quality=95)
    frame = read_picture(put("phone.jpg", content))
    assert frame.origin.format == "JPEG"
    assert near(frame.pixels, smooth(), 12)


def test_codecs_work_in_threads(put: Put) -> None:
    deep = put("deep.png", by_opencv(".png", smooth(3, np.uint16)))
    paths = [put("a.jpg", encoded(Image.fromarray(smooth()), "JPEG")), put("a.tif", tiff(smooth())), deep] * 8
    alone = [read_picture(path).pixels for path in paths[:3]]

    def work(number: int) -> bool:
        output = translate(paths[number], f"{number}.png")
        return near(read_picture(output).pixels, alone[number % 3], 0)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(len(paths))))


# --- orientation ---------------------------------------------------------------------------------------------------


def turned(pixels: Any, orientation: int) -> Any:
    """How a camera stores the upright picture under this orientation."""
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels, -1),
    }
    return np.ascontiguousarray(stored[orientation])


ORIENTED: dict[str, Callable[[Any, int], bytes]] = {
    "a.jpg": lambda p, n: encoded(Image.fromarray(p), "JPEG", quality=100, subsampling=0, exif=exif_block(n)),
    "a.png": lambda p, n: encoded(Image.fromarray(p), "PNG", exif=exif_block(n)),
    "a.webp": lambda p, n: encoded(Image.fromarray(p), "WEBP", lossless=True, exif=exif_block(n)),
    "a.tif": lambda p, n: tiff(p, Orientation=n),
    "a.avif": lambda p, n: encoded(Image.fromarray(p), "AVIF", quality=100, subsampling="4:4:4", exif=exif_block(n)),
    "a.jp2": lambda p, n: jpeg2000.encoded(p, Tags(exif=exif_block(n)), 100),
    "a.heic": lambda p, n: encoded(Image.fromarray(p), "HEIF", quality=100, chroma=444, exif=exif_block(n)),
    "deep.heic": lambda p, n: heif.encoded(p.astype(np.uint16) * 257, Tags(exif=exif_block(n)), 100),
    "deep.png": lambda p, n: into_png(by_opencv(".png", p.astype(np.uint16) * 257), Tags(exif=exif_block(n))),
    "deep.tif": lambda p, n: tiff(p.astype(np.uint16) * 257, Orientation=n),
    "gray.tif": lambda p, n: tiff(np.ascontiguousarray(p[..., 0]).astype(np.uint16) * 257, Orientation=n),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ORIENTED)
def test_orientation_is_applied_once(put: Put, name: str, orientation: int) -> None:
    if name.endswith(".heic"):
        pytest.importorskip("pillow_heif")
    path = put(name, ORIENTED[name](turned(smooth(), orientation), orientation))
    frame = read_picture(path)
    upright = np.dstack([smooth()[..., 0]] * 3) if name == "gray.tif" else smooth()
    assert frame.origin.size == (HEIGHT, WIDTH)
    assert near(frame.pixels / (257 if frame.pixels.dtype == np.uint16 else 1), upright, 6)
    output = translate(path, "out" + path.suffix)
    assert opened(output).getexif().get(Base.Orientation, 1) == 1
    assert near(np.array(ImageOps.exif_transpose(opened(output))), upright, 9)


def test_alpha_turns_with_the_picture(put: Put) -> None:
    path = put("a.png", encoded(Image.fromarray(turned(smooth(4), 6)), "PNG", exif=exif_block(6)))
    assert near(read_picture(path).origin.alpha, smooth(4)[..., 3], 0)
    assert near(np.array(opened(translate(path, "b.png"))), smooth(4), 0)


def test_xmp_does_not_turn_it_again(put: Put) -> None:
    path = put("a.jpg", encoded(Image.fromarray(smooth()), "JPEG", xmp=XMP))
    assert read_picture(path).pixels.shape == (WIDTH, HEIGHT, 3)  # Pillow, browsers too: XMP counts without EXIF
    for name in ("b.jpg", "b.png", "b.webp", "b.tif"):
        again = opened(translate(path, name))
        assert again.info["xmp"] == XMP.replace(b'"6"', b'"1"')
        assert ImageOps.exif_transpose(again).size == (HEIGHT, WIDTH)


# --- profile, EXIF, resolution -------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("output", ["b.jpg", "b.png", "b.webp", "b.tif"])
def test_tags_are_kept(put: Put, output: str, deep: bool) -> None:
    source = PictureExtras(
        format="PNG", size=(HEIGHT, WIDTH), tags=Tags(icc=SRGB, exif=exif_block(), xmp=XMP, dpi=(300.0, 150.0))
    )
    path = put("unused", b"").parent / "a.png"
    write_picture(path, smooth(3, np.uint16 if deep else np.uint8), source)
    again = opened(translate(path, output))
    exif = again.getexif()
    assert again.info["icc_profile"] == SRGB
    assert exif[Base.Artist] == "Ada"
    assert exif.get_ifd(IFD.Exif)[Base.ISOSpeedRatings] == 800
    assert exif.get_ifd(IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (48.0, 8.0, 15.0)
    assert again.info["xmp"] == XMP.replace(b'"6"', b'"1"')
    if output != "b.webp":  # which has no resolution outside of EXIF
        assert again.info["dpi"] == pytest.approx((300, 150), abs=0.1)


@pytest.mark.parametrize("input", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("output", [".jpg", ".webp", ".tif"])
def test_texts_of_exif_keep_their_bytes(put: Put, input: str, output: str) -> None:
    name = "José 馬".encode()
    exif = Image.Exif()
    exif.update({Base.Copyright: name, Base.ImageDescription: name})
    given: dict[str, Any] = {"tiffinfo": dict(exif)} if input == "TIFF" else {"exif": exif.tobytes()}
    content = encoded(Image.fromarray(smooth()), input, **given)
    again = opened(translate(put("a" + SUFFIXES[input], content), "b" + output)).getexif()
    assert again[Base.Copyright] == again[Base.ImageDescription] == name.decode("latin-1")


@pytest.mark.parametrize("input", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("output", [".jpg", ".png", ".webp", ".tif"])
def test_exif_and_profile_move_between_formats(put: Put, input: str, output: str) -> None:
    content = encoded(Image.fromarray(smooth()), input, exif=exif_block(), icc_profile=SRGB, dpi=(72, 72))
    again = opened(translate(put("a" + SUFFIXES[input], content), "b" + output))
    exif = again.getexif()
    assert (exif[Base.Artist], exif.get_ifd(IFD.Exif)[Base.ISOSpeedRatings]) == ("Ada", 800)
    assert {entry: exif.get(entry) for entry in DESCRIBED} == DESCRIBED
    assert exif.get_ifd(IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
    assert again.info["icc_profile"] == SRGB
    again.load()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP"])
def test_resolution(put: Put, format: str) -> None:
    path = put("a" + SUFFIXES[format], encoded(Image.fromarray(smooth()), format, dpi=(300, 300)))
    for suffix in (".jpg", ".png", ".tif", ".bmp"):
        assert opened(translate(path, "b" + suffix)).info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_no_resolution_is_made_up(put: Put) -> None:
    path = put("a.tif", tiff(smooth()))
    assert read_picture(path).origin.tags.dpi is None
    assert "dpi" not in opened(translate(path, "b.jpg")).info


def test_exif_dimensions_follow_the_turn_and_the_old_thumbnail_goes(put: Put) -> None:
    exif = exif_block(6)
    content = encoded(Image.fromarray(turned(smooth(), 6)), "JPEG", exif=exif)
    again = opened(translate(put("a.jpg", content), "b.jpg")).getexif()
    assert again.get_ifd(IFD.Exif)[Base.ExifImageWidth] == WIDTH
    assert again.get_ifd(IFD.Exif)[Base.ExifImageHeight] == HEIGHT
    assert not again.get_ifd(IFD.IFD1)


def test_a_large_profile_takes_several_segments(put: Put) -> None:
    profile = SRGB.ljust(200_000, b"\0")
    path = put("a.jpg", encoded(Image.fromarray(smooth()), "JPEG", icc_profile=profile))
    assert opened(translate(path, "b.jpg")).info["icc_profile"] == profile


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_tags_do_not_cost_the_picture(put: Put) -> None:
    broken = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff" * 3
    content = encoded(Image.fromarray(smooth()), "JPEG", exif=broken, icc_profile=b"not a profile")
    path = put("a.jpg", content)
    assert read_picture(path).origin.tags.icc is None
    assert near(np.array(opened(translate(path, "b.jpg"))), smooth(), 30)


def test_gray_goes_through_its_profile_and_leaves_it(put: Put) -> None:
    gray = np.array(Image.fromarray(smooth()).convert("L"))
    linear = gray_profile(1.0)
    expected = np.where(gray / 255 <= 0.0031308, 12.92 * gray / 255, 1.055 * (gray / 255) ** (1 / 2.4) - 0.055)
    files = {
        "a.png": encoded(Image.fromarray(gray), "PNG", icc_profile=linear),
        "a.jpg": encoded(Image.fromarray(gray), "JPEG", icc_profile=linear, quality=100),
        "deep.png": into_png(by_opencv(".png", gray.astype(np.uint16) * 257), Tags(icc=linear)),
        "a.jp2": jpeg2000._described(encoded(Image.fromarray(gray), "JPEG2000"), Tags(icc=linear)),
    }
    for name, content in files.items():
        frame = read_picture(put(name, content))
        assert near(frame.pixels[..., 1] / np.iinfo(frame.pixels.dtype).max, expected, 0.03)
        assert frame.origin.tags.icc is None


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_profile(put: Put, format: str) -> None:
    inks = np.zeros((24, 32, 4), np.uint8)
    inks[:, 8:16, 0], inks[:, 16:24, 1], inks[:, 24:, 3] = 255, 255, 255
    source = Image.frombytes("CMYK", (32, 24), inks.tobytes())
    content = encoded(source, format, icc_profile=cmyk_profile(), quality=100)
    frame = read_picture(put("a" + SUFFIXES[format], content))
    white, cyan, magenta, black = (frame.pixels[12, 4 + 8 * n].astype(int) for n in range(4))
    assert near(white, np.array([255, 255, 255]), 3)
    assert near(cyan, np.array([0, 160, 216]), 12)  # Lab (60, -20, -40), not the (0, 255, 255) of subtraction
    assert near(magenta, np.array([119, 119, 119]), 5)  # Lab (50, 0, 0)
    assert near(black, np.array([0, 0, 0]), 3)
    assert frame.origin.tags.icc is None


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
@pytest.mark.parametrize("profile", [b"", SRGB], ids=["none", "of another colour space"])
def test_cmyk_without_a_usable_profile(put: Put, format: str, profile: bytes) -> None:
    source = Image.fromarray(smooth()).convert("CMYK")
    content = encoded(source, format, icc_profile=profile, quality=95)
    path = put("a" + SUFFIXES[format], content)
    assert near(read_picture(path).pixels, smooth(), 25)
    assert opened(translate(path, "b" + path.suffix)).mode == "RGB"


# --- opacity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_kept(put: Put, format: str) -> None:
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    path = put("a" + SUFFIXES[format], encoded(Image.fromarray(smooth(4)), format, **options))
    assert near(read_picture(path).pixels, smooth(), 0)
    assert near(read_picture(path).origin.alpha, smooth(4)[..., 3], 0)
    for suffix in (".png", ".webp", ".tif", ".bmp"):
        again = opened(translate(path, "b" + suffix))
        assert again.mode == "RGBA"
        assert near(np.array(again)[..., 3], smooth(4)[..., 3], 0)


def palette_with_transparency(transparency: bytes | int) -> tuple[bytes, Any]:
    source = Image.fromarray(smooth()).quantize(16)
    content = encoded(source, "PNG", transparency=transparency)
    return content, np.array(Image.open(io.BytesIO(content)).convert("RGBA"))


def test_palette_with_transparency(put: Put) -> None:
    kinds: list[bytes | int] = [bytes(range(0, 256, 16)), 3]
    for number, transparency in enumerate(kinds):
        content, expected = palette_with_transparency(transparency)
        again = np.array(opened(translate(put(f"{number}.png", content), f"{number}-b.png")))
        assert near(again, expected, 0)
        assert len(np.unique(again[..., 3])) > 1


def test_transparent_colour_and_gray_with_alpha(put: Put) -> None:
    keyed = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    keyed[:, 20:] = (10, 200, 30)
    path = put("key.png", encoded(Image.fromarray(keyed), "PNG", transparency=(10, 200, 30)))
    assert near(read_picture(path).origin.alpha[0], np.array([255] * 20 + [0] * 33), 0)
    gray = Image.fromarray(smooth(4)).convert("LA")
    frame = read_picture(put("la.png", encoded(gray, "PNG")))
    assert frame.origin.gray
    assert near(frame.origin.alpha, smooth(4)[..., 3], 0)


def test_jpeg_lays_transparency_on_white(put: Put) -> None:
    pixels = np.zeros((16, 24, 4), np.uint8)
    pixels[:, 8:16], pixels[:, 16:] = (200, 0, 0, 255), (0, 0, 0, 128)
    result = read_picture(translate(put("a.png", encoded(Image.fromarray(pixels), "PNG")), "b.jpg"))
    assert result.origin.alpha is None
    for column, colour in ((4, (255, 255, 255)), (12, (200, 0, 0)), (20, (127, 127, 127))):
        assert near(result.pixels[8, column], np.array(colour), 3)


# --- 16 bits -------------------------------------------------------------------------------------------------------

DEEP = smooth(4, np.uint16) + np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint16)
GRAY = np.ascontiguousarray(DEEP[..., 0])
COMPRESSION = cv2.IMWRITE_TIFF_COMPRESSION

SIXTEEN: dict[str, tuple[bytes, int]] = {  # and the channels kept: 1 gray, 2 gray and opacity, 3, 4
    "gray.png": (by_opencv(".png", GRAY), 1),
    "gray with opacity.png": (png(DEEP[..., [0, 3]], 4), 2),
    "rgb.png": (by_opencv(".png", DEEP[..., :3]), 3),
    "rgba.png": (by_opencv(".png", DEEP), 4),
    "gray.tif": (by_opencv(".tiff", GRAY), 1),
    "gray big-endian.tif": (encoded(Image.fromarray(GRAY.astype(">u2")), "TIFF"), 1),
    "gray, white is zero.tif": (tiff(65535 - GRAY, PhotometricInterpretation=0), 1),
    "rgb plain.tif": (tiff(np.ascontiguousarray(DEEP[..., :3])), 3),
    "rgb lzw.tif": (by_opencv(".tiff", DEEP[..., :3], COMPRESSION, 5), 3),
    "rgb deflate.tif": (by_opencv(".tiff", DEEP[..., :3], COMPRESSION, 8), 3),
    "rgba.tif": (tiff(DEEP, ExtraSamples=2), 4),
}


@pytest.mark.parametrize("name", SIXTEEN)
def test_sixteen_bits_are_read_exactly_and_written_as_sixteen(put: Put, name: str) -> None:
    content, channels = SIXTEEN[name]
    path = put(name, content)
    frame = read_picture(path)
    expected = np.dstack([GRAY] * 3) if channels < 3 else DEEP[..., :3]
    assert frame.pixels.dtype == np.uint16
    assert (frame.origin.bits, frame.origin.gray) == (16, channels < 3)
    assert near(frame.pixels, expected, 0)
    assert (frame.origin.alpha is not None) == (channels in (2, 4))
    for output in ("b.png", "b.tif"):
        again = read_picture(translate(path, output))
        assert again.pixels.dtype == np.uint16
        assert near(again.pixels, expected, 0)
        if channels in (2, 4):
            assert near(again.origin.alpha, DEEP[..., 3], 0)
        assert opened(path.parent / output).size == (WIDTH, HEIGHT)
        by_others: Any = cv2.imread(str(path.parent / output), cv2.IMREAD_UNCHANGED)
        assert near(by_others[..., 2::-1], expected, 0)


def test_premultiplied_tiff_gives_the_true_colours(put: Put) -> None:
    opacity = np.maximum(DEEP[..., 3:], 20000)
    stored = np.rint(DEEP[..., :3] * (opacity / 65535.0)).astype(np.uint16)
    path = put("a.tif", tiff(np.dstack([stored, opacity]), ExtraSamples=1))
    assert near(read_picture(path).pixels, DEEP[..., :3], 2)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_sixteen_bits_become_eight_where_the_format_has_no_more(put: Put, suffix: str) -> None:
    output = translate(put("a.png", by_opencv(".png", DEEP[..., :3])), "b" + suffix)
    expected = np.rint(DEEP[..., :3] / 257)
    assert near(np.array(opened(output)), expected, 0 if suffix == ".bmp" else 16)


def test_opacity_of_another_depth_is_brought_to_the_pixels(tmp_path: Path) -> None:
    alpha = smooth(4)[..., 3]
    write_picture(tmp_path / "a.png", DEEP[..., :3], PictureExtras(format="PNG", size=(HEIGHT, WIDTH), alpha=alpha))
    assert near(read_picture(tmp_path / "a.png").origin.alpha, alpha.astype(np.uint16) * 257, 0)


# --- what cannot be read -------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of 3600 megapixels in 60 bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def zero_tail(content: bytes) -> bytes:
    return content[: len(content) // 2].ljust(len(content), b"\0")


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


PLAIN = Image.fromarray(
    cv2.resize(smooth(), (400, 300)) ^ np.random.default_rng(0).integers(0, 8, (300, 400, 1), np.uint8)
)
WHOLE = {format: encoded(PLAIN, format) for format in SUFFIXES} | {
    "CMYK": encoded(PLAIN.convert("CMYK"), "JPEG"),
    "progressive": encoded(PLAIN, "JPEG", progressive=True),
    "16-bit PNG": by_opencv(".png", np.array(PLAIN).astype(np.uint16) * 257),
    "16-bit TIFF": tiff(np.array(PLAIN).astype(np.uint16) * 257),
}

DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"These are not the bytes of a picture.\n" * 50, "not a picture"),
    "zeros.png": (bytes(5000), "not a picture"),
    "header only.jpg": (WHOLE["JPEG"][:4], "damaged|not a picture"),
    "missing its last bytes.jpg": (WHOLE["JPEG"][:-300], "damaged or cut short"),
    **{f"half {kind}": (half(content), "damaged(,| or) cut short|not a picture") for kind, content in WHOLE.items()},
    **{
        f"zeros in {kind}": (zero_tail(WHOLE[kind]), "damaged or cut short|not a picture")
        for kind in ("JPEG", "CMYK", "PNG", "16-bit PNG")
    },
    "bomb.png": (bomb(), "megapixels"),
    "a.pcx": (encoded(PLAIN, "PCX"), "not a picture.*another format"),
    "float.tif": (tiff(smooth().astype(np.float32), SampleFormat=(3, 3, 3)), "8 or 16 bits"),
    "float gray.tif": (tiff(smooth()[..., 0].astype(np.float32), SampleFormat=3), "32 bits per channel"),
    "long.tif": (tiff(GRAY.astype(np.uint32)), "32 bits per channel"),
    "signed.tif": (tiff(GRAY.astype(np.int16), SampleFormat=2), "Mode I with 16 bits"),
    "planes.tif": (tiff(DEEP[..., :3], PlanarConfiguration=2), "separate planes"),
    "pages.tif": (encoded(PLAIN, "TIFF", save_all=True, append_images=[PLAIN] * 2), "holds 3 pictures"),
    "moving.webp": (encoded(PLAIN, "WEBP", save_all=True, append_images=[PLAIN.rotate(9)]), "animation of 2 frames"),
    "moving.png": (encoded(PLAIN, "PNG", save_all=True, append_images=[PLAIN.rotate(9)]), "animation of 2 frames"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_refused_with_its_reason(put: Put, name: str) -> None:
    content, reason = DAMAGED[name]
    with pytest.raises(MediaError, match=reason) as caught:
        read_picture(put(name.replace(" ", "_"), content))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_the_whole_files_among_them_can_be_read(put: Put) -> None:
    for kind, content in WHOLE.items():
        assert read_picture(put(kind, content)).pixels.shape == (300, 400, 3)


@pytest.mark.parametrize("format", SUFFIXES)
def test_the_pixel_limit_is_exact_and_comes_before_decoding(put: Put, format: str) -> None:
    path = put("a", encoded(Image.fromarray(smooth()), format))
    assert read_picture(path, pixel_limit=HEIGHT * WIDTH).pixels.shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(MediaError, match="megapixels"):
        read_picture(path, pixel_limit=HEIGHT * WIDTH - 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in {
        "pipe": "pipe",
        "loop": "symbolic links",
        "folder": "a folder",
        "gone": "No such file",
    }.items():
        with pytest.raises(MediaError, match=reason):
            read_picture(tmp_path / f"{name}.jpg")
        assert not is_huge(tmp_path / f"{name}.jpg")  # the question must not wait for a pipe, either
        assert not is_animation(tmp_path / f"{name}.jpg")


@contextmanager
def without_privileges() -> Iterator[Path]:
    """A folder of its own for a user whom permissions stop, which they do not if that is root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


for_posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")


@for_posix
def test_a_file_that_may_not_be_read() -> None:
    with without_privileges() as folder:
        path = folder / "a.png"
        write_picture(path, smooth())
        assert near(read_picture(path).pixels, smooth(), 0)
        path.chmod(0)
        with pytest.raises(MediaError, match="cannot be opened: Permission denied"):
            read_picture(path)


# --- what cannot be written ----------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(b"what was there")
    with pytest.raises(MediaError, match="16400x1 pixels cannot be written as WebP"):
        write_picture(tmp_path / "a.webp", np.zeros((1, 16400, 3), np.uint8))
    with pytest.raises(MediaError, match="cannot be written as JPEG"):
        write_picture(tmp_path / "b.jpg", np.zeros((1, 66000, 3), np.uint8))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.webp": b"what was there"}


@for_posix
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    with without_privileges() as folder:
        (folder / "sealed").mkdir(mode=0o500)
        with pytest.raises(MediaError, match="cannot be written: Permission denied"):
            write_picture(folder / "sealed" / "a.png", smooth())
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match="cannot be written"):
        write_picture(tmp_path / "file" / "a.png", smooth())
