# Streams of other people's servers: server-sent events by aiohttp-sse, which go on behind `Last-Event-ID`, and a WebSocket by `websockets`, which says
# what it has to whoever has subscribed, and nothing twice.
import argparse, asyncio, itertools, json
import websockets
from aiohttp import web
from aiohttp_sse import sse_response

args = argparse.ArgumentParser()
for name in ("events", "feed", "count"):
    args.add_argument("--" + name, type=int, required=True)
args = args.parse_args()
numbers = itertools.count()


async def events(request):
    last = request.headers.get("Last-Event-ID")
    async with sse_response(request) as response:
        for n in range(int(last) + 1 if last else 0, args.count):
            await response.send(json.dumps({"e": n}), id=str(n), event="part")
            await asyncio.sleep(0.002)
        while True:
            await asyncio.sleep(1)
            await response.send("still here", event="noise")
    return response


async def feed(socket):
    if json.loads(await socket.recv()) != {"op": "subscribe"} or socket.subprotocol != "plant.v1":
        return
    for n in numbers:
        text = json.dumps({"w": n})
        await socket.send(text if n % 2 else text.encode())
        await asyncio.sleep(0.005)


async def main():
    app = web.Application()
    app.router.add_get("/events", events)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", args.events).start()
    async with websockets.serve(feed, "127.0.0.1", args.feed, subprotocols=["plant.v1"]):
        print("ready", flush=True)
        await asyncio.Future()


asyncio.run(main())
