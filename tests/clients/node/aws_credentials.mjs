// An application that wants credentials: the unmodified @aws-sdk/credential-providers package, told nothing about imds-guard.
//
// usage: aws_credentials.mjs instance|container [--again]
// Prints one JSON line: {"ok": true, "key": ..., "secret": ..., "expiration": ..., "seconds": ...}, or {"ok": false, "error": ...}. Exit code 0 or 1.

import { fromHttp, fromInstanceMetadata } from "@aws-sdk/credential-providers";
import { answers, words } from "./again.mjs";

const provider = {
  instance: () => fromInstanceMetadata(),
  container: () => fromHttp(),
}[words[0]]();

await answers(
  async () => {
    const given = await provider();
    return { key: given.accessKeyId, secret: given.secretAccessKey, expiration: given.expiration };
  },
  // `Message` is what the service said; the SDK puts it beside its own words.
  (error) => ({ error: [String(error), error.Message].filter(Boolean).join(": ") }),
);
