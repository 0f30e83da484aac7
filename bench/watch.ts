/**
 * A bare watch of etcd, as a process of its own: the least that anything which follows etcd has to do. It reads what comes
 * and looks for signals, and decodes nothing.
 */
import { Buffer } from "node:buffer";
import { EtcdClient } from "../lib/etcd/client.ts";
import { encodeWatchCreate } from "../lib/etcd/encode.ts";
import { WATCH_WINDOW_BYTES } from "../lib/etcd/watch.ts";
import { prefixRange } from "../lib/stream.ts";
import { now } from "./load.ts";
import { cpuSeconds, peakMegabytes } from "./proc.ts";
import type { Cost, Follower } from "./program.ts";
import { type Place, SIGNAL } from "./servers.ts";

interface Seen {
  /** The signal's number. */
  number: number;
  /** Epoch, ms. */
  at: number;
}

export class BareWatch implements Follower {
  readonly #child: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #seen = new Map<number, number>();
  #rest = "";
  /** Epoch, ms: the process was started. */
  readonly began = now();

  private constructor(readonly place: Place, revision: number) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--quiet",
        "--allow-all",
        "bench/watch.ts",
        place.endpoint,
        place.prefix,
        String(revision),
      ],
      stdin: "null",
      stdout: "piped",
    }).spawn();
    this.#lines = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    place.signal.addEventListener("abort", () => this.#kill());
  }

  /** Opens it, from this revision on. */
  static async open(place: Place, revision: number): Promise<BareWatch> {
    const watch = new BareWatch(place, revision);
    await watch.when({ number: 0 });
    return watch;
  }

  async arrived(): Promise<number> {
    return await this.when(await this.place.putSignal());
  }

  async cost(): Promise<Cost> {
    const { pid } = this.#child;
    return {
      memoryMb: await peakMegabytes(pid),
      programCpu: await cpuSeconds(pid) ?? 0,
      postgresCpu: 0,
    };
  }

  async when({ number }: { number: number }): Promise<number> {
    while (!this.#seen.has(number)) {
      const { value, done } = await this.#lines.read();
      if (done) throw new Error("the bare watch has ended");
      const lines = (this.#rest + value).split("\n");
      this.#rest = lines.pop()!;
      for (const line of lines) {
        const seen: Seen = JSON.parse(line);
        this.#seen.set(seen.number, seen.at);
      }
    }
    return this.#seen.get(number)!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#kill();
    await this.#lines.cancel();
    await this.#child.status;
  }

  #kill(): void {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // it has ended
    }
  }
}

async function follow(endpoint: string, prefix: string, revision: number): Promise<void> {
  const client = new EtcdClient({ endpoints: [endpoint] }, { windowBytes: WATCH_WINDOW_BYTES });
  const { from, to } = prefixRange(new TextEncoder().encode(prefix));
  const create = encodeWatchCreate({ key: from, end: to, startRevision: revision, fragment: false });
  const signal = Buffer.from(prefix + SIGNAL);
  let first = true;
  const asBuffer = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const watch = await client.stream("Watch", "Watch", create, asBuffer, (message) => {
    const at = now();
    if (first) console.log(JSON.stringify({ number: 0, at }));
    first = false;
    for (let i = message.indexOf(signal); i >= 0; i = message.indexOf(signal, i + 1)) {
      const digits = /^\d+/.exec(message.toString("latin1", i + signal.length, i + signal.length + 12))!;
      console.log(JSON.stringify({ number: Number(digits[0]), at }));
    }
  });
  await watch.ended;
}

if (import.meta.main) {
  const [endpoint, prefix, revision] = Deno.args;
  await follow(endpoint, prefix, Number(revision));
}
