/** A program that keeps etcd and PostgreSQL in step, ours or a peer: what is asked of it, and one that runs. */
import type { Session } from "../lib/postgres/client.ts";
import { now } from "./load.ts";
import { cpuSeconds, peakMegabytes } from "./proc.ts";
import { openSession, pause, type Place } from "./servers.ts";
import { OURS } from "./stats.ts";

export interface Sync {
  name: string;
  version: string;
  /** What it needs and does not make itself. */
  schema: string;
  /** It brings what etcd has to SQL. */
  follows: boolean;
  /** `flags` are more of ours. */
  command(place: Place, flags: string[]): { program: string; args: string[]; env: Record<string, string> };
  /** SQL: a row where key $1 is in the mirror. */
  seen: string;
  /** SQL: which transaction wrote key $1 into the mirror. */
  writtenBy: string;
  /** SQL that writes value $2 to key $1, also while an earlier write of it waits; undefined: one way. */
  write?: string;
  /** SQL that writes $2 keys under $1, with values of 128 B. */
  writeMany?: string;
}

/** This program, from the tree or compiled. */
export function ours(binary: string | undefined, version: string): Sync {
  const permissions = ["net", "env", "read", "write", "run", "sys"].map((name) => `--allow-${name}`);
  return {
    name: OURS,
    version: `${version}, ${binary ? "compiled" : `run from its source by Deno ${Deno.version.deno}`}`,
    schema: "",
    follows: true,
    command: ({ dsn, endpoint, prefix }, flags) => {
      const args = [
        "start",
        "-p",
        dsn,
        "-e",
        `etcd://${endpoint}${prefix}`,
        "--log-format",
        "json",
        ...flags,
      ];
      return binary
        ? { program: binary, args, env: {} }
        : { program: Deno.execPath(), args: ["run", "--quiet", ...permissions, "main.ts", ...args], env: {} };
    },
    seen: "select from etcd_kv where key = $1",
    writtenBy: "select xmin::text as txid from etcd_kv where key = $1",
    write: "select etcd_set($1, $2)",
    writeMany:
      `select count(etcd_set($1 || lpad(i::text, 8, '0'), rpad('', 128, 'v'))) from generate_series(1, $2) i`,
  };
}

export interface Cost {
  memoryMb: number;
  programCpu: number;
  postgresCpu: number;
}

const WATCH_BACKENDS_MS = 200;
const SIGNAL_AGAIN_MS = 1_000;
const STOP_MS = 15_000;

/** What follows etcd: a program, or a bare watch. */
export interface Follower extends AsyncDisposable {
  /** Waits until all that was written to etcd before has arrived; epoch, ms. */
  arrived(everyMs?: number): Promise<number>;
  /** When a signal has arrived, once it has; epoch, ms. */
  when(signal: { number: number; key: string }): Promise<number>;
  /** Since its start. */
  cost(): Promise<Cost>;
}

/** One run of a program on a place. */
export class Running implements Follower {
  /** Epoch, ms. */
  readonly began = now();
  readonly #child: Deno.ChildProcess;
  readonly #backends = new Map<string, number>();
  readonly #exited: Promise<void>;
  readonly #tail: string[] = [];
  #ended: number | undefined;
  #watching: Promise<void>;

  private constructor(
    readonly sync: Sync,
    readonly place: Place,
    readonly session: Session,
    /** For looking at backends: the one above may be asked without a pause. */
    readonly second: Session,
    flags: string[],
  ) {
    const { program, args, env } = sync.command(place, flags);
    this.#child = new Deno.Command(program, { args, env, stdin: "null", stdout: "piped", stderr: "piped" })
      .spawn();
    this.#exited = this.#follow();
    this.#watching = this.#watchBackends();
  }

  /** Starts it; returns at once. */
  static async start(sync: Sync, place: Place, flags: string[] = []): Promise<Running> {
    return new Running(sync, place, await openSession(place.dsn), await openSession(place.dsn), flags);
  }

  /** Asks every `everyMs` until the answer is true. @throws {Error} the program has ended, or the deadline has passed */
  async until(asked: () => Promise<boolean>, everyMs: number): Promise<void> {
    const lastWords = () => this.#tail.at(-1) ?? "nothing";
    while (!await asked()) {
      if (this.#ended !== undefined) throw new Error(`it ended with ${this.#ended} and said: ${lastWords()}`);
      if (this.place.signal.aborted) throw new Error(`it said last: ${lastWords()}`);
      if (everyMs > 0) await pause(everyMs);
    }
  }

  /** Until `key` is in the mirror. The schema may not be there yet. */
  async untilSeen(key: string, everyMs: number): Promise<void> {
    const { session, sync } = this;
    await this.until(
      async () => (await session.run("bench_seen", sync.seen, [key]).catch(noTable)).length > 0,
      everyMs,
    );
  }

  async when({ key }: { key: string }): Promise<number> {
    await this.untilSeen(key, 2);
    return now();
  }

  async arrived(everyMs = 5): Promise<number> {
    await this.untilSeen((await this.place.putSignal()).key, everyMs);
    return now();
  }

  /** Until the mirror is whole and followed, of ours; of a peer until it has shown that it works. */
  async untilStreaming(): Promise<void> {
    if (this.sync.name !== OURS) {
      return await (this.sync.follows ? this.#untilFollowing() : this.#untilWriting());
    }
    await this.until(async () => {
      const found = await this.session.run(
        "bench_state",
        "select from etcd_sync_state where state = 'streaming' and holder is not null",
      ).catch(noTable);
      return found.length > 0;
    }, 5);
  }

  async #untilWriting(): Promise<void> {
    await this.session.run("bench_first", this.sync.write!, [`${this.place.prefix}first`, "value"]);
    await this.until(async () => await this.place.count("first") === 1, 5);
  }

  /**
   * pg_etcd loses what is written between its first read and its watch, and etcd-postgresql-sync fails on it and begins
   * again after 10 s: so there is a new signal from time to time, and a second one when the watch must be open.
   */
  async #untilFollowing(): Promise<void> {
    for (let seen = 0; seen < 2;) {
      const { key, at } = await this.place.putSignal();
      let found = false;
      await this.until(async () => {
        found = (await this.session.run("bench_seen", this.sync.seen, [key])).length > 0;
        return found || now() - at > SIGNAL_AGAIN_MS;
      }, 5);
      if (found && ++seen === 1) await pause(SIGNAL_AGAIN_MS);
    }
  }

  /**
   * Until a later start has brought the mirror up to date: ours has proved it, of a peer, that copies all of it in one
   * transaction, `key` was written by another one than `before`.
   */
  async untilUpToDate(key: string, before: string): Promise<void> {
    const { session, sync, began } = this;
    if (sync.name !== OURS) {
      return await this.until(async () => await writtenBy(session, sync, key) !== before, 5);
    }
    await this.until(async () => {
      const found = await session.run(
        "bench_fresh",
        "select from etcd_sync_state where state = 'streaming' and fresh_at >= to_timestamp($1)",
        [began / 1_000],
      );
      return found.length > 0;
    }, 5);
  }

  kill(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch (error) {
      if (!(error instanceof TypeError || error instanceof Deno.errors.NotFound)) throw error; // it has ended
    }
  }

  /** Since its start: highest resident memory, CPU of the process, and of its backends in PostgreSQL. */
  async cost(): Promise<Cost> {
    await this.#readBackends();
    return {
      memoryMb: await peakMegabytes(this.#child.pid),
      programCpu: await cpuSeconds(this.#child.pid) ?? 0,
      postgresCpu: this.#backends.values().reduce((sum, seconds) => sum + seconds, 0),
    };
  }

  /** SIGTERM, then SIGKILL. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.kill("SIGCONT");
    this.kill("SIGTERM");
    const firm = setTimeout(() => this.kill("SIGKILL"), STOP_MS);
    await this.#exited;
    clearTimeout(firm);
    await this.#watching;
    await this.session[Symbol.asyncDispose]();
    await this.second[Symbol.asyncDispose]();
  }

  async #follow(): Promise<void> {
    const read = [this.#child.stdout, this.#child.stderr].map(async (stream) => {
      for await (const text of stream.pipeThrough(new TextDecoderStream())) {
        this.#tail.push(...text.split("\n").filter((line) => line !== ""));
        this.#tail.splice(0, this.#tail.length - 5);
      }
    });
    const { code } = await this.#child.status;
    await Promise.all(read);
    this.#ended = code;
  }

  /** A backend that ends takes its time with it, so it is read while it lives. */
  async #watchBackends(): Promise<void> {
    while (this.#ended === undefined) {
      await this.#readBackends();
      await pause(WATCH_BACKENDS_MS);
    }
  }

  async #readBackends(): Promise<void> {
    const rows = await this.second.run<{ pid: number }>(
      "bench_backends",
      `select pid from pg_stat_activity where datname = current_database()
         and backend_type in ('client backend', 'parallel worker')
         and application_name not in ('bench', 'psql', 'pgbench')`,
    ).catch(() => []);
    for (const { pid } of rows) {
      const seconds = await cpuSeconds(pid);
      if (seconds !== undefined) this.#backends.set(String(pid), seconds);
    }
  }
}

/** The transaction that wrote a key into the mirror. */
export async function writtenBy(session: Session, sync: Sync, key: string): Promise<string> {
  const [row] = await session.run<{ txid: string }>("bench_written_by", sync.writtenBy, [key]);
  return row?.txid ?? "";
}

/** Where the schema or the table is not made yet there is nothing in it. */
function noTable(error: Error & { code?: string }): never[] {
  if (error.code === "42P01") return [];
  throw error;
}
