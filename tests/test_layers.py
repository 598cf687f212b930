"""Imports go one way: each part of the package knows those below it, and no others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cgpipe"

GROUND = {"errors", "storage", "options", "notebook", "threads"}
"""The ground floor: any part above may import these."""

BELOW: dict[str, set[str]] = {
    "errors": set(),
    "storage": {"errors"},
    "options": {"errors", "storage"},
    "notebook": set(),
    "threads": set(),
    "archives": {"errors", "storage"},
    "remote": {"errors", "storage", "archives"},
    "scratch": {"storage"},
    "web": {"errors", "storage"},
    "parallel": GROUND,
    "recipe": GROUND,
    "networks": GROUND,
    "media": {*GROUND, "scratch"},
    "pages": {*GROUND, "media"},
    "models": {*GROUND, "web", "networks", "media"},
    "engine": {*GROUND, "scratch", "networks", "media", "models"},
    "data": {*GROUND, "web", "parallel", "recipe", "media", "models"},
    "evaluation": {*GROUND, "networks", "media", "models", "engine", "data", "pages"},
    "jobs": {*GROUND, "remote", "archives", "networks", "media", "models", "engine", "pages", "training"},
    "service": {*GROUND, "media", "models", "engine", "jobs", "__init__"},
    "training": {*GROUND, "parallel", "recipe", "networks", "media", "models", "engine", "data", "evaluation", "pages"},
    "cli": {
        *(*GROUND, "parallel", "recipe", "networks", "media", "models", "engine", "data", "evaluation"),
        *("jobs", "training", "pages", "service"),
    },
    "bytecode": set(),
    "__main__": {"bytecode", "cli"},
    "__init__": {*GROUND, "media", "models", "engine", "evaluation", "jobs", "training"},
}
"""What each part may import; jobs know training, since one may have a look learnt first.

Beside these, each knows itself."""

OWNERS = {"click": {"cli"}, "tqdm": {"cli", "notebook"}}
"""Libraries that only these parts may import: nothing but the command line prints or draws."""

FILES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(source: str, module: str) -> Iterator[str]:
    """Every module that a module's source imports anywhere, inside functions and type-checking blocks too.

    ``from cgpipe import media`` names ``cgpipe.media``; what is relative is resolved against ``module``.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cgpipe."):
            yield node.value  # lazily, by importlib


def violations(part: str, source: str, module: str = "cgpipe.part.module") -> list[str]:
    """What ``source``, a module of ``part``, imports and should not."""
    found = []
    for name in imported_modules(source, module):
        top, _, rest = name.partition(".")
        inner = rest.partition(".")[0]
        if top == "cgpipe" and inner in BELOW:
            allowed = inner == part or inner in BELOW[part]
        else:
            allowed = part in OWNERS.get(top, {part})
        if not allowed:
            found.append(name)
    return found


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_downward(path: Path) -> None:
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    assert violations(part_of(path), path.read_text(encoding="utf-8"), module) == []


def test_every_part_has_its_place() -> None:
    assert {part_of(path) for path in FILES} == set(BELOW)


@pytest.mark.parametrize(
    ("part", "source", "expected"),
    [
        ("engine", "from cgpipe.jobs.folder import translate_folder", ["cgpipe.jobs.folder.translate_folder"]),
        ("engine", "import cgpipe.cli", ["cgpipe.cli"]),
        ("jobs", "from cgpipe import data", ["cgpipe.data"]),
        ("training", "def later():\n    from ..jobs import folder", ["cgpipe.jobs.folder"]),
        ("models", "import_module('cgpipe.engine.translator')", ["cgpipe.engine.translator"]),
        ("jobs", "from tqdm import tqdm", ["tqdm.tqdm"]),
        ("engine", "import click.core", ["click.core"]),
        ("networks", "import torch\nfrom cgpipe.errors import UsageError\nfrom .norm import make_norm", []),
        ("cli", "import click\nfrom cgpipe import __version__, jobs, training", []),
    ],
)
def test_the_check_finds_what_goes_upward(part: str, source: str, expected: list[str]) -> None:
    assert violations(part, source, f"cgpipe.{part}.module") == expected


def imported_at_once(module: str) -> set[str]:
    """All that importing a module imports with it, down to other libraries."""
    found, waiting = {module}, [module]
    while waiting:
        path = PACKAGE.parent / waiting.pop().replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not path.is_file():
            continue  # another library, or a name inside a module
        body = ast.parse(path.read_text(encoding="utf-8")).body
        source = ast.unparse([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)])  # type: ignore[arg-type]
        names = {name for full in imported_modules(source, "") for name in (full, full.rpartition(".")[0])}
        waiting += names - found
        found |= names
    return found


def test_pictures_start_without_what_only_videos_need() -> None:
    assert "av" not in imported_at_once("cgpipe.jobs.pictures")
    assert "av" in imported_at_once("cgpipe.jobs.clip")
