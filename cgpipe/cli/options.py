"""Options that several commands share, as decorators."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from cgpipe.cli import complete
from cgpipe.cli.terminal import Loudness, set_loudness
from cgpipe.media.pictures.formats import PICTURE_SUFFIXES
from cgpipe.options import SMALLEST_TILE, Engine, Precision
from cgpipe.storage import is_address, require_local

Command = TypeVar("Command", bound=Callable[..., Any])


class LocalPath(click.Path):
    """A local path. An address such as ``s3://bucket`` is a usage error, not a folder called ``s3:``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        require_local(value)
        return super().convert(_typed(value), param, ctx)


class Place(click.Path):
    """A path on this machine, or an address such as ``s3://bucket/photos``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return os.fspath(value) if is_address(value) else super().convert(_typed(value), param, ctx)


class PictureFormat(click.Choice[str]):
    """A format of pictures, by the name that help shows or by another suffix of its files, such as ``jpeg``."""

    def __init__(self) -> None:
        super().__init__(["jpg", "png", "webp", "tiff", "bmp", "avif", "gif", "jp2", "heic"], case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        format = PICTURE_SUFFIXES.get(f".{value.lower()}")
        name = next((choice for choice in self.choices if PICTURE_SUFFIXES[f".{choice}"] == format), value)
        return super().convert(name, param, ctx)


def _typed(path: str | os.PathLike[str]) -> str:
    """A path as a person means it: ``~`` is the home folder, also in ``--output=~/zebras``, where no shell says so.

    Raises:
        click.BadParameter: it is empty, and would be taken for the current folder.
    """
    text = os.fspath(path)
    if not text:
        raise click.BadParameter("The path is empty. Is a variable unset?")
    return text if os.path.lexists(text) else os.path.expanduser(text)


def device(value: str) -> str:
    """``auto``, ``cpu``, ``cuda``, or GPUs such as ``cuda:0,cuda:1``. Whether they exist is checked on use."""
    if not re.fullmatch(r"auto|cpu|mps|vulkan(:\d+)?|(cuda|xpu)|(cuda|xpu):\d+(,(cuda|xpu):\d+)*", value):
        raise click.BadParameter(
            f"{value!r} is not a valid device: use auto, cpu, cuda, cuda:N, cuda:N,cuda:M, mps, xpu or vulkan."
        )
    return value


def domain(value: str) -> str:
    """The name of a domain: lowercase letters, digits, ``-`` and ``_``."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
        raise click.BadParameter(f"{value!r} is not a valid domain: use lowercase letters, digits, - and _.")
    return value


def size(value: str) -> int | str:
    """``auto``, ``full``, ``output``, or pixels."""
    if value in ("auto", "full", "output"):
        return value
    if not value.isdecimal() or int(value) == 0:
        raise click.BadParameter(f"{value!r} is not a valid size: use auto, full, output or a number of pixels.")
    return int(value)


def tile(value: str) -> int | str:
    """``auto``, ``off``, or pixels."""
    if value in ("auto", "off"):
        return value
    if not value.isdecimal() or int(value) < SMALLEST_TILE:
        raise click.BadParameter(f"{value!r} is not a valid tile: use auto, off or at least {SMALLEST_TILE} pixels.")
    return int(value)


def batch_size(value: str) -> int | None:
    """A number of pictures, or None for ``auto``."""
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) == 0:
        raise click.BadParameter(f"{value!r} is not a valid batch size: use auto or a number of pictures.")
    return int(value)


def together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Combines decorators into one. Help shows the options in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _set(loudness: Loudness) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            set_loudness(ctx, loudness)

    return callback


loudness_options = together(
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_set(Loudness.QUIET),
        help="Print only errors and warnings.",
    ),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_set(Loudness.VERBOSE),
        help="Print every file, the settings chosen and why, and the causes of an error.",
    ),
)
"""``--quiet`` and ``--verbose``, for every command that does work; see :mod:`cgpipe.cli.terminal`."""

foreign_options = together(
    click.option(
        "--direction",
        type=click.Choice(["AtoB", "BtoA"], case_sensitive=False),
        metavar="AtoB|BtoA",
        help="Generator to load from a checkpoint that holds both directions.",
    ),
    click.option("--generator", metavar="NAME", help="Generator to load from a checkpoint that holds several."),
    click.option(
        "--batch-statistics",
        is_flag=True,
        help="Let batch norm of another project's network use each picture's own statistics, as its test does.",
    ),
)
"""``direction``, ``generator`` and ``batch_statistics``, for files of other projects."""

program_option = click.option(
    "--input",
    "model_inputs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of an extra input of an ONNX network: comma-separated numbers, the index of a one-hot vector, "
    "index:weight pairs (3:0.5,12:0.5), a .npy file, or a picture. Repeatable.",
)

_RANGES = click.Choice(["-1..1", "0..1", "0..255"])

program_options = together(
    program_option,
    click.option(
        "--layout", type=click.Choice(["nchw", "nhwc"]), help="Axis order of an ONNX network, if it cannot be detected."
    ),
    click.option("--pixels", type=_RANGES, help="Pixel range of an ONNX network's input, if it cannot be detected."),
    click.option("--output-pixels", type=_RANGES, help="Pixel range of its output, if it cannot be detected."),
    click.option("--order", type=click.Choice(["rgb", "bgr"]), help="Channel order.  [default: rgb]"),
)
"""``model_inputs``, and what an ONNX file does not declare."""

model_options = together(
    click.option("--to", metavar="DOMAIN", shell_complete=complete.targets, help="Target domain, such as zebra."),
    click.option(
        "--from",
        "source",
        metavar="DOMAIN",
        shell_complete=complete.sources,
        help="Source domain, if --to alone is ambiguous.",
    ),
    click.option(
        "--model",
        metavar="FILE|NAME",
        shell_complete=complete.models,
        help="A model's name, a model file or checkpoint, hf://OWNER/NAME[/FILE], or https://…#sha256=SUM.",
    ),
    foreign_options,
    program_option,
)
"""``to``, ``source``, ``model``, ``direction`` and so on: the choice of a model."""


like_options = together(
    click.option(
        "--like",
        multiple=True,
        type=LocalPath(path_type=Path),
        metavar="PAINTING",
        help="Train the look of this painting on the job's own pictures. The model is kept, and --to NAME finds it. "
        "Repeatable: one look of several paintings. Needs the extra metrics.",
    ),
    click.option(
        "--like-steps",
        type=click.IntRange(min=1),
        default=600,
        help="Training steps of the look; 600 take two to three minutes on one idle core.",
    ),
    click.option(
        "--like-strength",
        type=click.FloatRange(0.1, 10),
        default=1.0,
        help="Weight of the style against the content in training.",
    ),
    click.option(
        "--like-now",
        is_flag=True,
        help="Skip training and use a network that takes any painting: immediate, but less accurate. Needs the extra "
        "styles.",
    ),
)
"""``like`` and how it is learned."""


def sheet_option(name: str) -> Callable[[Command], Command]:
    """``sheet``: the picture that a command writes, called ``name`` unless told otherwise."""
    return click.option(
        "-o",
        "--output",
        "sheet",
        type=LocalPath(dir_okay=False, path_type=Path),
        default=Path(name),
        help="Picture to write.",
    )


def engine_of(engine: str | None, compile: bool, torchscript: bool) -> str:
    """The engine, from ``--engine`` and its two short forms."""
    named = [name for name, given in (("compile", compile), ("torchscript", torchscript)) if given]
    if len({*named, *([engine] if engine else [])}) > 1:
        raise click.UsageError("--engine, --compile and --torchscript are mutually exclusive: give one of them.")
    return engine or (named[0] if named else "auto")


speed_options = together(
    click.option(
        "--size",
        type=size,
        default="auto",
        metavar="auto|full|output|PIXELS",
        help="Short side at which the network runs. The output keeps the input's size: the change is upsampled to it. "
        "auto: the picture's own size if the model supports it, else the nearest supported one; 256 for larger "
        "pictures; for a painter's strokes, where the model's file says so, a third of the picture's, up to 512. A "
        "model of unknown scales gets pictures unscaled, up to 2 megapixels. output: for an upscaler, whose results "
        "keep the size that it gives them.",
    ),
    click.option(
        "--strength",
        type=click.FloatRange(0, 2),
        default=1.0,
        help="Blend strength: 0 = original, 1 = full translation, above 1 exaggerates.",
    ),
    click.option(
        "--mask",
        type=Place(path_type=Path),
        help="Grayscale masks: white is translated, black is kept. A folder with one mask of the same name per "
        "picture, one picture for all, or, for a video, another video.",
    ),
    click.option(
        "--tile",
        type=tile,
        default="auto",
        metavar="auto|off|PIXELS",
        help="Run the network over larger pictures in tiles of this side. auto: if the whole does not fit into memory.",
    ),
    click.option(
        "--tile-mode",
        type=click.Choice(["exact", "fast"]),
        default="exact",
        help="exact: same result as without tiles, in one pass per norm layer. fast: one pass, with norm statistics of "
        "a downscaled picture, which changes colours slightly.",
    ),
    click.option(
        "--batch-size",
        type=batch_size,
        default="auto",
        metavar="auto|COUNT",
        help="Pictures per batch. auto: 1 on a CPU; on a GPU doubled for as long as that is faster.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=0),
        help="Processes that decode pictures, or threads that decode a video.  [default: one per four CPUs, with a GPU "
        "one per two; for video 1 to 8]",
    ),
    click.option("--prefetch", "ahead", type=click.IntRange(min=1), default=2, help="Batches to decode ahead."),
    click.option(
        "--device",
        type=device,
        default="auto",
        metavar="auto|cpu|cuda[:N,...]|mps|xpu|vulkan",
        help="Device; several GPUs (cuda:0,cuda:1) share the work. mps (Apple) and xpu (Intel) are untested; vulkan is "
        "any GPU, by ncnn (extra).",
    ),
    click.option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        default="auto",
        help="Numeric precision (dtype) of the network. auto: fp16 on a GPU unless it is inaccurate; bf16 on a CPU "
        "that has it, if it is faster; else fp32.",
    ),
    click.option(
        "--engine",
        type=click.Choice(get_args(Engine)),
        help="Inference engine. auto: eager, or ncnn for small networks on a CPU without bf16. onnx, openvino and ncnn "
        "are extras: pip install 'cgpipe[ncnn]'.  [default: auto]",
    ),
    click.option("--compile", is_flag=True, help="Same as --engine compile (torch.compile): slow to start."),
    click.option("--torchscript", is_flag=True, help="Same as --engine torchscript."),
)
"""``size``, ``strength`` and ``mask``; ``batch_size``, ``workers`` and ``prefetch``; ``device``, ``precision``; and
``engine``, ``compile`` and ``torchscript`` for :func:`engine_of`."""

work_options = together(
    click.option(
        "--overwrite",
        is_flag=True,
        help="Redo what is up to date, and replace files that cgpipe did not make.",
    ),
    click.option("--checksum", is_flag=True, help="Detect changed inputs by content instead of size and time."),
    click.option(
        "--shard",
        metavar="I/N",
        help="Translate only the I-th of N shards, split by name: run the same command N times, on any machines "
        "that share the files. 'cgpipe report OUTPUT' joins their reports.",
    ),
    click.option(
        "--ray",
        is_flag=False,
        flag_value="local",
        metavar="[ADDRESS]",
        help="Translate on a Ray cluster whose machines share the files: auto, HOST:PORT or ray://HOST:PORT. Without "
        "an address (as the last option), a cluster of this machine only. Extra: pip install 'cgpipe[ray]'.",
    ),
)
"""``overwrite`` and ``checksum``: what is redone; ``shard``: which part; ``ray``: where."""

gallery_option = click.option(
    "--gallery",
    is_flag=True,
    help="Write a before/after gallery, <OUTPUT>.html, which any browser opens from disk.",
)
"""``gallery``: an HTML page of the results."""


class ReportPlace(LocalPath):
    """A file for a report, or ``-``; a file that is no report is refused, before anything is done."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from cgpipe.jobs.report import require_report

        path = super().convert(value, param, ctx)
        require_report(path)
        return path


report_option = click.option(
    "--json",
    "report_file",
    type=ReportPlace(dir_okay=False, path_type=Path),
    help="Write a JSON report to this file; - is standard output.",
)
"""``report_file``: where a job writes its report."""

STANDARD_OUTPUT = Path("-")
"""The ``report_file`` for standard output. Other output then goes to standard error."""

json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""``as_json``: a machine-readable listing."""


recipe_options = together(
    click.option(
        "--config",
        "recipe",
        type=LocalPath(dir_okay=False, path_type=Path),
        shell_complete=complete.recipes,
        help="Recipe: settings in TOML.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Resume the run in --checkpoint-dir exactly where it stopped, with its own recipe; other options override "
        "it. One that has saved nothing yet starts.",
    ),
)
"""``recipe`` and ``resume``: where a run's settings come from."""


def setting_options(config: type, *, leave_out: Collection[str] = ()) -> Callable[[Command], Command]:
    """One option for each setting of a run, except those in ``leave_out``.

    No option has a default, which would override the recipe; the help shows the setting's default.
    """
    hints = get_type_hints(config)
    shown = [f for f in fields(config) if f.name not in leave_out]
    return together(*(_setting_option(f, hints[f.name], _section_of(f.name, config)) for f in shown))


def _section_of(name: str, config: type) -> str:
    """The help section of a setting: the first group of settings that declares it."""
    group = next(cls for cls in reversed(config.__mro__) if name in vars(cls).get("__annotations__", ()))
    return f"{group.__name__.removesuffix('Settings')} options" if group is not config else "Options"


class SettingOption(click.Option):
    """An option in a section of the help of a :class:`SectionedCommand`."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help shows its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], "Data options": []}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record:
                sections.setdefault(getattr(option, "section", "Options"), []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _setting_option(setting: Field[object], hint: object, section: str) -> Callable[[Command], Command]:
    flag = setting.metadata.get("flag", setting.name).replace("_", "-")
    kind: object = hint
    if get_origin(hint) is Literal:
        kind = click.Choice(get_args(hint), case_sensitive=False)
    elif get_origin(hint) is tuple and Path not in get_args(hint):
        kind = get_args(hint)[0]
    elif Path in (hint, *get_args(hint)):
        kind = LocalPath(file_okay=setting.metadata["files"], path_type=Path)
    names = f"--{flag}/--no-{flag}" if hint is bool else f"--{flag}"
    taken = "" if setting.default in (None, "", ()) else f"  [{setting.default}]"
    text = f"{setting.metadata['help']}{taken}"
    more: dict[str, object] = {"multiple": True, "callback": _none_for_none} if get_origin(hint) is tuple else {}
    return click.option(
        names, setting.name, cls=SettingOption, section=section, type=kind, default=None, help=text, **more
    )


def _none_for_none(ctx: click.Context, param: click.Parameter, value: tuple[object, ...]) -> tuple[object, ...] | None:
    """An option that may be given several times overrides a recipe only where it is given."""
    return value or None
