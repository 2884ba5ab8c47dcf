"""Whether llama.cpp gives the ids of golden_sentencepiece.py and golden_tokens.py, from a GGUF with the vocabulary alone.

    .cache/python/bin/pip install sentencepiece==0.2.3 protobuf gguf llama-cpp-python==0.3.36
    .cache/python/bin/python scripts/check_llama_cpp_tokens.py [LLAMA_2_TOKENIZER_MODEL]
"""

import json
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
from sentencepiece import sentencepiece_model_pb2

FIXTURES = Path(__file__).parent.parent / "tests/fixtures/model"


def write_vocabulary(model: Path, out: Path) -> None:
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.read_bytes())
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_vocab_size(len(proto.pieces))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.piece.encode() for piece in proto.pieces])
    writer.add_token_scores([piece.score for piece in proto.pieces])
    writer.add_token_types([piece.type for piece in proto.pieces])
    writer.add_bos_token_id(proto.trainer_spec.bos_id)
    writer.add_eos_token_id(proto.trainer_spec.eos_id)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(model: Path, examples: list[dict]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        write_vocabulary(model, path)
        llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        different = []
        for example in examples:
            # Lists of real vocabularies have BOS, the tiny one's have not.
            add_bos = example["ids"][:1] == [llama.token_bos()]
            ids = llama.tokenize(example["text"].encode(), add_bos=add_bos, special=True)
            if ids != example["ids"]:
                different.append((example, ids))
    print(f"{model}: {len(examples)} texts, {len(different)} with other ids")
    for example, ids in different[:5]:
        print(f"  {example['text']!r}: {ids} for {example['ids']}")
    return not different


def main() -> None:
    tiny = FIXTURES / "sentencepiece"
    same = check(tiny / "tokenizer.model", json.loads((tiny / "golden.json").read_text())["examples"])
    for model in sys.argv[1:]:
        models = json.loads((FIXTURES / "golden_tokens.json").read_text())["models"]
        [llama_2] = [entry for entry in models if "Llama-2" in entry["model"]]
        same &= check(Path(model), llama_2["examples"])
    sys.exit(0 if same else 1)


main()
