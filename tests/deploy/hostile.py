"""What hostile code in the relay's place can do to a site: ``python -m tests.deploy.hostile KIND < task``.

The task is JSON, and so is what is printed: what became of each attempt, "done" or the name of the error
that stopped it.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import json
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from client.relay.delivery import deliver
from protocol.messages import confide_pb2 as pb
from protocol.messages.channel import in_chunks, open_channel
from protocol.messages.confide_pb2_grpc import AgentStub

Attempts = dict[str, Callable[[], object]]

FLOOD = 64
PATIENCE = 30.0
_PTRACE_ATTACH, _PTRACE_SEIZE = 16, 0x4206
_PIDFD_GETFD = 438  # the number of the system call, on every architecture


def outcome(attempt: Callable[[], object]) -> str:
    """Try something: "done", or why not."""
    try:
        attempt()
    except grpc.RpcError as error:
        return error.code().name
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    return "done"


def reads(task: dict[str, Any]) -> Attempts:
    """Read what is the agent's alone."""
    return {f"read {path}": partial(_read, path) for path in task["paths"]} | {
        f"list {path}": partial(os.listdir, path) for path in task["folders"]
    }


def writes(task: dict[str, Any]) -> Attempts:
    """Change the agent's files, or put something beside them."""
    attempts: Attempts = {}
    for path in task["paths"]:
        attempts |= {
            f"append {path}": partial(_append, path),
            f"chmod {path}": partial(os.chmod, path, 0o666),
            f"rename {path}": partial(os.rename, path, f"{path}.gone"),
            f"unlink {path}": partial(os.unlink, f"{path}.gone" if task["alone"] else path),
        }
    for folder in task["folders"]:
        attempts |= {
            f"new file {folder}": partial(_append, f"{folder}/planted"),
            f"new link {folder}": partial(os.symlink, "/etc/passwd", f"{folder}/link"),
            f"chmod {folder}": partial(os.chmod, folder, 0o777),
        }
    return attempts


def process(task: dict[str, Any]) -> Attempts:
    """Look into the agent's process, and stop it."""
    pid = task["pid"]
    proc = f"/proc/{pid}"
    library = ctypes.CDLL(None, use_errno=True)
    return {
        **{name: partial(_read, f"{proc}/{name}") for name in ("environ", "maps", "mem", "auxv")},
        **{name: partial(os.readlink, f"{proc}/{name}") for name in ("root", "cwd", "exe")},
        **{name: partial(os.listdir, f"{proc}/{name}") for name in ("fd", "map_files", "root/")},
        "fd/0": partial(_read, f"{proc}/fd/0"),
        "mem, to write": partial(os.open, f"{proc}/mem", os.O_RDWR),
        "another task's mem": partial(_read, f"{proc}/task/{pid}/mem"),
        "ptrace attach": partial(_call, library.ptrace, _PTRACE_ATTACH, pid, None, None),
        "ptrace seize": partial(_call, library.ptrace, _PTRACE_SEIZE, pid, None, None),
        "process_vm_readv": partial(_read_memory, library, pid),
        "its open files": partial(_call, library.syscall, _PIDFD_GETFD, os.pidfd_open(pid), 0, 0),
        "kill": partial(os.kill, pid, signal.SIGKILL),
        "pause": partial(os.kill, pid, signal.SIGSTOP),
        "starve": partial(os.setpriority, os.PRIO_PROCESS, pid, 19),
        "limit": partial(resource.prlimit, pid, resource.RLIMIT_NOFILE, (3, 3)),
        "become it": partial(os.setresuid, *[task["agent"]] * 3),
        "join its group": partial(os.setgroups, [task["agent"]]),
    }


def sockets(task: dict[str, Any]) -> Attempts:
    """Take the socket's place, so that a true relay talks to someone else."""
    path = task["socket"]
    folder = str(Path(path).parent)
    return {
        "unlink": partial(os.unlink, path),
        "rename": partial(os.rename, path, f"{path}.gone"),
        "bind over": partial(_bind, f"{folder}/other.sock"),
        "link over": partial(os.symlink, "/dev/null", f"{folder}/link"),
        "open to all": partial(os.chmod, path, 0o777),
        "own": partial(os.chown, path, os.getuid(), os.getgid()),
        "folder, open to all": partial(os.chmod, folder, 0o777),
        "lock of the home": partial(_append, f"{task['home']}/agent.lock"),
    }


def messages(task: dict[str, Any]) -> Attempts:
    """Send the agent all kinds of envelopes."""
    return {
        name: partial(_deliver, task["socket"], base64.b64decode(envelope))
        for name, envelope in task["envelopes"].items()
    } | {
        # More than one message of gRPC may hold.
        "a long chunk": partial(_send, task["socket"], [pb.Chunk(data=bytes(3 << 20))]),
        "no chunk": partial(_send, task["socket"], []),
        "another method": partial(_other_method, task["socket"]),
    }


def flood(task: dict[str, Any]) -> Attempts:
    """Keep all of the agent's attention: deliveries that never end, connections that never begin."""
    path = task["socket"]
    over = threading.Event()

    def endless() -> Iterator[pb.Chunk]:
        yield pb.Chunk(data=bytes(1 << 16))
        over.wait(PATIENCE)

    def connections() -> None:
        for _ in range(FLOOD):
            raw = socket.socket(socket.AF_UNIX)
            raw.settimeout(PATIENCE)
            raw.connect(path)
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(64))
            held.append(raw)

    def deliveries() -> None:
        with open_channel(f"unix:{path}", None) as channel:
            calls = [AgentStub(channel).Deliver(endless(), timeout=PATIENCE) for _ in range(FLOOD)]
            turned_away, all_known = threading.Semaphore(0), 0
            for call in calls:
                if not call.add_callback(turned_away.release):
                    turned_away.release()  # it is over already
            while all_known < FLOOD - task["deliveries"] and turned_away.acquire(timeout=PATIENCE):
                all_known += 1
            codes = {call.code() for call in calls if not call.is_active()}
            over.set()
            for call in calls:
                call.cancel()
        if codes != {grpc.StatusCode.RESOURCE_EXHAUSTED} or all_known < FLOOD - task["deliveries"]:
            raise RuntimeError(f"expected most to be turned away, got {all_known} of {FLOOD}, {codes}")

    held: list[socket.socket] = []
    return {"connections": connections, "deliveries": deliveries}


def connect(task: dict[str, Any]) -> Attempts:
    """Just reach the socket."""
    return {"connect": partial(_connect, task["socket"]), "stat": partial(os.stat, task["socket"])}


def relay(task: dict[str, Any]) -> str:
    """What a true relay does: the agent's answer to an envelope, as base64."""
    envelope = base64.b64decode(task["envelope"])
    return base64.b64encode(deliver(envelope, f"unix:{task['socket']}")).decode()


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _append(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


def _call(function: Any, *arguments: Any) -> None:
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _read_memory(library: Any, pid: int) -> None:
    class Piece(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    mine = ctypes.create_string_buffer(8)
    here, there = Piece(ctypes.addressof(mine), 8), Piece(0x400000, 8)
    _call(library.process_vm_readv, pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)


def _bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.bind(path)


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(path)


def _deliver(path: str, envelope: bytes) -> None:
    _send(path, in_chunks(envelope))


def _send(path: str, chunks: Any) -> None:
    with open_channel(f"unix:{path}", None) as channel:
        list(AgentStub(channel).Deliver(iter(chunks), timeout=PATIENCE))


def _other_method(path: str) -> None:
    with open_channel(f"unix:{path}", None) as channel:
        channel.unary_unary("/confide.Agent/Approve")(b"", timeout=PATIENCE)


def main() -> None:
    kind, task = globals()[sys.argv[1]], json.load(sys.stdin)
    found = kind(task)
    print(json.dumps(found if isinstance(found, str) else {name: outcome(a) for name, a in found.items()}))


if __name__ == "__main__":
    main()
