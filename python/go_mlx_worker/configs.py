"""The JSON files of a model's folder: what is wrong with one is said with its name and the key, which mlx-lm and transformers do not say."""

import json
from pathlib import Path

from .errors import RequestError

# Of every kind of model that has the key, its value is a number, and of the second ones one above zero.
NUMBERS = ("rms_norm_eps", "layer_norm_eps", "rope_theta", "rope_local_base_freq", "query_pre_attn_scalar", "partial_rotary_factor")
COUNTS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "sliding_window",
    "sliding_window_pattern",
    "num_experts",
    "num_local_experts",
)
OBJECTS = ("text_config", "rope_scaling", "rope_parameters", "quantization")
KINDS = {type(None): "null", str: "a text", bool: "true or false", list: "a list", dict: "an object", int: "a number", float: "a number"}


def check_file(folder, name):
    """The file's object; an error that names the file if mlx-lm could not read it."""
    path = Path(folder, name)
    data = path.read_bytes()
    wrong = None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        wrong = "it is UTF-16: save it as UTF-8"
    elif data.startswith(b"\xef\xbb\xbf"):
        wrong = "it begins with a byte order mark, which mlx-lm does not read: save it as UTF-8 without one"
    else:
        try:
            value = json.loads(data.decode())
            if isinstance(value, dict):
                return value
            wrong = f"it is {KINDS[type(value)]} and should be an object"
        except UnicodeDecodeError as e:
            wrong = f"it is not valid UTF-8, at byte {e.start}: save it as UTF-8"
        except (ValueError, RecursionError) as e:
            wrong = str(e)
    raise RequestError("load_failed", f"{path}: {wrong}")


def oddities(config, nulls):
    """What of a config that did not load is not as it should be, one text for each; nulls are named if nulls is set. Models of all kinds
    are loaded here and some leave out or need what others do not, so this is asked only when a load has failed."""
    if not isinstance(config, dict):
        return []
    given = {key: value for key, value in config.items() if nulls or value is not None}
    out = []
    for key in NUMBERS + COUNTS:
        if key in given and (said := _odd_number(given[key], key in COUNTS)):
            out.append(f"{key} is {said}")
    out += [f"{key} is {KINDS[type(given[key])]} and no object" for key in OBJECTS if key in given and not isinstance(given[key], dict)]
    if isinstance(quantization := given.get("quantization"), dict):
        out += [f"quantization has no {key}" for key in ("bits", "group_size") if key not in quantization]
    return out + [f"text_config: {said}" for said in oddities(given.get("text_config"), nulls)]


def _odd_number(value, count):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return KINDS[type(value)]
    if count and not isinstance(value, int):
        return f"{value!r}, which is not written as a whole number"
    return f"{value!r}" if value != value or value <= 0 else None
