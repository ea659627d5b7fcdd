"""Fixtures and the guards that hold for every test."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # before anything imports matplotlib; no test opens a window

import pytest
import torch


def pytest_configure() -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:  # each worker has its share of the cores
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="PyTorch finds no CUDA device here")
    for item in items:
        if item.get_closest_marker("cuda"):  # keywords hold the names of folders, too
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def clean_process() -> Iterator[None]:
    """Fails the test that leaves a functorch level alive or the default dtype changed: the next one would suffer."""
    yield
    level = torch._C._functorch.peek_interpreter_stack()
    assert level is None, f"the test left a live functorch level behind: {level.key()}"
    assert torch.get_default_dtype() == torch.float32, "the test left the default dtype changed"
    assert torch.is_grad_enabled(), "the test left gradients switched off"


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return Path(__file__).resolve().parent.parent
