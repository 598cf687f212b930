"""The page that a folder job writes of its pictures, without a browser; tests/test_browser.py opens it in one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from clips import make_clip
from PIL import Image
from runs import config_of, make_dataset, make_recipe

from cgpipe import translate_folder, translate_video
from cgpipe.cli import cli
from cgpipe.errors import MediaError, UsageError
from cgpipe.jobs.plan import plan_files
from cgpipe.pages.gallery import Gallery, Pair
from cgpipe.pages.page import Page
from cgpipe.pages.runs import read_run, write_run
from cgpipe.training.trainer import train

SIDE = 24


def picture(path: Path, level: int = 90, mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (level,) * len(mode) if mode != "I;16" else level * 256).save(path)
    return path


def entries_of(page: Path) -> dict[str, dict[str, Any]]:
    return {entry["n"]: entry for entry in Page(page).data()["entries"]}


def show(folder: Path, *pairs: Pair) -> dict[str, dict[str, Any]]:
    with Gallery(Page.beside(folder / "out"), title="out", lead="", roots=[folder / "out"], total=len(pairs)) as page:
        for pair in pairs:
            page.add(pair)
    return entries_of(folder / "out.html")


def pair_of(folder: Path, name: str, before: int = 90, after: int = 100, **more: Any) -> Pair:
    made = {"before": folder / "in" / name, "after": folder / "out" / name}
    if not made["before"].exists():
        picture(made["before"], before)
    if not made["after"].exists():
        picture(made["after"], after)
    return Pair(**made, **{"status": "translated", **more})


def test_a_job_leaves_a_page_of_all_its_pictures(tmp_path: Path, file_model: Callable[..., Path]) -> None:
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "below" / "b.jpg", size=(32, 20))
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    options: dict[str, Any] = {"model": file_model(tmp_path / "m"), "workers": 0, "device": "cpu", "gallery": True}
    report = translate_folder(tmp_path / "in", tmp_path / "out", **options)
    assert report.page == tmp_path / "out.html" and report.to_json()["page"] == str(report.page)
    shown = entries_of(report.page)
    assert {name: entry["s"] for name, entry in shown.items()} == {
        "a.png": "translated",
        "below/b.jpg": "translated",
        "in/broken.png": "failed",
    }
    assert "PNG is damaged" in shown["in/broken.png"]["r"] and shown["in/broken.png"]["c"] is None
    assert (shown["below/b.jpg"]["w"], shown["below/b.jpg"]["h"]) == (32, 20)
    assert shown["a.png"]["c"] > 0
    text = report.page.read_text()
    assert "horse to zebra" in text and "Batch size" in text and "://" not in text

    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out_files").iterdir()}
    again = translate_folder(tmp_path / "in", tmp_path / "out", **options)
    assert again.skipped == 2 and entries_of(report.page) == shown
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out_files").iterdir()} == before


def test_the_command_names_the_page(tmp_path: Path, file_model: Callable[..., Path]) -> None:
    model = file_model(tmp_path / "m")
    picture(tmp_path / "in" / "a.png")
    command = ["translate", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(model), "--gallery"]
    result = CliRunner().invoke(cli, [*command, "--workers", "0"])
    assert result.exit_code == 0, result.output
    assert f"Page: {tmp_path / 'out.html'}" in result.output


def test_how_much_a_picture_changed_is_in_levels(tmp_path: Path) -> None:
    shown = show(tmp_path, pair_of(tmp_path, "a.png", 90, 100), pair_of(tmp_path, "b.png", 90, 90))
    assert shown["a.png"]["c"] == 10 and shown["b.png"]["c"] == 0


NAMES = ["<script>alert(1)</script>.png", "a&b\"'.png", "#1.png", "50%.png", "two  spaces.png", "a:b.png", "ü 漢.png"]


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses such names")
def test_names_are_text_and_addresses_lead_to_the_files(tmp_path: Path) -> None:
    from urllib.parse import unquote_to_bytes, urlsplit

    names = [*(name.replace("/", "") for name in NAMES), os.fsdecode(b"caf\xe9.png")]
    shown = show(tmp_path, *(pair_of(tmp_path, name) for name in names))
    text = (tmp_path / "out.html").read_bytes().decode("utf-8")
    assert "<script>alert" not in text
    assert set(shown) == {*names[:-1], r"caf\xe9.png"}
    for entry in shown.values():
        for address in (entry["a"], entry["b"]):
            parts = urlsplit(address)
            assert not (parts.scheme or parts.netloc or parts.query or parts.fragment)
            assert (tmp_path / os.fsdecode(unquote_to_bytes(parts.path))).is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_folder_whose_name_is_no_text_gets_a_page(tmp_path: Path, file_model: Callable[..., Path]) -> None:
    picture(tmp_path / "in" / "a.png")
    out = tmp_path / os.fsdecode(b"caf\xe9")
    report = translate_folder(tmp_path / "in", out, model=file_model(tmp_path / "m"), workers=0, gallery=True)
    assert report.page and r"caf\xe9</title>" in report.page.read_bytes().decode("utf-8")


@pytest.mark.parametrize(("name", "mode"), [("a.tif", "RGB"), ("a.jp2", "RGB"), ("a.tiff", "I;16")])
def test_what_browsers_do_not_show_gets_a_larger_picture(tmp_path: Path, name: str, mode: str) -> None:
    for folder in ("in", "out"):
        picture(tmp_path / folder / name, 90, mode, (64, 48))
    entry = show(tmp_path, pair_of(tmp_path, name))[name]
    assert entry["l"] == "ba" and entry["c"] == 0
    with Image.open(tmp_path / "out_files" / f"{entry['t']}-after-large.jpg") as large:
        assert large.size == (64, 48) and abs(np.asarray(large.convert("RGB")).mean() - 90) < 2


def test_heic_gets_a_larger_picture(tmp_path: Path, file_model: Callable[..., Path]) -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
    heif.register_heif_opener()
    picture(tmp_path / "in" / "a.heic", size=(64, 48))
    model = file_model(tmp_path / "m")
    report = translate_folder(tmp_path / "in", tmp_path / "out", model=model, workers=0, device="cpu", gallery=True)
    entry = entries_of(report.page)["a.heic"]
    assert (entry["s"], entry["w"], entry["h"], entry["l"]) == ("translated", 64, 48, "ba") and entry["c"] > 0


def test_16_bit_png_is_shown_as_it_is_and_its_thumbnail_has_the_same_level(tmp_path: Path) -> None:
    for folder in ("in", "out"):
        picture(tmp_path / folder / "a.png", 90, "I;16", (64, 48))
    entry = show(tmp_path, pair_of(tmp_path, "a.png"))["a.png"]
    assert entry["l"] == "" and entry["c"] == 0
    with Image.open(tmp_path / "out_files" / f"{entry['t']}-after.jpg") as small:
        assert abs(np.asarray(small).mean() - 90) < 2


def test_pictures_in_an_archive_are_shown_by_their_thumbnails(tmp_path: Path, file_model: Callable[..., Path]) -> None:
    pytest.importorskip("fsspec", reason="needs the extra remote")
    picture(tmp_path / "in" / "a.png", size=(64, 48))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.write(tmp_path / "in" / "a.png", "a.png")
    model = file_model(tmp_path / "m")
    report = translate_folder(tmp_path / "in.zip", tmp_path / "out", model=model, workers=0, device="cpu", gallery=True)
    entry = entries_of(report.page)["a.png"]
    assert (entry["s"], entry["x"], entry["y"]) == ("translated", 1, 1) and entry["c"] > 0
    assert (tmp_path / "out_files" / f"{entry['t']}-before.jpg").is_file()


def test_transparent_pictures_stand_on_white_and_of_animations_there_is_the_first(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "clear.png", 0, "RGBA")
    frames = [Image.new("RGB", (SIDE, SIDE), (level,) * 3) for level in (40, 200)]
    frames[0].save(tmp_path / "in" / "moves.gif", save_all=True, append_images=frames[1:])
    for name in ("clear.png", "moves.gif"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes((tmp_path / "in" / name).read_bytes())
    shown = show(tmp_path, pair_of(tmp_path, "clear.png"), pair_of(tmp_path, "moves.gif"))
    levels = {}
    for name, entry in shown.items():
        with Image.open(tmp_path / "out_files" / f"{entry['t']}-after.jpg") as small:
            levels[name] = round(np.asarray(small).mean())
    assert levels["clear.png"] == 255 and abs(levels["moves.gif"] - 40) < 3


def test_a_rerun_keeps_what_is_there_drops_what_is_gone_and_draws_anew_what_changed(tmp_path: Path) -> None:
    first = show(tmp_path, *(pair_of(tmp_path, name) for name in ("kept.png", "gone.png", "new.png")))
    (tmp_path / "out" / "gone.png").unlink()
    picture(tmp_path / "out" / "new.png", 150)
    second = show(tmp_path, pair_of(tmp_path, "new.png"), pair_of(tmp_path, "more.png"))
    assert set(second) == {"kept.png", "new.png", "more.png"}
    assert second["kept.png"] == first["kept.png"]
    assert (first["new.png"]["c"], second["new.png"]["c"]) == (10, 60)
    thumbnails = {path.name.partition("-")[0] for path in (tmp_path / "out_files").glob("*.jpg")}
    assert thumbnails == {entry["t"] for entry in second.values()}


def test_a_picture_that_fails_now_and_works_later_is_on_the_page_once(tmp_path: Path) -> None:
    broken = pair_of(tmp_path, "a.png", status="failed", reason="the disk is full")
    broken.after.unlink()
    assert {entry["s"] for entry in show(tmp_path, broken).values()} == {"failed"}
    shown = show(tmp_path, pair_of(tmp_path, "a.png"))
    assert [entry["s"] for entry in shown.values()] == ["translated"]


@pytest.mark.parametrize("theirs", ["out.html", "out_files/picture.jpg"])
def test_nothing_is_replaced_that_cgpipe_did_not_make(
    tmp_path: Path, theirs: str, file_model: Callable[..., Path]
) -> None:
    picture(tmp_path / "in" / "a.png")
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        translate_folder(tmp_path / "in", tmp_path / "out", model=file_model(tmp_path / "m"), workers=0, gallery=True)
    assert (tmp_path / theirs).read_text() == "mine" and not (tmp_path / "out" / "a.png").exists()


def test_a_page_has_the_name_of_one(tmp_path: Path, file_model: Callable[..., Path]) -> None:
    picture(tmp_path / "in" / "a.png")
    model = file_model(tmp_path / "m")
    with pytest.raises(UsageError, match="not a page's name"):
        translate_folder(tmp_path / "in", model=model, gallery="page.png")
    report = translate_folder(tmp_path / "in", model=model, workers=0, gallery=tmp_path / "elsewhere" / "page.html")
    assert report.page == tmp_path / "elsewhere" / "page.html"
    assert [entry["a"] for entry in entries_of(report.page).values()] == ["./../in/a.png"]


def test_a_page_that_cannot_be_written_stops_no_job_and_is_said_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MediaError("The page cannot be written to out.html: no space left.")

    monkeypatch.setattr("cgpipe.pages.gallery.EVERY_SECONDS", 0)
    monkeypatch.setattr(Page, "write", fail)
    added = []
    page = Gallery(Page.beside(tmp_path / "out"), title="", lead="", roots=[tmp_path / "out"], total=2)
    with pytest.raises(MediaError, match="no space left"), page:
        for name in ("a.png", "b.png"):
            page.add(pair_of(tmp_path, name))
            added.append(name)
    assert added == ["a.png", "b.png"]


def test_a_killed_job_leaves_a_page_and_the_next_completes_it(tmp_path: Path) -> None:
    for index in range(6):
        pair_of(tmp_path, f"{index}.png")
    script = f"""
import os, signal
from pathlib import Path
from cgpipe.pages import gallery
from cgpipe.pages.page import Page
gallery.EVERY_SECONDS, gallery.SHARE, gallery.WAITING = 0, 0, 0
folder = Path({str(tmp_path)!r})
with gallery.Gallery(Page.beside(folder / "out"), title="", lead="", roots=[folder / "out"], total=6) as page:
    for index in range(3):
        name = str(index) + ".png"
        page.add(gallery.Pair(before=folder / "in" / name, after=folder / "out" / name, status="translated"))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", script], check=False)
    assert result.returncode == -signal.SIGKILL
    assert set(entries_of(tmp_path / "out.html")) == {"0.png", "1.png", "2.png"}
    assert "3 of 6 pictures were done" in (tmp_path / "out.html").read_text()
    pairs = [pair_of(tmp_path, f"{index}.png", status="skipped" if index < 3 else "translated") for index in range(6)]
    shown = show(tmp_path, *pairs)
    assert len(shown) == 6 and all(entry["c"] == 10 for entry in shown.values())
    assert "pictures were done" not in (tmp_path / "out.html").read_text()


def test_the_pictures_of_a_page_are_no_input(tmp_path: Path) -> None:
    show(tmp_path, pair_of(tmp_path, "a.png"))
    assert list((tmp_path / "out_files").glob("*.jpg"))
    plan = plan_files([tmp_path], tmp_path / "all", domain="zebra")
    assert sorted(pair.input.relative_to(tmp_path).as_posix() for pair in plan.pairs()) == ["in/a.png", "out/a.png"]


def test_an_earlier_page_that_is_damaged_is_written_anew(tmp_path: Path) -> None:
    show(tmp_path, pair_of(tmp_path, "a.png"))
    page = tmp_path / "out.html"
    page.write_text(page.read_text().replace('"entries":[{', '"entries":[{]'))
    assert set(show(tmp_path, pair_of(tmp_path, "b.png"))) == {"b.png"}
    page.write_text(page.read_text().replace(json.dumps("b.png"), "7"))
    assert "c.png" in show(tmp_path, pair_of(tmp_path, "c.png"))


def test_a_video_leaves_a_page_with_a_strip_of_frames(tmp_path: Path, file_model: Callable[..., Path]) -> None:
    clip = make_clip(tmp_path / "in & out.mp4", count=24, size=(64, 48))
    model, out = file_model(tmp_path / "m"), tmp_path / "made" / "50%.mp4"
    result = translate_video(clip, out, model=model, device="cpu", start=0.2, gallery=True)
    assert result.page == tmp_path / "made" / "50%.mp4.html" and result.to_json()["page"] == str(result.page)
    data = Page(result.page).data()
    assert (data["before"], data["after"], data["start"]) == ("./../in%20%26%20out.mp4", "./50%25.mp4", 0.2)
    assert data["rate"] == 25 and len(data["strip"]) == 19, "every frame once"
    assert all(entry["x"] and entry["c"] > 0 and (entry["w"], entry["h"]) == (64, 48) for entry in data["strip"])
    times = [entry["time"] for entry in data["strip"]]
    assert times == sorted(times) and 0 < times[0] < times[-1] < 0.8
    before = result.page.read_text()
    assert translate_video(clip, out, model=model, device="cpu", start=0.2, gallery=True).page == result.page
    assert result.page.read_text() == before


def test_a_gallery_of_a_video_needs_one_file(tmp_path: Path, file_model: Callable[..., Path]) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=4)
    with pytest.raises(UsageError, match="needs one video file"):
        translate_video(clip, tmp_path / "%05d.png", model=file_model(tmp_path / "m"), gallery=True)
    (tmp_path / "out.mp4.html").write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        translate_video(clip, tmp_path / "out.mp4", model=tmp_path / "m" / "horse2zebra.safetensors", gallery=True)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("rotation", [0, 90])
def test_frames_are_found_by_time_and_stand_upright(tmp_path: Path, rotation: int) -> None:
    from cgpipe.media.video.strip import duration_of, frames_at

    levels = [np.full((48, 64, 3), 10 * index, np.uint8) for index in range(20)]
    path = make_clip(tmp_path / "a.mp4", count=20, size=(64, 48), pictures=levels, rotation=rotation)
    assert duration_of(path) == (0.8, 25)
    found = list(frames_at(path, [0.0, 0.39, 0.76, 5.0], 32, 32))
    assert [round(frame.mean() / 10) for frame in found] == [0, 9, 19, 19]
    assert found[0].shape[:2] == ((32, 24) if rotation else (24, 32))
    (flat,) = frames_at(path, [0.0], 40, 20)
    assert flat.shape[:2] == ((20, 15) if rotation else (20, 27)), "of the upright picture"


def test_a_run_writes_its_page_and_runs_stand_beside_one_another(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "recipe.toml", make_dataset(tmp_path / "data"))
    for name, rate in (("slow", 1e-4), ("a<b>", 1e-3)):
        train(config_of(recipe, tmp_path / "runs" / name, lr=rate, epochs=2, decay_epoch=1, stages=(), sample_every=8))
    page = Page(tmp_path / "runs" / "a<b>" / "run.html")
    data = page.data()
    (run,), grids = data["runs"], {grid["name"]: grid for grid in data["grids"]}
    assert [step for step, _ in run["curves"]["cycle_a"]] == list(range(1, 17))
    assert set(grids) == {"red", "blue"} and grids["red"]["at"] == [8, 16]
    assert (page.path.parent / grids["red"]["from"][0]).resolve().is_file()
    assert "a&lt;b&gt;" in page.path.read_text() and "<td>0.001</td>" in page.path.read_text()

    listed = CliRunner().invoke(cli, ["runs", str(tmp_path / "runs"), "-o", str(tmp_path / "all.html")])
    assert listed.exit_code == 0, listed.output
    head, first, second = listed.stdout.splitlines()[:3]
    assert head.split()[:4] == ["run", "steps", "hours", "KID"] and " lr " in head and " epochs " not in head
    assert first.startswith("a<b>") and " 0.001 " in first and " 0.0001 " in second
    text = (tmp_path / "all.html").read_text()
    assert "a&lt;b&gt;" in text and 'href="./runs/a%3Cb%3E/run.html"' in text
    assert [run["name"] for run in Page(tmp_path / "all.html").data()["runs"]] == ["a<b>", "slow"]
    as_json = json.loads(CliRunner().invoke(cli, ["runs", str(tmp_path / "runs"), "--json"]).stdout)
    assert [run["recipe"]["lr"] for run in as_json] == [1e-3, 1e-4] and as_json[0]["step"] == 16


def test_damaged_lines_of_a_run_are_passed_over_and_kid_is_the_best(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "epoch": 0, "seconds_a_step": 2.0, "cycle_a": 3.0, "learning_rate": 1e-4},
        {"step": 1, "epoch": 0, "kid_x1000_horse2zebra": 40.0},
        {"step": 11, "epoch": 1, "seconds_a_step": 4.0, "cycle_a": None},
        {"step": 11, "epoch": 1, "kid_x1000_horse2zebra": 30.5},
        {"step": 11, "epoch": 1, "warning": "<b>"},
        {"step": 12, "epoch": 1, "kid_x1000_horse2zebra": 35.0},
    ]
    text = "\n".join([*map(json.dumps, lines), "[1]", '{"step": "x"}', '{"step": 13, "cycle_a'])
    (tmp_path / "metrics.jsonl").write_text(text)
    run = read_run(tmp_path)
    assert (run.step, run.epoch, run.seconds) == (12, 1, 42.0)
    assert run.kid == {"horse2zebra": 30.5} and run.losses == {"cycle_a": 3.0}
    assert "&lt;b&gt;" in write_run(tmp_path).read_text()


def test_a_folder_without_runs_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["runs", str(tmp_path)])
    assert result.exit_code == 2 and "holds no run" in result.output
