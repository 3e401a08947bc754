"""Starts the servers that the clients' tests talk to."""

import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "models"
ENGINES = ("native", "python")


class Server:
    """A process that serves HTTP; close ends it."""

    def __init__(self, command, url=None, **environment):
        self.lines = []
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        deadline = time.monotonic() + 600  # it is for what hangs, not for what is slow
        self.url = url
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError("the server ended:\n" + "".join(self.lines))
            if not self.url:
                found = re.search(r"address=(http://\S+?)/?\s", "".join(self.lines))
                self.url = found and found.group(1)
            elif self._answers():
                return
            time.sleep(0.05)
        self.close()
        raise RuntimeError("the server does not answer:\n" + "".join(self.lines))

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)

    def _answers(self):
        try:
            with urllib.request.urlopen(self.url + "/v1/models", timeout=10):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def close(self):
        """Ends the process politely and returns its exit status."""
        self.process.terminate()
        try:
            self.process.wait(300)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self.process.stderr.close()
        return self.process.returncode


def go_mlx(*arguments, **environment):
    """The server under test: the chat model on both engines, and the classifier."""
    chat = MODELS / "assistant"
    return Server(
        [
            ROOT / "bin" / "go-mlx", "serve", "--port", "0",
            "--model", f"native={chat},engine=native", "--model", f"python={chat},engine=python",
            "--model", str(MODELS / "domains"), *arguments,
        ],
        **environment,
    )


def free_port():
    """A port that a server takes a while later. It is none of those that systems give to connections: asking for the server until it
    answers makes many of these."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def mlx_lm(python=sys.executable):
    """mlx-lm's own server with the same chat model; python has mlx-lm."""
    port = free_port()
    return Server(
        [
            python, "-m", "mlx_lm.server", "--model", str(MODELS / "assistant"), "--host", "127.0.0.1",
            "--port", str(port), "--log-level", "ERROR",
        ],
        url=f"http://127.0.0.1:{port}",
    )
