"""Frames that stay planes of YUV until they are on the device, against those that the processor converts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from clips import make_clip, picture
from test_gpu_pipeline import PretendGpu

import cgpipe
from cgpipe.engine import scale
from cgpipe.engine.cuda import GpuPipeline
from cgpipe.engine.scale import resize
from cgpipe.engine.stream import IN_FLIGHT
from cgpipe.engine.translator import Translator
from cgpipe.engine.yuv import add_change, from_rgb, seen_at, to_rgb
from cgpipe.media import yuv
from cgpipe.media.frames import Batch, Frame, batched
from cgpipe.media.planar import Planar
from cgpipe.media.video import decoding

SIZES = [(54, 38), (53, 37), (2, 2), (1, 1), (16, 5), (5, 1)]


def memory_of(plane: Any) -> np.ndarray:
    return np.frombuffer(plane, np.uint8)


def noise(pix_fmt: str, height: int, width: int) -> av.VideoFrame:
    """A frame of random bytes."""
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane in frame.planes:
        memory_of(plane)[:] = np.random.default_rng(0).integers(0, 256, plane.buffer_size)
    return frame


def gap(one: Any, other: Any) -> int:
    assert one.shape == other.shape
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("pix_fmt", yuv.READ_FORMATS)
def test_torch_converts_as_the_processor_does(pix_fmt: str, full_range: bool) -> None:
    written = "yuv420p" if pix_fmt == "nv12" else pix_fmt
    for matrix, (height, width) in zip(yuv.LUMA_WEIGHTS, SIZES, strict=True):
        frame, planar = noise(pix_fmt, height, width), yuv.planar_of(pix_fmt, height, width, matrix, full_range)
        packed = yuv.planes_of(frame, planar)
        rgb = yuv.rgb_of(frame, yuv.to_rgb_matrix(matrix, full_range))
        assert gap(to_rgb(torch.from_numpy(packed[None]), planar)[0], rgb) <= 1
        back = yuv.planes_of(yuv.frame_of(rgb, written, yuv.from_rgb_matrix(matrix, full_range)), planar)
        assert gap(from_rgb(torch.from_numpy(rgb[None]), planar)[0], back) <= 1
        again = yuv.frame_of_planes(packed, planar, written)
        assert again.format.name == written
        assert np.array_equal(yuv.planes_of(again, planar), packed)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p"])
def test_most_of_a_frame_is_the_same_to_the_bit(pix_fmt: str) -> None:
    frame, planar = noise(pix_fmt, 90, 160), yuv.planar_of(pix_fmt, 90, 160, 1, False)
    packed = torch.from_numpy(yuv.planes_of(frame, planar)[None])
    rgb = yuv.rgb_of(frame, yuv.to_rgb_matrix(1, False))
    assert (to_rgb(packed, planar)[0].numpy() == rgb).mean() > 0.9


def test_what_hardware_decodes_has_the_same_colours_as_software() -> None:
    planar = yuv.planar_of("yuv420p", 54, 38, 1, False)
    plain = noise("yuv420p", 54, 38)
    packed = yuv.planes_of(plain, planar)
    paired = av.VideoFrame(38, 54, "nv12")
    luma, chroma = (memory_of(plane).reshape(plane.height, -1) for plane in paired.planes)
    _, blue, red = yuv._parts(packed, planar)
    luma[:, :38] = packed[0, : 54 * 38, 0].reshape(54, 38)
    chroma[:, 0:38:2], chroma[:, 1:38:2] = blue, red
    assert yuv.has_layout(paired, planar)
    assert np.array_equal(yuv.planes_of(paired, planar), packed)
    matrix = yuv.to_rgb_matrix(1, False)
    assert np.array_equal(yuv.rgb_of(paired, matrix), yuv.rgb_of(plain, matrix))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each batch that a translator got was of planes."""
    taken: list[bool] = []
    launch = Translator.launch

    def watched(self: Translator, batch: Batch[Any], count: int = 0) -> Any:
        taken.append(batch.planar is not None)
        return launch(self, batch, count)

    monkeypatch.setattr(Translator, "launch", watched)
    return taken


@pytest.fixture
def planes(monkeypatch: pytest.MonkeyPatch, launched: list[bool]) -> Callable[[], int]:
    """Has the processor take planes, as a GPU does; gives how many batches of them it got."""
    monkeypatch.setattr(Translator, "takes_planes", lambda self, planar: self.enlarges == 1)
    launched.clear()
    return lambda: sum(launched)


def planes_of(path: Path) -> np.ndarray:
    """What a video holds, as it is in the file."""
    with cgpipe.VideoSource(path) as source:
        source.as_planes = True
        return np.stack([frame.pixels for frame in source if isinstance(frame, Frame)])


@pytest.mark.usefixtures("zebra_model")
@pytest.mark.parametrize(
    "kind",
    [
        {"size": (96, 64), "matrix": 1},
        {"size": (96, 64), "matrix": 5, "full_range": True},
        {"size": (97, 63), "codec": "libvpx-vp9", "options": {"crf": "10", "b": "0"}},
        {"size": (96, 64), "rotation": 90},
    ],
    ids=["limited", "full", "odd", "turned"],
)
def test_a_job_writes_the_same_video_either_way(tmp_path: Path, kind: dict[str, Any], request: Any) -> None:
    suffix = ".webm" if "codec" in kind else ".mp4"
    clip = make_clip(tmp_path / f"in{suffix}", count=9, **kind)
    options: Any = {"to": "zebra", "precision": "fp32", "batch_size": 2, "crf": 0}
    plain, planar = tmp_path / f"plain{suffix}", tmp_path / f"planar{suffix}"
    cgpipe.translate_video(clip, plain, **options)
    taken = request.getfixturevalue("planes")
    report = cgpipe.translate_video(clip, planar, **options)
    assert (report.frames, report.failed, taken()) == (9, 0, 5)
    assert gap(planes_of(plain), planes_of(planar)) <= (2 if "rotation" in kind else 0)
    with cgpipe.VideoSource(plain) as one, cgpipe.VideoSource(planar) as other:
        assert one.info.colour == other.info.colour


@pytest.mark.usefixtures("zebra_model")
@pytest.mark.filterwarnings("ignore:.* 10 bits per channel:cgpipe.errors.CgpipeWarning")
@pytest.mark.parametrize(
    ("clip", "options"),
    [
        ({"pix_fmt": "yuv420p10le"}, {}),
        ({"pix_fmt": "yuv422p"}, {}),
        ({}, {"steady": 0.5}),
        ({}, {"side_by_side": True}),
        ({}, {"codec": "ffv1"}),
    ],
    ids=["10 bits", "4:2:2", "steady", "side by side", "RGB"],
)
def test_all_else_stays_rgb(tmp_path: Path, planes: Any, clip: dict[str, Any], options: dict[str, Any]) -> None:
    source = make_clip(tmp_path / "in.mp4", count=3, **clip)
    report = cgpipe.translate_video(source, tmp_path / "out.mkv", to="zebra", **options)
    assert (report.frames, report.failed, planes()) == (3, 0, 0)


KINDS = [
    ("yuv420p", 1, False, (160, 240)),
    ("yuv420p", 6, True, (160, 240)),
    ("yuv422p", 9, False, (160, 240)),
    ("yuv444p", 5, True, (160, 240)),
    ("yuv420p", 1, False, (60, 90)),
]
"""Formats, matrices, ranges and sizes; chroma of the last is smaller than what the network sees."""


def coloured(pix_fmt: str, matrix: int, full_range: bool, size: tuple[int, int]) -> tuple[av.VideoFrame, Planar]:
    """A frame of smooth colours with one saturated square, and below it grey stripes."""
    pixels = picture(0, size[1], size[0])
    pixels[size[0] // 2 :] = np.where(np.arange(size[1]) // 8 % 2, 60, 180)[:, None]
    pixels[8:28, 16:40] = 250, 5, 20
    planar = yuv.planar_of(pix_fmt, *size, matrix, full_range)
    return yuv.frame_of(pixels, pix_fmt, yuv.from_rgb_matrix(matrix, full_range)), planar


def assert_alike(found: np.ndarray, expected: np.ndarray, planar: Planar) -> None:
    """In every channel, and neither brighter nor of another tint."""
    difference = found.astype(float) - expected
    # Coarse chroma blurs the edges of the saturated square one way or another.
    assert np.abs(difference).mean((0, 1)).max() < (1.5 if planar.chroma[0] > 40 else 4)
    # Half a level is what RGB that is rounded and reduced is too bright.
    assert np.abs(difference.mean((0, 1))).max() < 0.6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_a_change_to_planes_looks_as_one_to_rgb(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, kind: Any, strength: float
) -> None:
    """The network is replaced by an exchange of colours: random weights would enlarge what is rounded away."""
    monkeypatch.setattr(Translator, "_generate", lambda self, x, network: x.roll(1, 1) * 0.8)
    frame, planar = coloured(*kind)
    translator = Translator(make_model(), device="cpu", precision="fp32", size=40, strength=strength)
    assert translator.takes_planes(planar)
    packed = torch.from_numpy(yuv.planes_of(frame, planar))
    pair = Batch(pixels=torch.stack([packed, packed.flip(1)]), origins=(0, 1), planar=planar)
    both = translator.translate(pair).pixels
    for index in (0, 1):
        alone = replace(pair, pixels=pair.pixels[index : index + 1], origins=(index,))
        assert torch.equal(translator.translate(alone).pixels[0], both[index])
    matrix = yuv.to_rgb_matrix(planar.matrix, planar.full_range)
    rgb = translator(yuv.rgb_of(frame, matrix))
    back = yuv.frame_of(rgb, kind[0], yuv.from_rgb_matrix(planar.matrix, planar.full_range))
    found = yuv.frame_of_planes(both[0].numpy(), planar, kind[0])
    assert_alike(yuv.rgb_of(found, matrix), yuv.rgb_of(back, matrix), planar)


@pytest.mark.parametrize("kind", KINDS)
def test_planes_lose_the_detail_that_rgb_loses(kind: Any) -> None:
    frame, planar = coloured(*kind)
    matrix, height = yuv.to_rgb_matrix(planar.matrix, planar.full_range), planar.height
    pixels = torch.from_numpy(yuv.rgb_of(frame, matrix)[None])
    seen = resize(pixels, (40, 60))
    translated = seen.clone()
    translated[:, :, 20:] = seen[:, :, 20:].mean(3, keepdim=True)
    packed = torch.from_numpy(yuv.planes_of(frame, planar)[None])
    found = to_rgb(add_change(packed, planar, seen, translated, 0.9), planar)[0].numpy()
    expected = to_rgb(from_rgb(scale.add_change(pixels, seen, translated, 0.9), planar), planar)[0].numpy()
    low = slice(height // 2 + 12, None)
    assert found[low].std(1).mean() < pixels[0, low].numpy().std(1).mean() / 4
    assert_alike(found, expected, planar)


def test_what_the_network_sees_of_planes_is_what_it_sees_of_rgb() -> None:
    for kind in KINDS:
        frame, planar = coloured(*kind)
        rgb = yuv.rgb_of(frame, yuv.to_rgb_matrix(planar.matrix, planar.full_range))
        expected = resize(torch.from_numpy(rgb[None]), (40, 60))[0].permute(1, 2, 0).numpy()
        found = seen_at((40, 60), torch.from_numpy(yuv.planes_of(frame, planar)[None]), planar)
        assert_alike(found[0].permute(1, 2, 0).numpy(), expected, planar)


@pytest.mark.usefixtures("zebra_model")
@pytest.mark.parametrize(
    ("clip", "options", "is_planar"),
    [
        ({}, {"size": 32}, True),
        ({"size": (97, 64), "codec": "libvpx-vp9"}, {"size": 32, "codec": "libvpx-vp9"}, False),
        ({}, {"size": "full"}, False),
        ({}, {"size": 64}, False),
        ({}, {"size": 32, "steady": 0.5}, False),
        ({"pix_fmt": "yuv420p10le"}, {"size": 32}, False),
        ({"pix_fmt": "yuv444p"}, {"size": 32}, False),
        ({"pix_fmt": "yuv444p"}, {"size": 32, "pix_fmt": "yuv444p"}, True),
    ],
)
@pytest.mark.filterwarnings("ignore:.* 10 bits per channel:cgpipe.errors.CgpipeWarning")
def test_a_processor_takes_planes_of_what_it_reduces(
    tmp_path: Path, launched: list[bool], clip: dict[str, Any], options: dict[str, Any], is_planar: bool
) -> None:
    source = make_clip(tmp_path / "in.mkv", count=3, **clip)
    report = cgpipe.translate_video(source, tmp_path / "out.mkv", to="zebra", device="cpu", batch_size=1, **options)
    assert (report.frames, report.failed, launched) == (3, 0, [is_planar] * 3)


@pytest.mark.parametrize("kind", [{"rotation": angle} for angle in (90, 180, 270)] + [{"mirrored": True}])
def test_planes_are_turned_as_pictures_are(tmp_path: Path, kind: dict[str, Any]) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=2, **kind)
    with cgpipe.VideoSource(clip) as source:
        expected = [frame.pixels for frame in source if isinstance(frame, Frame)]
        source.as_planes = True
        found = [frame.pixels for frame in source if isinstance(frame, Frame)]
        assert source.planar is not None
        for rgb, packed in zip(expected, found, strict=True):
            assert gap(to_rgb(torch.from_numpy(packed[None]), source.planar)[0], rgb) <= 3


def test_an_odd_side_is_turned_as_rgb(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", count=2, size=(97, 64), codec="libvpx-vp9", rotation=90)
    with cgpipe.VideoSource(clip) as source:
        assert (source.planar is None) == (source.info.rotation != 0)


def test_a_frame_of_another_size_becomes_planes_of_the_first_one(tmp_path: Path) -> None:
    path = tmp_path / "in.ts"
    parts = [make_clip(tmp_path / f"{width}.ts", count=3, size=(width, 64)) for width in (96, 80)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with cgpipe.VideoSource(path) as source:
        source.as_planes = True
        frames = [frame for frame in source if isinstance(frame, Frame)]
    assert len(frames) >= 6
    assert {frame.planar for frame in frames} == {source.planar}
    assert {frame.pixels.shape for frame in frames} == {(1, 96 * 64 * 3 // 2, 1)}


def frames_of(count: int) -> list[Frame[int]]:
    planar = yuv.planar_of("yuv420p", 48, 40, 1, False)
    numbers = np.random.default_rng(1)
    packed = [numbers.integers(0, 256, (1, sum(planar.sizes), 1), np.uint8) for _ in range(count)]
    return [Frame(pixels=pixels, origin=index, planar=planar) for index, pixels in enumerate(packed)]


@pytest.mark.parametrize("tile", ["auto", 32])
def test_planes_go_over_a_gpu_and_in_tiles(make_model: Any, tile: Any) -> None:
    model = make_model()
    plain = Translator(model, device="cpu", precision="fp32")
    translator = Translator(model, device="cpu", precision="fp32", tile=tile)
    translator._pipeline = GpuPipeline(PretendGpu(), translator._within_memory, IN_FLIGHT)
    assert translator.takes_planes(frames_of(1)[0].planar)
    frames = frames_of(7)
    given = [batch for batch in translator.stream(batched(frames, 3)) if isinstance(batch, Batch)]
    assert [len(batch) for batch in given] == [3, 3, 1]
    for sent, result in zip(frames, itertools.chain(*(batch.frames() for batch in given)), strict=True):
        assert sent.planar is not None
        rgb = to_rgb(torch.from_numpy(sent.pixels[None]), sent.planar)
        expected = from_rgb(torch.from_numpy(plain(rgb.numpy())), sent.planar)[0]
        assert (result.origin, result.planar) == (sent.origin, sent.planar)
        assert gap(result.pixels, expected) <= 1


def test_frames_of_two_layouts_are_never_in_one_batch() -> None:
    planar = yuv.planar_of("yuv420p", 4, 6, 1, False)
    other = yuv.planar_of("yuv420p", 6, 4, 1, False)
    pixels = np.zeros((1, 36, 1), np.uint8)
    frames = [Frame(pixels=pixels, origin=0, planar=layout) for layout in (planar, other, None, planar)]
    given = [batch for batch in batched(frames, 8) if isinstance(batch, Batch)]
    assert [(len(batch), batch.planar) for batch in given] == [(2, planar), (1, other), (1, None)]


def test_a_sink_refuses_planes_of_another_layout(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=1)
    with cgpipe.VideoSource(clip) as source:
        origin = cgpipe.media.video.VideoOrigin(index=0, pts=0, time_base=Fraction(1, 25))
    planar = yuv.planar_of("yuv420p", 64, 96, 1, False)
    frame = Frame(pixels=np.zeros((1, sum(planar.sizes), 1), np.uint8), origin=origin, planar=planar)
    with cgpipe.VideoSink(tmp_path / "out.mp4", like=source.info) as sink:
        assert sink.planar != planar  # BT.601, as a small clip is guessed to be
        with pytest.raises(ValueError, match="takes frames of shape"):
            sink.write(frame)
        sink.write(Frame(pixels=np.zeros((64, 96, 3), np.uint8), origin=origin))


class Pretended:
    """A decoder in hardware, which gives chroma in pairs, and stumbles over a packet.

    Args:
        decoder: the real one.
        packets: how many it takes.
    """

    def __init__(self, decoder: Any, packets: int) -> None:
        object.__setattr__(self, "decoder", decoder)
        object.__setattr__(self, "packets", iter(range(packets)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.decoder, name, value)

    def decode(self, packet: Any) -> list[av.VideoFrame]:
        if next(self.packets, None) is None:
            raise av.error.ExternalError(1, "no more")
        return [paired(frame) for frame in self.decoder.decode(packet)]


def paired(frame: av.VideoFrame) -> av.VideoFrame:
    result = frame.reformat(format="nv12")
    result.pts = frame.pts
    return result


@pytest.mark.parametrize("packets", [0, 5, 99])
@pytest.mark.parametrize("as_planes", [False, True])
def test_a_decoder_in_hardware_gives_the_same_and_is_left_where_it_stumbles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packets: int, as_planes: bool
) -> None:
    source = cgpipe.VideoSource(make_clip(tmp_path / "in.mp4", count=24))
    source.as_planes = as_planes
    expected = [frame for frame in source if isinstance(frame, Frame)]
    opened, real, decoder = [], decoding._open, decoding._decoder
    monkeypatch.setattr(decoding, "_open", lambda file, name, way: opened.append(way) or real(file, name, None))
    monkeypatch.setattr(decoding, "_decoder", lambda s: Pretended(decoder(s), packets) if opened[-1] else decoder(s))
    monkeypatch.setattr("cgpipe.media.video.source.HARDWARE_PIXELS", 1)
    source.hardware = "cuda"
    found = [frame for frame in source.frames(first=2) if isinstance(frame, Frame)]
    assert opened == ["cuda", None][: 1 if packets == 99 else 2]
    assert not source.damage
    for one, other in zip(found, expected[2:], strict=True):
        assert one.origin.index == other.origin.index
        assert one.origin.time == other.origin.time
        assert np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("kind", [{"pix_fmt": "yuv420p10le"}, {"count": 2}, {"codec": "libvpx-vp9"}, {}])
def test_what_does_not_suit_hardware_and_machines_without_it_go_the_usual_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    opened, real = [], decoding._open
    monkeypatch.setattr(decoding, "_open", lambda file, name, way: opened.append(way) or real(file, name, way))
    monkeypatch.setattr("cgpipe.media.video.source.HARDWARE_PIXELS", 3 * 64 * 96)
    with cgpipe.VideoSource(make_clip(tmp_path / "in.mkv", **({"count": 4} | kind))) as source:
        source.hardware = "cuda"
        assert len(list(source)) == kind.get("count", 4)
    assert opened == [None, *([] if kind else ["cuda"]), None]
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("zebra_model")
@pytest.mark.parametrize(("asked", "expected"), [(None, "cuda"), ("off", None)])
def test_the_gpu_that_translates_decodes_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, expected: str | None
) -> None:
    """A translator that says it is on CUDA, on a machine without: the processor decodes, and nobody is told."""
    opened, real = [], decoding._open
    monkeypatch.setattr(decoding, "_open", lambda file, name, way: opened.append(way) or real(file, name, way))
    monkeypatch.setattr("cgpipe.media.video.source.HARDWARE_PIXELS", 1)
    monkeypatch.setattr("cgpipe.jobs.clip.is_cuda", lambda translator: True)
    clip = make_clip(tmp_path / "in.mp4", count=3)
    report = cgpipe.translate_video(clip, tmp_path / "out.mp4", to="zebra", hwaccel=asked)
    assert (report.frames, report.exit_code, report.notices) == (3, 0, [])
    assert set(opened) == {None, expected}
