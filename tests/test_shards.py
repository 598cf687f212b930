"""One job as several shards: what each does, what they leave, and the report that they make together."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from clips import damaged, make_clip
from PIL import Image
from runs import bytes_of, make_photos

import cgpipe
from cgpipe.cli import cli
from cgpipe.errors import CgpipeError, UsageError
from cgpipe.jobs.plan import plan_files
from cgpipe.jobs.shards import NAME, join_reports
from cgpipe.options import Shard


@pytest.fixture(autouse=True)
def models(models_folder: Path, file_model: Any) -> Path:
    file_model(models_folder, "horse", "zebra")
    return models_folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", 12, 16)


def test_a_name_belongs_to_one_shard_whatever_the_order() -> None:
    names = [f"sub/{number}.png" for number in range(4000)]
    shards = [Shard(number, 7) for number in range(1, 8)]
    held = {name: [shard for shard in shards if shard.holds(name)] for name in random.sample(names, len(names))}
    assert all(len(holders) == 1 for holders in held.values())
    sizes = [sum(holders == [shard] for holders in held.values()) for shard in shards]
    assert min(sizes) > 480 and max(sizes) < 660
    # Frozen: machines with other versions must agree on who does what.
    assert [Shard(1, 4).holds(name) for name in names[:6]] == [False, False, False, True, False, False]
    assert Shard(1, 3).holds("caf\u00e9.png") == Shard(1, 3).holds("cafe\u0301.png")
    assert Shard(1, 1).holds("broken \udcff name")


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2", ""])
def test_what_is_no_shard(text: str, photos: Path) -> None:
    with pytest.raises(UsageError, match="use I/N, with I from 1 to N"):
        cgpipe.translate_folder(photos, to="zebra", shard=text)


def test_shards_divide_a_plan_and_still_see_names_in_each_others_way(photos: Path, tmp_path: Path) -> None:
    whole = set(plan_files([photos], domain="zebra").names())
    parts = [set(plan_files([photos], domain="zebra", shard=Shard(number, 3)).names()) for number in (1, 2, 3)]
    assert set.union(*parts) == whole and sum(map(len, parts)) == len(whole)
    Image.new("RGB", (9, 9)).save(photos / "1x.bmp")
    Image.new("RGB", (9, 9)).save(photos / "1x.png")
    for number in range(1, 13):
        with pytest.raises(UsageError, match="would both be written"):
            plan_files([photos], domain="zebra", format="png", shard=Shard(number, 12))


@pytest.mark.slow
def test_shards_of_one_output_at_once_are_one_job(photos: Path, tmp_path: Path) -> None:
    """Two processes write to the same folders; the result is a plain run's, and a plain run finds it done."""
    (photos / "broken.png").write_bytes(b"not a picture")
    code = (
        "import sys, cgpipe; from pathlib import Path; print(cgpipe.translate_folder(sys.argv[1], sys.argv[2], "
        "to='zebra', workers=0, shard=sys.argv[3]).exit_code)"
    )
    out, plain = tmp_path / "out", tmp_path / "plain"
    command = [sys.executable, "-c", code, photos, out]
    running = [subprocess.Popen([*command, f"{number}/2"], stdout=subprocess.PIPE) for number in (1, 2)]
    assert sorted(process.communicate()[0] for process in running) == [b"0\n", b"3\n"]
    report = cgpipe.translate_folder(photos, plain, to="zebra", workers=0)
    assert bytes_of(out) == bytes_of(plain) and report.translated == 12
    again = cgpipe.translate_folder(photos, out, to="zebra", workers=0)
    assert (again.translated, again.skipped, len(again.failures)) == (0, 12, 1)

    joined = join_reports(out)
    assert (joined.shards, joined.missing, joined.counts["translated"], joined.exit_code) == (2, (), 12, 3)
    assert [Path(name).name for name, _ in joined.failures] == ["broken.png"]


def test_more_shards_than_pictures(photos: Path, tmp_path: Path) -> None:
    reports = [
        cgpipe.translate_folder(photos / "0.png", tmp_path / "out", to="zebra", workers=0, shard=f"{number}/2")
        for number in (1, 2)
    ]
    assert sorted(report.translated for report in reports) == [0, 1]
    assert [report.exit_code for report in reports] == [0, 0]


def test_a_report_that_cannot_be_written_is_said_and_the_pictures_stay(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cgpipe.translate_folder(photos, out, to="zebra", shard="1/1", workers=0)
    report = next(out.glob(f"{NAME}*"))
    report.unlink()
    (report / "in the way").mkdir(parents=True)
    with pytest.raises(CgpipeError, match=r"is done \(12 translated\), but its report cannot be written"):
        cgpipe.translate_folder(photos, out, to="zebra", shard="1/1", workers=0, overwrite=True)
    assert len(list(out.rglob("*.png"))) == 12


def test_the_command_joins_reports_and_names_what_is_missing(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def run(*arguments: object) -> Any:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    assert run("report", tmp_path).exit_code == 2
    run("translate", photos, "-o", tmp_path / "none", "--to", "zebra", "--workers", 0, "--shard", "1/999")
    assert run("report", tmp_path / "none").exit_code == 3  # no name fell to it, and the others are missing
    for number in (1, 2, 4):
        run("translate", photos, "-o", out, "--to", "zebra", "--workers", 0, "--shard", f"{number}/4")
    result = run("report", out, "--json", tmp_path / "report.json")
    assert result.exit_code == 3 and "No report of 3/4: still at work, or run them again." in result.output
    run("translate", photos, "-o", out, "--to", "zebra", "--workers", 0, "--shard", "3/4")
    result = run("report", out, "--json", tmp_path / "report.json")
    assert result.exit_code == 0 and "4 of 4 shards: 12 translated" in result.output
    values = json.loads((tmp_path / "report.json").read_text())
    assert values["counts"]["translated"] == 12 and values["missing"] == []
    # Another job into the same folder is another report.
    run("translate", photos, "-o", out, "--to", "zebra", "--workers", 0, "--shard", "1/2", "--strength", 0.5)
    path = out / ".cgpipe-report-1-of-2.json"
    path.write_text(path.read_text().replace('"finished": "2', '"finished": "3'))
    assert (join_reports(out).shards, join_reports(out).missing) == (2, (2,))


def test_a_damaged_report_is_no_report(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cgpipe.translate_folder(photos, out, to="zebra", workers=0, shard="1/2")
    (out / ".cgpipe-report-2-of-2.json").write_text("{")
    assert join_reports(out).missing == (2,)


def test_videos_are_shared_out_by_name(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for number in range(3):
        make_clip(tmp_path / "clips" / f"{number}.mp4", count=3)
    out = tmp_path / "out"
    reports = [
        cgpipe.translate_videos([tmp_path / "clips"], out, to="zebra", size="full", shard=f"{number}/2")
        for number in (1, 2)
    ]
    assert sum(len(report.videos) for report in reports) == 3
    assert sorted(os.listdir(out))[-3:] == ["0.mp4", "1.mp4", "2.mp4"]
    joined = join_reports(out)
    assert (joined.unit, joined.counts["translated"], joined.exit_code) == ("video", 3, 0)


def test_a_damaged_video_is_in_the_joined_report(tmp_path: Path) -> None:
    clip = damaged(make_clip(tmp_path / "in.mp4", count=60, options={"g": "10"}), 0.5, 0.6, 1)
    cgpipe.translate_videos([clip], tmp_path / "out", to="zebra", shard="1/1")
    joined = join_reports(tmp_path / "out")
    assert (joined.counts["damaged"], joined.failures, joined.missing, joined.exit_code) == (1, (), (), 3)
