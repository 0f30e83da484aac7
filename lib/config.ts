/** What the program was asked to do: flags, then environment. */
import { asText, concat, keyText } from "./core/codec.ts";
import { Fatal } from "./errors.ts";
import type { EtcdOptions } from "./etcd/client.ts";
import type { Address } from "./pages.ts";
import { readTarget } from "./postgres/dsn.ts";
import { LOG_FORMATS, LOG_LEVELS, type LogOptions } from "./log.ts";
import type { Retention } from "./postgres/keep.ts";
import type { StreamIdentity } from "./postgres/state.ts";

/** The flags of `start`, as text. */
export interface StartFlags {
  postgresDsn?: string;
  etcdDsn?: string;
  stream: string;
  schema: string;
  logLevel: string;
  logFormat: string;
  maxTxnOps: string;
  rescanAfter: string;
  oversize: string;
  maxDeletes: string;
  freshTimeout: string;
  walRetention: string;
  historyRetention: string;
  eventRetention: string;
  walLimit: string;
  listen?: string;
  oneWay?: boolean;
}

/** Where a stream lives in PostgreSQL. */
export interface StreamPlace {
  postgresDsn: string;
  stream: string;
  schema: string;
}

export interface Config extends StreamPlace {
  etcd: EtcdOptions;
  prefix: Uint8Array;
  log: LogOptions;
  maxTxnOps: number;
  /** null = never. */
  rescanAfter: number | null;
  refuseOversize: boolean;
  maxDeletes: number;
  freshTimeoutMs: number;
  retention: Retention;
  /** null = never. */
  walLimit: number | null;
  /** null = no pages. */
  listen: Address | null;
  oneWay: boolean;
}

function wrong(name: string, value: string, wanted: string): never {
  throw new Fatal("configuration", `Cannot read '${name}': ${wanted}, got '${value}'`);
}

/** @throws {Fatal} one line that names the setting, quotes the value (unless it holds a secret) and says what is wanted */
export function readConfig(flags: StartFlags): Config {
  const { etcd, prefix } = readEtcdDsn(required("etcd-dsn", flags.etcdDsn));
  return {
    ...readStreamPlace(flags),
    etcd,
    prefix,
    log: readLog(flags),
    maxTxnOps: readInteger("max-txn-ops", flags.maxTxnOps, 2, 10_000),
    rescanAfter: flags.rescanAfter === "never"
      ? null
      : readInteger("rescan-after", flags.rescanAfter, 0, Number.MAX_SAFE_INTEGER),
    refuseOversize: oneOf("oversize", flags.oversize, ["split", "refuse"] as const) === "refuse",
    maxDeletes: readInteger("max-deletes", flags.maxDeletes, 0, 2 ** 31 - 1),
    freshTimeoutMs: readDuration("fresh-timeout", flags.freshTimeout),
    retention: {
      walMs: readRetention("wal-retention", flags.walRetention),
      historyMs: readRetention("history-retention", flags.historyRetention),
      eventMs: readRetention("event-retention", flags.eventRetention),
    },
    walLimit: flags.walLimit === "never"
      ? null
      : readInteger("wal-limit", flags.walLimit, 1_000, Number.MAX_SAFE_INTEGER),
    listen: flags.listen ? readAddress("listen", flags.listen) : null,
    oneWay: flags.oneWay ?? false,
  };
}

/** For a command that needs no etcd. @throws {Fatal} as readConfig */
export function readStreamPlace(flags: Pick<StartFlags, "postgresDsn" | "stream" | "schema">): StreamPlace {
  return {
    postgresDsn: readPostgresDsn(flags.postgresDsn),
    stream: readName("stream", flags.stream),
    schema: readName("schema", flags.schema),
  };
}

export function readLog(flags: Pick<StartFlags, "logLevel" | "logFormat">): LogOptions {
  return {
    level: oneOf("log-level", flags.logLevel, LOG_LEVELS),
    format: oneOf("log-format", flags.logFormat, LOG_FORMATS),
  };
}

/** The variable that stands for a flag. */
export function environmentName(flag: string): string {
  return `ETCD_PG_SYNC_${flag.toUpperCase().replaceAll("-", "_")}`;
}

function required(name: string, value: string | undefined): string {
  if (value) return value;
  throw new Fatal(
    "configuration",
    `Cannot start without '${name}': give --${name}, or ${
      environmentName(name)
    } in the environment, or try --embedded`,
  );
}

function readInteger(name: string, value: string, least: number, most: number): number {
  const number = Number(value);
  if (!/^\d+$/.test(value) || number < least || number > most) {
    wrong(name, value, `wanted an integer from ${least} to ${most}`);
  }
  return number;
}

const UNIT_MS: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds. */
function readDuration(name: string, value: string): number {
  const match = /^([1-9]\d{0,4})([smhd])$/.exec(value);
  if (!match) wrong(name, value, "wanted a duration such as '30s', '15m', '12h' or '7d'");
  return Number(match[1]) * UNIT_MS[match[2]];
}

/** Milliseconds; null = never. */
function readRetention(name: string, value: string): number | null {
  return value === "never" ? null : readDuration(name, value);
}

/** `host:port`; without a host it is this machine's own. */
function readAddress(name: string, value: string): Address {
  const match = /^(?:(?:\[([0-9a-f:.]+)\]|([^:@/\s\[\]]*)):)?(\d{1,5})$/i.exec(value);
  const port = Number(match?.[3]);
  if (!match || port < 1 || port > 65_535) {
    wrong(name, value, "wanted host:port, such as '127.0.0.1:9187', or ':9187'");
  }
  return { hostname: match[1] ?? (match[2] || "127.0.0.1"), port };
}

function oneOf<T extends string>(name: string, value: string, choices: readonly T[]): T {
  return choices.find((choice) => choice === value) ??
    wrong(name, value, `wanted one of ${choices.map((c) => `'${c}'`).join(", ")}`);
}

/** PostgreSQL cuts longer identifiers. */
function readName(name: string, value: string): string {
  if (value === "" || new TextEncoder().encode(value).length > 63 || value.includes("\0")) {
    wrong(name, value, "wanted 1 to 63 bytes");
  }
  return value;
}

/** Checked here, so that a mistake is found at once; what `PG*` variables say is read with each connection. */
function readPostgresDsn(dsn: string | undefined): string {
  const given = dsn || (Deno.env.get("PGHOST") ? "postgres://" : required("postgres-dsn", dsn));
  readTarget(
    given,
    (name) => Deno.env.get(name),
    (what) => wrong("postgres-dsn", withoutSecrets(given), what),
  );
  return given;
}

/** `etcd://[user:pass@]host:port[,host:port]/prefix?tls=…&cacert=…&cert=…&key=…` */
export function readEtcdDsn(dsn: string): { etcd: EtcdOptions; prefix: Uint8Array } {
  // not by URL: several hosts are none, and it would resolve `..` in the prefix and cut it at `#`
  const parts = /^([a-z0-9+.-]+):\/\/(?:([^@/]*)@)?([^/?]*)([^?]*)(?:\?(.*))?$/is.exec(dsn);
  if (!parts) wrong("etcd-dsn", withoutSecrets(dsn), "wanted etcd://host:port[,host:port]/prefix");
  const [, scheme, login, hosts, path, query] = parts;
  if (scheme !== "etcd") wrongIn(dsn, `scheme must be 'etcd', got '${scheme}'`);
  const endpoints = hosts.split(",").map((host) => endpoint(host, dsn));
  const [user, password] = login === undefined
    ? []
    : login.split(/:(.*)/s).map((part) => decodeLogin(part, dsn));
  return {
    etcd: { endpoints, user, password, tls: readTls(new URLSearchParams(query), dsn) },
    prefix: readPrefix(path, dsn),
  };
}

function wrongIn(dsn: string, what: string): never {
  throw new Fatal("configuration", `Cannot read 'etcd-dsn': ${what} in '${withoutSecrets(dsn)}'`);
}

function decodeLogin(text: string, dsn: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return wrongIn(dsn, "user and password must be percent-encoded UTF-8");
  }
}

function endpoint(host: string, dsn: string): string {
  const match = /^(\[[0-9a-f:.]+\]|[^:@\s\[\]]+)(?::(\d+))?$/i.exec(host);
  if (!match || (match[2] && Number(match[2]) > 65535)) {
    wrongIn(dsn, "wanted host:port[,host:port]"); // the host is not quoted: it can be a part of a password
  }
  return `${match[1]}:${match[2] ?? "2379"}`;
}

/** Percent-encoding gives any byte: `%ff`. */
function readPrefix(path: string, dsn: string): Uint8Array {
  const parts = path.split(/%([0-9a-f]{2})/i).map((part, i) => {
    if (i % 2) return Uint8Array.of(parseInt(part, 16));
    const percent = part.indexOf("%");
    if (percent >= 0) {
      wrongIn(dsn, `'%' must be followed by two hex digits, got '${part.slice(percent, percent + 3)}'`);
    }
    return new TextEncoder().encode(part);
  });
  return concat(parts);
}

function readTls(query: URLSearchParams, dsn: string): EtcdOptions["tls"] {
  for (const name of query.keys()) {
    if (!["tls", "cacert", "cert", "key"].includes(name)) {
      wrongIn(dsn, `parameters are tls, cacert, cert and key; '${name}' is unknown`);
    }
  }
  const tls = query.get("tls");
  if (tls !== null && tls !== "true" && tls !== "false") {
    wrongIn(dsn, `tls must be 'true' or 'false', got '${tls}'`);
  }
  const file = (name: string) => query.has(name) ? readable(name, query.get(name)!) : undefined;
  const files = { ca: file("cacert"), cert: file("cert"), key: file("key") };
  if ((files.cert === undefined) !== (files.key === undefined)) wrongIn(dsn, "cert and key go together");
  const given = Object.values(files).some((f) => f !== undefined);
  return tls === "true" || (tls === null && given) ? files : undefined;
}

/** The path; the file is read with each connection, so a renewed one counts. */
function readable(name: string, path: string): string {
  try {
    Deno.readFileSync(path);
    return path;
  } catch (error) {
    wrong(`etcd-dsn ${name}`, path, `wanted a file that can be read (${(error as Error).name})`);
  }
}

/** A DSN that can be shown, also one that is none: no password, no query. Up to the last '@' all may be password. */
export function withoutSecrets(dsn: string): string {
  const [, scheme, rest] = /^([a-z0-9+.-]+:\/\/)?(.*)$/is.exec(dsn)!;
  const login = rest.lastIndexOf("@");
  const shown = login < 0 ? rest : rest.slice(0, login).split(":")[0] + rest.slice(login);
  return `${scheme ?? ""}${shown}`.replace(/\?.*$/s, "").replace(/password\s*=.*$/is, "password=…");
}

export function identity(config: Config): StreamIdentity {
  const prefixText = keyText(config.prefix);
  const plain = asText(config.prefix) === prefixText ? prefixText : null;
  return { stream: config.stream, prefix: config.prefix, prefixText, plainPrefix: plain };
}
