// An application that wants a token: the unmodified @azure/identity package, told nothing about imds-guard.
//
// usage: azure_token.mjs managed|default RESOURCE [CLIENT_ID]
// Prints one JSON line: {"ok": true, "token": ..., "expires_on": ..., "seconds": ...}, or {"ok": false, "error": ...}. Exit code 0 or 1.

import { DefaultAzureCredential, ManagedIdentityCredential } from "@azure/identity";

const [kind, resource, clientId] = process.argv.slice(2);
const credential = {
  managed: () => new ManagedIdentityCredential(clientId ? { clientId } : {}),
  default: () => new DefaultAzureCredential(clientId ? { managedIdentityClientId: clientId } : {}),
}[kind]();

const begun = performance.now();
let answer;
try {
  const token = await credential.getToken(resource + "/.default");
  answer = { ok: true, token: token.token, expires_on: Math.floor(token.expiresOnTimestamp / 1000) };
} catch (error) {
  answer = { ok: false, error: String(error) };
}
answer.seconds = (performance.now() - begun) / 1000;
console.log(JSON.stringify(answer));
process.exitCode = answer.ok ? 0 : 1;
