"""Score-based generation of vectors: noise schedule, denoising score matching, samplers, flows.

This package depends on no rewards, environments, transport or particular networks.
"""

from otpr.diffusion.matching import denoising_losses
from otpr.diffusion.sampling import sample
from otpr.diffusion.schedule import NoiseSchedule

__all__ = ["NoiseSchedule", "denoising_losses", "sample"]
