"""How often an animation is shown."""

from __future__ import annotations

from PIL import Image, UnidentifiedImageError

REPEATS = "GIF"
"""The format that counts repeats after the first time, and says nothing for once."""


def plays_of(path: str | None) -> int | None:
    """How often a GIF, PNG or WebP is shown, 0: endlessly; None for other files, or for none."""
    if path is None or not path.lower().endswith((".gif", ".png", ".apng", ".webp")):
        return None
    try:
        with Image.open(path) as image:
            return plays_in(image)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):  # damage is told by the decoder
        return None


def plays_in(image: Image.Image) -> int | None:
    """The same of an opened one."""
    count: int | None = image.info.get("loop")
    if image.format != REPEATS:
        return count
    return 1 if count is None else count and count + 1


def muxer_option(format: str, plays: int | None) -> dict[str, str]:
    """The option that makes libav's muxer ``format`` write ``plays``; none for None, or for other formats."""
    if plays is None:
        return {}
    if format == "gif":
        return {"loop": str(plays and (plays - 1 or -1))}
    return {name: str(plays) for muxer, name in (("webp", "loop"), ("apng", "plays")) if muxer == format}
