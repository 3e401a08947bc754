"""Tests of what a worker loads: folders with any name, what changes meanwhile, and the names that it needs of mlx-lm."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

from test_server import GENERATE, MODEL, ROOT, make_server, run

from go_mlx_worker import folders, model, requirements
from go_mlx_worker.errors import RequestError
from go_mlx_worker.folders import fingerprint


class Loading(unittest.TestCase):
    def test_fingerprints_name_what_is_loaded(self):
        with tempfile.TemporaryDirectory() as temp:
            folder = Path(temp, "model[1]")
            shutil.copytree(MODEL, folder)
            first = fingerprint(str(folder), "", None)
            self.assertEqual(fingerprint(str(folder), "", None), first)
            weights = folder / "model.safetensors"
            data = bytearray(weights.read_bytes())
            status = weights.stat()
            data[-1] ^= 1
            weights.write_bytes(data)
            os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
            self.assertNotEqual(fingerprint(str(folder), "", None), first)
            self.assertNotEqual(fingerprint(MODEL, MODEL, None), fingerprint(MODEL, "", MODEL))

    def test_layers_after_the_model_are_in_its_fingerprint(self):
        with tempfile.TemporaryDirectory() as folder:
            dense = Path(folder, "2_Dense")
            dense.mkdir()
            for name in ("config.json", "model.safetensors"):
                (dense / name).write_text("{}")
            Path(folder, "modules.json").write_text("[]")
            before = fingerprint(folder)
            (dense / "model.safetensors").write_text("[]")
            self.assertNotEqual(fingerprint(folder), before)

    def test_a_change_anywhere_changes_the_fingerprint(self):
        """Also where size and time of the last change stay what they were."""
        for size in (1 << 20, 4 << 20):
            with tempfile.TemporaryDirectory() as folder, mock.patch.object(folders, "WHOLE", 2 << 20):
                weights = Path(folder, "model.safetensors")
                with open(weights, "wb") as file:
                    file.truncate(size)
                before, status = fingerprint(folder), weights.stat()
                self.assertEqual(fingerprint(folder), before)
                for at in (0, 5000, size // 2 + 12345, size - 1):
                    time.sleep(0.02)  # two changes within one tick of the clock of a file system look like one
                    with open(weights, "r+b") as file:
                        file.seek(at)
                        file.write(b"x")
                    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
                    after = fingerprint(folder)
                    self.assertNotEqual(after, before, (size, at))
                    before = after
                for name in ("qwen.tiktoken", "chat_template.jinja"):
                    Path(folder, name).write_text("x")
                    after = fingerprint(folder)
                    self.assertNotEqual(after, before, name)
                    before = after

    def test_a_copy_in_the_folder_s_place_has_its_fingerprint(self):
        with tempfile.TemporaryDirectory() as temp:
            first, other = Path(temp, "model"), Path(temp, "other")
            shutil.copytree(MODEL, first)
            shutil.copytree(MODEL, other)
            before = fingerprint(str(first))
            first.rename(Path(temp, "old"))
            other.rename(first)
            self.assertEqual(fingerprint(str(first)), before)

    @unittest.skipUnless(Path("/proc/self/fd").is_dir(), "only Linux names open files")
    def test_nothing_is_left_of_a_load_that_is_killed(self):
        """A folder that libraries cannot be given by its name has another name while it is loaded."""
        for name in ("model[1]", os.fsdecode(b"model\xff")):
            with tempfile.TemporaryDirectory() as temp:
                folder, temporary = Path(temp, name), Path(temp, "temporary")
                shutil.copytree(MODEL, folder)
                temporary.mkdir()
                weights = folder / "model.safetensors"
                weights.unlink()
                os.mkfifo(weights)  # a load from it waits
                code = (
                    "import sys; sys.path.insert(0, sys.argv[1])\n"
                    "from go_mlx_worker import model\n"
                    "model.fingerprint = lambda *_: ''\n"
                    "model.LoadedModel({'path': sys.argv[2], 'trust_remote_code': False})\n"
                )
                load = subprocess.Popen([sys.executable, "-c", code, str(ROOT / "python"), str(folder)], env=os.environ | {"TMPDIR": str(temporary)})
                opened = None
                while opened is None and load.poll() is None:
                    try:
                        opened = os.open(weights, os.O_WRONLY | os.O_NONBLOCK)  # works when the load reads
                    except OSError:
                        time.sleep(0.005)
                self.assertIsNone(load.poll())
                load.kill()
                load.wait()
                os.close(opened)
                self.assertEqual(list(temporary.iterdir()), [])

    def test_folders_with_odd_names_load(self):
        for name in ("model[1]", os.fsdecode(b"model\xff")):
            with tempfile.TemporaryDirectory() as temp:
                folder = Path(temp, name)
                shutil.copytree(MODEL, folder)
                server, sink = make_server(path=str(folder))
                server._serve(GENERATE | {"id": 2})
                run(server)
                self.assertEqual(sum(m["t"] == "token" for m in sink.messages), 12)

    def test_a_folder_that_goes_while_it_is_loaded_is_told(self):
        with tempfile.TemporaryDirectory() as temp:
            folder = Path(temp, "model")
            shutil.copytree(MODEL, folder)
            load = model.LoadedModel._load

            def meanwhile(*args):
                load(*args)
                shutil.rmtree(folder)

            with mock.patch.object(model.LoadedModel, "_load", meanwhile), self.assertRaises(RequestError) as failed:
                model.LoadedModel({"path": str(folder), "trust_remote_code": False})
            self.assertEqual(failed.exception.code, "load_failed")
            self.assertIn("was changed while it was loaded", str(failed.exception))

    def failure(self, edit, name="config.json"):
        """The error of a load of the model with another file of a name: edit gets its bytes and returns others."""
        with tempfile.TemporaryDirectory() as temp:
            folder = Path(temp, "model")
            shutil.copytree(MODEL, folder)
            file = folder / name
            file.write_bytes(edit(file.read_bytes()))
            with self.assertRaises(RequestError) as failed:
                model.LoadedModel({"path": str(folder), "trust_remote_code": False})
            self.assertEqual(failed.exception.code, "load_failed")
            self.assertIn(str(file), str(failed.exception))
            return str(failed.exception)

    def test_a_config_that_cannot_be_read_is_named(self):
        for want, edit in {
            "UTF-16": lambda data: data.decode().encode("utf-16"),
            "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
            "not valid UTF-8, at byte 7": lambda data: b'{"a": "\xe9",' + data[1:],
            "a list": lambda data: b"[" + data + b"]",
            "null": lambda data: b"null",
            "Expecting value": lambda data: b"",
            "Expecting property name": lambda data: b"{/* x */" + data[1:],
            "recursion": lambda data: b'{"a": ' + b"[" * 9999 + b"]" * 9999 + b"," + data[1:],
        }.items():
            self.assertIn(want, self.failure(edit))

    def test_the_other_files_are_named_too(self):
        """Some of what is wrong in them would fail at the first request only."""
        for name, changes in {
            "tokenizer_config.json": {
                "bos_token": (3, ["<bos>"], {"content": "<bos>"}),
                "model_max_length": ("2048",),
                "tokenizer_class": (3,),
                "added_tokens_decoder": (None, [], {"0": 3}, {"x": {"content": "a"}}),
            },
            "generation_config.json": {"eos_token_id": ("5", 5.0, [[5]], {"a": 1}, True, [1, "<eos>"])},
        }.items():
            for key, values in changes.items():
                for value in values:
                    self.assertIn(key, self.failure(lambda data, key=key, value=value: json.dumps(json.loads(data) | {key: value}).encode(), name))
            self.assertIn("a list", self.failure(lambda _: b"[]", name))
            self.assertIn("UTF-16", self.failure(lambda data: data.decode().encode("utf-16"), name))
        self.assertIn("Expecting", self.failure(lambda _: b"{", "tokenizer_config.json"))

    def test_files_that_mlx_lm_reads_are_read(self):
        for name, text in (
            ("generation_config.json", '{"eos_token_id": '),
            ("generation_config.json", '{"eos_token_id": null}'),
            ("generation_config.json", '{"eos_token_id": [1, 5], "temperature": NaN}'),
            ("tokenizer_config.json", None),
            ("generation_config.json", None),
        ):
            with tempfile.TemporaryDirectory() as temp:
                folder = Path(temp, "model")
                shutil.copytree(MODEL, folder)
                (folder / name).unlink() if text is None else (folder / name).write_text(text)
                model.LoadedModel({"path": str(folder), "trust_remote_code": False})

    def test_the_key_of_a_config_that_is_wrong_is_named(self):
        """mlx-lm says that int and str cannot be divided by each other."""
        for key, value, want in (
            ("hidden_size", None, "hidden_size is null"),
            ("hidden_size", "128", "hidden_size is a text"),
            ("hidden_size", [128], "hidden_size is a list"),
            ("num_hidden_layers", 6.0, "num_hidden_layers is 6.0"),
            ("query_pre_attn_scalar", 0, "query_pre_attn_scalar is 0"),
            ("num_key_value_heads", 0, "num_key_value_heads is 0"),
            ("quantization", {}, "quantization has no bits"),
            ("quantization", False, "quantization is true or false and no object"),
            ("rope_scaling", "linear", "rope_scaling is a text and no object"),
        ):
            said = self.failure(lambda data, key=key, value=value: json.dumps(json.loads(data) | {key: value}).encode())
            self.assertIn(want, said)
            if value is not None:
                self.assertNotIn("is null", said)  # as rope_scaling is, and may be

    def test_errors_name_the_folder_as_it_was_given(self):
        with tempfile.TemporaryDirectory() as temp:
            folder = Path(temp, "model[1]")
            shutil.copytree(MODEL, folder)
            (folder / "model.safetensors").unlink()
            with self.assertRaises(RequestError) as failed:
                model.LoadedModel({"path": str(folder), "trust_remote_code": False})
            self.assertIn(str(folder), str(failed.exception))
            self.assertNotIn("/proc", str(failed.exception))

    def test_names_that_batching_needs_are_there(self):
        self.assertEqual(requirements.missing(), [])
        lost = requirements.missing(lambda name: None if name == "mlx_lm.generate" else requirements.find(name))
        self.assertIn("GenerationBatch._next_tokens", lost)
        self.assertIn("mlx_lm.generate.generation_stream", lost)
        self.assertNotIn("mlx_lm.utils.load", lost)

    def test_a_version_without_what_is_needed_is_named(self):
        for module, package in (("transformers.utils.chat_template_utils", "transformers"), ("mlx_lm.utils", "mlx-lm")):
            lost = requirements.missing(lambda name, module=module: None if name == module else requirements.find(name))
            with mock.patch.object(requirements, "missing", lambda lost=lost: lost), self.assertRaises(SystemExit) as ended:
                requirements.check()
            self.assertRegex(str(ended.exception), rf"^go_mlx_worker: {package} [\d.]+ lacks .*{module}\..*requirements.txt")

    def test_every_name_that_is_imported_from_mlx_lm_and_transformers_is_looked_for(self):
        for file in Path(requirements.__file__).parent.glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("mlx_lm", "transformers")):
                    for name in node.names:
                        self.assertIn(name.name, requirements.NAMES.get(node.module, []), f"{file.name}: {node.module}")


if __name__ == "__main__":
    unittest.main()
