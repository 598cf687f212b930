"""The app in the browser: a picture, a video, a camera, a folder."""

from __future__ import annotations

import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable
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
from cgpipe.media.pictures.read import check_picture, read_picture
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

FONTS = ("system-ui", "sans-serif")
"""That every system has: nothing is fetched from elsewhere."""


KEPT = 3600
"""Seconds for which uploads and results are kept."""


class Studio:
    """The functions behind the pages, with files in one spool.

    Args:
        spool: the folder of results.
        limits: the limits of uploads.
        hardware: the hardware for all jobs.
    """

    def __init__(self, spool: Spool, limits: Limits, hardware: Hardware) -> None:
        self._spool = spool
        self._limits = limits
        self._hardware = hardware
        self._closing = Event()
        self._queue = PictureQueue(spool)
        self._cameras = LoadedModels()
        # By session: what a page holds itself does not come back while it streams.
        self._rates: dict[str, Rate] = {}
        self._frames: dict[str, Frames] = {}

    def close(self) -> None:
        """Ends running jobs at their next step, and rejects new ones."""
        self._closing.set()
        self._queue.close()

    def _while_open(self, progress: Any) -> Callable[..., None]:
        """Gradio's ``progress``, which ends the job that reports it once the app closes."""

        def report(*counted: object, **named: object) -> None:
            if self._closing.is_set():
                raise ClosedError("The app is shutting down: try again when it has started anew.")
            progress(*counted, **named)

        return report

    def picture(
        self,
        picture: str | None,
        model: str,
        strength: float,
        painting: str | None,
        steps: int,
        progress: Any = gr.Progress(),  # noqa: B008 - so Gradio knows that it is to be given
    ) -> tuple[tuple[str, str], gr.DownloadButton]:
        """The pair for the slider, and the button to download the result."""
        if not picture:
            raise gr.Error("Choose a picture first.", print_exception=False)
        self._spool.remove_older(KEPT)
        with _Explained():
            check_picture(picture, pixel_limit=self._limits.pixels)
            if painting:
                after = self._like(self._named(Path(picture)), painting, steps, strength, progress)
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

    def _like(self, picture: Path, painting: str, steps: int, strength: float, progress: Any) -> Path:
        """The picture in the look of a painting, which is trained first."""
        check_picture(painting, pixel_limit=self._limits.pixels)
        told = self._while_open(progress)
        report = translate_folder(
            picture,
            self._spool.new_folder(),
            like=painting,
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
    ) -> tuple[str, gr.DownloadButton]:
        """The translated video, to play and to download."""
        if not video:
            raise gr.Error("Choose a video first.", print_exception=False)
        self._spool.remove_older(KEPT)
        with _Explained():
            with open(video, "rb") as file:
                if not is_container(file.read(HEAD)):
                    raise MediaError("It is not a video, or its container is not supported.")
            result = self._spool.new_folder() / f"{Path(video).stem}-translated.mp4"
            counted = _Counted("frame", self._while_open(progress))
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
        with _Explained():
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

    def folder(self, folder: str, output: str, model: str, strength: float, progress: Any = gr.Progress()) -> str:  # noqa: B008
        """The result of a folder, as Markdown."""
        if not folder.strip():
            raise gr.Error("Name a folder first.", print_exception=False)
        with _Explained():
            counted = _Counted("picture", self._while_open(progress))

            def advance(_: FileResult) -> None:
                counted.advance(1)

            report = translate_folder(
                Path(folder.strip()).expanduser(),
                Path(output.strip()).expanduser() if output.strip() else None,
                model=model,
                strength=strength,
                hardware=self._hardware,
                workers=0,
                progress=False,
                on_start=lambda _, total: counted.start(total),
                on_result=advance,
            )
            return _told(report)

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


class _Explained:
    """Shows errors in a box on the page."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CgpipeError):
            raise gr.Error(str(error), print_exception=False) from error


def _told(report: FolderReport) -> str:
    failed = "".join(f"\n- `{failure.input}`: {failure.reason}" for failure in report.failures)
    return report.summary() + failed


def build_ui(studio: Studio, *, local: bool) -> gr.Blocks:
    """Builds the pages.

    Args:
        local: whether only this machine can open them; otherwise the folder tab is omitted.
    """
    pages: gr.Blocks = gr.Blocks(title="cgpipe", analytics_enabled=False, delete_cache=(600, KEPT))
    with pages:
        gr.Markdown("# cgpipe\nPictures and videos from one look to another, on this machine.")
        with gr.Tab("Picture"):
            _picture_tab(studio)
        with gr.Tab("Video"):
            _video_tab(studio)
        with gr.Tab("Camera"):
            _camera_tab(studio)
        if local:
            with gr.Tab("Folder"):
                _folder_tab(studio)
    return pages


def _download(path: Path | None = None) -> gr.DownloadButton:
    """The download button, disabled until there is a result."""
    return gr.DownloadButton("Download", value=None if path is None else str(path), interactive=path is not None)


def _look() -> tuple[gr.Dropdown, gr.Slider]:
    """The inputs for model and strength."""
    models = [
        (f"{entry.card.source} to {entry.card.target} ({entry.name})", entry.name)
        for entry in list_models()
        if entry.card and not entry.shadowed
    ]
    default = choose_model(ModelChoice()).found.entry.name
    return (
        gr.Dropdown(models, value=default, label="Look"),
        gr.Slider(0, 2, value=1, step=0.05, label="Strength", info="0 is the original, 1 the full translation."),
    )


def _run(button: gr.Button, work: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    button.click(work, inputs, outputs, api_visibility="private", concurrency_limit=1)


def _picture_tab(studio: Studio) -> None:
    with gr.Row():
        with gr.Column(scale=1):
            picture = gr.Image(
                label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=300
            )
            look, strength = _look()
            with gr.Accordion("A painting's look instead", open=False):
                painting = gr.Image(
                    label="Painting", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=200
                )
                steps = gr.Slider(10, 2000, value=600, step=10, label="Steps of learning", info="Once per painting.")
            button = gr.Button("Translate", variant="primary")
        with gr.Column(scale=2):
            slider = gr.ImageSlider(label="Before and after", interactive=False, max_height=640)
            download = _download()
    _run(button, studio.picture, [picture, look, strength, painting, steps], [slider, download])


def _video_tab(studio: Studio) -> None:
    with gr.Row():
        with gr.Column():
            video = gr.Video(label="Video", sources=["upload"], height=360)
            look, strength = _look()
            button = gr.Button("Translate", variant="primary")
        with gr.Column():
            result = gr.Video(label="Translated", interactive=False, height=360)
            download = _download()
    _run(button, studio.video, [video, look, strength], [result, download])


def _camera_tab(studio: Studio) -> None:
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


def _folder_tab(studio: Studio) -> None:
    folder = gr.Textbox(label="Folder", placeholder="~/Pictures/holiday")
    output = gr.Textbox(label="Output folder", placeholder="beside it, by default")
    look, strength = _look()
    button = gr.Button("Translate", variant="primary")
    result = gr.Markdown()
    _run(button, studio.folder, [folder, output, look, strength], [result])


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
