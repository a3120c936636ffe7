#!/usr/bin/env python3
"""Many callers at once: that many connections to Azure's metadata service, each with the same request, sent together.

usage: crowd.py COUNT TARGET
Prints one JSON line: {"statuses": {"200": COUNT}, "tokens": NUMBER_OF_DIFFERENT_ONES, "token": ONE_OF_THEM, "seconds": ...}.
"""

import collections
import http.client
import json
import resource
import sys
import time


def connect(caller: http.client.HTTPConnection) -> None:
    """Who dials faster than the agent accepts is refused for a moment: as SDKs do, try again."""
    for _ in range(100):
        try:
            return caller.connect()
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise TimeoutError("refused for five seconds")


def main() -> int:
    count, target = int(sys.argv[1]), sys.argv[2]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    callers = [http.client.HTTPConnection("169.254.169.254", timeout=10) for _ in range(count)]
    for caller in callers:
        connect(caller)
    begun = time.monotonic()
    for caller in callers:
        caller.request("GET", target, headers={"Metadata": "true"})
    statuses, tokens = collections.Counter(), set()
    for caller in callers:
        response = caller.getresponse()
        statuses[str(response.status)] += 1
        body = json.load(response)
        if response.status == 200:
            tokens.add(body["access_token"])
    seconds = round(time.monotonic() - begun, 3)
    print(json.dumps({"statuses": statuses, "tokens": len(tokens), "token": next(iter(tokens), None), "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
