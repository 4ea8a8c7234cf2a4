"""Where an encoder is, and how the host's tensors come there without being waited for."""

from typing import Any

import torch
from torch import Tensor, nn

from cluster.settings import UserError


def check_device(name: str) -> None:
    """Refuse a device that this machine has not. The UserError names those it has."""
    count = torch.cuda.device_count()
    here = ["cpu", *["cuda"] * (count > 0), *(f"cuda:{number}" for number in range(count))]
    if name not in here:
        raise UserError(f"device {name} is not on this machine; it has {', '.join(here)}")


def device_of(encoder: Any) -> torch.device:
    """Where an encoder's weights are; one that is no module, or has none, is on the CPU."""
    weights = [*encoder.parameters(), *encoder.buffers()] if isinstance(encoder, nn.Module) else []
    return weights[0].device if weights else torch.device("cpu")


def sent(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; to a GPU from pinned memory, so that the host goes on meanwhile."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
