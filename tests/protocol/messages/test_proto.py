"""The generated message code is that of the schema."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_generated_code_is_not_stale(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}"]
    command += [f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}", "protocol/messages/confide.proto"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in ("confide_pb2.py", "confide_pb2.pyi", "confide_pb2_grpc.py"):
        made = (tmp_path / "protocol" / "messages" / name).read_text()
        assert made == (ROOT / "protocol" / "messages" / name).read_text(), "run: make proto"
