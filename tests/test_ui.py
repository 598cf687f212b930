"""The app in a real headless Chromium: one server and one browser for all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from chromium import Chromium, needs_chromium
from clips import make_clip
from PIL import Image
from shell import invoke

if find_spec("gradio") is None:  # not imported: that takes seconds of every process that collects tests
    pytest.skip("needs the extra ui", allow_module_level=True)
in_chromium = [pytest.mark.slow, needs_chromium]

TOKEN = "a password of the login"

SERVER = f"""
import sys, threading
from pathlib import Path
from cgpipe.cli import cli

def behind_a_login():
    sys.stdin.readline()
    from cgpipe.options import Hardware
    from cgpipe.service.limits import Limits
    from cgpipe.service.running import address_of, listen, serve
    from cgpipe.service.spool import Spool
    from cgpipe.service.ui import Studio, build_ui, mount
    spool, limits = Spool(Path(sys.argv[1])), Limits()
    with listen("127.0.0.1", 0) as listening:
        pages = build_ui(Studio(spool, limits, Hardware()), local=False)
        app = mount(pages, spool, limits, token={TOKEN!r})
        print(address_of(listening), flush=True)
        serve(app, listening)

threading.Thread(target=behind_a_login, daemon=True).start()
cli.main(["ui", "--no-open", "--port", "0"])
"""
"""The command, and once it listens, in the same process, an app behind a login: Gradio takes seconds to import."""


FEW_FRAMES = "requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), 100)"
"""Else what turns while a test waits takes more of the processor than what it waits for."""


class App(NamedTuple):
    address: str
    locked: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("app")
    own = {"XDG_CACHE_HOME": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": "", "CGPIPE_MODELS": str(folder / "models")}
    (folder / "locked").mkdir()
    command = [sys.executable, "-c", SERVER, str(folder / "locked")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | own, **pipes) as process:
        assert process.stdin and process.stdout
        address = process.stdout.readline().split()[1]
        print(file=process.stdin, flush=True)
        yield App(address, process.stdout.readline().strip(), own)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
    assert list((folder / "cache" / "cgpipe" / "service").iterdir()) == [], "uploads and results are gone"


@pytest.fixture(scope="module")
def window(chromium: Chromium) -> Iterator[Any]:
    """One window for all: what it has loaded of the app once is in its cache."""
    with chromium.window() as window:
        window.add_init_script(FEW_FRAMES)
        yield window


@pytest.fixture
def open_page(app: App, chromium: Chromium, window: Any) -> Iterator[Callable[..., Any]]:
    """Opens the app; at the end nothing was complained of, and nothing asked for elsewhere."""
    problems: list[str] = []
    asked: set[str] = set()

    def open_one(address: str = app.address) -> Any:
        page = window.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.add(request.url))
        page.goto(address)
        return page

    with chromium.watched():
        yield open_one
        for page in window.pages:
            page.close()
    hosts = {address.split("/")[2] for address in asked if address.startswith("http")}
    assert problems == [] and hosts <= {place.split("/")[2] for place in (app.address, app.locked)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one photo, ``pony.jpg``."""
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "in" / "pony.jpg"), cv2.blur(pixels, (9, 9)))
    return tmp_path / "in"


@contextmanager
def studio_in(folder: Path) -> Iterator[Any]:
    """The functions behind the pages, without them."""
    from cgpipe.options import Hardware
    from cgpipe.service.limits import Limits
    from cgpipe.service.spool import Spool
    from cgpipe.service.ui import Studio

    (folder / "spool").mkdir()
    studio = Studio(Spool(folder / "spool"), Limits(), Hardware(device="cpu"))
    try:
        yield studio
    finally:
        studio.close()


def command(app: App, *words: object) -> None:
    result = invoke(*words, env=app.environment)
    assert result.exit_code == 0, result.output


def set_number(page: Any, label: str, value: str) -> None:
    """Until the page is whole, it sets the values with which it begins."""
    field = page.locator("[role=tabpanel]:visible").get_by_label(f"number input for {label}")
    while field.input_value() != value:
        field.fill(value)
        field.press("Enter")
        page.wait_for_timeout(500)


def press_translate(page: Any) -> None:
    page.get_by_role("button", name="Translate").locator("visible=true").click()


def downloaded(page: Any, name: str) -> bytes:
    """The result, once it is there."""
    page.locator(f"a[download*='{name}-translated']").first.wait_for(state="attached")
    with page.expect_download() as download:
        page.locator("button:visible", has_text="Download").click()
    return Path(download.value.path()).read_bytes()


class TestTabs:
    pytestmark = in_chromium

    def test_a_picture(self, app: App, open_page: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
        command(app, "translate", folder, "-o", tmp_path / "out", "--model", "horse2zebra")
        page = open_page()
        press_translate(page)
        page.get_by_text("Choose a picture first.").first.wait_for()
        page.set_input_files("input[type=file] >> nth=0", folder / "pony.jpg")
        page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.wait_for()
        press_translate(page)
        assert downloaded(page, "pony") == (tmp_path / "out" / "pony.jpg").read_bytes()

    def test_a_painting(self, app: App, open_page: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
        painting = tmp_path / "waves.png"
        cv2.imwrite(str(painting), np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))
        page = open_page()
        page.set_input_files("input[type=file] >> nth=0", folder / "pony.jpg")
        page.get_by_text("A painting's look instead").click()
        page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.wait_for()
        page.set_input_files("input[type=file] >> nth=1", painting)
        page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).nth(1).wait_for()
        set_number(page, "Steps of learning", "10")
        press_translate(page)
        made = downloaded(page, "pony")
        # The command finds the look that the app has learnt.
        command(app, "translate", folder, "-o", tmp_path / "out", "--like", painting, "--like-steps", 10)
        assert made == (tmp_path / "out" / "pony.jpg").read_bytes()

    def test_a_job_that_is_stopped(self, open_page: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
        painting = tmp_path / "waves.png"
        cv2.imwrite(str(painting), np.random.default_rng(2).integers(0, 255, (64, 64, 3), np.uint8))
        page = open_page()
        page.get_by_text("A painting's look instead").click()
        for number, path in enumerate((folder / "pony.jpg", painting)):
            page.set_input_files(f"input[type=file] >> nth={number}", path)
            page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).nth(number).wait_for()
        set_number(page, "Steps of learning", "2000")
        press_translate(page)
        page.get_by_text("Learning the painting").first.wait_for()
        page.get_by_role("button", name="Stop").locator("visible=true").click()
        page.get_by_text("Stopped.").first.wait_for()
        page.get_by_role("button", name="Stop").locator("visible=true").wait_for(state="detached")
        press_translate(page)
        page.get_by_role("button", name="Stop").locator("visible=true").wait_for()
        page.reload()  # ends it, too: the next does not wait for it
        page.set_input_files("input[type=file] >> nth=0", folder / "pony.jpg")
        page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.wait_for()
        press_translate(page)
        assert downloaded(page, "pony")

    def test_what_is_uploaded_is_not_shown_as_a_page(self, app: App, open_page: Callable[..., Any]) -> None:
        page = open_page()
        file = {"name": "x.html", "mimeType": "text/html", "buffer": b"<script>alert(1)</script>"}
        (path,) = page.request.post(f"{app.address}/gradio_api/upload", multipart={"files": file}).json()
        answer = page.request.get(f"{app.address}/gradio_api/file={path}")
        assert answer.headers["content-disposition"].startswith("attachment")

    def test_a_video(self, app: App, open_page: Callable[..., Any], tmp_path: Path) -> None:
        clip = make_clip(tmp_path / "clip.mp4", count=5, size=(64, 48))
        command(app, "video", clip, tmp_path / "out.mp4", "--model", "horse2zebra")
        page = open_page()
        page.get_by_role("tab", name="Video").click()
        page.locator("[role=tabpanel]:visible input[type=file]").set_input_files(clip)
        page.locator("[role=tabpanel]:visible video").wait_for()
        press_translate(page)
        assert downloaded(page, "clip") == (tmp_path / "out.mp4").read_bytes()

    def test_a_camera(self, app: App, open_page: Callable[..., Any]) -> None:
        page = open_page()
        page.get_by_role("tab", name="Camera").click()
        set_number(page, "Strength", "0")
        page.get_by_text("Click to Access Webcam").click()
        page.locator("button:visible", has_text="Record").click()
        page.get_by_text("pictures a second").wait_for()  # so two have come, at least
        # The fake camera shows green, and with a strength of 0 so does the translation.
        source = page.locator("[role=tabpanel]:visible img").last.get_attribute("src")
        picture = cv2.imdecode(np.frombuffer(page.request.get(source).body(), np.uint8), cv2.IMREAD_COLOR)
        blue, green, red = picture.reshape(-1, 3).mean(axis=0)
        assert green > 100 and green > red + 60 and green > blue + 60
        page.locator("button:visible", has_text="Stop").click()

    def test_a_folder(self, app: App, open_page: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
        (folder / "broken.png").write_bytes(b"no picture")
        page = open_page()
        page.get_by_role("tab", name="Folder").click()
        page.get_by_label("Folder", exact=True).last.fill(str(folder))
        page.get_by_label("Output folder").fill(str(tmp_path / "app"))
        press_translate(page)
        page.get_by_text("1 translated").wait_for()
        assert page.get_by_text("broken.png").is_visible()
        (folder / "broken.png").unlink()
        command(app, "translate", folder, "-o", tmp_path / "out", "--model", "horse2zebra")
        assert (tmp_path / "app" / "pony.jpg").read_bytes() == (tmp_path / "out" / "pony.jpg").read_bytes()

    def test_a_narrow_window(self, open_page: Callable[..., Any]) -> None:
        page = open_page()
        page.set_viewport_size({"width": 400, "height": 800})
        for tab in ("Picture", "Video", "Folder", "Camera"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("document.documentElement.scrollWidth") == 400
        camera, translated = (
            page.locator(f"label:visible:has-text('{name}')").last for name in ("Camera", "Translated")
        )
        assert camera.bounding_box()["y"] + 300 < translated.bounding_box()["y"], "one below the other"

    def test_a_login(self, app: App, open_page: Callable[..., Any]) -> None:
        page = open_page(app.locked)
        for password in ("wrong", TOKEN):
            page.get_by_label("username").fill("cgpipe")
            page.get_by_label("password").fill(password)
            page.get_by_role("button", name="Login").click()
            if password == "wrong":
                page.get_by_text("Incorrect Credentials").wait_for()
        page.get_by_role("tab", name="Camera").wait_for()
        assert page.get_by_role("tab").all_inner_texts() == ["Picture", "Video", "Camera"]


def test_a_job_ends_with_the_app(folder: Path, tmp_path: Path, models_folder: Path) -> None:
    from cgpipe.service.ui import gr

    painting, steps = tmp_path / "waves.png", []
    cv2.imwrite(str(painting), np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))

    def close_at_the_second(now: tuple[int, int], **_: object) -> None:
        steps.append(now)
        if now[0] == 2:
            studio.close()

    with studio_in(tmp_path) as studio, pytest.raises(gr.Error, match="shutting down"):
        studio.picture(str(folder / "pony.jpg"), "horse2zebra", 1.0, str(painting), 2000, close_at_the_second)
    assert steps == [(1, 2000), (2, 2000)]


def test_a_job_ends_with_its_page(folder: Path, tmp_path: Path, models_folder: Path) -> None:
    from cgpipe.service.ui import gr

    painting, page = tmp_path / "waves.png", SimpleNamespace(session_hash="a page")
    cv2.imwrite(str(painting), np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))
    with studio_in(tmp_path) as studio:

        def leave(now: tuple[int, int], **_: object) -> None:
            studio.stop(SimpleNamespace(session_hash="another page") if now[0] < 3 else page)

        with pytest.raises(gr.Error, match="Stopped"):
            studio.picture(str(folder / "pony.jpg"), "horse2zebra", 1.0, str(painting), 2000, leave, page)


def test_what_is_no_picture_is_said_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    from cgpipe.service.ui import _picture_field, gr

    text, field = folder / "text.jpg", _picture_field("Picture", 300)
    text.write_text("no picture")
    with studio_in(tmp_path) as studio:
        for path, reason in ((text, "It is not a picture"), (folder / "gone.jpg", "forgotten after an hour")):
            with pytest.raises(gr.Error, match=reason):
                studio.picture(field.preprocess(SimpleNamespace(path=str(path))), "horse2zebra-fast", 1.0, None, 10)
        with pytest.raises(gr.Error, match="Choose a picture first"):
            studio.picture(field.preprocess(None), "horse2zebra-fast", 1.0, None, 10)
        cut = folder / "cut.mp4"
        cut.write_bytes(make_clip(folder / "clip.mp4", count=2).read_bytes()[:48])
        with pytest.raises(gr.Error, match=r"cut\.mp4 cannot be read") as raised:
            studio.video(str(cut), "horse2zebra-fast", 1.0, lambda *_, **__: None)
        assert str(folder) not in str(raised.value)


def test_an_animation_stays_one(folder: Path, tmp_path: Path) -> None:
    first, *others = (Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue"))
    first.save(folder / "moving.gif", save_all=True, append_images=others)
    with studio_in(tmp_path) as studio:
        (_, after), _ = studio.picture(str(folder / "moving.gif"), "horse2zebra-fast", 1.0, None, 10)
    with Image.open(after) as made:
        assert (Path(after).name, made.n_frames) == ("moving-translated.gif", 3)


def test_a_folder_names_what_was_not_translated_as_it_is(folder: Path, tmp_path: Path) -> None:
    (folder / "raw_*1*_.cr2").write_bytes(b"II*\0" + bytes(100))
    (folder / "`b`.png").write_bytes(b"no picture")
    with studio_in(tmp_path) as studio:
        told = studio.folder(str(folder), str(tmp_path / "out"), "horse2zebra-fast", 1.0, lambda *_, **__: None)
    assert r"raw\_\*1\*\_\.cr2: " in told and r"\`b\`\.png: " in told


def test_a_picture_that_is_named_like_an_archive_is_a_picture(folder: Path, tmp_path: Path) -> None:
    named = tmp_path / "pony.zip"
    named.write_bytes((folder / "pony.jpg").read_bytes())
    with studio_in(tmp_path) as studio:
        (_, after), _ = studio.picture(str(named), "horse2zebra-fast", 1.0, None, 10)
    assert Path(after).name == "pony-translated.jpg"


def test_without_a_login_only_this_machine_gets_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_service import asked_of

    from cgpipe.service.limits import Limits
    from cgpipe.service.spool import Spool
    from cgpipe.service.ui import gr, mount

    monkeypatch.setattr(gr, "mount_gradio_app", lambda app, *_, **__: None)  # so there is no page: 404
    own, locked = (mount(None, Spool(tmp_path), Limits(), token=token) for token in (None, TOKEN))
    assert asked_of(own, "/", "evil.example") == asked_of(own, "/", "localhost", origin="https://evil.example") == 403
    assert asked_of(own, "/", "localhost") == asked_of(locked, "/", "cgpipe.example") == 404


@pytest.mark.parametrize("options", [["--host", "0.0.0.0"], ["--host", "0.0.0.0", "--token", "short"]])
def test_an_address_that_others_reach_needs_a_token(options: list[str]) -> None:
    result = invoke("ui", "--no-open", *options)
    assert result.exit_code == 2
    assert "token" in result.output
