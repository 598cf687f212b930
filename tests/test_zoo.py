"""Which model answers to --to, --from and --model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference_networks import junyanz_resnet, randomise

from cgpipe.errors import ModelError, ModelNotFoundError, UsageError
from cgpipe.models import (
    find_model,
    import_model,
    list_models,
    load_any,
    read_card,
    save_model,
    set_default,
    user_models_folder,
    zoo,
)

FileModel = Callable[..., Path]


@pytest.fixture
def mine(models_folder: Path) -> Path:
    return models_folder


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: Path, file_model: FileModel) -> Path:
    """Stands for the folder that ships with cgpipe."""
    folder = tmp_path / "shipped"
    for source, target in [("horse", "zebra"), ("zebra", "horse"), ("photo", "monet"), ("monet", "photo")]:
        file_model(folder, source, target)
    monkeypatch.setattr(zoo, "SHIPPED_FOLDER", folder)
    return folder


def test_target_alone_finds_the_shipped_model(shipped: Path) -> None:
    found = find_model("zebra")
    assert found.path == Path(os.fspath(found)) == shipped / "horse2zebra.safetensors"
    assert found.card == read_card(found.path)
    assert str(found) == "horse2zebra: horse to zebra (shipped with cgpipe)"


@pytest.mark.parametrize(("to", "name"), [("monet", "photo2monet"), ("photo", "monet2photo"), ("zebra", "horse2zebra")])
def test_generic_domain_neither_needs_nor_causes_a_from(to: str, name: str) -> None:
    assert find_model(to).entry.name == name


def test_own_model_goes_before_a_shipped_one_of_its_pair_and_says_so(mine: Path, file_model: FileModel) -> None:
    path = file_model(mine, "horse", "zebra", name="mine")
    found = find_model("zebra")
    assert found.path == path
    assert str(found) == "mine: horse to zebra (your own, in place of the shipped one)"
    assert [entry.name for entry in list_models() if entry.shadowed] == ["horse2zebra"]


def test_own_model_of_another_pair_goes_first_and_from_reaches_the_shipped_one(
    mine: Path, shipped: Path, file_model: FileModel
) -> None:
    path = file_model(mine, "cow", "zebra")
    assert find_model("zebra").path == path
    assert find_model("zebra").in_place_of is None
    assert find_model("zebra", source="horse").path == shipped / "horse2zebra.safetensors"


def test_several_sources_in_one_place_need_from(mine: Path, file_model: FileModel) -> None:
    file_model(mine, "cow", "zebra")
    file_model(mine, "donkey", "zebra")
    with pytest.raises(ModelNotFoundError, match=r"(?s)--from.*cow to zebra.*donkey to zebra") as raised:
        find_model("zebra")
    assert "horse" not in str(raised.value)
    assert find_model("zebra", source="donkey").entry.name == "donkey2zebra"


def test_of_several_sources_the_one_for_any_photo_is_taken(mine: Path, file_model: FileModel) -> None:
    for source in ("drawing", "photo", "sketch"):
        file_model(mine, source, "monet")
    assert find_model("monet").entry.name == "photo2monet"
    assert find_model("monet", source="sketch").entry.name == "sketch2monet"


def test_from_is_met_by_the_model_for_any_photo_where_there_is_no_closer_one() -> None:
    assert find_model("monet", source="horse").entry.name == "photo2monet"
    with pytest.raises(ModelNotFoundError, match="No model translates from monet to zebra"):
        find_model("zebra", source="monet")


def test_of_several_for_one_pair_the_plain_name_wins_and_else_a_name_is_needed(
    shipped: Path, file_model: FileModel
) -> None:
    file_model(shipped, "horse", "zebra", name="horse2zebra-fast")
    file_model(shipped, "horse", "zebra", name="horse2zebra-large")
    assert find_model("zebra").entry.name == "horse2zebra"
    assert find_model(file="horse2zebra-fast").entry.name == "horse2zebra-fast"
    (shipped / "horse2zebra.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"(?s)--model NAME.*horse2zebra-fast.*horse2zebra-large"):
        find_model("zebra")


def test_from_alone_is_enough_where_one_model_starts_there(mine: Path, file_model: FileModel) -> None:
    assert find_model(source="horse").entry.name == "horse2zebra"
    file_model(mine, "horse", "cow")
    file_model(mine, "horse", "donkey")
    with pytest.raises(ModelNotFoundError, match=r"(?s)from horse.*--to DOMAIN.*horse to cow.*horse to donkey"):
        find_model(source="horse")


@pytest.mark.parametrize(("asked", "meant"), [("zerba", "zebra"), ("Zebra", "zebra"), ("monets", "monet")])
def test_unknown_target_lists_what_there_is_and_the_nearest_spelling(asked: str, meant: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"to {asked}. Did you mean {meant}") as raised:
        find_model(asked)
    for pair in ("horse to zebra", "zebra to horse", "photo to monet", "monet to photo"):
        assert pair in str(raised.value)


def test_target_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(ModelNotFoundError) as raised:
        find_model("qwx")
    assert "Did you mean" not in str(raised.value)


def test_file_goes_before_everything(tmp_path: Path, mine: Path, file_model: FileModel) -> None:
    file_model(mine, "horse", "zebra")
    path = file_model(tmp_path, "horse", "zebra", name="named")
    found = find_model("zebra", file=path)
    assert found.path == path
    assert found.entry.place == "file"


@pytest.mark.parametrize("asked", [{"to": "horse"}, {"source": "cow"}])
def test_domains_that_contradict_the_file_are_a_mistake(
    tmp_path: Path, file_model: FileModel, asked: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match="translates horse to zebra, not"):
        find_model(file=file_model(tmp_path), **asked)


def test_model_for_any_photo_takes_any_source(shipped: Path) -> None:
    path = shipped / "photo2monet.safetensors"
    assert find_model(file=path, source="horse").path == path


def test_neither_file_nor_name_is_an_error_with_the_nearest_name(mine: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"named zebra\. Models to zebra: .*horse2zebra"):
        find_model(file="zebra")
    with pytest.raises(ModelNotFoundError, match=r"named horse2zebr\. Did you mean horse2zebra"):
        find_model(file="horse2zebr")


def test_without_anything_the_default_is_the_shipped_horse_to_zebra(mine: Path, file_model: FileModel) -> None:
    file_model(mine, "horse", "zebra")
    found = find_model()
    assert found.by_default
    assert str(found) == "horse2zebra: horse to zebra (shipped with cgpipe, the default)"


def test_default_is_set_by_name_and_kept(mine: Path) -> None:
    set_default("photo2monet")
    assert find_model().entry.name == "photo2monet"
    assert find_model("zebra").entry.name == "horse2zebra"
    set_default(None)
    assert find_model().entry.name == "horse2zebra"


def test_default_is_set_by_file_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_model: FileModel
) -> None:
    path = file_model(tmp_path, "cow", "donkey")
    monkeypatch.chdir(tmp_path)
    set_default("cow2donkey.safetensors")
    monkeypatch.chdir("/")
    assert find_model().path == path


def test_default_that_is_gone_says_how_to_set_another(tmp_path: Path, file_model: FileModel) -> None:
    path = file_model(tmp_path, "cow", "donkey")
    set_default(path)
    path.unlink()
    with pytest.raises(ModelError, match=r"default model cannot be used.*cgpipe models default --reset"):
        find_model()


def test_unknown_default_is_refused_and_the_old_one_stays() -> None:
    set_default("photo2monet")
    with pytest.raises(ModelNotFoundError):
        set_default("nonsense")
    assert find_model().entry.name == "photo2monet"


def test_damaged_file_is_listed_and_does_not_hide_the_others(mine: Path, file_model: FileModel) -> None:
    broken = file_model(mine, "horse", "zebra")
    broken.write_bytes(broken.read_bytes()[:-10])
    (mine / "notes.safetensors").write_text("not a model")
    file_model(mine, "cow", "donkey")
    found = find_model("zebra")
    assert found.entry.place == "shipped"
    assert [str(mine / "horse2zebra.safetensors") in warning for warning in found.warnings] == [True, False]
    problems = {entry.name: entry.problem for entry in list_models() if entry.place == "user"}
    assert problems["cow2donkey"] is None
    assert "is damaged" in (problems["horse2zebra"] or "")
    with pytest.raises(ModelError, match="is damaged"):
        find_model(file="horse2zebra")


def test_partial_and_other_files_are_not_models(mine: Path, file_model: FileModel) -> None:
    file_model(mine, "horse", "zebra").rename(mine / ".horse2zebra.77.partial.safetensors")
    (mine / "readme.txt").write_text("hello")
    assert [entry for entry in list_models() if entry.place == "user"] == []


def test_folder_comes_from_the_variable_or_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGPIPE_MODELS", "~/zoo")
    assert user_models_folder() == Path.home() / "zoo"
    monkeypatch.setenv("CGPIPE_MODELS", "")
    assert user_models_folder().parts[-2:] == ("cgpipe", "models")


def test_missing_folder_is_an_empty_one(mine: Path) -> None:
    mine.rmdir()
    assert find_model("zebra").entry.place == "shipped"


def save_foreign(path: Path, *, half: bool = False) -> None:
    """A small ResNet-6 as pytorch-CycleGAN-and-pix2pix saves one."""
    weights = randomise(junyanz_resnet(ngf=4, blocks=6)).state_dict()
    torch.save({name: value.half() if half else value for name, value in weights.items()}, path)


def test_foreign_file_is_used_directly_with_the_domains_that_were_given(tmp_path: Path) -> None:
    save_foreign(tmp_path / "latest_net_G_A.pth")
    found = find_model(file=tmp_path / "latest_net_G_A.pth", to="zebra")
    assert found.card is None
    card = load_any(found, target="zebra").card
    assert (card.source, card.target, card.training_size, card.working_scales) == ("unknown", "zebra", None, None)
    assert card.made_by["file"] == "latest_net_G_A.pth"


def test_import_makes_a_foreign_file_answer_to_its_target(tmp_path: Path, mine: Path) -> None:
    save_foreign(tmp_path / "latest_net_G_A.pth")
    entry = import_model(tmp_path / "latest_net_G_A.pth", source="apple", target="orange")
    assert find_model("orange").path == entry.path == mine / "apple2orange.safetensors"
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        expected = load_any(tmp_path / "latest_net_G_A.pth").generator(picture)
        torch.testing.assert_close(load_any(entry.path).generator(picture), expected, rtol=0, atol=0)


def test_import_keeps_half_precision_weights_small(tmp_path: Path, mine: Path) -> None:
    save_foreign(tmp_path / "half.pth", half=True)
    save_foreign(tmp_path / "single.pth")
    half = import_model(tmp_path / "half.pth", source="apple", target="orange", name="half").path.stat().st_size
    single = import_model(tmp_path / "single.pth", source="apple", target="orange", name="single").path.stat().st_size
    assert half < 0.7 * single


def test_import_of_our_own_file_may_rename_its_domains(tmp_path: Path, mine: Path, file_model: FileModel) -> None:
    path = file_model(tmp_path, "horse", "zebra")
    assert import_model(path).card == read_card(path)
    entry = import_model(path, source="pony", target="zebra")
    assert entry.path == mine / "pony2zebra.safetensors"
    assert read_card(entry.path).pair == "pony to zebra"


def test_import_needs_both_domains_for_a_foreign_file(tmp_path: Path) -> None:
    save_foreign(tmp_path / "latest_net_G_A.pth")
    with pytest.raises(UsageError, match="--from and --to"):
        import_model(tmp_path / "latest_net_G_A.pth", target="orange")


def test_import_replaces_only_when_told_to(tmp_path: Path, mine: Path, file_model: FileModel) -> None:
    path = file_model(tmp_path, licence="CC0-1.0")
    old = file_model(mine)
    with pytest.raises(UsageError, match="--overwrite"):
        import_model(path)
    assert read_card(old).licence == "Apache-2.0"
    import_model(path, overwrite=True)
    assert read_card(old).licence == "CC0-1.0"


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden", ""])
def test_import_files_only_in_the_folder(tmp_path: Path, mine: Path, file_model: FileModel, name: str) -> None:
    path = file_model(tmp_path)
    if not name:
        assert import_model(path, name=name).path.parent == mine
        return
    with pytest.raises(UsageError, match="not a valid name"):
        import_model(path, name=name)


def test_our_file_is_known_by_content_not_by_name(tmp_path: Path, make_model: Callable[..., object]) -> None:
    path = tmp_path / "weights.pth"
    save_model(path, make_model("horse", "zebra"))  # type: ignore[arg-type]
    assert find_model(file=path).card == read_card(path)
    assert load_any(path).card.pair == "horse to zebra"


def test_default_is_a_model_or_is_refused(tmp_path: Path) -> None:
    set_default("photo2monet")
    (tmp_path / "notes.txt").write_text("a shopping list")
    with pytest.raises(ModelError, match=r"notes\.txt"):
        set_default(tmp_path / "notes.txt")
    assert find_model().entry.name == "photo2monet"
