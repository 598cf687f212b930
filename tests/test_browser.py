"""The pages in a real browser, opened from disk; skipped where there is no Chromium or no Playwright."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Chromium, needs_chromium
from clips import make_clip
from PIL import Image

from cgpipe.pages.clip import Clip, write_clip
from cgpipe.pages.gallery import Gallery, Pair
from cgpipe.pages.page import Page
from cgpipe.pages.runs import write_run

pytestmark = needs_chromium

MANY = 10_000
SCROLL = """(step) => new Promise((done) => {
  const frames = 40;
  let count = 0, begun = 0;
  scrollTo(0, 0);
  requestAnimationFrame(function tick(now) {
    begun = begun || now;
    scrollBy(0, step);
    if (count++ < frames) requestAnimationFrame(tick); else done(1000 * frames / (now - begun));
  });
})"""


@pytest.fixture
def open_page(chromium: Chromium) -> Iterator[Any]:
    """Opens a page; at the end nothing was complained of, and nothing asked for but files."""
    trouble: list[str] = []
    windows = contextlib.ExitStack()

    def open_one(path: Path, **options: Any) -> Any:
        page = windows.enter_context(chromium.window(**options)).new_page()
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: request.url.startswith("http") and trouble.append(request.url))
        page.goto(path.as_uri())
        return page

    with chromium.watched(), windows:
        yield open_one
    assert trouble == []


def until(page: Any, expression: str) -> None:
    """Waits for an expression to be true, without eval in the page, which its own policy forbids."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def gallery(folder: Path, names: list[str], failed: tuple[str, ...] = ()) -> Path:
    """A page of pictures of 96x64 whose translations get brighter from one to the next."""
    for place in ("in", "out"):
        (folder / place).mkdir()
    page = Page.beside(folder / "out")
    with Gallery(page, title="out", lead="", roots=[folder / "out"], total=len(names)) as shown:
        for index, name in enumerate(names):
            before, after = folder / "in" / name, folder / "out" / name
            Image.new("RGB", (96, 64), (60, 60, 60)).save(before)
            Image.new("RGB", (96, 64), (70 + 20 * index,) * 3).save(after)
            status = "failed" if name in failed else "translated"
            shown.add(Pair(before=before, after=after, status=status, reason="the disk was full" if failed else ""))
    return page.path


def shown_names(page: Any) -> list[str]:
    return page.eval_on_selector_all(".cell .name", "(all) => all.map((one) => one.textContent)")


def test_the_gallery_is_filtered_sorted_and_searched(tmp_path: Path, open_page: Any) -> None:
    page = open_page(gallery(tmp_path, ["a.png", "b10.png", "b9.png"], failed=("b9.png",)))
    assert shown_names(page) == ["a.png", "b10.png", "in/b9.png"]
    page.select_option("#sort", "most")
    assert shown_names(page)[:2] == ["b10.png", "a.png"]
    page.check("input[value=bad]", force=True)
    assert shown_names(page) == ["in/b9.png"] and page.inner_text("#shown") == "1 picture"
    page.check("input[value=all]", force=True)
    page.fill("#search", "A.PN")
    assert shown_names(page) == ["a.png"]
    page.fill("#search", "nothing")
    assert page.is_visible("#none")


def test_a_pair_is_opened_its_line_dragged_and_its_pixels_looked_at(tmp_path: Path, open_page: Any) -> None:
    page = open_page(gallery(tmp_path, ["a.png", "b.png"]))
    page.click(".cell button >> nth=0")
    line = page.locator("#divider")
    box = line.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 240, 300, steps=4)
    page.mouse.up()
    assert line.get_attribute("aria-valuenow") == "70"
    page.keyboard.press("ArrowLeft")
    assert line.get_attribute("aria-valuenow") == "65"
    until(page, "before.naturalWidth === 96 && before.src.endsWith('/in/a.png')")
    page.click("#pixels")
    page.keyboard.press("+")
    assert page.evaluate("scale") == pytest.approx(1.5)
    page.locator("#close").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewer-name") == "b.png" and "2 of 2" in page.inner_text("#viewer-count")
    page.keyboard.press("Escape")
    assert not page.is_visible("#viewer")
    until(page, "document.activeElement.dataset.i === '1'")


def test_pictures_of_hostile_names_are_shown_and_nothing_in_them_runs(tmp_path: Path, open_page: Any) -> None:
    names = ["<img src=x onerror=alert(1)>.png", "a&b\"'.png", "#1.png", "50%.png", "a:b?.png"]
    names.append(os.fsdecode(b"caf\xe9.png"))
    page = open_page(gallery(tmp_path, names))
    assert sorted(shown_names(page)) == sorted([*names[:-1], r"caf\xe9.png"])
    for index in range(len(names)):
        page.evaluate(f"show({index})")
        until(page, "[before, after].every((one) => one.complete && /(in|out).[^/]*$/.test(one.src))")
        assert page.evaluate("[before.naturalWidth, after.naturalWidth]") == [96, 96]
        assert page.inner_text("#said") == ""


def test_pictures_that_are_elsewhere_are_shown_by_their_thumbnails(tmp_path: Path, open_page: Any) -> None:
    path = gallery(tmp_path, ["a.png", "b.png"])
    data: Any = Page(path).data()
    data["entries"][0] |= {"a": "https://example.org/a%20b.png", "b": "s3://bucket/out/a%20b.png"}
    Page(path).write("gallery.html", title="far", lead="", notice="", tables=[], data=data)
    page = open_page(path)
    page.click(".cell button >> nth=0")
    assert page.inner_text("#said") == "Not on this machine: thumbnails are shown."
    assert page.evaluate("[before, after].map((one) => /out_files.*jpg$/.test(one.src))") == [True, True]
    assert page.eval_on_selector_all("#facts a", "(all) => all.map((one) => one.href)") == [
        "https://example.org/a%20b.png"
    ]
    assert "s3://bucket/out/a b.png" in page.inner_text("#facts")
    page.click("#next")
    assert page.inner_text("#said") == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_holds_the_page_in_light_and_dark(tmp_path: Path, open_page: Any, scheme: str) -> None:
    page = open_page(gallery(tmp_path, ["a.png", "b.png"]), viewport={"width": 360, "height": 700}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(paper.partition("(")[2].partition(",")[0]) < 128) == (scheme == "dark")


@pytest.mark.slow
def test_ten_thousand_pictures_scroll_as_smoothly_as_a_hundred(
    tmp_path: Path, open_page: Any, record_property: Any
) -> None:
    source = gallery(tmp_path, [f"{index}.png" for index in range(4)])
    known = Page(source).data()
    rates = {}
    for count in (100, MANY):
        entries = [known["entries"][index % 4] | {"n": f"reel/{index:05}.png"} for index in range(count)]
        page = Page(tmp_path / f"{count}.html")
        data = {"files": known["files"], "entries": entries}
        page.write("gallery.html", title="many", lead="", notice="", tables=[], data=data)
        opened = open_page(page.path)
        assert opened.inner_text("#shown") == f"{count:,} pictures"
        rates[count] = opened.evaluate(SCROLL, 20)
        assert opened.evaluate("document.querySelectorAll('.cell').length") < 250
        opened.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
        opened.wait_for_function(
            "document.querySelector('#grid [tabindex=\"0\"]')?.getBoundingClientRect().top < innerHeight"
        )
        opened.evaluate("focusOn(shown.length - 1)")
        assert opened.evaluate("document.activeElement.getAttribute('aria-label')").startswith(
            f"reel/{count - 1:05}.png"
        )
    record_property("frames_a_second", rates)
    print("frames a second:", {count: round(rate, 1) for count, rate in rates.items()})
    assert rates[MANY] > rates[100] / 3


def test_the_player_keeps_both_clips_in_step(tmp_path: Path, open_page: Any) -> None:
    options: dict[str, Any] = {"count": 30, "codec": "libvpx", "size": (96, 64)}
    before, after = make_clip(tmp_path / "in.webm", **options), make_clip(tmp_path / "out.webm", **options)
    page = Page.beside(after)
    write_clip(page, Clip(before=before, after=after, tables={"Settings": [("Model", "<b>")]}))
    opened = open_page(page.path)
    until(opened, "before.readyState > 1 && after.readyState > 1")
    assert opened.locator("#strip button").count() == 24
    opened.locator("#strip button").nth(12).click()
    until(opened, "!before.seeking && !after.seeking && after.currentTime > .5")
    assert abs(opened.evaluate("drift()")) < 1 / 50
    opened.locator("#on").click()
    until(opened, "!before.seeking && !after.seeking")
    assert abs(opened.evaluate("drift()")) < 1 / 50
    opened.locator("#divider").focus()
    opened.keyboard.press("Home")
    assert opened.locator("#divider").get_attribute("aria-valuenow") == "0"


PLAY = """() => new Promise((done) => {
  const all = [], end = performance.now() + 2500;
  after.play();
  const look = setInterval(() => {
    all.push(Math.abs(drift()));
    if (performance.now() > end) { clearInterval(look); after.pause(); done(all); }
  }, 50);
})"""
"""Seconds between the two clips, twenty times a second while they play; the clip ends and begins anew meanwhile."""


@pytest.mark.slow
def test_clips_that_play_stay_in_step(tmp_path: Path, open_page: Any) -> None:
    options: dict[str, Any] = {"count": 38, "codec": "libvpx", "size": (96, 64)}
    before, after = make_clip(tmp_path / "in.webm", **options), make_clip(tmp_path / "out.webm", **options)
    page = Page.beside(after)
    write_clip(page, Clip(before=before, after=after, tables={}))
    opened = open_page(page.path)
    until(opened, "before.readyState > 1 && after.readyState > 1")
    opened.evaluate("before.currentTime = 0.2")  # as a slow disk would leave it
    apart = sorted(opened.evaluate(PLAY))
    print("frames apart: median", 25 * apart[len(apart) // 2], "most", 25 * apart[-1])
    assert apart[len(apart) // 2] < 1 / 25


def test_a_clip_that_no_browser_plays_is_shown_by_its_frames(tmp_path: Path, open_page: Any) -> None:
    clip = make_clip(tmp_path / "a.mkv", count=10, codec="ffv1", size=(96, 64))
    page = Page.beside(clip)
    write_clip(page, Clip(before=None, after=clip, tables={}))
    opened = open_page(page.path)
    until(opened, "stills")
    assert "frames of them are shown" in opened.inner_text("#said")
    until(opened, "by('after-still').naturalWidth === 96")


def test_the_page_of_a_run_turns_through_its_grids(tmp_path: Path, open_page: Any) -> None:
    (tmp_path / "results").mkdir()
    for step, level in ((10, 40), (20, 200)):
        Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(tmp_path / "results" / f"zebra-{step:07}.jpg")
    lines = [
        f'{{"step": {step}, "epoch": {step // 10}, "cycle_a": {1 / step}, "seconds_a_step": 1}}'
        for step in range(1, 21)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    page = open_page(write_run(tmp_path))
    slider = page.locator("#grids input")
    assert slider.get_attribute("aria-valuetext") == "step 20, epoch 2"
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "step 10, epoch 1"
    until(page, "document.querySelector('#grids img').naturalWidth === 32")
    assert page.locator(".chart polyline").count() == 2 and page.inner_text(".chart output") == "0.1"
