"""``cgpipe models push``: a model in the form of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_networks import junyanz_resnet, randomise
from shell import invoke

from cgpipe.models import find_model, load_any
from cgpipe.models.hub import hub_card


def test_a_shipped_model_and_its_card(tmp_path: Path) -> None:
    result = invoke("models", "push", "zebra", tmp_path / "hub")
    assert result.exit_code == 0
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {"README.md", "horse2zebra.safetensors"}
    assert (tmp_path / "hub" / "horse2zebra.safetensors").read_bytes() == find_model("zebra").path.read_bytes()
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert card.startswith('---\nlibrary_name: cgpipe\nlicense: "apache-2.0"\n')
    assert "--model hf://OWNER/NAME/horse2zebra.safetensors --to zebra" in card
    assert invoke("models", "push", "zebra", tmp_path / "hub").exit_code == 0  # its own files may be replaced


def test_the_hub_reads_the_card(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    invoke("models", "push", "monet", tmp_path)
    data = hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.license, data.pipeline_tag) == ("cgpipe", "apache-2.0", "image-to-image")
    assert {"photo", "monet"} < set(data.tags)


def test_a_checkpoint_of_another_project_becomes_a_model_of_ours(tmp_path: Path) -> None:
    torch.save(randomise(junyanz_resnet(blocks=1, ngf=4)).state_dict(), tmp_path / "net_G.pth")
    result = invoke("models", "push", tmp_path / "net_G.pth", tmp_path / "hub")
    assert result.exit_code == 0
    model = load_any(tmp_path / "hub" / "net_G.safetensors")
    assert 'license: "other"\nlicense_name: "unknown"' in (tmp_path / "hub" / "README.md").read_text()
    assert model.card.architecture == "resnet"


def test_what_cgpipe_did_not_make_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("My own words")
    result = invoke("models", "push", "zebra", tmp_path)
    assert result.exit_code == 1
    assert "README.md was not made by cgpipe: name another folder, or use --overwrite." in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert invoke("models", "push", "zebra", tmp_path, "--overwrite").exit_code == 0


def test_a_card_escapes_what_a_header_says(make_model: Callable[..., Any]) -> None:
    card = make_model(notes="<b>| a", licence='ev"il: x').card
    text = hub_card(card, "x.safetensors")
    assert 'license_name: "ev\\"il: x"' in text
    assert "a test" in text
