"""Agents and libraries that people use, from their packages, against the server: a scripted task of two turns with one tool.

`make test-agents` installs them into build/agents, of the versions in tests/clients/agents, and runs this."""

import json
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import servers

HERE = Path(__file__).parent / "agents"
BUILD = servers.ROOT / "build" / "agents"
BIN = BUILD / "node_modules" / ".bin"


def python(venv):
    """The interpreter of a set of packages that go together: tests/clients/agents/VENV.txt."""
    return BUILD / venv / "bin" / "python"


def setUpModule():
    global server
    server = servers.Server([BUILD / "scripted"])
    for script in HERE.glob("*.mjs"):  # node looks for packages beside the script
        shutil.copy(script, BUILD)


def tearDownModule():
    assert server.close() == 0, "".join(server.lines)


class Agents(unittest.TestCase):
    def run_agent(self, *command, cwd=None, **environment):
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run(
                [str(c) for c in command], cwd=cwd or home, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL,
                env={"PATH": os.environ["PATH"], "HOME": home, **environment},
            )
        asked = "".join(line for line in server.lines[-40:] if "status=4" in line or "status=5" in line)
        self.assertEqual(done.returncode, 0, done.stdout[-4000:] + done.stderr[-4000:] + asked)
        return done.stdout

    def two_turns(self, *command):
        out = self.run_agent(*command)
        self.assertIn("first: The tool says: clear in Athens", out)
        self.assertIn("second: The tool says: clear in Oslo", out)

    def each(self, script, *kinds, venv="libraries"):
        command = ["node", BUILD / script] if script.endswith(".mjs") else [python(venv), HERE / script]
        for kind in kinds:
            with self.subTest(kind=kind):
                self.two_turns(*command, server.url, kind)

    def test_openai_python(self):
        self.each("openai_loop.py", "responses", "chat")

    def test_openai_agents(self):
        self.each("openai_agents.py", "responses", "chat")

    def test_pydantic_ai(self):
        self.each("pydantic_agent.py", "responses", "chat", "anthropic", venv="pydantic-ai")

    def test_langchain(self):
        self.each("langchain_agent.py", "responses", "chat")

    def test_instructor(self):
        self.each("instructor_loop.py", "responses", "chat", "parallel")

    def test_llama_index(self):
        self.two_turns(python("llama-index"), HERE / "llama_index_agent.py", server.url)

    def test_aider(self):
        with tempfile.TemporaryDirectory() as folder:
            for extra in ((), ("--restore-chat-history", "--no-stream")):
                out = self.run_agent(
                    BUILD / "aider" / "bin" / "aider", "--model", "openai/scripted", "--openai-api-base", server.url + "/v1", "--openai-api-key", "none",
                    "--no-git", "--yes", "--no-check-update", "--no-show-model-warnings", "--analytics-disable", "--message", "Hello", *extra, cwd=folder,
                )
                self.assertIn("Nothing to do.", out)

    def test_ai_sdk(self):
        self.each("ai_sdk.mjs", "responses", "chat", "compatible", "anthropic")

    def test_ollama(self):
        self.two_turns(python("libraries"), HERE / "ollama_loop.py", server.url)

    def test_llm(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "extra-openai-models.yaml").write_text(
                f"- model_id: local\n  model_name: scripted\n  api_base: {server.url}/v1\n  api_key_name: local\n  supports_tools: true\n"
            )
            functions = "def get_weather(city: str) -> str:\n    return 'clear in ' + city\n"
            for extra in ((), ("-c",)):
                out = self.run_agent(
                    BUILD / "libraries" / "bin" / "llm", "-m", "local", "--key", "none", *extra, "--functions", functions,
                    'CALL get_weather {"city": "Athens"}', LLM_USER_PATH=folder,
                )
                self.assertIn("The tool says: clear in Athens", out)

    def test_claude_code(self):
        with tempfile.TemporaryDirectory() as folder:
            note = Path(folder, "note.txt")
            note.write_text("harbour master\n")
            environment = {
                "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "none", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "CLAUDE_CONFIG_DIR": folder + "/config",
            }
            for extra in ((), ("--continue",)):
                out = self.run_agent(
                    BIN / "claude", "-p", f'CALL Read {{"file_path": "{note}"}}', "--allowedTools", "Read", *extra, cwd=folder, **environment
                )
                self.assertIn("harbour master", out)

    def test_codex(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "note.txt").write_text("harbour master\n")
            config = Path(folder, "config")
            config.mkdir()
            config.joinpath("config.toml").write_text(
                'model = "scripted"\nmodel_provider = "local"\n[model_providers.local]\nname = "local"\n'
                f'base_url = "{server.url}/v1"\nwire_api = "responses"\n'
            )
            task = 'CALL exec_command {"cmd": "cat note.txt"}'
            for command in (("exec",), ("exec", "resume", "--last")):
                out = self.run_agent(
                    BIN / "codex", *command, "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", task,
                    cwd=folder, CODEX_HOME=str(config),
                )
                self.assertIn("harbour master", out)

    def test_cline(self):
        """One turn with a tool: its command line goes on with a conversation on a terminal only."""
        with tempfile.TemporaryDirectory() as folder:
            note = Path(folder, "note.txt")
            note.write_text("harbour master\n")
            data = ("--data-dir", folder + "/data")
            self.run_agent(BIN / "cline", "auth", "-p", "openai-compatible", "-k", "none", "-m", "scripted", "-b", server.url + "/v1", *data, cwd=folder)
            task = "CALL read_files " + json.dumps({"files": [{"path": str(note)}]})
            out = self.run_agent(BIN / "cline", "-P", "openai-compatible", "-m", "scripted", *data, task, cwd=folder)
            self.assertRegex(out, "The tool says: .*harbour master")

    def test_opencode(self):
        with tempfile.TemporaryDirectory() as folder:
            note = Path(folder, "note.txt")
            note.write_text("harbour master\n")
            provider = {
                "npm": "@ai-sdk/openai-compatible", "name": "local", "options": {"baseURL": server.url + "/v1", "apiKey": "none"},
                "models": {"scripted": {"name": "scripted", "tool_call": True}},
            }
            config = {"provider": {"local": provider}, "permission": {"*": "allow"}, "autoupdate": False}
            Path(folder, "opencode.json").write_text(json.dumps(config))
            for extra in ((), ("--continue",)):
                out = self.run_agent(
                    BIN / "opencode", "run", "-m", "local/scripted", *extra, f'CALL read {{"filePath": "{note}"}}', cwd=folder,
                    XDG_DATA_HOME=folder + "/data", XDG_CONFIG_HOME=folder + "/config", XDG_CACHE_HOME=folder + "/cache", XDG_STATE_HOME=folder + "/state",
                )
                self.assertIn("harbour master", out)


if __name__ == "__main__":
    unittest.main()
