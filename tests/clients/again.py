"""How the clients here answer: one line of JSON for each time that they ask. With `--again` among their words they ask once more for
each line that comes on their input, with the same credentials: what a long-running service does."""

import json
import sys
import time

AGAIN = "--again" in sys.argv
WORDS = [word for word in sys.argv[1:] if word != "--again"]


def answers(ask, refusals) -> int:
    """Asks as often as is wanted; what `ask` returns is what was given, what it raises of `refusals` is what the user is told."""
    while True:
        begun = time.monotonic()
        try:
            answer = {"ok": True, **ask()}
        except refusals as error:
            answer = {"ok": False, "error": str(error)}
        answer["seconds"] = round(time.monotonic() - begun, 3)
        print(json.dumps(answer), flush=True)
        if not AGAIN or not sys.stdin.readline():
            return 0 if answer["ok"] else 1
