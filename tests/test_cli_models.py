"""The command line's skeleton, and ``cgpipe models``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result
from reference_networks import junyanz_resnet
from shell import CGPIPE, run_python

from cgpipe import __version__
from cgpipe.cli import COMMANDS, cli
from cgpipe.cli.group import CommandGroup
from cgpipe.cli.options import model_options, speed_options
from cgpipe.errors import CgpipeError, ModelError, UsageError
from cgpipe.models import read_card

FileModel = Callable[..., Path]


def run(*arguments: str | Path, group: click.Command = cli, **variables: str) -> Result:
    return CliRunner(env=variables).invoke(group, [str(argument) for argument in arguments], prog_name="cgpipe")


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CGPIPE, *arguments], capture_output=True, text=True, check=False)


def sample_group() -> click.Group:
    """A group with one command that prints what it was given, and others that end in errors."""

    @click.group(cls=CommandGroup, context_settings=cli.context_settings)
    def group() -> None:
        pass

    @group.command()
    @model_options
    @speed_options
    def translate(**options: object) -> None:
        click.echo(json.dumps(options))

    @group.command()
    def fail_usage() -> None:
        raise UsageError("two and two")

    @group.command()
    def fail_model() -> None:
        raise ModelError("broken; copy it again")

    @group.command()
    def wait() -> None:
        raise KeyboardInterrupt

    return group


def all_commands() -> list[tuple[str, ...]]:
    paths: list[tuple[str, ...]] = []

    def visit(group: click.Group, ctx: click.Context, path: tuple[str, ...]) -> None:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            assert command is not None
            paths.append((*path, name))
            if isinstance(command, click.Group):
                visit(command, click.Context(command, parent=ctx, info_name=name), (*path, name))

    visit(cli, click.Context(cli, info_name="cgpipe", auto_envvar_prefix="CGPIPE"), ())
    return paths


@pytest.mark.parametrize("path", [(), *all_commands()], ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_helps(path: tuple[str, ...], flag: str) -> None:
    result = run(*path, flag)
    assert result.exit_code == 0
    assert f"Usage: {' '.join(['cgpipe', *path])}" in result.output


def test_every_option_has_a_help_text_and_a_variable() -> None:
    root = click.Context(cli, info_name="cgpipe", auto_envvar_prefix="CGPIPE")
    seen = set()
    for path in all_commands():
        command: click.Command | None = cli
        ctx = root
        for name in path:
            assert isinstance(command, click.Group)
            command = command.get_command(ctx, name)
            assert command is not None
            ctx = click.Context(command, parent=ctx, info_name=name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{path} {option.name}"
                assert isinstance(option.envvar, str)
                assert option.envvar.startswith("_".join(["CGPIPE", *path]).upper().replace("-", "_") + "_")
                seen.add(option.envvar)
    assert "CGPIPE_MODELS" not in seen, "that is the folder of models"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["models", "--help"], ["models", "list"]])
def test_nothing_that_computes_is_imported_for_what_only_shows(arguments: list[str], models_folder: Path) -> None:
    code = (
        f"import sys; sys.argv = ['cgpipe', *{arguments!r}]; from cgpipe.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'cv2', 'av'} & {*sys.modules}, 'too much was imported'"
    )
    shown = run_python(code)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout


def test_help_of_the_whole_imports_no_command() -> None:
    code = (
        "import sys; sys.argv = ['cgpipe', '--help']; from cgpipe.cli import COMMANDS, main\n"
        "try: main()\n"
        "finally: assert not {module for module, _ in COMMANDS.values()} & {*sys.modules}"
    )
    shown = run_python(code)
    assert shown.returncode == 0, shown.stderr
    for name, (_, text) in COMMANDS.items():
        assert name in shown.stdout
        assert text.split()[0] in shown.stdout


def test_version_is_shown_and_a_variable_of_that_name_does_no_harm(models_folder: Path) -> None:
    assert run("--version").output == f"cgpipe, version {__version__}\n"
    assert run("models", "list", CGPIPE_VERSION="3.2", CGPIPE_HELP="no").exit_code == 0


def test_unknown_command_is_wrong_usage() -> None:
    result = run_process("tranlate")
    assert result.returncode == 2
    assert "No such command" in result.stderr


@pytest.mark.parametrize(
    ("command", "error"),
    [("fail-usage", UsageError("two and two")), ("fail-model", ModelError("broken; copy it again"))],
)
def test_errors_are_said_once_with_their_own_exit_code(command: str, error: CgpipeError) -> None:
    result = run(command, group=sample_group())
    assert result.exit_code == error.exit_code
    assert result.stderr == f"Error: {error}\n"
    assert result.stdout == ""


def test_ctrl_c_ends_with_130_and_a_word() -> None:
    result = run("wait", group=sample_group())
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"


@pytest.mark.parametrize("flag", ["--batch-size", "--batch_size"])
def test_underscores_are_as_good_as_dashes(flag: str) -> None:
    for arguments in ([flag, "7"], [f"{flag}=7"]):
        assert json.loads(run("translate", *arguments, group=sample_group()).output)["batch_size"] == 7


def test_options_come_from_variables_named_after_what_is_typed() -> None:
    variables = {
        "CGPIPE_TRANSLATE_TO": "zebra",
        "CGPIPE_TRANSLATE_FROM": "horse",
        "CGPIPE_TRANSLATE_BATCH_SIZE": "9",
        "CGPIPE_TRANSLATE_COMPILE": "1",
        "CGPIPE_TRANSLATE_DIRECTION": "btoa",
    }
    given = json.loads(run("translate", "--batch-size", "2", group=sample_group(), **variables).output)
    assert (given["to"], given["source"], given["compile"], given["direction"]) == ("zebra", "horse", True, "BtoA")
    assert given["batch_size"] == 2, "the command line goes before the environment"


def test_help_says_once_how_variables_are_named() -> None:
    text = " ".join(run("translate", "--help", group=sample_group()).output.split())
    assert text.count("CGPIPE_TRANSLATE_") == 1
    assert "such as --to by CGPIPE_TRANSLATE_TO." in text


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices(device: str) -> None:
    assert json.loads(run("translate", "--device", device, group=sample_group()).output)["device"] == device


@pytest.mark.parametrize(
    "wrong", [["--device", "gpu"], ["--precision", "int4"], ["--batch-size", "0"], ["--workers", "-1"]]
)
def test_values_out_of_range_are_wrong_usage(wrong: list[str]) -> None:
    result = run("translate", *wrong, group=sample_group())
    assert result.exit_code == 2
    assert wrong[0] in result.stderr


def test_list_shows_own_models_and_damaged_ones(models_folder: Path, file_model: FileModel) -> None:
    file_model(models_folder, "cow", "donkey", description="Longer ears.")
    (models_folder / "broken.safetensors").write_bytes(b"")
    result = run("models", "list")
    assert result.exit_code == 0
    row = next(line for line in result.output.splitlines() if line.startswith("cow2donkey"))
    assert row.split()[1:5] == ["cow", "to", "donkey", "yours"]
    assert row.endswith("Longer ears.")
    assert f"Damaged: {models_folder / 'broken.safetensors'}: It is not a safetensors file" in result.output
    assert str(models_folder) in result.output.splitlines()[-1]


def test_list_for_programs(models_folder: Path, file_model: FileModel) -> None:
    path = file_model(models_folder, "cow", "donkey")
    run("models", "default", "cow2donkey")
    listed = {entry["name"]: entry for entry in json.loads(run("models", "list", "--json").output)}
    assert listed["cow2donkey"]["path"] == str(path)
    assert listed["cow2donkey"]["default"] is True
    assert listed["cow2donkey"]["card"]["target"] == "donkey"


@pytest.mark.parametrize("asked", ["cow2donkey", "donkey", "file"])
def test_show_takes_name_domain_and_file(models_folder: Path, file_model: FileModel, asked: str) -> None:
    figures = {"testA at 256": {"seen as donkey": 0.9}}
    fields = {"quality": figures, "notes": "Weak on calves.", "working_scales": (192, 320), "large_side": 512}
    path = file_model(models_folder, "cow", "donkey", **fields)
    output = run("models", "show", path if asked == "file" else asked).output
    scales = "192 to 320 px, for large pictures up to 512 px"
    for part in ("cow to donkey", scales, "seen as donkey", "0.9", "Weak on calves.", "Apache-2.0", "256 px"):
        assert part in output
    shown = json.loads(run("models", "show", "--json", path if asked == "file" else asked).output)
    assert (shown["path"], shown["quality"], shown["working_scales"]) == (str(path), figures, [192, 320])


def test_show_parts_paragraphs_by_one_line(models_folder: Path, file_model: FileModel) -> None:
    path = file_model(models_folder, "cow", "donkey", notes="Trained on a farm.\n\nWeak on calves.")
    assert run("models", "show", path).output.endswith("\n\nTrained on a farm.\n\nWeak on calves.\n")


def test_show_prints_a_painting_and_what_a_stage_changes(models_folder: Path, file_model: FileModel) -> None:
    stages = [{"from_epoch": 6, "lamda": None, "motion_weight": 5.0}]
    made_by = {"paintings": [{"file": "a.jpg"}, {"file": "b.jpg"}], "recipe": {"stages": stages}, "note": "mine"}
    path = file_model(models_folder, "photo", "waves", made_by=made_by)
    lines = [" ".join(line.split()) for line in run("models", "show", path).output.splitlines()]
    first = lines.index("paintings")
    end = lines.index("note mine")
    told = ["paintings", "file a.jpg", "paintings", "file b.jpg"]
    assert lines[first:end] == [*told, "recipe", "stages", "from epoch 6", "motion weight 5.0"]


def test_show_of_something_unknown_suggests(models_folder: Path, file_model: FileModel) -> None:
    file_model(models_folder, "cow", "donkey")
    result = run("models", "show", "donkye")
    assert result.exit_code == 2
    assert "Did you mean donkey" in result.stderr


def test_import_then_list(tmp_path: Path, models_folder: Path, file_model: FileModel) -> None:
    path = file_model(tmp_path, "cow", "donkey")
    result = run("models", "import", path, "--from", "ox", "--to", "mule", "--name", "stubborn")
    assert result.exit_code == 0, result.output
    assert read_card(models_folder / "stubborn.safetensors").pair == "ox to mule"
    assert "ox to mule" in run("models", "list").output


def test_import_of_a_foreign_file_says_what_it_is(tmp_path: Path, models_folder: Path) -> None:
    torch.save(junyanz_resnet(ngf=4, blocks=6, norm="instance_tracked").state_dict(), tmp_path / "horse2zebra.pth")
    result = run("models", "import", tmp_path / "horse2zebra.pth", "--from", "apple", "--to", "orange")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Recognised as ResNet of pytorch-CycleGAN-and-pix2pix.\n")
    assert result.stdout.endswith(f"apple to orange is now {models_folder / 'apple2orange.safetensors'}\n")
    assert "works at" in run("models", "show", "orange").output


@pytest.mark.parametrize("arguments", [["--from", "Ox"], ["--from", "a b"], ["--to", ""]])
def test_import_refuses_what_is_no_domain(tmp_path: Path, file_model: FileModel, arguments: list[str]) -> None:
    result = run("models", "import", file_model(tmp_path), *arguments)
    assert result.exit_code == 2
    assert "is not a valid domain" in result.stderr


def test_import_of_nonsense_is_an_error_not_a_trace(tmp_path: Path, models_folder: Path) -> None:
    (tmp_path / "model.pth").write_bytes(os.urandom(100))
    result = run("models", "import", tmp_path / "model.pth", "--from", "cow", "--to", "donkey")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path / 'model.pth'}")
    assert list(models_folder.iterdir()) == []


def test_default_is_shown_set_and_reset(models_folder: Path, file_model: FileModel) -> None:
    file_model(models_folder, "cow", "donkey")
    assert "cow to donkey" in run("models", "default", "cow2donkey").output
    assert run("models", "default").output == "cow2donkey: cow to donkey (your own, the default)\n"
    assert run("models", "default", "cow2donkey", "--reset").exit_code == 2
    run("models", "default", "--reset")
    assert "cow" not in run("models", "default").stdout


def test_interrupted_process_ends_with_130() -> None:
    code = (
        "import time, click; from cgpipe.cli import cli\n"
        "@cli.command()\n"
        "def wait(): click.echo('ready'); time.sleep(60)\n"
        "cli(['wait'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "Interrupted.\n"
    assert process.returncode == 130
