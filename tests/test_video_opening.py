"""Other things than video files as sources and sinks, and the choice among them by name."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from clips import HEIGHT, PIPED, WIDTH, Sound, make_clip, packets_of, picture, times_of
from PIL import Image

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.frames import Frame
from cgpipe.media.video import Sink, VideoSink, VideoSource, open_sink, open_source

VARIED = [0, 40, 100, 120, 300]


def copy(source: Path | str, target: Path | str, *, resume: str | None = None, **options: Any) -> Sink:
    with open_source(source, **options) as clip, open_sink(target, like=clip.info, resume=resume) as sink:
        for frame in clip.frames(first=sink.resumed):
            assert isinstance(frame, Frame)
            sink.write(frame)
    return sink


def write_pictures(folder: Path, numbers: range, pattern: str = "%04d.png") -> Path:
    folder.mkdir()
    for number in numbers:
        cv2.imwrite(str(folder / (pattern % number)), picture(number)[..., ::-1])
    return folder


# Pictures


@pytest.mark.parametrize("pattern", ["", "%04d.png", "%d.jpg"])
def test_pictures_to_a_video_and_back(tmp_path: Path, pattern: str) -> None:
    folder = write_pictures(tmp_path / "in", range(8, 13), pattern or "%04d.png")
    copy(folder / pattern, tmp_path / "out.mp4", fps=10)
    assert times_of(tmp_path / "out.mp4") == [Fraction(index, 10) for index in range(5)]
    copy(tmp_path / "out.mp4", tmp_path / "frames/%03d.png")
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == ["001.png", "002.png", "003.png", "004.png", "005.png"]
    back = cv2.imread(str(tmp_path / "frames/003.png"))[..., ::-1]
    assert np.abs(back.astype(int) - picture(10)).mean() < 3


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", range(8, 12), "frame %d.png")
    frames = list(open_source(folder, fps=5))
    assert all((frame.pixels == picture(8 + index)).all() for index, frame in enumerate(frames))
    assert [frame.origin.index for frame in open_source(folder, fps=5, start=0.4)] == [0, 1]


def test_missing_and_broken_pictures_are_filled(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", range(6))
    (folder / "0000.png").write_bytes(b"nothing")
    (folder / "0003.png").unlink()
    source = open_source(folder / "%04d.png", fps=5)
    frames = list(source)
    assert [frame.origin.filled for frame in frames] == [True, False, False, True, False, False]
    assert (frames[0].pixels == picture(1)).all()
    assert (frames[3].pixels == picture(2)).all()
    assert (source.damage.bad_packets, source.damage.filled) == (1, 2)


def test_pictures_of_other_sizes_and_depths_are_made_alike(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", range(2))
    cv2.imwrite(str(folder / "0002.png"), np.full((20, 30, 3), 300, np.uint16))
    frames = list(open_source(folder, fps=5))
    assert {(frame.pixels.shape, frame.pixels.dtype.name) for frame in frames} == {((HEIGHT, WIDTH, 3), "uint8")}


def transparent(index: int) -> np.ndarray:
    """RGBA: as :func:`picture`, transparent to the left from the second on."""
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, : 8 * index] = 0
    return np.dstack([picture(index), alpha])


@pytest.mark.parametrize("name", ["out.webm", "frames/%04d.png"])
def test_pictures_keep_their_transparency(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    for index in range(4):
        Image.fromarray(transparent(index)).save(tmp_path / "in" / f"{index}.png")
    source = open_source(tmp_path / "in", fps=10)
    assert source.info.alpha
    copy(tmp_path / "in", tmp_path / name, fps=10)
    made = list(open_source(tmp_path / name, fps=None if name == "out.webm" else 10))
    alphas = [frame.origin.alpha for frame in made]
    assert all(np.abs(alphas[index].astype(int) - transparent(index)[..., 3]).mean() < 4 for index in range(4))


def test_pictures_with_an_alpha_that_is_opaque_are_opaque(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(2):
        Image.fromarray(transparent(0)).save(tmp_path / "in" / f"{index}.png")
    assert not open_source(tmp_path / "in", fps=10).info.alpha


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif"])
def test_an_animation_that_begins_opaque_keeps_its_transparency(tmp_path: Path, name: str) -> None:
    first, *others = (Image.fromarray(transparent(index)) for index in range(3))
    first.save(tmp_path / name, save_all=True, append_images=others, duration=100, lossless=True, disposal=2)
    source = open_source(tmp_path / name)
    assert source.info.alpha
    last = list(source)[-1].origin.alpha
    assert last is not None and (last[:, :14] == 0).all() and (last[:, 18:] == 255).all()


def test_pictures_need_a_rate(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fps"):
        open_source(write_pictures(tmp_path / "in", range(2)))


@pytest.mark.parametrize(
    ("spec", "reason"), [("none/%d.png", "no folder"), ("in/%d.jpg", "no pictures"), ("in", "no pict")]
)
def test_no_pictures(tmp_path: Path, spec: str, reason: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError if reason == "no folder" else MediaError, match=reason):
        open_source(tmp_path / spec, fps=5)


def test_a_sequence_goes_on_after_an_interrupt(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=9)
    out = tmp_path / "frames"
    with VideoSource(clip) as source:
        with pytest.raises(KeyError), open_sink(f"{out}/", like=source.info, resume="a") as sink:
            for frame in list(source)[:4]:
                sink.write(frame)
            raise KeyError
        before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert copy(clip, f"{out}/", resume="a").frames == 9
    assert all(path.stat().st_mtime_ns == moment for path, moment in before.items())
    assert sorted(path.name for path in out.iterdir()) == [f"{number:06d}.png" for number in range(1, 10)]


def test_a_sequence_begins_anew_with_other_options(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=4)
    info = VideoSource(clip).info
    with pytest.raises(KeyError), open_sink(tmp_path / "frames/%d.png", like=info, resume="a") as sink:
        sink.write(next(iter(VideoSource(clip))))
        raise KeyError
    sink = copy(clip, tmp_path / "frames/%d.png", resume="b")
    assert (sink.resumed, sink.frames) == (0, 4)


def test_what_an_interrupted_sequence_left_says_nothing_about_pictures_of_other_names(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=4)
    folder = write_pictures(tmp_path / "frames", range(1, 3), "mine %d.png")
    info = VideoSource(clip).info
    with pytest.raises(KeyError), open_sink(folder / "shot %d.png", like=info, resume="a") as sink:
        sink.write(next(iter(VideoSource(clip))))
        raise KeyError
    with pytest.raises(MediaError, match="already"):
        copy(clip, folder / "mine %d.png", resume="a")
    assert {path.name for path in folder.glob("mine*")} == {"mine 1.png", "mine 2.png"}
    assert copy(clip, folder / "shot %d.png", resume="a").resumed == 1


def test_a_sequence_does_not_mix_with_another(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=3)
    folder = write_pictures(tmp_path / "frames", range(1, 9), "%06d.png")
    with pytest.raises(MediaError, match="already"):
        copy(clip, folder)
    with VideoSource(clip) as source, open_sink(folder, like=source.info, overwrite=True) as sink:
        for frame in source:
            sink.write(frame)
    assert len(list(folder.iterdir())) == 3


def test_ten_bits_become_sixteen_in_png(tmp_path: Path) -> None:
    copy(make_clip(tmp_path / "in.mp4", pix_fmt="yuv420p10le", count=2), tmp_path / "frames/")
    assert cv2.imread(str(tmp_path / "frames/000001.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16


# Animations


@pytest.mark.parametrize("name", ["out.gif", "out.webp"])
def test_animations_there_and_back(tmp_path: Path, name: str) -> None:
    clip = make_clip(
        tmp_path / "in.mp4", pts=VARIED, time_base=Fraction(1, 1000), sounds=[Sound()], size=(97, 65), pix_fmt="yuv444p"
    )
    sink = copy(clip, tmp_path / name)
    assert [stream.kept for stream in sink.streams] == [True, False]
    frames = list(open_source(tmp_path / name))
    assert [frame.origin.time for frame in frames] == [Fraction(pts, 1000) for pts in VARIED]
    assert frames[2].pixels.shape == (65, 97, 3)
    assert np.abs(frames[2].pixels.astype(int) - picture(2, 97, 65)).mean() < 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", name]


def test_gif_leaves_out_what_is_too_fast_for_it(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", pts=range(0, 200, 10), time_base=Fraction(1, 1000))
    sink = copy(clip, tmp_path / "out.gif")
    assert times_of(tmp_path / "out.gif") == [Fraction(index, 50) for index in range(10)]
    assert "10 were dropped" in sink.notices[0]


def test_a_part_of_an_animated_webp(tmp_path: Path) -> None:
    copy(make_clip(tmp_path / "in.mp4", pts=VARIED, time_base=Fraction(1, 1000)), tmp_path / "out.webp")
    cut = list(open_source(tmp_path / "out.webp", start=0.05, end=0.2))
    assert [frame.origin.pts for frame in cut] == [100, 120]
    with pytest.raises(UsageError, match="--fps"):
        open_source(tmp_path / "out.webp", fps=5)


def test_an_animation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with VideoSource(make_clip(tmp_path / "in.mp4", count=3)) as source:
        for name in ("out.gif", "out.webp"):
            with pytest.raises(KeyError), open_sink(tmp_path / name, like=source.info) as sink:
                sink.write(next(iter(source)))
                raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


# Standard input and output


def test_a_file_to_standard_output_with_its_sound(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", sounds=[Sound(), Sound(language="deu")], subtitles={"subrip": ["one", "two"]})
    piped = subprocess.run([sys.executable, "-c", PIPED, str(clip), "-"], stdout=subprocess.PIPE, check=True)
    (tmp_path / "out.mkv").write_bytes(piped.stdout)
    assert times_of(tmp_path / "out.mkv") == times_of(clip)
    assert packets_of(tmp_path / "out.mkv", "audio") == packets_of(clip, "audio")
    assert packets_of(tmp_path / "out.mkv", "subtitle") == packets_of(clip, "subtitle")


def test_standard_input_to_a_file(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.ts", time_base=Fraction(1, 90000), pts=range(0, 90000, 3600))
    command = [sys.executable, "-c", PIPED, "-", str(tmp_path / "out.mp4")]
    with subprocess.Popen(["cat", str(clip)], stdout=subprocess.PIPE) as feeder:
        subprocess.run(command, stdin=feeder.stdout, check=True)
    assert times_of(tmp_path / "out.mp4") == [Fraction(index, 25) for index in range(25)]


def test_a_reader_that_goes_away_is_an_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        VideoSource(make_clip(tmp_path / "in.mp4", count=5)) as source,
        os.fdopen(writer, "wb", buffering=0) as gone,
        pytest.raises(MediaError, match="reader of the pipe"),
    ):
        from cgpipe.media.video.stream_sink import StreamSink

        with StreamSink(gone, like=source.info) as sink:
            for frame in source:
                sink.write(frame)


def test_pictures_of_a_clip_with_oblong_pixels_keep_its_size_and_say_so(tmp_path: Path) -> None:
    sink = copy(make_clip(tmp_path / "in.mp4", aspect=Fraction(4, 3), count=2), tmp_path / "out" / "%03d.png")
    assert "4:3" in sink.notices[0]
    assert cv2.imread(str(tmp_path / "out" / "001.png")).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", ["out.gif", "out.webp", "out.apng"])
def test_animations_are_shown_with_square_pixels(tmp_path: Path, name: str) -> None:
    sink = copy(make_clip(tmp_path / "in.mp4", aspect=Fraction(4, 3), count=2), tmp_path / name)
    assert "stretched" in sink.notices[0]
    with Image.open(tmp_path / name) as made:
        assert made.size == (128, HEIGHT)


def test_two_that_write_one_animation_do_not_meet(tmp_path: Path) -> None:
    from cgpipe.media.video.stream_sink import StreamSink

    with VideoSource(make_clip(tmp_path / "in.mp4", count=5)) as source:
        frames = list(source)
        first, second = (StreamSink(tmp_path / "out.gif", like=source.info) for _ in range(2))
        for frame in frames:
            first.write(frame)
        second.write(frames[0])
        first.finish()
        whole = (tmp_path / "out.gif").read_bytes()
        second.write(frames[1])
        assert (tmp_path / "out.gif").read_bytes() == whole
        second.abort()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.gif"]
    assert len(times_of(tmp_path / "out.gif")) == 5


# The rest


def test_a_camera(tmp_path: Path) -> None:
    """OpenCV opens a file as it opens a device."""
    clip = make_clip(tmp_path / "in.mp4", count=5)
    with open_source(f"camera:{clip}") as source:
        frames = list(source)
    times = [frame.origin.pts for frame in frames]
    assert times == sorted(set(times))
    assert (source.info.width, source.info.height) == (WIDTH, HEIGHT)
    assert np.abs(frames[0].pixels.astype(int) - picture(1)).mean() < 4
    with pytest.raises(MediaError, match="no such camera"):
        open_source("camera:/none")


def test_duration_is_counted_from_the_start(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=50)
    assert len(list(open_source(clip, start=0.4, duration=0.4))) == 10
    assert len(list(open_source(clip, end=1, duration=0.2))) == 5


def test_an_address_that_does_not_answer() -> None:
    with pytest.raises(MediaError, match="cannot be read"):
        open_source("http://127.0.0.1:1/clip.mp4")


def test_names_choose_the_sink(tmp_path: Path) -> None:
    with VideoSource(make_clip(tmp_path / "in.mp4", count=2)) as source:
        sink = open_sink(tmp_path / "out.mp4", like=source.info)
        assert isinstance(sink, VideoSink)
        sink.abort()
        for name in ("out.txt", "frames/%d.txt"):
            with pytest.raises(UsageError, match="not a valid name"):
                open_sink(tmp_path / name, like=source.info)
        with pytest.raises(UsageError, match="omit --"):
            open_sink(tmp_path / "%d.png", like=source.info, crf=10)
        with pytest.raises(UsageError, match="several numbers"):
            open_sink(tmp_path / "%d of %d.png", like=source.info)
