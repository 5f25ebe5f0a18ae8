"""The relay as an app of Flower's, which a stock SuperNode starts for every message.

It holds no key that opens anything, and imports neither the model nor the data's libraries: it starts in a
fraction of a second, carries sealed bytes one way and sealed bytes back.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.relay.delivery import deliver
from privacy.errors import RunError
from protocol.messages.flower import unwrap, wrap

app = ClientApp()


@app.train()
def relay(message: Message, context: Context) -> Message:
    """Hand a message's envelope to the agent, and the agent's envelope back."""
    address = context.node_config.get("agent")
    if not isinstance(address, str):
        raise RunError("the SuperNode's node config lacks agent: start it with `confide site start`")
    folder = context.node_config.get("relay")
    reply = deliver(unwrap(message.content), address, keys=Path(str(folder)) if folder else None)
    return Message(wrap(reply), reply_to=message)
