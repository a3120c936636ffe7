// An application that wants a token of Google Cloud: the unmodified google-auth-library and gcp-metadata packages, told nothing
// about imds-guard.
//
// usage: gcp_token.mjs token [SCOPE...] | identity AUDIENCE | there | metadata PATH   [--again]
// `metadata` is gcp-metadata alone, whose answer to a path below `instance` is what it says.
// Prints one JSON line: {"ok": true, "token": ..., "there": ..., "seconds": ...}, or {"ok": false, "error": ...}. Exit code 0 or 1.

import * as metadata from "gcp-metadata";
import { Compute, GoogleAuth } from "google-auth-library";
import { answers, words } from "./again.mjs";

const [kind, ...rest] = words;
const auth = new GoogleAuth(rest.length ? { scopes: rest } : {});
const ask = {
  there: async () => ({ there: await metadata.isAvailable(), project: await metadata.project("project-id") }),
  token: async () => ({ token: await auth.getAccessToken() }),
  identity: async () => ({ token: await new Compute().fetchIdToken(rest[0]) }),
  metadata: async () => ({ token: (await metadata.instance(rest[0])).access_token }),
}[kind];

await answers(ask, (error) => ({
  error: String(error),
  status: error.status ?? error.response?.status,
  said: String(error.response?.data ?? ""),
}));
