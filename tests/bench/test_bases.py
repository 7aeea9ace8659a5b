from __future__ import annotations

from pathlib import Path

import pytest

from otpr.errors import OtprError
from otpr.storage import read_json, write_json
from otpr_bench.bases import finish_base, load_base
from otpr_bench.suites import Recipe

TASK = "metaworld/reach-v3"
RECIPE = Recipe(width=256, episode_limit=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("demonstrations", "pretrain/policy"):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "some.bin").write_bytes(b"some")
    finish_base(tmp_path, TASK, RECIPE, success=0.3, mean_return=0.3, execute=4)
    return tmp_path


def test_a_base_from_before_a_setting_of_recipes_has_its_default(folder: Path):
    base = load_base(folder, TASK, RECIPE)
    assert base is not None and base.success == 0.3
    stored = read_json(folder / "base.json")
    del stored["recipe"]["width"], stored["recipe"]["episode_limit"]
    write_json(folder / "base.json", stored)
    assert load_base(folder, TASK, RECIPE) == base
    with pytest.raises(OtprError, match=r'made as .*"width": 256.*; .*"width": 512.* is needed'):
        load_base(folder, TASK, Recipe(width=512))


def test_a_base_of_a_setting_that_is_unknown_is_damaged(folder: Path):
    stored = read_json(folder / "base.json")
    stored["recipe"]["depht"] = 3
    write_json(folder / "base.json", stored)
    with pytest.raises(OtprError, match=r"base\.json"):
        load_base(folder, TASK, RECIPE)
