"""A Sparkplug B edge node on PyPI's pysparkplug, told what to do by lines of JSON on its standard input, as edge.js is."""

import json
import re
import sys
import threading

import pysparkplug as spb

_, host, port, group, node = sys.argv
client = spb.Client(client_id=f"{group}-{node}")
lock = threading.RLock()
births = {"node": None, "devices": {}}
state = {"seq": 0, "bd_seq": 0}


def say(**what):
    with lock:
        print(json.dumps(what), flush=True)


def metric(order):
    kind = spb.DataType[re.sub("Array$", "_ARRAY", order["type"]).upper()]
    value = order.get("value")
    if isinstance(value, str) and kind in (spb.DataType.INT64, spb.DataType.UINT64):
        value = int(value)
    return spb.Metric(
        timestamp=order.get("timestamp", spb.get_current_timestamp()),
        name=order.get("name"),
        datatype=kind,
        value=value,
        alias=order.get("alias"),
        is_historical=order.get("isHistorical", False),
        is_null=order.get("isNull", False),
    )


def publish(message_type, payload, device=None, include_dtypes=True):
    topic = spb.Topic(message_type=message_type, group_id=group, edge_node_id=node, device_id=device)
    client.publish(spb.Message(topic=topic, payload=payload, qos=spb.QoS.AT_MOST_ONCE, retain=False), include_dtypes=include_dtypes)


def seq():
    state["seq"], now = (state["seq"] + 1) % 256, state["seq"]
    return now


def bd_seq():
    return spb.Metric(timestamp=spb.get_current_timestamp(), name="bdSeq", datatype=spb.DataType.INT64, value=state["bd_seq"])


def metrics(order):
    return tuple(metric(m) for m in order.get("metrics", []))


def node_birth(order):
    state["seq"] = 0
    payload = spb.NBirth(timestamp=spb.get_current_timestamp(), seq=seq(), metrics=metrics(order) + (bd_seq(),))
    publish(spb.MessageType.NBIRTH, payload)


def device_birth(order):
    payload = spb.DBirth(timestamp=spb.get_current_timestamp(), seq=seq(), metrics=metrics(order))
    publish(spb.MessageType.DBIRTH, payload, order["device"])


def all_births():
    with lock:
        if births["node"]:
            node_birth(births["node"])
            for order in births["devices"].values():
                device_birth(order)


def commanded(_client, message):
    metrics = [dict(name=m.name, alias=m.alias, type=m.datatype.name, value=m.value) for m in message.payload.metrics]
    say(event="command", device=message.topic.device_id, metrics=metrics)
    if any(m.name == "Node Control/Rebirth" and m.value for m in message.payload.metrics):
        say(event="rebirth requested")
        all_births()


will_topic = spb.Topic(message_type=spb.MessageType.NDEATH, group_id=group, edge_node_id=node)
will = spb.NDeath(timestamp=spb.get_current_timestamp(), bd_seq_metric=bd_seq())
client.set_will(spb.Message(topic=will_topic, payload=will, qos=spb.QoS.AT_MOST_ONCE, retain=False))
client.subscribe(spb.Topic(message_type=spb.MessageType.NCMD, group_id=group, edge_node_id=node), spb.QoS.AT_LEAST_ONCE, commanded)

client.subscribe(
    spb.Topic(message_type=spb.MessageType.DCMD, group_id=group, edge_node_id=node, device_id="+"), spb.QoS.AT_LEAST_ONCE, commanded
)


def connected(_client):
    say(connected=True)
    all_births()


client.connect(host, port=int(port), keepalive=5, callback=connected)
for line in sys.stdin:
    order = json.loads(line)
    try:
        with lock:
            now = spb.get_current_timestamp()
            # An alias stands alone in data, as the specification has it: names and types are the birth's.
            dtypes = order.get("dtypes", True)
            if order["do"] == "birth":
                births["node"] = order
                node_birth(order)
            elif order["do"] == "device_birth":
                births["devices"][order["device"]] = order
                device_birth(order)
            elif order["do"] == "data":
                publish(spb.MessageType.NDATA, spb.NData(timestamp=now, seq=seq(), metrics=metrics(order)), include_dtypes=dtypes)
            elif order["do"] == "device_data":
                publish(spb.MessageType.DDATA, spb.DData(timestamp=now, seq=seq(), metrics=metrics(order)), order["device"], dtypes)
            elif order["do"] == "device_death":
                publish(spb.MessageType.DDEATH, spb.DDeath(timestamp=now, seq=seq()), order["device"])
            elif order["do"] == "skip_seq":
                seq()
            elif order["do"] == "stop":
                publish(spb.MessageType.NDEATH, spb.NDeath(timestamp=now, bd_seq_metric=bd_seq()))
                client.disconnect()
        say(done=order["do"])
    except Exception as error:  # the test decides what a failure means
        say(failed=order["do"], error=repr(error))
