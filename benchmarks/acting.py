"""One decision of the deployed policy, against a Python loop over a jitted network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, get_args

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from benchmarks.subjects import default_agent
from benchmarks.timing import in_turns, medians, ratio
from otpr.diffusion.sampling import Sampler
from otpr.policies.acting import decision_keys
from otpr.policies.encoder import LIMIT, VectorEncoder
from otpr.policies.generators import plan_shape
from otpr.policies.policy import Policy
from otpr.spec import STATE


def act(sizes: Sizes) -> list[Row]:
    """A row for each number of candidates, sampler and number of steps."""
    agent = default_agent(sizes, chunk_length=4, levels=sizes.levels)
    rows: list[Row] = []
    for candidates in sizes.candidates:
        policy = agent.deployed() if candidates > 1 else agent.deployed().single()
        for method in get_args(Sampler):
            for steps in sizes.denoising_steps:
                rows.append(_row(sizes, policy.with_sampler(method, steps), candidates))
    return rows


def act_crowd(sizes: Sizes) -> list[Row]:
    """Many observations at once, as a learner on an accelerator decides for many environments."""
    agent = default_agent(sizes, chunk_length=4, levels=10)
    n = sizes.crowd
    seen = np.random.default_rng(0).normal(size=(n, 1, sizes.observation_dim)).astype(np.float32)
    keys = decision_keys(0, np.arange(n, dtype=np.uint32), np.uint32(0))
    rows: list[Row] = []
    for candidates in sizes.candidates:
        policy = agent.deployed() if candidates > 1 else agent.deployed().single()

        def decide(count: int, policy: Policy = policy) -> Any:
            return policy.act_batch({STATE: seen[:count]}, keys[:count])[0]

        times = in_turns({"one": lambda: decide(1), "all": lambda: decide(n)}, max(sizes.turns, 3))
        each = medians(times)["all"] / n * 1e6
        rows.append(
            Row(
                f"act_{n}_of_{candidates}",
                n * ratio(times["one"], times["all"]),
                "x",
                f"{n:,} decisions one after the other / in one call, {candidates} "
                + ("candidate" if candidates == 1 else "candidates"),
                medians(times),
                note=f"{medians(times)['all'] * 1e3:.3g} ms in one call, {each:.3g} microseconds a decision",
                details={"observations": n, "candidates": candidates},
            )
        )
    return rows


def _row(sizes: Sizes, policy: Policy, candidates: int) -> Row:
    observation = np.random.default_rng(0).normal(size=sizes.observation_dim).astype(np.float32)
    method, steps = policy.diffusion.sampler, policy.diffusion.sampler_steps
    assert steps is not None
    seeds = iter(range(10**9))
    loop = Loop(policy, candidates)
    times = in_turns(
        {
            "loop": lambda: loop(observation, np.random.default_rng(next(seeds))),
            "ours": lambda: policy.act(observation, next(seeds)),
        },
        sizes.acts,
    )
    p50, p99 = (np.quantile(times["ours"], q) * 1e3 for q in (0.5, 0.99))
    return Row(
        f"act_{candidates}_{method}_{steps}",
        ratio(times["loop"], times["ours"]),
        "x",
        f"Python loop over a jitted network / Policy.act, {candidates} "
        + ("candidate" if candidates == 1 else "candidates"),
        medians(times),
        note=f"ours {p50:.2f} ms, 99th percentile {p99:.2f} ms",
        details={"candidates": candidates, "sampler": method, "steps": steps, "p50_ms": p50, "p99_ms": p99},
    )


@eqx.filter_jit
def _predict(network: Any, state: Any, plans: Any, k: Any) -> Float[Array, "n h a"]:
    def of_plan(plan: Array) -> Array:
        return network(state, plan, k)

    return jax.vmap(of_plan)(plans)


@eqx.filter_jit
def _choose(policy: Policy, state: Any, plans: Any, seed: Any) -> Array:
    assert policy.chooser is not None
    return plans[policy.chooser.choose(state, policy.chunks(plans), jax.random.key(seed))[0]]


class Loop:
    """Acting as one writes it first: the network and the choice compiled, the sampler in NumPy between them.

    Args:
        policy: what acts; its sampler and number of steps are taken over.
        candidates: plans among which its chooser chooses; without a chooser, 1.
    """

    def __init__(self, policy: Policy, candidates: int):
        self.policy, self.candidates = policy, candidates
        self.plan_shape = plan_shape(policy.spec)
        assert isinstance(policy.encoder, VectorEncoder)
        normalizer = policy.encoder.normalizers[STATE]
        self.mean, self.scale = np.asarray(normalizer.mean), np.asarray(normalizer.scale)
        steps = policy.diffusion.sampler_steps or policy.diffusion.schedule.steps
        self.levels = np.linspace(policy.diffusion.schedule.steps - 1, 0, steps).round().astype(int)
        self.alpha_bar = np.asarray(policy.diffusion.schedule.alpha_bar)[self.levels]

    def __call__(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The actions to execute, (execute, action_dim)."""
        state = np.clip((observation - self.mean) / self.scale, -LIMIT, LIMIT)
        shape = (self.candidates, *self.plan_shape)
        plans = self.denoise(state, lambda: rng.normal(size=shape).astype(np.float32))
        chosen = plans[0]
        if self.policy.chooser is not None:
            chosen = np.asarray(_choose(self.policy, state, plans, np.uint32(rng.integers(2**31))))
        return chosen[: self.policy.spec.execute]

    def denoise(self, state: np.ndarray, draw: Callable[[], np.ndarray]) -> np.ndarray:
        """The candidates for a normalised observation; `draw` gives standard normal noise of their shape."""
        predict = functools.partial(_predict, self.policy.diffusion.network, state)
        method = self.policy.diffusion.sampler
        plans, previous, last_h = draw(), None, 1.0
        for i, (level, ab) in enumerate(zip(self.levels, self.alpha_bar, strict=True)):
            ab_next = self.alpha_bar[i + 1] if i + 1 < len(self.levels) else np.float32(1.0)
            noise = np.asarray(predict(plans, level))
            clean = np.clip((plans - np.sqrt(1 - ab) * noise) / np.sqrt(ab), -1, 1)
            target = clean
            if method.endswith("dpm++") and ab_next < 1:
                h = (_log_snr(ab_next) - _log_snr(ab)) / 2
                if previous is not None:
                    target = clean + min(h / last_h, 2.0) / 2 * (clean - previous)
                last_h = h
            previous = clean
            noise = (plans - np.sqrt(ab) * target) / np.sqrt(1 - ab)
            fresh = method in ("ddpm", "sde-dpm++")
            variance = (1 - ab_next) / (1 - ab) * (1 - ab / ab_next) if fresh else np.float32(0)
            plans = np.sqrt(ab_next) * target + np.sqrt(np.maximum(1 - ab_next - variance, 0)) * noise
            if fresh and ab_next < 1:
                plans = plans + np.sqrt(variance) * draw()
        return plans


def _log_snr(alpha_bar: np.float32) -> np.float32:
    return np.log(alpha_bar / (1 - alpha_bar))
