"""The function that the end-to-end tests deploy. What it does is in the event's data: `do`, and what that needs."""

import os
import time


def handler(event, context):
    data = event["data"] if isinstance(event["data"], dict) else {}
    return DO[data.get("do", "tell")](event, data)


def tell(event, data):
    """Says what came, and in which pod."""
    return {"event": event["event-id"], "pod": os.environ["HOSTNAME"]}


def say(event, data):
    """Prints a text."""
    print(data["text"])
    return tell(event, data)


def note(event, data):
    """Notes that it was entered, then works for a while."""
    entries = _entered(event["event-id"], data)
    time.sleep(data.get("work_s", 0))
    return {"entries": entries}


def fail(event, data):
    """Fails the first so many times."""
    entries = _entered(event["event-id"], data)
    if len(entries) <= data["times"]:
        raise RuntimeError(f"entry {len(entries)}, and {data['times']} are to fail")
    return {"entries": entries}


def entries(event, data):
    """The entries that were noted for each of some events."""
    return {id: _entries(id)[0] for id in data["ids"]}


def keep(event, data):
    """Keeps a value in the function's state, or reads it."""
    from koren_runtime import state

    if "value" in data:
        state.put(data["key"], data["value"].encode(), expires_s=600)
    found = state.get(data["key"])
    return found and found.value.decode()


def ask(event, data):
    """What some addresses answer to a first message, TOKEN in it being the pod's own."""
    import socket
    import ssl

    with open("/var/run/secrets/koren/token", encoding="utf-8") as file:
        token = file.read().strip()
    unverified = ssl._create_unverified_context()
    answers = {}
    for name, (host, port, tls, message) in data["whom"].items():
        try:
            with socket.create_connection((host, port), 5) as connection:
                if tls:
                    connection = unverified.wrap_socket(connection, server_hostname=host)
                connection.settimeout(5)
                connection.sendall(message.replace("TOKEN", token).encode("latin-1"))
                answers[name] = connection.recv(2000).decode("latin-1")
        except OSError as error:
            answers[name] = f"{type(error).__name__}: {error}"
    return answers


def _entered(id, data):
    import json

    from koren_runtime import state

    mine = [os.environ["HOSTNAME"], time.time_ns()]
    while True:
        # Whatever happens to the gateway meanwhile: an entry that is not noted would prove nothing.
        try:
            noted, version = _entries(id)
            if mine in noted:
                return noted
            state.put(
                _key(id), json.dumps(noted + [mine]).encode(), version=version, expires_s=data.get("keep_s", 3600)
            )
            return noted + [mine]
        except state.StateError:
            time.sleep(0.2)


def _entries(id):
    import json

    from koren_runtime import state

    found = state.get(_key(id))
    return (json.loads(found.value), found.version) if found else ([], state.ABSENT)


def _key(id):
    import hashlib

    return "entries/" + hashlib.sha256(id.encode()).hexdigest()


DO = {"tell": tell, "say": say, "note": note, "fail": fail, "entries": entries, "keep": keep, "ask": ask}
