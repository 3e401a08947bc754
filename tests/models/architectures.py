"""Makes a tiny checkpoint with random weights for every architecture of mlx-lm whose ModelArgs can be filled.

    python tests/models/architectures.py OUT [NAME ...]

Writes OUT/NAME for each and prints one JSON line a name: {"name", "error"} with an empty error where the model
computes logits. The tokenizer is the trained domain model's.
"""

import copy
import dataclasses
import importlib
import json
import pkgutil
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import mlx.core as mx
import mlx_lm.models
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import make_prompt_cache

TOKENIZER = Path(__file__).with_name("domains")
VOCABULARY = json.loads((TOKENIZER / "config.json").read_text())["vocab_size"]
LAYERS, HIDDEN, HEADS, HEAD_DIM = 4, 64, 4, 16

# What a field of this name is given, in every architecture that has it and does not say otherwise below.
VALUES = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(["hidden_size", "dim", "d_model", "n_embd", "model_dim", "block_dim", "ffn_hidden_size"], HIDDEN),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers"], LAYERS),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "num_query_heads"], HEADS),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads", "n_kv_heads", "num_attention_groups"], 2),
    **dict.fromkeys(["head_dim", "v_head_dim", "qk_nope_head_dim", "attention_head_dim", "kv_channels"], HEAD_DIM),
    **dict.fromkeys(["qk_rope_head_dim", "rotary_dim", "index_head_dim"], 8),
    **dict.fromkeys(["intermediate_size", "intermediate_size_mlp", "hidden_dim", "n_inner", "ff_intermediate_size"], 128),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size", "expert_ffn_hidden_size"], 64),
    **dict.fromkeys(["num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"], 2),
    **dict.fromkeys(["n_shared_experts", "num_shared_experts", "num_shared_expert"], 1),
    **dict.fromkeys(["n_group", "topk_group", "num_expert_group", "n_groups"], 1),
    **dict.fromkeys(["first_k_dense_replace", "num_dense_layers", "decoder_sparse_step", "moe_layer_freq", "first_k_dense"], 1),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "model_max_length", "max_seq_len", "seq_length"], 512),
    **dict.fromkeys(["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "layernorm_epsilon", "norm_epsilon"], 1e-5),
    **dict.fromkeys(["rope_theta", "rotary_emb_base", "rope_base", "swa_rope_theta", "rope_local_base_freq"], 10000.0),
    **dict.fromkeys(["kv_lora_rank", "q_lora_rank", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim", "decay_low_rank_dim"], 32),
    **dict.fromkeys(["attention_bias", "mlp_bias", "use_bias", "conv_bias", "use_conv_bias", "mamba_proj_bias", "norm_topk_prob"], False),
    **dict.fromkeys(["use_qkv_bias", "use_cla", "use_mixed_mlp_moe", "mla_scale_q_lora", "mla_scale_kv_lora"], False),
    **dict.fromkeys(["routed_scaling_factor", "logits_scaling", "embedding_multiplier", "residual_multiplier", "scale_depth", "scale_emb"], 1.0),
    **dict.fromkeys(["sliding_window", "sliding_window_size", "attention_window_size"], 32),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim", "mamba_head_dim", "mamba_d_head"], 32),
    **dict.fromkeys(["linear_num_key_heads", "mamba_num_heads", "mamba_n_heads"], 2),
    **dict.fromkeys(["conv_kernel", "linear_conv_kernel_dim", "mamba_d_conv", "conv_L_cache", "conv1d_width", "short_conv_kernel_size"], 4),
    **dict.fromkeys(["state_size", "ssm_state_size", "mamba_d_state", "time_step_rank", "mamba_dt_rank"], 16),
    "linear_num_value_heads": 4,
    "index_n_heads": 2,
    "index_topk": 16,
    "partial_rotary_factor": 0.5,
    "rotary_pct": 0.5,
    "tie_word_embeddings": True,
    "attention_multiplier": 0.25,
    "dim_model_base": 32,
    "logits_soft_cap": 30.0,
    "mlp_only_layers": [],
    "sliding_window_pattern": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "rope_scaling": None,
    "mamba_expand": 2,
    "time_step_limit": [0.0, 100.0],
    "use_qk_norm": True,
    "qk_norm": True,
}

GEMMA4 = {
    "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": VOCABULARY, "global_head_dim": 16, "num_global_key_value_heads": 2,
    "num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
MLA = {"num_key_value_heads": HEADS}
QWEN_NEXT = {"full_attention_interval": 2, "num_hidden_layers": LAYERS}

TYPES = {"layer_types": ["sliding_attention", "full_attention"] * 2}
YARN = {
    "rope_type": "yarn", "type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 256, "mscale": 1.0,
    "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
ROPE_BY_TYPE = {"rope_parameters": {t: {"rope_type": "default", "rope_theta": 10000.0} for t in TYPES["layer_types"]}}

# What an architecture needs besides.
SPECIAL = {
    "afmoe": TYPES,
    "apertus": {"post_norm": False},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gear": {"layer_types": ["full_attention", "conv", "sliding_attention", "full_attention"]},
    "gemma3n.text": TYPES
    | {"num_kv_shared_layers": 2, "vocab_size_per_layer_input": VOCABULARY, "final_logit_softcapping": 30.0,
       "activation_sparsity_pattern": [0.0] * LAYERS, "hidden_size_per_layer_input": 16, "altup_num_inputs": 2, "altup_coef_clip": 120.0,
       "altup_correct_scale": True, "altup_active_idx": 0, "laurel_rank": 8, "model_type": "gemma3n_text"},
    "glm_moe_dsa": MLA | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    "kimi_k3.text": MLA
    | {"linear_attn_config": {"full_attn_layers": [2, 4], "kda_layers": [1, 3], "num_heads": 2, "head_dim": 32, "short_conv_kernel_size": 4},
       "num_experts_per_token": 2, "activation_situ_beta": 1.0, "activation_situ_linear_beta": 1.0, "model_type": "kimi_linear"},
    "mellum": TYPES | ROPE_BY_TYPE,
    "minimax_m3_vl.text": {"dense_intermediate_size": 128, "moe_layer_freq": [0, 1, 1, 1], "rotary_dim": 8, "intermediate_size": 64},
    "ministral3": {"rope_parameters": YARN},
    "mistral4": MLA | {"rope_parameters": YARN, "qk_head_dim": 24},
    "minicpm3": {"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 256, "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}},
    "muse_spark.text": TYPES
    | {"post_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "layer_rope_theta": [10000.0] * LAYERS,
       "final_logit_softcapping": 30.0, "output_multiplier": 1.0, "moe_hidden_size": 64, "mlp_layer_types": ["sparse"] * LAYERS},
    "nemotron-nas": {"block_configs": [{"attention": {"no_op": False, "replace_with_linear": False, "n_heads_in_group": 2},
                                        "ffn": {"no_op": False, "replace_with_linear": False, "ffn_mult": 2.0}}] * LAYERS},
    "olmo_hybrid": {"linear_allow_neg_eigval": True, "layer_types": ["linear_attention", "full_attention"] * 2},
    "phixtral": {"num_vocab": VOCABULARY, "model_dim": HIDDEN, "num_heads": HEADS, "num_layers": LAYERS, "rotary_dim": 8, "num_experts_per_tok": 2, "num_local_experts": 4},
    "plamo": {"n_shared_head": 2},
    "spark2_5": TYPES | ROPE_BY_TYPE,
    "step3p5": {"moe_top_k": 2, "share_expert_dim": 64, "moe_layers_enum": "1,2,3"} | TYPES
    | {"attention_other_setting": {"num_attention_heads": HEADS, "num_attention_groups": 2}},
    "afm7": {"num_kv_reuse_layers": 1, "hidden_dim": 64, "hidden_dim_scale_factor": 2.0},
    "baichuan_m1": {"tie_word_embeddings": False, "sliding_window_layers": [0], "conv_window": 2, "num_swa_attention_heads": HEADS, "num_swa_key_value_heads": 2},
    "bailing_hybrid": MLA | {"layer_group_size": 2, "group_norm_size": 1, "num_attention_heads": HEADS},
    "bailing_moe_linear": {"layer_group_size": 2, "group_norm_size": 1, "num_key_value_heads": HEADS},
    "bailing_moe_v3": MLA | {"layer_group_size": 2},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2, "moe_jitter_eps": 0},
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
    },
    "deepseek_v2": MLA | {"rope_scaling": YARN, "topk_method": "greedy", "moe_layer_freq": 1},
    "deepseek_v3": MLA,
    "deepseek_v32": MLA,
    "deepseek_v41": MLA,
    "exaone4": {"sliding_window_pattern": "LG", "sliding_window": 32},
    "exaone_moe": {"is_moe_layer": [False, True, True, True], "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma4_text": GEMMA4,
    "glm4_moe_lite": MLA,
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "mamba_n_groups": 1, "mamba_conv_bias": True, "mamba_d_head": 64},
    "hunyuan": {"cla_share_factor": 2, "use_cla": True, "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0}},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2},
    "kimi_linear": MLA
    | {"linear_attn_config": {"full_attn_layers": [2, 4], "kda_layers": [1, 3], "num_heads": 2, "head_dim": 32, "short_conv_kernel_size": 4}},
    "lfm2": {"block_ff_dim": 128, "block_multiple_of": 16, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True,
             "layer_types": ["conv", "full_attention"] * 2, "full_attn_idxs": [1, 3]},
    "lfm2_moe": {"use_expert_bias": True, "layer_types": ["conv", "full_attention"] * 2, "full_attn_idxs": [1, 3]},
    "lille-130m": {"block_size": 512},
    "llama4_text": {"num_experts_per_tok": 1, "no_rope_layers": [1, 1, 1, 0], "interleave_moe_layer_step": 1, "attention_chunk_size": 32},
    "longcat_flash": MLA | {"mla_scale_q_lora": True, "mla_scale_kv_lora": True, "attention_method": "MLA", "zero_expert_num": 1, "zero_expert_type": "identity"},
    "longcat_flash_ngram": MLA | {"mla_scale_q_lora": True, "mla_scale_kv_lora": True, "attention_method": "MLA", "zero_expert_num": 1, "zero_expert_type": "identity"},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1, 0, 1], "moe_layer_freq": [0, 1, 1, 1], "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False, "swa_num_attention_heads": HEADS, "swa_num_key_value_heads": 2, "swa_head_dim": 16,
        "swa_v_head_dim": 16,
    },
    "nemotron": {"hidden_act": "relu2"},
    "nemotron_h": {"hybrid_override_pattern": "M*-E", "mamba_hidden_act": "silu", "n_groups": 1, "moe_shared_expert_intermediate_size": 64},
    "olmo3": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "openelm": {
        "num_query_heads": [4] * LAYERS, "num_kv_heads": [2] * LAYERS, "ffn_multipliers": [2.0] * LAYERS, "ffn_dim_divisor": 16,
        "ffn_with_glu": True, "normalize_qk_projections": True, "share_input_output_layers": True,
    },
    "phi3small": {"dense_attention_every_n_layers": 2, "ff_dim_multiplier": 2, "gegelu_limit": 20.0, "blocksparse_block_size": 64,
                  "blocksparse_num_local_blocks": 1, "blocksparse_vert_stride": 2},
    "qwen3_next": QWEN_NEXT,
    "qwen3_5": QWEN_NEXT,
    "qwen3_5_moe": QWEN_NEXT,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "num_key_value_heads": 1},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
}  # fmt: skip

# Models that are a text model with something around it: where the text model's config comes from.
TEXT_OF = {
    "gemma3": "gemma3_text", "gemma3n": None, "gemma4": "gemma4_text", "kimi_k25": "deepseek_v3", "kimi_vl": "deepseek_v3",
    "lfm2-vl": "lfm2", "llama4": "llama4_text", "mistral3": "ministral3", "pixtral": "llama", "qwen2_vl": "qwen2",
    "qwen3_vl": "qwen3", "qwen3_vl_moe": "qwen3_moe", "qwen3_5": "qwen3_next", "qwen3_5_moe": "qwen3_next",
}  # fmt: skip


def architectures():
    for module in pkgutil.iter_modules(mlx_lm.models.__path__):
        try:
            arch = importlib.import_module(f"mlx_lm.models.{module.name}")
        except (Exception, SystemExit) as e:
            yield module.name, f"cannot be imported: {type(e).__name__}: {e}"
            continue
        if hasattr(arch, "Model") and hasattr(arch, "ModelArgs"):
            yield module.name, None


def fill(name):
    """A config for an architecture: every field that VALUES or SPECIAL know."""
    args = importlib.import_module(f"mlx_lm.models.{name}").ModelArgs
    fields = {f.name for f in dataclasses.fields(args)} if dataclasses.is_dataclass(args) else set()
    config = {k: copy.deepcopy(v) for k, v in VALUES.items() if k in fields}
    config.update(copy.deepcopy(SPECIAL.get(name, {})))
    config["model_type"] = name
    if "text_config" in fields or name in TEXT_OF:
        text = TEXT_OF.get(name)
        config["text_config"] = VALUES | (fill(text) if text else SPECIAL.get(name + ".text", {}))
    return config


def make(name, out):
    arch = importlib.import_module(f"mlx_lm.models.{name}")
    config = fill(name)
    mx.random.seed(11)
    model = arch.Model(arch.ModelArgs.from_dict(copy.deepcopy(config)))
    # In float32: on a CPU, MLX picks experts in no other type.
    model.update(tree_map(lambda a: a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a, model.parameters()))
    logits = model(mx.array([[5, 6, 7]]), cache=make_prompt_cache(model))
    if logits.shape[-1] != VOCABULARY:
        raise ValueError(f"logits have shape {logits.shape}")
    mx.eval(logits)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, folder)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def make_all(out, names):
    for name, problem in architectures():
        if name not in names:
            continue
        print(json.dumps({"name": name}), flush=True)  # whoever reads this knows what was under way if it is the last
        if problem is None:
            try:
                make(name, out)
                problem = ""
            except Exception as e:
                problem = f"{type(e).__name__}: {e}"
                if len(names) == 1:
                    traceback.print_exc()
        print(json.dumps({"name": name, "error": problem}), flush=True)


def main():
    out, names = Path(sys.argv[1]), sys.argv[2:]
    if names:
        make_all(out, names)
        return
    # A process of its own makes them: some architectures make MLX abort. Another one then makes the rest.
    rest = sorted(m.name for m in pkgutil.iter_modules(mlx_lm.models.__path__))
    while rest:
        child = subprocess.run([sys.executable, __file__, str(out), *rest], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
        for line in lines:
            if "error" in line:
                print(json.dumps(line), flush=True)
        if child.returncode == 0:
            return
        if not lines:
            sys.exit(child.stderr)
        last = lines[-1]["name"]
        if "error" not in lines[-1]:
            print(json.dumps({"name": last, "error": f"MLX aborts: {child.stderr.strip().splitlines()[-1]}"}), flush=True)
        rest = rest[rest.index(last) + 1 :]


if __name__ == "__main__":
    main()
