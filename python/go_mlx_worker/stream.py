"""One generation's own state, however its tokens are made."""

import json

import mlx.core as mx
from mlx_lm.generate import make_text_state_machine

from .errors import encodable, from_json, printable
from .limits import limited
from .sampling import make_processors, make_sampler
from .text import StopMatcher, StreamDecoder

# A parser's regular expression may take for ever over some texts.
PARSE_SECONDS = 2


class Stream:
    """Turns tokens into messages.

    With "resume", the ids that a worker before this one has made, it goes on as if it had made them
    itself. They are made once more, a step each: prefilling them in one pass would be quicker, but rounds
    differently, and the stream is to go on exactly."""

    def __init__(self, loaded, request, check=lambda: None):
        """check is called after each chunk of a prompt that is computed in one go; it raises if the request is not to go
        on."""
        self.id, self.credit = request["id"], request["credit"]
        self.check = check
        self.options = request
        self.prompt = loaded.prompt_ids(request)
        self._follow = loaded.grammars.follow if request.get("grammar") else None
        self.max_tokens = request["max_tokens"]
        if loaded.context_length:
            self.max_tokens = min(self.max_tokens, loaded.context_length - len(self.prompt))
        loaded.check_option_ids(request["stop_tokens"], "StopTokens")
        loaded.check_option_ids((int(token) for token, _ in request["logit_bias"]), "LogitBias")
        self._ends = set(request["stop_tokens"])
        if not request["ignore_eos"]:
            self._ends |= set(loaded.tokenizer.eos_token_ids)
        # Markers of reasoning and tool calls are special tokens of many vocabularies.
        self._decoder = StreamDecoder(loaded.tokenizer, skip_special=not request["segments"])
        self._matcher = StopMatcher(request["stop"])
        self._segments = Segments(loaded.tokenizer, self.prompt, request.get("tools")) if request["segments"] else None
        self._logprobs, self._top = request["logprobs"], request["top_logprobs"]
        special = list(loaded.tokenizer.eos_token_ids) + loaded.encode("\n", special=False)
        # End tokens come from configs, and need not be tokens of the model; MLX would write past its arrays.
        self._special = [t for t in special if t is not None and 0 <= t < (loaded.vocab_size or t + 1)]
        resumed = request.get("resume") or []
        loaded.check_ids(resumed, "resume")
        for i, token in enumerate(resumed):
            self._add(token, i + 1, {})
        self.emitted = list(resumed)
        self.resumed = 0  # how many tokens are made again
        self.cached = 0  # tokens of the prompt whose KV was there
        self.rescues = 0  # passes of a batch that failed with it
        self._prefilled = False  # whether the reader was told that the prompt is computed
        self.keep_apart(request.get("alone_from") or 0, request.get("alone_until") or 0)
        if request["solo"]:
            self.keep_apart(0, None)
        self.rewind()
        self.finished = False

    @property
    def made(self):
        return len(self.emitted)

    def keep_apart(self, first, end):
        """From one number of tokens to another the stream steps in passes of its own; None is to its end."""
        self._apart = (first, end)

    @property
    def apart(self):
        first, end = self._apart
        return first <= self.made and (end is None or self.made < end)

    def report(self, put, done, total=None):
        """Tells the reader how much of the prompt is computed."""
        if not self._prefilled:
            total = len(self.prompt) if total is None else total
            put({"t": "progress", "id": self.id, "phase": "prefill", "done": done, "total": total})
            self._prefilled = done == total

    def rewind(self):
        """Goes back to the prompt; the tokens made so far are made again and not sent."""
        # A stream that is rewound while it replays has still to make the rest.
        made = max(self.emitted, getattr(self, "_replay", []), key=len)
        self._replay, self.emitted, self.resumed = made, [], len(made)
        self.sampler = make_sampler(self.options, self._special, self._replay)
        self.processors = make_processors(self.options)
        if self._follow:
            self.processors.append(self._follow(self.options["grammar"]))

    def give(self, put, token, logprobs):
        """Puts out the message of the next token, nothing for a replayed one; logprobs [vocab] are those it was
        drawn from."""
        self.emitted.append(token)
        if self.made <= len(self._replay):
            return
        self.credit -= 1
        message = {"t": "token", "id": self.id, "token": token, "text": ""}
        if self._logprobs or self._top:
            message["logprob"] = logprobs[token].astype(mx.float32).item()
        if self._top:
            message["top"] = self._top_logprobs(logprobs)
        self._add(token, self.made, message)
        self.finished = "finish" in message
        if self.finished or self.made == 1:  # a reader may leave before the last token
            message["prompt_tokens"] = len(self.prompt)
            if self.cached:
                message["cached_tokens"] = self.cached
        put(message)

    def _add(self, token, count, message):
        """Fills in text and finish of the count-th token."""
        text, stopped = "", ""
        if token in self._ends:
            message["finish"] = "stop"
        else:
            text, stopped = self._matcher.add(self._decoder.add(token))
            if stopped:
                message["finish"] = "stop"
            elif count >= self.max_tokens:
                message["finish"] = "length"
        if "finish" in message and not stopped:
            tail, cut = self._matcher.add(self._decoder.finish())
            text += tail if cut else tail + self._matcher.finish()
            stopped = cut
        message["text"] = text
        if stopped:
            message["stop_string"] = stopped
        if self._segments:
            message["segments"], call_text = self._segments.add(text, last="finish" in message)
            if call_text:
                message["call_text"] = call_text

    def _top_logprobs(self, logprobs):
        k = min(self._top, logprobs.shape[-1])
        ids = mx.argpartition(-logprobs, kth=k - 1, axis=-1)[:k]
        values = logprobs[ids].astype(mx.float32)
        pairs = zip(ids.tolist(), values.tolist())
        return [list(p) for p in sorted(pairs, key=lambda p: (-p[1], p[0]))]


class Segments:
    """Splits text into [kind, text, calls]: "normal", "reasoning" and "tool", as mlx-lm knows the markers of the
    tokenizer. The markers are not part of any text. A tool segment comes whole, and what is certain of one under way
    comes beside the segments before; calls are the [name, arguments]
    that mlx-lm's parser finds in it, arguments as JSON, and none where it finds no call."""

    def __init__(self, tokenizer, prompt, tools):
        self._machine = make_text_state_machine(tokenizer)
        self._parse, self._tools = tokenizer.tool_parser, from_json(tools or "null", "Tools")
        initial = "normal"
        # Some templates open the reasoning themselves.
        if tokenizer.has_thinking and tokenizer.rfind_think_start(prompt) > tokenizer.rfind_think_end(prompt):
            initial = "reasoning"
        self._state = self._machine.make_state(initial)
        self._tool = ""

    def add(self, text, last):
        self._state, segments = self._machine.split(self._state, text)
        # A segment that another one follows has ended.
        ended = [True] * (len(segments) - 1) + [last]
        if last:
            self._state, rest, _ = self._machine.flush(self._state)
            segments[-1] = (segments[-1][0], segments[-1][1] + rest)
        out, call_text = [], ""
        for (kind, piece), whole in zip(segments, ended):
            kind = kind or "normal"
            if kind != "tool":
                if piece:
                    out.append([kind, piece, []])
                continue
            self._tool += piece
            if not whole:
                call_text += piece
            elif self._tool:
                out.append([kind, self._tool, self._calls(self._tool)])
                self._tool = ""
        return out, call_text

    def _calls(self, text):
        try:
            found = limited(PARSE_SECONDS, "reading a tool call", lambda: self._parse(text, self._tools))
            return [_call(c) for c in (found if isinstance(found, list) else [found])]
        except Exception:  # the model's text need not be a valid call
            return []


def _call(found):
    arguments = found.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict) or not isinstance(found["name"], str):
        raise ValueError("not a call")
    # Python reads and writes NaN and Infinity, which JSON does not have: such a call is none. JSON can say half of a surrogate
    # pair, and a model may write that; UTF-8 cannot.
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    return [printable(found["name"]), text if text.isascii() or encodable(text) else json.dumps(arguments)]
