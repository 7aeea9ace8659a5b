"""Meta-World's peg-insert-side as LeRobot takes it: an environment for its evaluation, and demonstrations.

LeRobot's commands find it with `--env.discover_packages_path=lerobot_peg --env.type=peg`, where this folder's
parent is on PYTHONPATH. The commands are in docs/lerobot.md.
"""

from lerobot_peg.environment import Peg, PegConfig

__all__ = ["Peg", "PegConfig"]
