/** What the program was asked to do: flags, then environment. */
import { asText, keyText } from "./core/codec.ts";
import { Fatal } from "./errors.ts";
import type { EtcdOptions } from "./etcd/client.ts";
import { LOG_FORMATS, LOG_LEVELS, type LogOptions } from "./log.ts";
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
}

export interface Config {
  postgresDsn: string;
  etcd: EtcdOptions;
  prefix: Uint8Array;
  stream: string;
  schema: string;
  log: LogOptions;
  maxTxnOps: number;
  /** null = never. */
  rescanAfter: number | null;
  refuseOversize: boolean;
  maxDeletes: number;
}

function wrong(name: string, value: string, wanted: string): never {
  throw new Fatal("configuration", `Cannot read '${name}': ${wanted}, got '${value}'`);
}

/** @throws {Fatal} one line that names the setting, quotes the value (unless it holds a secret) and says what is wanted */
export function readConfig(flags: StartFlags): Config {
  const { etcd, prefix } = readEtcdDsn(required("etcd-dsn", flags.etcdDsn));
  return {
    postgresDsn: readPostgresDsn(required("postgres-dsn", flags.postgresDsn)),
    etcd,
    prefix,
    stream: readName("stream", flags.stream),
    schema: readName("schema", flags.schema),
    log: readLog(flags),
    maxTxnOps: readInteger("max-txn-ops", flags.maxTxnOps, 2, 10_000),
    rescanAfter: flags.rescanAfter === "never"
      ? null
      : readInteger("rescan-after", flags.rescanAfter, 0, Number.MAX_SAFE_INTEGER),
    refuseOversize: oneOf("oversize", flags.oversize, ["split", "refuse"] as const) === "refuse",
    maxDeletes: readInteger("max-deletes", flags.maxDeletes, 0, 2 ** 31 - 1),
  };
}

export function readLog(flags: Pick<StartFlags, "logLevel" | "logFormat">): LogOptions {
  return {
    level: oneOf("log-level", flags.logLevel, LOG_LEVELS),
    format: oneOf("log-format", flags.logFormat, LOG_FORMATS),
  };
}

function required(name: string, value: string | undefined): string {
  if (value) return value;
  throw new Fatal(
    "configuration",
    `Cannot start without '${name}': give --${name}, or ${
      name.toUpperCase().replaceAll("-", "_")
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

function readPostgresDsn(dsn: string): string {
  const url = parseUrl("postgres-dsn", dsn);
  if (url.protocol !== "postgres:" && url.protocol !== "postgresql:") {
    wrong("postgres-dsn", withoutSecrets(dsn), "scheme must be 'postgres' or 'postgresql'");
  }
  return dsn;
}

/** `etcd://[user:pass@]host:port[,host:port]/prefix?tls=…&cacert=…&cert=…&key=…` */
export function readEtcdDsn(dsn: string): { etcd: EtcdOptions; prefix: Uint8Array } {
  // several hosts are no URL: the first one stands for all while it is parsed
  const parts = /^([a-z0-9+.-]+):\/\/(?:([^@/]*)@)?([^/?]*)(.*)$/i.exec(dsn);
  if (!parts) wrong("etcd-dsn", withoutSecrets(dsn), "wanted etcd://host:port[,host:port]/prefix");
  const [, scheme, login, hosts, rest] = parts;
  if (scheme !== "etcd") wrong("etcd-dsn", withoutSecrets(dsn), `scheme must be 'etcd', got '${scheme}' in`);
  const endpoints = hosts.split(",").map((host) => endpoint(host, dsn));
  const url = parseUrl("etcd-dsn", `etcd://host${rest}`);
  const [user, password] = login === undefined ? [] : login.split(/:(.*)/s).map(decodeURIComponent);
  return {
    etcd: { endpoints, user, password, tls: readTls(url.searchParams, dsn) },
    prefix: readPrefix(url.pathname, dsn),
  };
}

function endpoint(host: string, dsn: string): string {
  const match = /^(\[[0-9a-f:]+\]|[^:\s]+)(?::(\d+))?$/i.exec(host);
  if (!match || (match[2] && Number(match[2]) > 65535)) {
    wrong("etcd-dsn", withoutSecrets(dsn), `wanted host:port, got '${host}' in`);
  }
  return `${match[1]}:${match[2] ?? "2379"}`;
}

/** Percent-encoding gives any byte: `%ff`. */
function readPrefix(path: string, dsn: string): Uint8Array {
  const bytes: number[] = [];
  for (let i = 0; i < path.length; i++) {
    if (path[i] !== "%") {
      bytes.push(...new TextEncoder().encode(path[i]));
      continue;
    }
    const hex = path.slice(i + 1, i + 3);
    if (!/^[0-9a-f]{2}$/i.test(hex)) {
      wrong("etcd-dsn", withoutSecrets(dsn), `'%' must be followed by two hex digits, got '%${hex}' in`);
    }
    bytes.push(parseInt(hex, 16));
    i += 2;
  }
  return Uint8Array.from(bytes);
}

function readTls(query: URLSearchParams, dsn: string): EtcdOptions["tls"] {
  for (const name of query.keys()) {
    if (!["tls", "cacert", "cert", "key"].includes(name)) {
      wrong(
        "etcd-dsn",
        withoutSecrets(dsn),
        `parameters are tls, cacert, cert and key; '${name}' is unknown in`,
      );
    }
  }
  const tls = query.get("tls");
  if (tls !== null && tls !== "true" && tls !== "false") {
    wrong("etcd-dsn", withoutSecrets(dsn), `tls must be 'true' or 'false', got '${tls}' in`);
  }
  const file = (name: string) => query.has(name) ? readFile(name, query.get(name)!) : undefined;
  const files = { ca: file("cacert"), cert: file("cert"), key: file("key") };
  const given = Object.values(files).some((f) => f !== undefined);
  return tls === "true" || (tls === null && given) ? files : undefined;
}

function readFile(name: string, path: string): Uint8Array {
  try {
    return Deno.readFileSync(path);
  } catch (error) {
    wrong(`etcd-dsn ${name}`, path, `wanted a file that can be read (${(error as Error).name})`);
  }
}

function parseUrl(name: string, text: string): URL {
  try {
    return new URL(text);
  } catch {
    wrong(name, withoutSecrets(text), "wanted a URL");
  }
}

/** A DSN that can be shown: no password, no query. */
export function withoutSecrets(dsn: string): string {
  return dsn.replace(/^([^:]*:\/\/)([^@/]*)@/, (_, scheme, login) => `${scheme}${login.split(":")[0]}@`)
    .replace(/\?.*$/s, "");
}

export function identity(config: Config): StreamIdentity {
  const prefixText = keyText(config.prefix);
  const plain = asText(config.prefix) === prefixText ? prefixText : null;
  return { stream: config.stream, prefix: config.prefix, prefixText, plainPrefix: plain };
}
