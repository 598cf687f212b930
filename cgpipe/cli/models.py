"""``cgpipe models``: list, show, import and export models."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cgpipe.cli import complete
from cgpipe.cli.bar import CountingBar
from cgpipe.cli.group import CommandGroup
from cgpipe.cli.options import (
    LocalPath,
    device,
    domain,
    foreign_options,
    json_flag,
    loudness_options,
    program_options,
    sheet_option,
)
from cgpipe.cli.terminal import say, show

if TYPE_CHECKING:
    from cgpipe.engine.export import Format
    from cgpipe.models import Entry, Model, ModelCard

Row = tuple[str, str]

_PLACES = {"user": "yours", "shipped": "shipped", "styles": "extra", "file": "file"}
_TEXT_WIDTH = 100


@click.group(cls=CommandGroup)
def command() -> None:
    """List, show, import and export models, and set the default.

    Your own models are in $CGPIPE_MODELS, or in the folder that `cgpipe models list` names.
    """


@command.command("list")
@json_flag
def list_(as_json: bool) -> None:
    """List the models that --to can find.

    Your own come first, then the shipped ones. A model of yours overrides a shipped one of the same pair.
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


@command.command("show", short_help="Show a model's metadata.")
@click.argument("model", required=False, metavar="[NAME|DOMAIN|FILE]", shell_complete=complete.models)
@foreign_options
@program_options
@json_flag
def show_(model: str | None, as_json: bool, **options: Any) -> None:
    """Show a model's metadata, by its name, its target domain or its file; by default the default model's."""
    from cgpipe.models import load_any

    entry = _look_up(model)
    # A checkpoint of another project has no card before it is loaded.
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
    for paragraph in filter(None, card.notes.splitlines()):
        show("\n" + textwrap.fill(paragraph, _TEXT_WIDTH))


@command.command("import")
@click.argument("file", type=LocalPath(exists=True, dir_okay=False, path_type=Path))
@click.option("--from", "source", type=domain, metavar="DOMAIN", help="Source domain; not needed for cgpipe files.")
@click.option("--to", "target", type=domain, metavar="DOMAIN", help="Target domain; not needed for cgpipe files.")
@click.option("--name", help="Name of the model.  [default: <from>2<to>]")
@foreign_options
@program_options
@click.option("--overwrite", is_flag=True, help="Replace a model of the same name.")
@loudness_options
def import_(file: Path, **options: Any) -> None:
    """Import a model file into your models folder, so that --to finds it.

    FILE is a cgpipe model or a checkpoint of another project: pytorch-CycleGAN-and-pix2pix, CUT, cycleGAN-PyTorch,
    PyTorch-GAN, pix2pixHD, mmgeneration, U-GAT-IT, AnimeGANv2, fast neural style or white-box cartoonisation. The
    project is recognised by the file's content. No code in it is ever run.

    FILE may also be an ONNX network from a picture to a picture of the same size. Its layout and pixel ranges are
    detected with a test picture if the file does not declare them, and stored with the model.
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
@click.option("-o", "--output", type=LocalPath(path_type=Path), help="Output file.  [default: NAME.SUFFIX]")
@click.option(
    "--with-normalisation",
    is_flag=True,
    help="Include normalisation: input and output are (N, H, W, 3) uint8 RGB, else (N, 3, H, W) float in [-1, 1].",
)
@click.option(
    "--int8",
    "pictures",
    type=LocalPath(exists=True, path_type=Path),
    metavar="FOLDER",
    help="With --format onnx: quantize to int8, calibrated on these pictures. Faster and less accurate; the PSNR is "
    "printed.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@foreign_options
@program_options
@loudness_options
def export(
    model: str,
    format: Format,
    output: Path | None,
    with_normalisation: bool,
    pictures: Path | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Export a model's network for other programs.

    Batch size and picture size are dynamic; sides must be multiples of a number that is printed. The exported file is
    compared with the original network at three sizes before it is written.
    """
    from cgpipe.engine.export import SUFFIXES, export_model
    from cgpipe.models import load_any

    entry = _look_up(model)
    path = output or Path(f"{entry.name}{SUFFIXES[format]}")
    if pictures:
        if format != "onnx" or with_normalisation:
            raise click.UsageError("--int8 works only with --format onnx and without --with-normalisation.")
        _export_int8(load_any(entry.path, **_ways(options)), path, pictures, overwrite)
        return
    loaded = load_any(entry.path, **_ways(options))
    done = export_model(loaded, path, format, with_normalisation=with_normalisation, overwrite=overwrite)
    error = f"largest error {100 * done.error:.2g}% of the range"
    say(f"Wrote {path}: sides must be multiples of {done.multiple}; {error}.", err=False)


def _export_int8(model: Model, path: Path, pictures: Path, overwrite: bool) -> None:
    from cgpipe.data.pictures import find_pictures
    from cgpipe.engine.quantise import export_int8

    done = export_int8(model, path, find_pictures(pictures), overwrite=overwrite)
    pictures_said = f"{done.measured} picture{'s' * (done.measured > 1)}"
    say(
        f"Wrote {path}: sides must be multiples of {done.multiple}. PSNR of int8 against fp32 on {pictures_said}: "
        f"{done.psnr:.1f} dB, the worst {done.lowest:.1f} dB (above 40, a difference is hard to see).",
        err=False,
    )


@command.command(short_help="Write a model and its card for the Hugging Face hub.")
@click.argument("model", metavar="NAME|DOMAIN|FILE", shell_complete=complete.models)
@click.argument("folder", type=LocalPath(file_okay=False, path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace a card or a model that cgpipe did not make.")
@foreign_options
@program_options
@loudness_options
def push(model: str, folder: Path, overwrite: bool, **options: Any) -> None:
    """Write a model and its card to FOLDER, in the form of the Hugging Face hub.

    Nothing is uploaded: `hf upload OWNER/NAME FOLDER` does that. From then on --model hf://OWNER/NAME finds the model.
    """
    from cgpipe.models import load_any
    from cgpipe.models.hub import write_for_hub

    entry = _look_up(model)
    loaded = load_any(entry.path, **_ways(options))
    file, card = write_for_hub(loaded, entry.path, folder, name=entry.name, overwrite=overwrite)
    say(f"Wrote {file} and {card}. Upload them with: hf upload OWNER/NAME {folder}", err=False)


@command.command(short_help="Show or set the default model.")
@click.argument("model", required=False, metavar="[NAME|FILE]", shell_complete=complete.models)
@click.option("--reset", is_flag=True, help="Restore the shipped default.")
def default(model: str | None, reset: bool) -> None:
    """Show or set the default model, used when neither --to nor --model is given."""
    from cgpipe.errors import UsageError
    from cgpipe.models import find_model, set_default

    if model and reset:
        raise UsageError("--reset takes no model: it restores the shipped default.")
    show(str(set_default(model) if model or reset else find_model()))


@command.command(short_help="Show every look on a photo of yours, on one sheet.")
@click.argument("photo", type=LocalPath(path_type=Path))
@sheet_option("sheet.jpg")
@click.option("--height", type=click.IntRange(64, 2048), default=256, help="Height of each picture, in pixels.")
@click.option("--columns", type=click.IntRange(min=1), help="Pictures beside one another.  [default: about a square]")
@click.option("--device", type=device, default="auto", metavar="auto|cpu|cuda[:N]|mps|xpu|vulkan", help="Where to run.")
@loudness_options
def gallery(photo: Path, sheet: Path, **options: Any) -> None:
    """Make one sheet of PHOTO and what every model for any photo makes of it, each with the name that --to takes.

    Those are the shipped looks, your own, and the 26 of the extra styles where it is installed.
    """
    from cgpipe.jobs.looks_sheet import looks_sheet

    with CountingBar("look") as bar:
        shown = looks_sheet(photo, sheet, on_look=bar.count, **options)
    say(f"{len(shown)} looks: {sheet}", err=False)


def _ways(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a command as keywords of :func:`cgpipe.models.load_any`."""
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


def _entry_values(entry: Entry, default: Entry | None) -> dict[str, object]:
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
    """Whether two entries are the same model; the styles share a file."""
    return other is not None and (entry.path, entry.name) == (other.path, other.name)


def _list_row(entry: Entry, default: Entry | None) -> tuple[str, ...]:
    assert entry.card is not None
    remarks = ["default"] * (_is(entry, default)) + ["overridden"] * entry.shadowed
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
        return "unknown: pictures are translated at full size"
    larger = f", for large pictures up to {card.large_side} px" if card.large_side else ""
    least, most = card.working_scales
    return f"a short side of {least}{f' to {most}' if most > least else ''} px{larger}"


def _nested(values: Mapping[str, object], indent: str = "  ") -> Iterator[Row]:
    for name, value in values.items():
        title = indent + name.replace("_", " ")
        several = value if isinstance(value, list) else [value]
        groups = [one for one in several if isinstance(one, Mapping)]  # such as paintings, or the stages of a run
        for group in groups:
            yield title, ""
            yield from _nested({key: told for key, told in group.items() if told is not None}, indent + "  ")
        if not groups:
            yield title, ", ".join(map(str, several))


def _size(path: Path) -> str:
    size = path.stat().st_size / 1e6
    return f"{size:.1f} MB" if size < 10 else f"{size:.0f} MB"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        show("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
