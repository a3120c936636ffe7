#!/usr/bin/env python3
"""An application that wants credentials: the unmodified boto3 package, told nothing about imds-guard.

usage: aws_credentials.py credentials|region|twice|identity
`twice` asks, waits for a line on its input, and asks again with the same session: what a long-running service does. So that
nobody has to wait for hours, its credentials count as about to expire from the start.
`identity` asks AWS itself whose the credentials are.
Prints one JSON line for each answer: {"ok": true, "key": ..., "secret": ..., "method": ..., "seconds": ...}, {"ok": true,
"region": ...}, or {"ok": false, "error": ...}. Exit code 0 or 1.
"""

import json
import sys
import time

import boto3
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import InstanceMetadataRegionFetcher


def credentials(session: boto3.Session) -> dict:
    begun = time.monotonic()
    try:
        found = session.get_credentials()
        if found is None:
            # What every service client says then.
            answer = {"ok": False, "error": "Unable to locate credentials"}
        else:
            frozen = found.get_frozen_credentials()
            answer = {"ok": True, "key": frozen.access_key, "secret": frozen.secret_key, "method": found.method}
    except BotoCoreError as error:
        answer = {"ok": False, "error": str(error)}
    answer["seconds"] = round(time.monotonic() - begun, 3)
    return answer


def main() -> int:
    kind = sys.argv[1]
    if kind == "region":
        region = InstanceMetadataRegionFetcher().retrieve_region()
        print(json.dumps({"ok": region is not None, "region": region}))
        return 0 if region else 1
    if kind == "identity":
        try:
            identity = boto3.client("sts").get_caller_identity()
            answer = {"ok": True, "arn": identity["Arn"]}
        except (BotoCoreError, ClientError) as error:
            answer = {"ok": False, "error": str(error)}
        print(json.dumps(answer))
        return 0 if answer["ok"] else 1
    if kind == "twice":
        RefreshableCredentials._advisory_refresh_timeout = 7 * 3600
    session = boto3.Session()
    answer = credentials(session)
    print(json.dumps(answer), flush=True)
    if kind == "twice":
        sys.stdin.readline()
        answer = credentials(session)
        print(json.dumps(answer), flush=True)
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
