"""What works with which server: official clients against go-mlx, mlx_lm.server and llama.cpp's server, as a table.

`make server-table` runs it and writes the table into docs/server.md. All three answer with small models, so what is tried is whether a
client's request is taken and its answer read, not what it says. The argument is a Python that has mlx-lm."""

import re
import subprocess
import sys
import time

import anthropic
import ollama
import openai
import requests

import servers

BUILD = servers.ROOT / "build" / "agents"
GGUF = servers.ROOT / "build" / "real" / "smollm2-135m-q4_1.gguf"
DOCS = servers.ROOT / "docs" / "server.md"
BEGIN, END = "<!-- servers: made by make server-table -->\n", "<!-- end of servers -->"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": SCHEMA}}
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]

# llama.cpp's server has no binary in a package of its own; xllamacpp is that server, compiled as a Python module.
LLAMA = """
import sys, threading, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.hostnames, p.port, p.n_ctx, p.use_jinja = sys.argv[1], ["127.0.0.1"], int(sys.argv[2]), 4096, True
server = xllamacpp.Server(p)
threading.Event().wait()
"""


def llama_cpp():
    port = servers.free_port()
    python = BUILD / "llama-cpp" / "bin" / "python"
    return servers.Server([python, "-c", LLAMA, str(GGUF), str(port)], url=f"http://127.0.0.1:{port}")


def version(python, package):
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def must(found, what):
    if not found:
        raise AssertionError(what)


def checks(url, model):
    """Names of what is tried, with what tries it."""
    openai_client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120)
    claude = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=120)
    local = ollama.Client(host=url, timeout=120)
    chat = lambda **o: openai_client.chat.completions.create(**{"model": model, "messages": ASK, "max_tokens": 40, "temperature": 0, **o})
    complete = lambda **o: openai_client.completions.create(**{"model": model, "prompt": "The weather in Oslo", "max_tokens": 8, "temperature": 0, **o})
    respond = lambda **o: openai_client.responses.create(**{"model": model, "input": "Hello", "max_output_tokens": 40, **o})
    message = lambda **o: claude.messages.create(**{"model": model, "messages": ASK, "max_tokens": 40, **o})
    post = lambda path, **body: requests.post(url + path, json={"model": model, **body}, timeout=120)

    def stream():
        pieces = list(chat(stream=True, stream_options={"include_usage": True}))
        must(any(c.choices and c.choices[0].delta.content or c.choices and getattr(c.choices[0].delta, "reasoning_content", None) or
                 c.choices and getattr(c.choices[0].delta, "reasoning", None) for c in pieces), "no pieces")
        must(pieces[-1].usage, "no usage")

    def required():
        hello = [{"role": "user", "content": "Hello"}]
        calls = chat(messages=hello, tools=[TOOL], tool_choice="required", max_tokens=120).choices[0].message.tool_calls
        must(calls and calls[0].function.name == "get_weather" and "city" in calls[0].function.arguments, "no call")

    def streamed_arguments():
        names, pieces = [], 0
        for chunk in chat(tools=[TOOL], tool_choice="required", max_tokens=120, stream=True):
            for call in (c for choice in chunk.choices for c in choice.delta.tool_calls or []):
                names += [call.function.name] if call.function.name else []
                pieces += bool(call.function.arguments)
        must(names == ["get_weather"], "no call")
        must(pieces > 1, "in one piece")

    def formatted():
        schema = {"type": "object", "properties": {"wet": {"type": "boolean"}}, "required": ["wet"], "additionalProperties": False}
        o = chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}, max_tokens=120)
        must(re.fullmatch(r'\s*\{\s*"wet"\s*:\s*(true|false)\s*\}\s*', o.choices[0].message.content or ""), "no such JSON")

    def log_probs():
        found = chat(logprobs=True, top_logprobs=2, max_tokens=4, extra_body={"chat_template_kwargs": {"enable_thinking": False}}).choices[0].logprobs
        must(found and found.content and len(found.content[0].top_logprobs) == 2, "none")

    def echo():
        o = complete(echo=True, logprobs=1, max_tokens=1).choices[0]
        must(o.text.startswith("The weather in Oslo"), "no echo")
        must(o.logprobs and len(o.logprobs.token_logprobs) > 3 and o.logprobs.token_logprobs[0] is None, "no log-probabilities of the prompt")

    def cached():
        for _ in range(2):
            used = chat(messages=[{"role": "user", "content": "Hello " * 100}], max_tokens=2).usage
        must(used.prompt_tokens_details and used.prompt_tokens_details.cached_tokens, "not told")

    def two_systems():
        chat(messages=[{"role": "system", "content": "a"}, *ASK, {"role": "system", "content": "b"}], max_tokens=2)

    def previous():
        first = respond(store=True)
        respond(previous_response_id=first.id)

    def claude_stream():
        with claude.messages.stream(model=model, max_tokens=20, messages=ASK) as s:
            must("".join(s.text_stream), "no text")

    def ollama_chat():
        must(local.chat(model=model, messages=ASK, options={"num_predict": 8}).message.content is not None, "no answer")

    def ok(answer, key):
        must(answer.status_code == 200 and key in answer.json(), f"HTTP {answer.status_code}")

    return {
        "openai: chat": lambda: must(chat().choices[0].message, "no message"),
        "openai: chat, streamed, usage": stream,
        "openai: a call that is required": required,
        "openai: its arguments streamed": streamed_arguments,
        "openai: JSON of a schema": formatted,
        "openai: log-probabilities of a chat": log_probs,
        "openai: several answers (`n`)": lambda: must(len(chat(n=2, max_tokens=4).choices) == 2, "one answer"),
        "openai: cached tokens told": cached,
        "openai: system messages anywhere": two_systems,
        "openai: completions": lambda: must(complete().choices[0].text, "no text"),
        "openai: echo with log-probabilities (lm-evaluation-harness)": echo,
        "openai: embeddings": lambda: must(openai_client.embeddings.create(model=model, input=["a", "b"]).data[1].embedding, "none"),
        "openai: responses": lambda: must(respond().output, "no output"),
        "openai: responses, `previous_response_id`": previous,
        "openai: models": lambda: must(openai_client.models.list().data, "none"),
        "anthropic: messages": lambda: must(message().content, "no content"),
        "anthropic: messages, streamed": claude_stream,
        "anthropic: tokens counted": lambda: must(claude.messages.count_tokens(model=model, messages=ASK).input_tokens, "none"),
        "ollama: chat": ollama_chat,
        "ollama: models": lambda: must(local.list().models, "none"),
        "`POST /tokenize`": lambda: ok(post("/tokenize", content="Hello"), "tokens"),
    }


def why(error):
    text = str(getattr(error, "message", error)).strip().splitlines()[0] if str(error) else type(error).__name__
    code = getattr(error, "status_code", None)
    if isinstance(error, AssertionError):
        return text
    return f"no ({code})" if isinstance(code, int) and code > 0 else "no"


def main():
    rows = {}
    kinds = {
        "go-mlx, native": (lambda: servers.go_mlx(), "native"),
        "go-mlx, python": (lambda: servers.go_mlx(), "python"),
        "mlx_lm.server " + version(sys.argv[1], "mlx-lm"): (lambda: servers.mlx_lm(sys.argv[1]), "default_model"),
        "llama.cpp's server (xllamacpp " + version(BUILD / "llama-cpp" / "bin" / "python", "xllamacpp") + ")": (llama_cpp, "smollm2"),
    }
    for name, (start, model) in kinds.items():
        server = start()
        try:
            deadline = time.time() + 120
            while requests.get(server.url + "/v1/models", timeout=10).status_code != 200 and time.time() < deadline:
                time.sleep(0.2)
            for what, check in checks(server.url, model).items():
                try:
                    check()
                    result = "yes"
                except Exception as e:
                    result = why(e)
                    print(f"{name}: {what}: {type(e).__name__}: {str(e)[:200]}", file=sys.stderr)
                rows.setdefault(what, []).append(result)
        finally:
            server.close()
    own = [w for w, r in rows.items() if r[0] != "yes"]
    clients = ", ".join(f"{p} {version(sys.executable, p)}" for p in ("openai", "anthropic", "ollama"))
    lines = [f"Clients: {clients}.", "", "| | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    lines += [f"| {what} | " + " | ".join(results) + " |" for what, results in rows.items()]
    text = DOCS.read_text()
    before, rest = text.split(BEGIN)
    DOCS.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + rest.split(END)[1])
    print("\n".join(lines))
    if own:
        sys.exit(f"go-mlx itself fails: {own}")


if __name__ == "__main__":
    main()
