"""Many workers: how work is shared out, what becomes of it when they are lost, and a real cluster of Ray."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import Sound, make_clip
from PIL import Image
from scale.simulation import Simulation
from test_archives import OneProcess

import cgpipe
from cgpipe.errors import CgpipeError, CgpipeWarning, MissingDependencyError, UsageError
from cgpipe.jobs import cluster_jobs
from cgpipe.jobs.chunks import FIRST, MOST_TRIES, Chunks, Item
from cgpipe.jobs.cluster import Crew, _share, absolute
from cgpipe.jobs.cluster_jobs import _SharedVideo
from cgpipe.jobs.cluster_worker import Introduction, Part, PictureWorker, VideoAnswer, VideoTask, VideoWorker
from cgpipe.jobs.plan import Plan
from cgpipe.models.choose import choose_model
from cgpipe.options import Hardware, ModelChoice, Options, Work
from cgpipe.storage import atomic_write, name_writer, remove_written_by


def chunks_of(count: int, **options: int) -> Chunks[str]:
    return Chunks(iter([Item(index, str(index)) for index in range(count)]), count, **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02d}.png")
    return tmp_path / "photos"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


# --- sharing out ---------------------------------------------------------------------------------------------------


def test_chunks_begin_small_grow_to_some_seconds_of_work_and_end_small() -> None:
    chunks = chunks_of(10_000)
    sizes = []
    while chunk := chunks.take(8):
        sizes.append(len(chunk))
        chunks.done(chunk, 0.05 * len(chunk))
    assert sum(sizes) == 10_000 and chunks.waiting == 0
    assert (sizes[0], max(sizes), sizes[-1]) == (FIRST, 100, 1)  # 5 seconds of 0.05 each


def test_videos_go_out_one_by_one() -> None:
    chunks = chunks_of(3, largest=1)
    assert [len(chunks.take(1)) for _ in range(4)] == [1, 1, 1, 0]


def test_what_a_lost_worker_had_goes_out_again_alone_and_not_for_ever() -> None:
    chunks = chunks_of(100)
    first, second = chunks.take(2), chunks.take(2)
    assert not chunks.is_again(first)
    assert chunks.lost(first) == () and chunks.lost(second, begun=False) == ()
    assert chunks.waiting == 100
    again = [chunks.take(2) for _ in range(2 * FIRST)]
    assert [len(chunk) for chunk in again] == 2 * FIRST * [1]
    assert chunks.is_again(again[0]) and not chunks.is_again(again[FIRST])
    item = again[0]
    assert chunks.lost(item) == () and MOST_TRIES == 3
    assert chunks.lost(chunks.take(2)) == item


def test_a_thousand_workers_of_which_some_are_lost_lose_nothing(tmp_path: Path) -> None:
    """Smaller here: ``bin/scale simulate`` is of a thousand."""
    deadly = frozenset((7, 400))
    outcome = Simulation(tmp_path, items=1200, workers=60, loss=0.03, deadly=deadly).run()
    everything = set(range(1200))
    assert outcome.lost_workers > 20
    assert outcome.given_up == deadly
    assert set(outcome.reported) == set(outcome.made) == everything - deadly
    assert {path.stem for path in Simulation(tmp_path, 0, 0).outputs()} == {str(i) for i in everything - deadly}
    assert max(outcome.begun.values()) <= MOST_TRIES and max(outcome.made.values()) == 1
    again = sum(outcome.begun.values()) - len(everything)
    assert again <= outcome.lost_workers * outcome.largest
    assert not [path for path in tmp_path.rglob(".cgpipe-*") if "journal" not in path.name]


# --- workers -------------------------------------------------------------------------------------------------------


def test_a_worker_does_what_is_open_and_counts_what_a_lost_one_has_made(
    photos: Path, tmp_path: Path, models_folder: Path, file_model: Any
) -> None:
    file_model(models_folder, "horse", "zebra")
    options = Options.gather({"to": "zebra", "workers": 0})
    worker = PictureWorker(options, 1, {})
    try:
        out = tmp_path / "out"
        chunk = tuple(
            Item(10 + index, (str(path), str(out / path.name), path.name))
            for index, path in enumerate(sorted(photos.iterdir()))
        )
        (photos / "03.png").write_bytes(b"broken")
        first = worker.work(chunk[:8], again=False)
        assert sorted(index for index, _ in first.results) == [*range(10, 18)] and first.fatal is None
        assert {result.output.name for _, result in first.results if result.status == "failed"} == {"03.png"}
        before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
        again = PictureWorker(options, 1, {}).work(chunk[:12], again=True)
        assert [result.status for _, result in sorted(again.results, key=lambda one: one[0])].count("translated") == 11
        assert all(path.stat().st_mtime_ns == then for path, then in before.items())
        assert again.settings["device"] == "cpu" and again.seconds["total"] > 0
    finally:
        name_writer("")


def test_a_worker_of_another_version_or_model_is_named() -> None:
    crew = Crew.__new__(Crew)
    crew._fingerprint = "00"
    worker = Introduction(machine="node7", writer="0" * 8, version=cgpipe.__version__, fingerprint="00")
    assert crew._checked(worker) is worker
    with pytest.raises(UsageError, match=r"worker on node7 has cgpipe 0\.0\.1, and this machine .*same version"):
        crew._checked(replace(worker, version="0.0.1"))
    with pytest.raises(UsageError, match="worker on node7 has another model or mask"):
        crew._checked(replace(worker, fingerprint="01"))


@pytest.mark.parametrize(
    ("nodes", "device", "expected"),
    [
        ([{"CPU": 16}, {"CPU": 2}], "auto", (4, 0, 4)),
        ([{"CPU": 1}, {"CPU": 1}], "auto", (1, 0, 2)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 8, "GPU": 1}, {"CPU": 64}], "auto", (8, 1, 3)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 8}], "cpu", (4, 0, 6)),
    ],
)
def test_a_worker_takes_a_gpu_or_a_share_of_the_cores(
    nodes: list[dict[str, int]], device: str, expected: tuple[int, int, int]
) -> None:
    machines = [{"Resources": node} for node in nodes]
    share = _share(machines, device)
    assert (share.cpus, share.gpus, sum(map(share.fits, machines))) == expected


@pytest.mark.parametrize(("device", "message"), [("cuda", "no GPU"), ("cuda:1", "auto, cpu or cuda, not cuda:1")])
def test_devices_that_a_cluster_has_not(device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _share([{"Resources": {"CPU": 4}}], device)


def test_options_for_other_machines_have_whole_paths_and_no_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.safetensors").touch()
    options = absolute(
        Options.gather({"model": "mine.safetensors", "mask": "m", "ray": "local", "shard": "1/2", "to": "zebra"})
    )
    assert (options.choice.model, options.look.mask) == (str(tmp_path / "mine.safetensors"), tmp_path / "m")
    assert (options.work.ray, options.work.shard) == (None, None)
    assert absolute(Options(choice=ModelChoice(model="monet"), hardware=Hardware())).choice.model == "monet"


def test_other_machines_get_a_learned_look_as_the_file_of_its_model(
    tmp_path: Path, models_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), "red").save("painting.png")
    options = Options.gather({"like": "painting.png", "ray": "local"})
    choice = absolute(options).choice
    assert choice == ModelChoice(model=choose_model(options.choice).path)
    assert Path(str(choice.model)).is_absolute() and models_folder in Path(str(choice.model)).parents
    now = absolute(Options.gather({"like": "painting.png", "like_now": True}))
    assert now.choice.like == (tmp_path / "painting.png",)


def test_temporaries_of_a_lost_worker_are_known_on_every_machine(tmp_path: Path) -> None:
    name_writer("0123abcd")
    try:
        with atomic_write(tmp_path / "a.png") as lost:
            name_writer("")
            with atomic_write(tmp_path / "b.png") as other:
                remove_written_by("0123abcd", tmp_path)
                assert not lost.exists() and other.exists()
            lost.touch()
    finally:
        name_writer("")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]


@pytest.mark.parametrize("address", ["photos/", "10.0.0.1", "ray://", "host:port"])
def test_what_is_no_address_of_a_cluster(address: str) -> None:
    with pytest.raises(UsageError, match="not that of a Ray cluster: use local, auto, HOST:PORT"):
        Work(ray=address)


def test_without_ray_the_extra_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cgpipe\[ray\]'"):
        cgpipe.translate_folder(photos, to="zebra", ray="local")


def test_a_plan_of_names() -> None:
    names = [("a", "b", "c"), ("d", "e", "f")]
    assert (list(Plan.of(names).names()), Plan.of(names).count) == (names, 2)


def test_parts_of_a_video_are_joined_to_what_one_machine_makes(
    tmp_path: Path, models_folder: Path, file_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, in whatever order they are made, and whatever a lost worker has left."""
    file_model(models_folder, "horse", "zebra")
    clip = make_clip(tmp_path / "clip.mp4", count=260, size=(32, 32), sounds=[Sound(seconds=10)])
    options = Options.gather({"to": "zebra", "steady": 0.5})
    plain, out = tmp_path / "plain.mp4", tmp_path / "out.mp4"
    cgpipe.translate_video(clip, plain, to="zebra", steady=0.5)
    monkeypatch.setattr(cluster_jobs, "PART_FRAMES", 120)
    video = _SharedVideo(str(clip), str(out), 2)
    try:
        first, second = VideoWorker(options, 1, {}), VideoWorker(options, 1, {})

        def made(worker: VideoWorker, task: VideoTask) -> VideoAnswer:
            return worker.work((Item(0, task),), False).results[0][1]

        survey = made(first, video.first_task())
        assert survey == (260,)
        parts = video.tasks_after(survey)
        assert [(part.first, part.last) for part in parts] == [(0, 120), (120, None)]
        assert made(second, parts[1]) == (140,) and not out.exists()
        pieces = tmp_path / ".out.mp4.cgpipe"
        (pieces / "000000.mp4").write_bytes(b"half a segment")
        assert video.tasks_after(Part(140)) == [] and made(first, parts[0]) == (120,)
        (join,) = video.tasks_after(Part(120))
        written = {path.name: path.stat().st_mtime_ns for path in pieces.glob("*.mp4")}
        assert sorted(written) == [f"{number:06d}.mp4" for number in range(3)]
        report = made(second, join)
        assert isinstance(report, cgpipe.VideoReport) and (report.frames, report.resumed) == (260, 260)
        told = video.told(report)
        assert isinstance(told, cgpipe.VideoReport) and told.resumed == 0
        assert out.read_bytes() == plain.read_bytes() and not pieces.exists()
        assert isinstance(made(first, VideoTask(str(clip), str(out), least=1)), cgpipe.VideoReport)  # done already
        broken = made(first, VideoTask(str(photos_in(tmp_path)), str(tmp_path / "b.mp4"), least=1))
        assert isinstance(broken, CgpipeError)
    finally:
        name_writer("")


class Growing(OneProcess):
    """Two machines join once there is work."""

    def nodes(self) -> list[Any]:
        return super().nodes() * (3 if self.chunks else 1)


def test_machines_that_join_later_get_workers(
    photos: Path, tmp_path: Path, models_folder: Path, file_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_model(models_folder, "horse", "zebra")
    cluster = Growing()
    for module in ("ray_cluster", "cluster_jobs"):
        monkeypatch.setattr(f"cgpipe.jobs.{module}.ray_cluster", lambda address: nullcontext(cluster))
    try:
        report = cgpipe.translate_folder(photos, tmp_path / "out", to="zebra", ray="local")
    finally:
        name_writer("")
    assert (report.translated, len(cluster.killed)) == (24, 3)


def photos_in(folder: Path) -> Path:
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder / "broken.mp4"


def test_a_part_that_fails_leaves_the_video_to_the_one_that_joins() -> None:
    video = _SharedVideo("a.mp4", "b.mp4", 3)
    parts = video.tasks_after(Part(10 * cluster_jobs.PART_FRAMES))
    assert len(parts) == 3 and all(part.first % 120 == 0 for part in parts)
    lost = CgpipeError("3 workers were lost")
    assert [video.tasks_after(answer) for answer in (Part(1), lost)] == [[], []]
    assert video.tasks_after(lost) == [VideoTask("a.mp4", "b.mp4")]
    assert video.is_over(lost) and video.told(lost) is lost
    assert _SharedVideo("a.mp4", "b.mp4", 1).first_task().least == 0


HEAD = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
RAY = {"worker_niceness": "0", "health_check_period_ms": "300"}
"""Its workers are as quick as the tests beside them, and it finds in seconds that a node is lost."""


@pytest.mark.slow
def test_nodes_that_are_lost_in_the_middle_change_nothing(
    photos: Path, tmp_path: Path, models_folder: Path, file_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes of a real cluster share a video, and then pictures; one of them is killed in the middle of each."""
    ray = pytest.importorskip("ray")
    file_model(models_folder, "horse", "zebra")
    monkeypatch.setattr(cluster_jobs, "PART_FRAMES", 120)
    clip = make_clip(tmp_path / "clip.mp4", count=480, size=(32, 32))
    (photos / "broken.png").write_bytes(b"not a picture")
    pieces, out, plain = tmp_path / ".shared.mp4.cgpipe", tmp_path / "out", tmp_path / "plain"
    seen: list[cgpipe.FileResult] = []
    for name, value in RAY.items():
        monkeypatch.setenv(f"RAY_{name}", value)
    with _cluster() as cluster, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CgpipeWarning)
        with _lost(cluster, lambda: _has_a_piece(pieces)):
            _starts_together(monkeypatch, 2)
            shared = cgpipe.translate_videos([clip], tmp_path / "shared.mp4", to="zebra", ray=cluster.address)
        assert [str(warning.message) for warning in caught if "goes out again" in str(warning.message)]
        with _lost(cluster, lambda: len(seen) >= 6):
            report = cgpipe.translate_folder(photos, out, to="zebra", ray=cluster.address, on_result=seen.append)
    assert not ray.is_initialized()
    cgpipe.translate_video(clip, tmp_path / "plain.mp4", to="zebra")
    assert (shared.videos[0].frames, shared.videos[0].resumed, shared.exit_code) == (480, 0, 0)
    assert (tmp_path / "shared.mp4").read_bytes() == (tmp_path / "plain.mp4").read_bytes() and not pieces.exists()
    again = cgpipe.translate_folder(photos, plain, to="zebra", workers=0)
    assert (report.translated, len(report.failures), report.exit_code) == (24, 1, 3)
    assert (report.failures[0].reason, report.failures[0].input) == (again.failures[0].reason, photos / "broken.png")
    assert bytes_of(out) == bytes_of(plain) and len(seen) == 25
    hidden = [name for folder in (out, tmp_path) for name in os.listdir(folder) if name.startswith(".cgpipe-")]
    assert all("journal" in name for name in hidden)
    assert cgpipe.translate_folder(photos, out, to="zebra", workers=0).skipped == 24
    assert all("lost" in str(warning.message) for warning in caught if warning.category is CgpipeWarning)


@contextmanager
def _cluster() -> Iterator[Any]:
    """A real one, of a head with one core."""
    from cgpipe.jobs.ray_cluster import ray_cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        try:
            with ray_cluster(cluster.address):  # one connection for both jobs
                yield cluster
        finally:
            cluster.shutdown()


def _has_a_piece(folder: Path) -> bool:
    try:
        return any(name.startswith("0") and name.endswith(".mp4") for name in os.listdir(folder))
    except FileNotFoundError:  # it comes and goes while others look
        return False


@contextmanager
def _lost(cluster: Any, when: Callable[[], bool]) -> Iterator[None]:
    """A second node with one core, which is killed with everything on it, as by a loss of power."""
    node, over = cluster.add_node(num_cpus=1), threading.Event()

    def kill() -> None:
        while not when() and not over.wait(0.005):
            pass
        raylet = node.all_processes["raylet"][0].process.pid
        for process in Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split():
            os.kill(int(process), signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def _starts_together(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """No worker gets one of so many parts before so many workers are there."""
    plain, begun = Crew._hand_out, threading.Event()

    def hand_out(crew: Crew[Any, Any], chunks: Chunks[Any]) -> None:
        if sum(bool(member.writer) for member in crew._members) >= count:
            begun.set()
        if begun.is_set() or chunks.waiting < count:
            plain(crew, chunks)

    monkeypatch.setattr(Crew, "_hand_out", hand_out)
