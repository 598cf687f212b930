"""Which files go in, and where each one comes out."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cgpipe.errors import UsageError
from cgpipe.jobs.plan import Left, Plan, plan_files
from cgpipe.jobs.video_plan import plan_videos
from cgpipe.media.pictures.formats import named_format, picture_format
from cgpipe.storage import atomic_write

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """``tree("photos/a.jpg", ...)`` makes such files, with something in them, in the working folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("pixels")
        return tmp_path

    return make


def zebra(*inputs: str | Path, output: str | Path | None = None, format: str | None = None, **options: bool) -> Plan:
    return plan_files(inputs, output, domain="zebra", format=format, **options)


def mapped(plan: Plan) -> dict[str, str]:
    pairs = {str(pair.input): str(pair.output) for pair in plan.pairs()}
    assert plan.count == len(pairs)
    return pairs


# --- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_is_mirrored_beside_itself(tree: Tree) -> None:
    tree("photos/b.jpg", "photos/a.PNG", "photos/2024/märz/Ähre 1.tiff", "photos/notes.txt", "photos/2024/x.mp4")
    plan = zebra("photos")
    assert mapped(plan) == {
        "photos/a.PNG": "photos-zebra/a.PNG",
        "photos/b.jpg": "photos-zebra/b.jpg",
        "photos/2024/märz/Ähre 1.tiff": "photos-zebra/2024/märz/Ähre 1.tiff",
    }
    assert (plan.count, plan.left[Left.NO_PICTURE], plan.roots) == (3, 2, (Path("photos-zebra"),))


def test_every_suffix_of_a_picture_counts(tree: Tree) -> None:
    names = [
        "a.jpg",
        "b.jpeg",
        "c.jpe",
        "d.jfif",
        "e.png",
        "f.webp",
        "g.tif",
        "h.tiff",
        "i.bmp",
        "j.dib",
        "k.JPG",
        "l.WebP",
    ]
    tree(*(f"in/{name}" for name in names), "in/m.mid", "in/n.jpg.txt", "in/jpg")
    assert [pair.input.name for pair in zebra("in").pairs()] == names


def test_output_and_depth(tree: Tree) -> None:
    tree("photos/a.jpg", "photos/sub/b.jpg")
    assert mapped(zebra("photos", output="out")) == {"photos/a.jpg": "out/a.jpg", "photos/sub/b.jpg": "out/sub/b.jpg"}
    assert mapped(zebra("photos", recursive=False)) == {"photos/a.jpg": "photos-zebra/a.jpg"}


def test_the_folder_that_one_is_in(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree("photos/a.jpg", "photos/sub/b.jpg")
    monkeypatch.chdir(root / "photos")
    assert mapped(zebra("."))["a.jpg"] == f"{root}/photos-zebra/a.jpg"
    monkeypatch.chdir(root / "photos" / "sub")
    assert mapped(zebra(".."))["../a.jpg"] == f"{root}/photos-zebra/a.jpg"
    with pytest.raises(UsageError, match="--output"):
        zebra("/")


def test_several_folders_keep_their_names_in_one_output(tree: Tree) -> None:
    tree("here/horses/a.jpg", "there/ponies/a.jpg")
    assert mapped(zebra("here/horses", "there/ponies/", output="out")) == {
        "here/horses/a.jpg": "out/horses/a.jpg",
        "there/ponies/a.jpg": "out/ponies/a.jpg",
    }
    assert mapped(zebra("here/horses", "there/ponies"))["there/ponies/a.jpg"] == "there/ponies-zebra/a.jpg"


def test_hidden_and_temporary_files_are_no_inputs(tree: Tree) -> None:
    tree("in/a.jpg", "in/.b.jpg", "in/._a.jpg", "in/.thumbs/c.jpg")
    with atomic_write("in/d.jpg") as temporary:
        temporary.write_text("half")
        plan = zebra("in")
        assert mapped(plan) == {"in/a.jpg": "in-zebra/a.jpg"}
        assert not plan.left


def test_an_output_folder_inside_the_input_is_not_walked(tree: Tree) -> None:
    tree("in/a.jpg", "in/out/a.jpg", "in/out/sub/b.jpg", "in/outer/c.jpg")
    (Path("link")).symlink_to("in/out")
    for output in ("in/out", "in/../in/out/", "link", Path("in/out").absolute()):
        assert [str(pair.input) for pair in zebra("in", output=output).pairs()] == ["in/a.jpg", "in/outer/c.jpg"]
    with pytest.raises(UsageError, match="is the input folder"):
        zebra("in", output="./in")


def test_links_are_followed_and_loops_survived(tree: Tree) -> None:
    root = tree("in/a.jpg", "in/sub/b.jpg", "far/c.jpg", "far/deep/d.jpg")
    (root / "in/file.jpg").symlink_to(root / "far/c.jpg")
    (root / "in/linked").symlink_to(root / "far")
    (root / "in/sub/up").symlink_to(root / "in")
    (root / "far/deep/back").symlink_to(root / "in")
    (root / "in/self").symlink_to("self")
    (root / "in/lost.jpg").symlink_to("nowhere.jpg")
    assert [str(pair.input) for pair in zebra("in").pairs()] == [
        "in/a.jpg",
        "in/file.jpg",
        "in/lost.jpg",  # whoever reads it says what is wrong
        "in/linked/c.jpg",
        "in/linked/deep/d.jpg",
        "in/sub/b.jpg",
    ]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_folder_that_cannot_be_listed_is_handed_on_to_be_reported() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (folder / "in/closed/a.jpg", folder / "in/open/b.jpg"):
            path.parent.mkdir(parents=True)
            path.touch()
        folder.chmod(0o755)
        (folder / "in/closed").chmod(0)
        if root := os.geteuid() == 0:  # whom permissions do not stop
            os.seteuid(65534)
        try:
            found = [pair.input for pair in zebra(folder / "in", output=folder / "out").pairs()]
        finally:
            if root:
                os.seteuid(0)
            (folder / "in/closed").chmod(0o700)
    assert found == [folder / "in/closed", folder / "in/open/b.jpg"]


def test_nothing_to_do_is_an_error(tree: Tree) -> None:
    root = tree("texts/a.txt")
    (root / "empty").mkdir()
    for inputs in (["empty"], ["texts"], ["empty", "texts"]):
        with pytest.raises(UsageError, match=f"No pictures in {', '.join(inputs)}"):
            zebra(*inputs)
    with pytest.raises(UsageError, match=r"missing\.jpg does not exist"):
        zebra("texts", "missing.jpg")
    with pytest.raises(UsageError, match="No input"):
        zebra()


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_file_comes_out_beside_itself(tree: Tree) -> None:
    tree("Ponys im Schnee/ein Pony.v2.jpg", "Ponys im Schnee/scan", "photo[1].jpg")
    assert mapped(zebra("Ponys im Schnee/ein Pony.v2.jpg", "Ponys im Schnee/scan", "photo[1].jpg")) == {
        "Ponys im Schnee/ein Pony.v2.jpg": "Ponys im Schnee/ein Pony.v2-zebra.jpg",
        "Ponys im Schnee/scan": "Ponys im Schnee/scan-zebra",
        "photo[1].jpg": "photo[1]-zebra.jpg",
    }


@pytest.mark.parametrize(
    ("output", "expected"),
    [("b.png", "b.png"), ("new/b.JPG", "new/b.JPG"), ("there", "there/a.jpg"), ("named.jpg", "named.jpg/a.jpg")],
)
def test_the_output_of_a_single_file(tree: Tree, output: str, expected: str) -> None:
    root = tree("photos/a.jpg")
    (root / "named.jpg").mkdir()
    assert mapped(zebra("photos/a.jpg", output=output)) == {"photos/a.jpg": expected}
    with pytest.raises(UsageError, match=r"out\.mp4 is not a valid name for a picture"):
        zebra("photos/a.jpg", output="out.mp4")


def test_several_files_go_into_a_folder(tree: Tree) -> None:
    tree("x/a.jpg", "y/b.png", "file.jpg")
    assert zebra("x/a.jpg", "x", "y/*.png").roots == (Path("x"), Path("x-zebra"), Path("y"))
    assert mapped(zebra("x/a.jpg", "y/b.png", output="out")) == {"x/a.jpg": "out/a.jpg", "y/b.png": "out/b.png"}
    for inputs in (["x/a.jpg", "y/b.png"], ["x"], ["x/*.jpg"]):
        with pytest.raises(UsageError, match=r"file\.jpg is a file, but these inputs need an output folder"):
            zebra(*inputs, output="file.jpg")


def test_the_format_changes_the_suffix_unless_it_is_of_that_format(tree: Tree) -> None:
    tree("in/a.JPEG", "in/b.png", "in/c.tar.webp", "in/scan.v2")
    assert mapped(zebra("in", format="jpg")) == {
        "in/a.JPEG": "in-zebra/a.JPEG",
        "in/b.png": "in-zebra/b.jpg",
        "in/c.tar.webp": "in-zebra/c.tar.jpg",
    }
    assert mapped(zebra("in/b.png", format="TIFF")) == {"in/b.png": "in/b-zebra.tif"}
    assert mapped(zebra("in/scan.v2", format=".png")) == {"in/scan.v2": "in/scan.v2-zebra.png"}
    with pytest.raises(UsageError, match="contradicts"):
        zebra("in/b.png", output="c.jpg", format="png")
    with pytest.raises(UsageError, match="Unknown picture format 'xcf': use one of jpg, "):
        zebra("in", format="xcf")


def test_formats_by_name() -> None:
    assert [picture_format(name) for name in ("a.JPG", "b/c.d/e", "x.tif", ".png", "a.webp")] == [
        "JPEG",
        None,
        "TIFF",
        None,
        "WEBP",
    ]
    assert [named_format(name) for name in ("jpeg", "PNG", ".tiff", "TIFF", "WEBP")] == [
        "JPEG",
        "PNG",
        "TIFF",
        "TIFF",
        "WEBP",
    ]


# --- patterns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/*.jpg", ["in/a.jpg", "in/b c.jpg"]),
        ("in/?.*", ["in/a.jpg", "in/d.png"]),
        ("in/[b-d]*", ["in/b c.jpg", "in/d.png"]),
        ("in/*/*.jpg", ["in/x/e.jpg"]),
        ("in/**/*.jpg", ["in/a.jpg", "in/b c.jpg", "in/x/e.jpg", "in/x/y/f.jpg"]),
        ("in/**/y/*.jpg", ["in/x/y/f.jpg"]),
        ("**/e.jpg", ["in/x/e.jpg"]),
        ("in/x/**", ["in/x/e.jpg", "in/x/y/f.jpg"]),
        ("i[n]/**/**/f.*", ["in/x/y/f.jpg"]),
        ("in/.h/*", ["in/.h/g.jpg"]),
    ],
)
def test_patterns_match_as_in_a_shell(tree: Tree, pattern: str, expected: list[str]) -> None:
    tree("in/a.jpg", "in/b c.jpg", "in/d.png", "in/n.txt", "in/x/e.jpg", "in/x/y/f.jpg", "in/.h/g.jpg", "in/.i.jpg")
    assert [str(pair.input) for pair in zebra(pattern).pairs()] == expected
    assert [pair.input for pair in zebra(Path(pattern).absolute()).pairs()] == [Path(p).absolute() for p in expected]


def test_the_name_of_a_folder_may_look_like_a_pattern(tree: Tree) -> None:
    tree("[2024] sea/a.jpg", "[2024] sea/[1]/b.jpg", "2/c.jpg")
    assert mapped(zebra("[2024] sea/*.jpg")) == {"[2024] sea/a.jpg": "[2024] sea/a-zebra.jpg"}
    assert [pair.input.name for pair in zebra("[2024] sea/**").pairs()] == ["a.jpg", "b.jpg"]
    assert [pair.input.name for pair in zebra("[2024]/*").pairs()] == ["c.jpg"]
    assert plan_videos(["[2024] sea/*.jpg"], "out", "zebra") == [("[2024] sea/a.jpg", "out/a.mp4")]
    with pytest.raises(UsageError, match="does not exist"):
        zebra("[2024] sea/d.jpg")


def test_where_matches_go(tree: Tree) -> None:
    tree("in/a.jpg", "in/x/a.jpg")
    assert mapped(zebra("in/**/*.jpg")) == {"in/a.jpg": "in/a-zebra.jpg", "in/x/a.jpg": "in/x/a-zebra.jpg"}
    assert mapped(zebra("in/**/*.jpg", output="out")) == {"in/a.jpg": "out/a.jpg", "in/x/a.jpg": "out/x/a.jpg"}


def test_a_pattern_without_a_match(tree: Tree) -> None:
    tree("in/a.jpg")
    for pattern in ("in/*.png", "in/[", "nowhere/*", "in/x*/a.jpg"):
        with pytest.raises(UsageError, match=r"No pictures (in|match)"):
            zebra(pattern)


@pytest.mark.parametrize(
    "inputs", [["in/*"], ["in/a.jpg", "in/a-zebra.jpg", "in/B.JPG", "in/B-zebra.jpg", "in/c-zebra.jpg"]]
)
def test_a_second_run_leaves_out_what_the_first_has_made(tree: Tree, inputs: list[str]) -> None:
    tree("in/a.jpg", "in/a-zebra.jpg", "in/B.JPG", "in/B-zebra.jpg", "in/c-zebra.jpg")
    found = [pair.input.name for pair in zebra(*inputs).pairs()]
    assert sorted(found) == ["B.JPG", "a.jpg", "c-zebra.jpg"]
    assert mapped(zebra("in/a-zebra.jpg")) == {"in/a-zebra.jpg": "in/a-zebra-zebra.jpg"}


# --- collisions ----------------------------------------------------------------------------------------------------


def test_two_inputs_that_would_become_the_same_file(tree: Tree) -> None:
    tree("photos/a.jpg", "photos/a.png", "photos/b.png", "x/photos/b.jpg", "y/photos/b.jpg")
    assert zebra("photos").count == 3
    with pytest.raises(
        UsageError, match=r"photos/a\.jpg and photos/a\.png would both be written to photos-zebra/a\.png"
    ):
        zebra("photos", format="png")
    with pytest.raises(UsageError, match=r"x/photos/b\.jpg and y/photos/b\.jpg would both be written to out/photos/b"):
        zebra("x/photos", "y/photos", output="out")
    with pytest.raises(UsageError, match=r"x/photos/b\.jpg and y/photos/b\.jpg"):
        zebra("x/photos/b.jpg", "y/photos/b.jpg", output="out")


def test_an_output_over_an_input(tree: Tree) -> None:
    tree("photos/a.jpg", "photos/2024/a.jpg")
    plan = zebra("photos/2024/a.jpg", "photos", output="photos")
    problems = {str(pair.input): pair.problem for pair in plan.pairs() if pair.problem}
    assert problems == {"photos/2024/a.jpg": "It would overwrite the input photos/a.jpg. Use another --output."}
    with pytest.raises(UsageError, match=r"photos/a\.jpg would overwrite the input photos/a\.jpg"):
        zebra("photos/a.jpg", output="photos/a.jpg")
    Path("link").symlink_to("photos")
    with pytest.raises(UsageError, match="would overwrite the input"):
        zebra("photos/a.jpg", output="link")


def test_of_two_files_the_second_is_the_output_if_it_is_not_there(tree: Tree) -> None:
    tree("a.jpg", "b.jpg", "in/c.jpg")
    assert mapped(zebra("a.jpg", "out.png")) == {"a.jpg": "out.png"}
    assert mapped(zebra("a.jpg", "new/out.jpg")) == {"a.jpg": "new/out.jpg"}
    assert mapped(zebra("a.jpg", "b.jpg")) == {"a.jpg": "a-zebra.jpg", "b.jpg": "b-zebra.jpg"}
    for inputs in (("a.jpg", "out"), ("in", "out.jpg"), ("nowhere.jpg", "out.jpg"), ("a.jpg", "b.jpg", "out.jpg")):
        with pytest.raises(UsageError, match="does not exist"):
            zebra(*inputs)


def test_the_same_input_twice_is_one(tree: Tree) -> None:
    root = tree("photos/a.jpg")
    assert zebra("photos", "./photos/", root / "photos").count == 1
    assert zebra("photos/a.jpg", "./photos/../photos/a.jpg").count == 1


def test_names_that_differ_in_case_collide_only_where_the_file_system_ignores_it(tree: Tree) -> None:
    root = tree("in/a.jpg", "in/A.png")
    (root / "plain").mkdir()
    assert zebra("in", output="plain", format="png").count == 2
    (root / "alike").mkdir()
    (root / "ALIKE").symlink_to("alike")  # as a file system that ignores case would answer
    with pytest.raises(UsageError, match="would both be written"):
        zebra("in", output="alike", format="png")
    with pytest.raises(UsageError, match="would both be written"):
        zebra("in", output="alike/new/folder", format="png")


# --- large folders -------------------------------------------------------------------------------------------------


# In a process of its own: where torch is loaded, Python's table of names is large enough to be measured when it grows.
MEASURE_PEAK = """
import sys, tracemalloc
from cgpipe.jobs.plan import plan_files
tracemalloc.start()
plan = plan_files([sys.argv[1]], domain="zebra", output=None, format=None, recursive=True)
print(plan.count, tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_the_number_of_files(tree: Tree) -> None:
    root = tree(*(f"shelf/a picture with a long name {number}.jpg" for number in range(100)))

    def peak(folders: int) -> int:
        for number in range(folders):
            (root / f"{folders}/{number}").mkdir(parents=True)
            (root / f"{folders}/{number}/linked").symlink_to(root / "shelf")
        told = subprocess.run([sys.executable, "-c", MEASURE_PEAK, str(folders)], capture_output=True, check=True)
        count, most = told.stdout.split()
        assert int(count) == 100 * folders
        return int(most)

    assert peak(200) - peak(2) < 20_000 * 250  # bytes: the digests and their lists take 90 a file


def test_the_pairs_are_those_that_were_found_however_many(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgpipe.jobs.plan._SPOOL_BYTES", 1000)
    names = [f"in/{'long' * (number % 40)}{number}\n.jpg" for number in range(3000)]
    root = tree(*names)
    plan = zebra("in")
    (root / names[7]).unlink()
    found = list(plan.pairs())
    assert sorted(str(pair.input) for pair in found) == sorted(names)
    assert all(pair.output == Path("in-zebra") / pair.input.name == Path("in-zebra") / pair.place for pair in found)
    assert list(plan.pairs()) == found
    both = plan.pairs()
    assert next(both) == next(plan.pairs()) == found[0]
    assert next(both) == found[1]
