"""Set up before any test module is imported: the CPU, checked array shapes, repeatable property tests."""

from __future__ import annotations

import os

# In the environment, so that the environment workers' processes get it too.
os.environ["JAX_PLATFORMS"] = "cpu"

import hypothesis
import jaxtyping

# Every jaxtyping annotation in otpr is checked at each call. Must precede the first import of an otpr module.
jaxtyping.install_import_hook("otpr", "beartype.beartype")

# No deadline: the first example pays for compilation. Derandomised: what fails once fails always.
hypothesis.settings.register_profile("otpr", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("otpr")
