/** The servers that a row is measured on: PostgreSQL and etcd with their default durability, on a real disk. */
import { defaultSearch, type Embedded, findPostgres, startEmbedded } from "../lib/embedded/embedded.ts";
import { Session } from "../lib/postgres/client.ts";
import { compactRequest, Connection, countOf, prefixRequest, putRequest, revisionOf } from "./etcd.ts";
import { now } from "./load.ts";

/** More than etcd's default of 2 GiB; the only setting that is not a default. */
const QUOTA_BYTES = 64 * 1024 ** 3;
/** Where this program keeps its own keys in etcd. */
const MARKERS = "/_etcd-pg-sync/";
/** Keys under it are signals, see `putSignal`. */
export const SIGNAL = "signal-";
const HOURS_SECONDS = 6 * 3_600;
const CLEAR_ATTEMPTS = 120;

export interface Servers extends AsyncDisposable {
  embedded: Embedded;
  /** host:port of etcd */
  endpoint: string;
  /** The folder with psql and pgbench. */
  bin: string;
  etcdctl: string | undefined;
}

/** @throws {Error} the data would be in memory */
export async function startServers(signal: AbortSignal): Promise<Servers> {
  const quiet = { info() {}, warn() {} };
  const embedded = await startEmbedded({
    log: quiet,
    signal,
    etcdArgs: [`--quota-backend-bytes=${QUOTA_BYTES}`],
  });
  return {
    embedded,
    endpoint: `127.0.0.1:${embedded.etcd.port}`,
    bin: await findPostgres(defaultSearch(), quiet),
    etcdctl: embedded.etcdctl,
    [Symbol.asyncDispose]: () => embedded[Symbol.asyncDispose](),
  };
}

/** The kind of file system under the folder for temporary files, where the data will be. @throws {Error} it is memory */
export async function diskKind(): Promise<string> {
  const dir = await Deno.makeTempDir();
  try {
    const kind = await run("stat", ["-f", "-c", "%T", dir]);
    if (kind !== "tmpfs" && kind !== "ramfs") return kind;
    throw new Error(`Cannot measure in '${dir}': it is ${kind}, wanted a folder on a disk (TMPDIR)`);
  } finally {
    await Deno.remove(dir);
  }
}

/** Runs a program to its end, and returns what it wrote. @throws {Error} with its last line of complaint */
export async function run(
  program: string,
  args: string[],
  options: { signal?: AbortSignal } = {},
): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, {
    args,
    stdin: "null",
    signal: options.signal,
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  if (!success) {
    const reason = text(stderr).split("\n").at(-1) || "it took too long";
    throw new Error(`Cannot run ${program.replace(/.*\//, "")}: ${reason}`);
  }
  return text(stdout);
}

/** A database and an empty keyspace, for one measurement. */
export class Place implements AsyncDisposable {
  readonly endpoint: string;
  #signals = 0;

  private constructor(
    readonly servers: Servers,
    readonly dsn: string,
    readonly prefix: string,
    readonly session: Session,
    readonly etcd: Connection,
    readonly signal: AbortSignal,
  ) {
    this.endpoint = servers.endpoint;
  }

  /** @param prefix that of the keys there are, where they shall stay; else all keys are removed */
  static async open(servers: Servers, signal: AbortSignal, prefix?: string): Promise<Place> {
    const name = `bench_${crypto.randomUUID().slice(0, 8)}`;
    const admin = servers.embedded.postgresDsn;
    await using session = await openSession(admin);
    await session.script(`create database ${name} template template0 encoding 'UTF8'`);
    const etcd = await Connection.open(servers.endpoint);
    const dsn = admin.replace(/\/postgres$/, `/${name}`);
    const place = new Place(servers, dsn, prefix ?? `/${name}/`, await openSession(dsn), etcd, signal);
    // what earlier measurements have left is written to disk now, and not while the next one runs
    await clear(etcd, prefix === undefined ? "" : MARKERS);
    await place.session.script("checkpoint");
    return place;
  }

  /** Puts one key. Returns the revision. */
  async put(key: string, value: string): Promise<number> {
    const request = putRequest(this.prefix + key, new TextEncoder().encode(value));
    return revisionOf(await this.etcd.call("KV/Put", request));
  }

  /** A new key that comes after all that was written before, and when etcd had acknowledged it; epoch, ms. */
  async putSignal(): Promise<{ number: number; key: string; at: number }> {
    const number = ++this.#signals;
    await this.put(SIGNAL + number, "arrived");
    return { number, key: this.prefix + SIGNAL + number, at: now() };
  }

  /** Forgets every revision before now. */
  compact(): Promise<void> {
    return compact(this.etcd, this.prefix);
  }

  /** etcd's revision. */
  async revision(): Promise<number> {
    return revisionOf(await this.etcd.call("KV/Range", prefixRequest(this.prefix, true)));
  }

  /** How many keys etcd has under `prefix`, itself under the place's. */
  async count(prefix: string): Promise<number> {
    return countOf(await this.etcd.call("KV/Range", prefixRequest(this.prefix + prefix, true)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.session[Symbol.asyncDispose]();
    this.etcd[Symbol.dispose]();
    await using session = await openSession(this.servers.embedded.postgresDsn);
    await session.script(`drop database ${new URL(this.dsn).pathname.slice(1)} with (force)`);
  }
}

/** Removes the keys under a prefix, all for '', and forgets that they were there. */
export async function clear(etcd: Connection, prefix: string): Promise<void> {
  // millions of keys take etcd longer than it lets a request wait, but it goes on deleting
  for (let left = CLEAR_ATTEMPTS;; left--) {
    try {
      await etcd.call("KV/DeleteRange", prefixRequest(prefix, false));
      return await compact(etcd, prefix);
    } catch (error) {
      if (left === 0) throw error;
      await pause(1_000);
    }
  }
}

/** At a revision of its own, as etcd refuses to compact twice at one. */
async function compact(etcd: Connection, prefix: string): Promise<void> {
  await etcd.call("KV/Put", putRequest(`${prefix}compacted`, new Uint8Array()));
  const revision = revisionOf(await etcd.call("KV/DeleteRange", prefixRequest(`${prefix}compacted`, false)));
  await etcd.call("KV/Compact", compactRequest(revision));
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export function openSession(dsn: string): Promise<Session> {
  return Session.open({ dsn, schema: "public", applicationName: "bench", statementSeconds: HOURS_SECONDS });
}
