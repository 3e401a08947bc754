"""The sending side: frames, whole and one at a time, and the heartbeat."""

import os
import resource
import threading
import time

from .frames import encode_frame

# Seconds between two beats.
BEAT = 0.5


class Progress:
    """What the worker is doing, for the heartbeat. work counts up whenever something got done: a
    supervisor that sees a busy phase without new work may call the worker hung."""

    def __init__(self):
        self.phase, self.work = "start", 0
        self.done, self.total = 0, 0
        self.request = 0  # the load under way
        self.memory = dict  # a func that reads MLX's account; set when MLX is there

    def enter(self, phase, request=0, total=0):
        self.phase, self.request, self.done, self.total = phase, request, 0, total
        self.work += 1


class Channel:
    def __init__(self, out):
        self._out, self._lock = out, threading.Lock()

    def send(self, *messages):
        """Writes messages in one go."""
        self.write(b"".join(map(encode_frame, messages)))

    def write(self, frames):
        data = memoryview(frames)
        try:
            with self._lock:
                while data:
                    data = data[self._out.write(data) :]
        except OSError:
            os._exit(0)  # nobody reads: the supervisor is gone

    def start_heartbeat(self, progress):
        threading.Thread(target=self._beat, args=(progress,), name="heartbeat", daemon=True).start()

    def _beat(self, progress):
        last, parent = None, os.getppid()
        try:
            while True:
                memory = progress.memory()
                if progress.phase in ("start", "load"):
                    # These phases are one long call, so progress is read from the process: its processor time and disk reads.
                    signature = (memory.get("active"), int(time.process_time() / 0.05), _disk_reads())
                    progress.work += signature != last
                    last = signature
                beat = {"t": "beat", "id": 0, "phase": progress.phase, "work": progress.work}
                messages = [beat | memory]
                if progress.phase == "load":
                    progress.done = min(memory.get("active", 0), progress.total)
                    messages.append(
                        {
                            "t": "progress",
                            "id": progress.request,
                            "phase": "load",
                            "done": progress.done,
                            "total": progress.total,
                        }
                    )
                self.send(*messages)
                time.sleep(BEAT)
                if os.getppid() != parent:
                    os._exit(0)  # the supervisor is gone
        except Exception as e:
            # Without a heartbeat the supervisor would take the worker for hung, two minutes later.
            os.write(2, f"go_mlx_worker: heartbeat: {type(e).__name__}: {e}\n".encode(errors="replace"))
            os._exit(4)


def _disk_reads():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_inblock + usage.ru_majflt
