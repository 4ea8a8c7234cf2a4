"""Keys of tasks that compare clips with texts, in the space of a text tower."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from cluster.settings import Config

TEXT_KINDS = {
    "text_retrieval": "evaluation.tasks.text_retrieval:TextRetrieval",
    "zero_shot": "evaluation.tasks.zero_shot:ZeroShot",
    "attribute_swap": "evaluation.tasks.attribute_swap:AttributeSwap",
    "partial_query": "evaluation.tasks.partial_query:PartialQuery",
}
"""Kinds of tasks about texts, imported when a task is read."""
OF_KINDS = {
    "captions": ("text_retrieval", "attribute_swap"),
    "pool": ("text_retrieval",),
    "pools": ("text_retrieval",),
    "prompts": ("zero_shot",),
    "dictionary": ("attribute_swap", "partial_query"),
    "tags": ("partial_query",),
}
"""Kinds that read a key."""
PROMPTS = ("{}", "{} music", "this sounds like {}", "A {} track")
"""Of arXiv:2506.17815."""


@dataclass(frozen=True, kw_only=True)
class TextTask(Config):
    """Settings of the kinds of `TEXT_KINDS`."""

    captions: Literal["all", "first"] = "all"
    """text_retrieval and attribute_swap: all captions of a clip, or the first alone."""
    pool: int = 0
    """text_retrieval: clips that a query is ranked in, drawn at random; 0 is all of the split. Ranks in pools of
    different sizes cannot be compared."""
    pools: int = 20
    """text_retrieval: pools that a metric is the mean of."""
    prompts: tuple[str, ...] = PROMPTS
    """zero_shot: sentences around a class, ``{}`` in its place; the ensemble of all is reported, and each by itself."""
    dictionary: str = "music"
    """attribute_swap and partial_query: a file of conf/swaps, or the path of another."""
    tags: int = 3
    """partial_query: tags of a query."""

    def check_texts(self, kind: str) -> None:
        """Refuse keys that a kind does not read, and values out of range. The ValueError names the key."""
        for item in fields(TextTask):
            if getattr(self, item.name) != item.default and kind not in OF_KINDS[item.name] and ":" not in kind:
                raise ValueError(f"{item.name} is a setting of kind={' or '.join(OF_KINDS[item.name])}; leave it out")
        if self.pool < 0 or self.pool == 1 or self.pools < 1:
            raise ValueError(f"pool must be 0 (all) or >= 2, and pools >= 1, got {self.pool} and {self.pools}")
        self.require(">= 1", "tags")
        check_prompts(self.prompts)


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse prompts without one place for a class. The ValueError names the prompt."""
    if not prompts or len(set(prompts)) < len(prompts):
        raise ValueError("prompts must be different, at least one")
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise ValueError(f"prompts must have one {{}} where the class stands, got {prompt!r}")


def in_prompts(names: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Every name in every prompt, prompt after prompt; ``hip_hop`` is spoken "hip hop".

    >>> in_prompts(["hip_hop", "folk"], ["{}", "{} music"])
    ['hip hop', 'folk', 'hip hop music', 'folk music']
    """
    return [prompt.replace("{}", name.replace("_", " ").strip()) for prompt in prompts for name in names]
