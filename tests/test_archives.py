"""Translations into zip, tar and WebDataset's numbered tar files: whole or not at all, and taken up where they were."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from runs import bytes_of, make_photos

import cgpipe
from cgpipe import storage
from cgpipe.archives import expanded, members_of
from cgpipe.errors import CgpipeError, UsageError
from cgpipe.jobs import archives


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch, models_folder: Path, file_model: Any) -> None:
    monkeypatch.setattr(storage, "_mounts", {})
    file_model(models_folder, "horse", "zebra")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", 6, 16)


def translated(*args: Any, **options: Any) -> tuple[int, int, int]:
    report = cgpipe.translate_folder(*args, **({"to": "zebra", "workers": 0} | options))
    return report.translated, report.skipped, len(report.failures)


def content(path: Path) -> dict[str, bytes]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            return {name: file.read(name) for name in file.namelist()}
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def hidden(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".") and "journal" not in name]


def make_shard(path: Path, photos: Path, numbers: range, *, broken: int = -1) -> None:
    """Samples of a picture and its caption, the last first, as a shuffled data set has them."""
    with tarfile.open(path, "w") as tar:
        for number in reversed(numbers):
            picture = photos / f"{'sub/' * (number % 2)}{number}.png"
            for suffix, data in {"png": picture.read_bytes(), "txt": f"picture {number}".encode()}.items():
                data = b"broken" if number == broken and suffix == "png" else data
                entry = tarfile.TarInfo(f"./s{number}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


@pytest.mark.parametrize("name", ["out.zip", "out.tar", "out.tar.gz", "zip://out.zip"])
def test_a_folder_goes_into_an_archive_and_a_second_time_nothing_is_done(
    name: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / name.removeprefix("zip://")
    assert translated(photos, name) == (6, 0, 0)
    assert translated(photos, tmp_path / "plain") == (6, 0, 0)
    assert content(archive) == bytes_of(tmp_path / "plain")
    before = archive.read_bytes()
    assert translated(photos, name) == (0, 6, 0)
    assert translated(photos, name, overwrite=True) == (6, 0, 0) and archive.read_bytes() == before
    assert translated(photos, name, strength=0.5) == (6, 0, 0) and archive.read_bytes() != before
    assert hidden(tmp_path) == []


def test_masks_that_come_or_change_make_another_archive(photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    for name in bytes_of(photos):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(masks / name), np.full((16, 16), 255, np.uint8))
    assert translated(photos, tmp_path / "out.zip") == (6, 0, 0)
    assert translated(photos, tmp_path / "out.zip", mask=masks) == (6, 0, 0)
    assert translated(photos, tmp_path / "out.zip", mask=masks) == (0, 6, 0)
    assert cv2.imwrite(str(masks / "0.png"), np.zeros((16, 16), np.uint8))
    assert translated(photos, tmp_path / "out.zip", mask=masks) == (6, 0, 0)
    assert content(tmp_path / "out.zip")["0.png"] != content(tmp_path / "out.zip")["2.png"]
    plain = cv2.imdecode(np.frombuffer(content(tmp_path / "out.zip")["0.png"], np.uint8), cv2.IMREAD_COLOR)
    assert (plain == cv2.imread(str(photos / "0.png"))).all(), "a black mask keeps the picture"


@pytest.mark.parametrize("name", ["in.zip", "in.tar"])
def test_with_checksums_the_content_of_an_archive_counts(name: str, photos: Path, tmp_path: Path) -> None:
    def archive(level: int) -> None:
        """Pictures of one size and time, all in a folder."""
        _, data = cv2.imencode(".bmp", np.full((16, 16, 3), level, np.uint8))
        if name == "in.zip":
            with zipfile.ZipFile(tmp_path / name, "w") as file:
                file.writestr(zipfile.ZipInfo("train/a.bmp"), data.tobytes())
        else:
            with tarfile.open(tmp_path / name, "w") as tar:
                entry = tarfile.TarInfo("train/a.bmp")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data.tobytes()))

    archive(100)
    assert translated(tmp_path / name, tmp_path / "out.zip", checksum=True) == (1, 0, 0)
    assert translated(tmp_path / name, tmp_path / "out.zip", checksum=True) == (0, 1, 0)
    archive(200)
    assert translated(tmp_path / name, tmp_path / "out.zip", checksum=True) == (1, 0, 0)


def test_a_job_that_was_stopped_goes_on_and_the_archive_appears_when_it_is_whole(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(archives, "_pack", fail)
        with pytest.raises(CgpipeError, match=r"out\.zip cannot be written: No space left"):
            translated(photos, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists() and hidden(tmp_path) == [".out.zip.cgpipe"]
    assert translated(photos, tmp_path / "out.zip") == (0, 6, 0)
    assert len(content(tmp_path / "out.zip")) == 6 and hidden(tmp_path) == []


def test_of_a_broken_picture_the_rest_is_there_and_only_it_is_tried_again(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"broken")
    assert translated(photos, tmp_path / "out.tar") == (6, 0, 1)
    assert len(content(tmp_path / "out.tar")) == 6
    assert translated(photos, tmp_path / "out.tar") == (0, 6, 1)
    (photos / "broken.png").write_bytes((photos / "0.png").read_bytes())
    assert translated(photos, tmp_path / "out.tar") == (7, 0, 0)  # what goes in is another


@pytest.mark.parametrize("output", ["out", "out.zip"])
def test_damaged_members_stop_nothing(photos: Path, tmp_path: Path, output: str) -> None:
    archive = tmp_path / "in.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in (0, 2, 4):
            file.write(photos / f"{number}.png", f"{number}.png")
        file.writestr("2.txt", "a caption")
        file.writestr("note.txt", "of nothing")
    spoilt = archive.read_bytes()
    for damaged in ((photos / "4.png").read_bytes(), b"of nothing"):
        place = spoilt.index(damaged)
        spoilt = spoilt[: place + 9] + b"?" + spoilt[place + 10 :]
    archive.write_bytes(spoilt)
    report = cgpipe.translate_folder(archive, tmp_path / output, to="zebra", workers=0)
    assert report.translated == 2 and report.exit_code == 3
    lost = {failure.input.name: failure.reason for failure in report.failures}
    assert lost.keys() == {"4.png"} | ({"note.txt"} if output == "out.zip" else set())
    assert all("damaged" in reason for reason in lost.values())
    if output == "out.zip":
        assert content(tmp_path / output).keys() == {"0.png", "2.png", "2.txt"}


def test_links_in_a_tar_are_files(photos: Path, tmp_path: Path) -> None:
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(photos / "0.png", "./in/a.png")
        for name, kind, to in (
            ("b.png", hard, "./in/a.png"),
            ("in/c.png", soft, "a.png"),
            ("d.png", soft, "in/c.png"),
            ("round.png", soft, "round.png"),
            ("nowhere.png", soft, "/etc/passwd"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, to
            tar.addfile(link)
    assert translated(tmp_path / "in.tar", tmp_path / "out.tar") == (4, 0, 0)
    made = content(tmp_path / "out.tar")
    assert made.keys() == {"in/a.png", "b.png", "in/c.png", "d.png"} and len(set(made.values())) == 1


def test_a_tar_that_ends_with_a_zip_is_a_tar(photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "sample.npz", "w") as file:
        file.write(photos / "0.png", "inner.png")
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(photos / "0.png", "a.png")
        tar.add(photos / "2.png", "b.png")
        tar.add(tmp_path / "sample.npz", "b.npz")
    assert translated(tmp_path / "in.tar", tmp_path / "out.tar") == (2, 0, 0)
    assert content(tmp_path / "out.tar").keys() == {"a.png", "b.png", "b.npz"}
    with pytest.raises(OSError, match="it is damaged"), members_of(tmp_path / "in.tar"):
        raise tarfile.ReadError("in the middle")


def test_a_tar_with_a_damaged_header_is_not_taken_for_one_that_ends_there(photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for number in (0, 2, 4):
            tar.add(photos / f"{number}.png", f"{number}.png")
        second = tar.getmembers()[1].offset
    spoilt = bytearray((tmp_path / "in.tar").read_bytes())
    spoilt[second + 150] ^= 1  # in its checksum
    (tmp_path / "in.tar").write_bytes(spoilt)
    with pytest.raises(UsageError, match="it is damaged"):
        translated(tmp_path / "in.tar", tmp_path / "out")


def test_an_archive_without_pictures_stops_none_of_the_others(photos: Path, tmp_path: Path) -> None:
    for number in (0, 2):
        make_shard(tmp_path / f"in-{number}.tar", photos, range(number, number + 1))
    with zipfile.ZipFile(tmp_path / "in-1.tar", "w") as file:
        file.writestr("notes.txt", "nothing to see")
    report = cgpipe.translate_folder(tmp_path / "in-{0..2}.tar", tmp_path / "out-{0..2}.tar", to="zebra", workers=0)
    assert report.translated == 2 and report.exit_code == 3
    assert [failure.reason[:11] for failure in report.failures] == ["No pictures"]


def test_a_name_that_a_zip_cannot_hold_fails_alone(photos: Path, tmp_path: Path) -> None:
    (photos / "0.png").rename(photos / os.fsdecode(b"caf\xe9.png"))
    report = cgpipe.translate_folder(photos, tmp_path / "out.zip", to="zebra", workers=0)
    assert report.translated == 5 and ["UTF-8" in failure.reason for failure in report.failures] == [True]
    assert translated(photos, tmp_path / "out.tar") == (6, 0, 0)


def test_an_archive_is_never_written_over_itself(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_shard(tmp_path / "in.tar", photos, range(2))
    before = (tmp_path / "in.tar").read_bytes()
    for output in ("in.tar", tmp_path / "in.tar", "photos/../in.tar"):
        with pytest.raises(UsageError, match="overwrite itself"):
            translated("in.tar", output, overwrite=True)
    assert (tmp_path / "in.tar").read_bytes() == before


def test_an_archive_that_is_not_ours_stays(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out.zip").write_bytes(b"mine")
    report = cgpipe.translate_folder(photos, tmp_path / "out.zip", to="zebra", workers=0)
    assert len(report.failures) == 6 and "was not made by cgpipe" in report.failures[0].reason
    assert (tmp_path / "out.zip").read_bytes() == b"mine" and hidden(tmp_path) == []


def test_webdataset_shards_become_shards_with_their_sidecars_in_their_order(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    make_shard(tmp_path / "in-000.tar", photos, range(3))
    make_shard(tmp_path / "in-001.tar", photos, range(3, 6), broken=4)
    out = tmp_path / "out-{000000..}.tar"
    assert translated(tmp_path / "in-{000..001}.tar", out) == (5, 0, 1)
    first, second = (content(tmp_path / f"out-00000{number}.tar") for number in (0, 1))
    assert list(first) == ["s2.png", "s2.txt", "s1.png", "s1.txt", "s0.png", "s0.txt"]
    assert list(second) == ["s5.png", "s5.txt", "s3.png", "s3.txt"] and first["s1.txt"] == b"picture 1"
    assert translated(photos, tmp_path / "plain") == (6, 0, 0)
    assert first["s0.png"] == bytes_of(tmp_path / "plain")["0.png"]
    before = (tmp_path / "out-000000.tar").stat().st_mtime_ns
    assert translated(tmp_path / "in-{000..001}.tar", out) == (0, 5, 1)
    assert (tmp_path / "out-000000.tar").stat().st_mtime_ns == before and storage._mounts == {}
    # Shards of the job share out the archives.
    both = [translated(tmp_path / "in-{000..001}.tar", tmp_path / "b-{0..1}.tar", shard=f"{n}/2") for n in (1, 2)]
    assert sum(made for made, _, _ in both) == 5 and content(tmp_path / "b-1.tar") == second


def test_a_folder_is_shared_out_among_shards(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "PICTURES_A_SHARD", 4)
    assert translated(photos, tmp_path / "s-{000..}.tar") == (6, 0, 0)
    assert [len(content(tmp_path / f"s-00{number}.tar")) for number in (0, 1)] == [3, 3]
    assert translated(photos, tmp_path / "t-{1..3}.zip", format="jpg") == (6, 0, 0)
    assert [list(content(tmp_path / f"t-{number}.zip")) for number in (1, 3)] == [
        ["0.jpg", "2.jpg"],
        ["sub/3.jpg", "sub/5.jpg"],
    ]


class OneProcess:
    """Takes the place of Ray: its workers are in this process, and what goes to and from them is pickled."""

    class LostError(Exception):
        pass

    exceptions = SimpleNamespace(
        RayActorError=LostError, WorkerCrashedError=LostError, NodeDiedError=LostError, ObjectLostError=LostError
    )

    def __init__(self) -> None:
        self.chunks: list[Any] = []
        self.killed: list[Any] = []

    def nodes(self) -> list[Any]:
        return [{"Alive": True, "Resources": {"CPU": 1}}]

    def remote(self, worker: Any) -> Any:
        return SimpleNamespace(options=lambda **share: SimpleNamespace(remote=partial(self._actor, worker)))

    def _actor(self, kind: Any, *given: Any) -> Any:
        worker = kind(*pickle.loads(pickle.dumps(given)))
        return SimpleNamespace(introduce=self._method(worker.introduce), work=self._method(worker.work))

    def _method(self, do: Any) -> Any:
        def remote(*given: Any) -> bytes:
            self.chunks.extend(given[:1])
            return pickle.dumps(do(*pickle.loads(pickle.dumps(given))))

        return SimpleNamespace(remote=remote)

    def get(self, promise: bytes) -> Any:
        return pickle.loads(promise)

    def wait(self, promises: list[bytes], **asked: Any) -> Any:
        return promises[:1], promises[1:]

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> OneProcess:
    cluster = OneProcess()
    monkeypatch.setattr("cgpipe.jobs.ray_cluster.ray_cluster", lambda address: nullcontext(cluster))
    monkeypatch.setattr("cgpipe.jobs.cluster_jobs.ray_cluster", lambda address: nullcontext(cluster))
    monkeypatch.setattr(storage, "_writer", "")
    return cluster


def test_ctrl_c_ends_the_workers_of_a_cluster_and_the_next_run_goes_on(
    photos: Path, tmp_path: Path, cluster: OneProcess
) -> None:
    def stop(result: cgpipe.FileResult) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        translated(photos, tmp_path / "a.zip", ray="local", on_result=stop)
    assert len(cluster.killed) == 1 and not (tmp_path / "a.zip").exists()
    made = len(list((tmp_path / ".a.zip.cgpipe").rglob("*.png")))
    assert made > 0 and translated(photos, tmp_path / "a.zip", ray="local") == (6 - made, made, 0)


def test_archives_in_and_out_on_a_cluster_are_those_of_one_machine(
    photos: Path, tmp_path: Path, cluster: OneProcess
) -> None:
    """Workers write into the folder beside the archive, and what comes from there is packed here."""
    make_shard(tmp_path / "in-0.tar", photos, range(3))
    make_shard(tmp_path / "in-1.tar", photos, range(3, 6), broken=4)
    cases: list[tuple[Any, str]] = [
        (photos, "a.zip"),
        (tmp_path / "in-0.tar", "b"),
        (tmp_path / "in-{0..1}.tar", "c-{0..}.tar"),
    ]
    for inputs, output in cases:
        plain = translated(inputs, tmp_path / "plain" / output)
        assert translated(inputs, tmp_path / "ray" / output, ray="local") == plain
        assert translated(inputs, tmp_path / "ray" / output, ray="local") == (0, plain[0], plain[2])
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "plain")
    assert len(cluster.chunks) > 3 and hidden(tmp_path / "ray") == []


@pytest.mark.parametrize(
    ("inputs", "output", "options", "message"),
    [
        ("in-{0..}.tar", "out.tar", {}, "has no end: write the last number"),
        ("in-{3..1}.tar", "out.tar", {}, "ends before it begins"),
        ("photos", "zip://in::out.zip", {}, "names a folder in an archive"),
        ("photos", "out.zip", {"shard": "1/2"}, "cannot be divided by --shard"),
        ("photos", "out.zip", {"gallery": True}, "A gallery needs a folder"),
    ],
)
def test_what_does_not_fit(
    inputs: str,
    output: str,
    options: dict[str, Any],
    message: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        translated(inputs, output, **options)


def test_names_of_a_range(tmp_path: Path) -> None:
    assert expanded("s3://b/s-{008..011}.tar")[::3] == ["s3://b/s-008.tar", "s3://b/s-011.tar"]
    assert expanded("a-{0..}.tar", 2) == ["a-0.tar", "a-1.tar"] and expanded("a.tar") == ["a.tar"]
    (tmp_path / "{1..2}.tar").touch()
    assert expanded(tmp_path / "{1..2}.tar") == [str(tmp_path / "{1..2}.tar")]


def test_members_named_from_the_root_or_from_above_lie_within(tmp_path: Path) -> None:
    picture = (make_photos(tmp_path / "in", 1, 32) / "0.png").read_bytes()
    with tarfile.open(tmp_path / "in.tar", "w") as file:
        for name in ("/abs/a.png", "../../above.png", "./b.png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture)
            file.addfile(member, io.BytesIO(picture))
    assert cgpipe.translate_folder(tmp_path / "in.tar", tmp_path / "deep" / "out", to="zebra").translated == 3
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("[!.]*.png")}
    assert made == {"in/0.png", "deep/out/abs/a.png", "deep/out/above.png", "deep/out/b.png"}
