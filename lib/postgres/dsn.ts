/** PostgreSQL's DSN as libpq reads it (its manual, "Connection Strings"): several hosts, `PG*` variables, TLS. */
import { isIP } from "node:net";

/** One server to try. */
export interface PostgresHost {
  /** A name, an address, or the folder of a unix socket. */
  host: string;
  port: number;
}

export const SSL_MODES = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const;
export type SslMode = (typeof SSL_MODES)[number];

/** Where to connect, and how. */
export interface PostgresTarget {
  /** Tried in this order. */
  hosts: PostgresHost[];
  user: string;
  database: string;
  /** undefined: the password file tells. */
  password: string | undefined;
  /** For one host. */
  connectTimeoutMs: number;
  /** Paths are read at each connection, so a renewed file counts. */
  tls: { mode: SslMode; rootCert?: string; cert?: string; key?: string };
  /** Command-line options for the server. */
  options: string | undefined;
}

/** What a DSN's query may say, and the variable that stands for it. */
const PARAMETERS: Record<string, string> = {
  host: "PGHOST",
  port: "PGPORT",
  user: "PGUSER",
  password: "PGPASSWORD",
  dbname: "PGDATABASE",
  connect_timeout: "PGCONNECT_TIMEOUT",
  sslmode: "PGSSLMODE",
  sslrootcert: "PGSSLROOTCERT",
  sslcert: "PGSSLCERT",
  sslkey: "PGSSLKEY",
  target_session_attrs: "PGTARGETSESSIONATTRS",
  options: "PGOPTIONS",
};

/** What libpq's variables say of a connection. */
export const POSTGRES_VARIABLES: readonly string[] = [...Object.values(PARAMETERS), "PGPASSFILE"];

const DEFAULT_CONNECT_SECONDS = "10";
const SHAPE = "wanted postgres://user@host:port[,host:port]/database";

type Wrong = (what: string) => never;

/**
 * Reads a DSN; what it leaves open the environment says.
 * @param wrong is told what is wrong, in words without a secret
 */
export function readTarget(
  dsn: string,
  env: (name: string) => string | undefined,
  wrong: Wrong = (what) => {
    throw new TypeError(`Cannot read the DSN of PostgreSQL: ${what}`);
  },
): PostgresTarget {
  const given = readParts(dsn, wrong);
  const value = (name: string) => given[name] || env(PARAMETERS[name]) || undefined;
  const user = value("user") ?? env("USER") ?? "postgres";
  mustTakeWrites(value("target_session_attrs"), wrong);
  return {
    hosts: readHosts(value("host") ?? "localhost", value("port") ?? "5432", wrong),
    user,
    database: value("dbname") ?? user,
    password: value("password"),
    connectTimeoutMs: readSeconds(value("connect_timeout") ?? DEFAULT_CONNECT_SECONDS, wrong) * 1_000,
    tls: readTls(value, wrong),
    options: value("options"),
  };
}

/** Not by URL: several hosts are none. */
function readParts(dsn: string, wrong: Wrong): Record<string, string> {
  const parts = /^([a-z][a-z0-9+.-]*):\/\/(?:([^@/?]*)@)?([^/?@]*)(?:\/([^?]*))?(?:\?(.*))?$/is.exec(dsn);
  if (!parts) wrong(SHAPE);
  const [, scheme, login, hosts, database, query] = parts;
  if (scheme !== "postgres" && scheme !== "postgresql") wrong("scheme must be 'postgres' or 'postgresql'");
  // else a password that is not encoded would be taken for a host and a database, and shown
  if (database?.includes("@")) wrong("an '@' in the password or the database must be written '%40'");
  const [user, password] = (login ?? "").split(/:(.*)/s);
  const given: Record<string, string> = {
    user: decode(user, wrong),
    password: decode(password ?? "", wrong),
    dbname: decode(database ?? "", wrong),
    ...splitHosts(hosts, wrong),
  };
  for (const [name, text] of readQuery(query ?? "", wrong)) {
    if (!(name in PARAMETERS)) {
      // one that does not look like a name can be a part of a password
      const which = /^[a-z_]{1,30}$/i.test(name) ? `'${name}'` : "one";
      wrong(`parameters are ${Object.keys(PARAMETERS).join(", ")}; ${which} is unknown`);
    }
    given[name] = text;
  }
  return given;
}

/** `+` stands for itself, as in libpq. */
function readQuery(query: string, wrong: Wrong): [name: string, value: string][] {
  return query.split("&").filter((pair) => pair !== "").map((pair) => {
    const [name, value = ""] = pair.split(/=(.*)/s);
    return [decode(name, wrong), decode(value, wrong)];
  });
}

function decode(text: string, wrong: Wrong): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return wrong("it must be percent-encoded UTF-8");
  }
}

/** `host:port,host:port` as libpq's two lists. */
function splitHosts(text: string, wrong: Wrong): { host: string; port: string } {
  if (text === "") return { host: "", port: "" };
  const parts = text.split(",").map((part) => {
    const match = /^(\[[0-9a-f:.%]+\]|[^:[\]]*)(?::(\d*))?$/i.exec(part);
    return match ?? wrong(SHAPE); // the host is not quoted: it can be a part of a password
  });
  return {
    host: parts.map(([, host]) => decode(host.replace(/^\[(.*)\]$/, "$1"), wrong)).join(","),
    port: parts.map(([, , port]) => port ?? "").join(","),
  };
}

function readHosts(hostList: string, portList: string, wrong: Wrong): PostgresHost[] {
  const hosts = hostList.split(",");
  const ports = portList.split(",");
  if (ports.length !== 1 && ports.length !== hosts.length) {
    wrong(`wanted one port, or one for each of ${hosts.length} hosts, got ${ports.length}`);
  }
  return hosts.map((host, i) => ({
    host: host || "localhost",
    port: readPort((ports.length === 1 ? ports[0] : ports[i]) || "5432", wrong),
  }));
}

function readPort(text: string, wrong: Wrong): number {
  const port = Number(text);
  if (!/^\d+$/.test(text) || port < 1 || port > 65_535) wrong(`port must be from 1 to 65535, got '${text}'`);
  return port;
}

function readSeconds(text: string, wrong: Wrong): number {
  if (!/^\d{1,6}$/.test(text)) wrong(`connect_timeout must be a number of seconds, got '${text}'`);
  return Number(text);
}

/** The program writes, so a server that does not is of no use to it, whatever libpq's other values would allow. */
function mustTakeWrites(attrs: string | undefined, wrong: Wrong): void {
  if (attrs === undefined || ["any", "read-write", "primary", "prefer-standby"].includes(attrs)) return;
  if (attrs === "read-only" || attrs === "standby") {
    wrong(`target_session_attrs must name a server that takes writes, got '${attrs}'`);
  }
  wrong(`target_session_attrs must be 'any', 'read-write', 'primary' or 'prefer-standby', got '${attrs}'`);
}

/** Who gives certificates wants them used: without a mode they mean 'verify-full'. */
function readTls(value: (name: string) => string | undefined, wrong: Wrong): PostgresTarget["tls"] {
  const files = { rootCert: value("sslrootcert"), cert: value("sslcert"), key: value("sslkey") };
  const asked = Object.values(files).some((file) => file !== undefined);
  const mode = value("sslmode") ?? (asked ? "verify-full" : "prefer");
  if (!SSL_MODES.some((known) => known === mode)) {
    wrong(`sslmode must be one of ${SSL_MODES.map((m) => `'${m}'`).join(", ")}, got '${mode}'`);
  }
  if ((files.cert === undefined) !== (files.key === undefined)) wrong("sslcert and sslkey go together");
  return { mode: mode as SslMode, ...files };
}

/** A host as messages show it. */
export function hostText({ host, port }: PostgresHost): string {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}

export function isSocket({ host }: PostgresHost): boolean {
  return host.startsWith("/");
}
