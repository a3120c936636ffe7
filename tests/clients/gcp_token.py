#!/usr/bin/env python3
"""An application that wants a token of Google Cloud: the unmodified google-auth package, told nothing about imds-guard.

usage: gcp_token.py token [SCOPE...] | identity AUDIENCE   [--again]
`token` finds its credentials as every program does, by google.auth.default(). With `--again` it asks as a service does whose token
is about to end.
Prints one JSON line for each answer: {"ok": true, "token": ..., "project": ..., "account": ..., "seconds": ...}, or {"ok": false,
"error": ...}. Exit code 0 or 1.
"""

import sys

import google.auth
from again import WORDS, answers
from google.auth import exceptions
from google.auth.compute_engine import IDTokenCredentials
from google.auth.transport.requests import Request

held = []


def credentials():
    """Found once."""
    kind, rest = WORDS[0], WORDS[1:]
    if not held:
        if kind == "identity":
            found = IDTokenCredentials(Request(), target_audience=rest[0], use_metadata_identity_endpoint=True)
            held.append((found, None))
        else:
            held.append(google.auth.default(scopes=rest or None))
    return held[0]


def ask() -> dict:
    found, project = credentials()
    found.refresh(Request())
    return {"token": found.token, "project": project, "account": found.service_account_email}


if __name__ == "__main__":
    sys.exit(answers(ask, exceptions.GoogleAuthError))
