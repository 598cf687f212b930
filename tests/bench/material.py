"""Pictures and clips to measure with, the same on every machine: photo-like, so that they cost what photos cost."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

RATE = 25


def photo(seed: int, width: int, height: int) -> np.ndarray:
    """A landscape of sky, ground and a few textured bodies: RGB, uint8, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    sky, ground = rng.uniform(90, 220, (2, 3)).astype(np.float32)
    horizon = np.float32(rng.uniform(0.3, 0.6))
    far, near = sky * (1.1 - 0.4 * rows), ground * (0.5 + 0.5 * rows)
    picture = np.where(rows < horizon, far + 0.25 * _texture(rng, width, height), near + _texture(rng, width, height))
    for _ in range(5):
        mask = np.zeros((height, width), np.float32)
        centre = (int(rng.uniform(0, width)), int(rng.uniform(horizon, 1) * height))
        axes = (int(rng.uniform(0.05, 0.2) * width), int(rng.uniform(0.05, 0.2) * height))
        cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
        body = rng.uniform(30, 220, 3).astype(np.float32) + _texture(rng, width, height)
        picture += mask[..., None] * (body - picture)
    return picture.clip(0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Noise whose strength falls with its fineness, as in photos: float32, (height, width, 3), around 0."""
    texture = np.zeros((height, width, 1), np.float32)
    cells, strength = 4, 26.0
    while cells <= min(width, height):
        grid = rng.normal(0, strength, (cells, cells)).astype(np.float32)
        texture[..., 0] += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, strength = cells * 2, strength * 0.8
    return texture * rng.uniform(0.7, 1.1, 3).astype(np.float32)


def make_pictures(folder: Path, count: int, side: int = 256) -> Path:
    """A folder of ``count`` JPEG photos."""
    folder.mkdir(parents=True)
    for index in range(count):
        picture = cv2.cvtColor(photo(index, side, side), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return folder


def moving_frames(count: int, width: int, height: int) -> Iterator[np.ndarray]:
    """A camera that moves over one large photo, with the grain of a sensor: RGB, uint8."""
    room = max(8, min(width, height) // 4)
    scene = photo(0, width + room, height + room)
    grain = np.random.default_rng(0).normal(128, 5, scene.shape).clip(0, 255).astype(np.uint8)
    for index in range(count):
        x, y = (int((0.5 + 0.5 * np.sin(index / period)) * room) for period in (40, 55))
        u, v = (97 * index % room, 61 * index % room)
        seen, noise = scene[y : y + height, x : x + width], grain[v : v + height, u : u + width]
        yield cv2.addWeighted(seen, 1, noise, 1, -128)


def make_clip(path: Path, count: int, width: int, height: int) -> Path:
    """An H.264 clip of ``count`` such frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        for index, pixels in enumerate(moving_frames(count, width, height)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
