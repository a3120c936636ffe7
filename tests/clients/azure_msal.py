#!/usr/bin/env python3
"""An application that wants a token: the unmodified msal package, asked directly, told nothing about imds-guard.

usage: azure_msal.py RESOURCE [CLIENT_ID] [--again]
"""

import sys

import msal
import requests
from again import WORDS, answers


class Refused(Exception):
    """msal returns what the service said instead of raising it."""


def main() -> int:
    identity = msal.UserAssignedManagedIdentity(client_id=WORDS[1]) if len(WORDS) > 1 else msal.SystemAssignedManagedIdentity()
    client = msal.ManagedIdentityClient(identity, http_client=requests.Session())

    def ask() -> dict:
        result = client.acquire_token_for_client(resource=WORDS[0])
        if "access_token" not in result:
            raise Refused(f"{result.get('error')}: {result.get('error_description')}")
        return {"token": result["access_token"]}

    return answers(ask, (Refused, requests.RequestException, msal.ManagedIdentityError))


if __name__ == "__main__":
    sys.exit(main())
