"""Pictures of every kind, damaged, translated in folders: each must be translated or fail with a reason.

``run(count, seed)`` gives the counts; all but translated, failed and unsupported must be zero.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import _damaged
import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

FORMATS = (None, "png", "tiff", "jpg", "webp", "bmp", "avif", "jp2", "gif")
"""What the jobs write, in turn."""

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def run(count: int, seed: int) -> dict[str, int]:
    """Translates so many damaged pictures, always the same ones for a seed."""
    with tempfile.TemporaryDirectory(prefix="cgpipe-fuzz-") as folder:
        return _damaged.run(
            _seeds(Path(folder)), count, seed, batch=100, command=_command, results=_results, seconds=2.0
        )


def _command(folder: Path, output: Path, job: int) -> list[str]:
    chosen = FORMATS[job % len(FORMATS)]
    words = ["translate", str(folder), "-o", str(output), "--to", "zebra", "--size", "16", "--precision", "fp32"]
    return [*words, "--workers", str(job % 2), *(["--format", chosen] if chosen else [])]


def _results(report: dict[str, int]) -> dict[str, int]:
    return {name: report.get(name, 0) for name in ("translated", "failed", "unsupported")}


def _seeds(folder: Path) -> list[Path]:
    noise = np.random.default_rng(0)
    colours = noise.integers(0, 256, (20, 28, 4), np.uint8)
    deep = Image.fromarray(noise.integers(0, 65536, (20, 28), np.uint16))
    picture, clear = Image.fromarray(colours[..., :3]), Image.fromarray(colours)
    exif = Image.Exif()
    exif[274] = 6
    made = {
        "plain.jpg": (picture, {"exif": exif}),
        "progressive.jpg": (picture, {"progressive": True}),
        "cmyk.jpg": (picture.convert("CMYK"), {}),
        "gray.jpg": (picture.convert("L"), {}),
        "plain.png": (picture, {"dpi": (72, 72)}),
        "clear.png": (clear, {}),
        "palette.png": (picture.convert("P"), {"transparency": 3}),
        "deep.png": (deep, {}),
        "plain.webp": (picture, {}),
        "lossless.webp": (clear, {"lossless": True}),
        "plain.tif": (picture, {"compression": "tiff_lzw"}),
        "deep.tif": (deep, {}),
        "jpeg.tif": (picture, {"compression": "jpeg"}),
        "plain.bmp": (picture, {}),
        "palette.bmp": (picture.convert("P"), {}),
        "plain.avif": (picture, {"exif": exif}),
        "clear.avif": (clear, {}),
        "plain.jp2": (picture, {}),
        "plain.gif": (picture.convert("P"), {}),
        "moving.gif": (picture, {"save_all": True, "append_images": [picture.rotate(90)]}),
        "moving.webp": (picture, {"save_all": True, "append_images": [picture.rotate(180)]}),
        "text.png": (picture, {"pnginfo": _text(), "icc_profile": SRGB}),
    }
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        made["plain.heic"] = (picture, {"exif": exif})
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    return sorted(folder.iterdir())


def _text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a pony")
    info.add_text("long", "word " * 100, zip=True)
    info.add(b"cHRM", bytes(32))
    return info


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2])))
