// How the clients here answer: one line of JSON for each time that they ask. With `--again` among their words they ask once more for
// each line that comes on their input, with the same credentials: what a long-running service does.

import { createInterface } from "node:readline";

const again = process.argv.includes("--again");
export const words = process.argv.slice(2).filter((word) => word !== "--again");

/// Asks as often as is wanted; `told` makes of an error what the user is told.
export async function answers(ask, told = (error) => ({ error: String(error) })) {
  const once = async () => {
    const begun = performance.now();
    let answer;
    try {
      answer = { ok: true, ...(await ask()) };
    } catch (error) {
      answer = { ok: false, ...told(error) };
    }
    answer.seconds = (performance.now() - begun) / 1000;
    console.log(JSON.stringify(answer));
    process.exitCode = answer.ok ? 0 : 1;
  };
  await once();
  if (!again) return;
  for await (const _ of createInterface({ input: process.stdin })) await once();
}
