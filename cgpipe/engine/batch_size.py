"""How many pictures to translate together, found by trying."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch

from cgpipe.engine.remembered import recall, remember, trial_key
from cgpipe.engine.translator import Translator
from cgpipe.errors import CgpipeError, CgpipeWarning
from cgpipe.media.frames import Batch

LARGEST = 64
LEAST_GAIN = 1.1
"""How many times as many pictures a second a batch of twice the size must give."""
TRIAL_BATCHES = 4


def choose_batch_size(translator: Translator, height: int, width: int) -> int:
    """The batch size for pictures of ``height`` x ``width`` on the translator's device.

    On a CPU one: there pictures run side by side, one thread each, and larger batches have been no faster for any
    network. On a GPU batches are doubled until that stops paying or its memory has no more room; what was found is kept
    for this machine, model and size.
    """
    if translator.device.type == "cpu":
        return 1
    key = trial_key(translator.model.generator, translator.device, (height, width))
    key = f"batch size, {translator.asked}: {key}"
    match recall(key):
        case [size] if 1 <= size <= LARGEST:
            return int(size)
    # Noise, since the first picture that a translator sees may choose its precision, and tells how large its error is.
    noise = torch.Generator().manual_seed(0)
    picture = torch.randint(256, (1, height, width, 3), dtype=torch.uint8, generator=noise)
    found = grown(lambda size: trial(translator, picture.expand(size, -1, -1, -1)))
    remember(key, [found])
    return found


def grown(seconds: Callable[[int], float | None]) -> int:
    """Doubles a batch as long as that pays; ``seconds`` tells how long one takes, None where it has no room."""
    size, taken = 1, seconds(1)
    while taken is not None and size < LARGEST:
        twice = seconds(2 * size)
        if twice is None or LEAST_GAIN * twice > 2 * taken:
            break
        size, taken = 2 * size, twice
    return size


def trial(translator: Translator, pixels: torch.Tensor) -> float | None:
    """Seconds that a batch takes in a stream of them, copies included; None where memory has no room for it."""
    batch = Batch(pixels=pixels, origins=(None,) * len(pixels))
    with warnings.catch_warnings():
        # What would be a warning in a job, that batches are halved, is an answer here.
        warnings.simplefilter("error", CgpipeWarning)
        try:
            translator.translate(batch)
            started = time.perf_counter()
            for _ in translator.stream([batch] * TRIAL_BATCHES):
                pass
            return (time.perf_counter() - started) / TRIAL_BATCHES
        except (CgpipeWarning, CgpipeError, torch.OutOfMemoryError):
            translator.forget_limit()
            return None
