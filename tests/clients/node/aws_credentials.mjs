// An application that wants credentials: the unmodified @aws-sdk/credential-providers package, told nothing about imds-guard.
//
// usage: aws_credentials.mjs instance|container
// Prints one JSON line: {"ok": true, "key": ..., "secret": ..., "expiration": ..., "seconds": ...}, or {"ok": false, "error": ...}. Exit code 0 or 1.

import { fromHttp, fromInstanceMetadata } from "@aws-sdk/credential-providers";

const provider = {
  instance: () => fromInstanceMetadata(),
  container: () => fromHttp(),
}[process.argv[2]]();

const begun = performance.now();
let answer;
try {
  const given = await provider();
  answer = { ok: true, key: given.accessKeyId, secret: given.secretAccessKey, expiration: given.expiration };
} catch (error) {
  // `Message` is what the service said; the SDK puts it beside its own words.
  answer = { ok: false, error: [String(error), error.Message].filter(Boolean).join(": ") };
}
answer.seconds = (performance.now() - begun) / 1000;
console.log(JSON.stringify(answer));
process.exitCode = answer.ok ? 0 : 1;
