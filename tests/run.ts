/**
 * The `test` task: starts the servers, runs `deno test` with what it was given, stops the servers. Given nothing it runs
 * all tests, in two halves.
 *
 * Its last line is `N passed, N failed`, and it fails where no test ran. The lines
 * before count the tests that this machine cannot run, by the reason that their names give: `(ignored: no …)`.
 */

import { type Servers, startServers, versions } from "./support/servers.ts";

/** These take about as long as all others. Without arguments the two halves run side by side, on servers of their own. */
const FIRST_HALF = ["fault", "promise", "robustness"];

async function main(args: string[]): Promise<number> {
  // The terminal tells the children too; this process stays until the servers are stopped
  Deno.addSignalListener("SIGINT", () => {});
  await using opened = new AsyncDisposableStack();
  const runs: Promise<Result>[] = [];
  for (const given of args.length > 0 ? [args] : halves()) {
    const said = new Output(Promise.allSettled(runs));
    // one after another: the first may have to fetch them
    const servers = opened.use(await startServers((line) => said.write(`${line}\n`)));
    runs.push(runOne(given, servers, said));
  }
  const results = await Promise.all(runs);
  const sum = (which: "passed" | "failed") => results.reduce((sum, result) => sum + result[which], 0);
  for (const [why, { length }] of Map.groupBy(results.flatMap(({ ignored }) => ignored), (why) => why)) {
    console.log(`${length} NOT RUN: ${why}`);
  }
  closing = `${sum("passed")} passed, ${sum("failed")} failed`;
  if (results.some(({ passed, failed }) => passed + failed === 0)) return 1;
  return Math.max(...results.map(({ code }) => code));
}

function halves(): string[][] {
  const folders = [...Deno.readDirSync("tests")].filter((entry) => entry.isDirectory).map(({ name }) => name);
  const { first, second } = Object.groupBy(folders, (name) => FIRST_HALF.includes(name) ? "first" : "second");
  return [first!, second!].map((half) => half.toSorted().map((name) => `tests/${name}/`));
}

interface Result {
  code: number;
  passed: number;
  failed: number;
  /** Why, of each. */
  ignored: string[];
}

async function runOne(args: string[], servers: Servers, said: Output): Promise<Result> {
  const { postgres, etcd } = await versions(servers);
  said.write(`servers: ${servers.way}, PostgreSQL ${postgres}, etcd ${etcd}\n`);
  const { code, output } = await runTests(args, said, {
    ETCD_PG_SYNC_TEST_POSTGRES: servers.postgresDsn,
    ETCD_PG_SYNC_TEST_ETCD: servers.etcdDsn,
  });
  await said.written();
  return { code, ...summary(output) };
}

async function runTests(args: string[], said: Output, env: Record<string, string>) {
  const paths = args.some(isPath) ? [] : ["tests/"];
  const colors: Record<string, string> = Deno.stdout.isTerminal() ? { FORCE_COLOR: "1" } : {};
  const child = new Deno.Command(Deno.execPath(), {
    // Chromium's driver looks into /proc, which Deno gives to no less; the program itself runs with what its task gives it
    args: ["test", "--allow-all", ...args, ...paths],
    env: { ...env, ...colors },
    stdin: "null",
    stdout: "piped",
  }).spawn();
  Deno.addSignalListener("SIGTERM", () => child.kill("SIGTERM"));
  const [output, { code }] = await Promise.all([copyOut(child.stdout, said), child.status]);
  return { code, output };
}

/** Keeps what is written until its turn has come. */
class Output {
  #kept: string[] | undefined = [];
  readonly #turn: Promise<void>;

  constructor(before: Promise<unknown>) {
    this.#turn = before.then(() => {
      const kept = this.#kept!;
      this.#kept = undefined;
      for (const text of kept) this.write(text);
    });
  }

  write(text: string): void {
    if (this.#kept) return void this.#kept.push(text);
    const bytes = new TextEncoder().encode(text);
    for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
  }

  written(): Promise<void> {
    return this.#turn;
  }
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
async function copyOut(stream: ReadableStream<Uint8Array>, said: Output): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    const part = decoder.decode(chunk, { stream: true });
    said.write(part);
    text += part;
  }
  return text;
}

/** From deno's last line, such as `FAILED | 3 passed (2 steps) | 1 failed | 4 ignored (12s)`. */
function summary(output: string): Omit<Result, "code"> {
  // deno-lint-ignore no-control-regex
  const plain = output.replaceAll(/\x1b\[[0-9;]*m/g, "");
  const lines = [...plain.matchAll(/^(?:ok|FAILED) \| (\d+) passed[^|\n]*\| (\d+) failed/gm)];
  const [, passed, failed] = lines.at(-1) ?? [0, 0, 0];
  const ignored = [...plain.matchAll(/ \(ignored: (.*)\) \.\.\. ignored/g)].map(([, why]) => why);
  return { passed: Number(passed), failed: Number(failed), ignored };
}

let closing = "0 passed, 0 failed";
const code = await main(Deno.args);
console.log(closing);
Deno.exit(code);
