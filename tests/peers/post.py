# Posts numbers by `requests`, each until it is told that it was taken: many senders, each waiting for its answer.
import argparse, threading, time, queue
import requests

args = argparse.ArgumentParser()
for name in ("url", "token", "ca", "cert", "key"):
    args.add_argument("--" + name, required=True)
args.add_argument("--count", type=int, required=True)
args.add_argument("--threads", type=int, required=True)
args = args.parse_args()

numbers = queue.Queue()
for number in range(args.count):
    numbers.put(number)
repeats = [0]
said = set()


def send():
    session = requests.Session()
    # What the machine has in its environment (other authorities, proxies) is not asked.
    session.trust_env = False
    session.verify = args.ca
    session.cert = (args.cert, args.key)
    while True:
        try:
            number = numbers.get_nowait()
        except queue.Empty:
            return
        until = time.time() + 120
        while True:
            try:
                headers = {"Authorization": "Bearer " + args.token, "Idempotency-Key": str(number)}
                answer = session.post(args.url, json={"n": number, "text": "x" * 50}, headers=headers, timeout=20)
                if answer.status_code == 200:
                    break
                if answer.status_code not in (429, 503):
                    raise SystemExit(f"{number}: {answer.status_code} {answer.text}")
            except requests.exceptions.RequestException as error:
                if type(error) not in said:
                    said.add(type(error))
                    print(error, flush=True)
                if time.time() > until:
                    print(f"{number}: {error}", flush=True)
                    raise
            repeats[0] += 1
            time.sleep(0.05)


threads = [threading.Thread(target=send) for _ in range(args.threads)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert numbers.empty()
print(f"{args.count} posted, {repeats[0]} tries failed", flush=True)
