"""Sound and text that another container takes only in another form."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import Sound, make_clip
from test_video_sink import copy

from cgpipe.media.video.copiers import PACKED, TEXT_OF

Cue = tuple[float, float, str]


def subtitled(path: Path, *cues: Cue) -> Path:
    """A clip of two seconds with SubRip's cues: begin and end in seconds, and a text."""
    plain = make_clip(path.with_name("plain.mkv"), count=50, codec="ffv1")
    with av.open(str(plain)) as source, av.open(str(path), "w") as container:
        video = container.add_stream_from_template(source.streams.video[0])
        text = container.add_mux_stream("subrip")
        text.time_base = Fraction(1, 1000)
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for packet in packets:
            packet.stream = video
        for begin, end, line in cues:
            cue = av.Packet(line.encode())
            cue.stream, cue.time_base, cue.is_keyframe = text, Fraction(1, 1000), True
            cue.pts = cue.dts = round(begin * 1000)
            cue.duration = round((end - begin) * 1000)
            packets.append(cue)
        for packet in sorted(packets, key=lambda packet: packet.pts * packet.time_base):
            container.mux(packet)
    return path


def cues_of(path: Path) -> list[Cue]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.subtitles[0]) if packet.size]
    text_of = TEXT_OF["mov_text" if path.suffix == ".mp4" else "webvtt"]
    times = [(p.pts * p.time_base, (p.pts + p.duration) * p.time_base, text_of(bytes(p))) for p in packets]
    return [(round(float(begin), 3), round(float(end), 3), text) for begin, end, text in times if text]


OVERLAPPING: list[Cue] = [(0.1, 0.9, "one"), (0.4, 1.2, "two"), (0.4, 0.6, "three"), (1.3, 1.6, "four")]


def test_cues_that_overlap_are_shown_together_in_mp4(tmp_path: Path) -> None:
    copy(subtitled(tmp_path / "in.mkv", *OVERLAPPING), tmp_path / "out.mp4")
    assert cues_of(tmp_path / "out.mp4") == [
        (0.1, 0.4, "one"),
        (0.4, 0.6, "one\ntwo\nthree"),
        (0.6, 0.9, "one\ntwo"),
        (0.9, 1.2, "two"),
        (1.3, 1.6, "four"),
    ]


def test_cues_that_overlap_stay_as_they_are_in_webm(tmp_path: Path) -> None:
    copy(subtitled(tmp_path / "in.mkv", *OVERLAPPING), tmp_path / "out.webm")
    assert cues_of(tmp_path / "out.webm") == OVERLAPPING


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("subrip", r"{\an8}<i>up</i> a < b & c", "up a < b & c"),
        ("webvtt", "<v Ada>a &lt; b &amp; c</v>", "a < b & c"),
        ("ass", r"0,0,Default,,0,0,0,,{\an8}one\Ntwo, three", "one\ntwo, three"),
        ("ass", r"0,0,Default,,0,0,0,,{\p1}m 0 0 l 100 0 100 100{\p0}text", "text"),
        ("ass", r"0,0,Default,,0,0,0,,{\pos(1,2)\p4}m 0 0 l 1 1", ""),
    ],
)
def test_the_text_of_a_cue_is_what_a_viewer_reads(kind: str, data: str, text: str) -> None:
    assert TEXT_OF[kind](data.encode()) == text
    assert TEXT_OF["webvtt"](PACKED["webvtt"](text)) == text


def surround(path: Path, layout: str, pitches: list[int]) -> Path:
    """A clip of a second whose channels each have a pitch in Hz."""
    plain = make_clip(path.with_name("plain.mkv"), count=25)
    with av.open(str(plain)) as source, av.open(str(path), "w") as container:
        video = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream("flac", rate=48000)
        sound.codec_context.layout = layout
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
        waves = [np.sin(2 * np.pi * pitch * np.arange(48000) / 48000) for pitch in pitches]
        samples = (np.stack(waves, -1).reshape(1, -1) * 9000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate, frame.pts = 48000, 0
        container.mux([*sound.encode(frame), *sound.encode(None)])
    return path


@pytest.mark.parametrize(("layout", "as_opus"), [("5.1(side)", "5.1"), ("quad", "quad"), ("stereo", "stereo")])
def test_every_channel_finds_its_place_in_opus(tmp_path: Path, layout: str, as_opus: str) -> None:
    pitches = [300 * (1 + index) for index in range(av.AudioLayout(layout).nb_channels)]
    if as_opus == "5.1":
        pitches[3] = 60  # deep tones
    sink = copy(surround(tmp_path / "in.mkv", layout, pitches), tmp_path / "out.webm")
    assert [stream.how for stream in sink.streams] == ["translated", "encoded as libopus"]
    with av.open(str(tmp_path / "out.webm")) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].layout.name == as_opus
    heard = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)[:, 6000:42000]
    assert len(heard) == len(pitches)
    found = [np.abs(np.fft.rfft(channel)).argmax() * 48000 / heard.shape[1] for channel in heard]
    assert found == pytest.approx(pitches, abs=3)


def test_sound_that_changes_its_channels_goes_on(tmp_path: Path) -> None:
    """As recordings of broadcasts do."""
    parts = [
        make_clip(tmp_path / f"{channels}.ts", count=25, sounds=[Sound("mp2", channels=channels)])
        for channels in (2, 1)
    ]
    both = tmp_path / "in.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    sink = copy(both, tmp_path / "out.webm")
    assert [stream.how for stream in sink.streams] == ["translated", "encoded as libopus"]
    with av.open(str(tmp_path / "out.webm")) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples / 48000 == pytest.approx(2, abs=0.15)


def test_sound_of_an_unknown_codec_is_dropped_with_a_word(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mov", count=3, sounds=[Sound()])
    clip.write_bytes(clip.read_bytes().replace(b"mp4a", b"apac").replace(b"esds", b"none"))
    sink = copy(clip, tmp_path / "out.mp4")
    assert [stream.how for stream in sink.streams if not stream.kept] == ["its codec is unknown"]


def test_a_cover_survives_beside_a_tag_that_is_no_text(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=3, cover=True, metadata={"title": "horses"})
    clip.write_bytes(clip.read_bytes().replace(b"horses", b"hor\xffes"))
    copy(clip, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv"), metadata_errors="replace") as container:
        assert any(stream.disposition & av.stream.Disposition.attached_pic for stream in container.streams)


def test_the_timecode_of_a_file_goes_on_with_a_cut(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", count=50, metadata={"timecode": "01:00:00:00"})
    copy(clip, tmp_path / "out.mkv", start=1)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert {key.lower(): value for key, value in container.metadata.items()}["timecode"] == "01:00:01:00"
