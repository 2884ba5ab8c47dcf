"""Copies a GGUF model with all tensors widened to f32, so that llama.cpp computes without rounding activations.

llama.cpp multiplies quantised weights with activations that it rounds to 8 bits; a comparison of its logits with ours
(scripts/check_llama_cpp.mjs) then shows that rounding and nothing else.

needs   Python 3.11 with gguf, numpy
run     python scripts/gguf_f32.py MODEL.gguf MODEL_F32.gguf
"""

import sys

import numpy
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

reader = GGUFReader(sys.argv[1])
writer = GGUFWriter(sys.argv[2], reader.fields["general.architecture"].contents())
for field in reader.fields.values():
    if field.name.startswith("GGUF.") or field.name == "general.architecture":
        continue
    kind = field.types[0]
    of = field.types[-1] if kind == GGUFValueType.ARRAY else None
    value = 0 if field.name == "general.file_type" else field.contents()
    writer.add_key_value(field.name, value, kind, sub_type=of)
for tensor in reader.tensors:
    writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
