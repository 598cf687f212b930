"""int8, as ``cgpipe models export --int8`` writes it, beside cgpipe's own bf16: how fast, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from material import make_pictures, photo
from measure import Way, in_turn, repeated, tell
from results import Row, Table
from settings import CannotMeasureError, Settings
from subjects import SUBJECTS

from cgpipe.data.pictures import find_pictures
from cgpipe.engine.autotune import Precision
from cgpipe.engine.export import INPUT
from cgpipe.engine.network import Network
from cgpipe.engine.quantise import Quantised, export_int8
from cgpipe.errors import MissingDependencyError
from cgpipe.evaluation.evaluator import Evaluator
from cgpipe.models import load_any
from cgpipe.networks import Generator

CPU = torch.device("cpu")
SECONDS = 2.0
"""How long each way runs at a time, at least."""
FP32, BF16, INT8 = "cgpipe, fp32", "cgpipe, bf16", ("ONNX Runtime, int8", "OpenVINO, int8 of the same file")

Call = Callable[[torch.Tensor], torch.Tensor]
"""(N, 3, H, W) in [-1, 1] to the same, float32."""
Start = Callable[[int], Call]
"""A network ready to run on so many threads."""

SPEED = {
    "way": "",
    "threads": "d",
    "ms a picture": ".1f",
    "lowest": ".1f",
    "highest": ".1f",
    "times cgpipe's bf16": ".2f",
}
LOOKS = {
    "way": "",
    "seen as zebra by Lite0": ".1%",
    "by Lite2": ".1%",
    "KID x1000 by Lite0": ".1f",
    "KID by Lite2": ".1f",
}


def measure_int8(which: str, settings: Settings) -> list[Table]:
    """Speed of one network at 256x256; with a dataset of horses and zebras, looks of the shipped one too.

    Raises:
        CannotMeasureError: nothing that runs int8 is installed, or a GPU is asked for.
    """
    if settings.device.type != "cpu":
        raise CannotMeasureError("int8 is measured on a CPU only")
    subject = SUBJECTS[which](settings.folder, tiny=settings.tiny)
    model = load_any(subject.file)
    made = 3 if settings.tiny else 48
    pictures = find_pictures(
        settings.dataset / "trainA" if settings.dataset else make_pictures(settings.folder / "ranges", made)
    )
    try:
        done = export_int8(model, settings.folder / "int8.onnx", pictures, overwrite=True)
    except MissingDependencyError as error:
        raise CannotMeasureError(str(error)) from error
    starts = {FP32: _ours(model.generator, "fp32"), BF16: _ours(model.generator, "bf16")}
    starts |= {INT8[0]: _onnxruntime(done.path)}
    try:
        starts[INT8[1]] = _openvino(import_module("openvino").Core(), done.path)
    except ImportError:
        tell("  OpenVINO is not installed: left out")
    tables = [Table(title=f"int8: {subject.title}", columns=SPEED, rows=_speed(starts, settings), notes=_notes(done))]
    if settings.dataset and which == "shipped":
        tables.append(Table(title="int8, looks", columns=LOOKS, rows=list(_looks(starts, settings.dataset))))
    return tables


def _notes(done: Quantised) -> list[str]:
    loss = f"int8 to fp32: PSNR {done.psnr:.1f} dB on {done.measured} pictures, lowest {done.lowest:.1f} dB"
    return [
        f"{loss}; ranges from {done.ranges} others.",
        "One thread is what each picture gets in cgpipe, where two run side by side on two cores.",
    ]


def _ours(generator: Generator, precision: Precision) -> Start:
    network = Network(generator, CPU, precision=precision, engine="eager")

    def start(threads: int) -> Call:
        def call(x: torch.Tensor) -> torch.Tensor:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                return network(x)

        return call

    return start


def _onnxruntime(path: Path) -> Start:
    onnxruntime = import_module("onnxruntime")

    def start(threads: int) -> Call:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(None, {INPUT: x.contiguous().numpy()})[0])

    return start


def _openvino(core: Any, path: Path) -> Start:
    """What is not quantised, in bf16."""
    model = core.read_model(path)

    def start(threads: int) -> Call:
        settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        ready: dict[tuple[int, ...], Any] = {}

        def call(x: torch.Tensor) -> torch.Tensor:
            shape = tuple(x.shape)
            if shape not in ready:
                fixed = model.clone()
                fixed.reshape(list(shape))  # a fixed shape runs faster
                ready[shape] = core.compile_model(fixed, "CPU", settings)
            return torch.from_numpy(ready[shape](x.contiguous().numpy())[0].copy())

        return call

    return start


def _speed(starts: Mapping[str, Start], settings: Settings) -> list[Row]:
    side = 64 if settings.tiny else 256
    x = torch.from_numpy(photo(0, side, side)).permute(2, 0, 1)[None] / 127.5 - 1
    ways: dict[tuple[str, int], Way] = {}
    for name, start in starts.items():
        for threads in (1, 2):
            call = start(threads)

            def many(count: int, call: Call = call) -> None:
                for _ in range(count):
                    call(x)

            ways[name, threads] = repeated(many, 0.01 if settings.tiny else SECONDS, CPU)
    measured = in_turn({f"{name}, {threads}": way for (name, threads), way in ways.items()}, settings.times(3))
    rows = []
    for name, threads in ways:
        rate, ours = (measured[f"{which}, {threads}"].rate for which in (name, BF16))
        rows.append(
            {
                "way": name,
                "threads": threads,
                "ms a picture": 1000 / rate.median,
                "lowest": 1000 / rate.highest,
                "highest": 1000 / rate.lowest,
                "times cgpipe's bf16": rate.median / ours.median,
            }
        )
    return rows


def _looks(starts: Mapping[str, Start], dataset: Path) -> Iterator[Row]:
    """What two classifiers say of all of testA, against testB."""
    evaluator = Evaluator(dataset / "testA", dataset / "testB", class_name="zebra", batch_size=1)
    for name, start in starts.items():
        tell(f"  judging {name}")
        figures = evaluator.evaluate(start(torch.get_num_threads())).figures
        lite0, lite2 = figures["lite0"], figures["lite2"]
        yield {
            "way": name,
            "seen as zebra by Lite0": lite0.class_share,
            "by Lite2": lite2.class_share,
            "KID x1000 by Lite0": lite0.kid,
            "KID by Lite2": lite2.kid,
        }
