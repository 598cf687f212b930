"""How dtype and batch size are chosen, with measurements that are made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cgpipe.engine import autotune
from cgpipe.engine.autotune import Trial, choose_precision, compare, cpu_multiplies_bf16, recall, remember, trial_key
from cgpipe.engine.network import Network
from cgpipe.engine.translator import Translator
from cgpipe.errors import UsageError
from cgpipe.networks import Generator, build_generator

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of measurements of the test's own."""
    monkeypatch.setattr("cgpipe.engine.autotune.user_cache_path", lambda name: tmp_path / name)
    return tmp_path / "cgpipe" / "trials.json"


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "cpu_multiplies_bf16", lambda: True)


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return build_generator("compact-flat", channels=16, blocks=1).eval().requires_grad_(False)


def picture(side: int = 64, count: int = 1) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_same_is_the_same_and_what_overflows_does_not_pay(generator: Generator) -> None:
    assert compare(generator, torch.float32, picture()).error == 0
    assert 0 < compare(generator, torch.bfloat16, picture()).error < 0.02
    for weights in generator.parameters():
        weights.mul_(1e30)
    assert compare(generator, torch.float16, picture()).error == 1


def test_what_pays_is_accurate_and_on_a_cpu_faster() -> None:
    assert Trial(speed=1.5, error=0.001).pays
    assert Trial(speed=None, error=0.001).pays
    assert not Trial(speed=9, error=1).pays
    assert not Trial(speed=None, error=1).pays
    assert not Trial(speed=1.05, error=0).pays


def test_a_trial_leaves_the_generator_as_it_was_and_sees_the_size_at_hand(generator: Generator) -> None:
    seen = []
    generator.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    compare(generator, torch.bfloat16, picture(96, count=3))
    assert set(seen) == {(1, 3, 96, 96)}
    assert next(generator.parameters()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (64, 1), (4, 300), (40, 40)])
def test_a_tiny_picture_is_repeated_for_its_trial(generator: Generator, shape: tuple[int, int]) -> None:
    """A norm over a map of one pixel is undefined."""
    seen = []
    generator.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    compare(generator, torch.bfloat16, torch.zeros(1, 3, *shape))
    assert min(seen[0][2:]) >= autotune.SMALLEST_PROBE
    assert all(side % generator.multiple == 0 for side in seen[0][2:])


def test_of_a_large_picture_the_middle_is_tried(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "PROBE_PIXELS", 5000)
    seen = []
    generator.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    compare(generator, torch.bfloat16, picture(128))
    assert set(seen) == {(1, 3, 68, 68)}


@pytest.mark.usefixtures("with_bf16")
def test_half_precision_is_taken_by_what_was_measured_and_only_tried_once(
    generator: Generator, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "compare", lambda *_: Trial(speed=1.7, error=0.001))
    chosen, reason = choose_precision(generator, picture())
    assert chosen == "bf16"
    assert "1.70 times as fast" in reason and "0.10%" in reason
    assert len(json.loads(cache.read_text())) == 1
    monkeypatch.setattr(autotune, "compare", lambda *_: pytest.fail("tried again"))
    assert choose_precision(generator, picture()) == (chosen, reason)


@pytest.mark.usefixtures("with_bf16")
@pytest.mark.parametrize("trial", [Trial(speed=1.0, error=0), Trial(speed=3, error=0.05)])
def test_what_is_not_faster_or_not_close_is_left(
    trial: Trial, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "compare", lambda *_: trial)
    assert choose_precision(generator, picture())[0] == "fp32"


@pytest.mark.parametrize(
    ("errors", "expected"),
    [({"fp16": 0.001}, "fp16"), ({"fp16": 1.0, "bf16": 0.002}, "bf16"), ({"fp16": 1.0, "bf16": 0.1}, "fp32")],
)
def test_a_gpu_takes_fp32_only_where_half_precision_is_wrong(
    errors: dict[str, float], expected: str, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {torch.float16: "fp16", torch.bfloat16: "bf16"}
    monkeypatch.setattr(autotune, "compare", lambda _, dtype, __: Trial(speed=None, error=errors[names[dtype]]))
    for _ in range(2):  # measured, and from the cache
        chosen, reason = choose_precision(generator, torch.zeros(1, 3, 64, 64, device="meta"))
        assert chosen == expected
    assert all(name in reason for name in errors)


def test_a_processor_without_bf16_is_not_tried(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "compare", lambda *_: pytest.fail("tried"))
    monkeypatch.setattr(autotune, "cpu_multiplies_bf16", lambda: False)
    assert choose_precision(generator, picture()) == ("fp32", "this processor has no bf16 instructions")


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", {"avx2": True, "avx512_bf16": False}, False),
        ("x86_64", {"avx512_f": True}, False),
        ("x86_64", {"avx512_bf16": True}, True),
        ("AMD64", {"amx_bf16": True}, True),
        ("arm64", {}, True),
    ],
)
def test_bf16_is_known_by_the_processors_flags(
    machine: str, flags: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: flags, raising=False)
    assert cpu_multiplies_bf16() is expected


def test_another_model_or_size_is_another_trial(generator: Generator) -> None:
    key = trial_key(generator, CPU, (1, 3, 256, 256))
    assert trial_key(generator, CPU, (1, 3, 250, 260)) == key
    assert trial_key(generator, CPU, (1, 3, 512, 512)) != key
    next(generator.parameters())[0, 0, 0, 0] += 1
    assert trial_key(generator, CPU, (1, 3, 256, 256)) != key


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"key": "word"}', '{"key": [null]}'])
def test_a_damaged_cache_is_no_cache(text: str, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text(text)
    assert recall("key") is None
    remember("key", [1.0, 2.0])
    assert recall("key") == [1.0, 2.0]


@pytest.mark.usefixtures("with_bf16")
def test_auto_precision_is_known_after_the_first_picture(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "compare", lambda *_: Trial(speed=1.7, error=0.001))
    network = Network(generator, CPU)
    assert network.describe() == {"precision": "auto", "engine": "eager"}
    result = network(picture())
    assert result.dtype == torch.float32
    told = network.describe()
    assert (told["precision"], told["engine"]) == ("bf16", "eager")
    assert "1.70" in told["why"]["precision"]


def test_fp16_on_a_cpu_and_unknown_engines_are_refused(generator: Generator) -> None:
    with pytest.raises(UsageError, match="cannot compute in fp16"):
        Network(generator, CPU, precision="fp16")
    with pytest.raises(UsageError, match="Unknown engine 'warp'"):
        Network(generator, CPU, engine="warp")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [
        ("auto", (256, 256), 16),  # full
        ("auto", (1080, 1920), 8),  # the frames themselves
        ("full", (1024, 1024), 2),
        ("full", (4000, 6000), 1),
    ],
)
def test_a_gpu_gets_batches_that_keep_it_busy_and_a_cpu_single_pictures(
    size: Any, shape: tuple[int, int], expected: int, make_model: Any
) -> None:
    model = make_model()
    model = replace(model, card=replace(model.card, working_scales=(224, 288)))
    translator = Translator(model, device="cpu", precision="fp32", size=size)
    assert translator.batch_size(*shape) == 1
    translator.device = torch.device("cuda")
    assert translator.batch_size(*shape) == expected
