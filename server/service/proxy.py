"""The proxy that stands before the SuperLink and lets through what sites need, and nothing else.

It is nginx where that is installed, and otherwise ``server/service/embedded_proxy.py``. A request is judged
by its path as it came, byte by byte, before anything is decoded or tidied up: only ``POST /v1/fleet/NAME``
passes, with nothing after the name. What passes is sent on under a path written down by the proxy, so that
it and the SuperLink cannot read it differently.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path

from privacy.errors import UserError
from protocol.processes.flower_process import Program
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.superlink import Endpoint, is_loopback, join_address

_EMBEDDED = Path(__file__).with_name("embedded_proxy.py")

# Flower sends arrays in pieces of 5 MiB. A body is held in memory until it is whole: nginx's workers, who
# are nobody where root starts them, could not write it into the coordinator's folder.
_LARGEST_BODY = "8m"

# Answers of 503 are what a SuperNode waits for and asks again; of 401, 403 or 429 it ends.
_CONFIGURATION = """\
# Written by confide: changes are lost when the server starts again.
daemon off;
master_process on;
worker_processes 2;
pid {folder}/nginx.pid;
error_log stderr warn;

events {{
    worker_connections 1024;
}}

http {{
    server_tokens off;
    log_format sites '$time_iso8601 $remote_addr $status $request_length $body_bytes_sent "$request"';
    access_log {logs}/proxy-access.log sites;
    default_type text/plain;

    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;

    client_max_body_size {largest};
    client_body_buffer_size {largest};
    client_header_timeout 10s;
    client_body_timeout 30s;
    send_timeout 30s;
    keepalive_timeout 60s;
    reset_timedout_connection on;

    limit_req_zone $binary_remote_addr zone=requests:1m rate=100r/s;
    limit_conn_zone $binary_remote_addr zone=connections:1m;
    limit_req_status 503;
    limit_conn_status 503;

    # The path as it came, with nothing decoded: empty unless it is a call of the Fleet API.
    map $request_uri $call {{
        default "";
        "~^/v1/fleet/(?<name>[a-z]+(-[a-z]+)*)$" $name;
    }}

    upstream superlink {{
        server {superlink} max_fails=0;
        keepalive 16;
        keepalive_timeout 4s;  # the SuperLink closes after 5
    }}

    server {{
{listen}
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
        ssl_session_cache shared:sites:1m;
        ssl_session_tickets off;

        if ($call = "") {{
            rewrite ^ /refused last;
        }}

        location / {{
            keepalive_timeout 0;
            return 404;
        }}

        location ^~ /v1/fleet/ {{
            if ($request_method != POST) {{
                return 405;
            }}
            limit_req zone=requests burst=400 nodelay;
            limit_conn connections 128;

            proxy_pass https://superlink/v1/fleet/$call;
            proxy_http_version 1.1;
            proxy_set_header Host {superlink};
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto https;
            proxy_connect_timeout 5s;
            proxy_read_timeout 60s;
            proxy_send_timeout 30s;
            proxy_next_upstream off;
            proxy_max_temp_file_size 0;
            proxy_ssl_verify on;
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
            proxy_ssl_trusted_certificate {authority};
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
        }}
    }}
}}
"""


def find_nginx() -> str | None:
    """Where nginx is installed, if it is; often not on the PATH of who is not root."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def proxy_configuration(folder: CoordinatorFolder, superlink: Endpoint) -> str:
    """A whole nginx.conf for the federation's address. Raises UserError for a path unfit for one."""
    listen = listening(folder)
    return _CONFIGURATION.format(
        folder=_quoted(folder.proxy),
        logs=_quoted(folder.logs),
        largest=_LARGEST_BODY,
        superlink=superlink.address,
        listen="\n".join(f"        listen {join_address(*place)} ssl default_server;" for place in listen),
        certificate=_quoted(folder.server_certificate),
        key=_quoted(folder.server_key),
        authority=_quoted(superlink.authority),
    )


def nginx_program(folder: CoordinatorFolder, superlink: Endpoint) -> Program:
    """nginx in the foreground, its configuration written anew. Raises UserError if there is none."""
    nginx = find_nginx()
    if nginx is None:
        raise UserError("nginx is not installed: install it, or use the embedded proxy")
    place = _place(folder)
    configuration = place / "nginx.conf"
    configuration.write_text(proxy_configuration(folder, superlink))
    return _program(folder, nginx, "-p", f"{place}/", "-e", "stderr", "-c", str(configuration))


def embedded_program(folder: CoordinatorFolder, superlink: Endpoint) -> Program:
    """The embedded proxy, its settings written anew: where and for whom. It knows its limits itself."""
    settings = {
        "listen": listening(folder),
        "certificate": str(folder.server_certificate.resolve()),
        "key": str(folder.server_key.resolve()),
        "superlink": superlink.address,
        "authority": str(superlink.authority.resolve()),
        "log": str((folder.logs / "proxy-access.log").resolve()),
    }
    configuration = _place(folder) / "embedded.json"
    configuration.write_text(json.dumps(settings, indent=2) + "\n")
    # Isolated: no PYTHONPATH, and none of the modules beside it.
    return _program(folder, sys.executable, "-I", str(_EMBEDDED), str(configuration))


PROXIES = {"nginx": nginx_program, "embedded": embedded_program}


def choose_proxy() -> str:
    """nginx where it is installed, the embedded proxy where it is not."""
    return "embedded" if find_nginx() is None else "nginx"


def proxy_listens(folder: CoordinatorFolder) -> bool:
    """Whether something takes connections at the federation's port on this machine."""
    federation = folder.federation
    host = federation.host if is_loopback(federation.host) else "localhost"
    try:
        socket.create_connection((host, federation.port), timeout=5).close()
    except OSError:
        return False
    return True


def _place(folder: CoordinatorFolder) -> Path:
    """A folder for the proxy's own files, beside one for its logs."""
    place = folder.proxy.resolve()
    place.mkdir(parents=True, exist_ok=True)
    folder.logs.mkdir(parents=True, exist_ok=True)
    return place


def _program(folder: CoordinatorFolder, *command: str) -> Program:
    return Program(
        name="proxy",
        command=command,
        environment={"PATH": os.defpath},
        folder=_place(folder),
        log=folder.logs / "proxy.log",
    )


def listening(folder: CoordinatorFolder) -> list[tuple[str, int]]:
    """Where the proxy listens: on loopback if the address is, and on everything otherwise."""
    host, port = folder.federation.host, folder.federation.port
    if host not in ("localhost", "::1") and is_loopback(host):
        return [(host, port)]
    local = is_loopback(host)
    four, six = ("127.0.0.1", "::1") if local else ("0.0.0.0", "::")  # noqa: S104  # sites are elsewhere
    if host == "::1":
        return [(six, port)]
    return [(four, port), *([(six, port)] if _has_ipv6() else [])]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _quoted(path: Path) -> str:
    text = str(path.resolve())
    if any(letter in text for letter in "\"\\'$;{}#\n\t "):
        raise UserError(
            f"nginx cannot use the path {text!r}: put the coordinator's folder under one without spaces, "
            "quotes, dollar signs, semicolons and braces"
        )
    return text
