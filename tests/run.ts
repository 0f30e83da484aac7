/**
 * The `test` task: starts the servers once, runs `deno test` with what it was given, stops the servers.
 *
 * Its last line is `N passed, N failed`, and it fails where no test ran.
 */

import { startServers, versions } from "./support/servers.ts";

const permissions = ["net", "env", "read", "write", "run", "sys"].map((name) => `--allow-${name}`);

async function main(args: string[]): Promise<number> {
  await using servers = await startServers((line) => console.log(line));
  const { postgres, etcd } = await versions(servers);
  console.log(`servers: ${servers.way}, PostgreSQL ${postgres}, etcd ${etcd}`);
  const { code, output } = await runTests(args, {
    ETCD_PG_SYNC_TEST_POSTGRES: servers.postgresDsn,
    ETCD_PG_SYNC_TEST_ETCD: servers.etcdDsn,
  });
  const { passed, failed } = summary(output);
  closing = `${passed} passed, ${failed} failed`;
  return code === 0 && passed + failed === 0 ? 1 : code;
}

async function runTests(args: string[], env: Record<string, string>) {
  const paths = args.some(isPath) ? [] : ["tests/"];
  const colors: Record<string, string> = Deno.stdout.isTerminal() ? { FORCE_COLOR: "1" } : {};
  const child = new Deno.Command(Deno.execPath(), {
    args: ["test", ...permissions, ...args, ...paths],
    env: { ...env, ...colors },
    stdin: "null",
    stdout: "piped",
  }).spawn();
  // The terminal tells the child too; this process stays until the servers are stopped
  Deno.addSignalListener("SIGINT", () => {});
  Deno.addSignalListener("SIGTERM", () => child.kill("SIGTERM"));
  const [output, { code }] = await Promise.all([copyOut(child.stdout), child.status]);
  return { code, output };
}

/** Whether an argument names files, and is not an option or an option's value. */
function isPath(arg: string): boolean {
  try {
    Deno.statSync(arg);
    return true;
  } catch {
    return false;
  }
}

/** Shows the output as it comes, and returns all of it. */
async function copyOut(stream: ReadableStream<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    for (let at = 0; at < chunk.length;) at += Deno.stdout.writeSync(chunk.subarray(at));
    text += decoder.decode(chunk, { stream: true });
  }
  return text;
}

/** From deno's last line, such as `FAILED | 3 passed (2 steps) | 1 failed | 4 ignored (12s)`. */
function summary(output: string): { passed: number; failed: number } {
  // deno-lint-ignore no-control-regex
  const plain = output.replaceAll(/\x1b\[[0-9;]*m/g, "");
  const lines = [...plain.matchAll(/^(?:ok|FAILED) \| (\d+) passed[^|\n]*\| (\d+) failed/gm)];
  const [, passed, failed] = lines.at(-1) ?? [0, 0, 0];
  return { passed: Number(passed), failed: Number(failed) };
}

let closing = "0 passed, 0 failed";
const code = await main(Deno.args);
console.log(closing);
Deno.exit(code);
