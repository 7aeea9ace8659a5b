"""Score-based generation of vectors: noise schedule, denoising score matching, samplers, flows.

Nothing here knows of rewards, environments, transport or of any network.
"""

from otpr.diffusion.matching import denoising_losses
from otpr.diffusion.sampling import sample
from otpr.diffusion.schedule import NoiseSchedule

__all__ = ["NoiseSchedule", "denoising_losses", "sample"]
