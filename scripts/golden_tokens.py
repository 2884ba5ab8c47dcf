#!/usr/bin/env python3
"""Golden token ids: what the original tokenizers make of every text of the data sets.

Writes tests/fixtures/model/golden_tokens.json, which the tests of
crates/rag-tune-model/src/tokenizer check. Per data file: the number of texts and of
tokens, and one sha256 over all ids. A few texts are listed with their ids, so that a
difference can be looked at.

    scripts/python-env.sh
    .cache/python/bin/pip install sentencepiece==0.2.3
    RAG_TUNE_MIRROR=DIR .cache/python/bin/python scripts/golden_tokens.py

DIR holds models/HuggingFaceTB/SmolLM2-135M-Instruct/*.gguf,
models/codellama/CodeLlama-7b-Python-hf/tokenizer.json,
models/meta-llama/Llama-2-7b-hf/tokenizer.model and datasets/.
"""

import hashlib
import json
import os
import struct
from pathlib import Path

import sentencepiece
import tokenizers
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

FIXTURE = Path(__file__).parent.parent / "tests/fixtures/model/golden_tokens.json"
SMOLLM2 = "models/HuggingFaceTB/SmolLM2-135M-Instruct"
CODE_LLAMA = "models/codellama/CodeLlama-7b-Python-hf"
LLAMA_2 = "models/meta-llama/Llama-2-7b-hf"

EXAMPLES = [
    "",
    " ",
    "SELECT count(*) FROM head WHERE age > 56",
    "There are 220 castles.  40 percent of them cost £1,234.50 in 2023",
    "  two spaces first, three last   ",
    "a\n\nb\r\n\tc\n",
    "Čeština, 日本語, العربية, ½ ² ٣, 🙂👩‍👩‍👧",
    "We've said it's DON'T",
    "CREATE TABLE t (id INTEGER, name VARCHAR(20))\n\n### Response:\nSELECT name FROM t",
]
# Text of a control token inside a text.
SMOLLM2_EXAMPLES = ["<|im_start|>user\nhi<|im_end|>\n", "a<|endoftext|>b <repo_name>"]
CODE_LLAMA_EXAMPLES = [
    "▁<PRE> def f(x):\n    return ▁<SUF>\n\nprint(f(1)) ▁<MID>",
    "▁<PRE>▁<SUF>▁<MID>x + 1▁<EOT>",
    "a</s> b",
]
SENTENCEPIECE_EXAMPLES = [
    " leading, and " + " " * 40 + "many",
    "\t\ttabs\r\n\x00\x7f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ------------------- ======",
    "a literal ▁ here▁▁ and <0x41>",
]


def smollm2(mirror: Path):
    """transformers' conversion of the GGUF, with the pre-tokenizer of the original.

    The conversion ignores `tokenizer.ggml.pre` = "smollm" and so drops the step that
    splits digits one by one ("  4" then gives two single spaces instead of one double
    space). The original tokenizer.json has that step before its ByteLevel.
    """
    [gguf] = (mirror / SMOLLM2).glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(mirror / SMOLLM2, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return lambda text: tokenizer(text)["input_ids"]


def code_llama(mirror: Path):
    """The published tokenizer.json, as it is.

    transformers 5 rebuilds this tokenizer with another rule for a text that begins with
    a space, and for one after a special token. No text of the data sets is such, so there
    both must agree: checked at each.
    """
    rebuilt = AutoTokenizer.from_pretrained(mirror / CODE_LLAMA)
    published = tokenizers.Tokenizer.from_file(str(mirror / CODE_LLAMA / "tokenizer.json"))

    def encode(text: str) -> list[int]:
        ids = published.encode(text).ids
        special = text.startswith(" ") or not text or any(id > 31_999 for id in ids) or 2 in ids
        assert special or ids == rebuilt(text)["input_ids"], text
        return ids

    return encode


def llama_2(mirror: Path):
    """SentencePiece itself, and BOS."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(mirror / LLAMA_2 / "tokenizer.model"))
    return lambda text: [processor.bos_id(), *processor.encode(text)]


def texts(line: str) -> list[str]:
    """Every text field of a row, and all of them in one text, as a prompt has them."""
    fields = [value for value in json.loads(line).values() if isinstance(value, str)]
    return fields + ["\n\n".join(fields)]


def file_record(path: Path, name: str, encode) -> dict:
    digest, text_count, token_count = hashlib.sha256(), 0, 0
    for line in path.read_text(encoding="utf-8").split("\n"):
        for text in texts(line) if line else []:
            ids = encode(text)
            # Each text ends with a mark, so that moving a token to its neighbour shows.
            digest.update(struct.pack(f"<{len(ids) + 1}I", *ids, 0xFFFF_FFFF))
            text_count += 1
            token_count += len(ids)
    return {"path": name, "texts": text_count, "tokens": token_count, "sha256": digest.hexdigest()}


def one_record_a_line(golden: dict) -> str:
    """JSON that diffs well: `json.dumps` would give every id its own line."""
    plain = json.dumps(golden, ensure_ascii=False)
    return plain.replace("[{", "[\n{").replace("}, {", "},\n{").replace("}]", "}\n]")


def main() -> None:
    mirror = Path(os.environ["RAG_TUNE_MIRROR"])
    data = sorted(Path(path) for path in (mirror / "datasets").resolve().rglob("*.jsonl"))
    root = (mirror / "datasets").resolve()
    golden = {
        "made_by": "scripts/golden_tokens.py",
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "sentencepiece": sentencepiece.__version__,
        "models": [],
    }
    for model, encode, more in [
        (SMOLLM2, smollm2(mirror), SMOLLM2_EXAMPLES),
        (CODE_LLAMA, code_llama(mirror), CODE_LLAMA_EXAMPLES),
        (LLAMA_2, llama_2(mirror), SENTENCEPIECE_EXAMPLES),
    ]:
        golden["models"].append(
            {
                "model": model,
                "files": [file_record(path, str(path.relative_to(root)), encode) for path in data],
                "examples": [{"text": text, "ids": encode(text)} for text in EXAMPLES + more],
            }
        )
    FIXTURE.write_text(one_record_a_line(golden) + "\n", encoding="utf-8")


main()
