"""The public names of the package, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from PIL import Image

import cgpipe
from cgpipe.cli import cli

PUBLIC = """
    Batch CgpipeError CgpipeWarning Cut DataError Encoding Failed FileResult FolderReport Frame Hardware Look
    MediaError MissingDependencyError Model ModelCard ModelChoice ModelError ModelNotFoundError TrainingError
    Translator UsageError VideoReport VideoSink VideoSource VideosReport Work __version__ distill evaluate
    find_model list_models load_any load_model save_model train translate_folder translate_video translate_videos
"""


def test_the_public_names_are_these() -> None:
    """Who adds or removes one does it on purpose: it is a promise to users."""
    assert cgpipe.__all__ == sorted(cgpipe.__all__) == PUBLIC.split()
    assert dir(cgpipe) == cgpipe.__all__
    assert {name for names in cgpipe._HOMES.values() for name in names} | {"__version__"} == set(cgpipe.__all__)


@pytest.mark.parametrize("name", PUBLIC.split())
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(cgpipe, name) is not None


OPTIONS = Path(__file__).parent / "public_options.txt"


def command_options() -> Iterator[str]:
    """``command argument`` and ``command --flag``, a line each, for every command."""

    def visit(command: click.Command, path: str) -> Iterator[str]:
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                inner = command.get_command(click.Context(command), name)
                assert inner is not None
                yield from visit(inner, f"{path} {name}")
        else:
            arguments = [p.human_readable_name for p in command.params if isinstance(p, click.Argument)]
            flags = [flag for p in command.params for flag in (*p.opts, *p.secondary_opts) if flag.startswith("-")]
            yield from (f"{path} {word}" for word in [*arguments, *sorted(flags)])

    return visit(cli, "cgpipe")


def test_the_options_of_every_command_are_these() -> None:
    """Who adds or removes one does it on purpose: python tests/test_public.py writes the list."""
    assert list(command_options()) == OPTIONS.read_text(encoding="utf-8").splitlines()


def test_another_name_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="'cgpipe' has no attribute 'translate_foldr'"):
        _ = cgpipe.translate_foldr  # type: ignore[attr-defined]


def loaded_by(code: str) -> set[str]:
    """The top-level modules that are loaded after ``code`` has run in a process of its own."""
    listing = "import sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", f"{code}\n{listing}"], capture_output=True, text=True, check=True)
    return set(result.stderr.split())


SLOW = {"torch", "torchvision", "cv2", "av"}


def test_importing_the_package_loads_nothing_slow() -> None:
    assert not loaded_by("import cgpipe, cgpipe.cli") & SLOW


def test_help_loads_nothing_slow() -> None:
    code = (
        "import sys; from cgpipe.cli import COMMANDS, cli\n"
        "for command in ('', *COMMANDS):\n"
        "    cli([*command.split(), '--help'], standalone_mode=False)\n"
        f"    assert not {SLOW} & {{*sys.modules}}, command"
    )
    assert "click" in loaded_by(code)


def test_a_job_that_finds_everything_done_loads_nothing_slow(tmp_path: Path) -> None:
    picture, output = tmp_path / "a.png", tmp_path / "out"
    Image.new("RGB", (32, 32), "green").save(picture)
    cgpipe.translate_folder(picture, output, to="zebra")
    job = ["translate", str(picture), "-o", str(output), "--to", "zebra"]
    command = f"from cgpipe.cli import cli; cli({job!r}, standalone_mode=False)"
    again = f"assert cgpipe.translate_folder({str(picture)!r}, {str(output)!r}, to='zebra').skipped == 1"
    assert not loaded_by(f"import cgpipe; {command}; {again}") & (SLOW | {"numpy", "PIL"})


def test_the_check_sees_torch_where_it_is_loaded() -> None:
    assert "torch" in loaded_by("import cgpipe; cgpipe.Translator")


if __name__ == "__main__":
    OPTIONS.write_text("".join(f"{line}\n" for line in command_options()), encoding="utf-8")
