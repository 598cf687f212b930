"""Runs generators by ncnn: writes its format, layer by layer, for any size."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from cgpipe.engine.export import extra
from cgpipe.engine.fusion import LayerTracer
from cgpipe.errors import UsageError, reason_of
from cgpipe.networks import Generator
from cgpipe.networks.norm import InstanceNorm

MAGIC = "7767517"
INPUT, OUTPUT = "picture", "translated"

REFLECT = 2
"""ncnn's codes of padding modes."""
BILINEAR = 2
"""ncnn's code of an interpolation."""
ARITHMETIC: dict[object, int] = {operator.add: 0, operator.sub: 1, operator.mul: 2}
"""ncnn's codes of operations on two maps."""


class _Writer:
    """Writes ncnn's two files: one line per layer, and the weights in the same order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.weights: list[bytes] = []
        self.blobs = 0

    def layer(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **settings: float) -> None:
        """Adds a layer; ``settings`` are its parameters by number, as in ``_0=64``."""
        self.blobs += len(outputs)
        values = " ".join(f"{name[1:]}={value}" for name, value in settings.items())
        name = f"{kind.lower()}{len(self.lines)}"
        self.lines.append(
            f"{kind} {name} {len(inputs)} {len(outputs)} {' '.join([*inputs, *outputs])} {values}".rstrip()
        )

    def tensor(self, values: torch.Tensor, *, flag: bool = False) -> None:
        """Adds weights, after the fp32 flag if the layer needs it."""
        self.weights.append((b"\0" * 4 if flag else b"") + values.detach().float().contiguous().numpy().tobytes())

    def files(self) -> tuple[str, bytes]:
        """ncnn's param and bin."""
        head = f"{MAGIC}\n{len(self.lines)} {self.blobs}\n"
        return head + "\n".join(self.lines) + "\n", b"".join(self.weights)


def to_ncnn(generator: Generator) -> tuple[str, bytes]:
    """A generator as ncnn's param and bin, for all sides that it accepts.

    Args:
        generator: in eval mode, in fp32, on a CPU.

    Raises:
        UsageError: it has an unsupported layer.
    """
    try:
        graph = LayerTracer().trace(generator)
    except fx.proxy.TraceError as error:
        raise UsageError("--engine ncnn does not support this network: use another engine.") from error
    return _Translation(generator, graph).files()


class _Translation:
    """Translates a torch graph to ncnn layers."""

    def __init__(self, generator: Generator, graph: fx.Graph) -> None:
        self._generator = generator
        self._writer = _Writer()
        self._names: dict[fx.Node, list[str]] = {}
        """What a node's result is called, once for each who uses it: ncnn has every blob used once."""
        for node in graph.nodes:
            self._add(node)

    def files(self) -> tuple[str, bytes]:
        return self._writer.files()

    def _add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._layer(node, "Input", ())
        elif node.op == "output":
            self._writer.layer("Noop", [self._use(node.args[0])], [OUTPUT])
        elif node.op == "call_module":
            self._add_module(node, self._generator.get_submodule(str(node.target)))
        elif node.op == "call_function" and node.target in FUNCTIONS:
            FUNCTIONS[node.target](self, node)
        else:
            raise _unknown(node.target)

    def _add_module(self, node: fx.Node, module: nn.Module) -> None:
        for kind, add in MODULES.items():
            if isinstance(module, kind):
                add(self, node, module)
                return
        raise _unknown(type(module).__name__)

    def _use(self, node: object) -> str:
        assert isinstance(node, fx.Node)
        return self._names[node].pop()

    def _layer(self, node: fx.Node, kind: str, inputs: Sequence[str] | None = None, **settings: float) -> None:
        """Adds the layer that computes a node's result, by default from its first argument."""
        given = [self._use(node.args[0])] if inputs is None else inputs
        name = INPUT if kind == "Input" else node.name
        self._writer.layer(kind, given, [name], **settings)
        users = sum(user.all_input_nodes.count(node) for user in node.users)
        if users == 1:
            self._names[node] = [name]
        else:
            self._names[node] = [f"{name}.{index}" for index in range(users)]
            self._writer.layer("Split", [name], self._names[node])

    def identity(self, node: fx.Node, module: nn.Module) -> None:
        self._layer(node, "Noop")

    def convolution(self, node: fx.Node, module: nn.Module) -> None:
        assert isinstance(module, nn.Conv2d)
        pad = int(module.padding[0])
        source = self._use(node.args[0])
        if pad and module.padding_mode != "zeros":
            if module.padding_mode != "reflect":
                raise _unknown(f"padding {module.padding_mode}")
            padded = f"{node.name}.padded"
            self._writer.layer("Padding", [source], [padded], _0=pad, _1=pad, _2=pad, _3=pad, _4=REFLECT)
            source, pad = padded, 0
        _check_shape(module)
        self._layer(node, "Convolution", [source], _4=pad, **_sizes(module))
        self._weights(module, module.weight)

    def transposed(self, node: fx.Node, module: nn.Module) -> None:
        assert isinstance(module, nn.ConvTranspose2d)
        _check_shape(module)
        more = int(module.output_padding[0])
        self._layer(node, "Deconvolution", None, _4=int(module.padding[0]), _18=more, _19=more, **_sizes(module))
        self._weights(module, module.weight.transpose(0, 1))

    def _weights(self, module: nn.Conv2d | nn.ConvTranspose2d, weight: torch.Tensor) -> None:
        self._writer.tensor(weight, flag=True)
        if module.bias is not None:
            self._writer.tensor(module.bias)

    def norm(self, node: fx.Node, module: nn.Module) -> None:
        assert isinstance(module, InstanceNorm)
        affine = module.weight is not None and module.bias is not None
        self._layer(node, "InstanceNorm", _0=module.channels, _1=module.eps, _2=int(affine))
        if affine:
            self._writer.tensor(module.weight)  # type: ignore[arg-type]
            self._writer.tensor(module.bias)  # type: ignore[arg-type]

    def relu(self, node: fx.Node, module: nn.Module | None = None) -> None:
        slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
        self._layer(node, "ReLU", _0=slope)

    def tanh(self, node: fx.Node, module: nn.Module | None = None) -> None:
        self._layer(node, "TanH")

    def sigmoid(self, node: fx.Node) -> None:
        self._layer(node, "Sigmoid")

    def arithmetic(self, node: fx.Node) -> None:
        if not all(isinstance(operand, fx.Node) for operand in node.args):
            raise _unknown("arithmetic with a number")
        self._layer(node, "BinaryOp", [self._use(operand) for operand in node.args], _0=ARITHMETIC[node.target])

    def enlarge(self, node: fx.Node) -> None:
        wanted = {name: value for name, value in node.kwargs.items() if value}
        factor = _whole(wanted.pop("scale_factor", None))
        if wanted != {"mode": "bilinear"}:
            raise _unknown(f"interpolation {wanted}")
        self._layer(node, "Interp", _0=BILINEAR, _1=factor, _2=factor)

    def negative(self, node: fx.Node) -> None:
        self._layer(node, "UnaryOp", _0=1)

    def join(self, node: fx.Node) -> None:
        parts = node.args[0]
        assert isinstance(parts, Sequence)
        self._layer(node, "Concat", [self._use(part) for part in parts], _0=0)

    def shuffle(self, node: fx.Node, module: nn.Module | None = None) -> None:
        factor = module.upscale_factor if isinstance(module, nn.PixelShuffle) else node.args[1]
        self._layer(node, "PixelShuffle", _0=_whole(factor), _1=0)

    def crop(self, node: fx.Node) -> None:
        """One pixel off every side, as what the engine makes of a transposed convolution has it."""
        if node.args[1] != (slice(None), slice(None), slice(1, -1), slice(1, -1)):
            raise _unknown(f"a slice {node.args[1]}")
        rest = {f"_{number}": -233 for number in (3, 4, 5)}  # ncnn's word for all that is left
        self._layer(node, "Crop", None, _0=1, _1=1, **rest, _6=1, _7=1)

    def unshuffle(self, node: fx.Node) -> None:
        self._layer(node, "Reorg", _0=_whole(node.args[1]), _1=0)


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise _unknown(f"a factor {value}")
    return value


def _check_shape(module: nn.Conv2d | nn.ConvTranspose2d) -> None:
    square = all(len({*pair}) == 1 for pair in (module.kernel_size, module.stride, module.padding, module.dilation))
    if not square or module.groups != 1 or isinstance(module.padding, str):
        raise _unknown(f"a {type(module).__name__} of this shape")


def _sizes(module: nn.Conv2d | nn.ConvTranspose2d) -> dict[str, float]:
    return {
        "_0": module.out_channels,
        "_1": module.kernel_size[0],
        "_2": module.dilation[0],
        "_3": module.stride[0],
        "_5": int(module.bias is not None),
        "_6": module.weight.numel(),
    }


def _unknown(what: object) -> UsageError:
    return UsageError(f"--engine ncnn does not support this network, which has {what}: use another engine.")


FUNCTIONS: dict[object, Callable[[_Translation, fx.Node], None]] = {
    F.relu: _Translation.relu,
    torch.relu: _Translation.relu,
    torch.tanh: _Translation.tanh,
    torch.sigmoid: _Translation.sigmoid,
    F.interpolate: _Translation.enlarge,
    **dict.fromkeys(ARITHMETIC, _Translation.arithmetic),
    operator.neg: _Translation.negative,
    operator.getitem: _Translation.crop,
    torch.cat: _Translation.join,
    F.pixel_shuffle: _Translation.shuffle,
    F.pixel_unshuffle: _Translation.unshuffle,
}
MODULES: dict[type[nn.Module], Callable[[_Translation, fx.Node, nn.Module], None]] = {
    nn.Conv2d: _Translation.convolution,
    nn.ConvTranspose2d: _Translation.transposed,
    InstanceNorm: _Translation.norm,
    nn.ReLU: _Translation.relu,
    nn.LeakyReLU: _Translation.relu,
    nn.Tanh: _Translation.tanh,
    nn.PixelShuffle: _Translation.shuffle,
    nn.Identity: _Translation.identity,
    nn.Dropout: _Translation.identity,
}


def load_ncnn(generator: Generator, gpu: int | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that runs (N, 3, H, W) by ncnn, one picture at a time, with torch's number of threads.

    Args:
        gpu: the number of a GPU, which computes by Vulkan; None: the CPU computes.

    Raises:
        MissingDependencyError: the package of the extra ``ncnn`` is not installed.
        UsageError: ncnn does not support this network.
    """
    ncnn = extra("ncnn", "ncnn")
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if gpu is not None:
        net.opt.use_vulkan_compute = True
        net.set_vulkan_device(gpu)
    param, weights = to_ncnn(generator)
    try:
        with TemporaryDirectory() as folder:
            files = Path(folder) / "net.param", Path(folder) / "net.bin"
            files[0].write_text(param)
            files[1].write_bytes(weights)
            if net.load_param(str(files[0])) or net.load_model(str(files[1])):
                raise UsageError("--engine ncnn cannot load this network: use another engine.")
    except OSError as error:
        raise UsageError(
            f"The temporary folder {gettempdir()} cannot be written: {reason_of(error)}. Free some space there, or "
            "name another folder with TMPDIR."
        ) from error

    def run(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([one(picture) for picture in x])

    def one(picture: torch.Tensor) -> torch.Tensor:
        extractor = net.create_extractor()
        values = picture.contiguous().numpy()  # ncnn reads this memory and keeps nothing alive.
        extractor.input(INPUT, ncnn.Mat(values))
        failed, result = extractor.extract(OUTPUT)
        if failed:
            raise RuntimeError(f"ncnn ended with {failed}")
        return torch.from_numpy(np.array(result))

    return run
