#!/usr/bin/env python3
"""An application that wants credentials: the unmodified boto3 package, told nothing about imds-guard.

usage: aws_credentials.py credentials|region|identity [--again]
With `--again`, so that nobody has to wait for hours, its credentials count as about to expire from the start.
`identity` asks AWS itself whose the credentials are.
Prints one JSON line for each answer: {"ok": true, "key": ..., "secret": ..., "method": ..., "seconds": ...}, {"ok": true,
"region": ...}, {"ok": true, "arn": ...}, or {"ok": false, "error": ...}. Exit code 0 or 1.
"""

import sys

import boto3
from again import AGAIN, WORDS, answers
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.utils import InstanceMetadataRegionFetcher


def region() -> dict:
    found = InstanceMetadataRegionFetcher().retrieve_region()
    if not found:
        raise NoCredentialsError
    return {"region": found}


def identity() -> dict:
    return {"arn": boto3.client("sts").get_caller_identity()["Arn"]}


def main() -> int:
    if WORDS[0] == "region":
        return answers(region, BotoCoreError)
    if WORDS[0] == "identity":
        return answers(identity, (BotoCoreError, ClientError))
    if AGAIN:
        RefreshableCredentials._advisory_refresh_timeout = 7 * 3600
    session = boto3.Session()

    def ask() -> dict:
        found = session.get_credentials()
        if found is None:
            # What every service client says then.
            raise NoCredentialsError
        frozen = found.get_frozen_credentials()
        return {"key": frozen.access_key, "secret": frozen.secret_key, "method": found.method}

    return answers(ask, BotoCoreError)


if __name__ == "__main__":
    sys.exit(main())
