/** An application on the SQL side, that knows of each of its transactions what became of it. Connected directly. */
import { Buffer } from "node:buffer";
import { pause } from "../support/eventually.ts";
import { latin1 } from "../support/history.ts";
import { Session } from "../support/postgres.ts";
import type { ClientTransaction } from "../support/validators.ts";
import { someValue, think, type Traffic } from "./traffic.ts";

/** What a transaction wants of each key (latin1); null: that it is gone. */
type Wanted = Map<string, Buffer | null>;

/** One statement for a key: true where it queued a write. */
type Way = (session: Session, key: Buffer, value: Buffer | null) => Promise<boolean>;

const queued = async (session: Session, text: string, params: unknown[]) =>
  (await session.sql(text, params)).length > 0;

const KEY = "etcd_key_text($1)";
const NOW = `coalesce((select revision from etcd where key = ${KEY}), 0)`;

/** By its name, and how often it is taken. */
const WAYS: Record<string, { weight: number; way: Way }> = {
  "function": {
    weight: 5,
    way: (session, key, value) =>
      value === null
        ? queued(session, `select etcd_delete(${KEY})`, [key])
        : queued(session, `select etcd_set(${KEY}, $2::bytea)`, [key, value]),
  },
  "compare-and-set": {
    weight: 3,
    way: (session, key, value) =>
      value === null
        ? queued(session, `select etcd_delete(${KEY}, ${NOW})`, [key])
        : queued(session, `select etcd_set(${KEY}, $2::bytea, ${NOW})`, [key, value]),
  },
  "view": {
    weight: 3,
    way: async (session, key, value) => {
      if (value === null) return queued(session, `delete from etcd where key = ${KEY} returning key`, [key]);
      const update = `update etcd set value_bytes = $2 where key = ${KEY} returning key`;
      if (await queued(session, update, [key, value])) return true;
      const insert = `insert into etcd (key, value_bytes) values (${KEY}, $2) returning key`;
      return await queued(session, insert, [key, value]);
    },
  },
  "table": {
    weight: 2,
    way: async (session, key, value) => {
      // it returns no row where it replaces the transaction's own earlier write
      await (value === null
        ? session.sql(`insert into etcd_wal (key, tombstone) values (${KEY}, true)`, [key])
        : session.sql(`insert into etcd_wal (key, value_bytes) values (${KEY}, $2)`, [key, value]));
      return true;
    },
  },
};
const LOTS = Object.values(WAYS).flatMap(({ weight, way }) => Array.from({ length: weight }, () => way));

/** Writes until the traffic ends. */
export async function sqlClient(dsn: string, traffic: Traffic): Promise<ClientTransaction[]> {
  const done: ClientTransaction[] = [];
  let session = new Session(dsn, { once: true });
  for (let n = 0; traffic.going(); n++) {
    const before = done.length ? traffic.random.pick(done.slice(-50)).writes.map(({ id }) => id) : [];
    const transaction = new Transaction(session, traffic, n, before);
    done.push(await transaction.run());
    if (transaction.lost) {
      await session[Symbol.asyncDispose]();
      session = new Session(dsn, { once: true });
      await pause(200);
    }
    await think(traffic.random);
  }
  await session[Symbol.asyncDispose]();
  return done;
}

class Transaction {
  /** The session may be gone. */
  lost = false;
  readonly #session: Session;
  readonly #traffic: Traffic;
  readonly #n: number;
  readonly #hot: Buffer[];
  #retries = false;
  #wanted: Wanted = new Map();

  /** @param before writes of an earlier transaction, which may have lost */
  constructor(session: Session, traffic: Traffic, n: number, readonly before: number[]) {
    const { sql, shared } = traffic.keys;
    this.#hot = traffic.random.chance(0.15) ? [...sql, ...shared] : sql;
    this.#session = session;
    this.#traffic = traffic;
    this.#n = n;
  }

  async run(): Promise<ClientTransaction> {
    const began = performance.now();
    const { outcome, writes } = await this.#try();
    const ended = performance.now();
    const wait = outcome === "committed" && writes.length > 0 && this.#traffic.random.chance(0.03);
    return { outcome, began, ended, writes, waited: wait ? await this.#wait(writes[0].id) : undefined };
  }

  /** A commit without an answer is unknown; any other error means that it was rolled back. */
  async #try(): Promise<Pick<ClientTransaction, "outcome" | "writes">> {
    let writes: ClientTransaction["writes"] = [];
    try {
      await this.#session.sql("begin");
      await this.#statements();
      writes = await this.#written();
    } catch {
      await this.#rollback();
      return { outcome: "rolled-back", writes };
    }
    if (this.#traffic.random.chance(0.07)) {
      await this.#rollback();
      return { outcome: "rolled-back", writes };
    }
    try {
      await this.#session.sql("commit");
      return { outcome: "committed", writes };
    } catch (error) {
      this.lost = true;
      return { outcome: isRefused(error) ? "rolled-back" : "unknown", writes };
    }
  }

  /** A write that is not settled in time tells nothing, nor does a session that ends. */
  async #wait(id: number): Promise<ClientTransaction["waited"]> {
    try {
      const [row] = await this.#session.sql(
        "select id, status, result_revision from etcd_wait($1, '2 seconds')",
        [id],
      );
      return row as ClientTransaction["waited"];
    } catch (error) {
      this.lost = (error as { code?: string }).code !== "ZE009";
      return undefined;
    }
  }

  async #rollback(): Promise<void> {
    await this.#session.sql("rollback").catch(() => this.lost = true);
  }

  async #statements(): Promise<void> {
    const { random, keys } = this.#traffic;
    if (random.chance(0.03)) return await this.#retry();
    if (random.chance(0.06)) return await this.#many(random.sample(keys.wide, random.integer(100, 300)));
    if (random.chance(0.1)) return await this.#many(random.sample(keys.wide, random.integer(5, 60)));
    for (let i = random.integer(1, 5); i > 0; i--) await this.#one();
    if (!random.chance(0.15)) return;
    const kept = new Map(this.#wanted);
    await this.#session.sql("savepoint part");
    await this.#one();
    await this.#one();
    if (random.chance(0.5)) return void await this.#session.sql("release part");
    await this.#session.sql("rollback to part");
    this.#wanted = kept;
  }

  /** Queues an earlier transaction again, where it has lost. */
  async #retry(): Promise<void> {
    this.#retries = true;
    await this.#session.sql(
      "select etcd_retry(id) from (select id from etcd_wal where id = any ($1) and status in ('conflict', 'failed') limit 1) w",
      [this.before],
    );
  }

  async #one(): Promise<void> {
    const { random } = this.#traffic;
    const key = random.pick(this.#hot);
    const value = random.chance(0.2) ? null : someValue(this.#traffic, this.#n);
    if (await random.pick(LOTS)(this.#session, key, value)) this.#wanted.set(key.toString("latin1"), value);
  }

  async #many(some: Buffer[]): Promise<void> {
    const value = Buffer.from(`${this.#traffic.name} ${this.#n}`);
    await this.#session.sql(
      "select count(etcd_set(etcd_key_text(key), $2::bytea)) from unnest($1::bytea[]) as t(key)",
      [some, value],
    );
    for (const key of some) this.#wanted.set(key.toString("latin1"), value);
  }

  async #written(): Promise<ClientTransaction["writes"]> {
    if (this.#retries) return []; // they are somebody's already
    const rows = await this.#session.sql(
      "select id, key from etcd_wal where txid = pg_current_xact_id_if_assigned() and ts = transaction_timestamp()",
    );
    return rows.map((row) => {
      const key = latin1(row.key);
      return { id: row.id, key, value: this.#wanted.get(key) ?? null };
    });
  }
}

/** The server itself has answered that it did not commit; an end of the session (class 57, 08) is no such answer. */
function isRefused(error: unknown): boolean {
  const code = (error as { code?: string }).code ?? "";
  return /^[0-9A-Z]{5}$/.test(code) && !/^(57|08|XX|58)/.test(code);
}
