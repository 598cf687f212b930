"""The parts of the check: each writes its rows as it finds them, so that what is stopped loses nothing.

python parts.py PART FOLDER ROWS [--dry]
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
TESTS = HERE.parent
sys.path[:0] = [str(TESTS), str(TESTS / "bench")]

PART, FOLDER, ROWS = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
DRY = "--dry" in sys.argv
DEVICE = torch.device("cpu" if DRY else "cuda")
SECONDS = 0.01 if DRY else 0.25
COUNTS = (1, 2) if DRY else (1, 32)


def row(table: str, **cells: Any) -> None:
    """Adds a row to the report."""
    with ROWS.open("a") as file:
        file.write(json.dumps({"table": table, **cells}) + "\n")


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def milliseconds(run: Callable[[], object], times: int = 5) -> float:
    """What a call takes, the device's work included: the median of several rounds of many calls."""
    for _ in range(1 if DRY else 3):
        run()
    synchronize()
    began = time.perf_counter()
    run()
    synchronize()
    each = max(1, int(SECONDS / times / max(time.perf_counter() - began, 1e-6)))
    found = []
    for _ in range(times):
        began = time.perf_counter()
        for _ in range(each):
            run()
        synchronize()
        found.append(1000 * (time.perf_counter() - began) / each)
    return statistics.median(found)


@contextmanager
def without(*, graphs: bool = False, fusion: bool = False, benchmark: bool = False) -> Iterator[None]:
    """Leaves parts of the GPU's way out."""
    from cgpipe.engine import backends, cuda, translator

    kept = backends.may_fuse, translator.can_fuse, translator.MAX_GRAPH_PIXELS, cuda._fastest_convolutions
    if fusion:
        backends.may_fuse = translator.can_fuse = lambda device: False  # type: ignore[assignment]
    if graphs:
        translator.MAX_GRAPH_PIXELS = 0
    if benchmark:
        cuda._fastest_convolutions = nullcontext  # type: ignore[assignment]
    try:
        yield
    finally:
        backends.may_fuse, translator.can_fuse, translator.MAX_GRAPH_PIXELS, cuda._fastest_convolutions = kept


def matrix_limit(dtype: torch.dtype) -> float:
    """Multiplications and additions a second of a matrix product."""
    side = 256 if DRY else 8192
    left, right = (torch.randn(side, side, device=DEVICE).to(dtype) for _ in range(2))
    return 2 * side**3 / (milliseconds(lambda: left @ right, 3) / 1000)


def machine() -> None:
    row("machine", what="torch", value=torch.__version__)
    row("machine", what="processor cores", value=len(os.sched_getaffinity(0)))
    if not DRY:
        row("machine", what="GPU", value=torch.cuda.get_device_name())
        row("machine", what="CUDA, cuDNN", value=f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
    for name in ("av", "cv2", "torchvision", "triton"):
        try:
            row("machine", what=name, value=__import__(name).__version__)
        except ImportError as error:
            row("machine", what=name, value=str(error))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        row("machine", what=f"matrix product, {dtype}: TFLOP/s", value=matrix_limit(dtype) / 1e12)
    memory = torch.empty(1 << (20 if DRY else 30), dtype=torch.uint8, device=DEVICE)
    other = torch.empty_like(memory)
    taken = milliseconds(lambda: other.copy_(memory), 3)
    row("machine", what="copy on the device: TB/s, read and written", value=2 * len(memory) / taken / 1e9)
    if not DRY:
        pinned = torch.empty(1 << 26, dtype=torch.uint8, pin_memory=True)
        up = memory[: len(pinned)]
        rate = len(pinned) / milliseconds(lambda: up.copy_(pinned, non_blocking=True), 3) / 1e6
        row("machine", what="copy up, page-locked: GB/s", value=rate)


def tests() -> None:
    words = ["-q", "--tb=short", "-p", "no:cacheprovider", "-p", "telling", "-o", "timeout=40"]
    if find_spec("xdist") and not DRY:
        words += ["-n", "4"]
    environment = os.environ | {"GPU_CHECK_ROWS": str(ROWS)} | ({} if DRY else {"CGPIPE_REQUIRE_CUDA": "1"})
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "pytest", *words, "tests/test_cuda.py"]
    done = subprocess.run(command, cwd=TESTS.parent, env=environment)
    row("all tests", exit_code=done.returncode)


def translator(file: Any, **options: Any) -> Any:
    import cgpipe
    from cgpipe.models import load_any

    return cgpipe.Translator(load_any(file), device=str(DEVICE), size="full", **options)


def shipped_file() -> Path:
    from cgpipe.models import list_models

    return next(entry.path for entry in list_models() if entry.place == "shipped" and entry.name == "horse2zebra")


def side() -> int:
    return 64 if DRY else 256


def picture(count: int) -> Any:
    from material import photo

    import cgpipe

    pixels = torch.from_numpy(np.repeat(photo(0, side(), side())[None], count, 0))
    return cgpipe.Batch(pixels=pixels, origins=(None,) * count)


def per_picture(translate: Any, batch: Any, streams: int = 2 if DRY else 16) -> float:
    """Milliseconds a picture in a stream of batches, copies and the host's work included."""

    def many() -> None:
        for item in translate.stream(itertools.repeat(batch, streams)):
            assert len(item) == len(batch)

    return milliseconds(many, 5) / streams / len(batch)


def recorded(translate: Any) -> int:
    """How many CUDA graphs a translator has recorded."""
    graphs = translate._work
    return 0 if DRY else sum(run is not graphs._work for run in graphs._runs.values())


def on_device(translate: Any, batch: Any) -> float:
    """Milliseconds a picture of the device's own work, pictures lying there."""
    pixels = batch.pixels.to(DEVICE)

    @torch.inference_mode()
    def run() -> None:
        translate._work(pixels)

    return milliseconds(run, 5) / len(batch)


def plain_loop(network: torch.nn.Module, pixels: np.ndarray, dtype: torch.dtype) -> Callable[[], object]:
    """One picture after the other, as a script does it."""
    network = network.to(device=DEVICE, dtype=dtype)
    if dtype != torch.float32:
        network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> object:
        x = torch.from_numpy(pixels).to(DEVICE).permute(0, 3, 1, 2).to(dtype) / 127.5 - 1
        y = network(x)
        return ((y.permute(0, 2, 3, 1).float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()

    return run


def kernels(translate: Any, batch: Any, table: str) -> None:
    """The kernels that take most of a batch."""
    from torch.profiler import ProfilerActivity, profile

    pixels = batch.pixels.to(DEVICE)
    with torch.inference_mode():
        for _ in range(3):
            translate._translate_on_device(pixels)
        synchronize()
        with profile(activities=[ProfilerActivity.CPU if DRY else ProfilerActivity.CUDA]) as watched:
            translate._translate_on_device(pixels)
            synchronize()
    spent = "self_cpu_time_total" if DRY else "self_device_time_total"
    found = sorted(watched.key_averages(), key=lambda event: -getattr(event, spent))
    total = sum(getattr(event, spent) for event in found)
    row(table, kernel="all of them", us=total, calls=sum(event.count for event in found))
    for event in found[:16]:
        row(table, kernel=event.key[:90], us=getattr(event, spent), calls=event.count)


def one() -> None:
    from cgpipe.models import load_any

    file = shipped_file()
    translate, single = translator(file), picture(1).pixels[0].numpy()
    gaps = np.abs(translate(single).astype(int) - translate(single).astype(int))
    row("the first picture against the next", mean=float(gaps.mean()), largest=int(gaps.max()))
    for dtype in (torch.float32, torch.bfloat16 if DRY else torch.float16):
        for count in COUNTS:
            run = plain_loop(load_any(file).generator, picture(count).pixels.numpy(), dtype)
            row("shipped model, ms a picture", way=f"plain loop, {dtype}", batch=count, ms=milliseconds(run) / count)
    for count in (1, 2) if DRY else (1, 4, 16, 32, 64):
        translate = translator(file)
        cells = {"ms": per_picture(translate, picture(count)), "on the device": on_device(translate, picture(count))}
        cells["graphs"] = recorded(translate)
        row("shipped model, ms a picture", way=f"cgpipe, {translate.precision}", batch=count, **cells)
    for name, left_out in (
        ("no graphs", {"graphs": True}),
        ("no fusion", {"fusion": True}),
        ("no measured convolutions", {"benchmark": True}),
        ("none of them", {"graphs": True, "fusion": True}),
    ):
        for count in COUNTS:
            with without(**left_out):
                translate = translator(file, precision="bf16" if DRY else "fp16")
                cells = {
                    "ms": per_picture(translate, picture(count)),
                    "on the device": on_device(translate, picture(count)),
                }
            row("shipped model, ms a picture", way=f"cgpipe, fp16, {name}", batch=count, **cells)
    translate = translator(file)
    row(
        "shipped model, ms a picture",
        way="cgpipe, one call at a time",
        batch=1,
        ms=milliseconds(lambda: translate(single)),
    )
    translate = translator(file, precision="fp32")
    row(
        "shipped model, ms a picture",
        way="cgpipe, fp32",
        batch=COUNTS[-1],
        ms=per_picture(translate, picture(COUNTS[-1])),
    )
    exact = translate(single).astype(int)
    rough = translator(file)(single).astype(int)
    row("against fp32", mean=float(np.abs(rough - exact).mean()), largest=int(np.abs(rough - exact).max()))
    translate = translator(file)
    for count in COUNTS:
        translate.translate(picture(count))
        kernels(translate, picture(count), f"kernels, batch {count}")


def resnet() -> None:
    from subjects import resnet as subject_of
    from torch import nn

    subject = subject_of(FOLDER, tiny=DRY)
    operations = subject.operations(side(), side())
    limit = matrix_limit(torch.float16)
    table = "ResNet-9, ms a picture"

    def tell(way: str, count: int, ms: float, **more: float) -> None:
        share = operations / (ms / 1000) / limit
        row(table, way=way, batch=count, ms=ms, **{"of the fp16 limit": share}, **more)

    for dtype in (torch.float32, torch.bfloat16 if DRY else torch.float16):
        for count in COUNTS:
            run = plain_loop(subject.plain, picture(count).pixels.numpy(), dtype)
            tell(f"plain loop, {dtype}", count, milliseconds(run, 3) / count)
    for name, left_out in (("", {}), (", no fusion", {"fusion": True}), (", no graphs", {"graphs": True})):
        for count in (1,) if DRY else (1, 8, 16, 32):
            with without(**left_out):
                translate = translator(subject.file)
                ms = per_picture(translate, picture(count))
                alone = on_device(translate, picture(count))
            tell(f"cgpipe, {translate.precision}{name}", count, ms, **{"on the device": alone})
    translate = translator(subject.file)
    translate.translate(picture(COUNTS[-1]))
    kernels(translate, picture(COUNTS[-1]), "ResNet-9 without graphs: kernels, batch 32")
    half = {"device": DEVICE, "dtype": torch.float16 if not DRY else torch.float32}
    maps = torch.randn(4 if DRY else 32, 64, side(), side(), **half).to(memory_format=torch.channels_last)
    pixels = torch.randn(4 if DRY else 32, 3, side(), side(), **half).to(memory_format=torch.channels_last)
    folded = torch.randn(len(pixels), 16, side() // 2 + 3, side() // 2 + 3, **half)
    folded = folded.to(memory_format=torch.channels_last)
    inner = torch.randn(len(pixels), 256, side() // 4 + 2, side() // 4 + 2, **half)
    inner = inner.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        for name, conv, x in (
            ("head, 7x7 to 3", nn.Conv2d(64, 3, 7, padding=3), maps),
            ("head, 10x10 stride 4 to 48", nn.Conv2d(64, 48, 10, stride=4, padding=3), maps),
            ("stem, 7x7 from 3", nn.Conv2d(3, 64, 7, padding=3), pixels),
            ("stem, 4x4 from 16 folded to 256", nn.Conv2d(16, 256, 4), folded),
            ("inner, 3x3", nn.Conv2d(256, 256, 3), inner),
        ):
            ready = conv.to(**half).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            torch.backends.cudnn.benchmark = True
            row("convolutions, ms a picture", which=name, ms=milliseconds(lambda r=ready, x=x: r(x)) / len(x))  # type: ignore[misc]


def draw(folder: Path, count: int, width: int, height: int, different: int) -> Path:
    """JPEGs that are drawn; the same few under many names, which are links."""
    import cv2
    from material import photo

    folder.mkdir(parents=True)

    def make(index: int) -> bytes:
        pixels = cv2.cvtColor(photo(index, width, height), cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()

    with ThreadPoolExecutor() as pool:
        contents = list(pool.map(make, range(different)))
    for index in range(count):
        if index < different:
            (folder / f"{index:05d}.jpg").write_bytes(contents[index])
        else:
            os.link(folder / f"{index % different:05d}.jpg", folder / f"{index:05d}.jpg")
    return folder


def command(*words: object, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, env=os.environ | (environment or {})
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr[-1500:]}")
    return done.stdout


def translate_folder(
    source: Path, target: Path, *options: object, name: str, table: str, by: dict[str, str] | None = None
) -> dict[str, Any]:
    """The whole command; its rate from start to end, and by its own report."""
    shutil.rmtree(target, ignore_errors=True)
    report = FOLDER / "report.json"
    began = time.perf_counter()
    command(
        "-m",
        "cgpipe",
        "translate",
        source,
        "-o",
        target,
        "--device",
        DEVICE,
        "--json",
        report,
        *options,
        environment=by,
    )
    seconds = time.perf_counter() - began
    told: dict[str, Any] = json.loads(report.read_text())
    count, total = told["translated"], told["seconds"]["total"]
    row(
        table,
        way=name,
        pictures=count,
        seconds=seconds,
        **{"a second, process": count / seconds, "a second, job": count / total, "first": told["first"]["total"]},
        rest=json.dumps({key: round(value, 2) for key, value in told["seconds"].items()}),
    )
    return told


def folder() -> None:
    from subjects import resnet as subject_of

    table = "JPEGs of 1 megapixel"
    count, width, height = (40, 96, 80) if DRY else (10_000, 1152, 896)
    began = time.perf_counter()
    source, target = draw(FOLDER / "in", count, width, height, 3 if DRY else 64), FOLDER / "out"
    row(table, way="(drawing them)", pictures=count, seconds=time.perf_counter() - began)
    paths = sorted(source.iterdir())
    few, some = (some_of(paths[: n if not DRY else 3], FOLDER / name) for name, n in (("few", 60), ("some", 400)))
    translate_folder(few, target, "--to", "zebra", name="cgpipe, cold start", table=table)
    told = translate_folder(source, target, "--to", "zebra", name="cgpipe", table=table)
    row("settings", settings=json.dumps(told["settings"], default=str)[:600])
    subject = subject_of(FOLDER, tiny=DRY)
    ngf = next(subject.plain.parameters()).shape[0]
    began = time.perf_counter()
    command(TESTS / "bench" / "reference_loop.py", subject.file, ngf, few, FOLDER / "theirs", ".jpg", DEVICE)
    seconds, tried = time.perf_counter() - began, len(list(few.iterdir()))
    row(
        table, way="reference loop, ResNet-9", pictures=tried, seconds=seconds, **{"a second, process": tried / seconds}
    )
    by_cpu = {"CGPIPE_JPEG": "cpu"}
    translate_folder(some, FOLDER / "cpu", "--to", "zebra", name="cgpipe, CGPIPE_JPEG=cpu", table=table, by=by_cpu)
    near(target, FOLDER / "cpu")
    nvjpeg(some_of(paths[: 6 if DRY else 2000], FOLDER / "watched in"), paths[: 4 if DRY else 128])


def some_of(paths: list[Path], folder: Path) -> Path:
    folder.mkdir()
    for path in paths:
        os.link(path, folder / path.name)
    return folder


def near(ours: Path, theirs: Path) -> None:
    """How far the pictures of one folder are from those of the same names in another."""
    import cv2

    names = [path.name for path in sorted(theirs.glob("*.jpg"))[:32]]
    pairs = [(ours / name, theirs / name) for name in names]
    gaps = [cv2.absdiff(cv2.imread(str(one)), cv2.imread(str(other))) for one, other in pairs]
    sizes = [sum(path.stat().st_size for path in side) for side in zip(*pairs, strict=True)]
    row(
        "against the processor's JPEG",
        mean=float(np.mean(gaps)),
        largest=int(np.max(gaps)),
        **{"times its bytes": sizes[0] / sizes[1]},
    )


def nvjpeg(source: Path, paths: list[Path]) -> None:
    """The device's codec alone, and what the threads of a job wait for."""
    import collections
    import threading

    import cgpipe
    from cgpipe.engine.jpegs import NvJpeg, find_codec, joined
    from cgpipe.media.pictures.jpegs import read_jpeg

    codec = find_codec(DEVICE, 1000)
    if codec is None:
        row("codecs", way="none here")
    else:
        files = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in paths]
        jpeg = read_jpeg(paths[0])
        assert jpeg is not None
        batches = [joined(files[n : n + 16], jpeg.size, (None,) * 16) for n in range(0, len(files), 16)]
        turns = itertools.cycle(batches)
        rate = 16 / milliseconds(lambda: codec.decode(next(turns)), 3) * 1000
        row("codecs", way="decoding, 16 at a time", **{"a second": rate})
        pixels = codec.decode(batches[0])
        rate = 16 / milliseconds(lambda: codec.encode(pixels, 95), 3) * 1000
        row("codecs", way="encoding, 16 at a time", **{"a second": rate})
    spent: collections.Counter[str] = collections.Counter()
    seen: collections.Counter[str] = collections.Counter()
    for name in ("decode", "encode"):
        setattr(NvJpeg, name, timed(getattr(NvJpeg, name), name, spent))
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.003):
            names = {thread.ident: thread.name.rstrip("-_0123456789") for thread in threading.enumerate()}
            for thread, frame in sys._current_frames().items():
                if thread != threading.get_ident():
                    code = frame.f_code
                    where = f"{names.get(thread)}: {Path(code.co_filename).name}, {code.co_name}, {frame.f_lineno}"
                    seen[where] += 1

    threading.Thread(target=watch).start()
    times: list[float] = []
    try:
        report = cgpipe.translate_folder(
            source, FOLDER / "watched", to="zebra", device=str(DEVICE), on_result=lambda _: times.append(time.time())
        )
    finally:
        ended.set()
    skipped = len(times) // 4
    rate = (len(times) - skipped) / max(1e-6, times[-1] - times[skipped])
    row("watched job", what="pictures a second after the first quarter", value=rate)
    for name, seconds in (report.seconds | dict(spent)).items():
        row("watched job", what=f"{name}, us a picture", value=seconds / len(times) * 1e6)
    for where, count in seen.most_common(24):
        row("watched job, samples", thread=where, of_all=count / seen.total())


def timed(run: Callable[..., Any], name: str, spent: Any) -> Callable[..., Any]:
    """The same, its seconds added up."""

    def watched(*given: Any) -> Any:
        began = time.perf_counter()
        try:
            return run(*given)
        finally:
            spent[name + " on the device"] += time.perf_counter() - began

    return watched


WITH_KERNELS = """
from cgpipe.bytecode import keep_bytecode
keep_bytecode()
from cgpipe.jobs import loading, picture_work
def load(*given):
    pipeline = loading.load_pipeline(*given)
    from cgpipe.engine import between
    next(between._bodies)
    return pipeline
picture_work.load_pipeline = load
"""
WITHOUT_THREADS = """
from cgpipe.bytecode import keep_bytecode
keep_bytecode()
from cgpipe.jobs import loading
loading.first_gpu = lambda device: None
"""


def start() -> None:
    source = draw(FOLDER / "in", 2, side(), side(), 2)
    fresh = {"XDG_CACHE_HOME": str(FOLDER / "cache"), "TRITON_CACHE_DIR": str(FOLDER / "triton")}
    fresh["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS.parent), os.environ.get("PYTHONPATH"))))
    target, report = FOLDER / "out", FOLDER / "report.json"
    run = "from cgpipe.cli import main; main()"
    for name, way in (
        ("with empty caches", ("-m", "cgpipe")),
        ("again", ("-m", "cgpipe")),
        ("again, kernels of our own at once", ("-c", WITH_KERNELS + run)),
        ("again, nothing beside it", ("-c", WITHOUT_THREADS + run)),
    ):
        shutil.rmtree(target, ignore_errors=True)
        words = ("translate", source, "-o", target, "--to", "zebra", "--device", DEVICE, "--json", report)
        began = time.perf_counter()
        command(*way, *words, environment=fresh)
        ended = time.perf_counter() - began
        told = json.loads(report.read_text())["first"]
        row(
            "start",
            way=name,
            **{"to the end of 2 pictures, s": ended, "to the first, by the report": told["total"]},
            steps=json.dumps({step: round(value, 3) for step, value in told.items()}),
        )
    words = (TESTS / "gpu_check" / "first_steps.py", shipped_file(), DEVICE.type)
    row("start", way="step by step", steps=command(*words, environment=fresh).strip())


def repeated(path: Path, clip: Path, times: int) -> Path:
    """A clip several times over, without encoding it again."""
    import av

    with av.open(str(path), "w") as output, av.open(str(clip)) as first:
        stream = output.add_stream_from_template(first.streams.video[0])
        length = first.streams.video[0].duration
        for turn in range(times):
            with av.open(str(clip)) as again:
                for packet in again.demux(video=0):
                    if packet.size:
                        packet.pts += turn * length
                        packet.dts += turn * length
                        packet.stream = stream
                        output.mux(packet)
    return path


def video() -> None:
    from material import make_clip
    from subjects import shipped

    import cgpipe
    from cgpipe.media.frames import batched
    from cgpipe.models import load_any

    count, held, width, height = (24, 8, 96, 64) if DRY else (600, 160, 1920, 1080)
    clip = repeated(FOLDER / "clip.mp4", make_clip(FOLDER / "part.mp4", count // 5, width, height), 5)
    table = f"{width}x{height} H.264 in and out"

    def timed(name: str, run: Callable[[], int]) -> float:
        began = time.perf_counter()
        frames = run()
        rate = frames / (time.perf_counter() - began)
        row(table, way=name, frames=frames, **{"a second": rate})
        return rate

    translate, frames = cgpipe.Translator(load_any(shipped_file()), device=str(DEVICE)), []
    with cgpipe.VideoSource(clip) as source:
        source.as_planes = True
        processor = timed("decoding alone, processor", lambda: frames.extend(itertools.islice(source, held)) or held)
        source.hardware = None if DRY else "cuda"
        decoding = max(processor, timed("decoding alone, NVDEC", lambda: sum(1 for _ in source)))
        made = [frame for batch in translate.stream(batched(frames, 8)) for frame in batch.frames()]

        def encode() -> int:
            with cgpipe.VideoSink(FOLDER / "encoded.mp4", like=source.info) as sink:
                for frame in made:
                    sink.write(frame)
            return len(made)

        encoding = timed("encoding alone, of what was translated", encode)
    report = FOLDER / "report.json"
    words = ("-m", "cgpipe", "video", clip, FOLDER / "out.mp4", "--to", "zebra", "--device", DEVICE)
    began = time.perf_counter()
    command(*words, "--json", report)
    seconds = time.perf_counter() - began
    told = json.loads(report.read_text())["videos"][0]
    total = told["seconds"]["total"]
    started = told["first"]["total"] - told["first"].get("imports", 0)
    rates = {
        "a second": told["frames"] / seconds,
        "a second, job": told["frames"] / total,
        "a second, after its first frame": (told["frames"] - 1) / (total - started),
    }
    steps = {key: round(value, 2) for key, value in told["seconds"].items()}
    row(table, way="cgpipe video, whole command", frames=told["frames"], **rates, rest=json.dumps(steps))
    slower = min(decoding, encoding)
    shares = {key: rate / slower for key, rate in rates.items()}
    row(table, way="of the slower of the two alone", **shares, rest=json.dumps(told["first"]))
    brief = make_clip(FOLDER / "brief.mp4", 4 if DRY else 20, width, height)
    subject = shipped(FOLDER, tiny=DRY)
    script, theirs = TESTS / "bench" / "opencv_loop.py", FOLDER / "theirs.mp4"
    sizes = ("256", "456", str(DEVICE))
    done = subprocess.run(
        [sys.executable, script, subject.file, brief, theirs, *sizes], capture_output=True, text=True, check=True
    )
    frames_done, took = done.stdout.split()[-2:]
    row(table, way="OpenCV loop", frames=int(frames_done), **{"a second": int(frames_done) / float(took)})


PLAIN = "plain loop"
TRAINING: tuple[tuple[str, dict[str, Any]], ...] = (
    *((PLAIN, {}), ("cgpipe train", {}), ("cgpipe train, no graphs", {"compile": False})),
    *(("plain loop, another seed", {"seed": 1}), ("cgpipe train, motion", {"motion_weight": 1.0})),
)
"""Ways to train, with their settings."""


@contextmanager
def trained_without(way: str) -> Iterator[None]:
    """Leaves parts of the way to train out, by its name."""
    from unittest import mock

    from cgpipe.training.trainer import Trainer

    no_recorder = mock.patch.object(Trainer, "_recorder", return_value=None)
    with no_recorder if way.endswith("no graphs") else nullcontext():
        yield


def training(which: str, steps: int) -> None:
    from material import make_pictures
    from training import LOSSES, NETWORKS, _ours
    from training_loop import train_plainly

    from cgpipe.training.config import TrainConfig

    changes = NETWORKS[which][0] | ({"ngf": 8, "ndf": 8, "crop_height": 64, "crop_width": 64} if DRY else {})
    for name in ("trainA", "trainB"):
        make_pictures(FOLDER / "set" / name, 4 if DRY else 32)
    steps, untimed = (3, 1) if DRY else (steps, 8)

    def measure(name: str, loop: Iterator[dict[str, float]]) -> None:
        began, ends, seen = time.perf_counter(), [], []
        for losses in itertools.islice(loop, steps):
            ends.append(time.perf_counter())
            seen.append(losses)
        each = 1000 * (ends[-1] - ends[untimed - 1]) / (len(ends) - untimed)
        means = {key: statistics.fmean(losses[key] for losses in seen[-(len(seen) // 3) :]) for key in LOSSES}
        first = {"first steps, s": ends[untimed - 1] - began}
        row(f"training {which}", way=name, steps=steps, **{"ms a step": each}, **first, **means)

    for name, options in TRAINING[:2] if DRY else TRAINING:
        config = TrainConfig(
            gpu_ids="-1" if DRY else "0",
            dataset_dir=FOLDER / "set",
            checkpoint_dir=FOLDER / "run",
            results_dir=FOLDER / "results",
            feature_weight=0.0,
            load_min=0,
            load_height=286,
            load_width=286,
            stages=(),
            **(changes | options),
        )
        with trained_without(name):
            measure(name, train_plainly(config, config.seed, DEVICE) if name.startswith(PLAIN) else _ours(config))


def train() -> None:
    training("compact", 60)


def train_resnet() -> None:
    training("resnet", 24)


def compiled() -> None:
    file = shipped_file()
    for count in () if DRY else (1, 32):
        translate = translator(file, engine="compile")
        began = time.perf_counter()
        translate.translate(picture(count))
        started = time.perf_counter() - began
        row("--engine compile", batch=count, ms=per_picture(translate, picture(count)), start=started)


PARTS = {
    "machine": machine,
    "tests": tests,
    "one": one,
    "resnet": resnet,
    "folder": folder,
    "start": start,
    "video": video,
    "train": train,
    "train-resnet": train_resnet,
    "compile": compiled,
}

if __name__ == "__main__":
    PARTS[PART]()
