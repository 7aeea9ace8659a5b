"""The first block of updates in a fresh process: with an empty compilation cache, and with the filled one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from benchmarks.rows import Row
from benchmarks.sizes import TINY, Sizes


def compilation_cache(sizes: Sizes) -> list[Row]:
    """Seconds of the first block in the first and in the second of two processes."""
    size = "tiny" if sizes == TINY else "default"
    with tempfile.TemporaryDirectory() as cache:
        empty, filled = (_in_a_process(cache, size) for _ in range(2))
    return [
        Row(
            "compilation_cache",
            empty / filled,
            "x",
            "first block of updates in a fresh process: empty cache / cache of an earlier process",
            {"empty": empty, "filled": filled},
            at_least=1,
            note="one process each",
        )
    ]


def _in_a_process(cache: str, size: str) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": cache, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "")}
    child = [sys.executable, "-m", "benchmarks.compilation", size]
    printed = subprocess.run(child, check=True, stdout=subprocess.PIPE, env=environment).stdout
    return json.loads(printed)


def first_block(sizes: Sizes) -> float:
    """Seconds of the first block in this process, as a run has it."""
    from benchmarks.subjects import batch_keys, default_agent, experience
    from benchmarks.timing import seconds
    from otpr.training.compilation import use_compilation_cache
    from otpr.training.learning import update_block

    use_compilation_cache()
    agent = default_agent(sizes, chunk_length=4, levels=10)
    data = experience(sizes, sizes.growth_replay[0], 4)
    return seconds(lambda: update_block(agent, data, batch_keys(2), True))


if __name__ == "__main__":
    print(json.dumps(first_block(TINY if sys.argv[1] == "tiny" else Sizes())))
