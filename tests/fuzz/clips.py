"""Clips in every container, damaged, translated: each must be translated, whole or damaged, or fail with a reason.

``run(count, seed)`` gives the counts; all but translated, damaged and failed must be zero.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import _damaged
import av
import numpy as np

CODECS = {
    ".mp4": "libx264",
    ".mov": "libx264",
    ".mkv": "libx264",
    ".webm": "libvpx-vp9",
    ".avi": "mpeg4",
    ".ts": "libx264",
    ".flv": "libx264",
    ".gif": "gif",
}
SOUND = {".webm": "libopus", ".avi": "adpcm_ms", ".mkv": "flac", ".gif": None}
"""Of the others, AAC."""


def run(count: int, seed: int) -> dict[str, int]:
    """Translates so many damaged clips, always the same ones for a seed."""
    with tempfile.TemporaryDirectory(prefix="cgpipe-fuzz-") as folder:
        return _damaged.run(
            _seeds(Path(folder)), count, seed, batch=14, command=_command, results=_results, seconds=20.0
        )


def _command(folder: Path, output: Path, job: int) -> list[str]:
    return ["video", str(folder), "-o", str(output), "--to", "zebra", "--size", "16", "--precision", "fp32"]


def _results(report: dict[str, Any]) -> dict[str, int]:
    damaged = sum(
        bool(clip["filled"] or clip["bad_packets"] or clip["missing"] or clip["failed"] or clip["bad_sound"])
        for clip in report["videos"]
    )
    return {"translated": len(report["videos"]) - damaged, "damaged": damaged, "failed": len(report["failures"])}


def _seeds(folder: Path) -> list[Path]:
    noise = np.random.default_rng(0)
    for suffix, codec in CODECS.items():
        with av.open(str(folder / f"clip{suffix}"), "w") as container:
            pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
            stream = container.add_stream(codec, rate=25, width=64, height=48, pix_fmt=pix_fmt)
            sound: Any = SOUND.get(suffix, "aac")
            track: Any = container.add_stream(sound, rate=48000, layout="mono") if sound else None
            for number in range(12):
                pixels = np.full((48, 64, 3), 20 * number, np.uint8) ^ noise.integers(0, 8, (48, 64, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
                container.mux(track.encode(_tone(number)) if track else [])
            container.mux(stream.encode(None))
            container.mux(track.encode(None) if track else [])
    return sorted(folder.iterdir())


def _tone(number: int) -> av.AudioFrame:
    """1920 samples: as long as a frame of the picture."""
    wave = np.sin(np.arange(1920 * number, 1920 * (number + 1)) / 20).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 48000, 1920 * number
    return frame


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2])))
