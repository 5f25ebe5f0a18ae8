"""How many sites a proxy before the SuperLink serves: what SuperNodes ask, from ever more of them at once.

Each client asks as a SuperNode that has nothing to do: it pulls every 3 s, over a connection that stays.
A stand-in for the SuperLink answers at once, so that the proxy is what is measured. On a machine that does
other work, seconds say little; the processor time that the proxy needs for an answer does not depend on it.

Run from the repository's root: PYTHONPATH=. python benchmarks/proxy.py [--proxy nginx]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from processes import end_in_order

from protocol.processes.flower_process import Child
from server.provisioning.authority import loopback_certificate
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.proxy import PROXIES, choose_proxy, proxy_listens
from server.service.superlink import Endpoint, hidden_endpoint, wait_until
from tests.server.coordinators import make_coordinator

PULL = 3.0  # seconds between two pulls of a SuperNode
PIECE = 5 * 2**20  # bytes of an object as Flower sends it
CALL = "POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n" + "x" * 13
OF_AN_ADDRESS = 100  # clients that share one; 127.0.0.0/8 has enough


def main() -> None:
    end_in_order()
    options = _options()
    with tempfile.TemporaryDirectory() as place:
        folder = make_coordinator(Path(place), host="127.0.0.1")
        with superlink(folder) as endpoint:
            child = Child(PROXIES[options.proxy](folder, endpoint), say=print)
            child.start()
            try:
                _wait(child, folder)
                for sites in options.sites:
                    print(
                        json.dumps(
                            measure(folder, child, sites, options.seconds) | {"proxy": options.proxy}
                        )
                    )
                print(json.dumps({"MiB_a_second": pieces(folder), "proxy": options.proxy}))
            finally:
                child.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proxy", choices=sorted(PROXIES), default=choose_proxy())
    parser.add_argument("--sites", type=int, nargs="+", default=[50, 200, 400, 800])
    parser.add_argument("--seconds", type=float, default=15.0)
    return parser.parse_args()


def measure(folder: CoordinatorFolder, child: Child, sites: int, seconds: float) -> dict[str, float]:
    """How long an answer takes, how many were no 200, and the proxy's processor time for one."""
    before = _processor(child)
    took, statuses = asyncio.run(_pull(folder, sites, seconds))
    busy = _processor(child) - before
    ranked = sorted(took)
    return {
        "sites": sites,
        "answers": len(took),
        "refused": sum(status != "200" for status in statuses),
        "median_ms": round(1000 * statistics.median(took), 1),
        "p99_ms": round(1000 * ranked[int(0.99 * (len(ranked) - 1))], 1),
        "processor_ms_an_answer": round(1000 * busy / len(took), 2),
        "load_average": os.getloadavg()[0],
    }


async def _pull(folder: CoordinatorFolder, sites: int, seconds: float) -> tuple[list[float], list[str]]:
    context, took, statuses = _trusting(folder), list[float](), list[str]()

    async def site(number: int) -> None:
        address = f"127.0.{1 + number // OF_AN_ADDRESS}.1"
        await asyncio.sleep(PULL * number / sites)
        port = folder.federation.port
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, local_addr=(address, 0)
        )
        for _ in range(max(1, int(seconds / PULL))):
            begun = time.perf_counter()
            writer.write(CALL.encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").lower()
            length = head.partition("content-length:")[2].partition("\r\n")[0]
            await reader.readexactly(int(length or 0))
            took.append(time.perf_counter() - begun)
            statuses.append(head.split()[1])
            await asyncio.sleep(PULL - (time.perf_counter() - begun) % PULL)
        writer.close()

    await asyncio.gather(*(site(number) for number in range(sites)))
    return took, statuses


def pieces(folder: CoordinatorFolder, *, count: int = 20) -> float:
    """MiB a second of objects that one site pushes, one after the other."""
    import http.client

    federation = folder.federation
    connection = http.client.HTTPSConnection(federation.host, federation.port, context=_trusting(folder))
    content, begun = os.urandom(PIECE), time.perf_counter()
    for _ in range(count):
        connection.request("POST", "/v1/fleet/push-object", content)
        connection.getresponse().read()
    connection.close()
    return round(count * PIECE / 2**20 / (time.perf_counter() - begun), 1)


@contextmanager
def superlink(folder: CoordinatorFolder) -> Iterator[Endpoint]:
    """What stands behind the proxy: something that answers at once, under the SuperLink's certificate."""
    key, certificate = loopback_certificate(folder.flower_home)
    endpoint = hidden_endpoint(folder, movable=True)
    server = uvicorn.Server(
        uvicorn.Config(
            _answer, port=endpoint.port, ssl_certfile=certificate, ssl_keyfile=key, log_config=None
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield endpoint
    server.should_exit = True
    thread.join(10)


async def _answer(scope: dict, receive: object, send: object) -> None:
    """Read a request's body whole and say something short."""
    if scope["type"] != "http":
        return
    while (await receive())["more_body"]:  # type: ignore[operator]
        pass
    headers = [(b"content-length", b"100"), (b"content-type", b"application/x-protobuf")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": bytes(100)})  # type: ignore[operator]


def _trusting(folder: CoordinatorFolder) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder.authority_certificate))


def _wait(child: Child, folder: CoordinatorFolder) -> None:
    if not wait_until(lambda: proxy_listens(folder), alive=lambda: child.pid is not None, pause=time.sleep):
        raise RuntimeError(child.last_words)


def _processor(child: Child) -> float:
    """The seconds of processor time that the proxy and its workers have used."""
    group, total = child.pid, 0.0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


if __name__ == "__main__":
    main()
