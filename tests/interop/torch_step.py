"""PyTorch's side of the benchmark `unet_vs_torch`: LeRobot's U-Net, in .venv-interop (`make interop`).

Reads lines from its input, takes a training step for each, and answers with the seconds it took.
"""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionConditionalUnet1d


def main() -> None:
    """Answer each line."""
    sizes = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (horizon, action_dim), batch = sizes["plan"], sizes["batch"]
    config = SimpleNamespace(
        action_feature=SimpleNamespace(shape=(action_dim,)),
        down_dims=sizes["down_dims"],
        kernel_size=sizes["kernel_size"],
        n_groups=8,
        diffusion_step_embed_dim=128,
        use_film_scale_modulation=True,
    )
    network = DiffusionConditionalUnet1d(config, global_cond_dim=sizes["state_dim"])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    plans = torch.rand(batch, horizon, action_dim) * 2 - 1
    states, levels = torch.randn(batch, sizes["state_dim"]), torch.randint(0, 100, (batch,))
    alpha_bar = torch.linspace(0.99, 0.01, 100)[levels][:, None, None]

    def step() -> None:
        noise = torch.randn_like(plans)
        noisy = alpha_bar.sqrt() * plans + (1 - alpha_bar).sqrt() * noise
        loss = torch.nn.functional.mse_loss(network(noisy, levels, global_cond=states), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
