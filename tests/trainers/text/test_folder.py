"""Encoders from a folder: our BERT and its tokenizer against published numbers, and what is refused."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cluster.settings import UserError
from tests.trainers.text.conftest import SHAPE, BertFolder
from trainers.text import files as text_files
from trainers.text.bert import Bert, pool
from trainers.text.build import build_text_encoder
from trainers.text.config import TextConfig
from trainers.text.encoder import TextEncoder
from trainers.text.wordpiece import WordPiece

MINILM: dict[str, Any] = json.loads((Path(__file__).parent / "minilm.json").read_text())
TORCH_NAMES = {
    "output": "self_attn.out_proj",
    "widen": "linear1",
    "narrow": "linear2",
    "norm": "norm1",
    "last_norm": "norm2",
}
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec(text_files.BUNDLED) is None, reason="the extra counterpoint-audio[text] is not installed"
)
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the extra counterpoint-audio[text] is not installed"
)


def from_folder(folder: Path, **keys: Any) -> TextEncoder:
    return build_text_encoder(TextConfig(encoder="folder", path=str(folder), **keys), seed=0)


def test_ids_are_those_of_tokenizers() -> None:
    """Pieces that a text does not use never change its ids, so the fixture holds those that some text uses."""
    wordpiece = WordPiece(MINILM["pieces"])
    for text, ids in zip(MINILM["texts"], MINILM["ids"], strict=True):
        found, cut = wordpiece.ids(text, 64)
        assert found == ids, repr(text)
        assert cut <= (len(ids) == 64)
    assert len(MINILM["texts"]) == 1000


@needs_minilm
def test_minilm_gives_the_published_vectors_without_importing_its_package() -> None:
    encoder = build_text_encoder(TextConfig(), seed=0)
    assert text_files.BUNDLED not in sys.modules
    assert isinstance(encoder, Bert)
    for text, ids in zip(MINILM["texts"], MINILM["ids"], strict=True):
        assert encoder.wordpiece.ids(text, 64)[0] == ids, repr(text)
    wanted = torch.tensor(MINILM["vectors"])
    assert torch.allclose(encoder.encode(MINILM["sentences"]), wanted, atol=1e-5)
    with torch.no_grad():
        together = encoder(encoder.tokenize([*MINILM["sentences"], "long " * 100]))
    assert torch.allclose(together[:5], wanted, atol=1e-5)
    assert set(encoder.state_dict()) == {"locked_hash"}


@needs_minilm
def test_a_changed_file_of_minilm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(text_files.BUNDLED_SHA256, "tokenizer.json", "0" * 64)
    with pytest.raises(UserError, match=r"tokenizer.json is not the published file; reinstall"):
        build_text_encoder(TextConfig(), seed=0)


def test_a_missing_extra_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BUNDLED", "no_such_module")
    with pytest.raises(UserError, match=r'pip install "counterpoint-audio\[text\]", or set text.encoder=words'):
        build_text_encoder(TextConfig(), seed=0)


def test_bert_is_the_published_formula(bert_folder: BertFolder) -> None:
    """Against torch's own transformer layer, which has post-norm and exact GELU."""
    encoder = from_folder(bert_folder())
    assert isinstance(encoder, Bert)
    tokens = encoder.tokenize(["a slow waltz with flutes.", "fast", "techno piece"])
    assert tokens.ids_kL[0].tolist() == [2, 4, 5, 6, 7, 8, 9, 12, 3]
    h_kLE = encoder.norm(
        encoder.words(tokens.ids_kL) + encoder.positions.weight[: tokens.ids_kL.shape[1]] + encoder.types.weight[0]
    )
    for block in encoder.blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", 1e-12, batch_first=True)
        parts = dict(block.named_parameters())
        state: dict[str, torch.Tensor] = {
            f"{there}.{leaf}": parts[f"{here}.{leaf}"]
            for here, there in TORCH_NAMES.items()
            for leaf in ("weight", "bias")
        }
        for leaf in ("weight", "bias"):
            qkv: list[torch.Tensor] = [parts[f"{name}.{leaf}"] for name in ("query", "key", "value")]
            state[f"self_attn.in_proj_{leaf}"] = torch.cat(qkv)
        layer.load_state_dict(state)
        h_kLE = layer.train()(h_kLE, src_key_padding_mask=~tokens.mask_kL)
    mask = tokens.mask_kL[..., None].float()
    wanted = (h_kLE * mask).sum(1) / mask.sum(1)
    assert torch.allclose(encoder(tokens), wanted, atol=1e-5)


def test_names_with_a_prefix_and_vocabularies_in_json_are_read(bert_folder: BertFolder) -> None:
    plain = bert_folder("plain")
    whole = bert_folder("whole", prefix="bert.")
    pieces = (whole / "vocab.txt").read_text().split()
    (whole / "tokenizer.json").write_text(
        json.dumps(
            {
                "normalizer": {"type": "BertNormalizer", "handle_chinese_chars": True, "lowercase": True},
                "model": {
                    "type": "WordPiece",
                    "continuing_subword_prefix": "##",
                    "vocab": {piece: number for number, piece in enumerate(pieces)},
                },
            }
        )
    )
    (whole / "vocab.txt").unlink()
    assert from_folder(plain).hash == from_folder(whole).hash


def test_top_layers_train_and_the_others_stay_in_evaluation_mode(bert_folder: BertFolder) -> None:
    encoder = from_folder(bert_folder(), trained="top:2")
    assert isinstance(encoder, Bert)
    encoder.train()
    assert [block.training for block in encoder.blocks] == [False, True, True]
    assert not encoder.norm.training
    encoder(encoder.tokenize(["a waltz"])).square().sum().backward()
    assert encoder.words.weight.grad is None
    assert all(weight.grad is None for weight in encoder.blocks[0].parameters())
    assert all(weight.grad is not None for name, weight in encoder.blocks[1].named_parameters() if name != "key.bias")
    names = {name.partition(".")[0] + name.partition(".")[2][:1] for name in encoder.state_dict()}
    assert names == {"locked_hash", "blocks1", "blocks2"}
    with pytest.raises(UserError, match=r"top:4: this text encoder has 3 layers; take at most so many"):
        from_folder(bert_folder("again"), trained="top:4")


@pytest.mark.parametrize(
    ("found", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_pooling_follows_the_folder(bert_folder: BertFolder, found: dict[str, object], pooling: str) -> None:
    folder = bert_folder()
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(found))
    encoder = from_folder(folder)
    assert isinstance(encoder, Bert)
    assert encoder.pooling == pooling
    assert from_folder(folder, pooling="eos").hash != encoder.hash


def test_each_pooling_takes_what_it_names() -> None:
    h_kLE = torch.arange(12.0).view(1, 4, 3)
    mask_kL = torch.tensor([[True, True, True, False]])
    assert pool(h_kLE, mask_kL, "cls").tolist() == [[0, 1, 2]]
    assert pool(h_kLE, mask_kL, "last").tolist() == pool(h_kLE, mask_kL, "eos").tolist() == [[6, 7, 8]]
    assert pool(h_kLE, mask_kL, "mean").tolist() == [[3, 4, 5]]


def test_what_is_no_text_encoder_is_refused(bert_folder: BertFolder, tmp_path: Path) -> None:
    def refused(problem: str, folder: Path | str, **keys: Any) -> None:
        with pytest.raises(UserError, match=problem) as error:
            build_text_encoder(TextConfig(encoder="folder", path=str(folder), **keys), seed=0)
        assert "\n" not in str(error.value)

    refused("no such folder, and no name is looked up on a hub; download", "sentence-transformers/all-MiniLM-L6-v2")
    refused("no such folder", "bert-base-uncased")
    refused("has no config.json", tmp_path)
    pickled = bert_folder("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused("its weights are pickled .pytorch_model.bin.*save them as safetensors", pickled)
    (pickled / "pytorch_model.bin").unlink()
    refused("has no model.safetensors", pickled)
    refused("text.max_tokens=200: long reads at most 128 tokens", bert_folder("long"), max_tokens=200)
    refused("config.json does not describe a BERT .hidden_size must be", bert_folder("width", hidden_size="8"))
    refused("its config.json says .14, 16", bert_folder("wide", hidden_size=16))
    refused("it has no tensor encoder.layer.3", bert_folder("deep", num_hidden_layers=4))
    refused("ids above vocab_size=5", bert_folder("small", vocab_size=5))
    damaged = bert_folder("damaged")
    (damaged / "model.safetensors").write_bytes(b"not weights")
    refused("model.safetensors does not fit", damaged)
    (damaged / "config.json").write_text("{")
    refused("config.json cannot be read", damaged)
    pooled = bert_folder("pooled")
    (pooled / "1_Pooling").mkdir()
    (pooled / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    refused("asks for pooling_mode_max_tokens.*text.pooling=mean", pooled)


def test_another_architecture_needs_transformers(bert_folder: BertFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else found(name))
    with pytest.raises(UserError, match=r"of type modernbert .* which is not installed; pip install"):
        from_folder(bert_folder(model_type="modernbert"))


@needs_transformers
def test_transformers_reads_what_bert_reads(bert_folder: BertFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bert_folder()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    ours = from_folder(folder)
    monkeypatch.setattr(text_files.TextFiles, "is_bert", property(lambda _: False))
    theirs = from_folder(folder)
    texts = ["a slow waltz with flutes.", "fast techno", "", "waltz " * 200]
    assert torch.allclose(ours.encode(texts), theirs.encode(texts), atol=1e-5)
    assert theirs.tokenize(texts).truncated == ours.tokenize(texts).truncated == 1
    assert len(theirs.layers) == SHAPE["num_hidden_layers"]


@needs_transformers
def test_a_folder_that_is_no_text_model_is_refused(bert_folder: BertFolder) -> None:
    with pytest.raises(UserError, match="transformers cannot read this vit model"):
        from_folder(bert_folder(model_type="vit"))
