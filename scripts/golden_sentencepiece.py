#!/usr/bin/env python3
"""Golden token ids of SentencePiece itself, for a tiny model that is trained here.

Writes tests/fixtures/model/sentencepiece/: tokenizer.model (byte-pair encoding with byte fallback, set up as Llama's: text
as it is, spaces as `▁`, one before every text), the same pieces trained as a unigram model, and golden.json. The tests of
crates/rag-tune-model/src/tokenizer check the ids; golden_tokens.py makes those of the real vocabularies.

    scripts/python-env.sh
    .cache/python/bin/pip install sentencepiece==0.2.3 protobuf
    .cache/python/bin/python scripts/golden_sentencepiece.py
"""

import io
import json
import random
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests/fixtures/model/sentencepiece"
# CodeLlama's vocabulary has these as ordinary pieces with the score 0.
INFILLING = ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
USER_DEFINED = "<turn>"

EXAMPLES = [
    "",
    " ",
    "a",
    " a",
    "  two spaces first, three last   ",
    " " * 40 + "x",
    "def f(x):\n    return x\n\n\tpass\r\n",
    "SELECT count(*) FROM head WHERE age > 56",
    "Čeština, 日本語, العربية, ½ ² ٣, 🙂👩‍👩‍👧",
    "naïve café",
    "\x00\x01\x7f",
    "a literal ▁ here▁▁",
    "-----====***___....",
    "aaaaaaaaaaaaaaaaaaaa",
]


def corpus() -> list[str]:
    """Text of this repository: lines of its own scripts and of its README."""
    files = [ROOT / "scripts/golden_llama.py", ROOT / "README.md"]
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line]


def train(model_type: str, vocab_size: int) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type=model_type,
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=0.99,
        user_defined_symbols=[USER_DEFINED],
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def with_runs_and_infilling(model: bytes) -> bytes:
    """As Llama's, with runs of spaces that share the lowest score, and CodeLlama's tokens."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    known = {piece.piece for piece in proto.pieces}
    for length in range(2, 9):
        if "▁" * length not in known:
            proto.pieces.add(piece="▁" * length, score=-1e9)
    for token in INFILLING:
        proto.pieces.add(piece=token, score=0.0)
    return proto.SerializeToString()


def random_texts() -> list[str]:
    """Short texts of few different parts, in which many merges compete."""
    rng = random.Random(7)
    parts = [" ", "  ", "\n", "\t", "e", "ee", "t", "th", "the", "-", "--", "=", "1", "12", "é", "日", "🙂", "▁", "_", "x"]
    texts = []
    for _ in range(200):
        some = rng.sample(parts, rng.choice([1, 2, 3, 6]))
        texts.append("".join(rng.choice(some) for _ in range(rng.randint(1, 24))))
    return texts


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = with_runs_and_infilling(train("bpe", 600))
    (FOLDER / "tokenizer.model").write_bytes(model)
    (FOLDER / "unigram.model").write_bytes(train("unigram", 400))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = EXAMPLES + random_texts()
    golden = {
        "made_by": "scripts/golden_sentencepiece.py",
        "sentencepiece": sentencepiece.__version__,
        "tokens": {token: processor.piece_to_id(token) for token in [*INFILLING, USER_DEFINED]},
        "examples": [
            {"text": text, "ids": ids, "decoded": processor.decode(ids)}
            for text in texts
            for ids in [processor.encode(text)]
        ],
    }
    plain = json.dumps(golden, ensure_ascii=False)
    plain = plain.replace("[{", "[\n{").replace("}, {", "},\n{").replace("}]", "}\n]")
    (FOLDER / "golden.json").write_text(plain + "\n", encoding="utf-8")
    print(f"{processor.get_piece_size()} pieces, {len(texts)} texts")


main()
