/** Sessions with PostgreSQL. */
// @ts-types="@types/pg"
import pg from "pg";
import { once } from "node:events";
import { type Duplex, Readable, type Writable } from "node:stream";
import { setImmediate as nextTurn } from "node:timers/promises";
import { connect, ConnectionError, destroy, processId } from "./connect.ts";
import { type PostgresHost, readTarget } from "./dsn.ts";

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
  /** See lib/postgres/dsn.ts. */
  dsn: string;
  schema: string;
  applicationName: string;
  /** Told once an episode that other sessions hold locks that a statement waits for. */
  blocked?: (by: { pid: number; query: string }[]) => void;
  /** How long a statement may take, if not 30 s. */
  statementSeconds?: number;
  /** Commits are answered before they are on disk, see lib/flow/lead.ts. */
  flushLater?: boolean;
  /** The host that took writes the last time; set by `Session.open`, which tries it first. */
  lastHost?: PostgresHost;
}

const LOCK_NOT_AVAILABLE = "55P03";
/** A server that does not answer cannot hold up a stop. */
const CLOSE_TIMEOUT_MS = 2_000;

/**
 * How long a statement may take. The server ends it first and says so; where nothing is heard then either, the
 * connection is dead, whatever TCP believes. Migrations and repairs are patient.
 */
const STATEMENT_SECONDS = 30;
const PATIENT_SECONDS = 3_600;
const ANSWER_SECONDS = 5;

/** Settings of each session. The server drops a client that is gone, and with it the client's locks. */
function settings(schema: string, statementSeconds: number): string {
  return `
    -- pg_temp last: a temporary table of that name must not stand in for one of ours
    set search_path to ${quoteIdentifier(schema)}, pg_temp;
    set client_min_messages to warning;
    set default_transaction_isolation to 'read committed';
    set jit to off;
    set plan_cache_mode to force_generic_plan;
    -- a plan that was made while a table was empty would read all of it ever after
    set enable_seqscan to off;
    set lock_timeout to '1s';
    set statement_timeout to '${statementSeconds}s';
    set idle_in_transaction_session_timeout to '10s';
    set tcp_user_timeout to '15s';
    set tcp_keepalives_idle to 10;
    set tcp_keepalives_interval to 5;
    set tcp_keepalives_count to 2;`;
}

/** What was asked for beyond the default, replicas that have applied it for example, stays. */
const FLUSH_LATER = `select set_config('synchronous_commit', 'off', false)
  where current_setting('synchronous_commit') in ('on', 'local');`;

/** One connection, on the stream's schema; statements are named, so each is planned once. */
export class Session implements AsyncDisposable {
  readonly #client: pg.Client;
  readonly #blocked: PostgresOptions["blocked"];
  #broken: Error | undefined;
  #inTransaction = false;
  readonly #statementSeconds: number;
  /** undefined: as long as any other statement. */
  #patience: number | undefined;
  #underWay = 0;

  private constructor(client: pg.Client, { blocked, statementSeconds = STATEMENT_SECONDS }: PostgresOptions) {
    this.#client = client;
    this.#blocked = blocked;
    this.#statementSeconds = statementSeconds;
    client.on("error", (error) => this.#broken ??= lost(error));
    client.on("end", () => this.#broken ??= new ConnectionError("the session with PostgreSQL has ended"));
  }

  /** @throws the error of pg or of the system, see lib/errors.ts `kindOf` */
  static async open(options: PostgresOptions): Promise<Session> {
    const { client, host } = await connect(
      readTarget(options.dsn, (name) => Deno.env.get(name)),
      {
        application_name: options.applicationName,
        keepAlive: true,
        keepAliveInitialDelayMillis: 10_000,
        types,
      },
      options.lastHost,
    );
    options.lastHost = host;
    const session = new Session(client, options);
    try {
      await session.script(settings(options.schema, session.#statementSeconds));
      if (options.flushLater) await session.script(FLUSH_LATER);
    } catch (error) {
      await session[Symbol.asyncDispose]();
      throw error;
    }
    return session;
  }

  /** The server's process id of this session. */
  get pid(): number {
    return processId(this.#client);
  }

  get broken(): Error | undefined {
    return this.#broken;
  }

  /** A statement or a transaction is under way. */
  get busy(): boolean {
    return this.#inTransaction || this.#underWay > 0;
  }

  /** Gives the connection up: whoever waits for an answer gets `reason`, and has lost the answer. */
  abandon(reason: Error): void {
    this.#broken ??= reason;
    destroy(this.#client, reason);
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
    const statement = async () => (await this.#query<Row>({ name, text, values })).rows;
    return this.#inTransaction ? await statement() : await this.#unlocked(statement);
  }

  /** As `run`, once; null: a lock stood in its way for a second. */
  async attempt<Row extends object>(name: string, text: string, values: unknown[]): Promise<Row[] | null> {
    try {
      return (await this.#query<Row>({ name, text, values })).rows;
    } catch (error) {
      if (!isLocked(error)) throw error;
      return null;
    }
  }

  async #unlocked<T>(work: () => Promise<T>): Promise<T> {
    for (let told = false;;) {
      try {
        return await work();
      } catch (error) {
        if (!isLocked(error)) throw error;
      }
      if (told || !this.#blocked) continue;
      const by = await this.blockers();
      if (by.length > 0) this.#blocked(by); // else it is another commit of this stream's
      told = by.length > 0;
    }
  }

  /** @throws {ConnectionError} there was no answer: what was asked may have been done */
  async #query<Row extends object>(query: string | pg.QueryConfig): Promise<pg.QueryResult<Row>> {
    if (this.#broken) throw this.#broken;
    const deadline = this.#deadline();
    this.#underWay++;
    try {
      // pg's own promise has a closure that holds the query, with its values and rows; V8 takes closures for alive until it
      // collects everything, so its small collections took ten times as long (Deno 2.6 and 2.9, V8 14)
      return await new Promise((resolve, reject) =>
        this.#client.query<Row>(
          query as pg.QueryConfig,
          (error: Error | null, result) => error ? reject(error) : resolve(result),
        )
      );
    } catch (error) {
      // a connection that broke before this session listened to its errors says so now
      throw error instanceof pg.DatabaseError ? error : this.#broken ?? lost(error as Error);
    } finally {
      this.#underWay--;
      clearTimeout(deadline);
    }
  }

  #deadline(): ReturnType<typeof setTimeout> {
    const seconds = (this.#patience ?? this.#statementSeconds) + ANSWER_SECONDS;
    const late = () => this.abandon(new ConnectionError(`no answer from PostgreSQL within ${seconds} s`));
    return setTimeout(late, seconds * 1_000);
  }

  /** The sessions of others that have locks on the stream's tables. */
  async blockers(): Promise<{ pid: number; query: string }[]> {
    const { rows } = await this.#query<{ pid: number; query: string }>(
      `select distinct a.pid, left(a.query, 200) as query from pg_locks l join pg_class c on c.oid = l.relation
       join pg_stat_activity a on a.pid = l.pid
       where c.relnamespace = (select oid from pg_namespace where nspname = current_schema()) and c.relname like 'etcd%'
         and l.granted and l.mode <> 'AccessShareLock' and l.pid <> pg_backend_pid() and a.application_name not like 'etcd-pg-sync%'`,
    );
    return rows;
  }

  /** Runs a script of statements without parameters. */
  async script(text: string): Promise<void> {
    await this.#query(text);
  }

  /**
   * A transaction: committed when `work` returns, rolled back when it throws. A patient one may take its time: its
   * statements grow with what the schema holds, or with what they are given. `again`: where a lock stands in its way it
   * is run again, as a statement outside of one is.
   */
  async transaction<T>(work: () => Promise<T>, { patient = false, again = false } = {}): Promise<T> {
    const once = () => this.#transaction(work, patient);
    return again ? await this.#unlocked(once) : await once();
  }

  async #transaction<T>(work: () => Promise<T>, patient: boolean): Promise<T> {
    if (patient) this.#patience = PATIENT_SECONDS;
    this.#inTransaction = true;
    try {
      await this.#query("begin");
      if (patient) await this.#query(`set local statement_timeout to '${PATIENT_SECONDS}s'`);
      const result = await work();
      await this.#query("commit");
      return result;
    } catch (error) {
      await this.#query("rollback").catch(() => {});
      throw error;
    } finally {
      this.#inTransaction = false;
      this.#patience = undefined;
    }
  }

  /** A stream for COPY … FROM STDIN, or COPY … TO STDOUT. */
  submit<T extends pg.Submittable & { once(event: "close", done: () => void): unknown }>(stream: T): T {
    const deadline = this.#deadline();
    stream.once("close", () => clearTimeout(deadline));
    // Deno's pause, unlike node's, also stops a read that waits, and nobody starts it again where the socket is read by hand
    // (pg-copy-streams): an idle session would wait for ever
    this.#socket.pause = Readable.prototype.pause as Duplex["pause"];
    return this.#client.query(stream);
  }

  /** Writes to a stream of `submit`, until it has left for the system, or the session is broken. */
  async send(stream: Writable, chunk: Uint8Array): Promise<void> {
    await new Promise<void>((resolve) => stream.write(chunk, () => resolve()));
    // a small chunk drains without a word; TLS takes its time for it
    while (this.#socket.writableLength > 0 && !this.#socket.destroyed) {
      await (this.#socket.writableNeedDrain ? once(this.#socket, "drain") : nextTurn());
    }
  }

  get #socket(): Duplex {
    return (this.#client as unknown as { connection: { stream: Duplex } }).connection.stream;
  }

  /** Calls `heard` for each notification on the channel. */
  async listen(channel: string, heard: (payload: string) => void): Promise<void> {
    this.#client.on("notification", (message) => {
      if (message.channel === channel) heard(message.payload ?? "");
    });
    await this.#query(`listen ${quoteIdentifier(channel)}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const open = this.#broken === undefined;
    this.#broken ??= new ConnectionError("the session is closed");
    if (open) {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const late = new Promise<void>((resolve) => timer = setTimeout(resolve, CLOSE_TIMEOUT_MS));
      await Promise.race([this.#client.end().catch(() => {}), late]);
      clearTimeout(timer);
    }
    destroy(this.#client);
  }
}

function isLocked(error: unknown): boolean {
  return (error as { code?: string }).code === LOCK_NOT_AVAILABLE;
}

/** What pg says without a code, and as no kind of its own, when a connection ends. */
function lost(error: Error): Error {
  return (error as { code?: string }).code === undefined && error.name === "Error"
    ? new ConnectionError(error.message, { cause: error })
    : error;
}

export function quoteIdentifier(name: string): string {
  return pg.escapeIdentifier(name);
}
