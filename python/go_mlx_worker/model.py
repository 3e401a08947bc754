"""A loaded mlx-lm model: prompts, limits and description."""

import glob
import hashlib
import inspect
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import get_total_parameters, load
from transformers import PreTrainedTokenizerBase, tokenization_utils_base

from .configs import check_file, check_folder_files, older_keys, oddities
from .embedding import Embedder
from .errors import ENDING, RequestError, from_json, is_out_of_memory, printable, text_of
from .folders import check_folder, fingerprint, plain_paths
from .frames import MAX_FRAME
from .grammar import Grammars
from .limits import bounded, limited
from .plain import Guard

# How long a chat template may take. It is a program that came with the checkpoint, and can loop.
RENDER_SECONDS = 10
# What it may take for its values beside what is there, and how long its text may be: longer than a message is nothing of use.
RENDER_BYTES = 1 << 30
RENDER_CHARS = MAX_FRAME
# What transformers' function takes besides a template's variables: whoever may set these has a template of their own run, or
# prompts cut off or filled up.
RESERVED = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) - {"documents", "kwargs"}
# Some checkpoints say 1e30 for "no limit".
MAX_CONTEXT = 1 << 30


def _bound_rendering():
    """Puts the bounds of memory around what transformers does with a template, and not around the tokenizing that it does with the
    text then: the tokenizer's library ends the process when it gets no memory."""
    theirs = tokenization_utils_base.render_jinja_template

    def ours(*args, **kwargs):
        try:
            texts, indices = bounded(RENDER_BYTES, lambda: theirs(*args, **kwargs))
        except MemoryError as e:
            raise RequestError("out_of_memory", f"chat template: it takes more than {RENDER_BYTES >> 20} MiB") from e
        if (longest := max(map(len, texts), default=0)) > RENDER_CHARS:
            raise RequestError("bad_request", f"chat template: its text has {longest} characters, more than {RENDER_CHARS}")
        return texts, indices

    tokenization_utils_base.render_jinja_template = ours


_bound_rendering()


def checkpoint_bytes(*folders):
    """Bytes of the weight files, what loading will read."""
    return sum(f.stat().st_size for folder in folders if folder for f in Path(folder).glob("*.safetensors"))


class LoadedModel:
    def __init__(self, request):
        path, trust = request["path"], request["trust_remote_code"]
        self.path = path
        adapter, draft = request.get("adapter"), request.get("draft")
        check_folder(path, "config.json", "model folder")
        config = check_folder_files(path)
        if adapter:
            check_folder(adapter, "adapter_config.json", "folder of an adapter")
            check_file(adapter, "adapter_config.json")
        draft_config = {}
        if draft:
            check_folder(draft, "config.json", "model folder (draft)")
            draft_config = check_folder_files(draft)
        given = {}  # plain name -> the folder's own
        try:
            self.fingerprint = fingerprint(path, adapter, draft)
            with plain_paths(path, adapter, draft) as plain:
                given = {name: own for name, own in zip(plain, (path, adapter, draft)) if name != own}
                self._load(*plain, trust, older_keys(config), older_keys(draft_config))
        except (RequestError, ENDING):
            raise
        except BaseException as e:
            code = "out_of_memory" if is_out_of_memory(e) else "load_failed"
            text = f"{type(e).__name__}: {text_of(e)}"
            for name, own in given.items():
                text = text.replace(name, own)
            if odd := oddities(config, nulls="None" in text):
                text += f" (in {Path(path, 'config.json')}: {'; '.join(odd)})"
            raise RequestError(code, text) from e
        try:
            same = fingerprint(path, adapter, draft) == self.fingerprint
        except OSError:  # a file or the folder is gone
            same = False
        if not same:
            raise RequestError("load_failed", f"{self.path} was changed while it was loaded; load it again")
        text = self.config.get("text_config") or {}
        self.vocab_size = self.config.get("vocab_size") or text.get("vocab_size") or 0
        limit = self.config.get("max_position_embeddings") or text.get("max_position_embeddings") or 0
        self.context_length = max(0, min(int(limit), MAX_CONTEXT))
        self.has_template = self.tokenizer.has_chat_template
        self.grammars = Grammars(self.tokenizer, self.vocab_size)
        caches = make_prompt_cache(self.model)
        self.batchable = all(hasattr(c, "merge") for c in caches)
        # Whether tokens can be taken back out of the KV at any length.
        self.trimmable = all(c.is_trimmable() and not getattr(c, "max_size", None) for c in caches)

    def _load(self, path, adapter, draft, trust, config, draft_config):
        self.model, self.tokenizer, self.config = load(
            path,
            return_config=True,
            tokenizer_config={"trust_remote_code": trust},
            trust_remote_code=trust,
            adapter_path=adapter or None,
            model_config=config,
        )
        self.embedder = Embedder(self.model, self.config, path)
        self.draft = None
        if draft:
            self.draft, tokenizer = load(
                draft, tokenizer_config={"trust_remote_code": trust}, trust_remote_code=trust, model_config=draft_config
            )
            if tokenizer.get_vocab() != self.tokenizer.get_vocab():
                raise RequestError(
                    "invalid_option", f"{draft}: its vocabulary is not the model's: they must be the same", option="DraftModel"
                )

    def info(self):
        parameters = dict(tree_flatten(self.model.parameters()))
        floats = [v.dtype for k, v in parameters.items() if k.endswith("norm.weight")]
        quantization = self.config.get("quantization")
        text = self.config.get("text_config") or self.config
        return {
            "architecture": self.config.get("model_type", ""),
            "device": str(mx.default_device()).removeprefix("Device(").removesuffix(")").replace(", ", ":"),
            "layers": len(self.model.layers),
            "hidden_size": text.get("hidden_size") or 0,
            "vocab_size": self.vocab_size,
            "context_length": self.context_length,
            "dtype": str(floats[0]).removeprefix("mlx.core.") if floats else "",
            "quantization": "{bits}-bit, groups of {group_size}".format(**quantization) if quantization else "",
            "parameters": int(get_total_parameters(self.model)),
            "weight_bytes": sum(v.nbytes for v in parameters.values()),
            "has_template": self.has_template,
            "batchable": self.batchable,
            "fingerprint": self.fingerprint,
            "tokenizer_hash": _hash(Path(self.path, "tokenizer.json")),
            "template_hash": _hash_text(getattr(self.tokenizer, "chat_template", None)),
        }

    def encode(self, text, special):
        return list(self.tokenizer.encode(text, add_special_tokens=special))

    def decode(self, ids):
        self.check_ids(ids, "decode")
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def render_chat(self, request, guard=None):
        """The prompt of a chat. What is given to the template is marked if there is a guard, and goes as it is if not."""
        if not self.has_template:
            raise RequestError("no_chat_template", "model has no chat template")
        arguments = from_json(request.get("template_arguments") or "{}", "TemplateArguments")
        if reserved := sorted(RESERVED.intersection(arguments)):
            raise RequestError(
                "invalid_option", f"{', '.join(reserved)} cannot be given to a template", option="TemplateArguments"
            )
        messages = from_json(request["messages"], "messages")
        tools = from_json(request.get("tools") or "null", "Tools")
        if guard:
            messages, tools, arguments = guard.mark(messages), guard.mark(tools), guard.mark(arguments)

        def render():
            try:
                return self.tokenizer.apply_chat_template(
                    messages, tools=tools, add_generation_prompt=True, tokenize=False, **arguments
                )
            except RequestError:
                raise
            except Exception as e:
                raise RequestError("bad_request", f"chat template: {e}") from e

        return printable(limited(RENDER_SECONDS, "the chat template", render))

    def prompt_ids(self, request):
        """The token ids of any form of prompt, checked against the model's limits."""
        if request.get("messages"):
            ids = self.chat_ids(request)
        elif request.get("plain"):
            ids = self.encode_plain(request["text"])
        elif request.get("text"):
            # A text that was rendered by the template has <bos> already; as in mlx-lm.
            bos = self.tokenizer.bos_token
            ids = self.encode(request["text"], special=not bos or not request["text"].startswith(bos))
        else:
            ids = request.get("ids") or []
        return self.checked_ids(ids)

    def text_ids(self, text):
        """The token ids of a text that is to be embedded, as sentence-transformers makes them: what spells a control token counts as one."""
        return self.checked_ids(self.encode(text, special=True))

    def checked_ids(self, ids):
        """ids, checked against the model's limits."""
        if not ids:
            raise RequestError("empty_prompt", "prompt is empty")
        if self.context_length and len(ids) >= self.context_length:
            raise RequestError(
                "context_length", "prompt is too long", tokens=len(ids), limit=self.context_length
            )
        self.check_ids(ids, "prompt")
        return ids

    def chat_ids(self, request):
        """The token ids of a chat's prompt, of whatever length."""
        if not request.get("plain") or not self.has_template:
            return self.encode(self.render_chat(request), special=False)
        guard = Guard.of_chats(self.tokenizer._tokenizer, from_json(request.get("tools") or "null", "Tools"))
        return guard.encode(self.render_chat(request, guard))

    def encode_plain(self, text):
        """A text in which no special token counts, with what the tokenizer puts in front of every text."""
        front = self.encode("", special=True)
        if front and front[-1] == self.tokenizer.eos_token_id:
            front.pop()
        guard = Guard.of_texts(self.tokenizer._tokenizer)
        return front + guard.encode(guard.mark(text))

    def check_option_ids(self, ids, option):
        for token in ids:
            if self.vocab_size and not 0 <= token < self.vocab_size:
                raise RequestError(
                    "invalid_option", f"the vocabulary of {self.vocab_size} tokens has no id {token}", option=option
                )

    def check_ids(self, ids, what):
        for token in ids:
            if self.vocab_size and not 0 <= token < self.vocab_size:
                raise RequestError(
                    "token_id",
                    f"{what}: token id {token} is outside the model's vocabulary of {self.vocab_size}",
                    id=token,
                    vocab_size=self.vocab_size,
                )


def _hash(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def _hash_text(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16] if isinstance(text, str) else ""
