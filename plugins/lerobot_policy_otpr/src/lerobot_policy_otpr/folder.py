"""Write the folder that LeRobot loads: `python -m lerobot_policy_otpr.folder POLICY --out FOLDER`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from lerobot.configs.types import FeatureType, PolicyFeature

from lerobot_policy_otpr.configuration_otpr import OtprConfig
from lerobot_policy_otpr.processor_otpr import make_otpr_pre_post_processors
from otpr.policies import files
from otpr.policies.loading import load_policy

STATE, WORLD = "observation.state", "observation.environment_state"


def write_folder(
    policy: Path,
    out: Path,
    *,
    state_length: int | None = None,
    image_keys: Mapping[str, str] | None = None,
    seed: int = 0,
) -> None:
    """Copy a policy of otpr into a new folder, with the configuration and the processors of LeRobot.

    Args:
        policy: the policy's folder, or that of its run.
        out: the new folder.
        state_length: how many numbers of the vector are `observation.state`, the rest being
            `observation.environment_state`; None: all.
        image_keys: LeRobot's names of the images, by otpr's; those left out are `observation.images.NAME`.
        seed: of the draws.

    Raises:
        otpr.errors.OtprError: there is no policy, or it is damaged.
        ValueError: the policy sees several vectors, or the length is out of its range.
        FileExistsError: there is something at `out`.
    """
    spec = load_policy(policy).spec
    if len(spec.vectors) > 1:
        raise ValueError(f"The policy sees the vectors {', '.join(spec.vectors)}; LeRobot has one for them.")
    features: dict[str, PolicyFeature] = {}
    for entry in spec.vectors.values():
        size = entry.shape[0]
        length = size if state_length is None else state_length
        if not 1 <= length <= size:
            raise ValueError(f"state_length must lie in 1..{size}, given {length}.")
        features[STATE] = PolicyFeature(FeatureType.STATE, (length,))
        if length < size:
            features[WORLD] = PolicyFeature(FeatureType.ENV, (size - length,))
    states = list(features)
    images = {name: (image_keys or {}).get(name, f"observation.images.{name}") for name in spec.images}
    for name, key in images.items():
        height, width, channels = spec.images[name].shape
        features[key] = PolicyFeature(FeatureType.VISUAL, (channels, height, width))
    config = OtprConfig(
        n_obs_steps=spec.history,
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (spec.action_dim,))},
        push_to_hub=False,
        state_keys=states,
        image_keys=images,
        seed=seed,
    )
    out.mkdir(parents=True)
    shutil.copytree(files.folder(policy), out / config.otpr_path)
    config.save_pretrained(out)
    for pipeline in make_otpr_pre_post_processors(config):
        pipeline.save_pretrained(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="lerobot_policy_otpr.folder", description=__doc__)
    parser.add_argument("policy", type=Path, help="folder of the policy, or of the run that made it")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--state-length", type=int, help="numbers of the vector that are observation.state")
    parser.add_argument("--image-key", action="append", default=[], metavar="NAME=KEY", help="of an image")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    given = parser.parse_args(arguments)
    keys = dict(pair.split("=", 1) for pair in given.image_key)
    write_folder(given.policy, given.out, state_length=given.state_length, image_keys=keys, seed=given.seed)
    print(f"Written: {given.out}. Now: lerobot-eval --policy.path={given.out} --env.type=...")


if __name__ == "__main__":
    main()
