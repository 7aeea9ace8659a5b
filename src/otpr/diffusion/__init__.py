"""Score-based policies: noise schedule, score network, denoising score matching, samplers.

Nothing here knows of rewards, environments or transport.
"""

from otpr.diffusion.matching import denoising_losses
from otpr.diffusion.network import NoiseNetwork
from otpr.diffusion.sampling import sample
from otpr.diffusion.schedule import NoiseSchedule

__all__ = ["NoiseNetwork", "NoiseSchedule", "denoising_losses", "sample"]
