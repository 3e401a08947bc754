"""A GGUF file in which every matrix of another one is bfloat16: bf16_gguf.py FROM TO."""

import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize

source = GGUFReader(sys.argv[1])
out = GGUFWriter(sys.argv[2], source.fields["general.architecture"].contents())
for name, field in source.fields.items():
    if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
        continue
    kind = field.types[0]
    sub = field.types[-1] if kind == GGUFValueType.ARRAY else None
    out.add_key_value(name, field.contents(), kind, sub_type=sub)
for tensor in source.tensors:
    values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape([int(n) for n in reversed(tensor.shape)])
    if values.ndim == 1:
        out.add_tensor(tensor.name, values)
        continue
    bits = values.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    out.add_tensor(tensor.name, rounded.view(np.uint8).reshape(*rounded.shape[:-1], -1), raw_dtype=GGMLQuantizationType.BF16)
out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
