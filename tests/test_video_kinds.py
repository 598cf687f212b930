"""Kinds of clips that people have: each goes through whole, and what of it cannot is said."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import threading
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import HEIGHT, PIPED, WIDTH, Sound, make_clip, packets_of, picture, times_of
from PIL import Image

import cgpipe
from cgpipe.errors import MediaError
from cgpipe.jobs.video_plan import plan_videos
from cgpipe.media.frames import Frame
from cgpipe.media.video import Sink, VideoSink, VideoSource, open_sink, open_source
from cgpipe.media.video.alpha import alpha_of
from cgpipe.media.video.masks import VideoMask
from cgpipe.media.video.timecode import advanced

TS = Fraction(1, 90000)


def copy(source: Path | str, target: Path | str, **options: Any) -> tuple[Sink, Any]:
    """The translation that changes nothing; the sink, and what was wrong in all."""
    reading = {name: options.pop(name) for name in ("start", "end", "deinterlace") if name in options}
    with open_source(source, **reading) as clip, open_sink(target, like=clip.info, **options) as sink:
        for frame in clip:
            if isinstance(frame, Frame):
                sink.write(frame)
    return sink, clip.damage + sink.damage


def make_ts(path: Path, count: int = 13, first: int = 0, sound: bool = True) -> Path:
    sounds = [Sound(seconds=count / 25)] if sound else []
    return make_clip(path, time_base=TS, pts=range(first, first + 3600 * count, 3600), sounds=sounds)


# The join


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
@pytest.mark.parametrize("base", [600, 30000])
def test_a_timecode_is_kept(tmp_path: Path, name: str, base: int) -> None:
    pts = range(0, 25 * (base // 25), base // 25)
    clip = make_clip(
        tmp_path / "in.mov", time_base=Fraction(1, base), pts=pts, sounds=[Sound()], tags={"timecode": "10:00:00:00"}
    )
    sink, damage = copy(clip, tmp_path / name)
    assert (len(times_of(tmp_path / name)), bool(damage), sink.notices) == (25, False, ())
    assert timecode_of(tmp_path / name) == "10:00:00:00"


def timecode_of(path: Path) -> str:
    with av.open(str(path)) as container:
        tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
    return tags["timecode"]


def test_a_timecode_goes_on_with_a_cut(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mov", count=50, tags={"timecode": "10:00:00:00"})
    copy(clip, tmp_path / "out.mov", start=1.2)
    assert timecode_of(tmp_path / "out.mov") == "10:00:01:05"


def test_timecodes_are_counted_as_smpte_has_them() -> None:
    assert advanced("10:00:00:00", Fraction(3, 2), Fraction(24)) == "10:00:01:12"
    assert advanced("00:00:59;29", Fraction(1001, 30000), Fraction(30000, 1001)) == "00:01:00;02"
    assert advanced("00:09:59;29", Fraction(1001, 30000), Fraction(30000, 1001)) == "00:10:00;00"
    assert advanced("no code", Fraction(1), Fraction(25)) == "no code"


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_mulaw", "adpcm_ms"])
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.webm"])
def test_sound_without_a_layout(tmp_path: Path, codec: str, name: str) -> None:
    clip = make_clip(tmp_path / "in.avi", codec="mpeg4", sounds=[Sound(codec)])
    sink, damage = copy(clip, tmp_path / name)
    assert [stream.kept for stream in sink.streams] == [True, True]
    assert not damage
    with av.open(str(tmp_path / name)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert abs(samples - 48000) < 3000


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_recordings_joined_end_to_end(tmp_path: Path, sound: bool, name: str) -> None:
    first = make_ts(tmp_path / "a.ts", sound=sound)
    second = make_ts(tmp_path / "b.ts", sound=sound)
    joined = tmp_path / "in.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    _, damage = copy(joined, tmp_path / name)
    times = times_of(tmp_path / name)
    assert len(times) == 26
    assert not damage
    assert all(0.03 < after - before < 0.1 for before, after in pairwise(times))
    if sound:
        with av.open(str(tmp_path / name)) as container:
            packets = [p for p in container.demux(audio=0) if p.size]
            heard = [float(p.pts * p.time_base) for p in packets]
        assert len(heard) == sum(map(len, (*packets_of(first, "audio"), *packets_of(second, "audio"))))
        assert heard == sorted(heard)
        assert 0.9 < heard[-1] < 1.2


@pytest.mark.filterwarnings("default::cgpipe.errors.CgpipeWarning")
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_bad_packets_of_sound_are_left_out_and_counted(zebra_model: Path, tmp_path: Path, name: str) -> None:
    clip = make_ts(tmp_path / "in.ts", count=25)
    data = bytearray(clip.read_bytes())
    marks = [place for place in range(len(data) // 2, len(data)) if data[place : place + 2] == b"\xff\xf1"]
    data[marks[3] : marks[3] + 7] = bytes(7)
    clip.write_bytes(data)
    sink, damage = copy(clip, tmp_path / name)
    assert len(times_of(tmp_path / name)) == 25
    assert damage.bad_sound > 0
    assert any("damaged packets of audio" in notice for notice in sink.notices)
    assert len(packets_of(tmp_path / name, "audio")[0]) > 30
    report = cgpipe.translate_video(clip, tmp_path / f"zebra {name}", to="zebra")
    assert (report.bad_sound, report.exit_code) == (damage.bad_sound, 3)
    assert "damaged in other streams" in report.summary()


def test_announced_sound_without_packets(tmp_path: Path) -> None:
    data = make_ts(tmp_path / "in.ts").read_bytes()
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    silent = [packet for packet in packets if int.from_bytes(packet[1:3], "big") & 0x1FFF != 0x101]
    (tmp_path / "in.ts").write_bytes(b"".join(silent))
    sink, damage = copy(tmp_path / "in.ts", tmp_path / "out.mp4")
    assert len(times_of(tmp_path / "out.mp4")) == 13
    assert not damage
    assert "it holds no audio" in sink.notices[0]


def test_a_stream_that_fails_at_the_end_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying fails for every packet, so the sound is encoded anew, and the pictures are there."""
    from cgpipe.media.video import copiers

    clip = make_clip(tmp_path / "in.mp4", sounds=[Sound()])

    def backwards(self: Any, packet: Any) -> Any:
        self.number += 1
        if packet.size:
            packet.stream = self._stream
            packet.pts = packet.dts = 10_000_000 - 1024 * self.number
            yield packet

    monkeypatch.setattr(copiers.StreamCopier, "__call__", backwards)
    sink, _ = copy(clip, tmp_path / "out.mp4")
    assert [stream.how for stream in sink.streams] == ["translated", "encoded as aac"]
    assert len(times_of(tmp_path / "out.mp4")) == 24


def test_messages_name_the_users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=3)

    def fail(*_: Any, **__: Any) -> Any:
        raise av.error.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr("cgpipe.media.video.segments._join", fail)
    with pytest.raises(MediaError, match=r"out\.mp4 cannot be written") as error:
        VideoSink(tmp_path / "out.mp4", like=VideoSource(clip).info)
    assert "joined" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", sounds=[Sound()], attachment=b"glyphs" * 100)
    sink, _ = copy(clip, tmp_path / "out.mp4")
    assert [notice for notice in sink.notices if "attachment" in notice and "dropped" in notice]
    assert copy(clip, tmp_path / "out.mkv")[0].notices == ()
    assert copy(clip, tmp_path / "silent.mkv", audio=False)[0].notices == ()


def test_tags_of_phones_and_own_keys(tmp_path: Path) -> None:
    tags = {
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.location.ISO6709": "+47.0+008.0/",
        "com.android.capture.fps": "240",
        "my_own_key": "mine",
        "title": "Pferde",
    }
    clip = make_clip(tmp_path / "in.mov", metadata=tags, muxer={"movflags": "use_metadata_tags"})
    for name in ("out.mov", "out.mp4", "out.mkv"):
        copy(clip, tmp_path / name)
        with av.open(str(tmp_path / name)) as container:
            kept = {key.lower(): value for key, value in container.metadata.items()}
        assert {key.lower(): value for key, value in tags.items()}.items() <= kept.items()


# Pictures


def exif_jpeg(index: int) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    out = io.BytesIO()
    Image.fromarray(picture(index)).save(out, "JPEG", exif=exif)
    return out.getvalue()


def test_frames_with_exif(tmp_path: Path) -> None:
    (tmp_path / "in.jpg").write_bytes(exif_jpeg(0))
    with av.open(str(tmp_path / "in.avi"), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        container.start_encoding()
        for index in range(4):
            packet = av.Packet(exif_jpeg(index))
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = index
            packet.is_keyframe = True
            container.mux(packet)
    for name, count in (("in.jpg", 1), ("in.avi", 4)):
        copy(tmp_path / name, tmp_path / "out.mp4")
        assert len(times_of(tmp_path / "out.mp4")) == count


def test_two_by_two(tmp_path: Path, models_folder: Path, file_model: Any) -> None:
    file_model(models_folder, "horse", "zebra")
    clip = make_clip(tmp_path / "in.mp4", size=(2, 2), count=3)
    assert cgpipe.translate_video(clip, tmp_path / "out.mp4", to="zebra").frames == 3


def test_closed_captions_are_dropped_with_a_word(tmp_path: Path) -> None:
    plain, captioned = tmp_path / "plain.h264", tmp_path / "captioned.h264"
    pair = bytes([0xB5, 0, 0x31]) + b"GA94" + bytes([3, 0x41, 0xFF, 0xFC, 0x94, 0x20, 0xFF])
    message = bytes([0, 0, 0, 1, 6, 4, len(pair)]) + pair + bytes([0x80])
    with av.open(str(make_ts(tmp_path / "in.ts", sound=False))) as container:
        pictures = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    plain.write_bytes(b"".join(pictures))
    captioned.write_bytes(b"".join(message + picture for picture in pictures))
    assert VideoSource(plain).info.notices == ()
    (notice,) = VideoSource(captioned).info.notices
    assert "Closed captions" in notice and "dropped" in notice
    assert copy(captioned, tmp_path / "out.mp4")[1] == copy(plain, tmp_path / "plain.mp4")[1]


def interlaced(path: Path) -> Path:
    """A bar that moves from field to field."""
    frames = []
    for index in range(6):
        frame = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
        for field in range(2):
            left = 8 * index + 4 * field
            frame[field::2, left : left + 20] = 220
        frames.append(frame)
    return make_clip(path, pictures=frames, count=6, options={"crf": "1", "x264-params": "tff=1"})


def combing(path: Path) -> float:
    """How much neighbouring lines differ, beyond those of one field."""
    frame = next(f for i, f in enumerate(VideoSource(path, deinterlace=False)) if i == 3)
    assert isinstance(frame, Frame)
    lines = frame.pixels.astype(int)
    return float(np.abs(np.diff(lines, axis=0)).mean() - np.abs(lines[2:] - lines[:-2]).mean())


def test_interlaced_clips_are_deinterlaced(tmp_path: Path) -> None:
    clip = interlaced(tmp_path / "in.mp4")
    assert VideoSource(clip).info.notices == (
        "The clip is interlaced and is deinterlaced (--no-deinterlace keeps its fields).",
    )
    copy(clip, tmp_path / "out.mp4")
    copy(clip, tmp_path / "kept.mp4", deinterlace=False)
    assert times_of(tmp_path / "out.mp4") == times_of(tmp_path / "kept.mp4") == times_of(clip)
    assert combing(tmp_path / "kept.mp4") > 5 > 2 > combing(tmp_path / "out.mp4")


def transparent(path: Path, codec: str = "ffv1", pix_fmt: str = "bgra") -> Path:
    """Smooth pictures, transparent on the left, but for a corner."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        for index in range(4):
            alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
            alpha[:, : WIDTH // 2] = 0
            alpha[:8, :8] = 255
            frame = av.VideoFrame.from_ndarray(np.concatenate([picture(index), alpha], -1), "rgba")
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("out.webm", {}),
        ("out.mov", {"codec": "prores"}),
        ("out.mkv", {"codec": "ffv1"}),
        ("out.mkv", {"codec": "vp9"}),
        ("out.gif", {}),
        ("out.webp", {}),
        ("out.apng", {}),
        ("frames/%02d.png", {}),
    ],
)
def test_alpha_is_kept_where_it_can_be(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    sink, _ = copy(transparent(tmp_path / "in.mkv"), tmp_path / name, **options)
    assert not [notice for notice in sink.notices if "opaque" in notice]
    frames = list(open_source(tmp_path / name, fps=25 if "png" in name[-4:] and "%" in name else None))
    if "%" in name:
        alpha = np.asarray(Image.open(tmp_path / "frames/01.png"))[..., 3]
    else:
        assert len(frames) == 4
        alpha = frames[1].origin.alpha
        pixels = frames[1].pixels if frames[1].pixels.itemsize == 1 else frames[1].pixels >> 8
        assert np.abs(pixels[:, 60:].astype(int) - picture(1)[:, 60:]).mean() < 14
    alpha = alpha if alpha.dtype == np.uint8 else alpha >> 8
    assert alpha[12:, : WIDTH // 2 - 4].max() <= 2
    assert alpha[:, WIDTH // 2 + 4 :].min() >= 253


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "name"), [("prores_ks", "yuva444p10le", "in.mov"), ("qtrle", "argb", "in.mov")]
)
def test_alpha_of_other_codecs_is_read(tmp_path: Path, codec: str, pix_fmt: str, name: str) -> None:
    source = VideoSource(transparent(tmp_path / name, codec, pix_fmt))
    assert source.info.alpha
    alpha = next(iter(source)).origin.alpha
    assert alpha[8:, :40].max() == 0
    assert alpha[:, 56:].min() == np.iinfo(alpha.dtype).max


def test_alpha_that_is_dropped_is_said(tmp_path: Path) -> None:
    sink, _ = copy(transparent(tmp_path / "in.mkv"), tmp_path / "out.mp4")
    assert "becomes opaque" in sink.notices[0]
    opaque = make_clip(tmp_path / "opaque.gif", codec="gif", pix_fmt="rgb8", time_base=Fraction(1, 100), pts=[0, 4])
    assert not VideoSource(opaque).info.alpha
    with av.open(str(opaque)) as container:
        assert (alpha_of(next(container.decode(video=0))) == 255).all()


# Time


def annexb_avi(path: Path, clip: Path) -> Path:
    """The packets of an mp4 in AVI, which knows one time for each alone."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        to_annexb = av.BitStreamFilterContext("h264_mp4toannexb", source.streams.video[0])
        for packet in source.demux(video=0):
            for converted in to_annexb.filter(packet) if packet.size else ():
                converted.stream = stream
                target.mux(converted)
    return path


@pytest.mark.parametrize("base", [25, 12800])
def test_b_frames_in_avi_are_no_damage(tmp_path: Path, base: int) -> None:
    pts = range(0, 25 * (base // 25), base // 25)
    options = {"bf": "3", "b-adapt": "0", "g": "12"}
    clip = make_clip(tmp_path / "in.mp4", time_base=Fraction(1, base), pts=pts, options=options)
    source = VideoSource(annexb_avi(tmp_path / "in.avi", clip))
    frames = list(source)
    assert not source.damage
    assert len(frames) == source.info.frames == 25
    assert np.allclose(np.diff([float(frame.origin.time) for frame in frames]), 0.04, atol=0.002)
    assert all(np.abs(f.pixels.astype(int) - picture(i)).mean() < 4 for i, f in enumerate(frames))


def test_an_open_gop_that_was_cut_is_no_damage(tmp_path: Path) -> None:
    options = {"x265-params": "log-level=none:open-gop=1:keyint=8:min-keyint=8:bframes=3:b-adapt=0:scenecut=0"}
    clip = make_clip(tmp_path / "in.mkv", codec="libx265", options=options, count=24)
    with av.open(str(clip)) as source, av.open(str(tmp_path / "cut.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        second = [index for index, packet in enumerate(packets) if packet.is_keyframe][1]
        for packet in packets[second:]:
            packet.stream = stream
            target.mux(packet)
    cut = VideoSource(tmp_path / "cut.mkv")
    frames = list(cut)
    assert len(frames) >= 16
    assert not cut.damage


def test_the_last_frame_lasts_in_webm(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(index * 9)) for index in range(3)]
    pictures[0].save(tmp_path / "in.gif", save_all=True, append_images=pictures[1:], duration=[1000, 1000, 4000])
    for name in ("out.webm", "out.mp4", "out.mkv"):
        copy(tmp_path / "in.gif", tmp_path / name)
        with av.open(str(tmp_path / name)) as container:
            assert abs(container.duration / av.time_base - 6) < 0.05


def test_what_an_edit_list_hides_stays_hidden_in_matroska(tmp_path: Path) -> None:
    """AAC begins with a packet that mp4 hides; Matroska would show all else later for it."""
    clip = make_clip(tmp_path / "in.mp4", sounds=[Sound()])
    hidden = len(packets_of(clip, "audio")[0])
    copy(clip, tmp_path / "out.mkv")
    assert times_of(tmp_path / "out.mkv")[0] == 0
    assert len(packets_of(tmp_path / "out.mkv", "audio")[0]) == hidden - 1


@pytest.mark.parametrize(("name", "cut"), [("in.gif", 40), ("in.gif", 1), ("in.mkv", 150)])
def test_a_file_cut_in_its_last_moment_is_damaged(tmp_path: Path, name: str, cut: int) -> None:
    gif: dict[str, Any] = {"codec": "gif", "pix_fmt": "rgb8", "time_base": Fraction(1, 100), "pts": range(0, 100, 4)}
    clip = make_clip(tmp_path / name, **(gif if name == "in.gif" else {"count": 25}))
    whole = VideoSource(clip)
    list(whole)
    assert not whole.damage
    os.truncate(clip, clip.stat().st_size - cut)
    source = VideoSource(clip)
    list(source)
    assert source.damage.missing >= 1


def test_an_input_that_is_replaced_meanwhile(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", sounds=[Sound(pitch=440)])
    other = make_clip(tmp_path / "other.mkv", count=10, sounds=[Sound(pitch=880, seconds=0.4)])
    before = packets_of(clip, "audio")
    source = VideoSource(clip)
    with source, VideoSink(tmp_path / "out.mkv", like=source.info) as sink:
        for frame in source:
            sink.write(frame)
        os.replace(other, clip)
    assert sink.damage.changed
    assert any("was changed during the job" in notice for notice in sink.notices)
    assert packets_of(tmp_path / "out.mkv", "audio") == before


# Names, pipes and masks


def test_names_that_mean_something_else_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "plain.mp4", count=3)
    long = "x" * 246 + ".mp4"
    for source, target in (
        ("12:30.mp4", "part1:x.mp4"),
        ("per%05d.mp4", "a%03d.mkv"),
        ("plain.mp4", long),
        ("plain.mp4", "b:c.gif"),
    ):
        if source != "plain.mp4":
            shutil.copy("plain.mp4", source)
        copy(source, target)
        assert os.path.isfile(target)


@pytest.mark.parametrize("name", ["mask.webp", "mask.gif", "mask.png"])
def test_a_still_picture_is_the_mask_of_all_frames(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=3)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, :48] = 255
    Image.fromarray(mask).convert("RGB").save(tmp_path / name)
    with VideoSource(clip) as source, VideoMask(tmp_path / name, source.info) as masks:
        frames = list(masks.confine(source))
    assert [frame.pixels.shape[2] for frame in frames if isinstance(frame, Frame)] == [4, 4, 4]


@pytest.mark.parametrize("flags", ["faststart", "empty_moov", ""])
def test_an_mp4_on_standard_input(tmp_path: Path, flags: str) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=5, muxer={"movflags": flags} if flags else {})
    command = [sys.executable, "-c", PIPED, "-", str(tmp_path / "out.mp4")]
    with subprocess.Popen(["cat", str(clip)], stdout=subprocess.PIPE) as feeder:
        subprocess.run(command, stdin=feeder.stdout, check=True)
    assert len(times_of(tmp_path / "out.mp4")) == 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_named_pipes(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", count=5)
    for name in ("pipe", "back"):
        os.mkfifo(tmp_path / name)
    taken: list[bytes] = []
    feeder = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(clip.read_bytes()))
    reader = threading.Thread(target=lambda: taken.append((tmp_path / "back").read_bytes()))
    feeder.start()
    reader.start()
    copy(tmp_path / "pipe", tmp_path / "back")
    feeder.join()
    reader.join()
    (tmp_path / "out.mkv").write_bytes(taken[0])
    assert len(times_of(tmp_path / "out.mkv")) == 5


def test_standard_streams_that_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=2)
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(MediaError, match="Standard input is closed"):
        open_source("-")
    with pytest.raises(MediaError, match="Standard output is closed"):
        open_sink("-", like=VideoSource(clip).info)


def test_names_of_the_standard_streams() -> None:
    assert plan_videos(["-", "-"], None, "zebra") == [("-", "-")]
    assert plan_videos(["/dev/stdin", "/dev/stdout"], None, "zebra") == [("-", "-")]
    assert plan_videos(["a.mp4"], "/dev/stdout", "zebra") == [("a.mp4", "-")]


# Resuming


def test_pieces_do_not_depend_on_sound(tmp_path: Path) -> None:
    source = VideoSource(make_clip(tmp_path / "in.mp4", sounds=[Sound()]))
    settings: dict[str, Any] = {"like": source.info, "resume": "a", "segment_frames": 8}
    with pytest.raises(KeyError), VideoSink(tmp_path / "out.mp4", **settings) as sink:
        for frame in source:
            sink.write(frame)
        raise KeyError
    with VideoSink(tmp_path / "out.mp4", **settings, audio=False) as sink:
        assert sink.resumed == 24
    assert packets_of(tmp_path / "out.mp4", "audio") == []
