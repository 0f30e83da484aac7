/** Connecting: the hosts of a DSN in their order, with TLS or without, up to one that takes writes. */
import { Buffer } from "node:buffer";
import { isIP } from "node:net";
import tls from "node:tls";
// @ts-types="@types/pg"
import pg from "pg";
// @ts-types="./pgpass.d.ts"
import pgpass from "pgpass";
import { Fatal, isSystemError, kindOf, sentence } from "../errors.ts";
import { hostText, isSocket, type PostgresHost, type PostgresTarget } from "./dsn.ts";

/** No session, or one that has ended without an answer. `code` is a SQLSTATE, see lib/errors.ts. */
export class ConnectionError extends Error {
  constructor(message: string, options?: ErrorOptions, readonly code = "08006") {
    super(message, options);
    this.name = "ConnectionError";
  }
}

const READ_ONLY = "25006";
const NO_PASSWORD = "28P01";
const SQLSTATE = /^[0-9A-Z]{5}$/;

export interface Connected {
  client: pg.Client;
  host: PostgresHost;
}

/**
 * A connection to the first host that answers in time and takes writes. One that refuses the user is not passed over, as
 * in libpq: the next would get the password too.
 * @param first is tried before the others: the one that was right the last time
 * @throws {ConnectionError} no host takes writes, or there is no password
 * @throws {Fatal} a pooler stands in between
 */
export async function connect(
  target: PostgresTarget,
  config: pg.ClientConfig,
  first?: PostgresHost,
): Promise<Connected> {
  const failures: { host: PostgresHost; error: unknown }[] = [];
  for (const host of inOrder(target.hosts, first)) {
    try {
      return { client: await connectTo(host, target, config), host };
    } catch (error) {
      if (target.hosts.length === 1 || error instanceof Fatal || kindOf(error) !== "connection") throw error;
      failures.push({ host, error });
    }
  }
  const reasons = failures.map(({ host, error }) => {
    const reason = sentence(error);
    return reason.includes(hostText(host)) ? reason : `'${hostText(host)}': ${reason}`;
  });
  throw new ConnectionError(`none of the hosts takes writes: ${reasons.join("; ")}`, undefined, "08001");
}

function inOrder(hosts: PostgresHost[], first?: PostgresHost): PostgresHost[] {
  const same = hosts.filter((h) => h.host === first?.host && h.port === first.port);
  return [...same, ...hosts.filter((h) => !same.includes(h))];
}

async function connectTo(
  host: PostgresHost,
  target: PostgresTarget,
  config: pg.ClientConfig,
): Promise<pg.Client> {
  const ways = isSocket(host) ? [false] : WAYS[target.tls.mode];
  for (const [i, withTls] of ways.entries()) {
    try {
      return await connectOnce(host, target, { ...config, ssl: withTls && tlsOptions(host, target.tls) });
    } catch (error) {
      if (i === ways.length - 1 || !mayTryOtherWay(error)) throw error;
    }
  }
  throw new Error("unreachable");
}

/** With TLS or without, in the order in which libpq tries them. */
const WAYS = {
  disable: [false],
  allow: [false, true],
  prefer: [true, false],
  require: [true],
  "verify-ca": [true],
  "verify-full": [true],
};

/** The server has no TLS, or its pg_hba.conf wants the other; not a server that is away. */
function mayTryOtherWay(error: unknown): boolean {
  if (error instanceof Fatal || isSystemError(error)) return false;
  const { code } = error as { code?: string };
  return code === undefined || code.startsWith("28") || error instanceof ConnectionError && code === "08006";
}

async function connectOnce(
  host: PostgresHost,
  target: PostgresTarget,
  config: pg.ClientConfig,
): Promise<pg.Client> {
  const client = new pg.Client({
    ...config,
    ...host,
    user: target.user,
    database: target.database,
    password: target.password ?? (() => passwordFromFile(host, target)),
    options: target.options,
    connectionTimeoutMillis: 0, // pg's own says nothing that could be told from another error
  });
  client.on("error", () => {}); // what breaks meanwhile reaches the query
  const late = withTimeout(client, target.connectTimeoutMs);
  try {
    await client.connect();
    await checkServer(client, host);
    client.removeAllListeners("error");
    return client;
  } catch (error) {
    destroy(client);
    throw asConnectionError(error);
  } finally {
    clearTimeout(late);
  }
}

function withTimeout(client: pg.Client, ms: number): ReturnType<typeof setTimeout> | undefined {
  if (ms === 0) return undefined;
  return setTimeout(() => {
    const error = new Error(`no answer within ${ms / 1_000} s`);
    destroy(client, Object.assign(error, { code: "ETIMEDOUT" }));
  }, ms);
}

/** Ends a connection without a word to the server; `error` reaches whoever waits. */
export function destroy(client: pg.Client, error?: Error): void {
  const { connection } = client as unknown as {
    connection: { stream: { destroy(error?: Error): void; on(event: "error", f: () => void): void } };
  };
  connection.stream.on("error", () => {});
  connection.stream.destroy(error);
}

function asConnectionError(error: unknown): unknown {
  const { code } = error as { code?: unknown };
  const known = error instanceof Fatal || isSystemError(error) ||
    typeof code === "string" && SQLSTATE.test(code);
  return known ? error : new ConnectionError(sentence(error), { cause: error });
}

/**
 * A pooler makes up the process id that it greets a client with. Behind one, settings, locks, LISTEN and prepared
 * statements can be another session's from one transaction to the next, which nothing here would notice; whether it
 * pools by session cannot be asked. So it comes first, before anything is set.
 */
async function checkServer(client: pg.Client, host: PostgresHost): Promise<void> {
  const { rows: [server] } = await client.query<{ pid: number; standby: boolean; read_only: boolean }>(
    `select pg_backend_pid() as pid, pg_is_in_recovery() as standby,
       current_setting('transaction_read_only') = 'on' as read_only`,
  );
  const where = hostText(host);
  if (server.pid !== processId(client)) {
    throw new Fatal(
      "EPS-107",
      `Cannot use PostgreSQL at '${where}': a connection pooler (such as PgBouncer) answers there, and a session ` +
        "would not keep its settings, locks and notifications; give the server's own address",
    );
  }
  if (!server.standby && !server.read_only) return;
  const what = server.standby ? "is a standby" : "is read-only (default_transaction_read_only)";
  throw new ConnectionError(`'${where}' ${what}, wanted a server that takes writes`, undefined, READ_ONLY);
}

/** The process id as the greeting gave it. */
export function processId(client: pg.Client): number {
  return (client as unknown as { processID: number }).processID;
}

/** From PGPASSFILE or ~/.pgpass, read at each connection. */
async function passwordFromFile(host: PostgresHost, target: PostgresTarget): Promise<string> {
  const { user, database } = target;
  const password = await new Promise<string | undefined>((resolve) =>
    pgpass({ ...host, user, database }, resolve)
  );
  if (password !== undefined) return password;
  throw new ConnectionError(
    `'${
      hostText(host)
    }' asks for a password of user '${user}'; give one in the DSN, in PGPASSWORD or in the ` +
      "password file (PGPASSFILE, else ~/.pgpass)",
    undefined,
    NO_PASSWORD,
  );
}

/** What `sslmode` means: 'require' verifies only where a root certificate is given, as in libpq. */
function tlsOptions(host: PostgresHost, { mode, rootCert, cert, key }: PostgresTarget["tls"]) {
  const files = {
    ...(rootCert && rootCert !== "system" && { ca: readPem("sslrootcert", rootCert) }),
    ...(cert && { cert: readPem("sslcert", cert) }),
    ...(key && { key: readPem("sslkey", key) }),
  };
  if (mode === "verify-full") return { ...files, ...(isIP(host.host) && identityOf(host.host)) };
  if (mode === "verify-ca" || mode === "require" && rootCert) {
    return { ...files, checkServerIdentity: () => undefined };
  }
  return { ...files, rejectUnauthorized: false };
}

/** An address has no server name to be sent, and is looked up among the certificate's addresses. */
function identityOf(address: string) {
  return {
    checkServerIdentity: (_: string, cert: tls.PeerCertificate) => tls.checkServerIdentity(address, cert),
  };
}

function readPem(name: string, path: string): string {
  try {
    return Buffer.from(Deno.readFileSync(path)).toString();
  } catch (error) {
    throw new ConnectionError(`${name} '${path}' cannot be read (${(error as Error).name})`, {
      cause: error,
    });
  }
}
