// An application that wants a token of Google Cloud: the unmodified google-auth-library and gcp-metadata packages, told nothing
// about imds-guard.
//
// usage: gcp_token.mjs token [SCOPE...] | identity AUDIENCE | there
// Prints one JSON line: {"ok": true, "token": ..., "there": ..., "seconds": ...}, or {"ok": false, "error": ...}. Exit code 0 or 1.

import * as metadata from "gcp-metadata";
import { Compute, GoogleAuth } from "google-auth-library";

const [kind, ...rest] = process.argv.slice(2);
const ask = {
  there: async () => ({ there: await metadata.isAvailable(), project: await metadata.project("project-id") }),
  token: async () => {
    const auth = new GoogleAuth(rest.length ? { scopes: rest } : {});
    return { token: await auth.getAccessToken() };
  },
  identity: async () => ({ token: await new Compute().fetchIdToken(rest[0]) }),
}[kind];

const begun = performance.now();
let answer;
try {
  answer = { ok: true, ...(await ask()) };
} catch (error) {
  answer = { ok: false, error: String(error), status: error.status ?? error.response?.status, said: String(error.response?.data ?? "") };
}
answer.seconds = (performance.now() - begun) / 1000;
console.log(JSON.stringify(answer));
process.exitCode = answer.ok ? 0 : 1;
