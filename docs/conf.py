"""The documentation site: ``sphinx-build -W docs SITE``, with the extra ``docs``."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import cgpipe  # noqa: E402

project = "cgpipe"
copyright = "the cgpipe developers"
release = cgpipe.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["notebooks"]
myst_heading_anchors = 3
highlight_language = "none"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

html_theme = "furo"
html_title = "cgpipe"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

REPOSITORY = os.environ.get("CGPIPE_REPOSITORY", "")
"""Address of the repository, for links to files outside the site; without it they are plain text."""

OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")


def link(match: re.Match[str], folder: Path) -> str:
    """A link as the site has it: within docs/ as it is, to any other file in the repository."""
    text, target = match.groups()
    path, _, anchor = target.partition("#")
    file = (folder / path).resolve()
    if file.is_relative_to(ROOT / "docs") and file.suffix == ".md":
        return f"[{text}]({os.path.relpath(file, ROOT / 'docs')}{'#' + anchor if anchor else ''})"
    return f"[{text}]({REPOSITORY}/blob/main/{file.relative_to(ROOT)})" if REPOSITORY else text


def list_others(page: str, source: list[str]) -> None:
    """Puts the how-to pages that the index does not name where it says OTHERS: a new page needs no line of its own."""
    if page == "index":
        named = {"index", *source[0].splitlines()}
        others = sorted(file.stem for file in (ROOT / "docs").glob("*.md") if file.stem not in named)
        source[0] = source[0].replace("OTHERS\n", "".join(f"{name}\n" for name in others))


def settle(source: list[str], folder: Path) -> None:
    source[0] = OUTSIDE.sub(lambda match: link(match, folder), source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", lambda app, page, source: list_others(page, source))
    app.connect("source-read", lambda app, page, source: settle(source, (ROOT / "docs" / page).parent))
    app.connect("include-read", lambda app, file, page, source: settle(source, (ROOT / "docs" / file).parent))
