"""Its place makes what tests share, such as `oracles`, importable by name."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write what the golden tests see into their files")


@pytest.fixture
def update_golden(request) -> bool:
    return request.config.getoption("--update-golden")


@pytest.fixture(params=["torch", "c"])
def backend(request, monkeypatch) -> str:
    """The backend of every `contracts.Call` of a test; `c` is what recc takes by itself where it serves."""
    import contracts

    monkeypatch.setattr(contracts.Call, "backend", "torch" if request.param == "torch" else None)
    return request.param


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """The tensors of tests are small, and several tests run at a time: more threads would only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own, and the spec of the tests of tuning as `small.rec` in an empty folder."""
    from tuned_spec import TEXT

    from recc.runtime import api

    monkeypatch.setenv("RECC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.rec").write_text(TEXT)
    api._compiled.cache_clear()
    yield
    api._compiled.cache_clear()
