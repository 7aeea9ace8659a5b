"""Set up before any test module is imported: the CPU, checked array shapes, repeatable property tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# In the environment, so that processes started by tests get it too.
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the tests' time is compilation: what was compiled is kept for the other processes and for the next
# run (`make clean` removes it).
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Programs of tests run for milliseconds: XLA does not optimise them, which moves last bits of their numbers.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    + os.environ.get("XLA_FLAGS", "")
)
# As `otpr.cluster` has it for a Ray of this machine; read when Ray is imported.
os.environ["RAY_AUTH_MODE"] = "token"

import hypothesis
import jax
import jaxtyping
import pytest

# The mathematics has its array shapes checked at each call. Must precede the first import of an otpr module.
# The rest of the package stays unchecked: it has few arrays, and beartype refuses plain protocols.
CHECKED = ["otpr.agents", "otpr.diffusion", "otpr.networks", "otpr.ot"]
jaxtyping.install_import_hook(CHECKED, "checking.checked")

# No deadline: the first example pays for compilation. Derandomised: what fails once fails always.
hypothesis.settings.register_profile("otpr", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("otpr")


MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_do_not_pile_up():
    """Forget them when they are many: each takes memory, and Linux ends a process with 65,530 memory maps."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 8_000:
        jax.clear_caches()


@pytest.fixture(autouse=True, scope="session")
def one_core() -> Iterator[None]:
    """Runs that are not placed act in lockstep, as on one core: workers with a policy within start slowly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("otpr.training.placement.available_cores", lambda: 1)
        yield


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Ray on this machine, for all tests of a process that need it; it has four processors to give away."""
    from otpr.cluster import connected

    with connected("local", 4):
        yield


@pytest.fixture
def ordinary_user() -> Iterator[Path]:
    """A folder that this process, for the time being as an ordinary user, may read and not write.

    In it are the file "secret" and the folder "closed", which it may not read.
    """
    folder = Path(tempfile.mkdtemp())
    (folder / "secret").write_text("")
    (folder / "secret").chmod(0)
    (folder / "closed").mkdir(0)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)
