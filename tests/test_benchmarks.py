"""The benchmarks measure what they say: fair baselines, right counts, a file of its form. No times."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as bench
from benchmarks import fql, growth, learner, naive, release, unet
from benchmarks.acting import Loop
from benchmarks.rollout import chunks_of
from benchmarks.rows import Row, markdown, read_json, table, write_json, write_page
from benchmarks.sizes import TINY
from benchmarks.subjects import GAMMA, default_agent, experience, replayed
from benchmarks.timing import in_turns, ratio
from otpr.data.episodes import Episode
from otpr.networks.critics import QEnsemble
from otpr.ot import marginal_errors

ROOT = Path(__file__).resolve().parents[1]


def mlp(network: eqx.nn.MLP, x: np.ndarray, activation) -> np.ndarray:
    """The network in float64 NumPy, on rows."""
    for layer in network.layers[:-1]:
        x = activation(x @ np.asarray(layer.weight, float).T + np.asarray(layer.bias))
    last = network.layers[-1]
    return x @ np.asarray(last.weight, float).T + np.asarray(last.bias)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def q_values(critic: QEnsemble, states, actions) -> np.ndarray:
    """(members, n) of an ordinary MLP with layer normalisation on [s, a], in float64 NumPy."""
    values = []
    for i in range(critic.size):
        m = jax.tree.map(
            lambda leaf, i=i: np.asarray(leaf, float)[i] if eqx.is_array(leaf) else leaf, critic.members
        )
        x = np.asarray(states, float) @ m.state_layer.weight.T + m.state_layer.bias
        x = x + np.asarray(actions, float) @ m.action_layer.weight.T
        for norm, layer in zip(m.norms, (*m.hidden, m.out), strict=True):
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + norm.eps)
            x = np.maximum(x * norm.weight + norm.bias, 0) @ layer.weight.T + layer.bias
        values.append(x[:, 0])
    return np.array(values)


def critic_and_points() -> tuple[QEnsemble, jax.Array, jax.Array]:
    critic = QEnsemble(3, 4, size=2, width=8, depth=2, key=jax.random.key(0))
    # norms that do something of their own
    critic = eqx.tree_at(
        lambda q: q.members.norms[0].weight, critic, jax.random.normal(jax.random.key(1), (2, 8))
    )
    states, actions = (
        jax.random.normal(jax.random.key(2), (5, 3)),
        jax.random.normal(jax.random.key(3), (6, 4)),
    )
    return critic, states, actions


class TestNaiveCost:
    def test_it_is_the_critic_on_every_pair(self):
        critic, states, actions = critic_and_points()
        plain = naive.NaiveEnsemble.of(critic).pairwise_minimum(states, actions)
        expected = [[q_values(critic, s[None], a[None]).min() for a in actions] for s in states]
        np.testing.assert_allclose(plain, expected, atol=1e-4)
        np.testing.assert_allclose(critic.pairwise_minimum(states, actions), expected, atol=1e-4)


@pytest.mark.long
class TestFQL:
    def subject(self) -> tuple[fql.FQL, object]:
        learner = fql.FQL.create(39, 8, width=16, depth=1, key=jax.random.key(0))
        # so that critic and target critic are not the same
        learner = eqx.tree_at(
            lambda f: f.target_critic,
            learner,
            QEnsemble(39, 8, size=2, width=16, depth=1, key=jax.random.key(7)),
        )
        batch = replayed(experience(TINY, 32, 2))._replace(discount=jnp.linspace(0, 0.9, 32))
        return learner, batch

    def test_losses_by_the_papers_formulas(self):
        learner, batch = self.subject()
        _, critic_key, actor_key = jax.random.split(learner.key, 3)
        start_key, time_key, noise_key = jax.random.split(actor_key, 3)
        _, losses = eqx.filter_jit(fql.FQL.update)(learner, batch)
        s, a, s2, r, d = (
            np.asarray(x, float)
            for x in (batch.state, batch.chunk, batch.next_state, batch.reward, batch.discount)
        )

        noise = np.asarray(jax.random.normal(critic_key, a.shape))
        next_a = np.clip(mlp(learner.policies.one_step, np.hstack([s2, noise]), silu), -1, 1)
        target = r + d * q_values(learner.target_critic, s2, next_a).mean(0)
        assert float(losses["critic"]) == pytest.approx(
            ((q_values(learner.critic, s, a) - target) ** 2).mean(), rel=1e-4
        )

        x0, t = (
            np.asarray(jax.random.normal(start_key, a.shape)),
            np.asarray(jax.random.uniform(time_key, (32,))),
        )
        at_t = (1 - t[:, None]) * x0 + t[:, None] * a
        velocity = mlp(learner.policies.flow, np.hstack([s, at_t, t[:, None]]), silu)
        assert float(losses["imitation"]) == pytest.approx(((velocity - (a - x0)) ** 2).mean(), rel=1e-4)

        noise = np.asarray(jax.random.normal(noise_key, a.shape))
        x = noise.astype(float)
        for i in range(10):
            x = x + 0.1 * mlp(learner.policies.flow, np.hstack([s, x, np.full((32, 1), i / 10)]), silu)
        made = mlp(learner.policies.one_step, np.hstack([s, noise]), silu)
        assert float(losses["distillation"]) == pytest.approx(
            ((made - np.clip(x, -1, 1)) ** 2).mean(), rel=1e-4
        )
        assert float(losses["q"]) == pytest.approx(
            q_values(learner.critic, s, np.clip(made, -1, 1)).mean(), abs=1e-4
        )

    def test_it_learns_all_it_is_to_learn(self, monkeypatch):
        monkeypatch.setattr(fql, "ALPHA", 0.1)  # so that Q is not drowned by imitation within the test
        learner, _ = self.subject()
        data = experience(TINY, 300, 2)
        _, first = fql.fql_block(learner, data, 100, 32)
        after, _ = fql.fql_block(learner, data, 1000, 32)
        _, last = fql.fql_block(after, data, 100, 32)
        assert float(last["critic"]) < 0.7 * float(first["critic"])
        assert float(last["imitation"]) < 0.9 * float(first["imitation"])
        pairs = replayed(data)
        of_the_data = float(jnp.mean(after.critic(pairs.state, pairs.chunk)))
        assert float(last["q"]) > of_the_data + 0.3


@pytest.mark.long
@pytest.mark.parametrize(("n", "chunk_length"), [(30, 1), (32, 4)])
def test_subjects_learn_from_transitions_without_a_future(n: int, chunk_length: int):
    data = experience(TINY, n, chunk_length)
    pairs = replayed(data)
    assert pairs.state.shape == (n, 39)
    assert pairs.chunk.shape == (n, 4 * chunk_length)
    np.testing.assert_array_equal(pairs.discount, 0)
    np.testing.assert_allclose(pairs.reward, pairs.return_to_go, rtol=1e-6)
    last = np.asarray(pairs.reward)[chunk_length - 1 :: chunk_length]
    np.testing.assert_allclose(
        np.asarray(pairs.reward)[::chunk_length], last * GAMMA ** (chunk_length - 1), rtol=1e-5
    )
    # all that the agent did is the target measure, and nothing of it is demonstrated
    assert not set(np.asarray(data.replay.rows)) & set(np.asarray(data.demonstrations.rows))
    assert np.asarray(data.store.success & data.store.starts())[np.asarray(data.replay.rows)].all()


@pytest.mark.long
class TestRelease:
    def test_its_cost_is_ours(self):
        agent = default_agent(TINY, 2, 4)
        cost = agent.compatibility(0.0).cost
        cost = eqx.tree_at(lambda c: c.scale, cost, jnp.asarray(0.7))
        data = replayed(experience(TINY, 6, 2))
        states, actions = data.state[:5], data.chunk
        plain = release.PairByPair.of(cost).pairwise(states, actions)
        value = mlp(cost.value, np.asarray(states, float), lambda x: np.maximum(x, 0)).reshape(5, 1)
        q = [[q_values(cost.critic, s[None], a[None]).min() for a in actions] for s in states]
        np.testing.assert_allclose(plain, (value - q) / 0.7, atol=1e-4)

    def test_with_larger_steps_it_solves_the_transport(self, monkeypatch):
        agent = default_agent(TINY, 2, 4)
        data = replayed(experience(TINY, 16, 2))
        cost, epsilon = agent.compatibility(0.0).cost, 0.15

        def error(steps: int) -> float:
            fitted = release.fit_potentials(
                agent.transport.potentials,
                cost,
                data.state,
                data.chunk,
                epsilon,
                steps,
                16,
                jax.random.key(0),
            )
            excess = (
                fitted.u(data.state)[:, None] + fitted.v(data.chunk) - cost.pairwise(data.state, data.chunk)
            )
            return float(sum(marginal_errors(jnp.maximum(excess, 0) / (2 * epsilon)))) / 2

        before = error(0)
        monkeypatch.setattr(release, "LEARNING_RATE", 3e-3)
        assert error(400) < 0.2 < 0.5 < before


@pytest.mark.long
@pytest.mark.parametrize("method", ["ddpm", "ddim", "dpm++", "sde-dpm++"])
def test_the_loop_acts_as_the_policy(method):
    policy = default_agent(TINY, 2, 5).deployed().with_sampler(method, 4)
    # mild noise, or an untrained network's estimates are all clipped and samplers hardly differ
    mild = jnp.asarray([0.95, 0.9, 0.8, 0.7, 0.5])
    policy = eqx.tree_at(lambda p: p.diffusion.schedule.alpha_bar, policy, mild)
    state, shape = np.linspace(-1, 1, 39, dtype=np.float32), (3, 2, 4)
    start_key, key = jax.random.split(jax.random.key(3))
    noises = [jax.random.normal(start_key, shape)]
    for _ in range(4):
        key, noise_key = jax.random.split(key)
        noises.append(jax.random.normal(noise_key, shape))
    drawn = iter(noises)
    plans = Loop(policy, 3).denoise(state, lambda: np.asarray(next(drawn)))
    seen = {"state": state[None, None]}  # of a normaliser that changes nothing
    np.testing.assert_allclose(plans, policy.propose(seen, jax.random.key(3)[None], 3)[0], atol=2e-5)
    assert Loop(policy, 3)(state, np.random.default_rng(0)).shape == (2, 4)


def test_turns_alternate_and_ratios_are_medians():
    order: list[str] = []
    times = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3 and all(len(values) == 2 for values in times.values())
    assert ratio([2.0, 9.0, 40.0], [1.0, 3.0, 10.0]) == 3.0


def test_recorded_actions_become_the_chunks_they_were():
    def episode(n: int) -> Episode:
        actions = np.arange(1, 2 * n + 1, dtype=np.float32).reshape(n, 2)
        return Episode(
            {"state": np.zeros((n + 1, 3), np.float32)},
            actions,
            np.zeros(n, np.float32),
            True,
            False,
            True,
            0,
        )

    chunks = chunks_of([episode(3), episode(4)], 2)
    assert chunks.shape == (2, 2, 2, 2)
    np.testing.assert_array_equal(chunks[:, 0].reshape(4, 2), [[1, 2], [3, 4], [5, 6], [0, 0]])
    np.testing.assert_array_equal(chunks[:, 1].reshape(4, 2), [[1, 2], [3, 4], [5, 6], [7, 8]])


class TestRows:
    rows = (
        Row("fast", 2.0, "x", "a / b", {"a": 2.0}, at_least=3),
        Row("small", 0.5, "GB", "peak", at_most=1, note="all of it"),
        Row("plain", 12345.0, "x", "c / d"),
    )

    def test_verdicts(self):
        assert [row.verdict for row in self.rows] == ["missed", "met", ""]
        assert dataclasses.replace(self.rows[0], ratio=3.0).verdict == "met"
        assert dataclasses.replace(self.rows[1], ratio=1.1).verdict == "missed"

    def test_round_trip_and_page(self, tmp_path):
        write_json(self.rows, tmp_path / "rows.json")
        assert read_json(tmp_path / "rows.json") == list(self.rows)
        page = tmp_path / "page.md"
        page.write_text("above\n<!-- rows -->\nold\n<!-- end of rows -->\nbelow\n")
        write_page(self.rows, page)
        text = page.read_text()
        assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
        assert "| `small` | 0.5 GB | ≤ 1 | met | peak (all of it) |" in text
        assert table(self.rows).row_count == 3
        page.write_text("no place")
        with pytest.raises(ValueError, match="no place for the rows"):
            write_page(self.rows, page)


class TestLatest:
    def test_form(self):
        objects = json.loads(bench.LATEST.read_text())
        assert isinstance(objects, list)
        for item in objects:
            assert {"name", "ratio", "unit"} <= item.keys()
            assert isinstance(item["name"], str) and isinstance(item["unit"], str)
            assert math.isfinite(item["ratio"]) and item["ratio"] > 0
        assert len({item["name"] for item in objects}) == len(objects)

    def test_all_that_was_asked_for_is_there(self):
        wanted = {
            *learner.SIDES,
            "matrix_product",
            "marginal_error_vs_release",
            "rollout_vs_bare",
            "compilation_cache",
        }
        wanted |= {f"pairwise_cost_{n}" for n in (128, 512, 2048)} | {
            "pairwise_memory_8192",
            "replay_1e6_vs_1e4",
        }
        wanted |= {
            f"act_{n}_{m}_{k}"
            for n in (1, 16)
            for m in ("ddpm", "ddim", "dpm++", "sde-dpm++")
            for k in (5, 10, 20)
        }
        wanted |= {"candidates_64_vs_1", "chunk_16_vs_1"}
        assert wanted <= {row.name for row in read_json(bench.LATEST)}

    def test_the_page_shows_it(self):
        assert markdown(read_json(bench.LATEST)) in bench.PAGE.read_text()

    def test_growth_can_be_drawn(self):
        assert len(growth.draw(read_json(bench.LATEST)).axes) == 3


def run(names: list[str], tmp_path: Path) -> list[Row]:
    kept = bench.LATEST.read_bytes(), bench.PAGE.read_bytes()
    bench.main(["--tiny", "--only", *names, "--out", str(tmp_path / "rows.json")])
    assert (bench.LATEST.read_bytes(), bench.PAGE.read_bytes()) == kept
    return read_json(tmp_path / "rows.json")


@pytest.mark.long
def test_one_alone_on_tiny_sizes(tmp_path, capsys):
    rows = run(["matrix_product", "pairwise_cost"], tmp_path)
    assert [row.name for row in rows] == ["matrix_product", "pairwise_cost_8", "pairwise_cost_24"]
    assert "concatenate and call" in capsys.readouterr().out


@pytest.mark.long
def test_learner_alone_on_tiny_sizes(tmp_path):
    share, update = run(["matmul_share_update", "update_vs_fql"], tmp_path)
    assert share.name == "matmul_share_update" and set(share.seconds) == {"updates", "product"}
    assert update.name == "update_vs_fql" and len(update.seconds) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", list(bench.BENCHMARKS))
def test_each_alone_on_tiny_sizes(name, tmp_path):
    rows = run([name], tmp_path)
    missing = name == "unet_vs_torch" and not unet.PYTHON.is_file()
    assert (rows or missing) and all(math.isfinite(row.ratio) and row.ratio > 0 for row in rows)


def test_faults_are_named(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main(["--tiny"])
    assert "--tiny needs --only" in capsys.readouterr().err
