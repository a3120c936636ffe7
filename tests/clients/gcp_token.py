#!/usr/bin/env python3
"""An application that wants a token of Google Cloud: the unmodified google-auth package, told nothing about imds-guard.

usage: gcp_token.py token [SCOPE...] | identity AUDIENCE | twice [SCOPE...]
`token` finds its credentials as every program does, by google.auth.default(). `twice` asks, waits for a line on its input, and asks
again with the same credentials: what a long-running service does when its token is about to end.
Prints one JSON line for each answer: {"ok": true, "token": ..., "project": ..., "account": ..., "seconds": ...}, or {"ok": false,
"error": ...}. Exit code 0 or 1.
"""

import json
import sys
import time

import google.auth
from google.auth import exceptions
from google.auth.compute_engine import IDTokenCredentials
from google.auth.transport.requests import Request


def refreshed(credentials, project=None) -> dict:
    begun = time.monotonic()
    try:
        credentials.refresh(Request())
        answer = {"ok": True, "token": credentials.token, "project": project, "account": credentials.service_account_email}
    except exceptions.GoogleAuthError as error:
        answer = {"ok": False, "error": str(error)}
    answer["seconds"] = round(time.monotonic() - begun, 3)
    return answer


def main() -> int:
    kind, rest = sys.argv[1], sys.argv[2:]
    try:
        if kind == "identity":
            project = None
            credentials = IDTokenCredentials(Request(), target_audience=rest[0], use_metadata_identity_endpoint=True)
        else:
            credentials, project = google.auth.default(scopes=rest or None)
    except exceptions.GoogleAuthError as error:
        print(json.dumps({"ok": False, "error": str(error)}))
        return 1
    answer = refreshed(credentials, project)
    print(json.dumps(answer), flush=True)
    if kind == "twice":
        sys.stdin.readline()
        answer = refreshed(credentials, project)
        print(json.dumps(answer), flush=True)
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
