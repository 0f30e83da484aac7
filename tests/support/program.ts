/** The real program as a child process. */

import assert from "node:assert/strict";
import { fromFileUrl } from "./paths.ts";
import { eventually, Hopeless, type Patience } from "./eventually.ts";

// deno-lint-ignore no-explicit-any
export type LogLine = Record<string, any>;

const root = fromFileUrl("../..");

/** What is run: the tree at `root`, or the compiled binary. */
export interface Build {
  root: string;
  binary?: string;
}

/** The compiled binary that is tested in the place of the tree, by the same tests. */
export const testedBinary = Deno.env.get("ETCD_PG_SYNC_TEST_BINARY") || undefined;

const tested: Build = { root, binary: testedBinary };

/** How the `start` task runs the program: `deno run <permissions> main.ts`. */
function startFlags(): string[] {
  const { tasks } = JSON.parse(Deno.readTextFileSync(`${root}/deno.json`));
  const words: string[] = (tasks.start.command ?? tasks.start).split(/\s+/);
  return words.slice(2, words.indexOf("main.ts"));
}

function spawn(args: string[], env: Record<string, string>, { root, binary } = tested): Deno.ChildProcess {
  return new Deno.Command(binary ?? Deno.execPath(), {
    args: binary ? args : ["run", "--no-prompt", ...startFlags(), "main.ts", ...args],
    cwd: root,
    env: { NO_COLOR: "1", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

/** Where a command is to end by itself, and goes on instead, the test is to fail. */
const LONGEST_RUN_MS = 60_000;

/** Runs one command of the program to its end; SIGKILL after a minute. */
export async function runProgram(args: string[], env: Record<string, string> = {}) {
  const child = spawn(args, env);
  const timer = setTimeout(() => child.kill("SIGKILL"), LONGEST_RUN_MS);
  const { code, stdout, stderr } = await child.output().finally(() => clearTimeout(timer));
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** The one line that a refused command has written, of what is no log; without its code, which it must have. */
export function refusal(stderr: string): string {
  const lines = stderr.trimEnd().split("\n").filter((text) => !text.startsWith("{"));
  assert.equal(lines.length, 1, stderr);
  const [line, sentence] = /^(.*) \(EPS-\d{3}\)$/.exec(lines[0]) ?? [];
  assert.ok(line, `without a code: ${stderr}`);
  return sentence;
}

export class Program implements AsyncDisposable {
  readonly pid: number;
  readonly started = new Date();
  /** The JSON lines that it logged */
  readonly logs: LogLine[] = [];
  /** All that it wrote, for the message of a failed wait */
  readonly output: string[] = [];
  readonly status: Promise<{ code: number; signal: Deno.Signal | null }>;
  readonly #child: Deno.ChildProcess;
  #ended = false;

  constructor(args: string[], env: Record<string, string> = {}, build: Build = tested) {
    this.#child = spawn(args, env, build);
    this.pid = this.#child.pid;
    this.status = this.#follow();
  }

  /** `SIGSTOP` and `SIGCONT` freeze and wake it. Nothing happens where it has ended. */
  kill(signal: Deno.Signal): void {
    if (this.#ended) return;
    try {
      this.#child.kill(signal);
    } catch (error) {
      if (!(error instanceof TypeError || error instanceof Deno.errors.NotFound)) throw error;
    }
  }

  /**
   * Waits until a log line, of those that are there too, satisfies the predicate, and returns the line; or until a
   * predicate without a parameter holds. Fails at once if the program ends before.
   */
  async until(
    predicate: ((line: LogLine) => unknown) | (() => unknown),
    timeoutMs?: Patience["timeoutMs"],
  ): Promise<LogLine | undefined> {
    const asksLine = predicate.length > 0;
    let line: LogLine | undefined;
    await eventually(async () => {
      const ended = this.#ended;
      if (asksLine) line = this.logs.find(predicate);
      if (asksLine ? line : await (predicate as () => unknown)()) return true;
      if (ended) throw new Hopeless(`The program has ended before. It wrote:\n${this.tail()}`);
    }, { timeoutMs }).catch((error) => {
      if (error instanceof Hopeless) throw error;
      throw new Error(`${error.message}. The program wrote:\n${this.tail()}`, { cause: error });
    });
    return line;
  }

  tail(lines = 20): string {
    return this.output.slice(-lines).map((line) => `  ${line}`).join("\n");
  }

  /** SIGTERM, and SIGKILL if it does not end within ten seconds. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.kill("SIGTERM");
    const timer = setTimeout(() => this.kill("SIGKILL"), 10_000);
    await this.status;
    clearTimeout(timer);
  }

  async #follow() {
    const read = [this.#read(this.#child.stdout), this.#read(this.#child.stderr)];
    const { code, signal } = await this.#child.status;
    await Promise.all(read);
    this.#ended = true;
    return { code, signal };
  }

  async #read(stream: ReadableStream<Uint8Array>): Promise<void> {
    let rest = "";
    const text = stream.pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>);
    for await (const chunk of text) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      lines.forEach((line) => this.#line(line));
    }
    if (rest !== "") this.#line(rest);
  }

  #line(line: string): void {
    this.output.push(line);
    if (!line.startsWith("{")) return;
    try {
      this.logs.push(JSON.parse(line));
    } catch {
      // a line of something else that begins with a brace
    }
  }
}
