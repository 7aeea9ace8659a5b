"""Policies that only answer as bases of fine-tuning: objects of the user's, and servers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otpr.agents import algorithm_names
from otpr.cli import asked
from otpr.cli.main import main
from otpr.envs import task_spec
from otpr.errors import OtprError
from otpr.policies.asked import FAILURES, BrokenSourceError, Desk, NoPlansError
from otpr.policies.loading import load_policy
from otpr.policies.units import in_units
from otpr.serving.client import Remote
from otpr.serving.server import Settings, serve_policy
from otpr.serving.service import Service
from otpr.spec import Entry, Spec
from tests.cli.asked_policies import Failing, Nudges
from tiny import arrays, assert_same_arrays, options, policy

TASK = "tests.envs.user_envs:make_reach"
HERE = "tests.cli.asked_policies"
SMALL = {
    "env_steps": 120,
    "num_envs": 2,
    "warmup_steps": 40,
    "eval_every": 60,
    "eval_episodes": 2,
    "final_eval_episodes": 2,
    "checkpoint_every": 30,
    "batch_size": 16,
    "critic_width": 8,
    "warmup_updates": 20,
    "update_ratio": 0.5,
    "candidates": 4,
}
OTPR = {"potentials_width": 8, "ot_block": 16, "ot_batch": 8, "ot_blocks": 1, "potentials_steps": 3}
LOW, HIGH = np.array([-0.1, 0.0]), np.array([0.3, 0.2])


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("asked") / "demos")
    expert = ["--expert", "tests.envs.user_envs:ReachExpert"]
    assert main(["collect", TASK, *expert, "--episodes", "3", "--noise", "0.1", "--out", out]) == 0
    return out


def command(name: str, base: str, data: str, run: Path, *more: str) -> list[str]:
    settings = {**SMALL, **(OTPR if name == "otpr" else {})}
    places = ["--policy", base, "--data", data, "--run-dir", str(run), "--no-video", "--log", "none"]
    return ["finetune", name, *places, *options(settings), *more]


@pytest.mark.long
@pytest.mark.parametrize("name", ["idql", "otpr"])
def test_critics_learn_to_choose_among_the_plans_of_an_object(name: str, demonstrations: str, tmp_path: Path):
    Nudges.calls.clear()
    run = tmp_path / "run"
    assert main(command(name, f"{HERE}:Nudges", demonstrations, run, "--task", TASK)) == 0
    assert {n for _, n, _ in Nudges.calls} == {1, 4}  # one sample, then as many as there are candidates
    assert {shape[1:] for shape, _, _ in Nudges.calls} == {(4,)}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any(row.get("critic/loss") is not None for row in rows)
    assert not any("policy/loss" in row for row in rows)  # nothing of the policy is trained
    saved = load_policy(run)
    assert saved.asks
    assert saved.chooser is not None
    with pytest.raises(OtprError, match="plans of another policy, which is not in its files"):
        saved.act(np.zeros(4), 0)
    answering = asked.answering(saved, asked.open_offer(f"{HERE}:Nudges", 30))
    actions = answering.act(np.zeros(4), 0)
    assert actions.shape == (4, 2)
    np.testing.assert_array_equal(answering.act(np.zeros(4), 0), actions)
    again = ["evaluate", str(run), "--episodes", "2", "--num-envs", "2", "--out", str(tmp_path / "e.json")]
    assert main([*again, "--base", f"{HERE}:Nudges"]) == 0
    final = json.loads((run / "summary.json").read_text())["final_success"]
    assert json.loads((tmp_path / "e.json").read_text())[0]["success_rate"] == final


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    demonstrations: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from otpr.training.run_directory import RunDirectory

    told = [f"{HERE}:Nudges", demonstrations]
    assert main(command("idql", *told, tmp_path / "whole", "--task", TASK)) == 0
    log = RunDirectory.log

    def log_and_die(run: RunDirectory, row: dict[str, Any]) -> None:
        log(run, row)
        if row["env_steps"] >= 60:
            raise SystemExit(9)

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "log", log_and_die)
        with pytest.raises(SystemExit):
            main(command("idql", *told, tmp_path / "cut", "--task", TASK))
    assert main(command("idql", *told, tmp_path / "cut", "--task", TASK, "--resume")) == 0
    assert_same_arrays(arrays(load_policy(tmp_path / "cut")), arrays(load_policy(tmp_path / "whole")))


@pytest.mark.long
def test_what_fails_costs_the_episodes_and_not_the_run(demonstrations: str, tmp_path: Path):
    Failing.count = 0
    run = tmp_path / "run"
    more = ("--task", TASK, "--no-base-evaluation", "--eval-every", "1000000")
    # an evaluation leaves no episode out: two failures in one end it, and the state before is saved
    status = main(command("idql", f"{HERE}:Failing", demonstrations, run, *more))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    broken = [row["rollout/broken_episodes"] for row in rows if "rollout/broken_episodes" in row]
    assert broken[-1] > 0
    assert max(row["env_steps"] for row in rows) >= SMALL["env_steps"]
    assert status in (0, 2)


@pytest.mark.parametrize("option", [("--num-workers", "2"), ("--async",), ("--rollout", "local")])
def test_a_policy_that_only_answers_has_no_workers(
    option: tuple[str, ...], demonstrations: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    assert main(command("idql", f"{HERE}:Nudges", demonstrations, run, "--task", TASK, *option)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is asked from one process" in said
    assert "Leave out --num-workers and --async, and --rollout unless it is lockstep." in said


def test_imitation_alone_needs_its_evaluation(
    demonstrations: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    places = ["--policy", f"{HERE}:Nudges", "--data", demonstrations, "--run-dir", str(tmp_path / "run")]
    assert main(["finetune", "bc", *places, "--task", TASK, "--no-base-evaluation"]) == 2
    assert "--no-base-evaluation: bc learns nothing" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", algorithm_names())
def test_who_trains_the_policy_refuses_one_that_only_answers(
    name: str, demonstrations: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """docs/serving.md has the table."""
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    can = name in ("bc", "idql", "otpr")
    assert (row.split("|")[2].strip() == "yes") == can
    if can:
        return
    places = ["--policy", f"{HERE}:Nudges", "--data", demonstrations, "--run-dir", str(tmp_path / "run")]
    assert main(["finetune", name, *places, "--task", TASK]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"otpr: {name} needs a policy that it can train or sample itself")
    assert "bc, idql, otpr" in said
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------- what is asked

SPEC = Spec({"state": Entry((4,))}, tuple(LOW), tuple(HIGH), horizon=4, execute=2)
SEEN = {"state": np.zeros((2, 1, 4), np.float32)}


class Says:
    """Answers what it is given, or raises it."""

    def __init__(self, *answers: Any):
        self.answers = list(answers)

    def propose(self, observations: Mapping[str, np.ndarray], n: int, seeds: Any) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_plans_come_in_the_units_of_the_environment_and_are_clipped_to_its_bounds():
    unit = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 2)).astype(np.float32)
    far = in_units(unit, SPEC)
    far[0, 0, 0] = [9.0, -9.0]
    found = Desk(Says(far), SPEC, "it").ask(SEEN, 3, [0, 1])
    np.testing.assert_allclose(found[0, 0, 1:], unit[0, 0, 1:], atol=1e-6)
    np.testing.assert_array_equal(found[0, 0, 0], [1, -1])
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.zeros((2, 3, 5, 2)), r"plans of shape \(2, 3, 5, 2\); expected \(2, 3, 4, 2\)"),
        (np.full((2, 3, 4, 2), np.nan), "plans that are not finite"),
        ("plans", "could not convert"),
        (None, "gave no plans"),
        (OSError("unplugged"), "OSError: unplugged"),
    ],
)
def test_nonsense_costs_a_request_and_ends_the_run_when_it_goes_on(answer: Any, said: str):
    with pytest.raises(BrokenSourceError, match="It has not answered once"):
        Desk(Says(answer), SPEC, "it").ask(SEEN, 3, [0, 1])
    desk = Desk(Says(np.zeros((2, 3, 4, 2)), answer), SPEC, "it")
    desk.ask(SEEN, 3, [0, 1])
    for _ in range(FAILURES - 1):
        with pytest.raises(NoPlansError, match=said):
            desk.ask(SEEN, 3, [0, 1])
    with pytest.raises(BrokenSourceError, match="for the 10th time in a row"):
        desk.ask(SEEN, 3, [0, 1])


def test_an_object_that_takes_too_long_is_given_up_on_and_asked_again_when_it_is_done():
    released = threading.Event()

    class Slow:
        def propose(self, observations: Any, n: int, seed: int) -> Any:
            released.wait(10)
            return seed

    local = asked.Local(Slow(), 0.2)
    with pytest.raises(TimeoutError, match=r"more than 0\.2 seconds"):
        local.propose({}, 1, [5])
    with pytest.raises(TimeoutError, match="still at an earlier request"):
        local.propose({}, 1, [5])
    released.set()
    assert local.propose({}, 1, [6]) == 6


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:Policy", "The policy 'nowhere:Policy' cannot be loaded"),
        ("tests.envs.user_envs:ReachExpert", "expected an object with propose"),
        ("ws://127.0.0.1:1", "No policy answers at ws://127.0.0.1:1"),
    ],
)
def test_what_does_not_answer_is_told(name: str, said: str):
    with pytest.raises(OtprError, match=said):
        asked.open_offer(name, 0.1)


def test_who_does_not_say_the_task_is_asked_for_it():
    with pytest.raises(OtprError, match="Name it with --task"):
        asked.asked_setup(asked.open_offer(f"{HERE}:Nudges", 1), None, None)


# ------------------------------------------------------------------------------------------------- a server


class Server:
    """`otpr serve` in a thread."""

    def __init__(self, service: Service, port: int = 0):
        self._threads, self._ready = ThreadPoolExecutor(1), threading.Event()
        self._done = self._threads.submit(asyncio.run, self._serve(service, port))
        assert self._ready.wait(10)

    async def _serve(self, service: Service, port: int) -> int:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        return await serve_policy(service, Settings(port=port), self._stop, self._listening)

    def _listening(self, port: int) -> None:
        self.port = port
        self._ready.set()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._done.result(10)
        self._threads.shutdown()


@pytest.fixture
def served() -> Generator[tuple[Server, Service]]:
    own = task_spec(TASK).spec
    made = policy(observation_dim=4, action_dim=2, execute=4)
    spec = dataclasses.replace(made.spec, action_low=own.action_low, action_high=own.action_high)
    service = Service(dataclasses.replace(made, spec=spec), {"task": TASK, "view": None, "checksum": "c"})
    server = Server(service)
    yield server, service
    server.stop()


def test_a_server_is_asked_for_all_plans_of_a_decision_at_once(served: tuple[Server, Service]):
    server, service = served
    remote = Remote(f"ws://127.0.0.1:{server.port}", 10)
    assert remote.spec == service.policy.spec
    observations = {"state": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
    plans = remote.propose(observations, 5, [7, 8, 9])
    assert plans.shape == (3, 5, 8, 2)
    # a decision's plans hang on its own seed and observation alone
    alone = remote.propose({"state": observations["state"][1:2]}, 5, [8])
    np.testing.assert_array_equal(alone[0], plans[1])
    with pytest.raises(ValueError, match="observation has shape"):
        remote.propose({"state": np.zeros((1, 3))}, 5, [0])
    np.testing.assert_array_equal(remote.propose(observations, 5, [7, 8, 9]), plans)  # connected anew


def test_a_server_that_was_started_anew_is_found_again(served: tuple[Server, Service]):
    _, service = served
    second = Server(service)
    remote = Remote(f"ws://127.0.0.1:{second.port}", 5)
    observations = {"state": np.zeros((1, 4), np.float32)}
    plans = remote.propose(observations, 2, [1])
    second.stop()
    with pytest.raises(Exception, match=r"1001|going away"):
        remote.propose(observations, 2, [1])
    third = Server(service, second.port)
    np.testing.assert_array_equal(remote.propose(observations, 2, [1]), plans)
    remote.close()
    third.stop()


@pytest.mark.long
def test_a_served_policy_is_the_base_of_a_run(
    served: tuple[Server, Service], demonstrations: str, tmp_path: Path
):
    server, _ = served
    run = tmp_path / "run"
    assert main(command("idql", f"ws://127.0.0.1:{server.port}", demonstrations, run)) == 0
    config = json.loads((run / "config.json").read_text())
    assert "c" in json.dumps(config)
    assert load_policy(run).spec.execute == 4


def test_a_server_that_says_nothing_of_itself_is_asked_for_one_plan_at_a_time():
    """As somebody writes one who knows openpi's protocol and nothing of otpr."""
    from websockets.sync.server import serve

    from otpr.serving.messages import pack, unpack

    asked_for: list[list[str]] = []

    def handle(connection: Any) -> None:
        connection.send(pack({}))
        for message in connection:
            request = unpack(message)
            asked_for.append(sorted(request))
            state = np.asarray(request["observation/state"])
            connection.send(pack({"actions": np.full((6, 2), 0.1) * (1 + state[0])}))

    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        offer = asked.open_offer(f"ws://127.0.0.1:{port}", 10)
        setup = asked.asked_setup(offer, TASK, None)
        episodes = [_episode()]
        base = asked.asked_policy(offer, setup, episodes, 3)
        assert (base.spec.horizon, base.spec.execute) == (6, 3)
        offered = base.propose({"state": np.zeros((2, 1, 4), np.float32)}, _keys(2), 4)
        assert offered.shape == (2, 4, 6, 2)
        np.testing.assert_allclose(in_units(np.asarray(offered), base.spec), 0.1, atol=1e-6)
        assert asked_for[0] == ["observation/state"]
        assert len(asked_for) == 1 + 2 * 4
        offer.source.close()  # type: ignore[attr-defined]


def _keys(n: int) -> Any:
    import jax

    return jax.random.split(jax.random.key(0), n)


def _episode() -> Any:
    from otpr.data.episodes import Episode

    rng = np.random.default_rng(0)
    return Episode(
        {"state": rng.normal(size=(6, 4)).astype(np.float32)},
        rng.uniform(-1, 1, (5, 2)).astype(np.float32),
        np.zeros(5, np.float32),
        False,
        True,
        True,
        seed=0,
    )
