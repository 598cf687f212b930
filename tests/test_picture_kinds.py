"""Kinds of picture files by their content, and what is kept of each beside its pixels."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin
from PIL.ExifTags import Base

import cgpipe
from cgpipe.errors import MediaError, UnsupportedFormatError
from cgpipe.media.pictures.formats import BY_NAME, FORMATS, HEAD, kind_of, kind_of_file
from cgpipe.media.pictures.read import is_animation, read_picture
from cgpipe.media.pictures.write import write_picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HEIGHT, WIDTH = 40, 56
Put = Callable[[str, bytes], Path]


def smooth(channels: int = 3, dtype: type = np.uint8) -> Any:
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [across / WIDTH, down / HEIGHT, (across + down) / (WIDTH + HEIGHT), 1 - across / (2 * WIDTH)]
    return (np.dstack(planes[:channels]) * np.iinfo(dtype).max).astype(dtype)


def encoded(format: str, pixels: Any = None, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(smooth() if pixels is None else pixels).save(out, format, **options)
    return out.getvalue()


def again(path: Path, name: str, **options: Any) -> Path:
    """Read and written, as a translation that changes nothing."""
    frame = read_picture(path)
    write_picture(path.with_name(name), frame.pixels, frame.origin, **options)
    return path.with_name(name)


def chunks_of(path: Path) -> dict[bytes, bytes]:
    content, place, found = path.read_bytes(), 8, {}
    while place < len(content):
        size = int.from_bytes(content[place : place + 4])
        found[content[place + 4 : place + 8]] = content[place + 8 : place + 8 + size]
        place += size + 12
    return found


def with_chunks(content: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    packed = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return content[:33] + b"".join(packed) + content[33:]


# --- by content ----------------------------------------------------------------------------------------------------

BOXES = {"heic": b"heic", "avif": b"avif", "cr3": b"crx "}

FOREIGN = {
    "a.jxl": b"\xff\x0a" + bytes(40),
    "b.jxl": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
    "a.psd": b"8BPS\0\1" + bytes(40),
    "a.cr2": b"II*\0\x10\0\0\0CR\2\0" + bytes(40),
    "a.cr3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(40),
    "a.raf": b"FUJIFILMCCD-RAW 0201" + bytes(40),
    "a.exr": b"\x76\x2f\x31\x01" + bytes(40),
    "a.tga": bytes((0, 0, 2)) + bytes(9) + bytes((40, 0, 30, 0, 24, 0)) + bytes(40),
    "a.ppm": b"P6\n4 4\n255\n" + bytes(48),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_picture_that_is_not_read_is_called_by_its_name_with_what_to_do(put: Put, name: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"pictures are not supported\. (Convert|Develop|Export) it"):
        read_picture(put(name, FOREIGN[name]))


@pytest.mark.parametrize("name", ["a.nef", "a.DNG", "a.tif"])
def test_of_camera_raw_the_preview_is_not_taken_for_the_picture(put: Put, name: str) -> None:
    entries = TiffImagePlugin.ImageFileDirectory_v2()
    entries[50706] = b"\1\4\0\0"
    entries.tagtype[50706] = 1
    with pytest.raises(UnsupportedFormatError, match=r"Camera raw pictures are not supported\. Develop it"):
        read_picture(put(name, encoded("TIFF", tiffinfo=entries)))


@pytest.mark.parametrize("content", [b"", b"plain words", b"BM is a car", b"P1 is a road", b"\0" * 300, b"%PDF-1.7"])
def test_what_is_no_picture_is_of_no_kind(content: bytes) -> None:
    assert kind_of(content[:HEAD], "a.dat") is None


@pytest.mark.parametrize("format", [format for format in FORMATS if format.name != "HEIF"], ids=lambda f: f.name)
def test_the_name_says_nothing_and_the_content_all(put: Put, format: Any) -> None:
    path = put("IMG_1.heic", encoded(format.name))
    kind = kind_of_file(path)
    assert kind is not None
    assert (kind.format, kind.advice) == (format.name, "")
    frame = read_picture(path)
    assert frame.origin.format == format.name
    assert np.abs(frame.pixels.astype(int) - smooth()).mean() < 6


def test_an_animation_is_no_single_picture(put: Put) -> None:
    frames = [Image.fromarray(smooth()), Image.fromarray(255 - smooth())]
    for name in ("GIF", "PNG", "WEBP"):
        assert not is_animation(put("still", encoded(name)))
        out = io.BytesIO()
        frames[0].save(out, name, save_all=True, append_images=frames[1:])
        path = put(f"a.{name.lower()}", out.getvalue())
        assert is_animation(path)
        with pytest.raises(MediaError, match=r"an animation of 2 frames: use a still picture"):
            read_picture(path)


# --- formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["avif", "jp2", "heic"])
@pytest.mark.parametrize("channels", [3, 4])
def test_newer_formats_keep_colours_opacity_and_tags(put: Put, suffix: str, channels: int) -> None:
    if suffix == "heic":
        pytest.importorskip("pillow_heif")
    png = encoded("PNG", smooth(channels), icc_profile=SRGB, exif=by_ada())
    path = put("a.png", with_chunks(png, (b"iTXt", XMP)))
    frame = read_picture(again(path, f"b.{suffix}"))
    assert np.abs(frame.pixels.astype(int) - smooth()).mean() < 2
    assert (frame.origin.alpha is not None) == (channels == 4)
    if channels == 4:
        assert np.abs(frame.origin.alpha.astype(int) - smooth(4)[..., 3]).mean() < 2
    assert frame.origin.tags.icc == SRGB
    assert b"pony" in frame.origin.tags.xmp
    back = again(path.with_name(f"b.{suffix}"), f"c.{suffix}")
    kept = read_picture(back).origin
    assert (kept.format, artist(kept.tags.exif)) == (frame.origin.format, "Ada")
    with Image.open(again(back, "d.jpg")) as jpeg:
        assert jpeg.getexif()[Base.Artist] == "Ada"


def by_ada() -> bytes:
    exif = Image.Exif()
    exif[Base.Artist] = "Ada"
    return exif.tobytes()


def artist(block: bytes) -> Any:
    exif = Image.Exif()
    exif.load(block)
    return exif.get(Base.Artist)


XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><r dc:title="pony"/></x:xmpmeta>'


@pytest.mark.parametrize(("suffix", "bits", "error"), [("avif", 10, 150), ("heic", 10, 900), ("jp2", 16, 0.1)])
def test_more_than_eight_bits(put: Put, suffix: str, bits: int, error: float) -> None:
    if suffix == "heic":
        pytest.importorskip("pillow_heif")
    deep = smooth(3, np.uint16)
    png = bytes(cv2.imencode(".png", deep[..., ::-1])[1])
    path = put("a.png", with_chunks(png, (b"eXIf", by_ada().removeprefix(b"Exif\0\0"))))
    frame = read_picture(again(path, f"b.{suffix}"))
    assert (frame.pixels.dtype, frame.origin.bits, artist(frame.origin.tags.exif)) == (np.uint16, bits, "Ada")
    assert np.abs(frame.pixels.astype(int) - deep).mean() < error


def test_white_of_ten_bits_is_white(put: Put) -> None:
    path = put(
        "a.avif", bytes(cv2.imencode(".avif", np.full((16, 16, 3), 1023, np.uint16), (cv2.IMWRITE_AVIF_DEPTH, 10))[1])
    )
    assert read_picture(path).pixels.min() == 65535


def test_a_gif_keeps_its_holes(put: Put) -> None:
    clear = smooth(4)
    clear[..., 3] = np.where(clear[..., 0] < 100, 0, 255)
    frame = read_picture(again(put("a.png", encoded("PNG", clear)), "b.gif"))
    np.testing.assert_array_equal(frame.origin.alpha, clear[..., 3])
    opaque = clear[..., 3] == 255
    assert np.abs(frame.pixels.astype(int) - smooth())[opaque].mean() < 8


def test_a_lossless_webp_stays_lossless(put: Put) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    for options in ({}, {"icc_profile": SRGB}):
        path = put("a.webp", encoded("WEBP", noise, lossless=True, **options))
        np.testing.assert_array_equal(read_picture(again(path, "b.webp")).pixels, noise)
        assert not np.array_equal(read_picture(again(path, "c.webp", quality=90)).pixels, noise)
    lossy = put("d.webp", encoded("WEBP", noise))
    assert not read_picture(lossy).origin.lossless


def test_a_rare_bmp_is_called_by_its_name(put: Put) -> None:
    for bits, compression in ((2, 0), (24, 4), (16, 3)):
        header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, bits, compression, 64, 0, 0, 0, 0)
        masks = struct.pack("<III", 0xF00, 0xF0, 0xF)
        body = b"BM" + struct.pack("<IHHI", 200, 0, 0, 66 + len(masks)) + header + masks + bytes(100)
        with pytest.raises(UnsupportedFormatError, match=r"kind of BMP is not supported .*Save it as PNG"):
            read_picture(put("a.bmp", body))


# --- kept ----------------------------------------------------------------------------------------------------------


def test_colour_chunks_of_png_are_kept(put: Put) -> None:
    told = {b"gAMA": struct.pack(">I", 100000), b"cHRM": struct.pack(">8I", *range(8)), b"cICP": bytes((12, 16, 0, 1))}
    path = put("a.png", with_chunks(encoded("PNG"), *told.items()))
    assert told.items() <= chunks_of(again(path, "b.png")).items()
    named = put("c.png", with_chunks(encoded("PNG"), (b"sRGB", b"\0")))
    assert chunks_of(again(named, "d.png"))[b"sRGB"] == b"\0"


def test_text_of_png_is_kept_wherever_it_stands(put: Put) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a pony, Steps: 20")
    info.add_itxt("Title", "Pferd", "de", "Titel")
    info.add_text("long", "word " * 500, zip=True)
    path = put("a.png", encoded("PNG", pnginfo=info))
    with Image.open(again(path, "b.png")) as result:
        assert result.text == {"parameters": "a pony, Steps: 20", "Title": "Pferd", "long": "word " * 500}


def test_sixteen_bit_gray_keeps_its_transparent_value(put: Put) -> None:
    gray = (smooth(1, np.uint16)[..., 0] // 257 * 257).astype(np.uint16)
    value = int(gray[3, 20])
    path = put("a.png", with_chunks(bytes(cv2.imencode(".png", gray)[1]), (b"tRNS", struct.pack(">H", value))))
    alpha = read_picture(again(path, "b.png")).origin.alpha
    np.testing.assert_array_equal(alpha, np.where(gray == value, 0, 65535))


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


IPTC = b"\x1c\x02\x78\x00\x04pony"


@pytest.mark.parametrize("output", ["b.heic", "b.png"])
def test_heic_keeps_the_primaries_and_the_transfer_that_it_names(put: Put, output: str) -> None:
    pytest.importorskip("pillow_heif", reason="needs the extra heif").register_heif_opener()
    content = encoded("HEIF", color_primaries=9, transfer_characteristics=16)
    made = again(put("a.heic", content), output)
    if output == "b.png":
        assert chunks_of(made)[b"cICP"] == bytes((9, 16, 0, 1))
        return
    with Image.open(made) as image:
        named = image.info["nclx_profile"]
    assert (named["color_primaries"], named["transfer_characteristics"]) == (9, 16)


@pytest.mark.parametrize("suffix", ["jpg", "tif", "gif"])
def test_iptc_and_comments_are_kept(put: Put, suffix: str) -> None:
    jpeg = encoded("JPEG")
    resource = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(IPTC)) + IPTC + bytes(len(IPTC) % 2)
    described = jpeg[:20] + segment(0xED, resource) + segment(0xFE, b"one") + segment(0xFE, b"two") + jpeg[20:]
    tags = read_picture(again(put("a.jpg", described), f"b.{suffix}")).origin.tags
    assert tags.iptc == (IPTC if suffix != "gif" else None)
    assert tags.comments == {"jpg": (b"one", b"two"), "tif": (), "gif": (b"one\ntwo",)}[suffix]


def test_a_gain_map_goes_with_its_promise_and_is_named(put: Put) -> None:
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
        b'xmlns:Container="http://ns.google.com/photos/1.0/container/" xmp:Rating="5" hdrgm:Version="1.0">'
        b"<Container:Directory><rdf:Seq><rdf:li/></rdf:Seq></Container:Directory></rdf:Description></x:xmpmeta>"
    )
    out = io.BytesIO()
    Image.fromarray(smooth()).save(out, "MPO", save_all=True, append_images=[Image.fromarray(smooth()[::2, ::2])])
    content = out.getvalue()
    path = put("a.jpg", content[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet) + content[2:])
    assert read_picture(path).origin.notes == ("its gain map (HDR)",)
    kept = read_picture(again(path, "b.jpg")).origin
    assert b'xmp:Rating="5"' in kept.tags.xmp
    assert not any(word in kept.tags.xmp for word in (b"hdrgm", b"Container"))
    assert kept.notes == ()


def test_what_is_left_out_is_in_the_report(tmp_path: Path, file_model: Any) -> None:
    out = io.BytesIO()
    Image.fromarray(smooth()).save(out, "MPO", save_all=True, append_images=[Image.fromarray(255 - smooth())])
    (tmp_path / "a.jpg").write_bytes(out.getvalue())
    report = cgpipe.translate_folder(tmp_path / "a.jpg", model=file_model(tmp_path), workers=0, device="cpu")
    assert (report.translated, report.left_out) == (1, {"further pictures in the file": 1})
    assert report.summary().endswith("; 1 without further pictures in the file")
    assert report.to_json()["left_out"] == report.left_out


def test_inks_that_become_rgb_are_in_the_report(tmp_path: Path, file_model: Any) -> None:
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "a.jpg")
    report = cgpipe.translate_folder(tmp_path / "a.jpg", model=file_model(tmp_path), workers=0, device="cpu")
    assert report.summary().endswith("; 1 without inks (CMYK became sRGB)")


def test_warnings_of_libjpeg_are_not_shown(tmp_path: Path) -> None:
    content = encoded("JPEG", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    (tmp_path / "a.jpg").write_bytes(content[:-40] + b"\xff\xd0" + content[-38:])
    program = (
        "import sys\nfrom cgpipe.media.pictures.read import read_picture\n"
        f"try:\n    read_picture({str(tmp_path / 'a.jpg')!r})\nexcept Exception as error:\n    print(error)\n"
        "print('still here', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "still here\n"


# --- in a folder ---------------------------------------------------------------------------------------------------


def test_a_folder_of_many_kinds(tmp_path: Path, file_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgpipe.media.pictures.formats.find_spec", lambda name: None)
    photos = tmp_path / "photos"
    photos.mkdir()
    heic = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100)
    contents = {"a.jpg": encoded("JPEG"), "b.heic": encoded("JPEG"), "c.avif": encoded("AVIF"), "d.gif": encoded("GIF")}
    contents |= {"e.heic": heic, "f.cr2": FOREIGN["a.cr2"], "f.jpg": encoded("JPEG"), "g.jxl": FOREIGN["a.jxl"]}
    contents |= {"notes.txt": b"words", "g.mov": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "IMG_1": encoded("PNG")}
    for name, content in contents.items():
        (photos / name).write_bytes(content)
    report = cgpipe.translate_folder(photos, model=file_model(tmp_path), format=None, workers=0, device="cpu")
    assert (report.translated, report.ignored, report.exit_code) == (6, 2, 3)
    assert report.failures == []
    reasons = {result.input.name: result.reason for result in report.unsupported}
    assert reasons.keys() == {"e.heic", "f.cr2", "g.jxl"}
    assert "pip install 'cgpipe[heif]'" in reasons["e.heic"]
    assert report.to_json()["unsupported"] == 3
    outputs = sorted(path.name for path in report.outputs[0].iterdir() if not path.name.startswith("."))
    assert outputs == ["IMG_1.png", "a.jpg", "b.jpg", "c.avif", "d.gif", "f.jpg"]
    for path in report.outputs[0].glob("[!.]*"):
        kind = kind_of_file(path)
        assert kind is not None
        assert path.suffix in BY_NAME[str(kind.format)].suffixes


def test_raw_beside_jpeg_is_in_the_way_of_nothing(tmp_path: Path, file_model: Any) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "in" / "a.cr2").write_bytes(FOREIGN["a.cr2"])
    report = cgpipe.translate_folder(tmp_path / "in", model=file_model(tmp_path), format="jpg", workers=0, device="cpu")
    assert (report.translated, len(report.unsupported), report.exit_code) == (1, 1, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_a_chunk_that_says_it_holds_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.zeros((20, 28), np.uint16)).save(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"IDAT") - 4
    content[place : place + 4] = (0xFFFF0000).to_bytes(4)
    path.write_bytes(content)
    code = (
        "import resource, sys; from cgpipe.media.pictures.read import read_picture\n"
        "try: read_picture(sys.argv[1])\nexcept Exception as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    reason, peak = done.stdout.splitlines()
    assert "damaged or cut short" in reason
    assert int(peak) < 3000  # a process that was forked counts its parent's peak too
