"""JAX's persistent compilation cache, which saves later runs on a machine the compilation."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Store compiled programs in the user's cache folder, unless JAX is configured otherwise."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is None:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "otpr" / "jax"))
