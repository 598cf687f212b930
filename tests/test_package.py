"""Wheel and sdist, built from what git holds and tried in an environment of their own; files for other builders."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from email.parser import BytesParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cgpipe

ROOT = Path(__file__).parent.parent
ADDRESS = "https://example.org/cgpipe"

pytestmark = pytest.mark.slow


def run(command: list[str], folder: Path, variables: Mapping[str, str] = {}) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(variables)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone")
    folder = tmp_path_factory.mktemp("clone")
    run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(folder)], folder)
    return folder


@pytest.fixture(scope="module")
def built(clone: Path) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    pytest.importorskip("build")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"]
    run(command, clone, {"CGPIPE_REPOSITORY": ADDRESS})
    return clone / "dist"


def files(built: Path) -> tuple[set[str], set[str]]:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        return source, set(wheel.namelist())


def test_they_hold_what_they_should(clone: Path, built: Path) -> None:
    tracked = set(run(["git", "ls-files"], clone).splitlines())
    source, wheel = files(built)
    left_out = {name for name in tracked - source if not name.startswith((".git", ".container"))}
    assert not left_out
    package = {name for name in tracked if name.startswith("cgpipe/")}
    assert package <= wheel
    assert not [name for name in wheel if not name.startswith(("cgpipe/", "cgpipe-"))]


def test_the_index_shows_links_that_lead_somewhere(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
        metadata = BytesParser().parsebytes(wheel.read(name))
    shown = metadata.get_payload()
    links = re.findall(r"\]\(([^)]+)\)", shown)
    assert links and all(link.startswith("https://") for link in links)
    assert f"{ADDRESS}/blob/v{cgpipe.__version__}/docs/commands.md" in links
    assert {"all", "serve", "ui", "styles", "heif", "metrics", "onnx", "openvino", "ncnn", "ray", "remote"} <= set(
        metadata.get_all("Provides-Extra")
    )


def test_the_wheel_translates_a_picture_in_an_environment_of_its_own(built: Path, tmp_path: Path) -> None:
    """The libraries come from this environment; cgpipe from the wheel alone."""
    import venv

    venv.create(tmp_path / "venv", with_pip=False, symlinks=os.name != "nt")
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = str(scripts / "python")
    wheel = str(next(built.glob("*.whl")))
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        wheel,
    ]
    run(command, tmp_path)
    libraries = {"PYTHONPATH": str(Path(np.__file__).parent.parent), "CGPIPE_MODELS": str(tmp_path / "none")}
    where = run([python, "-c", "import cgpipe; print(cgpipe.__file__)"], tmp_path, libraries)
    if not Path(where.strip()).is_relative_to(tmp_path):
        pytest.skip("cgpipe is installed whole beside its libraries")
    cgpipe_command = str(scripts / "cgpipe")
    assert cgpipe.__version__ in run([cgpipe_command, "--version"], tmp_path, libraries)
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(tmp_path / "in.png")
    run([cgpipe_command, "translate", "in.png", "out.png", "--to", "monet"], tmp_path, libraries)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (48, 32)


def test_container_files_are_small_and_not_root() -> None:
    for name in ("Containerfile", "Containerfile.cuda"):
        text = (ROOT / name).read_text(encoding="utf-8")
        last = text.rpartition("\nFROM ")[2]
        assert "-slim" in last and "\nUSER 1000\n" in last and "CGPIPE_TRANSLATE_WORKERS=0" in last


def test_the_recipe_of_conda_asks_for_what_pip_does() -> None:
    names = {"torch": "pytorch", "opencv-python-headless": "py-opencv"}
    needed = re.findall(r'^    "([\w-]+)([^"]*)",', (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE)[:10]
    recipe = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    for name, bounds in needed:
        assert f"- {names.get(name, name.lower())} {bounds}\n" in recipe
    assert f'version: "{cgpipe.__version__}"' in recipe
