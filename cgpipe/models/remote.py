"""Downloads model files: ``hf://owner/name[/file]`` and ``https://…#sha256=…``, with a cache.

A downloaded file is read like any other: none of its code is run.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from http.client import HTTPException
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol
from urllib.parse import unquote, urlsplit

from cgpipe.errors import MissingDependencyError, ModelError, ModelNotFoundError, UsageError
from cgpipe.storage import atomic_write, cache_folder, shown
from cgpipe.web import Response, opened, reason_of

LARGEST = 2_000_000_000
"""Most bytes of a file."""
LONGEST = 3600
"""Most seconds for a whole download."""

_SUFFIXES = (".safetensors", ".onnx", ".pth", ".pt", ".pt2", ".ckpt")
_SUM = re.compile(r"sha256=([0-9a-fA-F]{64})")


def fetched(address: str) -> Path:
    """The file at an address, from the cache if it has been downloaded before.

    Raises:
        UsageError: the address is invalid, does not name a single file, or has no checksum.
        MissingDependencyError: huggingface_hub is needed for ``hf://`` and not installed.
        ModelNotFoundError: there is no such file, or no connection.
        ModelError: it is too large, or its checksum differs.
    """
    if address.startswith("hf://"):
        return _from_hub(address)
    if address.startswith("https://"):
        return _from_server(address)
    raise UsageError(
        f"{address} is not a valid model: use a file, a name, hf://OWNER/NAME[/FILE], or https://…#sha256=SUM."
    )


def _from_hub(address: str) -> Path:
    owner, _, rest = address.removeprefix("hf://").partition("/")
    name, _, file = rest.partition("/")
    if not owner or not name or ".." in PurePosixPath(file).parts:
        raise UsageError(f"{address} is not a valid address: use hf://OWNER/NAME or hf://OWNER/NAME/FILE.")
    try:
        hub: Any = import_module("huggingface_hub")
    except ImportError as error:
        raise MissingDependencyError(f"{address} needs huggingface_hub: pip install 'cgpipe[hub]'") from error
    try:
        return Path(hub.hf_hub_download(f"{owner}/{name}", file or _only_file(hub, f"{owner}/{name}", address)))
    except UsageError:
        raise
    except Exception as error:  # the hub's own errors, and those of its HTTP library
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelNotFoundError(f"{address} cannot be downloaded, and is not in the cache: {first[:300]}.") from error


class _Hub(Protocol):
    """The part of huggingface_hub that is used."""

    def list_repo_files(self, repository: str, /) -> Sequence[str]: ...


def _only_file(hub: _Hub, repository: str, address: str) -> str:
    files = [str(file) for file in hub.list_repo_files(repository) if str(file).endswith(_SUFFIXES)]
    if len(files) != 1:
        listed = ", ".join(files[:20]) or "none"
        raise UsageError(f"{address} holds {len(files)} model files. Append one of them: {listed}.")
    return files[0]


def _from_server(address: str) -> Path:
    parts = urlsplit(address)
    given = _SUM.fullmatch(parts.fragment)
    name = PurePosixPath(unquote(parts.path)).name
    if not given:
        raise UsageError(f"{shown(address)} has no checksum: append the SHA-256 of the file, #sha256=….")
    if not name or name.startswith("."):
        raise UsageError(f"{shown(address)} does not name a file.")
    wanted = given[1].lower()
    kept = cache_folder("models", wanted) / name
    if not (kept.is_file() and _sum_of(kept) == wanted):
        _download(address.partition("#")[0], kept, wanted)
    return kept


def _download(url: str, path: Path, wanted: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened(url, schemes=("https",)) as answer, atomic_write(path) as partial:
            with partial.open("wb") as file:
                _copy(answer, file, url)
            if (found := _sum_of(partial)) != wanted:
                raise ModelError(f"{shown(url)} has the SHA-256 {found}, not {wanted}. It was discarded.")
    except (OSError, HTTPException) as error:
        reason = reason_of(error)
        raise ModelNotFoundError(f"{shown(url)} cannot be downloaded, and is not in the cache: {reason}.") from error


def _copy(answer: Response, file: IO[bytes], url: str) -> None:
    began, size = time.monotonic(), 0
    for chunk in answer.chunks(1 << 20):
        size += len(chunk)
        if size > LARGEST:
            raise ModelError(f"{shown(url)} is larger than {LARGEST / 1e9:.0f} GB. It was not downloaded.")
        if time.monotonic() - began > LONGEST:
            raise ModelError(f"{shown(url)} took longer than {LONGEST // 60} minutes. The download was stopped.")
        file.write(chunk)


def _sum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
