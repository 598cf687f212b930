"""The service: a real client, a real process, real files."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from clips import make_clip
from PIL import Image

from cgpipe.cli import cli
from cgpipe.cli.options import PictureFormat
from cgpipe.jobs.video_plan import WRITTEN_SUFFIXES
from cgpipe.media.pictures.formats import PICTURE_SUFFIXES
from cgpipe.media.video.encoding import ANIMATIONS, CONTAINERS, suffix_of
from cgpipe.models import ModelCard, save_model
from cgpipe.models.model_file import Model
from cgpipe.networks import build_generator

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("multipart", reason="needs the extra serve")
httpx = pytest.importorskip("httpx")

from cgpipe.errors import MediaError, ModelNotFoundError, UsageError  # noqa: E402
from cgpipe.service import guard, picture_answers, video_worker  # noqa: E402
from cgpipe.service.app import open_app  # noqa: E402
from cgpipe.service.containers import is_container  # noqa: E402
from cgpipe.service.forms import AskedPicture, AskedVideo  # noqa: E402
from cgpipe.service.guard import Guard, OwnOnly, Places  # noqa: E402
from cgpipe.service.limits import Limits  # noqa: E402
from cgpipe.service.spool import open_spool  # noqa: E402
from cgpipe.service.videos import KEPT, VideoQueue, VideoTask  # noqa: E402

LIMITS = ("--upload-limit", "1", "--pixel-limit", "1", "--queue", "8", "--video-limit", "1")


class Service:
    """``cgpipe serve`` in a process of its own, on a free port, with a tiny model that answers to ``zebra``."""

    def __init__(self, folder: Path, *options: str) -> None:
        models = folder / "models"
        models.mkdir(parents=True)
        settings = {"channels": 16, "blocks": 1, "norm": "instance"}
        known = {"training_size": 256, "made_by": {}, "quality": {}, "licence": "Apache-2.0"}
        card = ModelCard(architecture="compact-flat", settings=settings, source="horse", target="zebra", **known)
        save_model(models / "tiny.safetensors", Model(card, build_generator("compact-flat", **settings)))
        own = {"CGPIPE_MODELS": str(models), "XDG_CACHE_HOME": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
        self.environment = os.environ | own | {"OMP_NUM_THREADS": "1"}
        self.spools = folder / "cache" / "cgpipe" / "service"
        command = [sys.executable, "-m", "cgpipe", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment)
        assert self.process.stdout
        self.url = self.process.stdout.readline().split()[2]
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def translate(self, content: bytes, name: str = "a.jpg", **asked: Any) -> Any:
        return self.client.post("/translate", params={"to": "zebra"} | asked, files={"picture": (name, content)})

    def command(self, *arguments: object) -> None:
        """Runs a command with the service's models."""
        result = CliRunner().invoke(cli, [*map(str, arguments)], env=self.environment)
        assert result.exit_code == 0, result.output

    def left(self) -> list[Path]:
        """What lies in its spool."""
        # Not glob, which fails where a folder goes while it is looked through.
        return [Path(at, name) for at, _, names in os.walk(self.spools) if Path(at) != self.spools for name in names]

    def memory(self) -> int:
        """Kibibytes that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+)", status)[1])  # type: ignore[index]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.close()
        return self.process.wait(30)

    def close(self) -> None:
        self.client.close()
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service"), *LIMITS)
    yield service
    assert service.end() == 128 + signal.SIGTERM
    assert list(service.spools.iterdir()) == []


def encoded(format: str = "jpeg", size: tuple[int, int] = (40, 30), seed: int = 0, **more: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(cv2.blur(pixels, (5, 5))).save(buffer, format, **more)
    return buffer.getvalue()


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- pictures ------------------------------------------------------------------------------------------------------


def test_an_answer_is_the_file_that_the_command_writes(service: Service, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(exif=Image.Exif()))
    cv2.imwrite(str(tmp_path / "b.png"), np.arange(40 * 30 * 3, dtype=np.uint16).reshape(30, 40, 3) * 17)
    asked = {"strength": 0.5, "size": 32}
    options = ["--to", "zebra", "--strength", "0.5", "--size", "32"]
    service.command("translate", tmp_path / "a.jpg", tmp_path / "b.png", "-o", tmp_path / "plain", *options)
    other = ["--to", "zebra", "--format", "webp", "--quality", "50"]
    service.command("translate", tmp_path / "a.jpg", "-o", tmp_path / "webp", *other)
    for name, type in (("a.jpg", "image/jpeg"), ("b.png", "image/png")):
        answer = service.translate((tmp_path / name).read_bytes(), name, **asked)
        assert (answer.status_code, answer.headers["content-type"]) == (200, type)
        assert answer.content == (tmp_path / "plain" / name).read_bytes()
    answer = service.translate((tmp_path / "a.jpg").read_bytes(), "no suffix", format="webp", quality=50)
    assert answer.content == (tmp_path / "webp" / "a.webp").read_bytes()
    assert re.match(r"queue;dur=[\d.]+, work;dur=[\d.]+, decode;dur", answer.headers["server-timing"])
    until(lambda: service.left() == [])


def test_a_mask_confines_the_change(service: Service) -> None:
    mask = encoded("png", seed=1)
    black = BytesIO()
    Image.new("L", (40, 30)).save(black, "PNG")
    original = encoded("png")
    answers = [
        service.client.post("/translate", files={"picture": ("a.png", original), "mask": ("m.png", content)})
        for content in (black.getvalue(), mask, b"no mask")
    ]
    kept, changed = (np.asarray(Image.open(BytesIO(answer.content))) for answer in answers[:2])
    assert np.array_equal(kept, np.asarray(Image.open(BytesIO(original))))
    assert not np.array_equal(changed, kept)
    assert answers[2].status_code == 422
    until(lambda: service.left() == [])


def test_what_can_be_asked_for_is_described(service: Service) -> None:
    assert service.client.get("/health").json()["status"] == "ok"
    models = {model["name"]: model for model in service.client.get("/models").json()}
    assert models["tiny"] | {"description": ""} == {
        **{"name": "tiny", "from": "horse", "to": "zebra", "description": "", "licence": "Apache-2.0"},
        "default": False,
    }
    description = service.client.get("/openapi.json").json()
    assert {"/health", "/models", "/translate", "/video", "/video/{id}", "/video/{id}/result"} == set(
        description["paths"]
    )
    asked = {parameter["name"] for parameter in description["paths"]["/translate"]["post"]["parameters"]}
    assert asked == {"to", "from", "model", "size", "strength", "format", "quality"}
    assert service.client.get("/docs").status_code == 404  # it would load scripts from the network


def test_200_requests_at_once_are_all_answered_and_memory_stays(service: Service) -> None:
    """Eight have a place, the others are told to come back, and do."""
    content = encoded()
    expected = service.translate(content).content

    def ask(_: int) -> tuple[int, int]:
        for tries in range(1000):
            answer = service.translate(content)
            if answer.status_code != 429:
                assert answer.content == expected
                return tries, int(re.search(r'desc="(\d+)"', answer.headers["server-timing"])[1])  # type: ignore[index]
            assert int(answer.headers["retry-after"]) >= 1
            time.sleep(0.2)
        raise AssertionError

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(ask, range(50)))
        before = service.memory()
        found = list(clients.map(ask, range(200)))
    assert len(found) == 200
    assert any(tries for tries, _ in found), "the queue was never full"
    assert any(together > 1 for _, together in found), "no batch was shared"
    assert service.memory() < before + 20_000
    until(lambda: service.left() == [])


def test_a_request_takes_milliseconds_beyond_the_network(service: Service) -> None:
    """Upload, queue, decoding, encoding and download of a small picture; the least of several, on a busy machine."""
    content, beyond = encoded(), []
    for _ in range(12):
        began = time.perf_counter()
        answer = service.translate(content)
        took = 1000 * (time.perf_counter() - began)
        stages = {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])}
        beyond.append(took - (stages["work"] - stages["decode"] - stages["encode"]))
    print("ms beyond the network:", [round(ms, 1) for ms in sorted(beyond)])
    assert min(beyond) < 40  # 80 and more, when each part waited for an acknowledgement of TCP


# --- what is no good -----------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    return struct.pack(">I", size) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def moving() -> bytes:
    frames = [Image.new("RGB", (20, 20), (shade, 0, 0)) for shade in range(0, 200, 50)]
    buffer = BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


HOSTILE: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 422),
    "text": (b"I am no picture.", 422),
    "a program": (b"\x7fELF" + bytes(500), 422),
    "cut short": (encoded()[:400], 422),
    "a bomb of pixels": (png(60_000, 60_000, chunk(b"IDAT", zlib.compress(bytes(1000)))), 422),
    "a bomb of text": (png(30, 30, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))] * 10), 422),
    "a chunk that claims gigabytes": (png(30, 30, chunk(b"IDAT", b"abc", 0x7FFF_FFF0)), 422),
    "more pixels than the limit": (encoded(size=(1200, 900)), 422),
    "an animation": (moving(), 422),
    "a format that is not read": (b"8BPS" + bytes(300), 415),
    "more bytes than the limit": (bytes(2 << 20), 413),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_cannot_be_translated_is_refused_in_words(service: Service, kind: str) -> None:
    content, status = HOSTILE[kind]
    for name in ("a.png", "../../../etc/passwd.png", "/etc/cron.d/a.sh", "a\0b.jpg", "x" * 300, "a.jpg/../../b"):
        answer = service.translate(content, name)
        assert answer.status_code == status, answer.text
        reason = answer.json()["detail"]
        assert isinstance(reason, str)
        assert "/tmp" not in reason and str(service.spools) not in reason and "Traceback" not in reason
    until(lambda: service.left() == [])
    assert service.translate(encoded()).status_code == 200


def test_a_name_decides_nothing_but_the_suffix(service: Service) -> None:
    expected = service.translate(encoded()).content
    for name in ("../../../tmp/evil.jpg", "C:\\evil.jpg", "~/.ssh/a.jpg", "-rf.jpg", "a.jpg\r\nX-Evil: 1"):
        answer = service.translate(encoded(), name)
        assert (answer.status_code, answer.content) == (200, expected)
        assert "evil" not in str(answer.headers).lower()


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.txt", "a"])
def test_a_picture_is_one_whatever_its_name(service: Service, name: str) -> None:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("inside.png", encoded("png", seed=1))
    both = encoded() + archive.getvalue()  # a picture to one reader, an archive to another
    files = {"picture": (name, both), "mask": (name, encoded("png"))}
    answer = service.client.post("/translate", params={"to": "zebra"}, files=files)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"model": "/etc/passwd"}, 404),
        ({"model": "hf://someone/something"}, 404),
        ({"model": "../tiny"}, 404),
        ({"to": "giraffe"}, 404),
        ({"mask": "/etc/passwd"}, 422),
        ({"output": "/tmp/a.jpg"}, 422),
        ({"size": "0"}, 422),
        ({"strength": "nan"}, 422),
        ({"quality": "101"}, 422),
        ({"format": "exe"}, 422),
    ],
)
def test_what_cannot_be_asked_for_is_refused(service: Service, asked: dict[str, str], status: int) -> None:
    answer = service.translate(encoded(), **asked)
    assert answer.status_code == status
    assert str(service.spools.parents[2]) not in answer.text


def test_what_would_be_ignored_is_refused(service: Service) -> None:
    picture = ("picture", ("a.jpg", encoded()))
    for path, files, data in (
        ("/translate?to=zebra", [picture], {"strength": "0.5"}),
        ("/translate?to=zebra", [picture, ("masks", ("m.png", encoded()))], {}),
        ("/translate?to=zebra", [picture, picture], {}),
        ("/translate?to=zebra&to=zebra", [picture], {}),
        ("/video?to=zebra", [("video", ("a.gif", moving()))], {"crf": "20"}),
        ("/video?to=zebra&codec=nosuch", [("video", ("a.gif", moving()))], {}),
        ("/video?to=zebra&start=1&end=0.5", [("video", ("a.gif", moving()))], {}),
    ):
        answer = service.client.post(path, files=files, data=data)
        assert answer.status_code == 422, (path, files, data)
    until(lambda: service.left() == [])


def test_a_format_may_be_spelt_as_files_are(service: Service) -> None:
    answer = service.translate(encoded(), "a.png", format=".JPEG")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")


def test_a_damaged_mask_is_told_from_a_damaged_picture(service: Service) -> None:
    files = {"picture": ("a.jpg", encoded()), "mask": ("m.png", b"no picture")}
    answer = service.client.post("/translate?to=zebra", files=files)
    assert (answer.status_code, answer.json()["detail"][:9]) == (422, "The mask:")


def test_an_upload_that_does_not_tell_its_size_ends_at_the_limit(service: Service) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\n'
        while sent < 500 << 20:
            sent += 1 << 16
            yield bytes(1 << 16)

    try:
        answer = service.client.post(
            "/translate", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
        assert answer.status_code == 413
    except httpx.TransportError:  # it was cut off before it listened
        pass
    assert sent < 50 << 20
    until(lambda: service.left() == [])


def test_a_picture_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    class Waiting:
        async def is_disconnected(self) -> bool:
            return False

    monkeypatch.setattr(picture_answers, "LOOK_AROUND_SECONDS", 0.01)
    answer: Future[Any] = Future()
    with pytest.raises(guard.HTTPException, match="took too long") as caught:
        asyncio.run(asyncio.wait_for(picture_answers._answer(Waiting(), answer, 0.02), 10))  # type: ignore[arg-type]
    assert caught.value.status_code == 503 and answer.cancelled()


# --- videos --------------------------------------------------------------------------------------------------------


def test_a_video_is_a_job_whose_result_is_the_file_that_the_command_writes(service: Service, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mov", count=12)
    service.command("video", clip, tmp_path / "out.mov", "--to", "zebra", "--crf", "30")
    with clip.open("rb") as file:
        taken = service.client.post("/video", params={"to": "zebra", "crf": 30}, files={"video": ("a.mov", file)})
    assert taken.status_code == 202
    place = taken.headers["location"]
    until(lambda: service.client.get(place).json()["state"] not in ("queued", "running"))
    told = service.client.get(place).json()
    assert (told["state"], told["frames"], told["total"], told["report"]["frames"]) == ("done", 12, 12, 12)
    assert str(service.spools) not in json.dumps(told)
    result = service.client.get(f"{place}/result")
    assert result.headers["content-type"] == "video/quicktime"
    assert result.content == (tmp_path / "out.mov").read_bytes()
    until(lambda: [path.name for path in service.left() if not path.name.startswith(".")] == ["result.mov"])
    assert service.client.delete(place).status_code == 204
    assert service.client.get(place).status_code == service.client.delete(place).status_code == 404
    until(lambda: service.left() == [])


def test_a_video_that_cannot_be_translated_says_why(service: Service, tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "clip.mkv", count=12).read_bytes()
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    for content in (b"", b"no video", playlist, b"ffconcat version 1.0\nfile /etc/passwd\n", b"v=0\r\no=- 0 0 IN IP4"):
        assert service.client.post("/video", files={"video": ("a.mp4", content)}).status_code == 415
    place = service.client.post("/video", files={"video": ("a.mkv", whole[:200])}).headers["location"]
    assert service.client.get(f"{place}/result").status_code == 409
    until(lambda: service.client.get(place).json()["state"] == "failed")
    reason = service.client.get(place).json()["reason"]
    assert reason
    assert str(service.spools) not in reason
    service.client.delete(place)
    until(lambda: service.left() == [])


def test_containers_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mov", ".mkv", ".avi", ".ts", ".flv", ".mpg"):
        codec = "mpeg2video" if suffix == ".mpg" else "libx264"
        assert is_container(make_clip(tmp_path / f"a{suffix}", count=3, codec=codec).read_bytes()[:16]), suffix
    assert is_container(moving()[:16])
    assert not is_container(b"#EXTM3U\n" + bytes(8))


def job_for(clip: Path, folder: Path) -> VideoTask:
    folder.mkdir()
    (folder / "input.mp4").write_bytes(clip.read_bytes())
    return VideoTask(
        id=folder.name, folder=folder, input=folder / "input.mp4", output=folder / "out.mp4", options={"to": "zebra"}
    )


def test_a_video_is_cancelled_or_runs_out_of_time(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", count=12)
    queue = VideoQueue(Limits(video_seconds=0.2))
    slow, waits = (job_for(clip, tmp_path / name) for name in ("slow", "waits"))
    queue.submit(slow)
    queue.submit(waits)
    assert queue.open == 2
    assert queue.remove("waits")
    until(lambda: slow.state == "failed")
    assert slow.reason == "It took too long."
    assert slow._process and slow._process.wait(5) is not None
    assert not slow.input.exists()
    again = job_for(clip, tmp_path / "again")
    queue.submit(again)
    until(lambda: again._process is not None)
    queue.close()
    assert again.state == "cancelled"
    assert again._process and again._process.poll() is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4"]


def ended(folder: Path, seconds_ago: float) -> VideoTask:
    folder.mkdir()
    job = VideoTask(id=folder.name, folder=folder, input=folder / "in.mp4", output=folder / "out.mp4", options={})
    job.end("done")
    job.ended = time.monotonic() - seconds_ago
    return job


def test_finished_videos_are_kept_for_a_while_and_only_the_last_of_them(tmp_path: Path) -> None:
    queue = VideoQueue(Limits(keep_seconds=1000))
    for name, seconds_ago in (("old", 1001), ("new", 500)):
        queue.submit(ended(tmp_path / name, seconds_ago))
    queue.forget_old()
    assert queue.get("old") is None and queue.get("new")
    for number in range(KEPT):
        queue.submit(ended(tmp_path / str(number), 400 - number))
    queue.forget_old()
    assert KEPT == 32 and queue.get("new") is None and all(queue.get(str(number)) for number in range(KEPT))
    until(lambda: {path.name for path in tmp_path.iterdir()} == {str(number) for number in range(KEPT)})
    queue.close()


def test_frames_have_at_most_so_many_pixels(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", count=2, size=(64, 48))
    asked: dict[str, Any] = {"input": str(clip), "output": str(tmp_path / "out.mp4"), "options": {"model": "no such"}}
    with pytest.raises(MediaError, match="Its frames have more than"):
        video_worker._translate(pixels=64 * 48 - 1, **asked)
    with pytest.raises(ModelNotFoundError):  # so far it came
        video_worker._translate(pixels=64 * 48, **asked)


def test_videos_are_limited_in_size_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    async def answers(app: Any, *contents: bytes) -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            files = [{"video": ("a.mp4", content)} for content in contents]
            return [(await client.post("/video?to=zebra", files=some)).status_code for some in files]

    with open_spool(tmp_path) as spool, open_app(spool, Limits(video_bytes=1 << 20)) as app:
        assert asyncio.run(answers(app, bytes(1 << 20), bytes((1 << 20) + guard.FORM_BYTES))) == [415, 413]
        for count, answer in ((7, 415), (8, 429)):
            monkeypatch.setattr(VideoQueue, "open", count)
            assert asyncio.run(answers(app, b"no video")) == [answer]


# --- who may ask ---------------------------------------------------------------------------------------------------


async def _hello(scope: Any, receive: Any, send: Any) -> None:
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def guarded(path: str = "/models", *, token: str | None = None, host: str = "127.0.0.1:8000", **headers: Any) -> int:
    return asked_of(Guard(_hello, token=token, uploads={}), path, host, **headers)


def asked_of(app: Any, path: str, host: str, **headers: Any) -> int:
    import asyncio

    async def ask() -> int:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return int((await client.get(path, headers=headers)).status_code)

    with ThreadPoolExecutor(1) as apart:  # a browser of another test may have left its loop running here
        return apart.submit(lambda: asyncio.run(ask())).result()


def test_without_a_token_only_this_machine_and_its_pages_may_ask() -> None:
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000", "127.0.0.2"):
        assert guarded(host=host) == 200
    assert guarded(host="evil.example:8000") == 403  # a name that was made to point here
    assert guarded(origin="http://localhost:3000") == 200
    assert guarded(origin="https://evil.example") == guarded(origin="null") == 403


def test_the_app_in_the_browser_has_the_same_rule() -> None:
    app = OwnOnly(_hello)
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
        assert asked_of(app, "/", host) == 200
    assert (
        asked_of(app, "/", "evil.example:8000") == asked_of(app, "/", "localhost", origin="https://evil.example") == 403
    )


def test_with_a_token_whoever_knows_it_may_ask() -> None:
    token = "a token of sixteen characters"
    assert guarded(token=token) == guarded(token=token, authorization="Bearer no") == 401
    assert guarded(token=token, authorization=f"Bearer {token}x") == 401
    assert guarded(token=token, authorization="Bearer ü".encode()) == 401
    assert guarded(token=token, authorization=f"Bearer {token}", host="example.org") == 200
    assert guarded("/health", token=token) == 200


@pytest.mark.parametrize("seconds", [60, 0.02])
def test_an_upload_that_comes_too_slowly_is_cut_off(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Nothing comes at all, or a byte now and then."""
    import asyncio

    sent = 0
    monkeypatch.setattr(guard, "GRACE_SECONDS", 0.05)
    app = Guard(_hello, token=None, uploads={"/": Places(1, 100)})
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"localhost")]}

    async def drip() -> Any:
        nonlocal sent
        await asyncio.sleep(seconds)
        sent += 1
        return {"type": "http.request", "body": b"x", "more_body": sent < 50}

    async def drop(message: Any) -> None:
        pass

    with pytest.raises(guard.HTTPException) as caught:
        asyncio.run(app(scope, drip, drop))
    assert caught.value.status_code == 408


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "give a token"),
        (["--host", "::"], "give a token"),
        (["--host", "0.0.0.0", "--token", "short"], "at least 16 characters"),
        (["--host", "no.such.host.invalid"], "not an address of this machine"),
    ],
)
def test_an_address_that_others_reach_needs_a_token(options: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, ["serve", *options])
    assert result.exit_code == 2
    assert words in result.output


def test_a_port_that_is_taken_is_said(service: Service) -> None:
    result = CliRunner().invoke(cli, ["serve", "--port", service.url.rpartition(":")[2]])
    assert result.exit_code == 2
    assert "Cannot listen on" in result.output


def test_an_answer_does_not_wait_for_an_acknowledgement(service: Service) -> None:
    """Of the kernel's timer, 40 ms, that holds back what is written after a header."""
    times = []
    for _ in range(30):
        began = time.perf_counter()
        service.client.get("/health")
        times.append(time.perf_counter() - began)
    assert min(times) < 0.03


def test_formats_are_those_of_the_command() -> None:
    def texts(kind: object) -> set[str]:
        return {kind} if isinstance(kind, str) else {text for part in get_args(kind) for text in texts(part)}

    assert texts(AskedPicture.model_fields["format"].annotation) == set(PictureFormat().choices)
    assert {PICTURE_SUFFIXES[f".{name}"] for name in PictureFormat().choices} == set(PICTURE_SUFFIXES.values())
    assert {f".{name}" for name in texts(AskedVideo.model_fields["format"].annotation)} == WRITTEN_SUFFIXES
    assert {suffix_of(Path(f"clip{suffix}")) for suffix in WRITTEN_SUFFIXES} == {*CONTAINERS, *ANIMATIONS}


# --- the end -------------------------------------------------------------------------------------------------------


def test_what_a_killed_service_left_is_swept_by_the_next(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from cgpipe.service.spool import open_spool
with open_spool(Path(sys.argv[1])) as spool:
    (spool.new_folder() / "secret.jpg").write_bytes(b"a picture")
    print("there", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline()
    with open_spool(tmp_path) as spool:
        assert len(list(tmp_path.glob("*/*/secret.jpg"))) == 1, "one that is at work keeps its files"
    process.kill()
    process.wait()
    process.stdout.close()
    assert list(tmp_path.glob("*/*/secret.jpg"))
    with open_spool(tmp_path) as spool:
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == [spool.folder]
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_touched_for_long_is_removed_and_what_is_written_stays(tmp_path: Path) -> None:
    with open_spool(tmp_path) as spool:
        old, working = spool.new_folder(), spool.new_folder()
        for path in (old / "result.mp4", working / "result.mp4", spool.new(".png")):
            path.write_bytes(b"content")
        for path in (old / "result.mp4", old, working):
            os.utime(path, (0, 0))
        spool.remove_older(3600)
        assert not old.exists() and len(list(spool.folder.rglob("*.*"))) == 2
        os.utime(working / "result.mp4", (0, 0))
        os.utime(working, (0, 0))
        os.utime(next(spool.folder.glob("*.png")), (0, 0))
        spool.remove_older(3600)
        assert list(spool.folder.iterdir()) == []


def test_temporary_files_lie_in_the_spool_while_it_is_open(tmp_path: Path) -> None:
    before = tempfile.gettempdir()
    with open_spool(tmp_path / "spools") as spool:
        assert tempfile.gettempdir() == str(spool.folder)
    assert tempfile.gettempdir() == before


def test_a_spool_without_a_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UsageError, match="cannot be written"), open_spool(tmp_path / "file" / "x"):
        pass


@pytest.mark.slow
def test_the_end_finishes_pictures_cancels_videos_and_leaves_nothing(tmp_path: Path) -> None:
    service = Service(tmp_path / "service", "--token", "sixteen characters")
    service.client.headers["authorization"] = "Bearer sixteen characters"
    clip = make_clip(tmp_path / "clip.mp4", count=600)
    with clip.open("rb") as file:
        place = service.client.post("/video", files={"video": file}).headers["location"]
    until(lambda: service.client.get(place).json()["frames"] > 0)
    answers: list[int] = []
    large = encoded(size=(2000, 1500))
    asking = threading.Thread(target=lambda: answers.append(service.translate(large, size="full").status_code))
    asking.start()
    until(lambda: len(service.left()) > 3)
    time.sleep(0.3)
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    service.process.send_signal(signal.SIGINT)
    asking.join(30)
    assert answers == [200]
    assert service.process.wait(30) == 128 + signal.SIGINT
    service.close()
    assert list(service.spools.iterdir()) == []
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_answer_is_one_that_the_description_promises(service: Service) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    checks = pytest.importorskip("schemathesis.specs.openapi.checks")
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")

    quick = hypothesis.settings(
        max_examples=6, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    for operation in schema.get_all_operations():

        @quick
        @hypothesis.given(case=operation.ok().as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(excluded_checks=[checks.positive_data_acceptance])  # any bytes are no picture

        check()
