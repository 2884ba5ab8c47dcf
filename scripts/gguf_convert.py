"""Copies a GGUF model with its tensors in another type, so that llama.cpp can be compared with on equal terms.

f32: llama.cpp multiplies quantised weights with activations that it rounds to 8 bits; with f32 weights a comparison of
its logits with ours (scripts/check_llama_cpp.mjs) shows nothing of that rounding. q8_0: the 8-bit type whose speed is
measured beside ours (scripts/bench-cpu.sh); vectors stay f32.

usage: gguf_convert.py MODEL.gguf OUT.gguf [--type f32|q8_0]        needs gguf and numpy
"""

import argparse

import numpy
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quantize

# The value of `general.file_type`, and the type of matrices.
TYPES = {
    "f32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
}

parser = argparse.ArgumentParser(description="GGUF -> GGUF of another type")
parser.add_argument("source")
parser.add_argument("out")
parser.add_argument("--type", choices=TYPES, default="f32")
args = parser.parse_args()
file_type, matrix_type = TYPES[args.type]

reader = GGUFReader(args.source)
writer = GGUFWriter(args.out, reader.fields["general.architecture"].contents())
for field in reader.fields.values():
    if field.name.startswith("GGUF.") or field.name == "general.architecture":
        continue
    kind = field.types[0]
    of = field.types[-1] if kind == GGUFValueType.ARRAY else None
    value = int(file_type) if field.name == "general.file_type" else field.contents()
    writer.add_key_value(field.name, value, kind, sub_type=of)
for tensor in reader.tensors:
    values = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
    if len(tensor.shape) == 1:
        writer.add_tensor(tensor.name, values)
    else:
        writer.add_tensor(tensor.name, quantize(values, matrix_type), raw_dtype=matrix_type)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
