"""How arithmetic and back end are chosen, with measurements that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import cgpipe.engine.network as network_module
from cgpipe.engine import precision as precision_module
from cgpipe.engine.lanes import lanes
from cgpipe.engine.network import FIRST_LOOK, Cost, Network, _passes_a_look, worth_trying
from cgpipe.engine.precision import Trial, choose_precision, compare
from cgpipe.engine.remembered import recall, remember, trial_key
from cgpipe.errors import UsageError
from cgpipe.networks import Generator, build_generator

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A memory of measurements of the test's own."""
    monkeypatch.setattr("cgpipe.engine.remembered.user_cache_path", lambda name: tmp_path / name)
    return tmp_path / "cgpipe" / "trials.json"


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return build_generator("compact-flat", channels=16, blocks=1).eval().requires_grad_(False)


def picture(side: int = 32, count: int = 1) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_same_is_the_same_and_what_overflows_does_not_pay(generator: Generator) -> None:
    assert compare(generator, torch.float32, picture()).error == 0
    assert 0 < compare(generator, torch.bfloat16, picture()).error < 0.02
    for weights in generator.parameters():
        weights.mul_(1e30)
    assert compare(generator, torch.float16, picture()).error == 1
    assert not Trial(speed=9, error=1).pays
    assert not Trial(speed=1.05, error=0).pays
    assert Trial(speed=1.5, error=0.001).pays


def test_a_trial_leaves_the_generator_as_it_was_and_sees_the_size_at_hand(generator: Generator) -> None:
    seen = []
    generator.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    compare(generator, torch.bfloat16, picture(48, count=3))
    assert set(seen) == {(1, 3, 48, 48)}
    assert next(generator.parameters()).dtype == torch.float32


def test_of_a_large_picture_the_middle_is_tried(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_module, "PROBE_PIXELS", 1000)
    seen = []
    generator.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    compare(generator, torch.bfloat16, picture(64))
    assert set(seen) == {(1, 3, 28, 28)}


@pytest.mark.parametrize(("side", "copies"), [(256, 16), (300, 11), (1024, 1), (2000, 1)])
def test_a_gpu_is_tried_with_as_many_pictures_as_keep_it_busy(side: int, copies: int) -> None:
    filled = precision_module._filled(torch.zeros(1, 3, side, side, device="meta"))
    assert filled.shape == (copies, 3, side, side)


def test_half_precision_is_taken_by_what_was_measured_and_only_tried_once(
    generator: Generator, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_module, "compare", lambda *_: Trial(speed=1.7, error=0.001))
    chosen, reason = choose_precision(generator, picture())
    assert chosen == "bf16"
    assert "1.70 times as fast" in reason and "0.10%" in reason
    assert len(json.loads(cache.read_text())) == 1
    monkeypatch.setattr(precision_module, "compare", lambda *_: pytest.fail("tried again"))
    assert choose_precision(generator, picture()) == (chosen, reason)


@pytest.mark.parametrize("trial", [Trial(speed=1.0, error=0), Trial(speed=3, error=0.05)])
def test_what_is_not_faster_or_not_close_is_left(
    trial: Trial, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_module, "compare", lambda *_: trial)
    assert choose_precision(generator, picture())[0] == "fp32"


def test_another_model_or_size_is_another_trial(generator: Generator) -> None:
    key = trial_key(generator, CPU, (1, 3, 256, 256))
    assert trial_key(generator, CPU, (1, 3, 250, 260)) == key
    assert trial_key(generator, CPU, (1, 3, 512, 512)) != key
    next(generator.parameters())[0, 0, 0, 0] += 1
    assert trial_key(generator, CPU, (1, 3, 256, 256)) != key


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"key": "word"}', '{"key": [null]}'])
def test_a_damaged_memory_is_no_memory(text: str, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text(text)
    assert recall("key") is None
    remember("key", [1.0, 2.0])
    assert recall("key") == [1.0, 2.0]


def test_auto_precision_is_known_after_the_first_picture(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_module, "compare", lambda *_: Trial(speed=1.7, error=0.001))
    network = Network(generator, CPU)
    assert network.describe() == {"precision": "auto", "engine": "auto"}
    result = network(picture())
    assert result.dtype == torch.float32
    told = network.describe()
    assert (told["precision"], told["engine"]) == ("bf16", "eager")
    assert "1.70" in told["why"]["precision"]


def test_fp16_on_a_cpu_and_unknown_engines_are_refused(generator: Generator) -> None:
    with pytest.raises(UsageError, match="no fp16"):
        Network(generator, CPU, precision="fp16")
    with pytest.raises(UsageError, match="Unknown engine 'warp'"):
        Network(generator, CPU, engine="warp")  # type: ignore[arg-type]


def test_a_back_end_is_weighed_by_its_start_and_its_rate() -> None:
    cost = Cost(start=20, each=0.2, eager=0.3)
    assert cost.gain(100) < 0 < cost.gain(300)


def test_what_was_never_measured_is_tried_in_long_jobs_alone() -> None:
    assert not worth_trying("compile", 0.25, 1000)
    assert worth_trying("compile", 0.25, 10_000)
    assert worth_trying("openvino", 0.25, 1000)


def test_looks_come_at_the_first_pictures_and_at_every_doubling() -> None:
    assert [n for n in range(1, 70) if _passes_a_look(n - 1, n)] == [8, 16, 32, 64]
    assert _passes_a_look(6, 12)
    assert not _passes_a_look(0, 4)


def run_many(network: Network, count: int, left: int | None) -> list[str]:
    """The engines that ran ``count`` pictures, of a job of which ``left`` are to come."""
    engines = []
    for _ in range(count):
        network.left = left
        network(picture())
        engines.append(network.engine)
    return engines


def measured(monkeypatch: pytest.MonkeyPatch, **figures: list[float]) -> None:
    """Lets back ends that are always there stand for others, with these measurements."""
    monkeypatch.setattr(network_module, "others_here", lambda device: list(figures))
    monkeypatch.setattr(network_module, "recall", lambda key: figures[key.partition(",")[0]])


def test_auto_changes_to_what_pays_over_the_pictures_to_come(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, torchscript=[5.0, 0.01, 0.02])
    network = Network(generator, CPU, precision="fp32")
    assert run_many(network, FIRST_LOOK + 2, 1000) == ["eager"] * (FIRST_LOOK - 1) + ["torchscript"] * 3
    assert "torchscript takes 10.0 ms a picture, eager 20.0" in network.describe()["why"]["engine"]


@pytest.mark.parametrize("left", [None, 0, 100])
def test_auto_stays_eager_in_short_jobs_and_where_the_length_is_unknown(
    left: int | None, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, torchscript=[5.0, 0.01, 0.02])
    assert set(run_many(Network(generator, CPU, precision="fp32"), 2 * FIRST_LOOK, left)) == {"eager"}


def test_of_two_that_pay_the_better_is_taken(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, torchscript=[1.0, 0.01, 0.02], compile=[1.0, 0.015, 0.02])
    assert run_many(Network(generator, CPU, precision="fp32"), FIRST_LOOK, 1000)[-1] == "torchscript"


@pytest.mark.usefixtures("two_threads")
def test_auto_does_not_compile_where_torch_has_fewer_threads_than_outside(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, compile=[1.0, 0.01, 0.02])
    network = Network(generator, CPU, precision="fp32")
    with lanes(1) as pool:
        assert set(pool.submit(run_many, network, FIRST_LOOK, 1000).result()) == {"eager"}
    monkeypatch.setattr(network_module, "prepare", lambda generator, engine: generator)
    assert run_many(network, FIRST_LOOK, 1000)[-1] == "compile"


def test_a_job_too_short_for_a_trial_runs_each_picture_once_and_nothing_else(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "others_here", lambda device: ["onnx", "openvino", "compile"])
    monkeypatch.setattr(network_module, "recall", lambda key: None)
    runs = []
    generator.register_forward_pre_hook(lambda module, inputs: runs.append(len(inputs[0])))
    network = Network(generator, CPU, precision="fp32")
    runs.clear()
    run_many(network, 4 * FIRST_LOOK, 100)
    assert runs == [1] * 4 * FIRST_LOOK


@pytest.mark.usefixtures("two_threads")
def test_in_lanes_a_back_end_saves_time_on_several_pictures_at_once(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, torchscript=[5.0, 0.01, 0.02])
    network = Network(generator, CPU, precision="fp32")
    with lanes(1) as pool:
        assert set(pool.submit(run_many, network, FIRST_LOOK, 800).result()) == {"eager"}
    assert run_many(network, FIRST_LOOK, 800)[-1] == "torchscript"


def trying(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """A job so long that the one other back end is tried, and what that back end does."""
    monkeypatch.setattr(network_module, "others_here", lambda device: ["openvino"])
    real = network_module.prepare
    monkeypatch.setattr(
        network_module, "prepare", lambda generator, engine: run if engine == "openvino" else real(generator, engine)
    )


def test_a_back_end_that_fails_or_differs_is_never_taken_and_not_tried_again(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def fail(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel")

    trying(monkeypatch, fail)
    with pytest.warns(UserWarning, match="no kernel"):
        assert set(run_many(Network(generator, CPU, precision="fp32"), FIRST_LOOK, 10**9)) == {"eager"}
    assert len(json.loads(cache.read_text())) == 1
    assert set(run_many(Network(generator, CPU, precision="fp32"), FIRST_LOOK, 10**9)) == {"eager"}
    cache.unlink()
    trying(monkeypatch, lambda x: -x)
    assert set(run_many(Network(generator, CPU, precision="fp32"), FIRST_LOOK, 10**9)) == {"eager"}


def test_two_sizes_share_what_is_to_come(generator: Generator) -> None:
    network = Network(generator, CPU, precision="fp32", engine="auto")
    for side in (32, 32, 32, 64):
        network(picture(side))
    network.left = 1000
    assert [network._left((1, 3, side, side)) for side in (32, 64, 128)] == [750, 250, 0]
