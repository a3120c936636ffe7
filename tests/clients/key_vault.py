#!/usr/bin/env python3
"""Stands for Key Vault: accepts a token only if it is signed by the issuer and meant for this audience.

usage: key_vault.py ISSUER AUDIENCE < token
Fetches the issuer's discovery document and JWKS as any relying party does, and checks signature, `iss`, `aud`, `exp`, `nbf`.
Prints one JSON line: {"accepted": true, "claims": {...}} or {"accepted": false, "reason": ...}. Exit code 0 or 1.
"""

import json
import sys
import urllib.request

import jwt


def fetch(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def verify(token: str, issuer: str, audience: str) -> dict:
    discovery = fetch(issuer + "/.well-known/openid-configuration")
    if discovery["issuer"] != issuer:
        raise jwt.InvalidIssuerError(f"discovery names the issuer {discovery['issuer']!r}, expected {issuer!r}")
    keys = jwt.PyJWKSet.from_dict(fetch(discovery["jwks_uri"]))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    return jwt.decode(
        token,
        key=key,
        algorithms=discovery["id_token_signing_alg_values_supported"],
        issuer=issuer,
        audience=audience,
        options={"require": ["iss", "sub", "aud", "exp", "iat", "nbf", "jti"]},
    )


def main() -> int:
    issuer, audience = sys.argv[1], sys.argv[2]
    try:
        print(json.dumps({"accepted": True, "claims": verify(sys.stdin.read().strip(), issuer, audience)}))
        return 0
    except (jwt.PyJWTError, KeyError) as error:
        print(json.dumps({"accepted": False, "reason": f"{type(error).__name__}: {error}"}))
        return 1


if __name__ == "__main__":
    sys.exit(main())
