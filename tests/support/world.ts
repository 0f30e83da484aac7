/**
 * What a test has for itself: a database, a key prefix, and the program between them.
 *
 * ```ts
 * await using world = await makeWorld();
 * const program = world.program();
 * await world.etcd.put(world.key("a"), "1");
 * await eventually(async () => (await world.sql("select 1 from etcd")).length === 1);
 * ```
 *
 * The worlds share the servers and the program's own keys in etcd, so tests run one after another.
 */

import { EtcdDoor, parseEtcdDsn, prefixPath } from "./etcd.ts";
import { eventually } from "./eventually.ts";
import { type Row, Session } from "./postgres.ts";
import { Program, runProgram } from "./program.ts";

export { eventually, Hopeless } from "./eventually.ts";
export { type Bytes, EtcdDoor, type Event, type Kv, type Op } from "./etcd.ts";
export { type Row, Session } from "./postgres.ts";
export { type LogLine, Program } from "./program.ts";

export interface WorldOptions {
  /** A random one if not given; what is under it is deleted at the end, so "" and "/" empty the server */
  prefix?: string;
  schema?: string;
  /** Of the database; UTF8 if not given */
  encoding?: string;
}

/** Where the program keeps its own keys. */
const markers = "/_etcd-pg-sync/";

export class World implements AsyncDisposable {
  readonly prefix: string;
  readonly schema: string;
  readonly database: string;
  readonly postgresDsn: string;
  readonly etcdDsn: string;
  readonly etcd: EtcdDoor;
  readonly #session: Session;
  readonly #stack: AsyncDisposableStack;

  constructor(parts: Parts, stack: AsyncDisposableStack) {
    this.prefix = parts.prefix;
    this.schema = parts.schema;
    this.database = parts.database;
    this.postgresDsn = parts.postgresDsn;
    this.etcdDsn = parts.etcdDsn;
    this.etcd = parts.etcd;
    this.#session = stack.use(new Session(parts.postgresDsn));
    this.#stack = stack;
  }

  /** A key under the prefix. */
  key(name: string): string {
    return this.prefix + name;
  }

  /** One statement, as superuser, always in the same session. */
  sql(text: string, params?: unknown[]): Promise<Row[]> {
    return this.#session.sql(text, params);
  }

  /** Another session, of the superuser or of another role; it is closed with the world. */
  session(user?: string, password?: string): Session {
    const dsn = new URL(this.postgresDsn);
    if (user !== undefined) dsn.username = user;
    if (password !== undefined) dsn.password = password;
    return this.#stack.use(new Session(dsn.href));
  }

  /** Starts the program on this world; it is stopped with the world. */
  program(args: string[] = [], env: Record<string, string> = {}): Program {
    return this.#stack.use(new Program(["start", ...this.#flags(), "--log-format", "json", ...args], env));
  }

  /** Runs another command of the program (`status`, `validate` …) to its end. */
  run(command: string, args: string[] = [], env: Record<string, string> = {}) {
    return runProgram([command, ...this.#flags(), ...args], env);
  }

  /** The same with another etcd server, or another PostgreSQL; what is there is left as it is. */
  on(servers: { dsn?: string; etcd?: EtcdDoor; postgresDsn?: string }): World {
    const { prefix, schema, database } = this;
    const parts = {
      prefix,
      schema,
      database,
      postgresDsn: servers.postgresDsn ?? this.postgresDsn,
      etcdDsn: servers.dsn ? withPrefix(servers.dsn, prefix) : this.etcdDsn,
      etcd: servers.etcd ?? this.etcd,
    };
    return new World(parts, new AsyncDisposableStack());
  }

  /** The stream's row of `etcd_sync_state`. */
  async state(stream = "default"): Promise<Row | undefined> {
    const [row] = await this.sql(`select * from "${this.schema}".etcd_sync_state where stream = $1`, [
      stream,
    ]);
    return row;
  }

  /** Waits for the state, and returns the row. */
  untilState(name: string, timeoutMs?: number, stream?: string): Promise<Row> {
    return eventually(async () => {
      const row = await this.state(stream);
      if (row?.state === name) return row;
      throw new Error(`state is '${row?.state}', wanted '${name}'`);
    }, { timeoutMs });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }

  #flags(): string[] {
    const schema = this.schema === "public" ? [] : ["--schema", this.schema];
    return ["--postgres-dsn", this.postgresDsn, "--etcd-dsn", this.etcdDsn, ...schema];
  }
}

interface Parts {
  prefix: string;
  schema: string;
  database: string;
  postgresDsn: string;
  etcdDsn: string;
  etcd: EtcdDoor;
}

export async function makeWorld(options: WorldOptions = {}): Promise<World> {
  const random = crypto.randomUUID().slice(0, 8);
  const prefix = options.prefix ?? `/w${random}/`;
  await using stack = new AsyncDisposableStack();
  const server = given("ETCD_PG_SYNC_TEST_ETCD");
  const etcd = stack.use(new EtcdDoor(server));
  await clearEtcd(etcd, prefix);
  stack.defer(() => clearEtcd(etcd, prefix));
  const database = `w${random}`;
  const postgresDsn = await makeDatabase(database, options.encoding ?? "UTF8", stack);
  const etcdDsn = withPrefix(server, prefix);
  const schema = options.schema ?? "public";
  return new World({ prefix, schema, database, postgresDsn, etcdDsn, etcd }, stack.move());
}

async function clearEtcd(etcd: EtcdDoor, prefix: string): Promise<void> {
  await etcd.deletePrefix(prefix);
  await etcd.deletePrefix(markers);
}

async function makeDatabase(name: string, encoding: string, stack: AsyncDisposableStack): Promise<string> {
  const admin = stack.use(new Session(given("ETCD_PG_SYNC_TEST_POSTGRES")));
  await admin.sql(`create database ${name} template template0 encoding '${encoding}' locale 'C'`);
  stack.defer(async () => void await admin.sql(`drop database ${name} with (force)`));
  const dsn = new URL(admin.dsn);
  dsn.pathname = `/${name}`;
  return dsn.href;
}

/** The server's DSN with another path. */
function withPrefix(dsn: string, prefix: string): string {
  const { path } = parseEtcdDsn(dsn);
  const [address, query] = dsn.split("?");
  const server = address.slice(0, address.length - path.length);
  return server + prefixPath(prefix) + (query ? `?${query}` : "");
}

function given(name: string): string {
  const value = Deno.env.get(name);
  if (value) return value;
  throw new Error(`Cannot make a world: ${name} is not set, run the tests by 'deno task test [files]'`);
}
