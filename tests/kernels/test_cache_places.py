"""Compiled kernels where neither the package's folder nor the home can be written, as in a container."""

import os

import numba
import numpy as np
import pytest

from fastvarcon.kernels import numba_cache, private_folder, triton_cache


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No place of numba's own choice, a temporary folder, and what is said."""
    from numba.core import caching

    for name in ("InTreeCacheLocator", "UserWideCacheLocator"):
        locator = getattr(caching, name, None) or getattr(caching, f"_{name}")  # as earlier releases call it
        monkeypatch.setattr(locator, "from_function", classmethod(lambda cls, *_: None))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(private_folder.tempfile, "gettempdir", lambda: str(tmp_path))
    private_folder.private_folder.cache_clear()
    private_folder.say_once.cache_clear()
    yield tmp_path
    private_folder.private_folder.cache_clear()
    private_folder.say_once.cache_clear()


def one_more(x):
    return x + 1


def test_the_temporary_folder_takes_the_place(nowhere, capsys):
    for _ in range(2):
        kernel = numba_cache.cached_njit()(one_more)
        assert kernel(1) == 2 and numba.config.CACHE_DIR == ""
    [folder] = nowhere.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700 and list(folder.rglob("*.nbi"))
    assert numba_cache.cache_place(kernel).startswith(str(folder)) and sum(kernel.stats.cache_hits.values()) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"they are kept in {folder}, set NUMBA_CACHE_DIR" in said


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners")
@pytest.mark.parametrize("what", ["a link", "open to others", "another's", "a file"])
def test_a_folder_that_others_could_fill_is_not_trusted(nowhere, capsys, what, monkeypatch):
    """Machine code is run from it: then every process compiles."""
    folder = nowhere / f"fastvarcon-{os.getuid()}"
    if what == "a link":
        (nowhere / "theirs").mkdir(mode=0o700)
        folder.symlink_to(nowhere / "theirs")
    elif what == "a file":
        folder.touch()
    else:
        folder.mkdir(mode=0o777 if what == "open to others" else 0o700)
        folder.chmod(0o777 if what == "open to others" else 0o700)
        if what == "another's":
            other = os.getuid() + 1
            monkeypatch.setattr(private_folder.os, "getuid", lambda: other)
            folder.rename(nowhere / f"fastvarcon-{other}")
    kernel = numba_cache.cached_njit()(one_more)
    assert kernel(np.int64(1)) == 2 and "every process compiles them again" in capsys.readouterr().err
    assert numba_cache.cache_place(kernel).startswith("nowhere") and not list(nowhere.rglob("*.nbi"))


def test_other_errors_of_numba_are_its_own(nowhere):
    with pytest.raises(KeyError, match="no_such_option"):
        numba_cache.cached_njit(no_such_option=1)(one_more)(1)


@pytest.mark.parametrize("writable", [True, False])
def test_triton_gets_a_place_where_its_own_cannot_be_written(nowhere, monkeypatch, writable):
    home = nowhere / "home"
    home.mkdir()
    monkeypatch.setenv("TRITON_HOME", str(home))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    if not writable:
        (home / ".triton").touch()  # root may write anywhere else
    triton_cache.choose_cache()
    chosen = os.environ.pop("TRITON_CACHE_DIR", None)
    assert (chosen is None) if writable else chosen.endswith("/triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    triton_cache.choose_cache()
    assert os.environ["TRITON_CACHE_DIR"] == "mine"
