"""SMPTE timecodes: hours, minutes, seconds and frames, counted at an integer rate."""

from __future__ import annotations

import re
from fractions import Fraction

_CODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d+)")
_DROPPED_A_MINUTE = 2
"""Frame numbers that drop-frame counting skips at 30 fps, in every minute except each tenth."""


def advanced(code: str, time: Fraction, rate: Fraction) -> str:
    """The timecode ``time`` seconds after ``code``; unchanged if it cannot be parsed."""
    match = _CODE.fullmatch(code.strip())
    whole = round(rate)
    if match is None or whole < 1:
        return code
    hours, minutes, seconds, frames = (int(match[place]) for place in (1, 2, 3, 5))
    dropped = _DROPPED_A_MINUTE * (whole // 30) if match[4] != ":" else 0
    count = _count(hours, minutes, seconds, frames, whole, dropped) + round(time * rate)
    return _written(count, whole, dropped, match[4])


def _count(hours: int, minutes: int, seconds: int, frames: int, rate: int, dropped: int) -> int:
    all_minutes = 60 * hours + minutes
    return (60 * all_minutes + seconds) * rate + frames - dropped * (all_minutes - all_minutes // 10)


def _written(count: int, rate: int, dropped: int, mark: str) -> str:
    ten_minutes = 600 * rate - 9 * dropped
    tens, rest = divmod(count, ten_minutes)
    if dropped and rest >= 60 * rate:
        rest += dropped * ((rest - 60 * rate) // (60 * rate - dropped) + 1)
    seconds, frames = divmod(tens * 600 * rate + rest, rate)
    return f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{frames:02}"
