#!/usr/bin/env python3
"""What `az login --identity` does before it looks for subscriptions: the unmodified azure-cli-core package's own classes.

usage: azure_cli.py RESOURCE [CLIENT_ID] [--again]
"""

import sys

from again import WORDS, answers
from azure.cli.core._profile import ManagedIdentityAuth
from azure.cli.core.azclierror import AzCLIError
from msal import ManagedIdentityError
from requests import RequestException


def main() -> int:
    client_id = WORDS[1] if len(WORDS) > 1 else None
    kind, value = ManagedIdentityAuth.parse_ids(client_id=client_id)
    credential = ManagedIdentityAuth.credential_factory(kind, value)

    def ask() -> dict:
        return {"token": credential.acquire_token([WORDS[0] + "/.default"])["access_token"]}

    return answers(ask, (AzCLIError, ManagedIdentityError, RequestException))


if __name__ == "__main__":
    sys.exit(main())
