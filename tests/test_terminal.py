"""What commands say, how loud, where it cannot be said, and how they end when a signal comes."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import pytest
from click.testing import Result
from shell import CGPIPE, invoke, wait_until

from cgpipe.cli.terminal import escaped
from cgpipe.storage import atomic_write, is_address

fcntl = pytest.importorskip("fcntl", reason="terminals and signals of POSIX")
pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")

QUICK = ["--to", "zebra", "--size", "32", "--workers", "0"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures to translate."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    return folder


def translate(*arguments: str | Path) -> Result:
    return invoke("translate", *arguments, *QUICK)


def translate_into(stream: IO[str] | int, photos: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own with another standard output."""
    command = [*CGPIPE, "translate", str(photos), *QUICK]
    return subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)


# -- what a terminal would obey ----------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pony\x1b[31m.png", r"pony\x1b[31m.png"),
        ("a\rb\x07\x9b", r"a\x0db\x07\x9b"),
        ("gnp.‮ynop", r"gnp.\u202eynop"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\xe9.png"),
        ("čeština 東京 🐎\tok", "čeština 東京 🐎\tok"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_a_line_feed_in_a_name_makes_no_line_of_its_own() -> None:
    assert escaped("a\nFailed: b", one_line=True) == r"a\nFailed: b"


def test_names_of_failed_pictures_are_escaped(photos: Path) -> None:
    names = ["red\x1b[31m.png", "bell\x07.png", "two\nlines.png"]
    for name in names:
        (photos / name).write_bytes(b"no picture")
    done = translate(photos)
    assert (done.exit_code, "\x1b" in done.output, "\x07" in done.output) == (3, False, False)
    assert all(escaped(name, one_line=True) in done.stderr for name in names)
    assert len(done.stderr.splitlines()) == 4
    missing = translate(photos / "missing\x1b(B")
    assert (missing.exit_code, r"missing\x1b(B" in missing.stderr) == (2, True)


def test_options_with_control_characters_are_escaped_too() -> None:
    done = invoke("translate", "x", "--device", "\x1b[31m")
    assert (done.exit_code, "\x1b" in done.output) == (2, False)


# -- how loud ----------


def test_quiet_says_what_fails_and_no_more(photos: Path) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    done = translate(photos, "--quiet")
    assert (done.exit_code, done.stdout) == (3, "")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["Failed"]


def test_verbose_names_each_file_and_what_was_chosen(photos: Path) -> None:
    done = translate(photos, "-v")
    assert done.exit_code == 0
    for number in range(3):
        assert f"Translated: {photos / f'{number}.png'} -> " in done.stderr
    assert "engine" in done.stderr


def test_verbose_names_what_is_no_picture(photos: Path) -> None:
    (photos / "sub").mkdir()
    for name in ("notes.txt", "sub/clip.mp4"):
        (photos / name).write_text("no picture")
    done = translate(photos, "-v")
    named = [line for line in done.stderr.splitlines() if line.startswith("Ignored")]
    assert named == [f"Ignored (not a picture): {photos / name}" for name in ("notes.txt", "sub/clip.mp4")]
    for number in range(150):
        (photos / f"{number}.txt").write_text("no picture")
    many = translate(photos, "-v").stderr
    assert (many.count("Ignored (not a picture): "), "Ignored (not pictures): 52 more" in many) == (100, True)
    assert "Ignored (" not in translate(photos).stderr


@pytest.mark.parametrize(("said", "suffix"), [("jpeg", ".jpg"), ("TIF", ".tif"), ("heif", ".heic"), ("jp2", ".jp2")])
def test_formats_are_known_by_all_their_suffixes(photos: Path, said: str, suffix: str) -> None:
    if suffix == ".heic":
        pytest.importorskip("pillow_heif")
    done = translate(photos / "0.png", "--format", said)
    assert done.exit_code == 0, done.output
    assert (photos / f"0-zebra{suffix}").exists()
    refused = translate(photos / "0.png", "--format", "xyz")
    assert (refused.exit_code, "'jpg', 'png'" in refused.output) == (2, True), refused.output


def test_quiet_and_verbose_exclude_one_another(photos: Path) -> None:
    assert translate(photos, "-q", "-v").exit_code == 2


def working_commands() -> list[tuple[str, ...]]:
    return [
        *((name,) for name in ("translate", "video", "train", "test", "evaluate", "distill")),
        *(("data", "fetch"), ("models", "import"), ("models", "export")),
    ]


@pytest.mark.parametrize("path", working_commands(), ids=" ".join)
def test_every_command_that_works_can_be_quiet_and_verbose(path: tuple[str, ...]) -> None:
    shown = invoke(*path, "--help").output
    assert "-q, --quiet" in shown
    assert "-v, --verbose" in shown


def test_verbose_tells_the_cause_of_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("a = [")
    run = ["train", "--config", str(tmp_path / "bad.toml")]
    assert "because of" not in invoke(*run).stderr
    assert "because of TOMLDecodeError: " in invoke(*run, "-v").stderr


# -- exit codes and suggestions ----------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["translate", "nowhere", "--to", "zebra"], "nowhere does not exist"),
        (["translate", ".", "--to", "zebar"], "Did you mean zebra?"),
        (["translate", ".", "--model", "nosuch.pth"], "no model"),
        (["translate", "photo.jpg", "out"], "or use -o out to write there"),
        (["translate", "-"], "not read from standard input"),
        (["translate", ""], "Is a variable unset?"),
        (["preview", "nowhere.jpg"], "nowhere.jpg does not exist"),
        (["video", "nowhere.mp4", "out.mp4"], "there is no such file"),
        (["models", "show", "zebar"], "Did you mean zebra?"),
        (["train", "--dataset-dir", "nowhere"], "There is no dataset nowhere"),
        (["evaluate", "horse2zebra", "nowhere"], "nowhere"),
        (["data", "fetch", "hors2zebra"], "No dataset is called"),
        (["tranlate"], "Did you mean translate?"),
        (["model", "list"], "Did you mean models?"),
        (["models", "lst"], "Did you mean list?"),
        (["photo.jpg"], "Did you mean cgpipe translate photo.jpg?"),
        (["--quite"], "No such option"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_name_of_nothing_is_wrong_usage_everywhere(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", np.zeros((16, 16, 3), np.uint8))
    done = invoke(*arguments)
    assert (done.exit_code, message in done.output) == (2, True), done.output


def test_the_home_folder_is_meant_by_its_sign_where_no_shell_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    (tmp_path / "photos").mkdir()
    (tmp_path / "~").mkdir()
    assert f"No pictures in {tmp_path / 'photos'}." in invoke("translate", "~/photos").output
    assert f"{tmp_path / 'photos'} is the input" in invoke("translate", "~/photos", "--output=~/photos").output
    assert f"{tmp_path / 'photos'} holds no run" in invoke("runs", "~/photos").output
    monkeypatch.chdir(tmp_path)
    assert "No pictures in ~." in invoke("translate", "~").output, "a folder of this name is meant before"


@pytest.mark.parametrize(
    "arguments",
    [
        ["translate", "photo.jpg", "--json", "https://host/report.json"],
        ["video", "photo.jpg", "rtmp://host/live", "--to", "zebra"],
        ["train", "--dataset-dir", "s3://bucket/horse2zebra"],
        ["evaluate", "horse2zebra", "https://host/dataset"],
        ["models", "import", "https://host/model.pth"],
    ],
    ids=" ".join,
)
def test_addresses_are_refused_and_make_no_folder(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", np.zeros((16, 16, 3), np.uint8))
    done = invoke(*arguments)
    assert (done.exit_code, "is an address, and only files of this machine" in done.output) == (2, True), done.output
    assert "://" in done.output, "both slashes are shown"
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_folder_whose_name_looks_like_an_address_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ab:" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_address("ab:/photos")
    assert is_address("ab:/others") and is_address(Path("s3://bucket")) and not is_address("C:/photos")


def test_the_exit_codes_stand_in_one_table() -> None:
    shown = invoke("--help").output
    assert [int(number) for number in re.findall(r"^ +(\d+)  ", shown, re.MULTILINE)] == [0, 1, 2, 3, 129, 130, 143]


# -- where nothing can be said ----------


def test_a_full_disk_behind_standard_output_is_an_error(photos: Path) -> None:
    with open("/dev/full", "w") as full:
        done = translate_into(full, photos)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Error: Standard output cannot be written: No space left on device."
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["models", "list"], ["translate", "{photos}", *QUICK, "--json", "-"]]
)
def test_nothing_that_is_printed_ends_in_a_traceback(photos: Path, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [*CGPIPE, *(argument.format(photos=photos) for argument in arguments)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("Error: ") and "No space left" in line]
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_report_goes_to_standard_output_and_the_words_to_standard_error(photos: Path) -> None:
    (photos / "red\x1b\u202e.png").write_bytes(b"no picture")
    done = translate(photos, "--json", "-")
    assert done.exit_code == 3
    report = json.loads(done.stdout)
    assert (report["translated"], report["failed"], len(report["files"])) == (3, 1, 4)
    assert done.stdout.isascii() and "\x1b" not in done.stdout
    assert "3 translated, 1 failed" in done.stderr
    assert not Path("-").exists()


def test_a_report_on_a_full_disk_is_an_error_and_the_pictures_are_there(photos: Path) -> None:
    full = photos.parent / "full"
    full.symlink_to("/dev/full")
    done = translate(photos, "--json", full)
    assert (done.exit_code, "No space left on device" in done.stderr) == (1, True), done.output
    assert len(list(Path(f"{photos}-zebra").glob("*.png"))) == 3
    assert full.is_symlink() and full.is_char_device(), "a device is written to, and no file put in its place"


def test_a_reader_that_is_gone_is_an_error(photos: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = translate_into(writer, photos)
    os.close(writer)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "Error: Standard output cannot be written: Broken pipe.",
    )


@pytest.mark.parametrize(("closed", "code"), [("2>&-", 0), ("<&- >&- 2>&-", 1)])
def test_closed_streams_never_take_a_files_place(photos: Path, closed: str, code: int) -> None:
    command = " ".join([*CGPIPE, "translate", str(photos), *QUICK, closed])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(Path(f"{photos}-zebra").glob("*.png"))) == 3


# -- signals ----------


@contextmanager
def at_work(
    photos: Path, *options: str, count: int = 400, prepare: Callable[[], object] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A job that has begun to write, in a group of processes of its own; ``prepare`` is called there first."""
    for number in range(3, count):
        (photos / f"{number}.png").write_bytes((photos / "0.png").read_bytes())
    command = [*CGPIPE, "translate", str(photos), "--to", "zebra", "--size", "64", *options]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
    ) as process:
        output = Path(f"{photos}-zebra")
        wait_until(lambda: any(output.glob("*.png")) or process.poll() is not None)
        yield process


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("number", "word", "workers"),
    [
        (signal.SIGTERM, "Terminated.", "2"),
        pytest.param(signal.SIGHUP, "Hung up.", "0", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "Interrupted.", "2", marks=pytest.mark.slow),
    ],
)
def test_signals_end_a_job_like_ctrl_c(photos: Path, number: signal.Signals, word: str, workers: str) -> None:
    report = photos.parent / "reports" / "r.json"
    with at_work(photos, "--workers", workers, "--json", str(report)) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said.splitlines()[-1]) == (128 + number, word), said
        wait_until(lambda: group_is_gone(process.pid), seconds=3)
    assert list(report.parent.iterdir()) == []
    made = list(Path(f"{photos}-zebra").glob("*.png"))
    assert len(made) < 400, "it was to be stopped before it was done"
    assert all(cv2.imread(str(path)) is not None for path in made)
    left = Path(f"{photos}-zebra").glob(".cgpipe-*")
    assert [path for path in left if not path.name.startswith(".cgpipe-journal")] == []


@pytest.mark.slow
def test_a_signal_to_the_whole_group_makes_no_noise(photos: Path) -> None:
    with at_work(photos, "--workers", "2") as process:
        os.killpg(process.pid, signal.SIGHUP)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 129
    assert said.splitlines()[1:] == ["Hung up."], said


@pytest.mark.slow
def test_nohup_is_respected(photos: Path) -> None:
    def ignore_hangup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with at_work(photos, "--workers", "0", count=40, prepare=ignore_hangup) as process:
        process.send_signal(signal.SIGHUP)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert len(list(Path(f"{photos}-zebra").glob("*.png"))) == 40


# -- the training line ----------

TRAINING_LINE = """
import time
from types import SimpleNamespace
from cgpipe.cli.bar import TrainingBar
names = [f"{kind}_{domain}" for kind in ("discriminator", "adversarial", "cycle", "identity") for domain in "ab"]
with TrainingBar() as bar:
    bar._bar.mininterval = 0
    for step in range(1, 4):
        time.sleep(0.05)
        losses = {name: 0.123 + step for name in names}
        values = dict(epoch=1, losses=losses, pictures=4, warnings=())
        bar.update(SimpleNamespace(step=step, total_steps=12000, **values))
"""


def drawn(columns: int) -> str:
    """The last line that a terminal of so many columns shows."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen([sys.executable, "-c", TRAINING_LINE], stderr=terminal, env=environment) as process:
        os.close(terminal)
        text = b""
        while True:
            try:
                text += os.read(controller, 1 << 16)
            except OSError:  # the end, on Linux
                break
        assert process.wait() == 0
    os.close(controller)
    lines = re.split(r"[\r\n]+", text.decode())
    assert max(map(len, lines)) <= columns
    return [line.rstrip() for line in lines if line.strip()][-1]


@pytest.mark.parametrize(
    ("columns", "losses"),
    [(250, ["discriminator_a 3.123", "identity_b 3.123"]), (80, ["dis_a 3.12"]), (60, []), (40, ["dis_a 3.12"])],
)
def test_the_training_line_fits_the_terminal(columns: int, losses: list[str]) -> None:
    line = drawn(columns)
    assert "3/12000" in line
    assert "/s" in line
    for loss in losses:
        assert loss in line
    assert line.count("|") == (2 if columns >= 60 else 0)


def test_no_file_takes_the_place_of_a_device(tmp_path: Path) -> None:
    device = tmp_path / "device"
    os.mkfifo(device)
    with pytest.raises(FileExistsError, match="device or a pipe"), atomic_write(device) as temporary:
        temporary.write_text("replaced")
    assert device.is_fifo() and list(tmp_path.iterdir()) == [device]


def test_a_file_alone_is_named_as_what_was_written(photos: Path) -> None:
    output = photos.parent / "out.png"
    assert f": {output}\n" in translate(photos / "0.png", output).stdout
    assert f": {photos}-zebra\n" in translate(photos).stdout
