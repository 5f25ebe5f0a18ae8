"""What stands between a relay and its agent in a test, and writes down every byte that passes."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path


class Recorder:
    """Listens on a unix socket and passes everything on to another, and back."""

    def __init__(self, path: Path, target: Path) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._streams: list[bytearray] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def recorded(self) -> list[bytes]:
        """Each direction of each connection so far."""
        with self._lock:
            return [bytes(stream) for stream in self._streams]

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                try:
                    far.connect(str(self._target))
                except OSError:  # the agent is down: so is the connection
                    near.close()
                    continue
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        stream = bytearray()
        with self._lock:
            self._streams.append(stream)
        with suppress(OSError):
            while content := source.recv(65536):
                with self._lock:
                    stream += content
                sink.sendall(content)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
