"""Whether llama.cpp loads a GGUF that `rag-tune merge --gguf` wrote, tokenises as we do, and gives our logits.

    rag-tune merge --adapter RUN --out merged_gguf --gguf
    rag-tune debug-logits --config CONFIG --set model.base=merged_gguf --set model.quantization=none --set model.compute=f32 \\
        --ids 504,282,260 --json > logits.json
    python scripts/check_gguf.py merged_gguf/*.gguf logits.json [--converted CONVERTED.gguf] [--tokenizer FOLDER]

--converted compares every key and tensor with the file that llama.cpp's own convert_hf_to_gguf.py --outtype q8_0 makes of the same merged
model in safetensors; --tokenizer the ids of some texts with those of the tokenizer.json in a folder. llama.cpp multiplies Q8_0 weights with
activations that it rounds to 8 bits, so its logits are near ours, and the same only where the weights are dequantised first
(scripts/gguf_convert.py).

needs   Python 3.11 with gguf, numpy, llama-cpp-python==0.3.36; tokenizers for --tokenizer
"""

import argparse
import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

TEXTS = [
    "SELECT count(*) FROM singer WHERE age >= 18",
    "  two  spaces\n\n\ttab 3.14159 it's",
    "na\u00efve \u4f60\u597d \U0001f600 x",
    "<|im_start|>user\nHi<|im_end|>",
]
# The converter takes them from places that a merge does not read, or names the model after its folder.
NOT_COMPARED = ("GGUF.", "general.name", "general.size_label", "general.basename", "general.base_model", "general.finetune",
                "general.organization", "general.license", "general.tags", "general.languages", "general.version",
                "general.sampling")  # fmt: skip


def compare_files(ours: gguf.GGUFReader, theirs: gguf.GGUFReader) -> bool:
    def keys(reader: gguf.GGUFReader) -> dict:
        return {key: field.contents() for key, field in reader.fields.items() if not key.startswith(NOT_COMPARED)}

    a, b = keys(ours), keys(theirs)
    for key in sorted(a.keys() | b.keys()):
        if key not in a or key not in b:
            print(f"  {key}: only in {'ours' if key in a else 'the converted one'}: {str(a.get(key, b.get(key)))[:80]}")
        elif a[key] != b[key]:
            if isinstance(a[key], list) and len(a[key]) == len(b[key]):
                at = [index for index, (x, y) in enumerate(zip(a[key], b[key])) if x != y]
                print(f"  {key}: {len(at)} entries differ, the first at {at[0]}: {a[key][at[0]]!r} {b[key][at[0]]!r}")
            else:
                print(f"  {key}: {str(a[key])[:80]!r} {str(b[key])[:80]!r}")
    own = {tensor.name: tensor for tensor in ours.tensors}
    equal = 0
    for tensor in theirs.tensors:
        other = own.pop(tensor.name, None)
        if other is None or other.tensor_type != tensor.tensor_type or not np.array_equal(other.data, tensor.data):
            print(f"  {tensor.name} differs")
        else:
            equal += 1
    print(f"converted: {equal} of {len(theirs.tensors)} tensors equal byte for byte, {len(own)} of ours are not in it")
    return equal == len(theirs.tensors) and not own


def main() -> None:
    parser = argparse.ArgumentParser(description="checks a merged GGUF with llama.cpp")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("logits", type=Path)
    parser.add_argument("--converted", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    args = parser.parse_args()

    reader = gguf.GGUFReader(args.gguf)
    kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    print(f"{args.gguf.name}: {len(reader.fields)} keys, {len(reader.tensors)} tensors of {', '.join(kinds)}")
    ok = True
    if args.converted:
        ok &= compare_files(reader, gguf.GGUFReader(args.converted))

    llama = llama_cpp.Llama(str(args.gguf), n_ctx=512, n_batch=512, logits_all=True, verbose=False)
    if args.tokenizer:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
        same = 0
        for text in TEXTS:
            theirs = tokenizer.encode(text, add_special_tokens=False).ids
            ids = llama.tokenize(text.encode(), add_bos=False, special=True)
            same += ids == theirs
            if ids != theirs:
                print(f"  {text!r}: llama.cpp {ids}, tokenizer.json {theirs}")
        print(f"tokens: {same} of {len(TEXTS)} texts have the ids of tokenizer.json")
        ok &= same == len(TEXTS)

    ours = json.loads(args.logits.read_text())
    llama.reset()
    llama.eval(ours["ids"])
    theirs = np.array(llama.scores[len(ours["ids"]) - 1])
    logits = np.array(ours["logits_last"])
    apart, spread = np.abs(theirs - logits).max(), np.ptp(logits)
    best = int(theirs.argmax()) == int(logits.argmax())
    print(f"logits: at most {apart:.3e} apart, {100 * apart / spread:.3f} % of their spread; the same best token: {best}")
    ok &= bool(best) and apart < 0.05 * spread
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
