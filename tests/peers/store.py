"""An S3 store (moto's) behind a proxy that hurts: answers 500 and 503, answers late, loses an answer after it took effect, ignores conditions.

store.py; says {"ready": true, "endpoint": URL, "direct": URL}; then orders, a line of JSON each:
  {"faults": {"seed": 1, "error": 0.1, "lost": 0.1, "slow": 0.1}}   shares of requests; {} ends them
  {"deaf": true}                                                    If-None-Match is not passed on
  {"bucket": NAME}                                                  makes it
  {"count": true}                                                   how many were hurt
"""

import json
import logging
import sys

import boto3
import hurting
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)


def say(**fields):
    print(json.dumps(fields), flush=True)


moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
moto.start()
DIRECT = moto.get_host_and_port()[1]
endpoint = hurting.before(DIRECT)
s3 = boto3.client(
    "s3", endpoint_url=f"http://127.0.0.1:{DIRECT}", region_name="us-east-1", aws_access_key_id="id", aws_secret_access_key="secret"
)
say(ready=True, endpoint=endpoint, direct=f"http://127.0.0.1:{DIRECT}")
for line in sys.stdin:
    order = json.loads(line)
    hurting.order(order)
    if "bucket" in order:
        s3.create_bucket(Bucket=order["bucket"])
    say(done="yes", hurt=hurting.STATE["hurt"], conditional=hurting.STATE["conditional"])
