"""An update against flow Q-learning's, a round against the release's recipe, both against the machine."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from benchmarks.flops import matrix_flops
from benchmarks.fql import FQL, fql_block
from benchmarks.machine import product_flops, products
from benchmarks.release import PairByPair, fit_potentials
from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from benchmarks.subjects import batch_keys, default_agent, experience, learner, replayed
from benchmarks.timing import Times, in_turns, medians, ratio
from otpr.agents.otpr.agent import OTPR
from otpr.agents.otpr.batches import draw_problem, target_measure
from otpr.agents.otpr.compatibility import Compatibility
from otpr.data.experience import Experience
from otpr.ot import Potentials, marginal_errors
from otpr.training.learning import update_block

SIDES = {
    "update_vs_fql": {"updates", "potentials", "fql"},
    "round_vs_release": {"updates", "potentials", "release"},
    "transport_vs_release": {"potentials", "release"},
    "matmul_share": {"updates", "potentials", "product"},
    "matmul_share_update": {"updates", "product"},
}
"""What each row times."""

DEFAULTS = {"round_vs_release", "transport_vs_release"}
"""Rows at the default networks and chunk length, with which the release's recipe would be run; the others
take the large networks of `Sizes`."""


def learning(sizes: Sizes, names: Collection[str]) -> list[Row]:
    """The rows of those names; those with the same networks are timed in the same turns."""
    rows: dict[str, Row] = {}
    for default in (False, True):
        group = [name for name in names if (name in DEFAULTS) == default]
        if group and default:
            agent = default_agent(sizes, sizes.default_chunk, levels=10)
            data = experience(sizes, sizes.replay, sizes.default_chunk)
            rows |= _timed(sizes, group, _all_passes(agent), data)
        elif group:
            agent = learner(sizes, sizes.width, sizes.depth)
            data = experience(sizes, sizes.replay, sizes.chunk_length)
            rows |= _timed(sizes, group, _all_passes(agent), data)
    return [rows[name] for name in names]


def _all_passes(agent: OTPR) -> OTPR:
    """Every round takes as many passes as it may: in runs with the default epsilon nearly every one does."""
    return _with(agent, potentials_tolerance=1e-9)


def _with(agent: OTPR, **settings: Any) -> OTPR:
    """The agent with some settings changed."""
    return dataclasses.replace(agent, config=dataclasses.replace(agent.config, **settings))


def _timed(sizes: Sizes, names: Collection[str], agent: OTPR, data: Experience) -> dict[str, Row]:
    calls = _calls(sizes, agent, data)
    wanted = {side for name in names for side in SIDES[name]}
    times = in_turns({name: call for name, call in calls.items() if name in wanted}, sizes.turns)
    scaled = _scaled(sizes, times)
    passes = _passes(agent, data) if "potentials" in wanted else 1
    flops = {
        "updates": matrix_flops(update_block, agent, data, batch_keys(sizes.block), True)
        * sizes.round_updates
        // sizes.block,
        "potentials": matrix_flops(OTPR.end_round, agent, data, turns=passes),
    }
    make = {
        "update_vs_fql": _update_vs_fql,
        "round_vs_release": _round_vs_release,
        "transport_vs_release": _transport_vs_release,
        "matmul_share": functools.partial(_share, flops, ("updates", "potentials"), "matmul_share"),
        "matmul_share_update": functools.partial(_share, flops, ("updates",), "matmul_share_update"),
    }
    rows = [make[name](sizes, scaled) for name in names]
    return {row.name: _with_passes(row, passes) if "potentials" in SIDES[row.name] else row for row in rows}


def _passes(agent: OTPR, data: Experience) -> int:
    """How often the potentials went over fresh blocks, where they do so until they are good enough."""
    return int(agent.end_round(data)[1]["otpr/passes"])


def _with_passes(row: Row, passes: int) -> Row:
    note = "; ".join(filter(None, [row.note, f"passes of the potentials: {passes}"]))
    return dataclasses.replace(row, note=note, details={**row.details, "passes": passes})


def _calls(sizes: Sizes, agent: OTPR, data: Experience) -> dict[str, Callable[[], Any]]:
    state_dim, chunk_dim = data.store.state_dim, data.store.spec.chunk_dim
    fql = FQL.create(state_dim, chunk_dim, width=sizes.width, depth=sizes.depth, key=jax.random.key(0))
    c = agent.config
    cold = Potentials(
        state_dim, chunk_dim, width=c.potentials_width, depth=c.potentials_depth, key=jax.random.key(0)
    )
    cost = PairByPair.of(agent.compatibility(0.0).cost)
    pairs = replayed(data)
    return {
        "updates": lambda: update_block(agent, data, batch_keys(sizes.block), True),
        "potentials": lambda: agent.end_round(data),
        "fql": lambda: fql_block(fql, data, sizes.block, sizes.batch),
        "release": lambda: fit_potentials(
            cold,
            cost,
            pairs.state,
            pairs.chunk,
            c.epsilon,
            sizes.release_timed,
            sizes.release_batch,
            jax.random.key(1),
        ),
        "product": products(sizes.product),
    }


def _scaled(sizes: Sizes, times: Times) -> Times:
    """Seconds of what a whole round does, from those of what was timed."""
    factors = {
        "updates": sizes.round_updates / sizes.block,
        "potentials": 1.0,
        "fql": sizes.round_updates / sizes.block,
        "release": sizes.release_steps / sizes.release_timed,
        "product": 1.0,
    }
    return {name: [factors[name] * t for t in values] for name, values in times.items()}


def _sum(*parts: list[float]) -> list[float]:
    return [sum(values) for values in zip(*parts, strict=True)]


def _update_vs_fql(sizes: Sizes, times: Times) -> Row:
    n = sizes.round_updates
    return Row(
        "update_vs_fql",
        ratio(_sum(times["updates"], times["potentials"]), times["fql"]),
        "x",
        "an OTPR update, with its share of the potentials / a flow Q-learning update",
        {
            "OTPR update": medians(times)["updates"] / n,
            "share of the potentials": medians(times)["potentials"] / n,
            "FQL update": medians(times)["fql"] / n,
        },
        at_most=1.5,
        note=f"{sizes.block} updates timed; the potentials are fitted once in {n} updates",
    )


def _round_vs_release(sizes: Sizes, times: Times) -> Row:
    return Row(
        "round_vs_release",
        ratio(_sum(times["updates"], times["release"]), _sum(times["updates"], times["potentials"])),
        "x",
        f"{sizes.round_updates} updates and the release's fit of the potentials / a round of ours",
        {name: medians(times)[name] for name in ("updates", "potentials", "release")},
        at_least=20,
        note=f"the same updates on both sides; {_release_note(sizes)}",
    )


def _transport_vs_release(sizes: Sizes, times: Times) -> Row:
    return Row(
        "transport_vs_release",
        ratio(times["release"], times["potentials"]),
        "x",
        "the release's fit of the potentials / ours",
        {name: medians(times)[name] for name in ("release", "potentials")},
        at_least=20,
        note=_release_note(sizes),
    )


def _release_note(sizes: Sizes) -> str:
    return f"{sizes.release_timed} of the release's {sizes.release_steps} steps timed and scaled"


def _share(flops: dict[str, int], sides: tuple[str, ...], name: str, sizes: Sizes, times: Times) -> Row:
    operations = sum(flops[side] for side in sides)
    # seconds that the same operations take as one large product, over the seconds they take here
    best = [operations / product_flops(sizes.product) * t for t in times["product"]]
    spent = _sum(*(times[side] for side in sides))
    about = "the updates and the potentials of a round" if len(sides) == 2 else "a block of updates"
    return Row(
        name,
        ratio(best, spent),
        "of the rate",
        f"rate of operations in {about} / rate of a {sizes.product}³ matrix product",
        {side: medians(times)[side] for side in (*sides, "product")},
        at_least=0.5,
        details={f"GFLOP in {side}": round(flops[side] / 1e9, 3) for side in sides},
    )


def marginal_error(sizes: Sizes) -> list[Row]:
    """What each recipe reaches on pairs it has not seen: one round of ours against the release's."""
    # the release's problem: columns that must be met
    agent = _with(learner(sizes, sizes.error_width, sizes.error_depth), epsilon=0.15, column_relaxation=0.0)
    data = experience(sizes, min(sizes.replay, 20_000), sizes.chunk_length)
    # a critic that means something
    agent, _ = update_block(agent, data, batch_keys(sizes.error_updates), False)
    fitted, _ = agent.end_round(data)
    compatibility = fitted.compatibility(0.0)
    pairs = replayed(data)
    released = fit_potentials(
        agent.transport.potentials,  # as fresh as those that ours started from
        compatibility.cost,  # the same cost, computed the fast way
        pairs.state,
        pairs.chunk,
        agent.config.epsilon,
        sizes.release_steps,
        sizes.release_batch,
        jax.random.key(1),
    )
    ours = _held_out_error(compatibility, agent, data, sizes.error_block)
    theirs = _held_out_error(
        dataclasses.replace(compatibility, potentials=released), agent, data, sizes.error_block
    )
    return [
        Row(
            "marginal_error_vs_release",
            theirs / ours,
            "x",
            "held-out marginal error of the release's potentials / of ours, after one round each",
            at_least=1,
            note=f"release {theirs:.2f}, ours {ours:.3f}, both from the same fresh potentials and on "
            f"the same {sizes.error_block} x {sizes.error_block} held-out pairs; "
            f"networks {sizes.error_depth} x {sizes.error_width}; epsilon 0.15, exact columns",
            details={"release": theirs, "ours": ours},
        )
    ]


def _held_out_error(compatibility: Compatibility, agent: OTPR, data: Experience, n: int) -> float:
    problem = draw_problem(data, target_measure(data, agent.config), agent, jax.random.key(9), n)

    @eqx.filter_jit
    def errors(compatibility: Compatibility):
        return jnp.stack(marginal_errors(compatibility.pairwise(*problem)))

    return float(jnp.mean(errors(compatibility)))
