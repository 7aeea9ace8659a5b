from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otpr.data.actions import ActionRangeError
from otpr.data.convert.rules import BadEpisodeError, Rules, SuccessUnknownError, finish, follow
from otpr.data.convert.tally import Tally
from otpr.data.episodes import Episode
from otpr.data.evidence import Evidence
from otpr.data.recorded import Recorded, Source
from otpr.errors import OtprError


def recorded(**changes: Any) -> Recorded:
    """Three steps, all known, terminated with a reward."""
    episode = Recorded(
        place="file: here",
        observations=np.arange(8.0).reshape(4, 2),
        actions=np.array([[0.5], [-1.0], [1.0]]),
        rewards=np.array([0.0, 0.0, 1.0]),
        terminated=True,
        truncated=False,
    )
    return replace(episode, **changes)


def evidence(*episodes: Recorded) -> Evidence:
    """Of a set of these episodes."""
    found = Evidence()
    for episode in episodes:
        found.add(episode)
    return found


def finished(
    episode: Recorded, last_observation: bool | None = True, among: tuple[Recorded, ...] = (), **rules: Any
) -> tuple[Episode, Tally]:
    """The episode of a set of it and of others, by the rules."""
    tally, decided = Tally(), Rules(**rules)
    whole = evidence(episode, *among)
    bounds = decided.bounds(episode.actions.shape[1])
    result = finish(episode, decided, tally, whole, last_observation=last_observation, bounds=bounds)
    assert result is not None
    return result, tally


def test_nothing_is_changed_where_all_is_known() -> None:
    episode, tally = finished(recorded(seed=7))
    assert (episode.observations["state"].dtype, episode.actions.dtype) == (np.float64, np.float32)
    np.testing.assert_array_equal(episode.observations["state"], recorded().observations)
    np.testing.assert_array_equal(episode.actions, recorded().actions)
    assert episode.rewards.tolist() == [0, 0, 1]
    assert (episode.terminated, episode.truncated, episode.success, episode.seed) == (True, False, True, 7)
    by = "a reward of 1 at a termination"
    assert tally == Tally(episodes=1, steps=3, successes=1, numbers=3, told_by=Counter({by: 1}))
    assert tally.lines() == [f"success of 1 episode told by {by}"]


CUT_OFF: dict[str, Any] = {"terminated": False, "truncated": True}
NOT_TOLD: dict[str, Any] = {"terminated": None, "truncated": None}
NEVER, LAST = np.array([False, False, False]), np.array([False, False, True])


@pytest.mark.parametrize(
    ("changes", "solved", "told_by"),
    [
        # recorded success decides, whatever the rest says
        ({"success": NEVER, "success_field": "infos/solved"}, False, "infos/solved, which is 0 in the whole"),
        ({"success": NEVER, "rewards": np.array([5.0, 1.0, 0.0])}, False, "success"),
        ({"success": LAST, **CUT_OFF}, True, "success"),
        # flags that are all the same are the episode's label
        ({"success": ~NEVER, **CUT_OFF}, True, "success, the same on all steps of each episode"),
        # else rewards of 0 and one other number
        ({}, True, "a reward of 1 at a termination"),
        ({"rewards": np.array([0.0, 0.0, 7.5])}, True, "a reward of 7.5 at a termination"),
        (CUT_OFF, True, "a reward of 1, where all others are 0"),
        ({"rewards": np.array([0.0, 1.0, 0.0]), **NOT_TOLD}, True, "a reward of 1, where all others are 0"),
        ({"rewards": np.array([0.0, 2.0, 1.0])}, None, "the rewards take many values"),
        # else it is unknown
        ({"rewards": np.zeros(3)}, None, "every reward of the whole set is 0"),
        ({"rewards": np.zeros(3), **NOT_TOLD}, None, "every reward of the whole set is 0"),
        ({"rewards": np.ones(3)}, None, "rewards are paid from the first step on"),
        ({"rewards": np.array([1.0, 1.0, 0.0])}, None, "rewards are paid from the first step on"),
        ({"rewards": np.array([-5.0, 0.0, 0.1])}, None, "the rewards take many values"),
        ({"rewards": np.array([-1.0, -1.0, 0.0])}, None, "the rewards take many values"),
        ({"rewards": None}, None, "neither success nor rewards are recorded"),
        ({"rewards": None, **CUT_OFF}, None, "neither success nor rewards are recorded"),
    ],
)
def test_success(changes: dict[str, Any], solved: bool | None, told_by: str) -> None:
    if solved is None:
        with pytest.raises(SuccessUnknownError, match=f"^file: here: success unknown: {told_by}"):
            finished(recorded(**changes))
    for assumed in (True, False):
        option = {"assume_success": True} if assumed else {"assume_failure": True}
        episode, tally = finished(recorded(**changes), **option)
        assert episode.success == (assumed if solved is None else solved)
        assert tally.assumed == (solved is None)
        (told,) = [tally.unknown] if solved is None else tally.told_by
        assert told.startswith(told_by)


def steps(rewards: list[float], **changes: Any) -> Recorded:
    """An episode with these rewards, and as many actions."""
    n = len(rewards)
    return recorded(
        observations=np.arange(2.0 * n + 2).reshape(n + 1, 2),
        actions=np.zeros((n, 1)),
        rewards=np.array(rewards),
        **changes,
    )


def successes(*episodes: Recorded) -> list[bool | None]:
    whole = evidence(*episodes)
    return [None if (flags := whole.success(one)[0]) is None else bool(flags.any()) for one in episodes]


def test_what_success_is_depends_on_the_whole_set() -> None:
    # no reward is a failure where others are paid
    assert successes(steps([0, 0, 0], **CUT_OFF), steps([0, 1, 0], **CUT_OFF)) == [False, True]
    # subtasks are paid one by one, and a termination comes with the last: kitchens
    kitchen = steps([0, 1, 0, 1, 0], **CUT_OFF), steps([0, 1, 0, 0, 2]), steps([0, 0, 0, 0, 0], **CUT_OFF)
    assert successes(*kitchen) == [False, True, False]
    # and where none is completed it is not known what a reward means
    assert successes(steps([0, 1, 0, 1, 0], **CUT_OFF), steps([0, 0, 1, 0, 0], **CUT_OFF)) == [None, None]
    # staying at a goal is paid on and on, and a termination is a fall
    assert successes(steps([0, 1, 1, 0, 1], **CUT_OFF), steps([0, 0, 0])) == [True, False]
    # some start at the goal
    maze = steps([1, 1], **CUT_OFF), steps([0, 1], **CUT_OFF), steps([0, 0], **CUT_OFF)
    assert successes(*maze) == [True, True, False]
    # a fall at the goal, among episodes that stay there: a reward at a termination may be either
    assert successes(steps([0, 1, 1, 1], **CUT_OFF), steps([0, 0, 1])) == [None, None]
    # poles that are balanced: 1 a step, a fall ends it
    assert successes(steps([1, 1, 1]), steps([1, 1, 1, 1], **CUT_OFF), steps([1, 0])) == [None] * 3


def test_robomimic_s_dones_say_nothing_where_each_episode_ends_with_one() -> None:
    done = recorded(rewards=None, success=LAST, success_field="dones", **NOT_TOLD)
    assert successes(done, done) == [None, None]
    assert successes(done, replace(done, success=NEVER)) == [True, False]


def test_two_assumptions_are_refused() -> None:
    with pytest.raises(OtprError, match="--assume-success or --assume-failure, not both"):
        Rules(assume_success=True, assume_failure=True)


def test_assumption_without_effect_is_told() -> None:
    source = Source("npz", Path("set"), (("observations", 2),), lambda images=True: iter([recorded()]))
    tally = Tally()
    assert len(list(follow(source, Rules(assume_success=True), tally, task=None))) == 1
    assert "--assume-success had no effect: the file tells success of every episode" in tally.lines()


EARLY = np.array([False, True, True])


@pytest.mark.parametrize(
    ("task", "end_at_success", "kept", "why"),
    [
        (None, False, 3, None),
        ("my_robot:make_env", False, 3, None),
        ("gym/Pendulum-v1", False, 3, None),
        (None, True, 2, "as --end-at-success says"),
        ("my_robot:make_env", True, 2, "as --end-at-success says"),
        ("metaworld/reach-v3", False, 2, "as in metaworld/reach-v3"),
    ],
)
def test_only_our_tasks_end_at_success(
    task: str | None, end_at_success: bool, kept: int, why: str | None
) -> None:
    one = recorded(success=EARLY, **CUT_OFF)
    source = Source("npz", Path("set"), (("observations", 2),), lambda images=True: iter([one]))
    tally = Tally()
    (episode,) = follow(source, Rules(end_at_success=end_at_success), tally, task=task)
    assert (len(episode), len(episode.observations["state"]), episode.success) == (kept, kept + 1, True)
    assert (episode.terminated, episode.truncated) == (kept == 2, kept == 3)
    (line,) = [line for line in tally.lines() if "success" in line]
    if why is None:
        assert line.startswith("1 episode with 1 step after the first success, kept as recorded")
        assert "--end-at-success" in line
    else:
        assert line == f"1 episode ended at the first success, {why}: 1 later step left out"


def test_where_ends_are_not_told_success_is_one_unless_episodes_go_on() -> None:
    last, failed = recorded(success=LAST, **NOT_TOLD), recorded(success=NEVER, **NOT_TOLD)
    for episode, ended in ((last, True), (failed, False)):
        finished_one, _ = finished(episode, among=(last, failed))
        assert (finished_one.terminated, finished_one.truncated) == (ended, not ended)
    longer, _ = finished(last, among=(recorded(success=EARLY, **NOT_TOLD),))
    assert (longer.success, longer.terminated, longer.truncated) == (True, False, True)


def test_time_limits_stored_as_terminations_are_cut_off() -> None:
    failed = [steps([0, 0, 0, 0]), steps([0, 0, 0, 0]), steps([0, 0])]
    solved = [steps([0, 0, 0, 1]), steps([0, 1])]
    ends = []
    for episode in (*failed, *solved):
        one, tally = finished(episode, among=(*failed, *solved))
        ends.append((one.terminated, one.truncated, tally.time_limits))
    assert ends == [(False, True, 1)] * 2 + [(True, False, 0)] * 3
    # nor where only one has the longest length, or the set says of one that it was cut off
    for others in ([steps([0, 1])], [steps([0, 0, 0, 0]), steps([0, 1], **CUT_OFF), steps([0, 1])]):
        one, tally = finished(failed[0], among=tuple(others))
        assert (one.terminated, tally.time_limits) == (True, 0)


def test_next_observations_that_are_not_the_following_rows() -> None:
    joined = recorded(continues=np.array([True, True]))
    finished(joined, among=(joined,))
    torn = recorded(continues=np.array([True, False]))
    with pytest.raises(OtprError, match=r"the next observation of 1 of 3 steps .*, first that of step 1. If"):
        finished(torn, among=(joined, joined))
    # where they mostly are not, they are something else: the last observation is not known
    other = recorded(continues=np.array([False, False]))
    one, tally = finished(other, among=(torn, other))
    assert (len(one), one.rewards.tolist(), tally.next_unfit, tally.last_dropped) == (2, [0, 1], 1, 1)


def test_rewards_that_were_never_filled_in_are_made_where_success_is_assumed() -> None:
    empty = recorded(rewards=np.zeros(3), **CUT_OFF)
    episode, tally = finished(empty, among=(empty,), assume_success=True)
    assert (episode.rewards.tolist(), episode.terminated, tally.rewards_filled) == ([0, 0, 1], True, 1)
    episode, tally = finished(empty, among=(empty,), assume_failure=True)
    assert (episode.rewards.tolist(), episode.truncated, tally.rewards_filled) == ([0, 0, 0], True, 0)
    # a success that is recorded leaves them as they are
    episode, tally = finished(recorded(rewards=np.zeros(3), success=EARLY))
    assert (episode.rewards.tolist(), len(episode), tally.rewards_filled) == ([0, 0, 0], 3, 0)


def test_neither_terminated_nor_truncated_is_cut_off() -> None:
    episode, tally = finished(recorded(success=NEVER, terminated=False, truncated=False))
    assert (episode.terminated, episode.truncated, tally.unended) == (False, True, 1)


def bad_set(*, good: int, bad: int) -> Source:
    """Episodes that cannot be read, then good ones."""
    items = [OtprError(f"file: episode {i}: broken; mend") for i in range(bad)] + [recorded()] * good
    return Source("npz", Path("set"), (("observations", 2),), lambda images=True: iter(items))


def test_bad_episodes_are_left_out_and_listed() -> None:
    tally = Tally()
    assert len(list(follow(bad_set(good=2, bad=23), Rules(skip_bad=True), tally, task=None))) == 2
    (line,) = [line for line in tally.lines() if "bad" in line]
    first, *reasons, more = line.splitlines()
    assert (first, more) == ("23 episodes left out as bad:", "    and 3 more")
    assert reasons == [f"    file: episode {i}: broken; mend" for i in range(20)]
    assert (tally.episodes, tally.bad) == (2, 23)


def test_nothing_left_is_an_error_and_so_is_a_bad_episode_by_default() -> None:
    with pytest.raises(
        OtprError, match=r"holds no episode that can be kept, 2 were left out.*episode 0: bro"
    ):
        list(follow(bad_set(good=0, bad=2), Rules(skip_bad=True), Tally(), task=None))
    with pytest.raises(BadEpisodeError, match="episode 0: broken"):
        list(follow(bad_set(good=1, bad=1), Rules(), Tally(), task=None))


def test_unknown_success_is_no_bad_episode() -> None:
    unknown = recorded(rewards=None)
    source = Source("npz", Path("set"), (("observations", 2),), lambda images=True: iter([unknown]))
    with pytest.raises(SuccessUnknownError):
        list(follow(source, Rules(skip_bad=True), Tally(), task=None))


def test_recorded_reward_and_end_stay_where_success_is_assumed() -> None:
    dense = recorded(rewards=np.array([0.5, -1.0, 2.0]), **CUT_OFF)
    episode, _ = finished(dense, assume_success=True)
    assert (episode.rewards.tolist(), episode.terminated, episode.truncated) == ([0.5, -1, 2], False, True)


@pytest.mark.parametrize("solved", [True, False])
def test_sparse_rewards_replace_dense_ones(solved: bool) -> None:
    dense = recorded(rewards=np.array([0.1, 7.0, -2.0]), success=np.array([False, False, solved]))
    episode, tally = finished(dense, sparse_rewards=True)
    assert episode.rewards.tolist() == [0, 0, float(solved)]
    assert (tally.dense, tally.rewards_made) == (0, 0)
    episode, tally = finished(dense)
    assert episode.rewards.tolist() == pytest.approx([0.1, 7.0, -2.0])
    assert tally.dense == 1
    assert tally.lines() == [
        "1 episode with rewards other than 0 and 1, which most tasks of otpr do not pay: kept as they are"
    ]


def test_dropped_step_gives_its_reward_and_success_to_the_one_before() -> None:
    cut = recorded(
        observations=np.arange(6.0).reshape(3, 2),
        rewards=np.array([0.0, 0.25, 1.0]),
        success=np.array([False, False, True]),
    )
    episode, tally = finished(cut, last_observation=False)
    assert episode.rewards.tolist() == [0.0, 1.25]
    assert (len(episode.observations["state"]), episode.actions.tolist()) == (3, [[0.5], [-1.0]])
    assert (episode.success, tally.last_dropped) == (True, 1)


def test_single_step_without_the_next_observation_is_nothing() -> None:
    tally = Tally()
    one = recorded(observations=np.zeros((1, 2)), actions=np.zeros((1, 1)), rewards=np.ones(1))
    assert finish(one, Rules(), tally, evidence(one), last_observation=False) is None
    assert (tally.episodes, tally.too_short) == (0, 1)


def test_action_range_is_mapped_a_dimension_at_a_time() -> None:
    actions = np.array([[-2.0, 0.0], [2.0, 10.0], [1.0, 2.5]])
    episode, _ = finished(recorded(actions=actions), action_low=(-2.0, 0.0), action_high=(2.0, 10.0))
    np.testing.assert_allclose(episode.actions, [[-1, -1], [1, 1], [0.5, -0.5]])
    episode, _ = finished(recorded(), action_low=(-4.0,), action_high=(4.0,))
    np.testing.assert_allclose(episode.actions, [[0.125], [-0.25], [0.25]])


def test_rounding_beyond_the_range_is_clipped_and_counted() -> None:
    episode, tally = finished(recorded(actions=np.array([[1 + 9e-7], [-1 - 9e-7], [0.3]])))
    assert episode.actions.tolist() == [[1.0], [-1.0], [pytest.approx(0.3)]]
    assert (tally.rounded, tally.clipped) == (2, 0)
    with pytest.raises(ActionRangeError):
        finished(recorded(actions=np.array([[1 + 2e-6], [0.0], [0.3]])))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ((1.0,), (1.0,), "must be below"),
        ((0.0, -1.0), (1.0, -2.0), "must be below"),
        ((-np.inf,), (1.0,), "must be finite"),
        ((0.0, 0.0, 0.0), (1.0, 1.0), "3 lower and 2 upper ends"),
    ],
)
def test_bad_ranges_are_refused(low: tuple[float, ...], high: tuple[float, ...], message: str) -> None:
    with pytest.raises(OtprError, match=message):
        Rules(action_low=low, action_high=high)


def test_range_of_other_dimensions_is_refused() -> None:
    with pytest.raises(OtprError, match="action range has 2 dimensions; the data have 1"):
        finished(recorded(), action_low=(-1.0, -1.0), action_high=(2.0,))
