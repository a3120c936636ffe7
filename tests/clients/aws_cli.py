#!/usr/bin/env python3
"""The unmodified AWS CLI calls a service with the credentials that it finds: `aws sts get-caller-identity`, at an endpoint in the test's
own network namespace, which says whose session it was called with.

usage: aws_cli.py ENDPOINT
Prints one JSON line: {"ok": true, "secret": ...}, or {"ok": false, "error": what the CLI printed}. Exit code 0 or 1.
"""

import json
import subprocess
import sys

from again import WORDS, answers


class Refused(Exception):
    """The CLI ended with an error."""


def ask() -> dict:
    command = [sys.executable, "-m", "awscli", "sts", "get-caller-identity", "--endpoint-url", WORDS[0]]
    command += ["--region", "eu-central-1", "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Refused(done.stderr.strip())
    return {"secret": json.loads(done.stdout)["UserId"]}


if __name__ == "__main__":
    sys.exit(answers(ask, Refused))
