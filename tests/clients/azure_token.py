#!/usr/bin/env python3
"""An application that wants a token: the unmodified azure-identity package, told nothing about imds-guard.

usage: azure_token.py managed|default RESOURCE [CLIENT_ID] [--again]
Prints one JSON line: {"ok": true, "token": ..., "expires_on": ..., "seconds": ...}, or {"ok": false, "error": ...}. Exit code 0 or 1.
"""

import logging
import sys

from again import WORDS, answers
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CredentialUnavailableError, DefaultAzureCredential, ManagedIdentityCredential


def main() -> int:
    kind, resource = WORDS[:2]
    client_id = WORDS[2] if len(WORDS) > 2 else None
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    credential = {
        "managed": lambda: ManagedIdentityCredential(client_id=client_id),
        "default": lambda: DefaultAzureCredential(managed_identity_client_id=client_id),
    }[kind]()

    def ask() -> dict:
        token = credential.get_token(resource + "/.default")
        return {"token": token.token, "expires_on": token.expires_on}

    return answers(ask, (ClientAuthenticationError, CredentialUnavailableError))


if __name__ == "__main__":
    sys.exit(main())
