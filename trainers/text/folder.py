"""Text encoders from a folder of weights: BERT by our own module, other architectures by transformers, offline.

Shape suffixes: k texts, L tokens, E width.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cluster.files.storage import sha256
from cluster.settings import UserError, first_line
from trainers.text.bert import Bert, BertShape, pool
from trainers.text.config import Pooling, TextConfig
from trainers.text.encoder import TextEncoder, Tokens
from trainers.text.files import WEIGHTS, TextFiles, require_transformers
from trainers.text.wordpiece import WordPiece

_CLASSES = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
}
"""transformers' class of an architecture whose AutoModel is more than its text encoder."""


def build_folder(files: TextFiles, config: TextConfig) -> TextEncoder:
    """The encoder of a folder, with its published weights.
    Raises UserError if a file does not fit, or transformers is needed and not installed.
    """
    pooling = config.pooling or files.pooling()
    wordpiece = read_wordpiece(files) if files.is_bert else None
    if wordpiece is not None:
        return _build_bert(files, wordpiece, config, pooling)
    require_transformers(files)
    return Transformer(files, pooling=pooling, max_tokens=config.max_tokens, prefix=config.prefix)


def read_wordpiece(files: TextFiles) -> WordPiece | None:
    """The folder's tokenizer, where it is BERT's; None where it is another.
    Raises UserError if its vocabulary cannot be read.
    """
    about, whole = files.json("tokenizer_config.json") or {}, files.json("tokenizer.json")
    if whole is not None:
        model, normalizer = _object(whole, "model"), _object(whole, "normalizer")
        fits = model.get("type", "WordPiece") == "WordPiece" and model.get("continuing_subword_prefix") == "##"
        if not fits or normalizer.get("type") != "BertNormalizer" or not normalizer.get("handle_chinese_chars", True):
            return None
        vocabulary, lower = model.get("vocab"), normalizer.get("lowercase", True)
        strip_accents = normalizer.get("strip_accents")
    else:
        if not (files.folder / "vocab.txt").is_file() or not about.get("tokenize_chinese_chars", True):
            return None
        lines = (files.folder / "vocab.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines) if line}
        lower, strip_accents = about.get("do_lower_case", True), about.get("strip_accents")
    try:
        if not isinstance(vocabulary, Mapping) or not all(isinstance(number, int) for number in vocabulary.values()):
            raise ValueError("its vocabulary is not a table of pieces")
        return WordPiece(vocabulary, lower=bool(lower), strip_accents=strip_accents)
    except ValueError as error:
        raise UserError(f"{files.key}: the tokenizer cannot be read ({error}); download the folder again") from None


def _object(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tree.get(key)
    return found if isinstance(found, Mapping) else {}


def _build_bert(files: TextFiles, wordpiece: WordPiece, config: TextConfig, pooling: Pooling) -> Bert:
    try:
        shape = BertShape.read(files.config)
        if max(wordpiece.vocabulary.values()) >= shape.vocab_size:
            raise ValueError(f"its vocabulary has ids above vocab_size={shape.vocab_size}")
    except ValueError as error:
        raise UserError(f"{files.key}: config.json does not describe a BERT ({error})") from None
    if config.max_tokens > shape.max_position_embeddings:
        raise UserError(
            f"text.max_tokens={config.max_tokens}: {files.folder.name} reads at most {shape.max_position_embeddings} "
            f"tokens; set text.max_tokens={shape.max_position_embeddings} or fewer"
        )
    encoder = Bert(shape, wordpiece, pooling=pooling, max_tokens=config.max_tokens, prefix=config.prefix)
    try:
        encoder.load_published(load_file(files.folder / WEIGHTS))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"{files.key}: {WEIGHTS} does not fit ({first_line(error)}); download the folder again"
        ) from None
    return encoder


class Transformer(TextEncoder):
    """Any other architecture, through transformers: no hub, no code of the folder, no pickle.

    Args:
        files: the folder.
        pooling: how tokens become one vector.
        max_tokens: read of a text, marks of its begin and end included.
        prefix: put before every text.

    Raises:
        UserError: if transformers cannot read it.
    """

    def __init__(self, files: TextFiles, *, pooling: Pooling, max_tokens: int, prefix: str) -> None:
        super().__init__()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        offline: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        kind: Any = getattr(transformers, _CLASSES.get(files.model_type, "AutoModel"))
        try:
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(files.folder, **offline)
            model, loaded = kind.from_pretrained(
                files.folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **offline
            )
        except Exception as error:  # whatever transformers makes of a folder
            raise UserError(
                f"{files.key}: transformers cannot read this {files.model_type} model ({first_line(error)})"
            ) from None
        missing = sorted(name for name in loaded["missing_keys"] if "pooler" not in name)
        if missing:
            raise UserError(f"{files.key}: {WEIGHTS} has no {missing[0]}; download the folder again")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        self.model: nn.Module = model
        self.tokenizer, self.pooling, self.max_tokens, self.prefix = tokenizer, pooling, max_tokens, prefix
        self.width = int(model.config.hidden_size)
        self._tokenizer_files = sorted(
            (path.name, sha256(path)) for path in files.folder.iterdir() if path.is_file() and path.name != WEIGHTS
        )

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The longest list of blocks in the model."""
        lists = [part for part in self.model.modules() if isinstance(part, nn.ModuleList)]
        return list(max(lists, key=len, default=()))

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Ids of the folder's own tokenizer."""
        if not texts:
            empty = torch.zeros(0, 0)
            return Tokens(empty.int(), empty.bool())
        made = [self.prefix + text for text in texts]
        options: dict[str, Any] = {"truncation": True, "max_length": self.max_tokens, "padding": True}
        found = self.tokenizer(made, return_tensors="pt", return_overflowing_tokens=False, **options)
        lengths = [len(ids) for ids in self.tokenizer(made, truncation=False, verbose=False)["input_ids"]]
        cut = sum(length > self.max_tokens for length in lengths)
        return Tokens(found["input_ids"].int(), found["attention_mask"].bool(), cut)

    def tokenizer_state(self) -> bytes:
        """Hashes of the folder's small files, and what is done to a text before and after."""
        return repr((self._tokenizer_files, self.pooling, self.max_tokens, self.prefix)).encode()

    def forward(self, tokens: Tokens) -> Tensor:
        """One vector a text, (k, E)."""
        mask_kL = tokens.mask_kL
        found = self.model(input_ids=tokens.ids_kL.long(), attention_mask=mask_kL.long())
        return pool(found.last_hidden_state, mask_kL, self.pooling)
