"""A tiny BERT as a folder, as save_pretrained writes it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "slow",
    "waltz",
    "with",
    "flute",
    "##s",
    "fast",
    "techno",
    ".",
    "piece",
]
SHAPE = {
    "model_type": "bert", "vocab_size": len(PIECES), "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 12, "max_position_embeddings": 128, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}  # fmt: skip

BertFolder = Callable[..., Path]


@pytest.fixture
def bert_folder(tmp_path: Path) -> BertFolder:
    """Makes the folder; keyword arguments change its config.json."""

    def make(name: str = "bert", prefix: str = "", **changes: Any) -> Path:
        folder, shape = tmp_path / name, SHAPE | changes
        folder.mkdir()
        draw = torch.Generator().manual_seed(5)
        width, inner = 8, 12
        sizes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (len(PIECES), width),
            "embeddings.position_embeddings.weight": (128, width),
            "embeddings.token_type_embeddings.weight": (2, width),
            "embeddings.LayerNorm.weight": (width,),
            "embeddings.LayerNorm.bias": (width,),
            "pooler.dense.weight": (width, width),
        }
        for number in range(3):
            at = f"encoder.layer.{number}."
            for part in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
            ):
                sizes |= {f"{at}{part}.weight": (width, width), f"{at}{part}.bias": (width,)}
            sizes |= {f"{at}intermediate.dense.weight": (inner, width), f"{at}intermediate.dense.bias": (inner,)}
            sizes |= {f"{at}output.dense.weight": (width, inner), f"{at}output.dense.bias": (width,)}
            for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
                sizes |= {f"{at}{norm}.weight": (width,), f"{at}{norm}.bias": (width,)}
        weights = {prefix + key: torch.randn(size, generator=draw) for key, size in sizes.items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text(
            json.dumps({key: value for key, value in shape.items() if value is not None})
        )
        (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
        return folder

    return make
