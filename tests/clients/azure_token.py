#!/usr/bin/env python3
"""An application that wants a token: the unmodified azure-identity package, told nothing about imds-guard.

usage: azure_token.py managed|default RESOURCE [CLIENT_ID]
Prints one JSON line: {"ok": true, "token": ..., "expires_on": ..., "seconds": ...}, or {"ok": false, "error": ...}. Exit code 0 or 1.
"""

import json
import logging
import sys
import time

from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CredentialUnavailableError, DefaultAzureCredential, ManagedIdentityCredential


def main() -> int:
    kind, resource = sys.argv[1], sys.argv[2]
    client_id = sys.argv[3] if len(sys.argv) > 3 else None
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    credential = {
        "managed": lambda: ManagedIdentityCredential(client_id=client_id),
        "default": lambda: DefaultAzureCredential(managed_identity_client_id=client_id),
    }[kind]()
    begun = time.monotonic()
    try:
        token = credential.get_token(resource + "/.default")
        answer = {"ok": True, "token": token.token, "expires_on": token.expires_on}
    except (ClientAuthenticationError, CredentialUnavailableError) as error:
        answer = {"ok": False, "error": str(error)}
    answer["seconds"] = round(time.monotonic() - begun, 3)
    print(json.dumps(answer))
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
