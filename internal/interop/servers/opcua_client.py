"""An OPC UA client on asyncua, for the gateway's own server.

Its argument is its settings, as JSON:

    url, security   opc.tcp://..., and "Policy,Mode" or "" for none
    cert, key       the client's certificate and key; server the server's certificate (DER)
    uri             the client's application URI
    user, password  or "" for anonymous
    read            node ids to read
    watch           node ids to subscribe to; each is to change once after its first value

Writes one JSON object per line: {"browse": paths}, {"read": values}, {"write": status}, then one
{"change": [node, value, status]} for each notification, or {"error": name} and ends. It ends when its
input does.
"""

import asyncio
import json
import sys

from asyncua import Client, ua


def say(**what):
    print(json.dumps(what), flush=True)


def plain(value):
    """A value as JSON has it, with its status."""
    v = value.Value.Value if value.Value is not None else None
    if isinstance(v, ua.EUInformation):
        v = [v.UnitId, v.DisplayName.Text]
    elif not isinstance(v, (int, float, str, bool, list, type(None))):
        v = str(v)
    return [v, (value.StatusCode.value if value.StatusCode is not None else 0)]


class Watcher:
    def datachange_notification(self, node, val, data):
        say(change=[node.nodeid.to_string(), *plain(data.monitored_item.Value)])

    def status_change_notification(self, status):
        say(ended=str(status))


async def paths(node, prefix=""):
    found = []
    for child in await node.get_children():
        name = prefix + "/" + (await child.read_browse_name()).Name
        found.append(name)
        found += await paths(child, name)
    return found


async def main():
    settings = json.loads(sys.argv[1])
    client = Client(settings["url"], timeout=10)
    client.application_uri = settings["uri"]
    try:
        if settings["security"]:
            await client.set_security_string(",".join([settings["security"], settings["cert"], settings["key"], settings["server"]]))
        if settings["user"]:
            client.set_user(settings["user"])
            client.set_password(settings["password"])
        await client.connect()
    except Exception as e:
        say(error=type(e).__name__)
        return
    async with client:
        say(browse=await paths(client.nodes.objects))
        # A Bad value is read as any other is.
        values = [await client.get_node(n).read_data_value(raise_on_bad_status=False) for n in settings["read"]]
        say(read=[plain(v) for v in values])
        try:
            await client.get_node(settings["read"][0]).write_value(ua.Variant(1.0, ua.VariantType.Double))
            say(write="Good")
        except ua.UaStatusCodeError as e:
            say(write=type(e).__name__)
        subscription = await client.create_subscription(100, Watcher())
        await subscription.subscribe_data_change([client.get_node(n) for n in settings["watch"]], sampling_interval=50)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await subscription.delete()


asyncio.run(main())
