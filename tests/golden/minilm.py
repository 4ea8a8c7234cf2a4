"""Makes tests/trainers/text/minilm.json: token ids and sentence vectors of MiniLM, by tokenizers and transformers.

Run once in an environment of its own with tokenizers 0.23 and transformers 5.24, which the tests do not need:

    python tests/golden/minilm.py FOLDER_OF_MINILM
"""

import json
import random
import sys
from pathlib import Path

OUT = Path(__file__).parents[1] / "trainers" / "text" / "minilm.json"
WORDS = (
    "slow fast dreamy waltz flute electric guitar acoustic drums minor major key in the a an of with and piece song "
    "Café naïve Übung señor Ångström façade Łódź İstanbul ΣΊΣΥΦΟΣ straße Ａｂｃ ﬁne Größe crème brûlée jalapeño Dvořák "
    "静かな曲 音楽 ピアノ 音 古筝 한국어 노래 музыка Ёлка быстрый موسيقى हिन्दी संगीत ดนตรี ελληνικά שלום नमस्ते 𠀀𠀁 豈 "
    "🎹 🎸 👩‍🎤 🇩🇪 🥁🎺 ❤️ ☕ ♫ ♯ ♭ 4/4 120bpm C# don't rock'n'roll (live) [demo] $100 50% a_b x=y <tag> "
    "~ ^ ` | № … “quote” — – "
    "supercalifragilisticexpialidocious qqqqzzzz " + "long" * 30
).split(" ")
SENTENCES = (
    "A slow dreamy piece with a flute in a minor key.",
    "fast techno",
    "Café music with naïve melodies, 120 bpm!",
    "静かなピアノ曲 🎹",
    "The track has a warm electric guitar, brushed drums and a walking bass, and it is played live in a small club.",
)


def texts() -> list[str]:
    """A thousand texts of words of many scripts, with odd blanks and characters."""
    draw = random.Random(7)
    made = [
        "",
        " ",
        "\t\n",
        "a\u200bb",
        "a\xadb",
        "x\x00y\ufffdz",
        "e\u0301",
        "a\u2028b",
        "a\u00a0b",
        "a\u3000b\u0085c",
    ]
    while len(made) < 1000:
        words = [draw.choice(WORDS) for _ in range(draw.randint(1, 10))]
        if draw.random() < 0.3:
            words.append(
                "".join(
                    chr(draw.choice([draw.randrange(32, 0x2E00), draw.randrange(0x1F300, 0x1F6FF)])) for _ in range(4)
                )
            )
        made.append(draw.choice([" ", "  ", "", ", ", "\n"]).join(words))
    return made


def main() -> None:
    """Write the fixture."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    folder = Path(sys.argv[1])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    corpus = texts()
    ids = [tokenizer.encode(text).ids for text in corpus]
    used = sorted({one for row in ids for one in row} | {100})
    model = BertModel.from_pretrained(folder, local_files_only=True).eval()
    vectors = []
    with torch.no_grad():
        for sentence in SENTENCES:
            h_1LE = model(input_ids=torch.tensor([tokenizer.encode(sentence).ids])).last_hidden_state
            vectors.append([round(value, 7) for value in h_1LE.mean(1)[0].tolist()])
    pieces = {tokenizer.id_to_token(one): one for one in used}
    found = {"pieces": pieces, "texts": corpus, "ids": ids, "sentences": SENTENCES, "vectors": vectors}
    OUT.write_text(json.dumps(found, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
