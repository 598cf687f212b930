"""Options that several commands share, as decorators."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from cgpipe.cli import complete
from cgpipe.cli.terminal import Loudness, set_loudness
from cgpipe.storage import require_local

Command = TypeVar("Command", bound=Callable[..., Any])


class LocalPath(click.Path):
    """A path on this machine; an address such as ``s3://bucket`` is wrong usage, and no folder called ``s3:``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        require_local(value)
        return super().convert(value, param, ctx)


def device(value: str) -> str:
    """``auto``, ``cpu``, ``cuda``, or GPUs such as ``cuda:0,cuda:1``; whether they are there is found out on use."""
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)|(cuda|xpu):\d+(,(cuda|xpu):\d+)*", value):
        raise click.BadParameter(f"{value!r} is none of auto, cpu, cuda, cuda:N, cuda:N,cuda:M, mps and xpu.")
    return value


def domain(value: str) -> str:
    """The name of a domain: lowercase letters, digits, ``-`` and ``_``."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
        raise click.BadParameter(f"{value!r} is no domain: use lowercase letters, digits, - and _.")
    return value


def size(value: str) -> int | str:
    """``auto``, ``full``, or pixels."""
    if value in ("auto", "full"):
        return value
    if not value.isdecimal() or int(value) == 0:
        raise click.BadParameter(f"{value!r} is none of auto, full and a number of pixels.")
    return int(value)


def batch_size(value: str) -> int | None:
    """A number of pictures, or None for ``auto``."""
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) == 0:
        raise click.BadParameter(f"{value!r} is neither auto nor a number of pictures.")
    return int(value)


def together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """One decorator of several, shown in help in the order in which they stand here."""

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
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_set(Loudness.QUIET), help="Say only what fails."
    ),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_set(Loudness.VERBOSE),
        help="Name each file, what was chosen and why, and the causes of an error.",
    ),
)
"""``--quiet`` and ``--verbose``, for every command that works; see :mod:`cgpipe.cli.terminal`."""

foreign_options = together(
    click.option(
        "--direction",
        type=click.Choice(["AtoB", "BtoA"], case_sensitive=False),
        metavar="AtoB|BtoA",
        help="Which generator to take from another project's file that holds both.",
    ),
    click.option(
        "--generator", metavar="NAME", help="Which generator to take from another project's file that holds several."
    ),
    click.option(
        "--batch-statistics",
        is_flag=True,
        help="Normalise another project's network with batch norm by each picture's own statistics, as its test does.",
    ),
)
"""``direction``, ``generator`` and ``batch_statistics``, for files of other projects."""

program_option = click.option(
    "--input",
    "model_inputs",
    multiple=True,
    metavar="NAME=VALUE",
    help="What an ONNX network takes besides the picture: numbers with commas between them, the place of a 1 among 0s, "
    "places and numbers (3:0.5,12:0.5), a file .npy, or a picture. May be given several times.",
)

_RANGES = click.Choice(["-1..1", "0..1", "0..255"])

program_options = together(
    program_option,
    click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Axes that an ONNX network takes, if not seen."),
    click.option("--pixels", type=_RANGES, help="Range of the pixels that an ONNX network takes, if not seen."),
    click.option("--output-pixels", type=_RANGES, help="Range of the pixels that it gives, if not seen."),
    click.option("--order", type=click.Choice(["rgb", "bgr"]), help="Its channels.  [default: rgb]"),
)
"""``model_inputs``, and what a file with a program does not say."""

model_options = together(
    click.option(
        "--to", metavar="DOMAIN", shell_complete=complete.targets, help="What the result shows, such as zebra."
    ),
    click.option(
        "--from",
        "source",
        metavar="DOMAIN",
        shell_complete=complete.sources,
        help="What the input shows, where --to alone is not clear.",
    ),
    click.option(
        "--model",
        metavar="FILE|NAME",
        shell_complete=complete.models,
        help="A model file, of any known project, a model's name, hf://OWNER/NAME[/FILE], or https://…#sha256=SUM.",
    ),
    foreign_options,
    program_option,
)
"""``to``, ``source``, ``model``, ``direction`` and so on: which model is used, and how."""


def engine_of(engine: str | None, compile: bool, torchscript: bool) -> str:
    """What runs the network, by the option and its two short forms."""
    named = [name for name, given in (("compile", compile), ("torchscript", torchscript)) if given]
    if len({*named, *([engine] if engine else [])}) > 1:
        raise click.UsageError("--engine, --compile and --torchscript exclude one another.")
    return engine or (named[0] if named else "auto")


speed_options = together(
    click.option(
        "--size",
        type=size,
        default="auto",
        metavar="auto|full|PIXELS",
        help="Short side at which the network works. The result has the picture's own size: the change is brought up "
        "to it. auto: as it is where that is one of the model's scales, else one of them; of larger pictures 256. A "
        "model of unknown scales sees pictures as they are, up to 2 megapixels.",
    ),
    click.option(
        "--strength", type=click.FloatRange(0, 2), default=1.0, help="Multiplies the change; 0 leaves the picture."
    ),
    click.option(
        "--mask",
        type=LocalPath(path_type=Path),
        help="Grey pictures that confine the change: white translates, black keeps the original. A folder with one of "
        "the same name for each picture, one picture for all, or for a video another video.",
    ),
    click.option(
        "--batch-size",
        type=batch_size,
        default="auto",
        metavar="auto|COUNT",
        help="Pictures translated at a time. auto: one on a CPU; on a GPU doubled until that stops paying.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=0),
        help="Processes that decode pictures, or threads that decode a video.  [default: one for every four processors,"
        " for a video up to 4]",
    ),
    click.option("--prefetch", "ahead", type=click.IntRange(min=1), default=2, help="Batches that are decoded ahead."),
    click.option(
        "--device",
        type=device,
        default="auto",
        metavar="auto|cpu|cuda[:N,...]|mps|xpu",
        help="Where to run; several GPUs, as cuda:0,cuda:1, share the work. mps (Apple) and xpu (Intel) have not been "
        "measured.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16", "bf16"]),
        default="auto",
        help="Numeric precision (dtype) of the network. auto: on a GPU fp16, or another where that is not accurate; "
        "on a CPU bf16 where the processor has it and it is faster.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["auto", "eager", "compile", "torchscript", "onnx", "openvino", "ncnn"]),
        help="What runs the network. auto: eager. onnx, openvino and ncnn are extras: pip install 'cgpipe[ncnn]'.  "
        "[default: auto]",
    ),
    click.option("--compile", is_flag=True, help="The same as --engine compile: slow to start."),
    click.option("--torchscript", is_flag=True, help="The same as --engine torchscript."),
)
"""``size``, ``strength`` and ``mask``; ``batch_size``, ``workers`` and ``prefetch``; ``device``, ``precision``; and
``engine``, ``compile`` and ``torchscript`` for :func:`engine_of`."""

work_options = together(
    click.option(
        "--overwrite",
        is_flag=True,
        help="Translate again what is done and current, and replace files that cgpipe did not make.",
    ),
    click.option(
        "--checksum", is_flag=True, help="Compare the content of inputs, not their size and time, to see changes."
    ),
    click.option(
        "--shard",
        metavar="I/N",
        help="Do the I-th of N parts alone, by name: the same command started N times, on one machine or many that see "
        "the same files, does all. 'cgpipe report OUTPUT' joins their reports.",
    ),
)
"""``overwrite`` and ``checksum``: what is done again; ``shard``: which part of it."""

report_option = click.option(
    "--json",
    "report_file",
    type=LocalPath(dir_okay=False, path_type=Path),
    help="Write the report to this file; - is standard output.",
)
"""``report_file``: where the report of a job goes."""

STANDARD_OUTPUT = Path("-")
"""The ``report_file`` that is no file: what else is said goes to standard error then."""

json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs to read.")
"""``as_json``: a listing in a form for programs."""


def setting_options(config: type, *, leave_out: Collection[str] = ()) -> Callable[[Command], Command]:
    """One option for each setting of a run, but those in ``leave_out``.

    None has a default here, so that a recipe is not overridden by it: what is taken otherwise stands in the help.
    """
    hints = get_type_hints(config)
    shown = [f for f in fields(config) if f.name not in leave_out]
    return together(*(_setting_option(f, hints[f.name], _section_of(f.name, config)) for f in shown))


def _section_of(name: str, config: type) -> str:
    """The heading of a setting's help: the group of settings in which it is declared first."""
    group = next(cls for cls in reversed(config.__mro__) if name in vars(cls).get("__annotations__", ()))
    return f"{group.__name__.removesuffix('Settings')} options" if group is not config else "Options"


class SettingOption(click.Option):
    """An option under a heading of its own in the help of a :class:`SectionedCommand`."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command with many options, which its help shows group by group."""

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


def _setting_option(setting: Field[Any], hint: Any, section: str) -> Callable[[Command], Command]:
    flag = setting.metadata.get("flag", setting.name).replace("_", "-")
    kind: Any = hint
    if get_origin(hint) is Literal:
        kind = click.Choice(get_args(hint), case_sensitive=False)
    elif Path in (hint, *get_args(hint)):
        kind = LocalPath(file_okay=setting.metadata["files"], path_type=Path)
    names = f"--{flag}/--no-{flag}" if hint is bool else f"--{flag}"
    taken = "" if setting.default in (None, "") else f"  [{setting.default}]"
    text = f"{setting.metadata['help']}{taken}"
    return click.option(names, setting.name, cls=SettingOption, section=section, type=kind, default=None, help=text)
