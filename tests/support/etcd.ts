/** The tests' own door to etcd: bytes in, bytes out, no retries, every write answers with its revision. */

import { Buffer } from "node:buffer";
import {
  Etcd3,
  type IKeyValue,
  type IOptions,
  type IRequestOp,
  type IWatchRequest,
  type IWatchResponse,
  KVClient,
  LeaseClient,
} from "etcd3";

export type Bytes = string | Uint8Array;

export interface Kv {
  key: Buffer;
  value: Buffer;
  mod_revision: number;
  create_revision: number;
  version: number;
  lease: string;
}

export interface Event extends Kv {
  type: "put" | "delete";
}

export type Op = { put: Bytes; value: Bytes; lease?: string } | { delete: Bytes };

/** The servers, user and prefix that an etcd DSN names. */
export function parseEtcdDsn(dsn: string) {
  const match = dsn.match(/^etcd:\/\/(?:([^@/]*)@)?([^/?]+)(\/[^?]*)?/);
  if (!match) throw new Error(`Cannot read etcd DSN '${dsn}': wanted 'etcd://host:port/prefix'`);
  const [, user, hosts, path] = match;
  const [username, password] = (user ?? "").split(":").map(decodeURIComponent);
  return { hosts: hosts.split(","), auth: user ? { username, password } : undefined, path: path ?? "" };
}

/** A prefix as the path of a DSN. */
export function prefixPath(prefix: string): string {
  if (prefix !== "" && !prefix.startsWith("/")) {
    throw new Error(`Cannot write prefix '${prefix}' in a DSN: wanted one that is empty or begins with '/'`);
  }
  return prefix.split("/").map(encodeURIComponent).join("/");
}

/** etcd3 repeats a call that failed, writes too; a test wants to know what each call did. */
const once = { execute: (fn: (context: unknown) => unknown) => fn({}) } as unknown;

export class EtcdDoor implements AsyncDisposable {
  readonly #client: Etcd3;
  readonly #kv: KVClient;
  readonly #lease: LeaseClient;

  /** For what has no method here: users and roles. */
  get client(): Etcd3 {
    return this.#client;
  }

  constructor(dsn: string) {
    const { hosts, auth } = parseEtcdDsn(dsn);
    this.#client = new Etcd3({
      hosts: hosts.map((host) => `http://${host}`),
      auth,
      grpcOptions: {
        "grpc.max_receive_message_length": -1,
        "grpc.enable_http_proxy": 0,
        "grpc.enable_retries": 0,
        // a server that was restarted is found again at once
        "grpc.initial_reconnect_backoff_ms": 50,
        "grpc.max_reconnect_backoff_ms": 200,
      },
      faultHandling: { global: once, host: () => once } as IOptions["faultHandling"],
    });
    const pool = this.#client["pool"];
    this.#kv = new KVClient(pool);
    this.#lease = new LeaseClient(pool);
  }

  async put(key: Bytes, value: Bytes, { lease }: { lease?: string } = {}): Promise<number> {
    return Number((await this.#kv.put({ key: bytes(key), value: bytes(value), lease })).header.revision);
  }

  async delete(key: Bytes): Promise<number> {
    return Number((await this.#kv.deleteRange({ key: bytes(key) })).header.revision);
  }

  async deletePrefix(prefix: Bytes): Promise<number> {
    return Number((await this.#kv.deleteRange(keyRange(prefix))).header.revision);
  }

  /** All in one revision; a key may stand in it only once. */
  async txn(ops: Op[]): Promise<number> {
    return Number((await this.#kv.txn({ success: ops.map(requestOp) })).header.revision);
  }

  /** The key now, or as it was at a revision. */
  async get(key: Bytes, revision?: number): Promise<Kv | undefined> {
    const { kvs } = await this.#kv.range({ key: bytes(key), revision });
    return kvs.map(kv)[0];
  }

  async range(prefix: Bytes, revision?: number): Promise<Kv[]> {
    return (await this.#kv.range({ ...keyRange(prefix), revision })).kvs.map(kv);
  }

  async revision(): Promise<number> {
    const { header } = await this.#kv.range({ key: Buffer.of(0), count_only: true });
    return Number(header.revision);
  }

  async compact(revision: number, physical = true): Promise<void> {
    await this.#kv.compact({ revision, physical });
  }

  /** Gives freed space back; the server answers nobody meanwhile. */
  async defragment(): Promise<void> {
    await this.#client.maintenance.defragment();
  }

  /** Clears all alarms, as `etcdctl alarm disarm` does. */
  async disarm(): Promise<void> {
    const { alarms } = await this.#client.maintenance.alarm({ action: "Get" });
    for (const { memberID, alarm } of alarms) {
      await this.#client.maintenance.alarm({ action: "Deactivate", memberID, alarm });
    }
  }

  /** A lease that nobody keeps alive. */
  async leaseGrant(ttl: number): Promise<string> {
    return (await this.#lease.leaseGrant({ TTL: ttl })).ID;
  }

  async leaseRevoke(id: string): Promise<void> {
    await this.#lease.leaseRevoke({ ID: id });
  }

  /** The server's version, such as `3.6.16`. */
  async version(): Promise<string> {
    return (await this.#client.maintenance.status()).version;
  }

  /** Raises the alarm that a full database raises: writes are refused until it is cleared. */
  async raiseNoSpace(): Promise<void> {
    await this.#client.maintenance.alarm({
      action: "Activate",
      memberID: await this.#member(),
      alarm: "Nospace",
    });
  }

  /** Clears every NOSPACE alarm. */
  async clearNoSpace(): Promise<void> {
    const { alarms } = await this.#client.maintenance.alarm({ action: "Get", alarm: "None" });
    for (const { memberID } of alarms) {
      await this.#client.maintenance.alarm({ action: "Deactivate", memberID, alarm: "Nospace" });
    }
  }

  async #member(): Promise<string> {
    return (await this.#client.maintenance.status()).header.member_id;
  }

  /**
   * Every event under the prefix from a revision up to now.
   *
   * The whole keyspace is watched: each revision has an event there, so the event of today's revision proves that
   * none before it is missing. A watch of the prefix alone never says that it is through.
   */
  async history(prefix: Bytes, fromRevision = 1): Promise<Event[]> {
    const now = await this.revision();
    if (now < fromRevision || now === 1) return [];
    const events = await this.#eventsUpTo(now, fromRevision);
    const wanted = bytes(prefix);
    return events.filter(({ key }) => key.subarray(0, wanted.length).equals(wanted));
  }

  async #eventsUpTo(last: number, start: number): Promise<Event[]> {
    const stream = await this.#openWatch();
    const ended = new Promise<void>((resolve) => stream.on("close", resolve));
    try {
      stream.write({ create_request: { ...keyRange(""), start_revision: start } });
      return await collect(stream, last);
    } finally {
      stream.cancel();
      await ended;
    }
  }

  /** As etcd3's own, which hands a stream over only after it can have failed, with nobody to hear it. */
  #openWatch(): Promise<WatchStream> {
    return this.#client["pool"].withConnection("Watch" as never, ({ client, metadata }) => {
      const stream = (client as unknown as { watch(metadata: unknown): WatchStream }).watch(metadata);
      stream.on("error", () => {}); // it reaches the reader through the iterator
      return stream;
    }) as unknown as Promise<WatchStream>;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#client.close();
    return Promise.resolve();
  }
}

interface WatchStream extends AsyncIterable<IWatchResponse> {
  write(request: IWatchRequest): void;
  cancel(): void;
  on(event: "close", fn: () => void): this;
  on(event: "error", fn: (error: Error) => void): this;
}

async function collect(stream: WatchStream, last: number): Promise<Event[]> {
  const all: Event[] = [];
  for await (const response of stream) {
    if (response.canceled) {
      throw new Error(
        `Cannot read the history: compacted at ${response.compact_revision} ${response.cancel_reason}`,
      );
    }
    for (const { type, kv: changed } of response.events) {
      all.push({ type: String(type).toLowerCase() === "put" ? "put" : "delete", ...kv(changed) });
    }
    if (all.length > 0 && all[all.length - 1].mod_revision >= last) break;
  }
  return all.filter(({ mod_revision }) => mod_revision <= last);
}

function requestOp(op: Op): IRequestOp {
  return "put" in op
    ? { request_put: { key: bytes(op.put), value: bytes(op.value), lease: op.lease } }
    : { request_delete_range: { key: bytes(op.delete) } };
}

function kv(raw: IKeyValue): Kv {
  return {
    key: raw.key,
    value: raw.value,
    mod_revision: Number(raw.mod_revision),
    create_revision: Number(raw.create_revision),
    version: Number(raw.version),
    lease: raw.lease,
  };
}

function bytes(value: Bytes): Buffer {
  return typeof value === "string" ? Buffer.from(value) : Buffer.from(value);
}

/** `[prefix, prefix + 1)`; the empty prefix and one of 0xff bytes reach to the end of the keyspace. */
function keyRange(prefix: Bytes): { key: Buffer; range_end: Buffer } {
  const key = bytes(prefix);
  const end = Buffer.from(key);
  for (let at = end.length - 1; at >= 0; at--) {
    if (end[at] === 0xff) continue;
    end[at]++;
    return { key, range_end: end.subarray(0, at + 1) };
  }
  return { key: key.length ? key : Buffer.of(0), range_end: Buffer.of(0) };
}
