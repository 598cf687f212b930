"""Errors and warnings are sentences, on every floor: what was wrong, and what to do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from cgpipe import errors
from cgpipe.models import ModelCard
from cgpipe.options import Options
from cgpipe.training.config import TrainConfig
from cgpipe.training.distill_config import DistillConfig

PACKAGE = Path(errors.__file__).parent
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
SETTINGS = {field.name for kind in (TrainConfig, DistillConfig, ModelCard) for field in fields(kind)}
SETTINGS |= {field.name for group in vars(Options()).values() for field in fields(group)} | {"format_version"}
BEGINS = re.compile(rf"[A-Z\d{{`'\"-]|({'|'.join(sorted(SETTINGS))})\b")
"""A capital, a value, or an option or a setting as it is typed."""
ENDS = re.compile(r"[.!?}`]$|pip install \S+( \S+)?$")
"""A full stop, a value, or a command to be copied."""

TRANSLATED = re.compile(r"(?<!there )\b(is|are) (no|none of) (?!longer)|\banew\b|\bjudge|\barithmetic\b", re.IGNORECASE)
"""What reads as if translated: \"is no picture\" for \"is not a picture\", and words that the field does not use."""


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Every message that stands in the code, with ``{}`` for what is put in."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        warned = name == "warn" and any("CgpipeWarning" in ast.unparse(argument) for argument in node.args)
        message = node.args[0]
        if (name in KINDS or name == "BadParameter" or warned) and isinstance(message, (ast.JoinedStr, ast.Constant)):
            parts = message.values if isinstance(message, ast.JoinedStr) else [message]
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_messages_are_sentences(path: Path) -> None:
    found = list(messages(path.read_text(encoding="utf-8")))
    assert [(line, text) for line, text in found if not BEGINS.match(text)] == [], "begin with a capital"
    assert [(line, text) for line, text in found if not ENDS.search(text)] == [], "end with a full stop"
    assert [(line, text) for line, text in found if TRANSLATED.search(text)] == [], "say it as the field does"


def test_the_check_sees_what_is_no_sentence() -> None:
    found = list(messages('raise MediaError(f"no pictures in {path}; try another")\nraise ValueError("x")'))
    assert found == [(1, "no pictures in {}; try another")]
    assert not BEGINS.match(found[0][1]) and not ENDS.search(found[0][1])
    assert TRANSLATED.search("x.txt is no picture") and not TRANSLATED.search("There is no folder x.")
