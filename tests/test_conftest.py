"""A test that needs a GPU must not pass by being skipped where a GPU is promised."""

from __future__ import annotations

import conftest
import pytest
import torch


@pytest.fixture
def gpu_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> pytest.Item:
    """A test marked ``needs_cuda``, on a machine without CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CGPIPE_REQUIRE_CUDA", raising=False)
    item = request.node
    item.add_marker("needs_cuda")
    assert isinstance(item, pytest.Item)
    return item


def test_without_a_gpu_it_is_skipped(gpu_test: pytest.Item) -> None:
    with pytest.raises(pytest.skip.Exception):
        conftest.pytest_runtest_setup(gpu_test)


def test_where_a_gpu_is_promised_it_fails(gpu_test: pytest.Item, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGPIPE_REQUIRE_CUDA", "1")
    with pytest.raises(pytest.fail.Exception, match="finds no CUDA device"):
        conftest.pytest_runtest_setup(gpu_test)


def test_with_a_gpu_it_runs(gpu_test: pytest.Item, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    conftest.pytest_runtest_setup(gpu_test)
