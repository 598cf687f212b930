"""What was made, and whether it is current: journals in the folders of outputs, used by real jobs on real files."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import make_clip
from PIL import Image
from shell import invoke

import cgpipe
from cgpipe import storage
from cgpipe.errors import CgpipeWarning, MediaError, UsageError
from cgpipe.jobs.journal import NAME, Entry, FolderJournal, Journal, Standing, stamps_of
from cgpipe.options import PIXELS_VERSION
from cgpipe.storage import Stamp, atomic_write

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def models(models_folder: Path, file_model: Any) -> Path:
    file_model(models_folder, "horse", "zebra")
    file_model(models_folder, "zebra", "horse")
    return models_folder


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*reversed(size), 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.png")):
        picture(tmp_path / "photos" / name, number)
    age(tmp_path / "photos")
    return tmp_path / "photos"


def age(folder: Path, seconds: float = 100) -> None:
    """Makes everything in a folder older."""
    for path in folder.rglob("*"):
        moment = path.stat().st_mtime - seconds
        os.utime(path, (moment, moment))


def counts(*args: Any, **options: Any) -> tuple[int, int, int]:
    report = cgpipe.translate_folder(*args, **({"to": "zebra", "workers": 0} | options))
    return report.translated, report.skipped, len(report.failures)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


# --- a rerun with other options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [{"strength": 0.5}, {"size": 16}, {"to": "horse"}, {"quality": 50}, {"model": "zebra2horse", "to": None}],
    ids=str,
)
def test_what_was_made_with_other_options_is_made_again(photos: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    out = tmp_path / "out"
    assert counts(photos, out) == (3, 0, 0)
    before = bytes_of(out)
    assert counts(photos, out, **other) == (3, 0, 0)
    assert bytes_of(out) != before
    assert counts(photos, out, **other) == (0, 3, 0)
    assert counts(photos, out) == (3, 0, 0)
    assert bytes_of(out) == before


@pytest.mark.parametrize("same", [{"precision": "fp32"}, {"workers": 1}, {"batch_size": 2}, {"model": "horse2zebra"}])
def test_what_decides_nothing_is_no_reason_to_translate_again(photos: Path, same: dict[str, Any]) -> None:
    counts(photos)
    assert counts(photos, **same) == (0, 3, 0)


def test_the_other_generator_of_a_file_is_another_result(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Whichever generator a foreign file holds, the way through it counts; see also test_options.py."""
    from cgpipe.models.choose import Chosen

    content = Chosen.deciding.func  # type: ignore[attr-defined]

    def as_foreign(self: Chosen) -> dict[str, Any]:
        return content(self) | {"direction": self.choice.direction, "statistics": self.choice.batch_statistics}

    monkeypatch.setattr(Chosen, "deciding", property(as_foreign))
    assert counts(photos, direction="AtoB") == (3, 0, 0)
    assert counts(photos, direction="BtoA") == (3, 0, 0)
    assert counts(photos, direction="BtoA") == (0, 3, 0)
    assert counts(photos, direction="BtoA", batch_statistics=True) == (3, 0, 0)


def test_another_model_of_the_same_name_and_other_pixels(
    photos: Path, models: Path, file_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts(photos)
    file_model(models, "horse", "zebra")
    assert counts(photos) == (3, 0, 0)
    monkeypatch.setattr("cgpipe.options.PIXELS_VERSION", PIXELS_VERSION + 1)
    assert counts(photos) == (3, 0, 0)
    assert counts(photos) == (0, 3, 0)


def test_a_mask_counts_by_what_it_holds(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (24, 20), 255).save(mask)
    out = tmp_path / "out"
    assert counts(photos, out, mask=mask) == (3, 0, 0)
    assert counts(photos, out) == (3, 0, 0)
    counts(photos, out, mask=mask)
    moved = shutil.move(mask, tmp_path / "other name.png")
    monkeypatch.chdir(tmp_path)
    assert counts(photos, out, mask="other name.png") == (0, 3, 0)
    Image.new("L", (24, 20), 0).save(moved)
    os.utime(moved, (1, 1))
    assert counts(photos, out, mask=moved) == (3, 0, 0)


def test_each_mask_of_a_folder_counts_for_its_own_picture(photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    for name in ("a.png", "b.png", "sub/c.png"):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (24, 20), 255).save(masks / name)
    assert counts(photos, mask=masks) == (3, 0, 0)
    assert counts(photos, mask=masks) == (0, 3, 0)
    os.utime(masks / "b.png", (1, 1))
    assert counts(photos, mask=masks) == (1, 2, 0)
    (masks / "b.png").unlink()
    assert counts(photos, mask=masks) == (0, 2, 1)
    assert counts(photos) == (3, 0, 0)


# --- inputs --------------------------------------------------------------------------------------------------------


def test_an_input_is_changed_when_its_time_or_size_is_another(photos: Path) -> None:
    counts(photos)
    os.utime(photos / "a.png", (1, 1))  # as cp -p and mv of an older file do
    assert counts(photos) == (1, 2, 0)
    moment = (photos / "a.png").stat()
    with (photos / "a.png").open("ab") as file:
        file.write(b"more")
    os.utime(photos / "a.png", ns=(moment.st_atime_ns, moment.st_mtime_ns))
    assert counts(photos) == (1, 2, 0)
    assert counts(photos) == (0, 3, 0)


def test_with_checksums_only_content_counts(photos: Path) -> None:
    counts(photos)
    assert counts(photos, checksum=True) == (0, 3, 0)  # which takes them, too
    os.utime(photos / "a.png", (1, 1))
    assert counts(photos, checksum=True) == (0, 3, 0)
    moment = (photos / "sub/c.png").stat()
    content = bytearray((photos / "sub/c.png").read_bytes())
    picture(photos / "sub/c.png", 7)
    fresh = (photos / "sub/c.png").read_bytes()
    (photos / "sub/c.png").write_bytes((fresh + bytes(len(content)))[: max(len(fresh), len(content))])
    os.utime(photos / "sub/c.png", ns=(moment.st_atime_ns, moment.st_mtime_ns))
    assert counts(photos, checksum=True) == (1, 2, 0)
    result = invoke("translate", photos, "--to", "zebra", "--checksum")
    assert "3 already done" in result.output, result.output


# --- what is known, by whom ----------------------------------------------------------------------------------------


def test_a_lost_cache_and_another_user_change_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts(photos)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert counts(photos) == (0, 3, 0)
    assert counts(photos, to="horse", output=tmp_path / "photos-zebra") == (3, 0, 0)


def test_a_part_of_the_outputs_knows_as_much(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos-zebra"
    counts(photos)
    assert counts(photos / "sub", out / "sub") == (0, 1, 0)
    assert counts(photos / "a.png", out / "a.png") == (0, 1, 0)
    assert counts(photos / "sub", out / "sub", strength=0.2) == (1, 0, 0)
    assert counts(photos / "a.png", out / "a.png", strength=0.2) == (1, 0, 0)
    assert counts(photos) == (2, 1, 0)


@pytest.mark.parametrize("copy", [shutil.copy2, shutil.copyfile], ids=["cp -a", "cp -r"])
def test_a_copy_of_a_part_of_the_outputs_knows_as_much(photos: Path, tmp_path: Path, copy: Callable[..., Any]) -> None:
    counts(photos)
    shutil.copytree(tmp_path / "photos-zebra" / "sub", tmp_path / "elsewhere", copy_function=copy)
    assert counts(photos / "sub", tmp_path / "elsewhere") == (0, 1, 0)
    assert counts(photos / "sub", tmp_path / "elsewhere", strength=0.5) == (1, 0, 0)


# --- what cgpipe did not make --------------------------------------------------------------------------------------


def test_a_file_of_the_users_own_is_never_replaced(photos: Path, tmp_path: Path) -> None:
    own = picture(tmp_path / "out" / "a.png", 5)
    before = own.read_bytes()
    age(tmp_path / "out", 1000)
    results: list[cgpipe.FileResult] = []
    report = cgpipe.translate_folder(photos, tmp_path / "out", to="zebra", workers=0, on_result=results.append)
    assert (report.translated, report.exit_code, len(results)) == (2, 3, 3)
    assert "was not made by cgpipe" in report.failures[0].reason
    assert own.read_bytes() == before
    assert counts(photos, tmp_path / "out") == (0, 2, 1)
    assert counts(photos, tmp_path / "out", overwrite=True) == (3, 0, 0)
    assert own.read_bytes() != before
    assert counts(photos, tmp_path / "out") == (0, 3, 0)


def test_a_file_that_is_put_in_the_place_of_an_output_is_noticed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos-zebra"
    counts(photos)
    made = out / "a.png"
    size, moment = made.stat().st_size, made.stat().st_mtime_ns
    made.write_bytes(b"x" * size)
    os.utime(made, ns=(moment + 1, moment + 1))
    assert counts(photos) == (0, 2, 1)
    shutil.copy2(photos / "b.jpg", out / "b.jpg")
    assert counts(photos, strength=0.5) == (1, 0, 2)
    made.unlink()
    assert counts(photos, strength=0.5) == (1, 1, 1)


def test_copies_of_the_originals_are_no_translations(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos-zebra")  # times are kept
    assert counts(photos) == (0, 0, 3)
    shutil.copytree(photos, tmp_path / "newer", copy_function=shutil.copyfile)
    assert counts(photos, tmp_path / "newer") == (0, 0, 3)
    assert bytes_of(tmp_path / "newer") == bytes_of(photos)


def test_an_original_of_the_same_name_in_another_format_is_not_replaced(tmp_path: Path) -> None:
    picture(tmp_path / "q" / "a.tif", 1)
    original = picture(tmp_path / "q" / "a.jpg", 2)
    age(tmp_path / "q")
    os.utime(original, (1, 1))
    before = original.read_bytes()
    result = invoke("translate", tmp_path / "q" / "*.tif", "-o", tmp_path / "q", "--format", "jpg", "--to", "zebra")
    assert result.exit_code == 1, result.output
    assert "was not made by cgpipe" in result.output
    assert original.read_bytes() == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_of_the_same_job_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    pony, own = picture(tmp_path / "p" / "pony.jpg", 1), picture(tmp_path / "p" / "pony-zebra.jpg", 2)
    os.utime(own, (1, 1))
    before = own.read_bytes()
    for inputs in ([pony, own], [tmp_path / "p" / "*.jpg"]):
        report = cgpipe.translate_folder(inputs, to="zebra", workers=0, overwrite=overwrite)
        assert (report.translated + report.skipped, report.exit_code) == (1, 3)
        assert "would overwrite the input" in report.failures[0].reason
        assert own.read_bytes() == before
        assert (tmp_path / "p" / "pony-zebra-zebra.jpg").exists()


def test_a_file_that_appears_during_the_job_is_not_replaced_either(tmp_path: Path) -> None:
    source, output = picture(tmp_path / "a.png"), tmp_path / "out" / "a.png"
    with Journal("f", looks_made=lambda source, output: True) as journal:
        assert journal.standing(output, [source]) is Standing.OPEN
        publish = journal.publisher([source], stamps_of([source]))
        with pytest.raises(MediaError, match="was not made"), atomic_write(output, publish=publish) as temporary:
            temporary.write_text("translation")
            output.write_text("the user's own")
    assert output.read_text() == "the user's own"


def test_what_another_process_has_made_since_the_journal_was_read_is_known(tmp_path: Path) -> None:
    source, output = picture(tmp_path / "a.png"), tmp_path / "a-zebra.png"
    with (
        Journal("f", looks_made=lambda *files: False) as journal,
        Journal("f", looks_made=lambda *files: False) as other,
    ):
        assert journal.standing(output, [source]) is Standing.OPEN
        publish = other.publisher([source], stamps_of([source]))
        with atomic_write(output, publish=publish) as temporary:
            temporary.write_text("translation")
        assert journal.standing(output, [source]) is Standing.CURRENT
        output.write_text("the user's own")
        assert journal.standing(output, [source]) is Standing.FOREIGN


# --- translations beside originals, and output folders inside ------------------------------------------------------


def test_translations_beside_their_originals_are_not_translated_again(photos: Path, tmp_path: Path) -> None:
    assert invoke("translate", photos / "a.png", "--to", "zebra").exit_code == 0
    assert (photos / "a-zebra.png").exists()
    report = cgpipe.translate_folder(photos, to="zebra", workers=0)
    assert (report.translated, report.earlier) == (3, 1)
    assert "1 ignored" in report.summary()
    assert counts(photos / "*.png", to="horse") == (1, 0, 0)
    assert sorted(path.name for path in photos.glob("[!.]*.png")) == ["a-horse.png", "a-zebra.png", "a.png"]
    (photos / "a-horse.png").write_bytes((photos / "b.jpg").read_bytes())  # the user's own now
    assert counts(photos, tmp_path / "out") == (4, 0, 0)
    assert counts(photos / "a-zebra.png", tmp_path / "x.png") == (1, 0, 0)  # named alone, it is meant


def test_an_earlier_output_folder_inside_the_input_is_left_out(photos: Path, tmp_path: Path) -> None:
    assert counts(photos, photos / "results") == (3, 0, 0)
    assert counts(photos, photos / "results") == (0, 3, 0)
    report = cgpipe.translate_folder(photos, tmp_path / "out", to="horse", workers=0)
    assert (report.translated, report.earlier) == (3, 3)
    assert counts(photos / "results", tmp_path / "back", to="horse") == (3, 0, 0)  # named, it is meant


def test_of_two_files_the_second_is_the_output_again(photos: Path, tmp_path: Path) -> None:
    arguments = ("translate", photos / "a.png", tmp_path / "out.jpg", "--to", "zebra")
    first, second = invoke(*arguments), invoke(*arguments)
    assert "1 translated" in first.output
    assert "1 already done" in second.output, second.output
    (tmp_path / "out.jpg").write_text("hello")
    third = invoke(*arguments)
    assert (third.exit_code, "was not made by cgpipe" in third.output) == (1, True), third.output
    assert (tmp_path / "out.jpg").read_text() == "hello"


# --- files from before there was a journal -------------------------------------------------------------------------


def forget(folder: Path) -> None:
    for path in folder.rglob(f"{NAME}*"):
        path.unlink()


def test_files_from_before_are_current_if_they_look_so_and_that_is_said_once(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos-zebra"
    counts(photos)
    forget(out)
    os.utime(out / "a.png", (1, 1))  # older than its input
    picture(out / "b.jpg", 3, size=(10, 10))  # of another size
    with pytest.warns(CgpipeWarning, match=r"that no journal knows.*: \S*c\.png\."):
        assert counts(photos, strength=0.7) == (0, 1, 2)
    assert counts(photos, strength=0.7) == (0, 1, 2)  # without a word
    assert counts(photos) == (0, 0, 3)  # it may be the user's own
    assert counts(photos, overwrite=True) == (3, 0, 0)


# --- several writers, kills, damage --------------------------------------------------------------------------------

JOB = """
import sys, cgpipe
report = cgpipe.translate_folder(sys.argv[1], sys.argv[2], to="zebra", workers=0, strength=float(sys.argv[3]))
assert not report.failures, report.failures
"""


@pytest.mark.slow
def test_two_jobs_at_once_with_different_strengths_end_right_after_a_rerun(tmp_path: Path) -> None:
    for number in range(40):
        picture(tmp_path / "in" / f"{number}.png", number)
    whole, out = tmp_path / "whole", tmp_path / "out"
    counts(tmp_path / "in", whole, strength=0.1)
    command = [sys.executable, "-c", JOB, str(tmp_path / "in"), str(out)]
    jobs = [subprocess.Popen([*command, strength]) for strength in ("1", "0.1")]
    assert [job.wait() for job in jobs] == [0, 0]
    translated, skipped, failed = counts(tmp_path / "in", out, strength=0.1)
    assert (translated + skipped, failed) == (40, 0)
    assert bytes_of(out) == bytes_of(whole)
    assert counts(tmp_path / "in", out, strength=0.1) == (0, 40, 0)
    assert len(list(out.glob(f"{NAME}*"))) <= 2


def test_a_kill_between_the_record_and_the_file_leaves_nothing_unknown(tmp_path: Path) -> None:
    source, output = picture(tmp_path / "a.png"), tmp_path / "out" / "a.png"
    code = f"""
import os
from pathlib import Path
from cgpipe.jobs import journal
from cgpipe.storage import atomic_write
inputs = [Path({str(source)!r})]
os.replace = lambda *names: os.kill(os.getpid(), 9)
made = journal.Journal("f", looks_made=lambda *files: False)
with atomic_write({str(output)!r}, publish=made.publisher(inputs, journal.stamps_of(inputs))) as temporary:
    temporary.write_text("translation")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    storage.remove_stale(output.parent)
    assert [path.name[: len(NAME)] for path in output.parent.iterdir()] == [NAME]
    with Journal("f", looks_made=lambda *files: False) as journal:
        assert journal.standing(output, [source]) is Standing.OPEN
        with atomic_write(output, publish=journal.publisher([source], stamps_of([source]))) as temporary:
            temporary.write_text("translation")
        assert journal.standing(output, [source]) is Standing.CURRENT
    assert len(list(output.parent.glob(f"{NAME}*"))) == 1  # the journal that was left went on


def entry(output: Path, fingerprint: str = "f") -> Entry:
    return Entry("../in/x", fingerprint, (Stamp(1, 2),), Stamp.of(output), storage.digest_of(output)[:16])


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    names = ["a.png", "ünï\n\udcff.png", "b.png"]
    for name in names:
        (tmp_path / name).write_bytes(os.fsencode(name))
    lines = [entry(tmp_path / name).line(name) for name in names]
    assert all(line.count(b"\n") == 1 and line.isascii() for line in lines)
    torn = lines[0][:30] + b"\n" + bytes(range(256)) + b"\n" + lines[2].replace(b"b.png", b"B.png") + b"[]\n\n"
    (tmp_path / f"{NAME}00000000-00000000").write_bytes(lines[0] + torn + lines[1] + lines[2][:-1])
    journal = FolderJournal(str(tmp_path))
    found = [journal.entry(name, Stamp.of(tmp_path / name)) is not None for name in names]
    assert found == [True, True, False]
    assert journal.count == 2


def test_a_journal_of_many_changes_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgpipe.jobs.journal._FEW_LINES", 10)
    source = picture(tmp_path / "a.png")
    for number in range(30):
        with Journal(f"{number}", looks_made=lambda *files: False) as journal:
            for name in ("x.png", "y.png"):
                output = tmp_path / "out" / name
                with atomic_write(output, publish=journal.publisher([source], stamps_of([source]))) as temporary:
                    temporary.write_text(f"{name} {number}")
    (path,) = (tmp_path / "out").glob(f"{NAME}*")
    assert path.read_bytes().count(b"\n") < 20
    with Journal("29", looks_made=lambda *files: False) as journal:
        assert journal.standing(tmp_path / "out/x.png", [source]) is Standing.CURRENT


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = picture(tmp_path / "a.png"), tmp_path / "out" / "a.png"
    write = os.write
    with Journal("f", looks_made=lambda *files: False) as journal:
        monkeypatch.setattr(os, "write", lambda file, line: write(file, line[: len(line) // 2]))
        publish = journal.publisher([source], stamps_of([source]))
        with pytest.raises(OSError, match="No space left"), atomic_write(output, publish=publish) as temporary:
            temporary.write_text("translation")
        monkeypatch.undo()
        assert not output.exists()
        with atomic_write(output, publish=journal.publisher([source], stamps_of([source]))) as temporary:
            temporary.write_text("translation")
    assert FolderJournal(str(output.parent)).entry("a.png", Stamp.of(output))


def test_an_input_that_changed_while_it_was_translated_is_translated_again(tmp_path: Path) -> None:
    source, output = picture(tmp_path / "a.png"), tmp_path / "out" / "a.png"
    with Journal("f", looks_made=lambda *files: False) as journal:
        publish = journal.publisher([source], stamps_of([source]))
        os.utime(source, (1, 1))
        with atomic_write(output, publish=publish) as temporary:
            temporary.write_text("translation")
        assert journal.standing(output, [source]) is Standing.OPEN


def test_an_input_that_was_deleted_while_it_was_translated_costs_nothing(tmp_path: Path) -> None:
    source, output = picture(tmp_path / "a.png"), tmp_path / "out" / "a.png"
    with Journal("f", looks_made=lambda *files: False, checksum=True) as journal:
        publish = journal.publisher([source], stamps_of([source]))
        source.unlink()
        with atomic_write(output, publish=publish) as temporary:
            temporary.write_text("translation")
    assert output.read_text() == "translation"


def test_a_journal_is_compacted_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = tmp_path / f"{NAME}00000000-00000000"
    earlier.write_bytes(b"a line\n")
    write = os.write

    def full(file: int, content: Any) -> int:
        if len(content) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content[:60])

    monkeypatch.setattr(os, "write", full)
    storage.LOCAL.open_log(str(tmp_path), NAME, lambda: [b"x" * 100, b"y" * 20]).close()
    assert earlier.read_bytes() == b"a line\n"


@pytest.mark.slow
def test_a_journal_is_compact(tmp_path: Path) -> None:
    """A million entries in one folder take 155 MB on disk; they are read in 5 seconds, into 275 MB of memory."""
    path = tmp_path / "IMG_20260101_120000.jpg"
    path.write_text("x")
    lines = [entry(path).line(f"IMG_{number}.jpg") for number in range(20_000)]
    (tmp_path / f"{NAME}00000000-00000000").write_bytes(b"".join(lines))
    assert max(map(len, lines)) < 150
    began = time.process_time()
    assert FolderJournal(str(tmp_path)).count == 20_000
    assert time.process_time() - began < 2


# --- videos --------------------------------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = make_clip(tmp_path / "in.mp4", count=6)
    os.utime(path, (path.stat().st_mtime - 100,) * 2)
    return path


@pytest.mark.slow
def test_a_video_is_current_as_long_as_nothing_that_decides_it_changes(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"

    def skipped(**options: Any) -> bool:
        return cgpipe.translate_video(clip, out, **({"to": "zebra"} | options)).skipped

    assert [skipped(), skipped(), skipped(precision="fp32")] == [False, True, True]
    assert [skipped(to="horse"), skipped(to="horse")] == [False, True]
    assert [skipped(crf=30), skipped(crf=30), skipped(audio=False)] == [False, True, False]
    os.utime(clip, (1, 1))
    assert [skipped(audio=False), skipped(audio=False)] == [False, True]
    shutil.move(out, tmp_path / "moved")
    out.write_text("hello")
    with pytest.raises(MediaError, match="was not made by cgpipe"):
        skipped()
    assert out.read_text() == "hello"
    assert [skipped(overwrite=True), skipped()] == [False, True]


def test_a_video_from_before_is_current_if_it_looks_so(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    cgpipe.translate_video(clip, out, to="zebra")
    forget(tmp_path)
    with pytest.warns(CgpipeWarning, match="No journal knows .*out.mp4"):
        assert cgpipe.translate_video(clip, out, to="zebra").skipped
    assert cgpipe.translate_video(clip, out, to="zebra").skipped
    forget(tmp_path)
    shutil.copy(make_clip(tmp_path / "other.mp4", count=6, size=(48, 32)), out)
    with pytest.raises(MediaError, match="was not made by cgpipe"):
        cgpipe.translate_video(clip, out, to="zebra")


def test_videos_never_replace_inputs_and_leave_out_what_was_made_of_others(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    shutil.copy2(clip, folder / "a.mp4")
    assert invoke("video", folder / "a.mp4", "--to", "zebra").exit_code == 0
    assert (folder / "a-zebra.mp4").exists()
    report = cgpipe.translate_videos([folder], tmp_path / "out", to="zebra")
    assert [Path(video.input).name for video in report.videos] == ["a.mp4"]
    shutil.copy2(clip, folder / "in.mp4")
    with pytest.raises(UsageError, match="overwrite the input"):
        cgpipe.translate_videos([clip, folder], folder, to="zebra", overwrite=True)


def interrupted(clip: Path, out: Path) -> None:
    """Translates a clip of three pieces until the second is whole."""

    def stop(frames: int) -> None:
        nonlocal written
        written += frames
        if written > 250:
            raise KeyboardInterrupt

    written = 0
    with pytest.raises(KeyboardInterrupt):
        cgpipe.translate_video(clip, out, to="zebra", on_frames=stop, size=16, overwrite=True)


@pytest.mark.slow
def test_an_interrupted_video_goes_on_unless_its_pictures_would_be_others(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=300, size=(32, 24))
    out = tmp_path / "out.mp4"

    def resumed(**options: Any) -> int:
        interrupted(clip, out)
        return cgpipe.translate_video(clip, out, to="zebra", size=16, overwrite=True, **options).resumed

    assert resumed() == 240
    assert resumed(audio=False) == 240  # sound has nothing to do with pictures
    assert resumed(strength=0.5) == 0


@pytest.mark.slow
def test_a_video_whose_input_was_replaced_meanwhile_begins_anew(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=300, size=(32, 24))
    out = tmp_path / "out.mp4"
    interrupted(clip, out)
    os.utime(clip, (1, 1))
    assert cgpipe.translate_video(clip, out, to="zebra", size=16).resumed == 0


@pytest.mark.slow
def test_a_video_resumed_the_other_way_begins_anew(tmp_path: Path, models: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=300, size=(32, 24))
    out = tmp_path / "out.mp4"
    interrupted(clip, out)
    report = cgpipe.translate_video(clip, out, to="horse", size=16)
    assert report.resumed == 0
