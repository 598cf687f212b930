"""``cgpipe models``: what there is, what a model says about itself, and taking in files of other projects."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cgpipe.cli import complete
from cgpipe.cli.group import CommandGroup
from cgpipe.cli.options import LocalPath, domain, foreign_options, json_flag, loudness_options, program_options
from cgpipe.cli.terminal import say, show

if TYPE_CHECKING:
    from cgpipe.engine.export import Format
    from cgpipe.models import Entry, Model, ModelCard

Row = tuple[str, str]

_PLACES = {"user": "yours", "shipped": "shipped", "styles": "extra", "file": "file"}
_TEXT_WIDTH = 100


@click.group(cls=CommandGroup)
def command() -> None:
    """List, show, import and export models, and choose the default one.

    Your own models live in one folder: $CGPIPE_MODELS, or else a folder that `cgpipe models list` names.
    """


@command.command("list")
@json_flag
def list_(as_json: bool) -> None:
    """List the models that --to can find.

    Yours come first, then those that ship with cgpipe. A model of yours takes the place of a shipped one of the same
    pair.
    """
    from cgpipe.errors import ModelError
    from cgpipe.models import find_model, list_models, user_models_folder

    entries = list_models()
    try:
        default: Entry | None = find_model().entry
    except ModelError:
        default = None
    if as_json:
        show(json.dumps([_entry_values(entry, default) for entry in entries], indent=2))
        return
    rows = [_list_row(entry, default) for entry in entries if entry.card]
    _print_table([("NAME", "TRANSLATES", "WHERE", "SIZE", ""), *rows])
    for entry in entries:
        if entry.problem:
            show(f"Damaged: {entry.problem}")
    show(f"\nYour own models: {user_models_folder()}")


@command.command("show", short_help="Show what a model says about itself.")
@click.argument("model", required=False, metavar="[NAME|DOMAIN|FILE]", shell_complete=complete.models)
@foreign_options
@program_options
@json_flag
def show_(model: str | None, as_json: bool, **options: Any) -> None:
    """Show what a model says about itself: by its name, by the domain it translates to, or by its file.

    Without an argument, the default model.
    """
    from cgpipe.models import load_any

    entry = _look_up(model)
    # Only a file of another project has no card before it is loaded.
    card = entry.card or load_any(entry.path, **_ways(options)).card
    if as_json:
        values = {"name": entry.name, "path": str(entry.path), "place": entry.place, **asdict(card)}
        show(json.dumps(values, indent=2))
        return
    show(f"{entry.name}: {card.pair}")
    if card.description:
        show(card.description)
    show("")
    _print_table(list(_show_rows(entry, card)))
    for paragraph in card.notes.splitlines():
        show("\n" + textwrap.fill(paragraph, _TEXT_WIDTH))


@command.command("import")
@click.argument("file", type=LocalPath(exists=True, dir_okay=False, path_type=Path))
@click.option("--from", "source", type=domain, metavar="DOMAIN", help="What goes in; a file of cgpipe's own knows.")
@click.option("--to", "target", type=domain, metavar="DOMAIN", help="What comes out; a file of cgpipe's own knows.")
@click.option("--name", help="What to call it.  [default: <from>2<to>]")
@foreign_options
@program_options
@click.option("--overwrite", is_flag=True, help="Replace a model of that name.")
@loudness_options
def import_(file: Path, **options: Any) -> None:
    """Take a model file into your folder, so that --to finds it.

    FILE can be one of cgpipe's own, or a checkpoint with a generator of another project: pytorch-CycleGAN-and-pix2pix,
    CUT, cycleGAN-PyTorch, PyTorch-GAN, pix2pixHD, mmgeneration, U-GAT-IT, AnimeGANv2, fast neural style, or white-box
    cartoonisation. Which one is seen by its content. Nothing in it is ever run.

    It can also be a network as ONNX, which takes and gives pictures of one size: how is found with a test card, where
    the file does not say, and kept with the model.
    """
    from cgpipe.models import import_model

    entry = import_model(file, **_ways(options))
    assert entry.card is not None
    if "recognised_as" in entry.card.made_by:
        recognised = f"Recognised as {entry.card.made_by['recognised_as']}."
        say("\n".join([recognised, *entry.card.notes.splitlines()]), err=False)
    say(f"{entry.card.pair} is now {entry.path}", err=False)


@command.command()
@click.argument("model", metavar="NAME|DOMAIN|FILE", shell_complete=complete.models)
@click.option(
    "--format",
    type=click.Choice(["onnx", "torchscript", "torch-export", "openvino"]),
    required=True,
    help="onnx and openvino are extras: pip install 'cgpipe[onnx]'.",
)
@click.option("-o", "--output", type=LocalPath(path_type=Path), help="File to write.  [default: NAME.SUFFIX, here]")
@click.option(
    "--with-normalisation",
    is_flag=True,
    help="Pixels in and out: (N, H, W, 3) uint8 RGB. Without, (N, 3, H, W) float in [-1, 1].",
)
@click.option(
    "--int8",
    "pictures",
    type=LocalPath(exists=True, path_type=Path),
    metavar="FOLDER",
    help="For onnx: compute in 8-bit integers, in the ranges that pictures like these need. Faster, and less exact: "
    "by how much is said.",
)
@foreign_options
@program_options
@loudness_options
def export(
    model: str, format: Format, output: Path | None, with_normalisation: bool, pictures: Path | None, **options: Any
) -> None:
    """Write a model's network as a file that other programs load.

    It takes any number of pictures of any size, in sides that are multiples of a number which is told. The file is
    compared with the network itself at three sizes before it appears.
    """
    from cgpipe.engine.export import SUFFIXES, export_model
    from cgpipe.models import load_any

    entry = _look_up(model)
    path = output or Path(f"{entry.name}{SUFFIXES[format]}")
    if pictures:
        if format != "onnx" or with_normalisation:
            raise click.UsageError("--int8 goes with --format onnx alone, and without --with-normalisation.")
        _export_int8(load_any(entry.path, **_ways(options)), path, pictures)
        return
    done = export_model(load_any(entry.path, **_ways(options)), path, format, with_normalisation=with_normalisation)
    error = f"error {100 * done.error:.2g}% of white"
    say(f"Written to {path}: sides in multiples of {done.multiple}, {error}.", err=False)


def _export_int8(model: Model, path: Path, pictures: Path) -> None:
    from cgpipe.data.pictures import find_pictures
    from cgpipe.engine.quantise import export_int8

    done = export_int8(model, path, find_pictures(pictures))
    say(
        f"Written to {path}: sides in multiples of {done.multiple}. int8 against fp32 on {done.measured} pictures: "
        f"{done.psnr:.1f} dB, the worst {done.lowest:.1f} dB (from 40 on a difference is hard to see).",
        err=False,
    )


@command.command(short_help="Show or set the model that is used when none is named.")
@click.argument("model", required=False, metavar="[NAME|FILE]", shell_complete=complete.models)
@click.option("--reset", is_flag=True, help="Go back to the model that ships with cgpipe.")
def default(model: str | None, reset: bool) -> None:
    """Show or set the model that is used when neither --to nor --model is given."""
    from cgpipe.errors import UsageError
    from cgpipe.models import find_model, set_default

    if model and reset:
        raise UsageError("--reset takes no model: it goes back to the shipped one")
    show(str(set_default(model) if model or reset else find_model()))


def _ways(options: dict[str, Any]) -> dict[str, Any]:
    """The options of commands as those of :func:`cgpipe.models.load_any`: what is told of a program is one value."""
    from cgpipe.models.probe import Told

    told = Told(**{name: options.pop(name) for name in ("layout", "pixels", "output_pixels", "order")})
    inputs = options.pop("model_inputs")
    return {**options, "inputs": inputs, "told": told}


def _look_up(model: str | None) -> Entry:
    from cgpipe.errors import ModelNotFoundError
    from cgpipe.models import find_model

    try:
        return find_model(file=model).entry
    except ModelNotFoundError:
        if model is None:
            raise
        return find_model(model).entry


def _entry_values(entry: Entry, default: Entry | None) -> dict[str, Any]:
    return {
        "name": entry.name,
        "path": str(entry.path),
        "place": entry.place,
        "default": _is(entry, default),
        "shadowed": entry.shadowed,
        "problem": entry.problem,
        "card": asdict(entry.card) if entry.card else None,
    }


def _is(entry: Entry, other: Entry | None) -> bool:
    """Whether two entries are one; the styles share a file."""
    return other is not None and (entry.path, entry.name) == (other.path, other.name)


def _list_row(entry: Entry, default: Entry | None) -> tuple[str, ...]:
    assert entry.card is not None
    remarks = ["default"] * (_is(entry, default)) + ["hidden by yours"] * entry.shadowed
    remark = f"({', '.join(remarks)}) " if remarks else ""
    return entry.name, entry.card.pair, _PLACES[entry.place], _size(entry.path), f"{remark}{entry.card.description}"


def _show_rows(entry: Entry, card: ModelCard) -> Iterator[Row]:
    yield "file", f"{entry.path} ({_size(entry.path)})"
    yield "architecture", card.architecture
    yield from _nested(card.settings)
    yield "trained at", f"{card.training_size} px" if card.training_size else "unknown"
    yield "works at", _scales(card)
    for title, values in (("made by", card.made_by), ("quality", card.quality)):
        yield title, "" if values else "unknown"
        yield from _nested(values)
    yield "licence", card.licence


def _scales(card: ModelCard) -> str:
    if card.working_scales is None:
        return "unknown: pictures are translated at their full size"
    return "a short side of {} to {} px".format(*card.working_scales)


def _nested(values: Mapping[str, Any], indent: str = "  ") -> Iterator[Row]:
    for name, value in values.items():
        title = indent + name.replace("_", " ")
        if isinstance(value, Mapping):
            yield title, ""
            yield from _nested(value, indent + "  ")
        else:
            yield title, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _size(path: Path) -> str:
    size = path.stat().st_size / 1e6
    return f"{size:.1f} MB" if size < 10 else f"{size:.0f} MB"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        show("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
