"""Writing videos: what goes in comes out, with all else of the file, or there is an error and no file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import HEIGHT, WIDTH, Sound, handles, make_clip, packets_of, picture, times_of

from cgpipe.errors import CgpipeError, MediaError, UsageError
from cgpipe.media.frames import Frame
from cgpipe.media.video import VideoSink, VideoSource
from cgpipe.media.video.segments import SegmentWriter

VARIED = [2002, 3003, 3500, 7007, 7040, 9009, 30030, 31031, 32032, 33033, 60060, 60100, 60200, 90090]


def copy(source: Path, target: Path, **options: Any) -> VideoSink:
    """The translation that changes nothing."""
    reading = {name: options.pop(name) for name in ("start", "end", "fps") if name in options}
    clip = VideoSource(source, **reading)
    with VideoSink(target, like=clip.info, **options) as sink:
        for frame in clip:
            assert isinstance(frame, Frame)
            sink.write(frame)
    return sink


def frames_of(path: Path) -> list[Frame]:
    return [item for item in VideoSource(path) if isinstance(item, Frame)]


def errors(first: Path, second: Path) -> np.ndarray:
    """Mean difference of each channel over all frames, on the scale of 255."""
    pairs = zip(frames_of(first), frames_of(second), strict=True)
    scaled = [[a.pixels / (1 if a.pixels.dtype == np.uint8 else 257) for a in pair] for pair in pairs]
    return np.mean([np.abs(a - b).mean((0, 1)) for a, b in scaled], 0)


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("out") or "cgpipe" in path.name)


def stream_tags(path: Path) -> list[tuple[str, str | None, int]]:
    with av.open(str(path)) as container:
        return [(s.type, s.metadata.get("language"), int(s.disposition)) for s in container.streams]


# Time


@pytest.mark.parametrize("segment_frames", [4, 5, 100])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9"])
def test_times_of_a_variable_rate_with_an_offset(tmp_path: Path, codec: str, segment_frames: int) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=VARIED, time_base=Fraction(1, 30000), options={"bf": "2"})
    copy(clip, tmp_path / "out.mp4", codec=codec, segment_frames=segment_frames)
    assert times_of(tmp_path / "out.mp4") == [Fraction(pts, 30000) for pts in VARIED]
    assert left_behind(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize(("name", "codec"), [("out.mkv", "libx264"), ("out.webm", None), ("out.mkv", "ffv1")])
def test_times_in_matroska_are_right_to_the_millisecond(tmp_path: Path, name: str, codec: str | None) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=VARIED, time_base=Fraction(1, 30000))
    copy(clip, tmp_path / name, codec=codec, segment_frames=5)
    shifts = [abs(a - b) for a, b in zip(times_of(tmp_path / name), times_of(clip), strict=True)]
    assert max(shifts) <= Fraction(1, 2000)


def test_broadcast_clocks_start_at_zero(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.ts", time_base=Fraction(1, 90000), pts=range(9_000_000, 9_050_000, 3600))
    copy(clip, tmp_path / "out.mp4")
    assert times_of(tmp_path / "out.mp4") == [Fraction(index, 25) for index in range(14)]


def test_another_rate(tmp_path: Path) -> None:
    copy(make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4", fps=10)
    assert times_of(tmp_path / "out.mp4") == [Fraction(index, 10) for index in range(10)]


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4", "out.mov", "out.webm"])
@pytest.mark.parametrize("fps", [None, 10])
def test_the_rate_is_stated_as_players_read_it(tmp_path: Path, name: str, fps: float | None) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=20)
    copy(clip, tmp_path / name, fps=fps)
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.video[0].average_rate == (fps or 25)


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="an encoder takes real-time priority where it may"
)
def test_no_encoder_leaves_real_time_threads(tmp_path: Path) -> None:
    usual = os.sched_getscheduler(0)
    seen = set()
    clip = VideoSource(make_clip(tmp_path / "in.mp4"))
    with VideoSink(tmp_path / "out.mp4", like=clip.info, codec="libsvtav1", segment_frames=12) as sink:
        for frame in clip:
            assert isinstance(frame, Frame)
            sink.write(frame)
            seen |= {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
    assert seen == {usual}


# Pictures


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [6, 1, 9])
def test_colours_come_back(tmp_path: Path, matrix: int, full_range: bool) -> None:
    clip = make_clip(
        tmp_path / "in.mp4", matrix=matrix, full_range=full_range, count=6, size=(192, 128), options={"crf": "4"}
    )
    copy(clip, tmp_path / "out.mp4", crf=10)
    assert errors(clip, tmp_path / "out.mp4").max() <= 1.5
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (matrix, 2 if full_range else 1)
        assert (context.color_primaries, context.color_trc) == (matrix, 1)


@pytest.mark.parametrize(
    ("name", "codec", "limit"),
    [
        ("out.mp4", "libx264", 2),
        ("out.mov", "hevc", 2.5),
        ("out.mp4", "av1", 3),
        ("out.webm", "vp9", 3),
        ("out.mkv", "ffv1", 0),
        ("out.mov", "prores", 1.5),
        ("out.mkv", "prores", 1.5),
        ("out.m4v", None, 2),
    ],
)
def test_encoders_and_containers(tmp_path: Path, name: str, codec: str | None, limit: float) -> None:
    clip = make_clip(tmp_path / "in.mp4", size=(192, 128), count=10)
    copy(clip, tmp_path / name, codec=codec, segment_frames=4)
    assert errors(clip, tmp_path / name).max() <= limit
    if codec == "hevc":
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize(("name", "codec"), [("out.mp4", "libx264"), ("out.mp4", "libx265"), ("out.webm", "vp9")])
@pytest.mark.parametrize("size", [(97, 65), (96, 65), (97, 64)])
def test_odd_sides_are_kept(tmp_path: Path, name: str, codec: str, size: tuple[int, int]) -> None:
    clip = make_clip(tmp_path / "in.mp4", size=size, pix_fmt="yuv444p", count=4)
    copy(clip, tmp_path / name, codec=codec)
    assert frames_of(tmp_path / name)[0].pixels.shape == (size[1], size[0], 3)
    assert errors(clip, tmp_path / name).max() <= 3


def test_h264_is_encoded_by_whole_frames(tmp_path: Path) -> None:
    copy(make_clip(tmp_path / "in.mp4", count=3), tmp_path / "out.mp4")
    assert b" sliced_threads=0 " in (tmp_path / "out.mp4").read_bytes()  # x264 writes its settings into the stream


@pytest.mark.parametrize(("width", "setting"), [(48, b" no-cutree "), (96, b" cutree ")])
def test_narrow_clips_do_without_what_breaks_the_memory_of_x265(tmp_path: Path, width: int, setting: bytes) -> None:
    clip = make_clip(tmp_path / "in.mp4", size=(width, 64))
    copy(clip, tmp_path / "out.mp4", codec="hevc")
    assert setting in (tmp_path / "out.mp4").read_bytes()  # x265 writes its settings into the stream, too
    assert len(frames_of(tmp_path / "out.mp4")) == 24


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.mov"])
def test_rotation_is_done_and_pixels_stay_anamorphic(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / "in.mp4", rotation=90, aspect=Fraction(4, 3), count=4)
    copy(clip, tmp_path / name)
    with av.open(str(tmp_path / name)) as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == 0
        assert (frame.width, frame.height) == (HEIGHT, WIDTH)
        assert container.streams.video[0].sample_aspect_ratio == Fraction(3, 4)


def test_where_pixels_must_be_square_the_picture_is_stretched(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", aspect=Fraction(4, 3), count=4)
    sink = copy(clip, tmp_path / "out.webm")
    frame = frames_of(tmp_path / "out.webm")[0]
    assert frame.pixels.shape == (HEIGHT, 128, 3)
    assert np.abs(frame.pixels - picture(0, 128, HEIGHT).astype(int)).mean() < 40
    assert "stretched" in sink.notices[0]


def test_ten_bits_can_be_written(tmp_path: Path) -> None:
    ramp = np.repeat(np.tile(np.linspace(0, 65535, 1024).astype(np.uint16), (32, 1))[..., None], 3, -1)
    clip = make_clip(
        tmp_path / "in.mp4", pix_fmt="yuv420p10le", pictures=[ramp] * 3, count=3, size=(1024, 32), options={"crf": "0"}
    )
    copy(clip, tmp_path / "out.mp4", pix_fmt="yuv420p10le", crf=1)
    assert len(np.unique(frames_of(tmp_path / "out.mp4")[0].pixels[16, :, 1])) > 500
    sink = copy(clip, tmp_path / "out8.mp4")
    assert frames_of(tmp_path / "out8.mp4")[0].pixels.dtype == np.uint8
    assert "10 bits per channel and the output 8" in sink.notices[0]
    assert copy(clip, tmp_path / "asked.mp4", pix_fmt="yuv420p").notices == ()


def test_frames_of_another_size(tmp_path: Path) -> None:
    clip = VideoSource(make_clip(tmp_path / "in.mp4", count=3))
    wide = replace(clip.info, width=2 * WIDTH)
    with VideoSink(tmp_path / "out.mp4", like=wide) as sink:
        for frame in clip:
            sink.write(Frame(pixels=np.hstack([frame.pixels] * 2), origin=frame.origin))
    assert VideoSource(tmp_path / "out.mp4").info.width == 2 * WIDTH
    with pytest.raises(ValueError, match="not"), VideoSink(tmp_path / "out2.mp4", like=clip.info) as sink:
        sink.write(Frame(pixels=np.zeros((10, 10, 3), np.uint8), origin=frame.origin))


# Sound, subtitles, chapters


def rich_clip(path: Path, **more: Any) -> Path:
    sounds = [
        Sound("aac", 440, title="Original", disposition=int(av.stream.Disposition.comment)),
        Sound("libopus", 660, language="deu", channels=2, disposition=int(av.stream.Disposition.default)),
    ]
    return make_clip(
        path,
        count=30,
        sounds=sounds,
        subtitles={"subrip": ["¡Caballos!", "<i>Zebras</i>"]},
        chapters=["beach", "paddock"],
        metadata={"title": "Pferde am Strand", "artist": "Ünïcode"},
        **more,
    )


def test_matroska_keeps_everything(tmp_path: Path) -> None:
    clip = rich_clip(tmp_path / "in.mkv", cover=True, attachment=b"glyphs" * 100)
    sink = copy(clip, tmp_path / "out.mkv", segment_frames=7)
    out = tmp_path / "out.mkv"
    assert all(stream.kept for stream in sink.streams)
    assert packets_of(out, "audio") == packets_of(clip, "audio")
    assert packets_of(out, "subtitle") == packets_of(clip, "subtitle")
    assert stream_tags(out) == stream_tags(clip)
    with av.open(str(clip)) as before, av.open(str(out)) as after:
        assert after.chapters() == before.chapters()
        assert after.metadata == before.metadata
        assert after.streams.audio[0].metadata["title"] == "Original"
        assert after.streams.attachments[0].data == before.streams.attachments[0].data
    assert packets_of(out, "video")[1:] == packets_of(clip, "video")[1:]


def test_tags_that_are_not_utf8_are_no_reason_to_stop(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", count=3, metadata={"title": "Pferde-XX-Strand"})
    clip.write_bytes(clip.read_bytes().replace(b"-XX-", b" am\xe9"))
    copy(clip, tmp_path / "out.mkv")
    written = (tmp_path / "out.mkv").read_bytes()
    assert b"Pferde am\xe9Strand" in written or "Pferde am\ufffdStrand".encode() in written


def test_mp4_keeps_the_bytes_of_aac(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "in.mp4",
        sounds=[Sound(language="eng", title="Original"), Sound(pitch=550, language="fra", title="Doublé")],
        subtitles={"mov_text": ["one", "two"]},
        chapters=["a", "b"],
        metadata={"title": "horses"},
        cover=True,
    )
    sink = copy(clip, tmp_path / "out.mp4")
    out = tmp_path / "out.mp4"
    assert packets_of(out, "audio") == packets_of(clip, "audio")
    assert packets_of(out, "subtitle") == packets_of(clip, "subtitle")
    assert packets_of(out, "video")[1] == packets_of(clip, "video")[1]
    assert [tag[:2] for tag in stream_tags(out)] == [tag[:2] for tag in stream_tags(clip)]
    with av.open(str(clip)) as before, av.open(str(out)) as after:
        titles = [[chapter["metadata"]["title"] for chapter in each.chapters()] for each in (before, after)]
        assert titles == [["a", "b"]] * 2
        assert after.metadata["title"] == "horses"
        assert [sound.metadata["name"] for sound in after.streams.audio] == ["Original", "Doublé"]
    assert sink.notices == (), "the names of chapters come with them"
    assert [(s.stream.kind, s.how) for s in sink.streams if not s.kept] == [
        ("data", "timecodes and sensor data are not brought over (chapters are)")
    ]


def test_matroska_to_mp4_turns_subtitles_into_its_own(tmp_path: Path) -> None:
    clip = rich_clip(tmp_path / "in.mkv", attachment=b"glyphs" * 100)
    sink = copy(clip, tmp_path / "out.mp4")
    assert packets_of(tmp_path / "out.mp4", "audio") == packets_of(clip, "audio")
    texts = [packet[2:].decode() for packet in packets_of(tmp_path / "out.mp4", "subtitle")[0]]
    assert [text for text in texts if text] == ["¡Caballos!", "Zebras"]
    with av.open(str(tmp_path / "out.mp4")) as container:
        packets = [p for p in container.demux(container.streams.subtitles[0]) if p.size > 2]
        shown = [(p.pts * p.time_base, p.duration * p.time_base) for p in packets]
    assert shown == [(Fraction(1, 10), Fraction(3, 10)), (Fraction(1, 2), Fraction(3, 10))]
    assert [(str(s.stream), s.how) for s in sink.streams if not s.kept] == [("attachment 4", "mp4 does not take it")]


def decoded_sound(path: Path, channel: int = 0) -> tuple[np.ndarray, Fraction]:
    """Samples of one channel and the time of the first, at 48 kHz."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        samples = np.concatenate([f.to_ndarray().reshape(f.layout.nb_channels, -1)[channel] for f in frames])
        return samples, frames[0].pts * frames[0].time_base


def test_webm_gets_opus_in_step(tmp_path: Path) -> None:
    clip = rich_clip(tmp_path / "in.mkv")
    sink = copy(clip, tmp_path / "out.webm")
    out = tmp_path / "out.webm"
    assert [stream.how for stream in sink.streams] == [
        "translated",
        "encoded as libopus",
        "copied",
        "converted to webvtt",
    ]
    assert packets_of(out, "audio")[1] == packets_of(clip, "audio")[1]
    assert packets_of(out, "subtitle") == [["¡Caballos!".encode(), b"Zebras"]]
    assert [tag[:2] for tag in stream_tags(out)] == [tag[:2] for tag in stream_tags(clip)]
    (before, began), (after, begins) = decoded_sound(clip), decoded_sound(out)
    assert abs(float(began - begins)) < 0.001
    middle = slice(8000, 40000)
    assert np.abs(before[middle] - after[middle]).max() < 0.05


@pytest.mark.parametrize("name", ["out.mkv", "out.mov"])
def test_a_cut_keeps_sound_in_step_to_the_sample(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / "in.mkv", count=50, sounds=[Sound("pcm_s16le", seconds=0.6)], options={"g": "10"})
    sink = copy(clip, tmp_path / name, start=0.2, end=0.5)
    assert times_of(tmp_path / name)[0] == 0
    assert len(times_of(tmp_path / name)) == 8 or sink.frames == 8
    samples, begin = decoded_sound(tmp_path / name)
    # The samples number themselves: what sounds at any time must be what sounded 0.2 s later in the original.
    assert samples[0] - (Fraction(1, 5) + begin) * 48000 in range(-24, 25)
    assert (np.diff(samples) == 1).all()
    assert 0 <= begin < Fraction(25, 1000)
    assert abs(len(samples) / 48000 - 0.3) < 0.045


def test_an_encoded_cut_is_exact_to_the_sample(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", count=50, sounds=[Sound("flac", 443, seconds=1)])
    copy(clip, tmp_path / "out.webm", start=0.2, end=0.6)
    samples, begin = decoded_sound(tmp_path / "out.webm")
    assert abs(begin) < 0.001
    assert abs(len(samples) - 0.4 * 48000) <= 960
    numbers = 9600 + np.arange(4000, 12000)
    expected = 0.4 * np.sin(2 * np.pi * 443 * numbers / 48000)
    assert np.abs(samples[4000:12000] - expected).max() < 0.03


def test_encoded_sound_keeps_its_channels_apart(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", count=25, sounds=[Sound("flac", 443, right=661, channels=2)])
    copy(clip, tmp_path / "out.webm")
    for channel, pitch in enumerate((443, 661)):
        samples, _ = decoded_sound(tmp_path / "out.webm", channel)
        wave = 0.4 * np.sin(2 * np.pi * pitch * np.arange(48000) / 48000)
        assert np.abs(samples[4000:44000] - wave[4000:44000]).max() < 0.03


def test_encoded_sound_stays_in_step_over_a_gap(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", count=25, sounds=[Sound("flac", 443, seconds=1, gap=(0.3, 0.5))])
    copy(clip, tmp_path / "out.webm")
    samples, begin = decoded_sound(tmp_path / "out.webm")
    wave = 0.4 * np.sin(2 * np.pi * 443 * np.arange(48000) / 48000)
    assert abs(begin) < 0.001
    assert np.abs(samples[30000:44000] - wave[30000:44000]).max() < 0.03
    assert np.abs(samples[19500:22500]).max() < 0.03


def test_sound_can_be_left_out(tmp_path: Path) -> None:
    sink = copy(rich_clip(tmp_path / "in.mkv"), tmp_path / "out.mkv", audio=False)
    assert packets_of(tmp_path / "out.mkv", "audio") == []
    assert [stream.how for stream in sink.streams if not stream.kept] == ["sound was not wanted"] * 2


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])  # one copies subtitles, the other converts them
def test_chapters_and_subtitles_move_with_a_cut(tmp_path: Path, name: str) -> None:
    copy(rich_clip(tmp_path / "in.mkv"), tmp_path / name, start=0.2, end=0.6)
    with av.open(str(tmp_path / name)) as container:
        spans = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in container.chapters()]
        packets = [p for p in container.demux(container.streams.subtitles[0]) if p.size > 2]
        texts = [(p.pts * p.time_base, p.duration * p.time_base) for p in packets]
    assert spans == [(0, Fraction(1, 5)), (Fraction(1, 5), Fraction(2, 5))]
    assert texts == [(0, Fraction(1, 5)), (Fraction(3, 10), Fraction(1, 10))]


# What cannot be done, and what goes wrong


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("out.webm", {"codec": "libx264"}, "webm cannot hold"),
        ("out.mp4", {"codec": "ffv1"}, "mp4 cannot hold"),
        ("out.mp4", {"codec": "h266"}, "Unknown codec"),
        ("out.txt", {}, "not a valid name for a video"),
        ("out.mp4", {"options": {"bframse": "2"}}, "does not know the option bframse"),
        ("out.mp4", {"preset": "hasty"}, "rejects its settings"),
        ("out.mp4", {"crf": 99}, "crf"),
        ("out.mov", {"codec": "prores", "crf": 9}, "has no --crf"),
        ("out.mp4", {"pix_fmt": "nonsense"}, "pixel format"),
        ("out.mp4", {"codec": "h264_nvenc"}, "needs a GPU"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, name: str, options: dict[str, Any], reason: str) -> None:
    info = VideoSource(make_clip(tmp_path / "in.mp4", count=2)).info
    with pytest.raises(UsageError, match=reason):
        VideoSink(tmp_path / name, like=info, **options)
    assert left_behind(tmp_path) == []


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    info = VideoSource(make_clip(tmp_path / "in.mp4", count=2)).info
    (tmp_path / "folder.mp4").mkdir()
    for target, reason in [("in.mp4/out.mp4", "a file, not a folder"), ("folder.mp4", "there is a folder")]:
        with pytest.raises(MediaError, match=reason):
            VideoSink(tmp_path / target, like=info)


def test_no_frames_no_file(tmp_path: Path) -> None:
    info = VideoSource(make_clip(tmp_path / "in.mp4", count=2)).info
    with pytest.raises(MediaError, match="no frames"), VideoSink(tmp_path / "out.mp4", like=info):
        pass
    assert left_behind(tmp_path) == []


def test_a_failure_leaves_nothing_and_keeps_the_old_file(tmp_path: Path) -> None:
    source = VideoSource(make_clip(tmp_path / "in.mp4"))
    (tmp_path / "out.mp4").write_text("the old one")
    with pytest.raises(KeyError), VideoSink(tmp_path / "out.mp4", like=source.info, segment_frames=5) as sink:
        for frame in source:
            sink.write(frame)
        raise KeyError
    assert left_behind(tmp_path) == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "the old one"


def test_a_segment_is_finished_while_the_next_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=12)
    copy(clip, tmp_path / "plain.mp4", segment_frames=5)
    begun, finish, write = threading.Event(), SegmentWriter.finish, SegmentWriter.write

    def wait(writer: SegmentWriter) -> Path:
        assert writer.frames != 5 or begun.wait(20)
        begun.clear()
        return finish(writer)

    def tell(writer: SegmentWriter, *given: Any) -> None:
        write(writer, *given)
        if writer.frames == 2:
            begun.set()

    monkeypatch.setattr(SegmentWriter, "finish", wait)
    monkeypatch.setattr(SegmentWriter, "write", tell)
    copy(clip, tmp_path / "out.mp4", segment_frames=5)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "plain.mp4").read_bytes()


def test_a_segment_that_cannot_be_finished_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=12)

    def fail(writer: SegmentWriter) -> Path:
        writer.abort()
        raise MediaError("out.mp4 cannot be written: the disk is full.")

    monkeypatch.setattr(SegmentWriter, "finish", fail)
    monkeypatch.setattr("cgpipe.media.video.sink.try_to_join", lambda *_: None)
    with pytest.raises(MediaError, match="the disk is full"):
        copy(clip, tmp_path / "out.mp4", segment_frames=5)
    assert left_behind(tmp_path) == []


def test_two_cannot_write_one_file(tmp_path: Path) -> None:
    info = VideoSource(make_clip(tmp_path / "in.mp4", count=2)).info
    first = VideoSink(tmp_path / "out.mp4", like=info)
    with pytest.raises(MediaError, match="another process"):
        VideoSink(tmp_path / "out.mp4", like=info)
    first.abort()


FULL_DISK = """
import resource, signal, sys
from cgpipe.errors import MediaError
from cgpipe.media.video import VideoSink, VideoSource
source = VideoSource(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    with VideoSink(sys.argv[2], like=source.info, crf=0, segment_frames=4) as sink:
        for frame in source:
            sink.write(frame)
except MediaError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits file sizes by setrlimit")
@pytest.mark.parametrize("limit", [3000, 30_000])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    clip = make_clip(tmp_path / "in.mp4", size=(192, 128), options={"crf": "1"})
    command = [sys.executable, "-c", FULL_DISK, str(clip), str(tmp_path / "out.mp4"), str(limit)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "cannot be written" in ended.stderr
    assert "larger than this system allows" in ended.stderr
    assert left_behind(tmp_path) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts handles in /proc")
def test_nothing_is_left_open(tmp_path: Path) -> None:
    clip = rich_clip(tmp_path / "in.mkv")
    copy(clip, tmp_path / "out.webm", segment_frames=8)
    before = handles()
    copy(clip, tmp_path / "out.webm", segment_frames=8)
    with pytest.raises(UsageError):
        copy(clip, tmp_path / "out.mp4", options={"nonsense": "1"})
    source = VideoSource(clip)
    with pytest.raises(KeyError), VideoSink(tmp_path / "out.mp4", like=source.info) as sink:
        for frame in source:
            sink.write(frame)
            raise KeyError
    source.close()
    assert handles() - before == set()


# Going on after an interrupt


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    clip = rich_clip(tmp_path / "in.mkv")
    copy(clip, tmp_path / "whole.mp4", segment_frames=8)
    source = VideoSource(clip)
    with (
        pytest.raises(KeyboardInterrupt),
        VideoSink(tmp_path / "out.mp4", like=source.info, resume="a", segment_frames=8) as sink,
    ):
        for frame in source:
            sink.write(frame)
            if frame.origin.index == 20:
                raise KeyboardInterrupt
    assert left_behind(tmp_path) == [".out.mp4.cgpipe"]
    with VideoSink(tmp_path / "out.mp4", like=source.info, resume="a", segment_frames=8) as sink:
        assert sink.resumed == 16
        for frame in source.frames(first=sink.resumed):
            sink.write(frame)
    assert sink.frames == 30
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert left_behind(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("change", [{"resume": "b"}, {"crf": 30}, {"segment_frames": 9}])
def test_what_was_made_differently_is_not_taken_over(tmp_path: Path, change: dict[str, Any]) -> None:
    source = VideoSource(make_clip(tmp_path / "in.mp4"))
    settings: dict[str, Any] = {"resume": "a", "segment_frames": 8}
    with pytest.raises(KeyError), VideoSink(tmp_path / "out.mp4", like=source.info, **settings) as sink:
        for frame in source:
            sink.write(frame)
        raise KeyError
    sink = VideoSink(tmp_path / "out.mp4", like=source.info, **{**settings, **change})
    assert sink.resumed == 0
    sink.abort()


KILLED = """
import sys, time
from cgpipe.media.video import VideoSink, VideoSource
source = VideoSource(sys.argv[1])
with VideoSink(sys.argv[2], like=source.info, resume="a", segment_frames=3, crf=10) as sink:
    print(sink.resumed, flush=True)
    for written, frame in enumerate(source.frames(first=sink.resumed), 1):
        sink.write(frame)
        print("frame", flush=True)
        if written == int(sys.argv[3]):
            time.sleep(60)  # it is killed before it is done, however late that comes
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_result(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=40, sounds=[Sound(seconds=1.6)])
    copy(clip, tmp_path / "whole.mp4", segment_frames=3, crf=10)
    command = [sys.executable, "-c", KILLED, str(clip), str(tmp_path / "out.mp4"), "12"]
    moments = random.Random(5)
    resumed = []
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            resumed.append(int(process.stdout.readline()))
            for _ in range(moments.randint(5, 11)):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert not (tmp_path / "out.mp4").exists()
    command[-1] = "-1"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert resumed == sorted(resumed)
    assert resumed[-1] > 0
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_errors_are_of_one_family() -> None:
    assert issubclass(MediaError, CgpipeError)
    assert issubclass(UsageError, CgpipeError)


def test_a_picture_of_the_test_is_what_it_says() -> None:
    first = picture(0).astype(int)
    assert first[0, -1, 0] > first[0, 0, 0] + 150
    assert first[-1, 0, 1] > first[0, 0, 1] + 150
