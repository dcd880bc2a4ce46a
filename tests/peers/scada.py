"""A SCADA system's OPC UA client, by asyncua: browses what Millrace says of itself, reads, subscribes, tries to write.

Arguments: the endpoint, and JSON: {"watch": "Sources/load/Received", "changes": 3, "write": "Site", "sessions": 2}. Says one object: the values by path, the
changes that came, what became of the write, how many more sessions it got, and why not another.
"""

import asyncio
import json
import sys

from asyncua import Client, ua

NAMESPACE = "http://millrace.dev/status"


def plain(value):
    return value.isoformat() if hasattr(value, "isoformat") else value


async def walk(node, path, found):
    for child in await node.get_children():
        name = (await child.read_browse_name()).Name
        below = f"{path}/{name}" if path else name
        if await child.read_node_class() == ua.NodeClass.Variable:
            found[below] = plain(await child.read_value())
        else:
            await walk(child, below, found)


class Changes:
    def __init__(self):
        self.queue = asyncio.Queue()

    def datachange_notification(self, node, value, data):
        self.queue.put_nowait(plain(value))


async def main(url, options):
    said = {"values": {}, "changes": [], "write": None, "sessions": 0, "refused": None}
    async with Client(url) as client:
        namespace = await client.get_namespace_index(NAMESPACE)
        top = await client.nodes.objects.get_child(f"{namespace}:Millrace")
        await walk(top, "", said["values"])
        changes = Changes()
        subscription = await client.create_subscription(200, changes)
        await subscription.subscribe_data_change(client.get_node(f"ns={namespace};s={options['watch']}"))
        while len(said["changes"]) < options["changes"]:
            said["changes"].append(await asyncio.wait_for(changes.queue.get(), 60))
        try:
            await client.get_node(f"ns={namespace};s={options['write']}").write_value("changed")
            said["write"] = "Good"
        except ua.UaError as error:
            said["write"] = type(error).__name__
        others = []
        try:
            for _ in range(options["sessions"]):
                others.append(Client(url))
                await others[-1].connect()
                said["sessions"] += 1
        except ua.UaError as error:
            said["refused"] = type(error).__name__
        for other in others[: said["sessions"]]:
            await other.disconnect()
    print(json.dumps(said), flush=True)


asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
