"""Model files of every kind, damaged and hostile in every way: each is loaded in a process of its own and watched.

``run(count, seed)`` gives the counts; ``python tests/fuzz/models.py COUNT SEED`` prints them. All but the first two
must be zero.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import signal
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from cgpipe.errors import CgpipeError
from cgpipe.models import Model, ModelCard, find_model, list_models, load_any, save_model
from cgpipe.networks import build_generator

SECONDS = 20
"""After which a case counts as a hang; most take some milliseconds."""
MEMORY = 600 * 2**20
"""Bytes that a case may take beyond what the process has before it."""
OUTCOMES = ("loaded", "refused", "tracebacks", "hangs", "memory", "executed", "crashed")

Case = Callable[[random.Random, Path, Path], None]


def run(count: int, seed: int) -> dict[str, int]:
    """Tries so many files, always the same ones for a seed; names every case that is none of loaded and refused."""
    counts = dict.fromkeys(OUTCOMES, 0)
    with tempfile.TemporaryDirectory(prefix="cgpipe-fuzz-") as folder, warnings.catch_warnings(action="ignore"):
        seeds = _seeds(Path(folder))
        for index in range(count):
            draw = random.Random(f"{seed} {index}")
            name, case = CASES[index % len(CASES)]
            outcome = _watched(case, draw, Path(folder), draw.choice(seeds))
            counts[outcome] += 1
            if outcome not in ("loaded", "refused"):
                print(f"{outcome}: case {index} of seed {seed}, {name}", file=sys.stderr)
    return counts


def _watched(case: Case, draw: random.Random, folder: Path, seed: Path) -> str:
    import resource  # which Windows lacks, where this file is only imported

    models, canary = folder / "models", folder / "canary"
    models.mkdir(exist_ok=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = os.fork()
    if child == 0:
        os._exit(_child(case, draw, models, seed, canary))
    _, status, usage = os.wait4(child, 0)
    for path in models.iterdir():
        path.unlink()
    if canary.exists():
        canary.unlink()
        return "executed"
    if os.WIFSIGNALED(status):
        return "hangs" if os.WTERMSIG(status) == signal.SIGALRM else "crashed"
    outcome = OUTCOMES[os.WEXITSTATUS(status)]
    return "memory" if (usage.ru_maxrss - before) * 1024 > MEMORY else outcome


def _child(case: Case, draw: random.Random, models: Path, seed: Path, canary: Path) -> int:
    torch.set_num_threads(1)
    os.environ["CGPIPE_MODELS"] = str(models)
    os.environ["CGPIPE_CANARY"] = str(canary)
    path = models / "case.safetensors"
    try:
        case(draw, path, seed)
        written = next(models.glob("case.*"))  # a program is known by its suffix
        signal.alarm(SECONDS)
        return OUTCOMES.index(_try(written))
    except BaseException:
        traceback.print_exc()
        return OUTCOMES.index("tracebacks")


def _try(path: Path) -> str:
    """Loads a file and runs its network; a file in the models' folder must not break a search or a list."""
    list_models()
    find_model("monet", source="photo")
    try:
        find_model(file=path)
        for direction in (None, "AtoB"):
            model = load_any(path, direction=direction)  # type: ignore[arg-type]
        side = max(32, model.generator.multiple)
        assert model.generator(torch.zeros(1, 3, side, side)).isfinite().all()
    except CgpipeError:
        return "refused"
    return "loaded"


# --- whole files, of which the others are made ----------------------------------------------------------------------


def _seeds(folder: Path) -> list[Path]:
    settings = {"channels": 16, "blocks": 1}
    known: dict[str, Any] = {"training_size": 64, "made_by": {"steps": 3}, "quality": {"fid": 1.5}, "licence": "MIT"}
    card = ModelCard(architecture="compact-flat", settings=settings, source="horse", target="zebra", **known)
    ours, *others = (folder / name for name in ("ours", "zip", "legacy", "safe", "both"))
    save_model(ours, Model(card, build_generator("compact-flat", **settings)))
    weights = _resnet()
    torch.save(weights, others[0])
    torch.save(weights, others[1], _use_new_zipfile_serialization=False)
    others[2].write_bytes(save_safetensors(weights))
    torch.save({"epoch": 2, "Gab": weights, "Gba": weights, "Da": {}, "Db": {}}, others[3])
    (folder / "onnx").write_bytes(_onnx())
    torch.jit.save(torch.jit.trace(nn.Conv2d(3, 3, 3, padding=1), torch.zeros(1, 3, 8, 8)), str(folder / "script"))
    return [ours, *others]


def _field(number: int, value: bytes | int) -> bytes:
    """A field of a protobuf message, shorter than 128 bytes or with a length of two bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    size = bytes([len(value)]) if len(value) < 128 else bytes([len(value) & 127 | 128, len(value) >> 7])
    return bytes([number << 3 | 2]) + size + value


def _onnx() -> bytes:
    """A network that takes a picture's opposite: one node, ``Neg``, on pictures of any size."""
    sides = b"".join(_field(1, side) for side in (_field(1, 1), _field(1, 3), _field(2, b"h"), _field(2, b"w")))
    kind = _field(1, _field(1, 1) + _field(2, sides))
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Neg")
    ports = _field(11, _field(1, b"x") + _field(2, kind)) + _field(12, _field(1, b"y") + _field(2, kind))
    graph = _field(1, node) + _field(2, b"network") + ports
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 17))


def _resnet(width: int = 2, blocks: int = 2) -> dict[str, torch.Tensor]:
    """A state dict of pytorch-CycleGAN-and-pix2pix."""
    convolutions: dict[str, nn.Module] = {"1": nn.Conv2d(3, width, 7), "4": nn.Conv2d(width, 2 * width, 3)}
    convolutions["7"] = nn.Conv2d(2 * width, 4 * width, 3)
    for block in range(blocks):
        for place in (1, 5):
            convolutions[f"{10 + block}.conv_block.{place}"] = nn.Conv2d(4 * width, 4 * width, 3)
    convolutions[str(10 + blocks)] = nn.ConvTranspose2d(4 * width, 2 * width, 3)
    convolutions[str(13 + blocks)] = nn.ConvTranspose2d(2 * width, width, 3)
    convolutions[str(17 + blocks)] = nn.Conv2d(width, 3, 7)
    return {f"model.{name}.{k}": v for name, conv in convolutions.items() for k, v in conv.state_dict().items()}


# --- damage ---------------------------------------------------------------------------------------------------------


def flipped(draw: random.Random, path: Path, seed: Path) -> None:
    content = bytearray(seed.read_bytes())
    reach = draw.choice([64, 2000, len(content)])
    for _ in range(draw.choice([1, 4, 40])):
        content[draw.randrange(min(reach, len(content)))] = draw.randrange(256)
    path.write_bytes(content)


def cut(draw: random.Random, path: Path, seed: Path) -> None:
    content = seed.read_bytes()
    first, last = sorted(draw.randrange(len(content)) for _ in range(2))
    path.write_bytes(draw.choice([content[:last], content[first:], content[:first] + content[last:], content * 2]))


def noise(draw: random.Random, path: Path, seed: Path) -> None:
    path.write_bytes(seed.read_bytes()[: draw.randrange(200)] + draw.randbytes(draw.randrange(5000)))


# --- safetensors ----------------------------------------------------------------------------------------------------

NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 10**9, 10**30, 1.5, 1e308, "", "x", "\ud800", "\x1b[31m", [], [1, 2], {}, {"a": 1}, [[1]] * 3,
)  # fmt: skip


def _header(path: Path, header: str | bytes, data: bytes) -> None:
    header = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def card_value(draw: random.Random, path: Path, seed: Path) -> None:
    header, data = _split((seed.parent / "ours").read_bytes())
    card = json.loads(header["__metadata__"]["cgpipe"])
    where = draw.choice([card, card["settings"], card["made_by"]])
    where[draw.choice([*where, "blocks", "norm", "levels", "in_channels", "self"])] = draw.choice(NASTY)
    if draw.random() < 0.3:
        card["architecture"] = draw.choice(["unet", "resnet", "compact", "unet_256"])
    header["__metadata__"]["cgpipe"] = json.dumps(card)
    _header(path, json.dumps(header), data)


def header_value(draw: random.Random, path: Path, seed: Path) -> None:
    header, data = _split(draw.choice([seed.parent / "ours", seed.parent / "safe"]).read_bytes())
    entry = header[draw.choice([name for name in header if name != "__metadata__"])]
    entry[draw.choice(list(entry))] = draw.choice([*NASTY, "F64", "I64", "F8_E4M3", "C64", [0, 10**12], [2**63, 2**64]])
    if draw.random() < 0.2:
        header["__metadata__"] = draw.choice(NASTY)
    _header(path, json.dumps(header), data)


def header_text(draw: random.Random, path: Path, seed: Path) -> None:
    """Deep, long and endless headers."""
    depth, many = draw.choice([900, 100_000, 1_000_000]), draw.choice([11_000, 300_000])
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    tensors = ",".join(f'"t{index}":{entry}' for index in range(many))
    one = '{{"t":{{"dtype":"F32","shape":[{}],"data_offsets":[0,4]}}}}'
    deep = "[" * depth + "]" * depth
    texts = [
        '{"t":' + deep + "}",
        "{" + tensors + "}",
        one.format("1e999"),
        one.format("9" * 5000),
        one.format(",".join(["99999"] * 100_000)),
        json.dumps({"__metadata__": {"cgpipe": '{"format_version":1,"settings":' + deep + "}"}}),
        json.dumps({"__metadata__": {"cgpipe": deep}}),
    ]
    _header(path, draw.choice(texts), b"\0" * 4)


# --- what torch.save writes -----------------------------------------------------------------------------------------


def _odd(draw: random.Random, value: torch.Tensor) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: value * float(draw.choice(["nan", "inf", "-inf"])),
        lambda: value.double() * 1e300,
        lambda: value.to_sparse(),
        lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        lambda: value.to("meta"),
        lambda: value.to(torch.complex64),
        lambda: value.bool(),
        lambda: torch.zeros(1).expand(10**6, 10**4),
        lambda: torch.zeros(1).expand(10**5, *value.shape[1:]),
        lambda: value[..., :0],
        lambda: value[None],
        lambda: value.flatten(),
        lambda: nn.Parameter(value),
        lambda: torch.zeros(()),
        lambda: None,
        lambda: "text",
        lambda: {"weight": value},
        lambda: [value],
    ]
    return draw.choice(kinds)()


def odd_tensor(draw: random.Random, path: Path, seed: Path) -> None:
    weights: dict[str, Any] = dict(_resnet())
    for name in draw.sample(list(weights), draw.choice([1, 2, len(weights)])):
        weights[name] = _odd(draw, weights[name])
    torch.save(weights, path, _use_new_zipfile_serialization=draw.random() < 0.7)


def odd_keys(draw: random.Random, path: Path, seed: Path) -> None:
    weights: dict[Any, Any] = dict(_resnet(blocks=draw.choice([0, 1, 3])))
    for name in draw.sample(list(weights), 3):
        value = weights.pop(name)
        renamed: list[Any] = [name.upper(), f"{name}.{'module.' * 5000}", 7, "", f"model.{10**30}.weight", None, b"x"]
        weights[draw.choice(renamed)] = value
    torch.save(weights, path)


def wrapped(draw: random.Random, path: Path, seed: Path) -> None:
    content: Any = _resnet()
    for _ in range(draw.choice([1, 2, 5, 50])):
        name = draw.choice(["state_dict", "model", "netG", "G_AB", "params_ema", "Gab", "generators", "x"])
        content = {name: content, "epoch": 3}
        if draw.random() < 0.1:
            content["self"] = content
    if draw.random() < 0.3:
        content = OrderedDict((f"{'module.' * draw.choice([1, 9])}{name}", value) for name, value in content.items())
    torch.save(content, path)


def gadget(draw: random.Random, path: Path, seed: Path) -> None:
    """Pickles that would make the canary, were they trusted."""
    canary = os.environ["CGPIPE_CANARY"]
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (os.mkdir, (canary,)),
        (os.system, (f"touch {canary}",)),
        (eval, (f"open({canary!r}, 'w')",)),
        (exec, (f"open({canary!r}, 'w')",)),
        (open, (canary, "w")),
        (torch.save, (1, canary)),
        (getattr, ("os", "system")),
        (__import__, ("os",)),
        (torch.hub.load_state_dict_from_url, (f"file://{canary}",)),
    ]
    call = draw.choice(calls)

    class Gadget:
        def __reduce__(self) -> Any:
            return call

    content: Any = draw.choice([Gadget(), {**_resnet(), "extra": Gadget()}, {"state_dict": Gadget()}, [Gadget()]])
    if draw.random() < 0.3:
        path.write_bytes(pickle.dumps(content, protocol=draw.choice([0, 1, 2, 4, 5])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=draw.random() < 0.6)


def bomb(draw: random.Random, path: Path, seed: Path) -> None:
    """Small files that ask for much memory or time."""
    with zipfile.ZipFile(io.BytesIO((seed.parent / "zip").read_bytes())) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    instructions = next(name for name in files if name.endswith("data.pkl"))
    million = b"J\x00\x00\x00\x40"
    tuples = b"\x80\x02}(" + b")" + b"".join(b"q%c2\x86" % 0 for _ in range(60)) + b"K\x01u."
    kinds = [
        b"\x80\x02c__builtin__\nbytearray\n" + million + b"\x85R.",
        b"\x80\x02cbuiltins\nbytearray\n" + million + b"\x85R.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x03\x00\x00\x00hex\x86R.",
        tuples,
        b"\x80\x02" + b"(" * 2_000_000,
        b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
        files[instructions].replace(b"K\x02", b"J\x00\x00\x00\x40"),
        files[instructions].replace(b"K\x07", b"J\xff\xff\xff\x7f"),
    ]
    if draw.random() < 0.3:
        files[f"{instructions[:-8]}data/0"] = bytes(draw.choice([10**8, 5 * 10**8]))
    else:
        files[instructions] = draw.choice(kinds)
        if draw.random() < 0.3:
            path.write_bytes(files[instructions])
            return
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


# --- programs -------------------------------------------------------------------------------------------------------


def onnx_file(draw: random.Random, path: Path, seed: Path) -> None:
    """Bytes and operators of an ONNX file changed."""
    content = (seed.parent / "onnx").read_bytes()
    operators = [b"Neg", b"Abs", b"Not", b"Pow", b"Evl", b"\xff\xff\xff"]
    content = content.replace(b"Neg", draw.choice(operators))
    changed = bytearray(content)
    for _ in range(draw.choice([0, 1, 3, 20])):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    first = draw.randrange(len(changed))
    path.with_suffix(".onnx").write_bytes(draw.choice([changed, changed[:first], changed * 2, changed]))


def script(draw: random.Random, path: Path, seed: Path) -> None:
    """TorchScript with code that does more than compute, and damaged."""
    canary = os.environ["CGPIPE_CANARY"]
    lines = [
        f'torch.save(input, "{canary}")', f'input.save("{canary}")', f'getattr(torch, "sa\\x76e")(input, "{canary}")',
        f'torch.from_file("{canary}", True, 8)', "ops.image.write_file(input)", "torch.zeros([99999999999])",
        "torch.relu(input)", "torch.reshape(input, [-1])", "(input).forward(input, )",
    ]  # fmt: skip
    with zipfile.ZipFile(seed.parent / "script") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    line = draw.choice(lines)
    for name in [name for name in files if name.endswith(".py")]:
        code = files[name].decode()
        files[name] = code.replace("    return", f"    _99 = {line}\n    return").encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    if draw.random() < 0.3:
        flipped(draw, path, path)


KINDS: tuple[Case, ...] = (
    flipped, cut, noise, card_value, header_value, header_text, odd_tensor, odd_keys, wrapped, gadget, bomb,
    onnx_file, script,
)  # fmt: skip
CASES = [(case.__name__, case) for case in KINDS]

if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
