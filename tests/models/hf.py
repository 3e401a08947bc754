"""Writes the small files of a Hugging Face model folder."""

import json
from pathlib import Path

from tokenizer import BOS, END, EOS, PAD

TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(folder, tokenizer):
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 2048,
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "add_bos_token": True,
            "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE.read_text(encoding="utf-8"),
        },
    )


def write_generation_config(folder):
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": BOS, "eos_token_id": [EOS, END], "pad_token_id": PAD},
    )
