"""A contender: watchdog's observer, and a Python for each input that it reports.

python watchdog_script.py MODULE_DIR SHARED_DIR
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from watchdog.events import FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

#: A job that hangs must not block the others for ever.
TIMEOUT_SECONDS = 30

modules, shared = (Path(word) for word in sys.argv[1:])
one_job = Path(__file__).with_name("one_job.py")
workers = ThreadPoolExecutor(os.cpu_count())


def run(path: Path) -> None:
    """Run one input."""
    stem = path.with_name(path.stem.replace("input", "result", 1))
    command = [sys.executable, *map(str, (one_job, modules, path, stem))]
    subprocess.run(command, check=True, timeout=TIMEOUT_SECONDS)


class Handler(FileSystemEventHandler):
    """Called for files that were closed after writing or renamed into place."""

    def on_closed(self, event: FileSystemEvent) -> None:
        """Run a file that was written in place."""
        self.take(event.src_path)

    def on_moved(self, event: FileSystemEvent) -> None:
        """Run a file that was renamed into place."""
        if isinstance(event, FileMovedEvent):
            self.take(event.dest_path)

    def take(self, name: bytes | str) -> None:
        """Pass an input to a worker."""
        path = Path(os.fsdecode(name))
        if path.match("input*.json"):
            workers.submit(run, path)


observer = Observer()
observer.schedule(Handler(), str(shared))
observer.start()
observer.join()
