"""Make a GIF of a policy before and after fine-tuning, side by side, for the README.

    .venv/bin/python examples/before_after.py runs/quickstart [--out docs/before_after.gif]

The run is one of `otpr quickstart`. Both policies start from the same held-out initial conditions; those in
which the first one fails and the second one succeeds come first.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

import otpr
from otpr.data.seeds import evaluation_seed
from otpr.envs import Setup, make_env

SIZE, EVERY, SECONDS_A_FRAME = 200, 4, 0.08
"""Pixels of a side; which of the steps are shown; how long."""
CONDITIONS, EPISODES = 12, 3
"""Initial conditions that are tried, and how many of them are shown."""


def episode(task: str, policy: Any, seed: int, *, film: bool) -> tuple[bool, list[Image.Image]]:
    """One episode of a policy that sees vectors; its success and, if wanted, its frames."""
    env = make_env(Setup(task), "rgb_array" if film else None)
    frames: list[Image.Image] = []
    try:
        observation, info = env.reset(seed=seed)
        over, step = False, 0
        while not over:
            for action in policy.act(observation, seed=step):
                if film and step % EVERY == 0:
                    frames.append(
                        Image.fromarray(env.render()).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
                    )
                observation, _, terminated, truncated, info = env.step(action)
                step, over = step + 1, terminated or truncated
                if over:
                    break
        return bool(info["success"]), frames
    finally:
        env.close()


def labelled(frame: Image.Image, words: str, colour: str) -> Image.Image:
    """The frame with a line of words in its upper left corner."""
    frame = frame.copy()
    ImageDraw.Draw(frame).text((6, 4), words, fill=colour, stroke_width=2, stroke_fill="white")
    return frame


def main() -> None:
    """Find telling initial conditions, film both policies and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/before_after.gif"))
    given = parser.parse_args()
    from otpr.policies.loading import policy_task

    before, after = otpr.load_policy(given.run / "pretrain"), otpr.load_policy(given.run)
    task = policy_task(given.run)
    assert task, "the run does not name its task"
    outcomes = {
        seed: tuple(episode(task, policy, seed, film=False)[0] for policy in (before, after))
        for seed in map(evaluation_seed, range(CONDITIONS))
    }
    first, second = (sum(outcome[i] for outcome in outcomes.values()) for i in (0, 1))
    print(f"Of {CONDITIONS} conditions {first} succeed before and {second} after.")
    telling = sorted(outcomes, key=lambda seed: outcomes[seed] != (False, True))[:EPISODES]
    shown: list[Image.Image] = []
    for seed in telling:
        films = [episode(task, policy, seed, film=True)[1] for policy in (before, after)]
        for i in range(max(map(len, films))):
            both = Image.new("RGB", (2 * SIZE + 4, SIZE), "white")
            for side, (film, name) in enumerate(zip(films, ("before", "after"), strict=True)):
                done = i >= len(film) and outcomes[seed][side]
                frame = labelled(film[min(i, len(film) - 1)], f"{name}{': done' if done else ''}", "black")
                both.paste(frame, (side * (SIZE + 4), 0))
            shown.append(both)
    palette = shown[0].quantize(96)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in shown]
    duration = int(1000 * SECONDS_A_FRAME)
    frames[0].save(
        given.out, save_all=True, append_images=frames[1:], duration=duration, loop=0, optimize=True
    )
    print(f"{given.out}: {len(frames)} frames of {duration} ms, {given.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
