"""The users and groups that deploy/ gives its programs, by number."""

from __future__ import annotations

AGENT, RELAY, SERVER = 10001, 10002, 10003
SOCKET_GROUP = 10010  # the relay's own group; the agent is a member
