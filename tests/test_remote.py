"""Folders behind addresses: an S3 server on loopback with faults on the way, archives, listings, and secrets."""

from __future__ import annotations

import base64
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from clips import Sound, make_clip
from runs import bytes_of, make_photos
from scale.buckets import SERVER, trial
from stores import Faults, bucket_behind, s3_server

import cgpipe
from cgpipe import remote, storage
from cgpipe.cli import cli
from cgpipe.errors import CgpipeError, MediaError, MissingDependencyError, UsageError
from cgpipe.jobs import journal
from cgpipe.jobs.shards import join_reports
from cgpipe.pages.page import Page
from cgpipe.storage import shown

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def nothing_mounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "_mounts", {})
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(storage, "_swept", False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


@pytest.fixture(autouse=True)
def models(models_folder: Path, file_model: Any) -> Path:
    file_model(models_folder, "horse", "zebra")
    return models_folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", 10, 24)


def translated(*args: Any, **options: Any) -> tuple[int, int, int]:
    report = cgpipe.translate_folder(*args, **({"to": "zebra", "workers": 0} | options))
    return report.translated, report.skipped, len(report.failures)


def files_left(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "temporary").rglob("*") if path.is_file()]


# --- an object store -----------------------------------------------------------------------------------------------


class Bucket:
    """The objects of the server's bucket, looked at without faults."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.system = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)

    def put(self, folder: Path, place: str) -> None:
        for name, content in bytes_of(folder).items():
            self.system.pipe_file(f"photos/{place}/{name}", content)

    def get(self, place: str) -> dict[str, bytes]:
        names = self.system.find(f"photos/{place}")
        return {name.removeprefix(f"photos/{place}/"): self.system.cat_file(name) for name in names}


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[str, int]]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with s3_server() as host_and_port:
        yield host_and_port


@pytest.fixture
def bucket(server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    faults = Faults()
    with bucket_behind(faults, *server) as address:
        for name, value in {
            "ACCESS_KEY_ID": "AKIATEST",
            "SECRET_ACCESS_KEY": "s3cr3t",
            "ENDPOINT_URL": address,
        }.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield Bucket(faults)


def pictures(objects: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in objects.items() if ".cgpipe-" not in name}


def test_a_bucket_is_translated_into_another_folder_whatever_fails_on_the_way(
    bucket: Bucket, photos: Path, tmp_path: Path
) -> None:
    """503 and broken connections at every fifth request: every object is whole and right, and was put once."""
    (photos / "broken.png").write_bytes(b"not a picture")
    bucket.put(photos, "in")
    bucket.faults.busy = bucket.faults.broken = 0.1
    bucket.faults.puts.clear()
    report = cgpipe.translate_folder("s3://photos/in", "s3://photos/out", to="zebra", workers=0)
    assert bucket.faults.counts["busy"] > 3 and bucket.faults.counts["broken"] > 3
    bucket.faults.busy = bucket.faults.broken = 0
    assert (report.translated, len(report.failures), report.exit_code) == (10, 1, 3)
    assert report.failures[0].to_json()["input"] == "s3://photos/in/broken.png"
    assert report.summary().endswith("s3://photos/out")

    assert translated(photos, tmp_path / "plain") == (10, 0, 1)
    assert pictures(bucket.get("out")) == bytes_of(tmp_path / "plain")
    assert {name: count for name, count in bucket.faults.puts.items() if count > 1} == {}
    assert files_left(tmp_path) == []
    # A journal is there, too: another run finds it, asks for listings alone, and makes nothing again.
    storage._mounts.clear()
    bucket.faults.counts.clear()
    assert translated("s3://photos/in", "s3://photos/out") == (0, 10, 1)
    assert bucket.faults.counts["PUT"] == 0 and bucket.faults.counts["GET"] < 20
    assert translated("s3://photos/in/sub", "s3://photos/out/sub", strength=0.5) == (5, 0, 0)


def test_what_is_in_a_bucket_and_not_ours_is_never_replaced(bucket: Bucket, photos: Path) -> None:
    bucket.put(photos, "in")
    bucket.system.pipe_file("photos/out/2.png", b"mine")
    report = cgpipe.translate_folder("s3://photos/in", "s3://photos/out", to="zebra", workers=0)
    assert [failure.output.name for failure in report.failures] == ["2.png"]
    assert "s3://photos/out/2.png already exists and was not made by cgpipe" in report.failures[0].reason
    assert bucket.get("out")["2.png"] == b"mine"
    storage._mounts.clear()
    assert translated("s3://photos/in", "s3://photos/out", overwrite=True) == (10, 0, 0)
    assert bucket.get("out")["2.png"] != b"mine"


def test_local_pictures_go_to_a_bucket_and_back(bucket: Bucket, photos: Path, tmp_path: Path) -> None:
    assert translated(photos, "s3://photos/out") == (10, 0, 0)
    assert translated(photos, tmp_path / "plain") == (10, 0, 0)
    assert pictures(bucket.get("out")) == bytes_of(tmp_path / "plain")
    assert translated("s3://photos/out/sub", tmp_path / "back") == (5, 0, 0)
    assert translated("s3://photos/out/0.png", tmp_path / "one.png") == (1, 0, 0)
    for missing in ("s3://photos/nothing", "s3://nowhere/in"):
        with pytest.raises(UsageError, match=r"does not exist|no pictures"):
            translated(missing, tmp_path / "none")


@pytest.mark.slow
def test_a_job_on_a_bucket_that_fails_at_times_and_is_killed_goes_on(
    server: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller here: ``bin/scale buckets`` is of two thousand."""
    for name in (*SERVER, "AWS_ENDPOINT_URL", "TMPDIR"):
        monkeypatch.setenv(name, "")
    outcome = trial(tmp_path, 40, server, side=24, model="horse2zebra", kills=1, rates=False)
    assert (outcome.objects, outcome.other, outcome.most_puts, outcome.temporaries) == (40, 0, 1, 0)
    assert outcome.busy + outcome.broken > 3 and 0 < outcome.made_by_last < 40


# --- videos ---------------------------------------------------------------------------------------------------------


def video(*args: Any, **options: Any) -> cgpipe.VideoReport:
    return cgpipe.translate_video(*args, **({"to": "zebra"} | options))


def test_a_video_goes_from_bucket_to_bucket_whatever_fails_on_the_way(bucket: Bucket, tmp_path: Path) -> None:
    """Sound and all, as between local files; its pieces lie beside it until it is whole."""
    clip = make_clip(tmp_path / "clip.mp4", count=130, size=(32, 32), sounds=[Sound()])
    bucket.system.pipe_file("photos/in/clip.mp4", clip.read_bytes())
    make_photos(tmp_path / "mask", 1, 32)
    bucket.system.pipe_file("photos/mask.png", (tmp_path / "mask" / "0.png").read_bytes())
    mask = {"mask": tmp_path / "mask" / "0.png", "strength": 0.5}
    video(clip, tmp_path / "plain.mp4", **mask)
    bucket.faults.busy = bucket.faults.broken = 0.05
    report = video("s3://photos/in/clip.mp4", "s3://photos/out/clip.mp4", **mask | {"mask": "s3://photos/mask.png"})
    bucket.faults.busy = bucket.faults.broken = 0
    assert (report.input, report.output) == ("s3://photos/in/clip.mp4", "s3://photos/out/clip.mp4")
    assert (report.frames, report.exit_code, report.settings["mask"]) == (130, 0, "s3://photos/mask.png")
    assert bucket.get("out")["clip.mp4"] == (tmp_path / "plain.mp4").read_bytes()
    assert [name for name in bucket.get("out") if "journal" not in name] == ["clip.mp4"]
    assert bucket.faults.puts["/photos/out/clip.mp4"] == 1
    assert files_left(tmp_path) == []
    storage._mounts.clear()
    again = cgpipe.translate_videos(["s3://photos/in"], "s3://photos/out", to="zebra", **mask)
    assert [one.skipped for one in again.videos] == [True]
    bucket.system.pipe_file("photos/in/broken.mp4", b"not a video")
    for name, reason in {"broken": "it is not a video", "none": "No such file"}.items():
        with pytest.raises(MediaError, match=f"s3://photos/in/{name}.mp4 cannot be read: {reason}"):
            video(f"s3://photos/in/{name}.mp4", tmp_path / "no.mp4")


@pytest.mark.slow
def test_a_video_on_a_bucket_that_is_killed_goes_on_at_its_last_piece_on_another_machine(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", count=400, size=(32, 32))
    bucket.system.pipe_file("photos/in/clip.mp4", clip.read_bytes())
    video(clip, tmp_path / "plain.mp4")
    code = "import cgpipe; cgpipe.translate_video('s3://photos/in/clip.mp4', 's3://photos/out/clip.mp4', to='zebra')"
    running = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path / "temporary")})
    while not bucket.system.exists("photos/out/.clip.mp4.cgpipe/000000.mp4") and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not bucket.system.exists("photos/out/clip.mp4")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    report = video("s3://photos/in/clip.mp4", "s3://photos/out/clip.mp4")
    assert (report.frames, report.resumed >= 120) == (400, True)
    assert bucket.get("out")["clip.mp4"] == (tmp_path / "plain.mp4").read_bytes()
    assert [name for name in bucket.get("out") if "journal" not in name] == ["clip.mp4"]


def test_masks_of_a_folder_in_a_bucket(bucket: Bucket, photos: Path, tmp_path: Path) -> None:
    masks = make_photos(tmp_path / "masks", 9, 24)
    bucket.put(masks, "masks")
    assert translated(photos, "s3://photos/out", mask="s3://photos/masks") == (9, 0, 1)
    assert translated(photos, tmp_path / "plain", mask=masks) == (9, 0, 1)
    assert pictures(bucket.get("out")) == bytes_of(tmp_path / "plain")
    storage._mounts.clear()
    assert translated(photos, "s3://photos/out", mask="s3://photos/masks") == (0, 9, 1)
    with pytest.raises(UsageError, match=r"no mask s3://photos/nothing"):
        translated(photos, tmp_path / "none", mask="s3://photos/nothing")


# --- archives and listings -----------------------------------------------------------------------------------------


def test_a_zip_and_a_tar_are_read_as_folders(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"not a picture")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped, tarfile.open(tmp_path / "a.tar", "w") as tarred:
        for path in sorted(photos.rglob("*.png")):
            zipped.write(path, path.relative_to(photos))
            tarred.add(path, str(path.relative_to(photos)))
    assert translated(photos, tmp_path / "plain") == (10, 0, 1)
    for name in ("a.zip", "a.tar", f"zip://{tmp_path}/a.zip"):
        out = tmp_path / f"out-{name[-5:]}{len(name)}"
        place = name if "://" in name else tmp_path / name
        assert translated(place, out) == (10, 0, 1)
        assert bytes_of(out) == bytes_of(tmp_path / "plain")
        storage._mounts.clear()
        assert translated(place, out) == (0, 10, 1)


class Listing(SimpleHTTPRequestHandler):
    """A web server's listing for one who knows the password."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"me:hunter2").decode():
            self.send_error(403)
        else:
            super().do_GET()

    do_HEAD = do_GET  # noqa: N815  # what http.server calls

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def test_a_listing_behind_a_password_is_read_and_the_password_shown_nowhere(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Listing, directory=photos.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    try:
        report = cgpipe.translate_folder(
            f"http://me:hunter2@127.0.0.1:{port}/photos/", tmp_path / "out", to="zebra", workers=0
        )
        assert report.translated == 10
        with pytest.raises(UsageError) as raised:
            cgpipe.translate_folder(f"http://me:hunter2@127.0.0.1:{port}/nothing/", tmp_path / "out", to="zebra")
        said = [repr(report), json.dumps(report.to_json()), str(raised.value)]
        said += [path.read_text() for path in (tmp_path / "out").rglob(".cgpipe-journal-*")]
        assert "hunter2" not in "".join(said)
    finally:
        server.shutdown()
        server.server_close()


def test_names_on_a_web_servers_page_are_those_of_the_files(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    names = ["猫 1.png", "50% #1.png", "a?b.png"]
    (tmp_path / "web" / "at home").mkdir(parents=True)
    for name in names:
        shutil.copyfile(next(photos.rglob("*.png")), tmp_path / "web" / "at home" / name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path / "web"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        assert cgpipe.translate_folder(address, tmp_path / "out", to="zebra", workers=0).translated == 3
    finally:
        server.shutdown()
        server.server_close()
    assert bytes_of(tmp_path / "out").keys() == {f"at home/{name}" for name in names}
    with pytest.raises(CgpipeError, match="cannot be reached"):
        cgpipe.translate_folder(f"{address}at%20home/", tmp_path / "other", to="zebra")


# --- other stores, and secrets -------------------------------------------------------------------------------------


@pytest.fixture
def stand_in() -> Any:
    """A file system that is none of S3: fsspec's in memory, under the names of Google's and Azure's."""
    from fsspec.implementations.memory import MemoryFileSystem

    class StandIn(MemoryFileSystem):  # type: ignore[misc]
        protocol = ("gs", "abfs")
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + path.partition("://")[2].strip("/") if "://" in path else "/" + path.strip("/")

    for name in StandIn.protocol:
        fsspec.register_implementation(name, StandIn, clobber=True)
    return StandIn()


@pytest.mark.parametrize("root", ["gs://bucket", "abfs://box@account.dfs.core.windows.net"])
def test_nothing_is_only_for_s3(root: str, stand_in: Any, photos: Path, tmp_path: Path) -> None:
    """Pictures, shards and their report, masks, an archive and a video, on a store without ETags or conditions."""
    for number in (1, 2):
        translated(photos, f"{root}/in", strength=0.0, shard=f"{number}/2")
    assert join_reports(f"{root}/in").counts["translated"] == 10
    joined = CliRunner().invoke(cli, ["report", f"{root}/in"])
    assert joined.exit_code == 0 and "2 of 2 shards: 10 translated; " in joined.output and root in joined.output
    storage._mounts.clear()  # as another process, which finds what both shards have recorded
    assert translated(photos, f"{root}/in", strength=0.0) == (0, 10, 0)
    assert translated(f"{root}/in", f"{root}/out", mask=f"{root}/in") == (10, 0, 0)
    assert translated(photos, tmp_path / "plain", mask=photos) == (10, 0, 0)
    there = stand_in.find(remote.located(f"{root}/out").as_posix().replace(":/", "://", 1))
    assert len([name for name in there if ".cgpipe-" not in name]) == 10
    storage._mounts.clear()
    assert translated(f"{root}/in", f"{root}/out", mask=f"{root}/in") == (0, 10, 0)
    assert translated(f"{root}/out", f"{root}/all-{{0..}}.tar") == (10, 0, 0)
    assert translated(f"{root}/all-{{0..0}}.tar", tmp_path / "back", strength=0.0) == (10, 0, 0)
    clip = make_clip(tmp_path / "clip.mp4", count=4, size=(32, 32))
    assert video(clip, f"{root}/clip.mp4", strength=0.0).output == f"{root}/clip.mp4"
    assert cgpipe.translate_videos([f"{root}/*.mp4"], tmp_path / "videos", to="zebra").videos[0].frames == 4


@pytest.mark.parametrize("tag", ["0" * 32, "0" * 31 + "-2"])
def test_a_tag_of_a_content_is_not_taken_for_its_checksum(
    tag: str, stand_in: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of objects that a key of the owner's encrypts: 32 digits, which are not the MD5 of what is read."""
    assert translated(photos, "gs://bucket/tagged", strength=0.0) == (10, 0, 0)
    info, ls = stand_in.info, stand_in.ls
    kind = type(stand_in)
    monkeypatch.setattr(kind, "info", lambda self, path, **_: info(path) | {"ETag": tag})
    monkeypatch.setattr(
        kind, "ls", lambda self, path, detail=True, **_: [entry | {"ETag": tag} for entry in ls(path, detail=True)]
    )
    storage._mounts.clear()
    assert translated("gs://bucket/tagged", tmp_path / "out", strength=0.0) == (10, 0, 0)


@pytest.mark.parametrize("name", ["a#1.png", "a?b.png", "100%.png"])
def test_names_in_a_bucket_may_hold_what_ends_the_path_of_a_page(
    name: str, stand_in: Any, photos: Path, tmp_path: Path
) -> None:
    stand_in.pipe_file(f"bucket/odd/{name}", (photos / "0.png").read_bytes())
    assert translated(f"gs://bucket/odd/{name}", tmp_path / "out") == (1, 0, 0)
    assert os.listdir(tmp_path / "out")[-1:] and (tmp_path / "out" / name).is_file()
    assert shown(remote.located(f"gs://bucket/odd/{name}")) == f"gs://bucket/odd/{name}"


def test_the_journals_of_a_store_grow_by_what_is_done_alone(
    stand_in: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines() -> int:
        names = [name for name in stand_in.find("bucket/journal") if ".cgpipe-" in name]
        return sum(stand_in.cat_file(name).count(b"\n") for name in names)

    monkeypatch.setattr(journal, "_FEW_LINES", 0)
    sizes = []
    for run in range(5):
        storage._mounts.clear()
        assert translated(photos, "gs://bucket/journal", strength=run / 4) == (10, 0, 0)
        sizes.append(lines())
    assert [after - before for before, after in itertools.pairwise(sizes)] == [sizes[0]] * 4


def test_an_archive_behind_an_address_is_fetched_anew_on_another_machine(
    stand_in: Any, photos: Path, tmp_path: Path
) -> None:
    translated(photos, "gs://bucket/a.zip", strength=0.0)
    with remote.released(remote.located("gs://bucket/a.zip")) as place:
        here = storage.store_of(place)
        names = here.listing(os.fspath(place))
        travelled = pickle.dumps(here)
        assert pickle.loads(travelled)._copy == here._copy  # type: ignore[attr-defined]
    elsewhere = pickle.loads(travelled)
    assert files_left(tmp_path) == [] and elsewhere.listing(os.fspath(place)) == names
    elsewhere.close()
    assert files_left(tmp_path) == []


def test_frames_go_to_a_store_as_pictures_and_come_back(stand_in: Any, tmp_path: Path) -> None:
    """An interrupted run goes on, other pictures stay, and nothing is made on this machine."""
    clip = make_clip(tmp_path / "clip.mp4", count=6, size=(32, 32))
    video(clip, tmp_path / "plain" / "%03d.png")

    def stop(frames: int) -> None:
        while not stand_in.glob("/bucket/frames/*.png"):
            time.sleep(0.01)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        video(clip, "gs://bucket/frames/%03d.png", on_frames=stop)
    names = [f"{number:03d}.png" for number in range(1, 7)]
    resumed = len(stand_in.glob("/bucket/frames/*.png"))
    assert resumed and stand_in.exists("/bucket/frames/.cgpipe-job")
    report = video(clip, "gs://bucket/frames/%03d.png")
    assert (report.frames, report.resumed) == (6, resumed)
    assert sorted(name.rpartition("/")[2] for name in stand_in.find("/bucket/frames")) == names
    assert all(
        stand_in.cat_file(f"/bucket/frames/{name}") == (tmp_path / "plain" / name).read_bytes() for name in names
    )
    with pytest.raises(MediaError, match=r"^gs://bucket/frames already holds pictures named %03d.png: use an empty"):
        video(clip, "gs://bucket/frames/%03d.png")
    for number, source in enumerate(("gs://bucket/frames/%03d.png", "gs://bucket/frames")):
        assert video(source, tmp_path / f"{number}.mp4", fps=5, strength=0.0).frames == 6
    with pytest.raises(MediaError, match=r"gs://bucket/none/%03d.png cannot be read"):
        video("gs://bucket/none/%03d.png", tmp_path / "none.mp4", fps=5)
    assert not list(tmp_path.glob("gs:*")) and files_left(tmp_path) == []


def test_a_page_of_remote_pictures_is_a_file_here(stand_in: Any, photos: Path, tmp_path: Path) -> None:
    """Pairs have thumbnails wherever they are; a page beside a remote output is refused before the work."""
    translated(photos, "gs://bucket/seen", strength=0.0)
    translated("gs://bucket/seen", tmp_path / "out", gallery=True)
    with pytest.raises(
        UsageError, match="write to a folder on this machine, omit --gallery, or name the page in Python"
    ):
        translated("gs://bucket/seen", "gs://bucket/never", gallery=True)
    assert not stand_in.exists("gs://bucket/never")
    translated("gs://bucket/seen", "gs://bucket/named", gallery=tmp_path / "named.html")
    for name in ("out", "named"):
        entries = Page(tmp_path / f"{name}.html").data()["entries"]
        assert isinstance(entries, list) and len(entries) == 10
        assert all(entry["x"] and entry["y"] for entry in entries)
        assert len(list((tmp_path / f"{name}_files").glob("*-before.jpg"))) == 10


def test_a_rerun_keeps_the_remote_pictures_that_still_stand(stand_in: Any, photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "named.html"

    def shown_after(*inputs: Path) -> set[str]:
        translated(inputs, "gs://bucket/named", gallery=page)
        entries: Any = Page(page).data()["entries"]
        assert all(entry["b"] == f"gs://bucket/named/{entry['n']}" for entry in entries)
        return {entry["n"] for entry in entries}

    first, second, *more = sorted(photos.glob("*.png"))
    everything = shown_after(first, second, *more)
    assert len(everything) == 2 + len(more)
    assert shown_after(first) == everything
    storage._mounts.clear()
    stand_in.rm(f"gs://bucket/named/{second.name}")
    assert shown_after(first) == everything - {second.name}


SECRETS = ("hunter2", "s1gnature", "s3cr3tkey")


def test_no_output_of_any_kind_says_a_secret(bucket: Bucket, photos: Path, tmp_path: Path) -> None:
    """Passwords, keys and signatures in addresses: in what works, in what fails, and with --verbose."""
    (photos / "broken.png").write_bytes(b"not a picture")
    make_clip(photos / "clip.mp4", count=3, size=(32, 32))
    bucket.put(photos, "in")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Listing, directory=photos.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    web = f"http://me:hunter2@127.0.0.1:{server.server_address[1]}"
    s3 = "s3://AKIATEST:s3cr3tkey@photos"
    said = []
    try:
        for number, arguments in enumerate(
            [
                ["translate", f"{web}/photos/", "-o", "pictures", "--gallery"],
                ["translate", f"{web}/photos/0.png?X-Amz-Signature=s1gnature", "-o", "one.png"],
                ["translate", f"{web}/photos/broken.png?X-Amz-Signature=s1gnature", "-o", "no.png"],
                ["translate", f"{web}/nothing/?X-Amz-Signature=s1gnature", "-o", "none"],
                ["translate", f"{s3}/in", "-o", f"{s3}/out", "--mask", f"{s3}/in", "--gallery"],
                ["translate", f"{s3}/in", "-o", f"{s3}/out", "--mask", f"{s3}/in", "--shard", "1/1"],
                ["translate", f"{s3}/nothing", "-o", f"{s3}/out.zip"],
                ["report", f"{s3}/out"],
                ["report", f"{s3}/nothing"],
                ["video", f"{s3}/in/clip.mp4", f"{s3}/out/clip.mp4"],
                ["video", f"{web}/photos/clip.mp4?X-Amz-Signature=s1gnature", "out.mp4", "--gallery"],
                ["video", f"{web}/photos/broken.mp4?X-Amz-Signature=s1gnature", "no.mp4"],
                ["video", "rtsp://me:hunter2@127.0.0.1:1/live?X-Amz-Signature=s1gnature", "no.mp4"],
                ["video", f"{s3}/in/clip.mp4", f"{web}/photos/no.mp4"],
            ]
        ):
            report = [] if arguments[0] == "report" else ["--to", "zebra"]
            done = CliRunner().invoke(cli, [*arguments, *report, "-v", "--json", f"{number}.json"])
            said.append(f"{arguments} {done.output}")
    finally:
        server.shutdown()
        server.server_close()
    assert (tmp_path / "one.png").exists() and (tmp_path / "out.mp4").exists(), "\n".join(said)
    assert bucket.system.exists("photos/out/clip.mp4"), "\n".join(said)
    outputs = "".join(text.partition("] ")[2] for text in said)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "photos" not in path.parts]
    kept = b"".join(path.read_bytes() for path in files) + b"".join(bucket.get("out").values())
    for secret in SECRETS:
        assert secret not in outputs and secret.encode() not in kept, secret


# --- addresses -----------------------------------------------------------------------------------------------------


def test_an_address_travels_without_its_secrets() -> None:
    pytest.importorskip("aiohttp")
    place = remote.located("https://me:hunter2@example.org:8443/a/b.png?X-Amz-Signature=abc")
    assert (str(place), shown(place)) == ("https:/example.org:8443/a/b.png", "https://example.org:8443/a/b.png")
    store = storage.mounted(place)
    assert isinstance(store, remote.RemoteStore)
    assert store._key(str(place)).endswith("/a/b.png?X-Amz-Signature=abc")
    assert storage.store_of(place.parent / "c.png") is store and storage.mounted("https:/example.com/x") is None
    assert pickle.loads(pickle.dumps(store))._key(str(place)) == store._key(str(place))


def test_messages_of_libraries_give_nothing_away() -> None:
    text = "Cannot connect to https://me:hunter2@example.org/a?X-Amz-Signature=abc&x=1: no\nmore"
    assert "hunter2" not in remote.clean(text) and "abc" not in remote.clean(text)


def test_a_limit_of_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.0)
    store = remote.RemoteStore("memory:/", "memory", {})
    calls = []

    def fail(*args: Any) -> None:
        calls.append(args)
        raise RuntimeError("503 at https://u:hunter2@h/x?sig=1")

    with pytest.raises(OSError, match="503 at https://h/x") as raised:
        store._tried(fail)
    assert len(calls) == remote.TRIES and "hunter2" not in str(raised.value) and raised.value.__cause__ is None


def test_an_unknown_address_and_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no kind of address nosuch://"):
        cgpipe.translate_folder("nosuch://a/b", tmp_path / "out", to="zebra")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingDependencyError, match=r"s3:// needs an extra: pip install 'cgpipe\[remote\]'"):
        cgpipe.translate_folder("s3://a/b", tmp_path / "out", to="zebra")
