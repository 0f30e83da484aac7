/** What the program was asked to do, as it works with it. Where the values come from: lib/settings/. */
import { asText, keyText } from "./core/codec.ts";
import { Fatal } from "./errors.ts";
import type { EtcdOptions } from "./etcd/client.ts";
import { ETCDCTL_VARIABLES, readEtcdDsn } from "./etcd/dsn.ts";
import type { Address } from "./pages.ts";
import type { LogOptions } from "./log.ts";
import { POSTGRES_VARIABLES, readTarget as readPostgresTarget } from "./postgres/dsn.ts";
import type { Retention } from "./postgres/keep.ts";
import type { StreamIdentity } from "./postgres/state.ts";
import { type Environment, type Flags, readSettings, refuse, type Settings, value } from "./settings/read.ts";
import { variableOf } from "./settings/table.ts";

export type { Flags } from "./settings/read.ts";

/** Where a stream lives in PostgreSQL. */
export interface StreamPlace {
  postgresDsn: string;
  stream: string;
  schema: string;
  log: LogOptions;
}

/** What a command works on. */
export interface Target extends StreamPlace {
  etcd: EtcdOptions;
  prefix: Uint8Array;
  freshTimeoutMs: number;
}

export interface Config extends Target {
  /** etcd is only read. */
  oneWay: boolean;
  maxTxnOps: number;
  /** null = never. */
  rescanAfter: number | null;
  refuseOversize: boolean;
  maxDeletes: number;
  retention: Retention;
  /** null = never. */
  walLimit: number | null;
  /** null = never. */
  verifyEveryMs: number | null;
  /** undefined = no pages. */
  listen: Address | undefined;
  /** The pages show keys and values. */
  pageValues: boolean;
  /** All of it as it was given, and where. */
  settings: Settings;
}

/**
 * What flags, environment and file say together. Nothing is connected.
 * @throws {Fatal} one line that names the setting and its source, quotes the value (unless it holds a secret) and says
 * what is wanted
 */
export function readConfig(flags: Flags, env: Environment = Deno.env.toObject()): Config {
  return configOf(readSettings(flags, env), env);
}

/** @throws {Fatal} see `readConfig` */
export function configOf(settings: Settings, env: Environment): Config {
  return {
    ...targetOf(settings, env),
    oneWay: value(settings, "one-way"),
    maxTxnOps: value(settings, "max-txn-ops"),
    rescanAfter: value(settings, "rescan-after"),
    refuseOversize: value(settings, "oversize") === "refuse",
    maxDeletes: value(settings, "max-deletes"),
    retention: {
      walMs: value(settings, "wal-retention"),
      historyMs: value(settings, "history-retention"),
      eventMs: value(settings, "event-retention"),
    },
    walLimit: value(settings, "wal-limit"),
    verifyEveryMs: value(settings, "verify-every"),
    listen: value(settings, "listen"),
    pageValues: value(settings, "page-values"),
    settings,
  };
}

/** For a command that needs no etcd. @throws {Fatal} see `readConfig` */
export function readStreamPlace(flags: Flags, env: Environment = Deno.env.toObject()): StreamPlace {
  return placeOf(readSettings(flags, env), env);
}

/** For a command that looks at both sides. @throws {Fatal} see `readConfig` */
export function readTarget(flags: Flags, env: Environment = Deno.env.toObject()): Target {
  const settings = readSettings(flags, env);
  return targetOf(settings, env);
}

function targetOf(settings: Settings, env: Environment): Target {
  return {
    ...placeOf(settings, env),
    ...readEtcd(settings, env),
    freshTimeoutMs: value(settings, "fresh-timeout"),
  };
}

function placeOf(settings: Settings, env: Environment): StreamPlace {
  return {
    postgresDsn: readPostgres(settings, env),
    stream: value(settings, "stream"),
    schema: value(settings, "schema"),
    log: logOf(settings),
  };
}

/** What is given must be right, what is missing may be. @throws {Fatal} see `readConfig` */
export function checkGiven(settings: Settings, env: Environment): void {
  if (settings["postgres-dsn"].text !== undefined || env.PGHOST) readPostgres(settings, env);
  if (settings["etcd-dsn"].text !== undefined) readEtcd(settings, env);
}

/** What the log needs, which is made before the rest is looked at. */
export function logOf(settings: Settings): LogOptions {
  return { level: value(settings, "log-level"), format: value(settings, "log-format") };
}

function missing(name: string, what: string): never {
  throw new Fatal("configuration", `Cannot start without '${name}': ${what}`);
}

function howToGive(name: string): string {
  const or = `${variableOf(name)} in the environment or '${name}' in the file`;
  const attempt = Deno.build.standalone ? "" : ", or try 'start --embedded'"; // the binary has no right to
  return `give --${name}, ${or}${attempt}`;
}

/** Checked here, so that a mistake is found at once; what `PG*` variables say is read with each connection. */
function readPostgres(settings: Settings, env: Environment): string {
  const { text, source } = settings["postgres-dsn"];
  const dsn = text ?? (env.PGHOST ? "postgres://" : missing("postgres-dsn", howToGive("postgres-dsn")));
  const got = text === undefined ? "" : `, got '${withoutSecrets(text)}'`;
  readPostgresTarget(
    dsn,
    (name) => env[name],
    (what) =>
      text === undefined ? wrongEnvironment("PG*", what) : refuse("postgres-dsn", source, `${what}${got}`),
  );
  return dsn;
}

function wrongEnvironment(variables: string, what: string): never {
  throw new Fatal("configuration", `Cannot read the variables ${variables}: ${what}`);
}

function readEtcd(settings: Settings, env: Environment) {
  const { text, source } = settings["etcd-dsn"];
  if (text === undefined) {
    return missing(
      "etcd-dsn",
      env.ETCDCTL_ENDPOINTS
        ? "ETCDCTL_ENDPOINTS names the servers, but not what to mirror; give --etcd-dsn etcd:///prefix/ (etcd:// for all keys)"
        : howToGive("etcd-dsn"),
    );
  }
  const wrong = (what: string) => refuse("etcd-dsn", source, `${what} in '${withoutSecrets(text)}'`);
  return readEtcdDsn(text, (name) => env[name], wrong);
}

/** The variables of libpq and etcdctl that are set: they may fill what a DSN leaves out. */
export function fillingVariables(env: Environment): string[] {
  return [...POSTGRES_VARIABLES, ...ETCDCTL_VARIABLES].filter((name) => env[name]);
}

/** A setting's value as it can be shown. */
export function shown(text: string | undefined, secret: boolean | undefined): string | undefined {
  return text === undefined || !secret ? text : withoutSecrets(text);
}

/**
 * A DSN that can be shown, also one that is none: no password, no query. Up to the last '@' all may be password, and
 * what has no scheme may be one as a whole.
 */
export function withoutSecrets(dsn: string): string {
  const [, scheme, rest] = /^([a-z0-9+.-]+:\/\/)?(.*)$/is.exec(dsn)!;
  if (scheme === undefined) return "…";
  const login = rest.lastIndexOf("@");
  if (login < 0) return `${scheme}${rest.replace(/\?.*$/s, "")}`;
  const user = rest.slice(0, login).split(/[:?]/)[0];
  // an '@' behind a '?' can be in a password or in the query: what follows it is the tail of either
  const tail = rest.slice(0, login).includes("?") ? "@…" : rest.slice(login).replace(/\?.*$/s, "");
  return `${scheme}${user}${tail}`;
}

export function identity(config: Pick<Config, "stream" | "prefix">): StreamIdentity {
  const prefixText = keyText(config.prefix);
  const plain = asText(config.prefix) === prefixText ? prefixText : null;
  return { stream: config.stream, prefix: config.prefix, prefixText, plainPrefix: plain };
}
