/** Sessions with PostgreSQL. */
// @ts-types="@types/pg"
import pg from "pg";

const INT8 = 20;
const INT8_ARRAY = 1016;

/** Revisions, ids and counts: far below 2^53; where one is not, an error and not a wrong number. */
function safeInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) {
    throw new RangeError(`Cannot read '${text}' as an integer: it is above 2^53`);
  }
  return value;
}

/** PostgreSQL's text form of an array of integers without nulls: `{1,2}`. */
function int8Array(text: string): number[] {
  return text === "{}" ? [] : text.slice(1, -1).split(",").map(safeInteger);
}

const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: "text" | "binary") => {
    if (oid === INT8) return safeInteger;
    if (oid === INT8_ARRAY) return int8Array;
    return pg.types.getTypeParser(oid, format as "text");
  }) as pg.CustomTypesConfig["getTypeParser"],
};

export interface PostgresOptions {
  dsn: string;
  schema: string;
  applicationName: string;
  /** Told once an episode that other sessions hold locks that a statement waits for. */
  blocked?: (by: { pid: number; query: string }[]) => void;
}

const LOCK_NOT_AVAILABLE = "55P03";
const CONNECTION_FAILURE = "08006";

/** pg's own errors, of connections that end or are not made in time, are plain and have no code. */
function withCode(error: unknown): unknown {
  if (error instanceof Error && error.constructor === Error && !("code" in error)) {
    return Object.assign(error, { code: CONNECTION_FAILURE });
  }
  return error;
}

/** A server that does not answer cannot hold up a stop. */
const CLOSE_TIMEOUT_MS = 2_000;

/** One connection, on the stream's schema; statements are named, so each is planned once. */
export class Session implements AsyncDisposable {
  readonly #client: pg.Client;
  readonly #blocked: PostgresOptions["blocked"];
  #broken: Error | undefined;
  #inTransaction = false;

  private constructor(client: pg.Client, blocked: PostgresOptions["blocked"]) {
    this.#client = client;
    this.#blocked = blocked;
    client.on("error", (error) => this.#broken = error);
    client.on("end", () => this.#broken ??= new Error("the session with PostgreSQL has ended"));
  }

  /** @throws the error of pg or of the system, see lib/errors.ts `kindOf` */
  static async open(options: PostgresOptions): Promise<Session> {
    const client = new pg.Client({
      connectionString: options.dsn,
      application_name: options.applicationName,
      keepAlive: true,
      connectionTimeoutMillis: 10_000,
      types,
    });
    const session = new Session(client, options.blocked);
    try {
      await client.connect();
      // pg_temp last: a temporary table of that name must not stand in for one of ours
      await client.query(`set search_path to ${quoteIdentifier(options.schema)}, pg_temp`);
      await client.query("set client_min_messages to warning");
      await client.query("set jit to off");
      await client.query("set plan_cache_mode to force_generic_plan");
      // a plan that was made while a table was empty would read all of it ever after
      await client.query("set enable_seqscan to off");
      await client.query("set lock_timeout to '1s'");
    } catch (error) {
      await client.end().catch(() => {});
      throw withCode(error);
    }
    return session;
  }

  /** The server's process id of this session. */
  get pid(): number {
    return (this.#client as unknown as { processID: number }).processID;
  }

  get broken(): Error | undefined {
    return this.#broken;
  }

  /**
   * Runs one statement, prepared under `name`. Outside a transaction it is tried again where somebody else's lock stands
   * in its way: it has let go of its own locks meanwhile, so a reader's lock on the mirror holds up only the mirror.
   */
  async run<Row extends object = Record<string, unknown>>(
    name: string,
    text: string,
    values: unknown[] = [],
  ): Promise<Row[]> {
    for (let attempt = 0;; attempt++) {
      if (this.#broken) throw this.#broken;
      try {
        return (await this.#client.query<Row>({ name, text, values })).rows;
      } catch (error) {
        if ((error as { code?: string }).code !== LOCK_NOT_AVAILABLE || this.#inTransaction) {
          throw withCode(error);
        }
        if (attempt === 0) await this.#tellBlockers();
      }
    }
  }

  async #tellBlockers(): Promise<void> {
    const { rows } = await this.#client.query<{ pid: number; query: string }>(
      `select distinct a.pid, left(a.query, 200) as query from pg_locks l join pg_class c on c.oid = l.relation
       join pg_stat_activity a on a.pid = l.pid
       where c.relnamespace = (select oid from pg_namespace where nspname = current_schema()) and c.relname like 'etcd%'
         and l.granted and l.mode <> 'AccessShareLock' and l.pid <> pg_backend_pid() and a.application_name not like 'etcd-pg-sync%'`,
    );
    this.#blocked?.(rows);
  }

  /** Runs a script of statements without parameters. */
  async script(text: string): Promise<void> {
    await this.#client.query(text);
  }

  /** A transaction: committed when `work` returns, rolled back when it throws. */
  async transaction<T>(work: () => Promise<T>): Promise<T> {
    await this.#client.query("begin");
    this.#inTransaction = true;
    try {
      const result = await work();
      await this.#client.query("commit");
      return result;
    } catch (error) {
      await this.#client.query("rollback").catch(() => {});
      throw error;
    } finally {
      this.#inTransaction = false;
    }
  }

  /** A stream for COPY … FROM STDIN. */
  submit<T extends pg.Submittable>(stream: T): T {
    return this.#client.query(stream);
  }

  /** Calls `heard` for each notification on the channel. */
  async listen(channel: string, heard: (payload: string) => void): Promise<void> {
    this.#client.on("notification", (message) => {
      if (message.channel === channel) heard(message.payload ?? "");
    });
    await this.#client.query(`listen ${quoteIdentifier(channel)}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#broken ??= new Error("the session is closed");
    const closed = this.#client.end().catch(() => {});
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => timer = setTimeout(resolve, CLOSE_TIMEOUT_MS));
    await Promise.race([closed, late]);
    clearTimeout(timer);
    (this.#client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
  }
}

export function quoteIdentifier(name: string): string {
  return pg.escapeIdentifier(name);
}
