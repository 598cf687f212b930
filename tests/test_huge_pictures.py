"""Pictures larger than memory: read by lines, translated by tiles, written by lines."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_channels import network
from test_tiles import painting

from cgpipe import translate_folder
from cgpipe.cli.bar import CountingBar
from cgpipe.errors import MediaError
from cgpipe.media.pictures import huge
from cgpipe.media.pictures.read import read_picture
from cgpipe.models import save_model
from cgpipe.notebook import ProgressBar
from cgpipe.scratch import folder_of, is_scratch, release, room_for, scratch

pyvips = pytest.importorskip("pyvips")

HEIGHT, WIDTH = 300, 420

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a picture of 300 x 420 into ``in/``, by libvips."""

    def write(name: str, pixels: Any = None, **options: Any) -> Path:
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        values = painting(HEIGHT, WIDTH) if pixels is None else pixels
        image = pyvips.Image.new_from_array(values)
        image = image.copy(xres=300 / 25.4, yres=300 / 25.4)
        image.set_type(pyvips.GValue.gstr_type, "image-description", "slide 12")
        image.write_to_file(str(path), **options)
        return path

    return write


@pytest.fixture
def everything_is_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge, "READ_WHOLE", 100_000)


def translated(tmp_path: Path, model: str | Path = "zebra2horse-fast", **options: Any) -> Path:
    report = translate_folder(tmp_path / "in", tmp_path / "out", model=model, device="cpu", **options)
    assert [failure.reason for failure in report.failures + report.unsupported] == []
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix and path.name.startswith(".cgpipe")]
    return tmp_path / "out"


def values_of(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.array(image)


def test_a_pyramid_stays_one_with_its_resolution_and_description(save: Save, tmp_path: Path) -> None:
    save("scan.tif", tile=True, pyramid=True, tile_width=128, tile_height=128, compression="deflate", resunit="inch")
    made = pyvips.Image.new_from_file(str(translated(tmp_path, size="full", tile=128) / "scan.tif"))
    assert (made.height, made.width, made.bands, made.get("n-pages")) == (HEIGHT, WIDTH, 3, 3)
    assert made.get("image-description") == "slide 12"
    assert made.xres * 25.4 == pytest.approx(300, rel=1e-3)
    assert (made.get("tile-width"), made.get("resolution-unit")) == (128, "in")


@pytest.mark.parametrize(("name", "options"), [("a.tif", {}), ("a.png", {}), ("a.jpg", {"Q": 95})])
@pytest.mark.parametrize("size", ["auto", "full"])
def test_what_is_read_by_lines_is_translated_as_what_is_read_whole(
    name: str, options: dict[str, Any], size: str, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(name, **options)
    whole = translated(tmp_path, size=size, precision="fp32")
    expected = values_of(whole / name).astype(int)
    monkeypatch.setattr(huge, "READ_WHOLE", 100_000)
    assert huge.is_huge(path)
    by_lines = translated(tmp_path, size=size, overwrite=True, tile=128, precision="fp32")
    made = values_of(by_lines / name).astype(int)
    with Image.open(by_lines / name) as image:
        assert image.info["dpi"][0] == pytest.approx(300, abs=1)
    # With a working size the picture is reduced by other means, and JPEG is packed by another encoder.
    assert np.abs(made - expected).mean() < (1.5 if size == "auto" or name == "a.jpg" else 0.02)


@pytest.mark.usefixtures("everything_is_huge")
def test_opacity_16_bits_gray_and_turned_pictures(save: Save, tmp_path: Path) -> None:
    opaque = np.linspace(0, 255, WIDTH).astype(np.uint8)[None, :, None].repeat(HEIGHT, 0)
    save("alpha.png", np.dstack([painting(HEIGHT, WIDTH), opaque]))
    save("deep.tif", painting(HEIGHT, WIDTH).astype(np.uint16) * 257, compression="lzw")
    save("gray.tif", painting(HEIGHT, WIDTH)[..., :1])
    turned = Image.fromarray(painting(HEIGHT, WIDTH))
    exif = Image.Exif()
    exif[274] = 6
    turned.save(tmp_path / "in" / "turned.jpg", exif=exif)
    out = translated(tmp_path)
    assert np.array_equal(values_of(out / "alpha.png")[..., 3], opaque[..., 0])
    assert read_picture(out / "deep.tif", pixel_limit=1 << 30).pixels.dtype == np.uint16
    assert values_of(out / "gray.tif").shape == (HEIGHT, WIDTH, 3)
    with Image.open(out / "turned.jpg") as upright:
        assert upright.size == (HEIGHT, WIDTH) and upright.getexif().get(274, 1) == 1


@pytest.mark.parametrize("channels", [(1, 1), (3, 1)])
def test_models_of_gray_pictures_write_gray_by_lines(
    channels: tuple[int, int], save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "m.safetensors", network(*channels))
    gray, deep = painting(HEIGHT, WIDTH)[..., :1], painting(HEIGHT, WIDTH).astype(np.uint16)[..., :1] * 257
    save("deep.tif", deep, compression="lzw")
    save("scan.tif", gray, compression="jpeg", Q=95, tile=True)
    save("photo.jpg")
    save("alpha.png", np.dstack([painting(HEIGHT, WIDTH), gray]))
    options = {"model": tmp_path / "m.safetensors", "size": "full", "precision": "fp32", "overwrite": True}
    tolerance = {"deep.tif": 1.0, "alpha.png": 0.01, "scan.tif": 2.0, "photo.jpg": 2.0}  # by JPEG of two encoders
    out = translated(tmp_path, **options)
    whole = {name: values_of(out / name) for name in tolerance}
    monkeypatch.setattr(huge, "READ_WHOLE", 100_000)
    translated(tmp_path, tile=128, **options)
    for name, expected in whole.items():
        made = values_of(out / name)
        assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
        assert np.abs(made.astype(int) - expected).mean() < tolerance[name]
    assert whole["deep.tif"].dtype == np.uint16 and whole["deep.tif"].ndim == whole["photo.jpg"].ndim == 2
    assert len(np.unique(values_of(out / "deep.tif"))) > 256
    with Image.open(out / "scan.tif") as scan:
        assert (scan.mode, scan.info["compression"]) == ("L", "jpeg")


@pytest.mark.usefixtures("everything_is_huge")
def test_a_mask_keeps_what_is_black_to_the_bit(save: Save, tmp_path: Path) -> None:
    path = save("a.png")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, WIDTH // 2 :] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    made = values_of(translated(tmp_path, mask=tmp_path / "mask.png") / "a.png")
    before = values_of(path)
    assert np.array_equal(made[:, : WIDTH // 2], before[:, : WIDTH // 2])
    assert not np.array_equal(made, before)


@pytest.mark.usefixtures("everything_is_huge")
def test_one_that_fails_does_not_stop_the_others(save: Save, tmp_path: Path) -> None:
    cut = save("a.png")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    save("b.tif")
    cmyk = Image.fromarray(painting(HEIGHT, WIDTH)).convert("CMYK")
    cmyk.save(tmp_path / "in" / "c.tif")
    report = translate_folder(tmp_path / "in", tmp_path / "out", model="zebra2horse-fast", device="cpu")
    reasons = {failure.input.name: failure.reason for failure in report.failures}
    assert (report.translated, report.exit_code) == (1, 3)
    assert "cut short" in reasons["a.png"] and "kind cmyk" in reasons["c.tif"]
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == ["b.tif"]


def test_a_picture_for_which_there_is_no_memory_says_what_it_takes(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save("a.png")
    monkeypatch.setattr(huge, "available_memory", lambda: 1 << 20)
    with pytest.raises(MediaError, match=r"takes about 0\.0 GB of memory; 0\.0 GB are free\. .*cgpipe\[huge\]"):
        read_picture(path)
    monkeypatch.setattr(huge, "find_spec", lambda name: None)
    assert huge.is_too_large(1 << 20)


def test_slides_are_read_and_become_pyramids(save: Save, tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    plain = save("plain.tif", tile=True, pyramid=True, tile_width=128, tile_height=128, resunit="inch")
    plain.rename(tmp_path / "in" / "slide.svs")
    made = pyvips.Image.new_from_file(str(translated(tmp_path) / "slide.svs.tif"))
    assert (made.height, made.width) == (HEIGHT, WIDTH) and made.get("n-pages") > 1
    assert made.xres * 25.4 == pytest.approx(300, rel=1e-2)


def test_a_large_tiff_is_a_bigtiff(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets of 32 bits end at 4.29 GB; the reduced pictures of a pyramid take a third more."""
    assert [huge.takes_big_tiff(side, side, 3, pyramid=False) for side in (36_000, 36_500)] == [False, True]
    assert [huge.takes_big_tiff(side, side, 3, pyramid=True) for side in (31_000, 32_000)] == [False, True]
    monkeypatch.setattr(huge, "READ_WHOLE", 100_000)
    save("small.tif", tile=True)
    assert _version(translated(tmp_path, size=32) / "small.tif") == 42
    monkeypatch.setattr(huge, "_BIG_TIFF", 100_000)
    assert _version(save("large.tif", tile=True, bigtiff=True, compression="lzw")) == 43
    made = translated(tmp_path, size=32) / "large.tif"
    assert _version(made) == 43 and values_of(made).shape == (HEIGHT, WIDTH, 3)


def test_a_bigtiff_beyond_4_gb_is_known_and_read_at_its_far_end(tmp_path: Path) -> None:
    """A file with a hole of 4.8 GB, which takes no room on the disk, and a white tile behind."""
    path = tmp_path / "scan.tif"
    _write_sparse(path, side=40_000, tile=2_000)
    assert path.stat().st_size > 4_790_000_000 and huge.is_huge(path)
    image = pyvips.Image.new_from_file(str(path))
    assert (image.width, image.height) == (40_000, 40_000)
    assert [image.getpoint(39_999, line) for line in (37_999, 39_999)] == [[0, 0, 0], [255, 255, 255]]


def _write_sparse(path: Path, side: int, tile: int) -> None:
    """A BigTIFF of black tiles, the last one white."""
    count, size, places, pixels = (side // tile) ** 2, 3 * tile**2, 1 << 10, 1 << 20
    tags = {256: side, 257: side, 259: 1, 262: 2, 277: 3, 284: 1, 322: tile, 323: tile}
    entries = [(tag, 4, 1, struct.pack("<Q", value)) for tag, value in tags.items()]
    entries += [
        (258, 3, 3, struct.pack("<4H", 8, 8, 8, 0)),
        (324, 16, count, struct.pack("<Q", places)),
        (325, 16, count, struct.pack("<Q", places + 8 * count)),
    ]
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(entries)))
        file.writelines(struct.pack("<HHQ8s", *entry) for entry in sorted(entries))
        file.seek(places)
        file.write((pixels + size * np.arange(count, dtype="<u8")).tobytes())
        file.write(np.full(count, size, "<u8").tobytes())
        file.seek(pixels + (count - 1) * size)
        file.write(b"\xff" * size)


def _version(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[2:4], "little")


def test_a_scratch_array_leaves_memory_and_keeps_its_values(tmp_path: Path) -> None:
    values = scratch((1000, 1000, 3), np.uint8, tmp_path)
    values[...] = 7
    tensor = torch.from_numpy(values)
    release(tensor)
    assert is_scratch(tensor) and is_scratch(tensor[None, ..., :3]) and folder_of(tensor) == tmp_path
    assert bool((tensor == 7).all()) and not list(tmp_path.iterdir())
    assert is_scratch(room_for((10, 10), tensor)) and not is_scratch(room_for((10, 10), torch.zeros(3)))


def peak_of(side: int, folder: Path) -> int:
    """Bytes of memory that a process takes at most that translates a picture of ``side`` pixels a side."""
    source = folder / f"{side}.tif"
    noise = pyvips.Image.perlin(side, side, cell_size=64).linear(60, 128).cast("uchar")
    noise.bandjoin([noise, noise]).copy(interpretation="srgb").tiffsave(str(source), tile=True)
    program = (
        "import re; from cgpipe.media.pictures import huge; huge.READ_WHOLE = 1; "
        "from cgpipe import translate_folder; "
        f"report = translate_folder({str(source)!r}, {str(folder / 'out')!r}, model='zebra2horse-fast', "
        f"device='cpu', size='full', tile=512, tile_mode='fast', precision='fp32'); "
        "assert report.translated == 1, report.failures; "
        # What getrusage says includes this process's own peak, before the program took its place.
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) << 10)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(ended.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_picture(tmp_path: Path) -> None:
    """Translated whole, the larger one takes some 900 MB more; threads and the allocator move a peak by some 100."""
    small, large = peak_of(512, tmp_path), peak_of(2048, tmp_path)
    assert large - small < 200 << 20


@pytest.mark.usefixtures("everything_is_huge")
@pytest.mark.parametrize(("name", "size"), [("a.tif", "full"), ("a.png", 32), ("a.jpg", 32)])
def test_progress_goes_up_within_a_picture_from_its_first_lines_to_its_last(
    name: str, size: Any, save: Save, tmp_path: Path
) -> None:
    save(name)
    told: list[float] = []
    translated(tmp_path, size=size, tile=128, on_part=told.append)
    assert told == sorted(told) and told[0] <= 0.05 and told[-1] == 1
    tiles = 11 * 3 * 4 if size == "full" else -(-HEIGHT // 24)
    assert sum(0.05 < share <= 0.9 for share in told) == tiles, "every tile of each pass, or every band of lines"


@pytest.mark.usefixtures("everything_is_huge")
@pytest.mark.parametrize(("name", "size", "stage"), [("a.tif", 32, 0.0), ("a.tif", "full", 0.5), ("a.png", 32, 0.9)])
def test_ctrl_c_ends_a_job_in_the_middle_of_a_picture_and_the_next_run_makes_it(
    name: str, size: Any, stage: float, save: Save, tmp_path: Path
) -> None:
    save(name, painting(1500, 420) if stage == 0.9 else None)
    told: list[float] = []

    def interrupt(share: float) -> None:
        told.append(share)
        if share > stage and told[-2:-1] <= [stage]:
            time.sleep(0.2)  # a pool does not wait for a thread that an interrupt met while it was being started
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.3)

    options: dict[str, Any] = {"size": size, "tile": 128, "tile_mode": "fast"}
    with pytest.raises(KeyboardInterrupt):
        translated(tmp_path, on_part=interrupt, **options)
    assert stage < told[-1] < stage + 0.1, "it stopped there"
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert [name for name in left if "journal" not in name] == []
    assert values_of(translated(tmp_path, **options) / name).std() > 10


def test_the_bar_moves_by_parts_of_a_picture_and_never_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgpipe.cli.bar.watched", lambda: True)
    with CountingBar("picture") as bar, ProgressBar("picture", True) as other:
        bar.start("a model", 2)
        other.start(2)
        for drawn in (bar, other):
            seen = []
            for share in (0.25, 0.5, 0.1, 1.0, None, 0.02, None):
                drawn.advance() if share is None else drawn.part(share)
                seen.append(drawn._bar.n)  # type: ignore[union-attr]
            assert seen == [0.25, 0.5, 0.5, 0.99, 1, 1.02, 2]


@pytest.mark.slow
def test_nothing_half_written_is_left_after_a_kill(tmp_path: Path, save: Save) -> None:
    save("a.tif", painting(1200, 1600))
    program = (
        "from cgpipe.media.pictures import huge; huge.READ_WHOLE = 1; from cgpipe import translate_folder; "
        f"translate_folder({str(tmp_path / 'in')!r}, {str(tmp_path / 'out')!r}, model='photo2monet', device='cpu', "
        "size='full', tile=64)"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        deadline = time.monotonic() + 60
        while not _holds_scratch(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    left = [path.name for path in (tmp_path / "out").iterdir() if "journal" not in path.name]
    assert left == []


def _holds_scratch(process: int) -> bool:
    """Whether a process has mapped a file that has no name any more."""
    try:
        return "(deleted)" in Path(f"/proc/{process}/maps").read_text()
    except OSError:
        return False
