"""The arithmetic of stacked heads: a head is a row of the weights, and one batched product serves them all.

Weights lie as torch's own Linear has them, (outputs, inputs), which multiplies fastest here. The scale of dropout,
1/(1 − p), commutes with the last layer: it is applied to the few outputs and to their gradient instead of the hidden
units.

Shape suffixes: H heads, S seeds, B clips of a head's batch, E encoder width, F what enters the last layer, C outputs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""torch's defaults of Adam, the ones the papers used."""
WORDS = 1 << 16
"""Values of the 16 random bits that decide whether an entry is dropped."""


def first_weights(shapes: Sequence[tuple[int, int]], seeds: Sequence[int], device: torch.device) -> list[Tensor]:
    """Weights (H, outputs, inputs) of every layer on a device, as torch's own Linear draws them, U(±1/√inputs), from
    each head's seed.
    """
    stacked: list[list[Tensor]] = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        stacked.append([(2 * torch.rand(shape, generator=generator) - 1).T / math.sqrt(shape[0]) for shape in shapes])
    return [torch.stack(layer).to(device) for layer in zip(*stacked, strict=True)]


def forward(
    weights: Sequence[Tensor], x_HBE: Tensor, chance_HBF: Tensor | None = None, dropout: float = 0.0
) -> list[Tensor]:
    """What enters each layer, and what leaves the last, (H, B, C).

    Args:
        weights: of one or two layers.
        x_HBE: each head's clips.
        chance_HBF: random words as floats; an entry of what enters the last layer is dropped where its word is among
            the lowest ``dropout``. None drops nothing.
        dropout: share that is dropped, in [0, 1).
    """
    last_HBF = x_HBE if len(weights) == 1 else torch.bmm(x_HBE, weights[0].mT).relu_()
    if chance_HBF is not None:
        # "Where the other one is above a threshold": ReLU's own gradient is torch's fastest kernel for it.
        last_HBF = torch.ops.aten.threshold_backward(last_HBF, chance_HBF, lowest(dropout))
    out_HBC = torch.bmm(last_HBF, weights[-1].mT)
    if chance_HBF is not None:
        out_HBC /= 1 - dropout
    return [*([x_HBE] if len(weights) == 2 else []), last_HBF, out_HBC]


def backward(weights: Sequence[Tensor], gradients: Sequence[Tensor], layers: Sequence[Tensor], g_HBC: Tensor) -> None:
    """Gradients of the weights into their buffers.

    Args:
        weights: of the heads.
        gradients: buffers of the same shapes.
        layers: of `forward`.
        g_HBC: gradient of the loss by what the last product gave, before the scale of dropout.
    """
    torch.bmm(g_HBC.mT, layers[-2], out=gradients[-1])
    if len(weights) == 2:
        # What ReLU or dropout had set to zero passes nothing.
        g_HBF = torch.ops.aten.threshold_backward(torch.bmm(g_HBC, weights[1]), layers[1], 0)
        torch.bmm(g_HBF.mT, layers[0], out=gradients[0])


def lowest(dropout: float) -> float:
    """The highest word that drops an entry: ``dropout`` of all int16 are not above it."""
    return round(dropout * WORDS) - WORDS // 2 - 1


def draw_words(draws: Sequence[torch.Generator], shape: tuple[int, int], device: torch.device) -> Tensor:
    """Words of every seed as floats, (S, B, F); 16 random bits an entry, a quarter of a float's price."""
    count = shape[0] * shape[1]
    words = torch.empty(len(draws), -(-count // 4), dtype=torch.int64, device=device)
    for row, draw in zip(words, draws, strict=True):
        row.random_(-(1 << 63), None, generator=draw)
    return words.view(torch.int16)[:, :count].reshape(-1, *shape).float()


def losses(out_HBC: Tensor, y_HB: Tensor) -> Tensor:
    """Mean loss of every head, (H,): cross-entropy for classes, its binary form for tags, squared error for numbers."""
    if y_HB.dtype == torch.bool:
        return binary_cross_entropy_with_logits(out_HBC, y_HB.to(out_HBC), reduction="none").mean((1, 2))
    if y_HB.dtype == torch.int64:
        return cross_entropy(out_HBC.transpose(1, 2), y_HB, reduction="none").mean(1)
    return mse_loss(out_HBC[..., 0], y_HB, reduction="none").mean(1)


def loss_gradient(out_HBC: Tensor, y_HB: Tensor) -> Tensor:
    """Derivative of every head's own mean loss by its outputs."""
    if y_HB.dtype == torch.bool:
        return (out_HBC.sigmoid() - y_HB.to(out_HBC)) / (out_HBC.shape[1] * out_HBC.shape[2])
    if y_HB.dtype == torch.int64:
        g_HBC = out_HBC.softmax(2)
        g_HBC.scatter_add_(2, y_HB[..., None], g_HBC.new_full((*y_HB.shape, 1), -1.0))
        return g_HBC / out_HBC.shape[1]
    g_HBC = torch.zeros_like(out_HBC)
    g_HBC[..., 0] = 2 * (out_HBC[..., 0] - y_HB) / out_HBC.shape[1]
    return g_HBC


@dataclass
class Adam:
    """torch's fused kernel of Adam on stacked weights.

    ``torch.optim.Adam`` spends as long around the kernel as the kernel takes for a head.
    """

    weights: list[Tensor]
    gradients: list[Tensor]
    """Buffers that `backward` fills."""
    moments: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]
    learning_rate: float
    weight_decay: float

    @classmethod
    def of(cls, weights: list[Tensor], *, learning_rate: float, weight_decay: float) -> "Adam":
        """Before the first step."""
        moments, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
        steps = [torch.zeros((), device=weight.device) for weight in weights]
        gradients = [torch.empty_like(weight) for weight in weights]
        return cls(weights, gradients, moments, squares, steps, learning_rate, weight_decay)

    def step(self) -> None:
        """One update of all weights, in place."""
        torch._foreach_add_(self.steps, 1)
        torch._fused_adam_(
            self.weights,
            self.gradients,
            self.moments,
            self.squares,
            [],
            self.steps,
            lr=self.learning_rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def keep(self, keep_H: Tensor) -> None:
        """Drop the heads that have stopped; the others go on as if alone."""
        for tensors in (self.weights, self.gradients, self.moments, self.squares):
            tensors[:] = [tensor[keep_H] for tensor in tensors]
