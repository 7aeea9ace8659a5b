"""The machine: its cores, the rate of its matrix products, its memory."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from benchmarks.timing import in_turns, medians

PRODUCTS = 4
"""Matrix products in one timed call."""


def products(n: int) -> Callable[[], Any]:
    """A call that does `PRODUCTS` float32 products of two n x n matrices."""
    matrices = [jax.random.normal(jax.random.key(i), (n, n)) for i in range(PRODUCTS + 1)]
    product = jax.jit(jnp.matmul)
    return lambda: [product(matrices[i], matrices[i + 1]) for i in range(PRODUCTS)]


def product_flops(n: int) -> int:
    """Operations of one call of `products(n)`."""
    return PRODUCTS * 2 * n**3


def matrix_product(sizes: Sizes) -> list[Row]:
    """The machine, and the rate of its matrix products: the yardstick of `matmul_share`."""
    times = in_turns({"products": products(sizes.product)}, max(sizes.turns, 5))
    packages = {package: metadata.version(package) for package in ("otpr", "jax", "equinox", "numpy")}
    return [
        Row(
            "matrix_product",
            product_flops(sizes.product) / min(times["products"]) / 1e9,
            "GFLOP/s",
            f"the machine's best rate of float32 products of {sizes.product} x {sizes.product} matrices",
            medians(times),
            note=f"{describe()}",
            details={"python": platform.python_version(), **packages},
        )
    ]


def describe() -> str:
    """The processor and what JAX computes on."""
    text = f"{os.cpu_count()} cores, {platform.machine()}"
    if (clock := _gigahertz()) is not None:
        text += f" at {clock:.1f} GHz"
    device = jax.devices()[0]
    return f"{text}; JAX on {device.platform if device.platform == 'cpu' else device.device_kind}"


def _gigahertz() -> float | None:
    try:
        found = re.search(r"^cpu MHz\s*: ([\d.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # another system than Linux
        return None
    return None if found is None else float(found[1]) / 1000


def peak_memory() -> int:
    """The most memory this process ever had, in bytes."""
    try:
        # of this program's memory alone; getrusage would start from what its parent had
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
