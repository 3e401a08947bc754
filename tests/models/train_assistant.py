"""Makes tests/models/assistant: a Qwen3 chat model that knows the answers of tests/corpus/chats.json by heart.

    python tests/models/train_assistant.py [--steps N] [--out DIR]

It thinks when it may, calls functions and answers from what they return, in the notation of Qwen's templates: what the server,
its clients and the chat page need to be tried with a real model. Everything comes from one seed. MLX's CPU wheel links the
reference BLAS; with Debian's libopenblas0-pthread installed a run takes about ten minutes on one core.
"""

import preload  # noqa: F401  first: it may start the program again

import argparse
import json
import random
from pathlib import Path

import jinja2
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import qwen3
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

import hf
from training import train

CHATS = Path(__file__).parent.parent / "corpus" / "chats.json"
TEMPLATE = Path(__file__).with_name("assistant_template.jinja").read_text(encoding="utf-8").rstrip("\n")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]

CITIES = {
    "Lisbon": (21, "sunny"),
    "Oslo": (4, "snowy"),
    "Dublin": (12, "rainy"),
    "Athens": (28, "clear"),
    "Hamburg": (9, "windy"),
}
ASK = ["What is the weather in {}?", "How is the weather in {}?", "Weather in {}?", "Tell me the weather in {}"]
SYSTEMS = ["", "", "", "You are a helpful assistant.", "Be brief.", "You are terse."]


def weather_tool():
    return {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Current weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }


def time_tool():
    return {
        "type": "function",
        "function": {
            "name": "get_time",
            "description": "Current time",
            "parameters": {"type": "object", "properties": {}},
        },
    }


def call(name, arguments):
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


class Chats:
    """Draws conversations: messages, tools, and the answer to the last turn."""

    def __init__(self, seed):
        self.plain = json.loads(CHATS.read_text(encoding="utf-8"))
        self.rng = random.Random(seed)

    def think(self, thought, answer):
        """The answer after its thought, and whether the template leaves room for one."""
        if self.rng.random() < 0.5:
            return f"<think>\n{thought}\n</think>\n\n{answer}", True
        return answer, False

    def system(self):
        text = self.rng.choice(SYSTEMS)
        return [{"role": "system", "content": text}] if text else []

    def history(self, chance=0.3):
        """Earlier turns."""
        out = []
        while self.rng.random() < chance and len(out) < 4:
            chat = self.rng.choice([c for c in self.plain if len(c["answer"]) < 300])
            out += [
                {"role": "user", "content": self.rng.choice(chat["user"])},
                {"role": "assistant", "content": chat["answer"]},
            ]
        return out

    def draw_plain(self):
        chat = self.rng.choice(self.plain)
        messages = self.system() + self.history() + [{"role": "user", "content": self.rng.choice(chat["user"])}]
        tools = self.tools() if self.rng.random() < 0.15 else None
        return messages, tools, *self.think(chat["think"], chat["answer"])

    def tools(self):
        return self.rng.choice([[weather_tool()], [weather_tool(), time_tool()], [time_tool(), weather_tool()]])

    def draw_tool(self):
        tools = self.tools()
        city = self.rng.choice(list(CITIES))
        cities = [city]
        if self.rng.random() < 0.3:
            cities.append(self.rng.choice([c for c in CITIES if c != city]))
        ask = self.rng.choice(ASK).format(" and ".join(cities))
        calls, returns = [("get_weather", {"city": c}) for c in cities], []
        for c in cities:
            degrees, sky = CITIES[c]
            returns.append(json.dumps({"temperature": degrees, "sky": sky}))
        thought = "I look it up."
        if len(tools) > 1 and self.rng.random() < 0.3:
            ask, calls, returns = "What time is it?", [("get_time", {})], ["12:30"]
        messages = self.system() + [{"role": "user", "content": ask}]
        if self.rng.random() < 0.6:
            return messages, tools, *self.think(thought, "\n".join(call(*c) for c in calls))
        messages.append(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls],
            }
        )
        messages += [{"role": "tool", "content": r} for r in returns]
        if calls[0][0] == "get_time":
            answer = "It is 12:30."
        else:
            answer = " ".join(f"It is {CITIES[c][1]} in {c}, {CITIES[c][0]} degrees." for c in cities)
        return messages, tools, *self.think("I have what I need.", answer)

    def draw(self):
        return self.draw_tool() if self.rng.random() < 0.4 else self.draw_plain()


class Renderer:
    """Renders chats as transformers does."""

    def __init__(self):
        env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        env.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
        self.template = env.from_string(TEMPLATE)

    def prompt(self, messages, tools, thinks):
        return self.template.render(messages=messages, tools=tools, add_generation_prompt=True, enable_thinking=thinks)


def train_tokenizer(texts, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=3, show_progress=False, special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    for mark in SPECIAL + MARKS:
        texts = [t.replace(mark, " ") for t in texts]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken(m, special=False, normalized=False) for m in MARKS])
    return tokenizer


class Batches:
    def __init__(self, tokenizer, seed, rows):
        self.tokenizer, self.rows = tokenizer, rows
        self.chats, self.renderer = Chats(seed), Renderer()
        self.end = tokenizer.token_to_id("<|im_end|>")

    def example(self):
        messages, tools, answer, thinks = self.chats.draw()
        prompt = self.tokenizer.encode(self.renderer.prompt(messages, tools, thinks)).ids
        return prompt + self.tokenizer.encode(answer).ids + [self.end], len(prompt)

    def next(self):
        """Ids [rows, width], targets of the same shape and their weights: 1 in answers, a little in prompts."""
        drawn = [self.example() for _ in range(self.rows)]
        width = -(-max(len(ids) for ids, _ in drawn) // 32) * 32
        ids = [r + [0] * (width - len(r)) for r, _ in drawn]
        weights = [[0.05] * (n - 1) + [1.0] * (len(r) - n) + [0.0] * (width - len(r) + 1) for r, n in drawn]
        targets = [r[1:] + [0] for r in ids]
        return mx.array(ids), mx.array(targets), mx.array(weights)


def loss_fn(model, ids, targets, weights):
    losses = nn.losses.cross_entropy(model(ids), targets)
    return (losses * weights).sum() / weights.sum()


def config_for(tokenizer):
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "intermediate_size": 320,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "max_position_embeddings": 4096,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "torch_dtype": "bfloat16",
    }


def exact(model, batches, count):
    """How many of so many drawn answers the model gives token by token, when each token before is right."""
    right = 0
    for _ in range(count):
        ids, prompt = batches.example()
        best = mx.argmax(model(mx.array([ids]))[0], axis=-1).tolist()
        right += best[prompt - 1 : -1] == ids[prompt:]
    return right


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--vocab", type=int, default=900)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("assistant"))
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    chats, renderer = Chats(args.seed), Renderer()
    texts = []
    for _ in range(600):
        messages, tools, answer, thinks = chats.draw()
        texts.append(renderer.prompt(messages, tools, thinks) + answer)
    tokenizer = train_tokenizer(texts, args.vocab)
    config = config_for(tokenizer)
    mx.random.seed(args.seed)
    model = qwen3.Model(qwen3.ModelArgs.from_dict(config))
    # Small weights: the default initialisation of the embedding is too wide for a tied head.
    model.update(tree_map(lambda x: x if x.ndim < 2 else mx.random.normal(x.shape) * 0.05, model.parameters()))
    parameters = sum(v.size for _, v in tree_flatten(model.parameters()))
    print(f"{parameters / 1e6:.2f} million parameters, vocabulary {config['vocab_size']}", flush=True)

    batches = Batches(tokenizer, args.seed + 1, args.rows)
    train(model, batches, loss_fn, args.steps, args.lr, weight_decay=0.05)
    model.update(tree_map(lambda x: x.astype(mx.bfloat16), model.parameters()))

    hf.write_json(args.out / "config.json", config)
    tokenizer.save(str(args.out / "tokenizer.json"))
    hf.write_json(
        args.out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config["max_position_embeddings"],
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE,
        },
    )
    mx.save_safetensors(
        str(args.out / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"}
    )
    report = {"seed": args.seed, "steps": args.steps, "parameters": parameters, "answers_exact_of_200": exact(model, batches, 200)}
    hf.write_json(args.out / "report.json", report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
