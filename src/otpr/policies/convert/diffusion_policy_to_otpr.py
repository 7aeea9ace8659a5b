"""Convert a checkpoint of diffusion_policy into a file that `otpr policy import` reads.

    python diffusion_policy_to_otpr.py CHECKPOINT.ckpt policy.pt [--weights model]

Run it where the policy was trained, in diffusion_policy's environment and in its folder. A checkpoint is a
pickle of that project's objects, and loading it can run arbitrary code, so only convert checkpoints that you
trust. The output holds only tensors and strings. The script does not need otpr; it runs with Python 3.8,
PyTorch 1.12 and later versions.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import argparse
import json

FORMAT = "otpr/diffusion-policy/1"


def main() -> None:
    """Read a checkpoint and write the policy's part of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="file that diffusion_policy's training wrote, *.ckpt")
    parser.add_argument("out", help="file to write, *.pt")
    parser.add_argument(
        "--weights",
        choices=["ema", "model"],
        help="those of the moving average, or those trained; left out, those that its evaluation takes",
    )
    arguments = parser.parse_args()

    import dill
    import torch
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("eval", eval, replace=True)  # as diffusion_policy does
    # required since PyTorch 2.6
    newer = {} if torch.__version__.startswith("1.") else {"weights_only": False}
    with open(arguments.checkpoint, "rb") as stream:
        payload = torch.load(stream, map_location="cpu", pickle_module=dill, **newer)
    config = payload["cfg"]
    weights = arguments.weights
    if weights is None:
        weights = "ema" if config.training.use_ema else "model"
    state = payload["state_dicts"]["ema_model" if weights == "ema" else "model"]
    settings = {
        "policy": OmegaConf.to_container(config.policy, resolve=True),
        "n_latency_steps": config.get("n_latency_steps", 0),
        "weights": weights,
    }
    tensors = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in state.items()}
    with open(arguments.out, "wb") as stream:
        torch.save({"format": FORMAT, "settings": json.dumps(settings), "weights": tensors}, stream)
    print(f"Written, {weights} weights: {arguments.out}. Now: otpr policy import {arguments.out} --out DIR")


if __name__ == "__main__":
    main()
