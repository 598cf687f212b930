"""Finds out a program's input and output format: from its file, or from its output for a test card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from cgpipe.errors import ModelError, UsageError
from cgpipe.models.program import (
    DTYPES,
    RANGES,
    Array,
    Feed,
    Layout,
    Pixels,
    Port,
    Signature,
    from_array,
    last_operator,
    to_array,
)

MOST_ENLARGED = 16
"""How many times as high and wide a network may make pictures."""
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
FIXED = (256, 512, 224, 384, 128)
"""Sides to try for a network that rejects other sizes and does not state its own."""
SAME_RANGE = 0.15
"""Margin by which different input and output ranges must beat equal ones."""
LEAST_LIKENESS = 0.1
"""Similarity below which the output has nothing of the test card, and so is not a picture of it."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the user says about a program's format; takes precedence over the file and the probe."""

    layout: Layout | None = None
    pixels: Pixels | None = None
    output_pixels: Pixels | None = None
    order: Literal["rgb", "bgr"] | None = None


def probe(
    feed: Feed,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    values: Mapping[str, object],
    makers: Mapping[str, tuple[str, str]],
    told: Told,
) -> Signature:
    """Determines a program's input and output format.

    Args:
        feed: runs it.
        inputs, outputs: of the program.
        values: values of the inputs besides the picture, as nested lists.
        makers: for each value that is computed, the operator and its first input, as far as known.
        told: takes precedence over everything else.

    Raises:
        UsageError: an input has no value; the message names it and its shape.
        ModelError: it does not map pictures to pictures of the same size.
    """
    picture = _picture(inputs, values)
    _check_values([port for port in inputs if port is not picture], values)
    reasons = []
    for layout, output in product(_layouts(picture, told), _outputs(outputs)):
        start = Signature(
            picture=picture.name,
            output=outputs.index(output),
            layout=layout,
            output_layout=layout,
            dtype=picture.dtype,
            order=told.order or "rgb",
            size=_fixed(picture, layout),
            batch=picture.shape[0],
            inputs=values,
        )
        try:
            sized = _sized(feed, start)
            return _with_ranges(feed, sized, last_operator(makers, output.name), told)
        except ModelError as error:
            reasons.append(str(error))
    raise ModelError(reasons[0] if reasons else "It outputs no picture.")


def drawn_card(height: int, width: int) -> torch.Tensor:
    """The test card, (1, 3, height, width) in [-1, 1]: sky, ground, a ball, stripes, patches of pure colours."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    sky = torch.stack([0.35 + 0.5 * y, 0.55 + 0.35 * y, 0.95 - 0.1 * y])
    ground = torch.stack([0.45 - 0.3 * (1 - y), 0.55 - 0.2 * x, 0.2 + 0 * x])
    card = torch.where(y > 0.6, ground, sky)
    ball = (x - 0.3).square() + (y - 0.5).square() < 0.04
    card = torch.where(ball, torch.stack([0.9 - 0.6 * y, 0.2 + 0 * x, 0.15 + 0 * x]), card)
    stripes = ((x * 24).floor() % 2) * torch.ones_like(y)
    card = torch.where((x > 0.6) & (y > 0.65) & (y < 0.85), stripes.expand(3, -1, -1), card)
    for index, colour in enumerate(((1, 1, 1), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))):
        patch = (y < 0.12) & (x > 0.18 * index) & (x < 0.18 * index + 0.12)
        card = torch.where(patch, torch.tensor(colour, dtype=torch.float32)[:, None, None], card)
    return card[None] * 2 - 1


def _picture(inputs: Sequence[Port], values: Mapping[str, object]) -> Port:
    """The picture's input: the first with four axes, one of which may be the channels."""
    for port in inputs:
        colours = [port.shape[axis] for axis in (1, 3)] if len(port.shape) == 4 else []
        if port.name not in values and port.dtype in DTYPES and any(side in (3, None) for side in colours):
            return port
    taken = ", ".join(f"{port.name} {_shape(port)}" for port in inputs) or "nothing"
    raise ModelError(f"It takes {taken} instead of an RGB picture.")


def _check_values(others: Sequence[Port], values: Mapping[str, object]) -> None:
    for name in values:
        if name not in {port.name for port in others}:
            known = ", ".join(port.name for port in others) or "none besides the picture"
            raise UsageError(f"The network has no input {name}: it has {known}.")
    for port in others:
        if port.name not in values:
            raise UsageError(
                f"The network needs a value for its input {port.name} {_shape(port)}: give it with "
                f"--input '{port.name}=…': comma-separated numbers, or a file."
            )


def _shape(port: Port) -> str:
    if port.free:
        return "(of a shape that the file does not say)"
    return "x".join("?" if side is None else str(side) for side in port.shape) or "a number"


def _layouts(port: Port, told: Told) -> list[Layout]:
    if told.layout:
        return [told.layout]
    by_axis: list[tuple[int, Layout]] = [(1, "nchw"), (3, "nhwc")]
    return [layout for axis, layout in by_axis if port.shape[axis] == 3] or ["nchw", "nhwc"]


def _outputs(outputs: Sequence[Port]) -> list[Port]:
    """The outputs that may be pictures."""
    return [port for port in outputs if len(port.shape) in (0, 3, 4)]


def _fixed(port: Port, layout: Layout) -> tuple[int, int] | None:
    rows, columns = (port.shape[2], port.shape[3]) if layout == "nchw" else (port.shape[1], port.shape[2])
    return (rows, columns) if rows and columns else None


def _run(feed: Feed, signature: Signature, card: torch.Tensor) -> torch.Tensor:
    """The raw output for a test card, as (1, 3, H, W)."""
    inputs: dict[str, Array] = {name: np.asarray(value, np.float32) for name, value in signature.inputs.items()}
    taken = card.expand(signature.batch or 1, -1, -1, -1)
    outputs = feed({signature.picture: to_array(taken, signature), **inputs}, torch.get_num_threads(), "cpu")
    return from_array(outputs[signature.output], replace(signature, output_pixels="-1..1"))[:1]


def _sized(feed: Feed, signature: Signature) -> Signature:
    """Adds the accepted sizes: multiples of a number, or one fixed size."""
    try:
        return _with_multiple(feed, signature)
    except ModelError:
        if signature.size:
            raise
        for side in FIXED:
            try:
                return _with_multiple(feed, replace(signature, size=(side, side)))
            except ModelError:
                continue
        raise


def _with_multiple(feed: Feed, signature: Signature) -> Signature:
    """Adds the smallest multiple of the sides, and the layout and size of the output."""
    sizes = [signature.size] if signature.size else [(64 + side, 64 + 3 * side) for side in MULTIPLES]
    first: ModelError | None = None
    for multiple, size in zip(MULTIPLES, sizes, strict=False):
        try:
            return replace(_with_output_layout(feed, signature, drawn_card(*size)), multiple=multiple)
        except ModelError as error:
            first = first or error
    assert first is not None
    raise first


def _with_output_layout(feed: Feed, signature: Signature, card: torch.Tensor) -> Signature:
    shapes = []
    layouts: tuple[Layout, Layout] = ("nchw", "nhwc")
    for layout in sorted(layouts, key=lambda layout: layout != signature.layout):
        tried = replace(signature, output_layout=layout)
        result = _run(feed, tried, card)
        if enlarges := _times(card.shape, result.shape):
            return replace(tried, enlarges=enlarges)
        shapes.append(result.shape)
    if shapes[0][1] != 3:
        raise ModelError(f"It outputs values of shape {tuple(shapes[0])} instead of an RGB picture.")
    seen, got = ("{3}x{2}".format(*shape) for shape in (card.shape, shapes[0]))
    raise ModelError(f"It outputs {got} pixels for {seen}: neither the same size nor a whole number of times as large.")


def _times(taken: Sequence[int], given: Sequence[int]) -> int:
    """The factor by which the sides of one shape exceed those of another; 0 if it is not a whole number."""
    times = given[2] // taken[2]
    fits = 1 <= times <= MOST_ENLARGED and list(given) == [*taken[:2], taken[2] * times, taken[3] * times]
    return times if fits else 0


def _with_ranges(feed: Feed, signature: Signature, operator: str, told: Told) -> Signature:
    """Adds the pixel ranges for which the output is most similar to the test card."""
    step = signature.multiple
    card = drawn_card(*(signature.size or (max(1, 96 // step) * step, max(1, 128 // step) * step)))
    candidates: list[Pixels] = [told.pixels] if told.pixels else ["0..255"] if signature.dtype == "uint8" else [*RANGES]
    tried = []
    for pixels in candidates:
        taken = replace(signature, pixels=pixels)
        values = _run(feed, taken, card)
        output = told.output_pixels or _range_of(values, operator)
        low, high = RANGES[output]
        score = _likeness(card, ((values - low) * (2 / (high - low)) - 1).clamp(-1, 1))
        tried.append((score + SAME_RANGE * (pixels == output), replace(taken, output_pixels=output)))
    best, found = max(tried, key=lambda entry: entry[0])
    if not best > LEAST_LIKENESS - 2:
        raise ModelError("Its output does not resemble a test picture: it is not a picture-to-picture network.")
    return found


def _range_of(values: torch.Tensor, operator: str) -> Pixels:
    """The range of the output's pixels, by the last operator or by the values."""
    if operator in ("tanh", "sigmoid", "hardsigmoid"):
        return "-1..1" if operator == "tanh" else "0..1"
    if float(values.max()) > 3:
        return "0..255"
    return "-1..1" if float(values.min()) < -0.2 else "0..1"


def _likeness(card: torch.Tensor, result: torch.Tensor) -> float:
    """Similarity of a result to the card in large shapes, brightness and contrast; at most 1."""
    before, after = (F.adaptive_avg_pool2d(x.mean(1, keepdim=True), 24).flatten() for x in (card, result))
    if not after.isfinite().all() or float(after.std()) < 1e-4:
        return -10.0
    correlation = float(torch.corrcoef(torch.stack([before, after]))[0, 1])
    contrast = abs(math.log(float(after.std() / before.std())))
    return correlation - 0.5 * abs(float(after.mean() - before.mean())) - 0.3 * contrast
