"""The app in the browser: a picture, a video, a camera, a folder."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.utils import get_upload_folder
from PIL import Image

from cgpipe.engine.translator import Translator
from cgpipe.errors import CgpipeError, MediaError
from cgpipe.jobs.folder import translate_folder
from cgpipe.jobs.report import FileResult, FolderReport
from cgpipe.jobs.video import translate_video
from cgpipe.media.frames import Pixels, in_8_bits
from cgpipe.media.pictures.formats import PICTURE_SUFFIXES
from cgpipe.media.pictures.read import check_picture, is_animation, read_picture
from cgpipe.models import list_models
from cgpipe.models.choose import choose_model
from cgpipe.options import Hardware, Look, ModelChoice, Options, Work
from cgpipe.service.containers import HEAD, is_container
from cgpipe.service.guard import OwnOnly
from cgpipe.service.limits import Limits
from cgpipe.service.pictures import ClosedError, LoadedModels, PictureQueue
from cgpipe.service.spool import Spool

USER = "cgpipe"
"""The name to log in with, beside the token."""

SHOWN_BY_BROWSERS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")

CAMERA_SECONDS = 0.05
"""Between two pictures of the camera, at least."""

CAMERAS = 64
"""Of which the rate is known."""

RATED = 10
"""Pictures of a camera that its rate is counted over."""

PAUSE_SECONDS = 5.0
"""After which a camera was stopped, and begins anew."""

FRAMES = 200
"""Of a camera that stay on disk, for a page that is late to fetch them."""

BUTTONS: list[Any] = ["fullscreen", "download"]
"""Of a result: without that which sends it to a site."""

QUICK: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
"""For events that no job waits for."""

FONTS = ("system-ui", "sans-serif")
"""That every system has: nothing is fetched from elsewhere."""


KEPT = 3600
"""Seconds for which uploads and results are kept."""

_MARKS = re.compile(r"([!-/:-@\[-`{-~])")
"""Characters that may mean something in Markdown, before each of which a backslash may stand."""


class Studio:
    """The functions behind the pages, with files in one spool.

    Args:
        spool: the folder of results, without the uploads.
        limits: the limits of uploads.
        hardware: the hardware for all jobs.
    """

    def __init__(self, spool: Spool, limits: Limits, hardware: Hardware) -> None:
        self._spool = spool
        self._limits = limits
        self._hardware = hardware
        self._closing = Event()
        self._stops: set[tuple[str, Event]] = set()
        self._left: deque[str] = deque(maxlen=CAMERAS)
        self._queue = PictureQueue(spool)
        self._cameras = LoadedModels()
        # By session: what a page holds itself does not come back while it streams.
        self._rates: dict[str, Rate] = {}
        self._frames: dict[str, Frames] = {}

    def close(self) -> None:
        """Ends running jobs at their next step, and rejects new ones."""
        self._closing.set()
        self._queue.close()

    def stop(self, request: gr.Request) -> None:
        """Ends the jobs of a page at their next step."""
        for session, stopped in [*self._stops]:
            if session == request.session_hash:
                stopped.set()

    def leave(self, request: gr.Request) -> None:
        """The same for a page that is gone, and for what it has asked for and has not begun."""
        self._left.append(str(request.session_hash))
        self.stop(request)

    @contextmanager
    def _job(self, progress: Any, request: gr.Request | None) -> Iterator[Callable[..., None]]:
        """Gradio's ``progress``, which ends the job that reports it once it is stopped or the app closes."""
        job = (str(request.session_hash) if request else "", Event())

        def report(*counted: object, **named: object) -> None:
            if self._closing.is_set():
                raise ClosedError("The app is shutting down: try again when it has started anew.")
            if job[1].is_set():
                raise ClosedError("Stopped.")
            progress(*counted, **named)

        self._stops.add(job)
        if job[0] in self._left:
            job[1].set()
        try:
            yield report
        finally:
            self._stops.discard(job)

    def picture(
        self,
        picture: str | None,
        model: str,
        strength: float,
        painting: str | None,
        steps: int,
        progress: Any = gr.Progress(),  # noqa: B008 - so Gradio knows that it is to be given
        request: gr.Request | None = None,
    ) -> tuple[tuple[str, str], gr.DownloadButton]:
        """The pair for the slider, and the button to download the result."""
        picture = self._present(picture, "picture")
        painting = painting and self._present(painting, "painting")
        with _explained(), self._job(progress, request) as told:
            animated = is_animation(picture)
            check_picture(picture, pixel_limit=self._limits.pixels, animated=True)
            if painting or animated:
                after = self._alone(self._named(Path(picture)), model, painting, steps, strength, told)
            else:
                options = Options(
                    choice=ModelChoice(model=model),
                    look=Look(strength=strength),
                    hardware=self._hardware,
                    work=Work(workers=0),
                )
                after = self._queue.submit(options, self._named(Path(picture))).result().path
            named = self._spool.new_folder() / f"{Path(picture).stem}-translated{after.suffix}"
            after.rename(named)
            return (self._shown(Path(picture)), self._shown(named)), _download(named)

    def _named(self, picture: Path) -> Path:
        """The picture, or a copy without a suffix where its own is not a picture's: an archive would be unpacked."""
        if picture.suffix.lower() in PICTURE_SUFFIXES:
            return picture
        return Path(shutil.copyfile(picture, self._spool.new()))

    def _alone(
        self,
        picture: Path,
        model: str,
        painting: str | None,
        steps: int,
        strength: float,
        told: Callable[..., None],
    ) -> Path:
        """An animation, or a picture in the look of a painting, which is trained first."""
        if painting:
            check_picture(painting, pixel_limit=self._limits.pixels)
        report = translate_folder(
            picture,
            self._spool.new_folder(),
            model=None if painting else model,
            like=painting or (),
            like_steps=int(steps),
            strength=strength,
            hardware=self._hardware,
            workers=0,
            progress=False,
            on_learn=lambda now: told((now.step, now.total_steps), desc="Learning the painting's look"),
        )
        if report.failures:
            raise MediaError(report.failures[0].reason)
        return report.outputs[0]

    def video(
        self,
        video: str | None,
        model: str,
        strength: float,
        progress: Any = gr.Progress(),  # noqa: B008
        request: gr.Request | None = None,
    ) -> tuple[str, gr.DownloadButton]:
        """The translated video, to play and to download."""
        video = self._present(video, "video")
        with _explained(video), self._job(progress, request) as told:
            with open(video, "rb") as file:
                if not is_container(file.read(HEAD)):
                    raise MediaError("It is not a video, or its container is not supported.")
            result = self._spool.new_folder() / f"{Path(video).stem}-translated.mp4"
            counted = _Counted("frame", told)
            translate_video(
                video,
                result,
                model=model,
                strength=strength,
                hardware=self._hardware,
                progress=False,
                on_start=lambda _, total: counted.start(total),
                on_frames=counted.advance,
            )
            return str(result), _download(result)

    def camera(self, pixels: Pixels | None, model: str, strength: float, request: gr.Request) -> tuple[str | None, str]:
        """The file of a translated camera frame, and the frame rate as text."""
        if pixels is None:
            return None, ""
        began = time.monotonic()
        with _explained():
            translated = self._camera_translator(model, strength)(pixels)
        session = str(request.session_hash)
        rate = self._rates.setdefault(session, Rate())
        frames = self._frames.setdefault(session, Frames())
        if len(self._rates) > CAMERAS:
            self._rates.pop(next(iter(self._rates)))
            self._frames.pop(next(iter(self._frames))).remove()
        return frames.add(translated), rate.told(began, time.monotonic())

    def _camera_translator(self, model: str, strength: float) -> Translator:
        options = Options(choice=ModelChoice(model=model), look=Look(strength=strength), hardware=self._hardware)
        return self._cameras.pipeline(choose_model(options.choice), options).translator

    def folder(
        self,
        folder: str,
        output: str,
        model: str,
        strength: float,
        progress: Any = gr.Progress(),  # noqa: B008
        request: gr.Request | None = None,
    ) -> str:
        """The result of a folder, as Markdown."""
        if not folder.strip():
            raise gr.Error("Name a folder first.", print_exception=False)
        with _explained(), self._job(progress, request) as told:
            counted = _Counted("picture", told)

            def advance(_: FileResult) -> None:
                counted.advance(1)

            report = translate_folder(
                os.path.expanduser(folder.strip()),
                os.path.expanduser(output.strip()) or None,
                model=model,
                strength=strength,
                hardware=self._hardware,
                workers=0,
                progress=False,
                on_start=lambda _, total: counted.start(total),
                on_result=advance,
            )
            return _told(report)

    def _present(self, upload: str | None, kind: str) -> str:
        """A job's upload, which is still there; what is old makes room."""
        if not upload:
            raise gr.Error(f"Choose a {kind} first.", print_exception=False)
        self._spool.remove_older(KEPT)
        if not os.path.exists(upload):
            raise gr.Error(f"Uploads are forgotten after an hour: choose the {kind} again.", print_exception=False)
        return upload

    def _shown(self, path: Path) -> str:
        """A file that browsers can show: itself, or a PNG of it."""
        if path.suffix.lower() in SHOWN_BY_BROWSERS:
            return str(path)
        shown = self._spool.new(".png")
        Image.fromarray(in_8_bits(read_picture(path).pixels)).save(shown)
        return str(shown)


class Rate:
    """The frame rate of a camera, over the last few frames."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=RATED)

    def told(self, began: float, done: float) -> str:
        """Adds a frame by its start and end in seconds; returns the rate as text."""
        if self._times and began - self._times[-1] > PAUSE_SECONDS:
            self._times.clear()
        self._times.append(began)
        each = f"{1000 * (done - began):.0f} ms each"
        passed = began - self._times[0]
        return f"{(len(self._times) - 1) / passed:.1f} pictures a second, {each}" if passed else each


class Frames:
    """The last few frames of a camera, as files where Gradio serves them from without a copy of its own."""

    def __init__(self) -> None:
        self._folder = Path(get_upload_folder()) / secrets.token_hex(8)
        self._folder.mkdir(parents=True)
        self._kept: deque[Path] = deque()

    def add(self, pixels: Pixels) -> str:
        """Writes a frame, and removes the one that is now too many; returns its path."""
        path = self._folder / f"{secrets.token_hex(8)}.jpg"
        Image.fromarray(pixels).save(path, quality=85)
        self._kept.append(path)
        if len(self._kept) > FRAMES:
            self._kept.popleft().unlink(missing_ok=True)
        return str(path)

    def remove(self) -> None:
        """Removes all of them."""
        shutil.rmtree(self._folder, ignore_errors=True)


class _Counted:
    """A job's progress in Gradio."""

    def __init__(self, unit: str, progress: Callable[..., None]) -> None:
        self._unit = unit
        self._progress = progress
        self._total: int | None = None
        self._done = 0

    def start(self, total: int | None) -> None:
        self._total = total
        self.advance(0)

    def advance(self, count: int) -> None:
        self._done += count
        self._progress((self._done, self._total), unit=f"{self._unit}s")


@contextmanager
def _explained(upload: str | None = None) -> Iterator[None]:
    """Shows errors in a box on the page; an upload goes by its name, and not by where it lies."""
    try:
        yield
    except CgpipeError as error:
        text = str(error).replace(upload, Path(upload).name) if upload else str(error)
        raise gr.Error(text, print_exception=False) from error


def _told(report: FolderReport) -> str:
    lines = (f"\n- {_plain(one.input)}: {_plain(one.reason)}" for one in (*report.failures, *report.unsupported))
    return _plain(report.summary()) + "".join(lines)


def _plain(text: object) -> str:
    """Text as Markdown that shows it as it is."""
    return _MARKS.sub(r"\\\1", str(text))


def build_ui(studio: Studio, *, local: bool) -> gr.Blocks:
    """Builds the pages.

    Args:
        local: whether only this machine can open them; otherwise the folder tab is omitted.
    """
    pages: gr.Blocks = gr.Blocks(title="cgpipe", analytics_enabled=False, delete_cache=(600, KEPT))
    with pages:
        gr.Markdown("# cgpipe\nPictures and videos from one look to another, on this machine.")
        tabs = {"Picture": _picture_tab, "Video": _video_tab, "Camera": _camera_tab}
        if local:
            tabs["Folder"] = _folder_tab
        looks = []  # of each tab
        for name, tab in tabs.items():
            with gr.Tab(name):
                looks.append(tab(studio))
        # Those that were learnt since the app started are among them.
        pages.load(lambda: [gr.Dropdown(_models())] * len(looks), None, looks, **QUICK)
        pages.unload(studio.leave)
    return pages


def _download(path: Path | None = None) -> gr.DownloadButton:
    """The download button, disabled until there is a result."""
    return gr.DownloadButton("Download", value=None if path is None else str(path), interactive=path is not None)


def _models() -> list[tuple[str, str]]:
    """The models to choose from: what is shown, and the name."""
    return [
        (f"{entry.card.source} to {entry.card.target} ({entry.name})", entry.name)
        for entry in list_models()
        if entry.card and not entry.shadowed
    ]


def _look() -> tuple[gr.Dropdown, gr.Slider]:
    """The inputs for model and strength."""
    default = choose_model(ModelChoice()).found.entry.name
    return (
        gr.Dropdown(_models(), value=default, label="Look"),
        gr.Slider(0, 2, value=1, step=0.05, label="Strength", info="0 is the original, 1 the full translation."),
    )


def _picture_field(label: str, height: int) -> gr.Image:
    """A field for a picture's file. Gradio does not open it: it knows fewer formats, and no words for damage."""
    field = gr.Image(label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=height)
    field.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return field


def _buttons(studio: Studio, work: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    """Those that begin a job and, while it runs, stop it."""
    begin, stop = gr.Button("Translate", variant="primary"), gr.Button("Stop", variant="stop", visible=False)
    begin.click(lambda: gr.Button(visible=True), None, stop, **QUICK)
    done = begin.click(work, inputs, outputs, api_visibility="private", concurrency_limit=1)
    for end in (done.success, done.failure):  # Gradio's then does not follow a failure
        end(lambda: gr.Button(visible=False), None, stop, **QUICK)
    stop.click(studio.stop, None, None, **QUICK)


def _picture_tab(studio: Studio) -> gr.Dropdown:
    with gr.Row():
        with gr.Column(scale=1):
            picture = _picture_field("Picture", 300)
            look, strength = _look()
            with gr.Accordion("A painting's look instead", open=False):
                painting = _picture_field("Painting", 200)
                steps = gr.Slider(10, 2000, value=600, step=10, label="Steps of learning", info="Once per painting.")
            below = gr.Column()
        with gr.Column(scale=2):
            slider = gr.ImageSlider(label="Before and after", interactive=False, max_height=640)
            download = _download()
    with below:
        _buttons(studio, studio.picture, [picture, look, strength, painting, steps], [slider, download])
    return look


def _video_tab(studio: Studio) -> gr.Dropdown:
    with gr.Row():
        with gr.Column():
            video = gr.Video(label="Video", sources=["upload"], height=360)
            look, strength = _look()
            below = gr.Column()
        with gr.Column():
            result = gr.Video(label="Translated", interactive=False, height=360)
            download = _download()
    with below:
        _buttons(studio, studio.video, [video, look, strength], [result, download])
    return look


def _camera_tab(studio: Studio) -> gr.Dropdown:
    look, strength = _look()
    with gr.Row():
        with gr.Column():
            camera = gr.Image(label="Camera", sources=["webcam"], streaming=True, type="numpy", height=360)
        with gr.Column():
            result = gr.Image(label="Translated", interactive=False, height=360, buttons=BUTTONS)
    rate = gr.Markdown()
    camera.stream(
        studio.camera,
        [camera, look, strength],
        [result, rate],
        stream_every=CAMERA_SECONDS,
        concurrency_limit=1,
        show_progress="hidden",
        api_visibility="private",
    )
    return look


def _folder_tab(studio: Studio) -> gr.Dropdown:
    folder = gr.Textbox(label="Folder", placeholder="~/Pictures/holiday")
    output = gr.Textbox(label="Output folder", placeholder="beside it, by default")
    look, strength = _look()
    below = gr.Column()
    result = gr.Markdown()
    with below:
        _buttons(studio, studio.folder, [folder, output, look, strength], [result])
    return look


def _theme() -> gr.themes.Base:
    """Gradio's, with the contrast that small text needs on white (WCAG AA), and none of its fonts fetched."""
    return gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace")).set(
        body_text_color_subdued="*neutral_500",
        block_info_text_color="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def mount(pages: gr.Blocks, spool: Spool, limits: Limits, *, token: str | None) -> FastAPI:
    """The pages as a FastAPI application.

    Args:
        token: the password; None: no login, and only this machine's own programs and pages are answered.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if token is None:
        app.add_middleware(OwnOnly)
    gr.mount_gradio_app(
        app,
        pages,
        path="",
        auth=None if token is None else (USER, token),
        auth_message=f"The name is {USER}, the password the token that the app was started with.",
        allowed_paths=[str(spool.folder)],
        max_file_size=limits.video_bytes,
        theme=_theme(),
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )
    return app
