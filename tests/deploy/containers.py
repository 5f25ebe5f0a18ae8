"""The containers that deploy/ describes, for Compose and for Kubernetes, as one kind of value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE = sorted((DEPLOY / "compose").glob("*.yaml"))
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


@dataclass(frozen=True, kw_only=True)
class Mount:
    """Something of outside a container, by what it is there, in it; memory has no source."""

    source: str | None
    read_only: bool


@dataclass(frozen=True, kw_only=True)
class Container:
    """What one container runs, as whom, and what it is given."""

    name: str
    image: str
    words: tuple[str, ...]
    user: int
    group: int
    groups: frozenset[int]
    mounts: dict[str, Mount]
    locked: bool
    memory: str | None

    @property
    def sources(self) -> set[str]:
        return {mount.source for mount in self.mounts.values() if mount.source is not None}


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def all_containers() -> Iterator[Container]:
    for path in COMPOSE:
        yield from compose_containers(path)
    for path in KUBERNETES:
        yield from kubernetes_containers(path)


def compose_containers(path: Path) -> Iterator[Container]:
    (whole,) = documents(path)
    for name, service in whole["services"].items():
        user, group = service["user"].split(":")
        mounts = {
            volume["target"]: Mount(source=volume["source"], read_only=volume.get("read_only", False))
            for volume in service["volumes"]
        }
        mounts |= {line.split(":")[0]: Mount(source=None, read_only=False) for line in service["tmpfs"]}
        yield Container(
            name=f"compose {name}",
            image=service["image"],
            words=tuple(service["command"]),
            user=int(user),
            group=int(group),
            groups=frozenset(map(int, service.get("group_add", []))),
            mounts=mounts,
            locked=(
                service["read_only"] is True
                and service["cap_drop"] == ["ALL"]
                and "cap_add" not in service
                and service["security_opt"] == ["no-new-privileges:true"]
                and not {"privileged", "pid", "ipc", "userns_mode", "devices"} & service.keys()
                and service["pids_limit"] > 0
            ),
            memory=service["mem_limit"],
        )


def pod_templates(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the Pod's specification of everything that runs one."""
    for document in documents(path):
        template = document.get("spec", {}).get("template")
        if template is not None:
            yield document["metadata"]["name"], template


def kubernetes_containers(path: Path) -> Iterator[Container]:
    claims = {
        claim["metadata"]["name"]
        for document in documents(path)
        for claim in document.get("spec", {}).get("volumeClaimTemplates", [])
    }
    for pod, template in pod_templates(path):
        spec = template["spec"]
        shared = spec["securityContext"]
        sources = {name: f"{pod} {name}" for name in claims} | {
            volume["name"]: _source(volume) for volume in spec["volumes"]
        }
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            own = container["securityContext"]
            yield Container(
                name=f"kubernetes {pod} {container['name']}",
                image=container["image"],
                words=tuple(container.get("command", []) + container.get("args", [])),
                user=shared["runAsUser"],
                group=shared["runAsGroup"],
                groups=frozenset({shared["fsGroup"]}),
                mounts={
                    mount["mountPath"]: Mount(
                        source=sources[mount["name"]], read_only=mount.get("readOnly", False)
                    )
                    for mount in container["volumeMounts"]
                },
                locked=(
                    own
                    == {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    }
                    and shared["runAsNonRoot"] is True
                    and shared["seccompProfile"] == {"type": "RuntimeDefault"}
                    and spec["automountServiceAccountToken"] is False
                    and not {"hostPID", "hostIPC", "hostNetwork", "shareProcessNamespace"} & spec.keys()
                ),
                memory=container["resources"]["limits"]["memory"],
            )


def _source(volume: dict[str, Any]) -> str | None:
    if "secret" in volume:
        return f"secret {volume['secret']['secretName']}"
    if "persistentVolumeClaim" in volume:
        return f"claim {volume['persistentVolumeClaim']['claimName']}"
    if set(volume) == {"name", "emptyDir"}:
        return None
    raise ValueError(f"expected a secret, a claim or an emptyDir, got {volume}")
