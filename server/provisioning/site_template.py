"""The ``site.toml`` that a site starts from: every section, with what it means beside it."""

from __future__ import annotations

from typing import Any

import tomli_w

from server.provisioning.federation_file import SiteData, SiteEntry

_BUDGET: dict[str, Any] = {"epsilon": 8.0, "delta": 2e-5, "epsilon_per_run": 3.0}
_RULES: dict[str, Any] = {
    "mechanisms": ["gaussian", "laplace", "skellam"],
    "least_cohort": 2,
    "secure_aggregation": "required",
    "colluding_sites": 0,
    "metrics_epsilon": 0.0,
    "statistics_epsilon": 0.0,
    "approval": "manual",
    "longest_round": 21600.0,
}
_MEANING = {
    "epsilon": "what each example may lose, over all runs, for good",
    "delta": "half of it is for the runs' own delta together",
    "epsilon_per_run": "the most that one run may ask for; unset: epsilon",
    "order": "the filter's order, fixed when the ledger begins",
    "coordinator": "the key that signs all that this site obeys",
    "mechanisms": '"none" would allow a run without noise',
    "least_cohort": "sites that a round needs, this one included",
    "central_noise": '"allowed": trust the coordinator to add the noise that hides this site',
    "correlated_noise": '"allowed": the seed of a run\'s noise may lie in this home while the run lasts',
    "weights": '"allowed": jobs may tell all how much each site counts, as by its number of examples',
    "units": "whom a run protects: an example or the whole site",
    "secure_aggregation": '"required": masks, so that the coordinator reads sums alone',
    "colluding_sites": "sites that may work with the coordinator and still read no update",
    "metrics_epsilon": "what metrics on the site's own examples may cost; 0: none leave",
    "statistics_epsilon": "what counts of the site's examples before a job may cost; 0: none leave",
    "approval": '"automatic": what the rules allow may begin',
    "models": "SHA-256 of the models that may be trained: weights, config and tokenizer",
    "longest_round": "seconds that the local steps of one round may take",
    "tasks": "what may be trained",
}
_NO_DATA = """\
# [data.notes]                        # the name that jobs know the data by
# source = "/srv/notes.csv"           # or .jsonl, .parquet, .arrow, .xlsx, a folder, … (docs/data.md)
# task = "sequence-classification"    # whose keys follow: `confide tasks` lists them; or another task's
# text = "text"                       # the column with the text
# label = "urgent"                    # the column with the label; leave both out for causal-lm
# labels = ["no", "yes"]
"""
_MODELS = """\
[models]                              # as jobs name them, and where this site has them; no other is loaded
"""
_NO_MODELS = """\
# "name/in-the-job" = "/srv/models/name"
# "package:NAME/PATH" = "package:NAME/PATH"   # in a package that is installed here
# "org/name" = "hub:org/name"                 # from the Hugging Face Hub: whatever lies there now
"""


def site_policy(entry: SiteEntry, *, coordinator: str) -> dict[str, Any]:
    """The sections ``budget`` and ``rules``: federation.toml's, and careful ones where it has none."""
    budget = _BUDGET if entry.budget is None else entry.budget
    return {"budget": budget, "rules": {"coordinator": coordinator} | _RULES | entry.rules}


def site_toml(entry: SiteEntry, *, federation: str, address: str, coordinator: str) -> str:
    """A commented site.toml. ``coordinator`` is its Ed25519 key as hex."""
    policy = site_policy(entry, coordinator=coordinator)
    data = [_data(alias, table) for alias, table in entry.data.items()]
    newline = "\n"
    return f"""\
# Site {entry.name} of the federation {federation}. Its custodian decides what stands here; docs/policy.md
# and docs/federation.md say what the keys mean.

[site]
{_line("name", entry.name)}
{_line("coordinator", address, "where this site connects to; nobody connects to the site")}

[agent]                               # the process that has the data; the relay asks it
socket = "agent.sock"                 # in this folder
# group = "confide-relay"             # the group that may use the socket, if the relay is another user
# listen = "10.0.0.5:7443"            # instead of socket: mutual TLS, for a relay on another machine
# metrics = "127.0.0.1:9464"          # how the agent fares, for Prometheus
queue = 4                             # messages that may wait

[relay]                               # the process that talks to the coordinator and reads only relay/
# user = "confide-relay"              # run it as this user, when started as root
# kind = "flower"                     # Flower's SuperNode in its place, which runs what is delivered

{newline.join(data) if data else _NO_DATA}
{_MODELS}{tomli_w.dumps(entry.models) if entry.models else _NO_MODELS}
[budget]
{_lines(policy["budget"])}

[rules]
{_lines(policy["rules"])}

[limits]                              # what planning a run may take, in a process of its own
planning_seconds = 30.0
planning_mib = 1024

# [device]                            # where this site trains, whatever a job says
# name = ["cuda:0", "cuda:1"]         # one device, or several that share each step
# offload = true                      # frozen layers wait in main memory, on the device while they compute
"""


def _data(alias: str, data: SiteData) -> str:
    heading = tomli_w.dumps({"data": {alias: {}}})  # quoted where it must be
    return heading + _lines(data.model_dump(exclude_none=True)) + "\n"


def _lines(table: dict[str, Any]) -> str:
    return "\n".join(_line(key, value, _MEANING.get(key)) for key, value in table.items())


def _line(key: str, value: Any, meaning: str | None = None) -> str:
    if isinstance(value, list):  # in one line, which tomli_w would break
        inner = ", ".join(tomli_w.dumps({"x": item}).strip().removeprefix("x = ") for item in value)
        text = f"{key} = [{inner}]"
    else:
        text = tomli_w.dumps({key: value}).strip()
    if meaning is None:
        return text
    return f"# {meaning}\n{text}" if len(text) > 60 else f"{text:<38}# {meaning}"
