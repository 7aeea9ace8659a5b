from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from otpr.training.compilation import use_compilation_cache


@pytest.fixture(autouse=True)
def cache_as_before() -> Iterator[None]:
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("xdg", [True, False])
def test_programs_are_kept_in_the_users_cache(
    xdg: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if xdg:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    use_compilation_cache()
    folder = tmp_path / "cache" if xdg else tmp_path / "home" / ".cache"
    assert jax.config.jax_compilation_cache_dir == str(folder / "otpr" / "jax")


def test_what_jax_was_told_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/told/otherwise")
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == before
