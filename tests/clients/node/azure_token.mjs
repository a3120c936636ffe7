// An application that wants a token: the unmodified @azure/identity package, told nothing about imds-guard.
//
// usage: azure_token.mjs managed|default RESOURCE [CLIENT_ID] [--again]
// Prints one JSON line: {"ok": true, "token": ..., "expires_on": ..., "seconds": ...}, or {"ok": false, "error": ...}. Exit code 0 or 1.

import { DefaultAzureCredential, ManagedIdentityCredential } from "@azure/identity";
import { answers, words } from "./again.mjs";

const [kind, resource, clientId] = words;
const credential = {
  managed: () => new ManagedIdentityCredential(clientId ? { clientId } : {}),
  default: () => new DefaultAzureCredential(clientId ? { managedIdentityClientId: clientId } : {}),
}[kind]();

await answers(async () => {
  const token = await credential.getToken(resource + "/.default");
  return { token: token.token, expires_on: Math.floor(token.expiresOnTimestamp / 1000) };
});
