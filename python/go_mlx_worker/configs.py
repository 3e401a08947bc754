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
OBJECTS = ("text_config", "quantization")  # null is not one
OBJECTS_OR_NULL = ("rope_scaling", "rope_parameters")
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
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


def check_folder_files(folder):
    """Reads the files that mlx-lm and transformers will read, and returns the config. A generation config that is no JSON at all is
    none to mlx-lm."""
    config = check_file(folder, "config.json")
    if Path(folder, "tokenizer_config.json").is_file():
        tokenizer = check_file(folder, "tokenizer_config.json")
        _refuse(folder, "tokenizer_config.json", _odd_tokenizer(tokenizer))
    generation = Path(folder, "generation_config.json")
    if generation.is_file():
        try:
            json.loads(generation.read_bytes().decode())
        except json.JSONDecodeError:
            return config
        except (UnicodeDecodeError, RecursionError):
            pass  # which says what it is
        value = check_file(folder, "generation_config.json")
        _refuse(folder, "generation_config.json", _odd_ids(value.get("eos_token_id"), "eos_token_id"))
    return config


def _refuse(folder, name, odd):
    if odd:
        raise RequestError("load_failed", f"{Path(folder, name)}: {odd[0]}")


def _odd_ids(value, key):
    """Ids that are none are otherwise found at the first token of the first request."""
    for one in value if isinstance(value, list) else [value]:
        if one is not None and (isinstance(one, bool) or not isinstance(one, int)):
            return [f"{key} is {KINDS[type(one)]} ({one!r:.40}) and should be a token's id or a list of them"]
    return []


def _odd_tokenizer(config):
    """What transformers' tokenizers fail of, some of them only when they are used."""
    out = []
    for key in TOKENS:
        token = config.get(key)
        if not (token is None or isinstance(token, str) or isinstance(token, dict) and "__type" in token):
            out.append(f"{key} is {KINDS[type(token)]} and should be a text, or an object with __type AddedToken")
    for key, kinds in (("model_max_length", (int, float)), ("tokenizer_class", str)):
        if not isinstance(config.get(key), (type(None), kinds)):
            out.append(f"{key} is {KINDS[type(config[key])]}")
    added = config.get("added_tokens_decoder", {})
    if not isinstance(added, dict):
        out.append(f"added_tokens_decoder is {KINDS[type(added)]} and no object")
    elif wrong := [id for id, token in added.items() if not (id.isdecimal() and isinstance(token, dict))]:
        out.append(f"added_tokens_decoder: {wrong[0]!r:.40} should be a token's id, with an object")
    return out


def older_keys(config):
    """What transformers 5 writes in other places, under the keys at which mlx-lm's models look: those that know only these would take
    their defaults, and compute another model."""
    text = config.get("text_config")
    if isinstance(text, dict):
        more = _older_keys(text, config.get("model_type", ""))
        return {"text_config": text | more} if more else {}
    return _older_keys(config, config.get("model_type", ""))


def _older_keys(config, kind):
    out = {}
    gemma = str(kind).startswith("gemma3") and not str(kind).startswith("gemma3n")
    rope = config.get("rope_parameters")
    rope = rope if isinstance(rope, dict) else {}
    if gemma:
        sliding, rope = rope.get("sliding_attention") or {}, rope.get("full_attention") or {}
        if sliding.get("rope_theta"):
            out["rope_local_base_freq"] = sliding["rope_theta"]
    if isinstance(rope.get("rope_theta"), (int, float)):
        out["rope_theta"] = rope["rope_theta"]
        if config.get("rope_scaling") is None and rope.get("rope_type") not in (None, "default"):
            out["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    types = config.get("layer_types")
    if gemma and types and isinstance(types, list) and config.get("sliding_window_pattern") is None:
        pattern = types.index("full_attention") + 1 if "full_attention" in types else len(types) + 1
        if len(types) != config.get("num_hidden_layers") or types != [
            "sliding_attention" if i % pattern else "full_attention" for i in range(1, len(types) + 1)
        ]:
            raise RequestError(
                "load_failed", "config.json: layer_types that are not of every layer, or do not have full_attention in every n-th one"
            )
        out["sliding_window_pattern"] = pattern
    return out


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
    out += [f"{key} is {KINDS[type(config[key])]} and no object" for key in OBJECTS_OR_NULL if not isinstance(config.get(key), (dict, type(None)))]
    if isinstance(quantization := given.get("quantization"), dict):
        out += [f"quantization has no {key}" for key in ("bits", "group_size") if key not in quantization]
    return out + [f"text_config: {said}" for said in oddities(given.get("text_config"), nulls)]


def _odd_number(value, count):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return KINDS[type(value)]
    if count and not isinstance(value, int):
        return f"{value!r}, which is not written as a whole number"
    return f"{value!r}" if value != value or value <= 0 else None
