"""The app in a real headless Chromium."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cgpipe.cli import cli

pytest.importorskip("gradio", reason="needs the extra ui")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[str]:
    own = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": "", "CGPIPE_MODELS": str(tmp_path / "m")}
    command = [sys.executable, "-m", "cgpipe", "ui", "--no-open", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | own)
    assert process.stdout
    yield process.stdout.readline().split()[1]
    process.send_signal(signal.SIGINT)
    process.stdout.close()
    assert process.wait(30) == 128 + signal.SIGINT
    assert list((tmp_path / "cache" / "cgpipe" / "service").iterdir()) == [], "uploads and results are gone"


def test_pictures_and_folders_are_translated_in_a_browser(app: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    cv2.imwrite(str(folder / "pony.jpg"), cv2.blur(pixels, (9, 9)))
    result = CliRunner().invoke(
        cli, ["translate", str(folder), "-o", str(tmp_path / "command"), "--model", "horse2zebra"]
    )
    assert result.exit_code == 0, result.output
    asked: list[str] = []
    problems: list[str] = []
    fake = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=fake)
        page: Any = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(app)
        translate = page.get_by_role("button", name="Translate")
        translate.first.click()
        page.get_by_text("Choose a picture first.").first.wait_for()
        page.set_input_files("input[type=file] >> nth=0", folder / "pony.jpg")
        page.get_by_role("button", name="Remove Image").or_(page.get_by_label("Clear")).first.wait_for()
        translate.first.click()
        page.locator("a[download*='pony-translated']").first.wait_for(state="attached")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").first.click()
        assert Path(download.value.path()).read_bytes() == (tmp_path / "command" / "pony.jpg").read_bytes()
        page.get_by_role("tab", name="Folder").click()
        page.get_by_label("Folder", exact=True).last.fill(str(folder))
        page.get_by_label("Output folder").fill(str(tmp_path / "app"))
        translate.last.click()
        page.get_by_text("1 translated").wait_for()
        browser.close()
    assert (tmp_path / "app" / "pony.jpg").read_bytes() == (tmp_path / "command" / "pony.jpg").read_bytes()
    assert problems == []
    assert {address.split("/")[2] for address in asked if address.startswith("http")} == {app.split("/")[2]}


@pytest.mark.parametrize("options", [["--host", "0.0.0.0"], ["--host", "0.0.0.0", "--token", "short"]])
def test_an_address_that_others_reach_needs_a_token(options: list[str]) -> None:
    result = CliRunner().invoke(cli, ["ui", "--no-open", *options])
    assert result.exit_code == 2
    assert "token" in result.output
