#!/usr/bin/env python3
"""Tiny static embeddings with random vectors, and what model2vec makes of a few texts with them.

Writes one folder per model, and golden.json, into crates/rag-tune-augment/tests/fixtures/static/, which
tests/encoders.rs of that crate checks.

    python3 -m venv DIR && DIR/bin/pip install model2vec
    DIR/bin/python scripts/golden_static.py
"""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
from model2vec import StaticModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

FIXTURES = Path(__file__).parents[1] / "crates/rag-tune-augment/tests/fixtures/static"

TEXTS = [
    "How many heads of the departments are older than 56 ?",
    "",
    "Café 日本語 🙂 heads",  # partly unknown
    "word heads " * 60,  # beyond the limit of the second model
]


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    corpus = [TEXTS[0], TEXTS[3], "Which singers are from France?"]
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=["[PAD]", "[UNK]"])
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def main():
    random = np.random.default_rng(7)
    tokenizer = word_piece()
    tokens = tokenizer.get_vocab_size()
    vectors = random.normal(size=(tokens, 12)).astype(np.float32)
    clusters = random.integers(-127, 128, size=(20, 12)).astype(np.int8)
    made = {
        "float32": StaticModel(vectors, tokenizer, config={"model_type": "model2vec"}, normalize=True),
        # Several tokens share a vector of 8-bit integers, each with a weight of its own.
        "vocabulary_quantized": StaticModel(
            clusters,
            tokenizer,
            config={"model_type": "model2vec"},
            weights=random.uniform(0.1, 1, size=tokens).astype(np.float32),
            token_mapping=random.integers(0, 20, size=tokens),
            max_length=16,
        ),
    }
    shutil.rmtree(FIXTURES, ignore_errors=True)
    golden = {"made_by": f"golden_static.py, model2vec {version('model2vec')}", "texts": TEXTS, "cases": []}
    for name, model in made.items():
        model.save_pretrained(FIXTURES / name)
        (FIXTURES / name / "README.md").unlink(missing_ok=True)
        vectors = StaticModel.from_pretrained(FIXTURES / name).encode(TEXTS).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-32
        rounded = [[round(float(x), 7) for x in vector] for vector in vectors]
        golden["cases"].append({"model": name, "prompt": "", "vectors": rounded})
    (FIXTURES / "golden.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
