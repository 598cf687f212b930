"""Reading videos: every kind of clip that users have, encoded here, whole and damaged."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import HEIGHT, WIDTH, Sound, damaged, handles, make_clip, picture, times_of
from PIL import Image

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.frames import Failed, Frame
from cgpipe.media.video import VideoSource, open_source

CODECS = [
    ("clip.mp4", "libx264", {"crf": "10"}),
    ("clip.mkv", "libx265", {"crf": "10", "x265-params": "log-level=none"}),
    ("clip.webm", "libvpx-vp9", {"crf": "10"}),
    ("clip.mp4", "libsvtav1", {"crf": "10", "preset": "10"}),
    ("clip.avi", "mpeg4", {"qmin": "1", "qmax": "2"}),
    ("clip.ts", "libx264", {"crf": "10"}),
]
VARIED = [2002, 3003, 3500, 7007, 7040, 9009, 30030, 31031, 32032, 33033]


def read(path: Path, **options: Any) -> list[Frame]:
    """All frames; fails if there is anything else."""
    items = list(VideoSource(path, **options))
    assert all(isinstance(item, Frame) for item in items)
    return [item for item in items if isinstance(item, Frame)]


def error(pixels: np.ndarray, expected: np.ndarray) -> float:
    """Mean difference, on the scale of 255."""
    return float(np.abs(pixels / (1 if pixels.dtype == np.uint8 else 257) - expected).mean())


@pytest.mark.parametrize(("name", "codec", "options"), CODECS)
def test_every_frame_with_its_pixels_and_time(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    path = make_clip(tmp_path / name, codec=codec, options=options)
    source = VideoSource(path)
    frames = list(source)
    assert len(frames) == 24
    assert (source.info.width, source.info.height, source.info.rate) == (WIDTH, HEIGHT, 25)
    assert [frame.origin.index for frame in frames] == list(range(24))
    assert np.allclose(np.diff([float(frame.origin.time) for frame in frames]), 0.04)
    assert max(error(frame.pixels, picture(index)) for index, frame in enumerate(frames)) < 4
    assert not source.damage


def test_gif(tmp_path: Path) -> None:
    frames = read(
        make_clip(tmp_path / "clip.gif", codec="gif", pix_fmt="rgb8", time_base=Fraction(1, 100), pts=[0, 4, 9])
    )
    assert [frame.origin.time for frame in frames] == [0, Fraction(4, 100), Fraction(9, 100)]
    assert error(frames[2].pixels, picture(2)) < 30


def test_times_of_a_variable_rate_with_an_offset(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", pts=VARIED, time_base=Fraction(1, 30000), options={"bf": "3"})
    assert [frame.origin.time for frame in read(path)] == [Fraction(pts, 30000) for pts in VARIED]


def test_frames_held_back_by_b_frames_all_come(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", options={"bf": "8", "b-adapt": "0", "g": "100"})
    frames = read(path)
    assert len(frames) == 24
    assert error(frames[-1].pixels, picture(23)) < 4


def test_it_can_be_read_again_and_from_a_later_frame(tmp_path: Path) -> None:
    source = VideoSource(make_clip(tmp_path / "clip.mp4"))
    first, second = list(source), list(source.frames(first=20))
    assert len(first) == 24
    assert [item.origin for item in second] == [item.origin for item in first[20:]]
    assert all((a.pixels == b.pixels).all() for a, b in zip(second, first[20:], strict=True))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_the_count_is_estimated(tmp_path: Path, name: str) -> None:
    assert VideoSource(make_clip(tmp_path / name)).info.frames == 24


def test_names_with_spaces_and_letters_of_other_alphabets(tmp_path: Path) -> None:
    assert len(read(make_clip(tmp_path / "мои лошади & Pferdchen ♞ 馬.mp4", count=3))) == 3


def test_the_picture_is_found_behind_sound_and_cover(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", cover=True, sounds=[Sound()], sound_first=True, count=5)
    source = VideoSource(path)
    assert {stream.kind for stream in source.info.streams} == {"audio", "video", "cover"}
    assert source.info.streams[source.info.stream].kind == "video"
    assert len(list(source)) == 5


@pytest.mark.parametrize(("rotation", "quarters"), [(90, 1), (180, 2), (270, 3), (-90, 3)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_pictures_come_upright(tmp_path: Path, rotation: int, quarters: int, mirrored: bool) -> None:
    path = make_clip(
        tmp_path / "clip.mp4",
        rotation=rotation,
        mirrored=mirrored,
        count=2,
        options={"crf": "4"},
        aspect=Fraction(4, 3),
    )
    source = VideoSource(path)
    frame = next(iter(source))
    upright = np.rot90(picture(0), quarters)
    upright = upright[:, ::-1] if mirrored else upright
    assert frame.pixels.shape == upright.shape == (source.info.height, source.info.width, 3)
    assert error(frame.pixels, upright) < 4
    assert source.info.sample_aspect_ratio == (Fraction(3, 4) if quarters % 2 else Fraction(4, 3))


@pytest.mark.parametrize("size", [(97, 65), (98, 66), (33, 17)])
def test_odd_sides(tmp_path: Path, size: tuple[int, int]) -> None:
    frame = read(make_clip(tmp_path / "clip.mp4", size=size, pix_fmt="yuv444p", count=2))[0]
    assert frame.pixels.shape == (size[1], size[0], 3)
    assert error(frame.pixels, picture(0, *size)) < 4


def test_ten_bits_come_as_sixteen(tmp_path: Path) -> None:
    ramp = np.repeat(np.tile(np.linspace(0, 65535, 1024).astype(np.uint16), (32, 1))[..., None], 3, -1)
    path = make_clip(
        tmp_path / "clip.mp4",
        pix_fmt="yuv420p10le",
        pictures=[ramp] * 2,
        count=2,
        size=(1024, 32),
        options={"crf": "0"},
    )
    source = VideoSource(path)
    frame = next(iter(source))
    assert frame.pixels.dtype == np.uint16
    assert source.info.colour.depth == 10
    assert len(np.unique(frame.pixels[16, :, 1])) > 700
    assert np.abs(frame.pixels.astype(int) - ramp).max() < 65535 / 200


def test_gray(tmp_path: Path) -> None:
    gray = [np.full((HEIGHT, WIDTH, 3), 90, np.uint8)] * 2
    frame = read(
        make_clip(tmp_path / "clip.mkv", codec="ffv1", pix_fmt="gray", pictures=gray, count=2, full_range=True)
    )[0]
    assert error(frame.pixels, gray[0]) < 2


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9, None])
def test_tags_and_colours(tmp_path: Path, matrix: int | None, full_range: bool) -> None:
    path = make_clip(tmp_path / "clip.mp4", matrix=matrix, full_range=full_range, count=2, options={"crf": "1"})
    source = VideoSource(path)
    assert (source.info.colour.matrix, source.info.colour.full_range) == (matrix or 6, full_range)
    assert source.info.colour.guessed == (matrix is None)
    assert error(next(iter(source)).pixels, picture(0)) < 2.5


def test_hdr_is_noticed(tmp_path: Path) -> None:
    options = {"x265-params": "log-level=none"}
    path = make_clip(
        tmp_path / "clip.mp4", codec="libx265", pix_fmt="yuv420p10le", matrix=9, transfer=16, count=5, options=options
    )
    assert any("HDR (PQ)" in notice for notice in VideoSource(path).info.notices)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_start_and_end_to_the_frame(tmp_path: Path, name: str) -> None:
    path = make_clip(tmp_path / name, count=100, options={"g": "12", "bf": "3"})
    whole = read(path)
    source = VideoSource(path, start=Fraction(8, 5), end=2.4)
    cut = list(source)
    assert [frame.origin.pts for frame in cut] == [frame.origin.pts for frame in whole[40:60]]
    assert (cut[0].pixels == whole[40].pixels).all()
    assert source.info.frames == 20
    assert source.info.start == whole[40].origin.time


@pytest.mark.parametrize(
    ("cut", "shown", "last"),
    [
        ({"start": 0.6}, {0: 0.6, 1: 2, 2: 2.04, 3: 2.08, 4: 2.12, 5: 2.16}, None),
        ({"start": 0.6, "end": 1}, {0: 0.6}, 0.4),
        ({"end": 1.2}, {0: 0}, 1.2),
        ({"start": 1.96, "end": 2.05}, {1: 2, 2: 2.04}, None),
        ({"start": 2.05, "end": 2.15}, {3: 2.08, 4: 2.12}, None),
    ],
)
def test_a_picture_held_across_a_cut_is_shown_up_to_it(
    tmp_path: Path, cut: dict[str, float], shown: dict[int, float], last: float | None
) -> None:
    # At 0 s, 2 s, and every 0.04 s from there, as a recording of a screen has them.
    frames = read(make_clip(tmp_path / "held.mp4", pts=[0, 50, 51, 52, 53, 54]), **cut)
    assert [float(frame.origin.time) for frame in frames] == pytest.approx(list(shown.values()))
    assert all(error(frame.pixels, picture(index)) < 4 for frame, index in zip(frames, shown, strict=True))
    if last is not None:
        assert float((frames[-1].origin.duration or 0) * frames[-1].origin.time_base) == pytest.approx(last)


def test_webp_is_cut_like_a_clip(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(index)) for index in range(3)]
    path = tmp_path / "in.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[2000, 40, 3000])
    with open_source(str(path), start=0.5, end=3) as source:
        origins = [frame.origin for frame in source]
    assert [(origin.pts, origin.duration) for origin in origins] == [(500, 1500), (2000, 40), (2040, 960)]


@pytest.mark.parametrize("fps", [1, 0.5])
def test_a_clip_shorter_than_a_frame_keeps_one(tmp_path: Path, fps: float) -> None:
    assert len(read(make_clip(tmp_path / "clip.mp4", count=3), fps=fps)) == 1


@pytest.mark.parametrize(("fps", "count"), [(50, 48), (25, 24), (10, 10), (Fraction(30000, 1001), 29)])
def test_another_rate(tmp_path: Path, fps: Fraction, count: int) -> None:
    source = VideoSource(make_clip(tmp_path / "clip.mp4"), fps=fps)
    frames = list(source)
    assert len(frames) == source.info.frames == count
    assert [frame.origin.time for frame in frames] == [index / Fraction(fps) for index in range(count)]
    seen = [min(range(24), key=lambda index: error(frame.pixels, picture(index))) for frame in frames]
    # The last picture that begins by then, to the nearest frame.
    assert seen == [math.floor((index + Fraction(1, 2)) * 25 / fps) for index in range(count)]


@pytest.mark.parametrize(
    "options",
    [
        *({"start": -1}, {"start": float("nan")}, {"start": 2, "end": 1}, {"end": float("inf")}, {"hwaccel": "abacus"}),
        *({"fps": fps} for fps in (0, 0.0003, 1e9, float("inf"), float("nan"))),
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, options: dict[str, Any]) -> None:
    path = make_clip(tmp_path / "clip.mp4", count=2)
    with pytest.raises(UsageError):
        VideoSource(path, **options)


def test_a_cut_beyond_the_end(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="between start and end"):
        VideoSource(make_clip(tmp_path / "clip.mp4"), start=100)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "libx264"), ("clip.mp4", "mpeg4"), ("clip.ts", "libx264")])
def test_garbage_in_the_middle_is_filled(tmp_path: Path, name: str, codec: str, seed: int) -> None:
    path = make_clip(tmp_path / name, codec=codec, count=60, options={"g": "12"}, muxer={"movflags": "faststart"})
    whole = times_of(path)
    source = VideoSource(damaged(path, 0.5, 0.6, seed))
    items = list(source)
    frames = [item for item in items if isinstance(item, Frame)]
    times = [frame.origin.time for frame in frames]
    assert times == sorted(set(times))
    assert sum(frame.origin.filled for frame in frames) == source.damage.filled
    assert len(times) > 40
    if name == "clip.mp4":  # whose index has survived
        assert times == whole
        assert not [item for item in items if isinstance(item, Failed)]


@pytest.mark.parametrize(
    ("name", "share"),
    [(name, share) for name in ("clip.mp4", "clip.mkv") for share in (0.35, 0.5, 0.77, 0.93)] + [("clip.avi", 0.7)],
)
def test_a_truncated_file_says_so_at_its_end(tmp_path: Path, name: str, share: float) -> None:
    codec = "mpeg4" if name == "clip.avi" else "libx264"
    path = make_clip(tmp_path / name, codec=codec, count=60, options={"g": "12"}, muxer={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    source = VideoSource(path)
    items = list(source)
    frames = [item for item in items if isinstance(item, Frame)]
    assert 0 < len(frames) < 60
    assert [type(item) for item in items[len(frames) :]] == [Failed]
    assert "missing" in items[-1].reason
    assert len(frames) + source.damage.missing in range(56, 63)


def test_an_mp4_without_its_index(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(MediaError, match="index"):
        VideoSource(path)


@pytest.mark.parametrize("movflags", ["", "faststart"])
def test_an_mp4_cut_within_its_index_is_called_so(tmp_path: Path, movflags: str) -> None:
    """At any place: before its streams are listed, between picture and sound, within the table of frames."""
    path = make_clip(tmp_path / "clip.mp4", sounds=[Sound()], muxer={"movflags": movflags} if movflags else {})
    whole = path.read_bytes()
    index = whole.index(b"moov") - 4
    size = int.from_bytes(whole[index : index + 4])
    reasons = set()
    for share in range(1, 20):
        path.write_bytes(whole[: index + size * share // 20])
        try:
            source = VideoSource(path)
        except MediaError as error:
            reasons.add(str(error).partition(":")[2][:36])
        else:
            list(source)
            assert source.damage.missing  # of the sound, which nobody would miss
    assert all("index" in reason for reason in reasons), reasons


def test_what_is_not_a_video(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("horses " * 200)
    sound = make_clip(tmp_path / "clip.mkv", sounds=[Sound()], count=1)
    for path, reason in [(text, "not a video"), (tmp_path / "none.mp4", "no such file"), (tmp_path, "folder")]:
        with pytest.raises(MediaError, match=reason):
            VideoSource(path)
    assert len(read(sound)) == 1


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import av

    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 4800), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(MediaError, match="no video stream"):
        VideoSource(path)


def test_a_stream_goes_by_once(tmp_path: Path) -> None:
    with make_clip(tmp_path / "clip.mkv", count=5).open("rb") as file:
        source = VideoSource(file)
        assert source.info.path is None
        assert len(list(source)) == 5
        with pytest.raises(MediaError, match="only once"):
            next(iter(source))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts handles in /proc")
def test_nothing_is_left_open(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4")
    list(VideoSource(path))
    before = handles()
    source = VideoSource(path, threads=3)
    list(source)
    half = iter(source)
    next(half)
    half.close()
    with source:
        kept = iter(source)
        next(kept)
    (tmp_path / "broken.mp4").write_bytes(path.read_bytes()[:900])
    with pytest.raises(MediaError):
        VideoSource(tmp_path / "broken.mp4")
    assert handles() - before == set()
    assert list(kept) == []
