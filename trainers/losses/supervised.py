"""End-to-end supervision, the baseline of Table 2: logits against tags or a class, exact for the global batch.

An unlabelled row may have any tags: it is left out of the mean. A batch without any labelled row has loss 0.
Every rank of the group must call.

Shape suffixes: N rows of this rank, C tags or classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from trainers.distributed import collectives
from trainers.distributed.collectives import Group


def tag_loss(logits_NC: Tensor, labels_NC: Tensor) -> Tensor:
    """Binary cross-entropy of each row: the mean over its C tags, each there or not, in nats."""
    return functional.binary_cross_entropy_with_logits(logits_NC, labels_NC.to(logits_NC), reduction="none").mean(1)


def class_loss(logits_NC: Tensor, labels_NC: Tensor) -> Tensor:
    """Cross-entropy of each row, in nats; a row with several labels belongs to each in equal shares."""
    target_NC = labels_NC.to(logits_NC)
    target_NC = target_NC / target_NC.sum(1, keepdim=True).clamp(min=1)
    return functional.cross_entropy(logits_NC, target_NC, reduction="none")


ROW_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bce": tag_loss, "cross_entropy": class_loss}


def supervised_loss(logits: Tensor, labels: Tensor, *, objective: str = "bce", group: Group = None) -> Tensor:
    """Mean loss over the labelled rows of all ranks.

    The gradient is W times this rank's part of the global one, since DDP averages over W ranks, as for the contrastive
    loss; ranks may hold different numbers of labelled rows.

    Args:
        logits: of this rank, shape (N, C).
        labels: shape (N, C), bool; an all-False row is unlabelled.
        objective: ``bce`` for tags, ``cross_entropy`` for one class.
        group: ranks that form the global batch; None is the default group, or this process alone.

    Returns:
        Scalar in nats, the same bits on every rank.

    Raises:
        ValueError: for an unknown objective or shapes that disagree.

    >>> supervised_loss(torch.zeros(2, 4), torch.eye(4)[:2].bool(), objective="cross_entropy").exp()
    tensor(4.)
    """
    if objective not in ROW_LOSSES:
        raise ValueError(f"objective must be one of {', '.join(ROW_LOSSES)}, got {objective!r}")
    if labels.shape != logits.shape or labels.dtype != torch.bool or logits.ndim != 2:
        raise ValueError(
            f"labels must be bool of the logits' shape {tuple(logits.shape)}, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    labelled_N = labels.any(1)
    num_labelled = collectives.all_reduce(labelled_N.sum(), "sum", group).clamp(min=1)
    world = collectives.world_size(group)
    # DDP's mean over ranks turns W·(own sum)/(labelled rows of all) into the gradient of the global mean.
    own = ROW_LOSSES[objective](logits, labels).where(labelled_N, 0).sum() * world / num_labelled
    # Summed in rank order and not by an all-reduce: the same bits everywhere.
    value = collectives.all_gather(own.detach()[None], group).mean()
    return own - own.detach() + value
