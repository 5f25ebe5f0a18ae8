"""What the containers of deploy/ are given: the relay nothing of the site's, nobody more than needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.deploy.containers import (
    COMPOSE,
    KUBERNETES,
    Container,
    all_containers,
    compose_containers,
    documents,
    kubernetes_containers,
    pod_templates,
)
from tests.deploy.users import AGENT, RELAY, SERVER, SOCKET_GROUP
from tests.needs import find, needs

USERS = {
    "confide-agent": (AGENT, AGENT),
    "confide-relay": (RELAY, SOCKET_GROUP),
    "confide-coordinator": (SERVER, SERVER),
}
TMP = "/tmp"  # noqa: S108  # in a container, and its own
SITE = [path for path in (*COMPOSE, *KUBERNETES) if path.name == "site.yaml"]
EVERY = list(all_containers())


def named(path: Path) -> dict[str, Container]:
    """A site's containers by their images; the one that prepares the home is the agent's as well."""
    read = compose_containers if path in COMPOSE else kubernetes_containers
    return {container.image: container for container in read(path)}


def test_all_are_there() -> None:
    assert len(EVERY) == 8
    assert len(SITE) == 2


@pytest.mark.parametrize("container", EVERY, ids=lambda container: container.name)
def test_containers_are_locked(container: Container) -> None:
    assert container.locked
    assert container.memory
    assert (container.user, container.group) == USERS[container.image]
    assert container.groups <= {container.user, SOCKET_GROUP}
    writable = {target for target, mount in container.mounts.items() if not mount.read_only}
    assert writable <= {
        TMP,
        "/srv/confide",
        "/srv/confide/home",
        "/srv/confide/coordinator",
        "/run/confide",
    }


@pytest.mark.parametrize("path", SITE, ids=lambda path: path.parent.name)
def test_the_relay_has_nothing_of_the_sites(path: Path) -> None:
    relay = named(path)["confide-relay"]

    assert set(relay.mounts) <= {"/etc/confide/relay", "/run/confide", TMP}
    assert {target for target, mount in relay.mounts.items() if not mount.read_only} == {TMP}
    assert relay.mounts[TMP].source is None
    others = [container for container in EVERY if container.image != relay.image]
    assert not relay.sources & set().union(*(container.sources for container in others)) - {"socket"}
    for source in relay.sources:
        assert not any(word in source for word in ("home", "data", "agent", "state", "kit"))


@pytest.mark.parametrize("path", SITE, ids=lambda path: path.parent.name)
def test_the_agent_reads_its_data_and_does_not_change_them(path: Path) -> None:
    agent = named(path)["confide-agent"]

    assert agent.mounts["/srv/data"].read_only
    assert agent.mounts["/srv/models"].read_only
    assert "/etc/confide/relay" not in agent.mounts


def test_composes_agent_has_no_network() -> None:
    (path,) = [path for path in SITE if path in COMPOSE]
    (whole,) = documents(path)
    agent, relay = whole["services"]["agent"], whole["services"]["relay"]

    assert agent["network_mode"] == "none"
    assert not {"ports", "networks", "expose"} & agent.keys()
    assert relay["networks"] == ["egress"]
    assert not {"ports", "expose"} & relay.keys()


def test_composes_socket_is_the_agents_and_its_groups() -> None:
    (path,) = [path for path in SITE if path in COMPOSE]
    (whole,) = documents(path)
    options = dict(
        item.partition("=")[::2] for item in whole["volumes"]["socket"]["driver_opts"]["o"].split(",")
    )
    assert (options["uid"], options["gid"], options["mode"]) == (str(AGENT), str(SOCKET_GROUP), "0750")
    assert named(path)["confide-agent"].groups == {SOCKET_GROUP}


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_every_pod_keeps_to_a_policy_both_ways(path: Path) -> None:
    policies = [document for document in documents(path) if document["kind"] == "NetworkPolicy"]

    assert any(policy["spec"]["podSelector"] == {} for policy in policies)
    assert all(policy["spec"]["policyTypes"] == ["Ingress", "Egress"] for policy in policies)
    spaces = {document["metadata"].get("namespace") for document in documents(path)} - {None}
    (namespace,) = [document for document in documents(path) if document["kind"] == "Namespace"]
    assert spaces == {namespace["metadata"]["name"]}
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_kubernetes_policies_let_out_the_relay_alone() -> None:
    policies = {
        document["metadata"]["name"]: document["spec"]
        for path in KUBERNETES
        for document in documents(path)
        if document["kind"] == "NetworkPolicy"
    }
    labels = {
        name: template["metadata"]["labels"]
        for path in SITE
        if path in KUBERNETES
        for name, template in pod_templates(path)
    }

    for name in ("confide-agent", "confide-relay"):
        assert policies[name]["podSelector"]["matchLabels"] == labels[name]
    assert not {"ingress", "egress"} & policies["nothing"].keys()
    assert policies["confide-coordinator"]["egress"] == []
    assert [rule["port"] for rule in policies["confide-coordinator"]["ingress"][0]["ports"]] == [8443]
    assert policies["confide-agent"]["egress"] == []
    (rule,) = policies["confide-agent"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": labels["confide-relay"]}}]
    assert policies["confide-relay"]["ingress"] == []
    out = policies["confide-relay"]["egress"]
    assert [sorted(port["port"] for port in rule["ports"]) for rule in out] == [[7443], [8443], [53, 53]]
    assert out[1]["to"][0]["ipBlock"]["cidr"].endswith("/32")


def test_kubernetes_keeps_one_of_each() -> None:
    for path in KUBERNETES:
        for document in documents(path):
            if "template" in document.get("spec", {}):
                assert document["spec"]["replicas"] == 1


@needs("kubernetes-validate")
@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_schemas_are_kept(path: Path) -> None:
    command = [str(find("kubernetes-validate")), "--strict", str(path)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
