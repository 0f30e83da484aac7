/**
 * Every setting: the one table behind flags, variables, the file, `--help`, `config` and docs/configuration.md. A new
 * setting is an entry here, and its use in lib/config.ts.
 */
import { z } from "zod";
import { LOG_FORMATS, LOG_LEVELS } from "../log.ts";

export interface Setting<T = unknown> {
  /** What it is, for `--help` and the docs. */
  what: string;
  /** From text; its description says what is wanted. */
  type: z.ZodType<T, string>;
  default?: string;
  /** What stands for the value in `--help`; a switch has none. */
  takes?: string;
  /** The letter of its short flag. */
  short?: string;
  /** Shown without what is secret in it, see `withoutSecrets`. */
  secret?: true;
  /** SIGHUP changes it; of a DSN only user and password. */
  reload?: true;
  /** The commands that take its flag. `connection`: each that connects; `stream`: those that run a stream. */
  group: "connection" | "stream";
}

const UNIT_MS: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds. */
const duration = z.string().regex(/^[1-9]\d{0,4}[smhd]$/)
  .transform((text) => parseInt(text) * UNIT_MS[text.slice(-1)])
  .describe("a duration such as '30s', '15m', '12h' or '7d'");

const integer = (least: number, most: number) =>
  z.string().regex(/^\d+$/).transform(Number).pipe(z.number().min(least).max(most))
    .describe(`an integer from ${least} to ${most}`);

/** null = never. */
const orNever = <T>(type: z.ZodType<T, string>) =>
  z.union([z.literal("never").transform(() => null), type]).describe(`${type.description}, or 'never'`);

const oneOf = <const T extends readonly [string, ...string[]]>(choices: T) =>
  z.enum(choices).describe(`one of ${choices.map((choice) => `'${choice}'`).join(", ")}`);

/** PostgreSQL cuts longer identifiers. */
const name = z.string()
  .refine((text) => text !== "" && new TextEncoder().encode(text).length <= 63 && !text.includes("\0"))
  .describe("1 to 63 bytes");

const toggle = z.enum(["true", "false"]).transform((text) => text === "true").describe("'true' or 'false'");

/** Without a host it is this machine's own. */
const address = z.string().transform((text, context) => {
  const match = /^(?:(?:\[([0-9a-f:.]+)\]|([^:@/\s\[\]]*)):)?(\d{1,5})$/i.exec(text);
  const port = Number(match?.[3]);
  if (match && port >= 1 && port <= 65_535) return { hostname: match[1] ?? (match[2] || "127.0.0.1"), port };
  context.addIssue({ code: "custom" });
  return z.NEVER;
}).describe("host:port, such as '127.0.0.1:9187', or ':9187'");

const path = z.string().min(1).describe("a file that can be read");

const postgresDsn = z.string().min(1).describe("postgres://user@host:port[,host:port]/database");
const etcdDsn = z.string().min(1).describe("etcd://[user:password@]host:port[,host:port]/prefix");

export const SETTINGS = {
  "postgres-dsn": {
    what: "PostgreSQL: hosts, user and database; what it leaves out the PG* variables say",
    type: postgresDsn,
    takes: "dsn",
    short: "p",
    secret: true,
    reload: true,
    group: "connection",
  },
  "postgres-dsn-file": {
    what: "a file that holds the postgres-dsn, such as a mounted secret",
    type: path,
    takes: "file",
    reload: true,
    group: "connection",
  },
  "etcd-dsn": {
    what: "etcd: hosts, user and the prefix to mirror; what it leaves out the ETCDCTL_* variables say",
    type: etcdDsn,
    takes: "dsn",
    short: "e",
    secret: true,
    reload: true,
    group: "connection",
  },
  "etcd-dsn-file": {
    what: "a file that holds the etcd-dsn, such as a mounted secret",
    type: path,
    takes: "file",
    reload: true,
    group: "connection",
  },
  stream: {
    what: "name of the stream",
    type: name,
    default: "default",
    takes: "name",
    group: "connection",
  },
  schema: {
    what: "PostgreSQL schema that holds it; each stream has its own",
    type: name,
    default: "public",
    takes: "name",
    group: "connection",
  },
  "log-level": {
    what: "the least that is logged",
    type: oneOf(LOG_LEVELS),
    default: "info",
    takes: "level",
    reload: true,
    group: "connection",
  },
  "log-format": {
    what: "auto is text on a terminal, else json",
    type: oneOf(LOG_FORMATS),
    default: "auto",
    takes: "format",
    group: "connection",
  },
  "one-way": {
    what: "mirror only: nothing is written to etcd, and read rights on the prefix are enough",
    type: toggle,
    default: "false",
    group: "stream",
  },
  "max-txn-ops": {
    what: "operations that etcd takes in one transaction (etcd's own --max-txn-ops)",
    type: integer(2, 10_000),
    default: "128",
    takes: "n",
    reload: true,
    group: "stream",
  },
  oversize: {
    what: "what becomes of a transaction that etcd cannot take at once",
    type: oneOf(["split", "refuse"]),
    default: "split",
    takes: "what",
    reload: true,
    group: "stream",
  },
  "max-deletes": {
    what: "deletes in one transaction without a confirmation",
    type: integer(0, 2 ** 31 - 1),
    default: "1000",
    takes: "n",
    reload: true,
    group: "stream",
  },
  "rescan-after": {
    what: "backlog in revisions from which a scan is the way back",
    type: orNever(integer(0, Number.MAX_SAFE_INTEGER)),
    default: "20000",
    takes: "revisions",
    reload: true,
    group: "stream",
  },
  "fresh-timeout": {
    what: "silence after which a watch is given up; the next watch has a new value",
    type: duration,
    default: "10s",
    takes: "duration",
    reload: true,
    group: "stream",
  },
  "wal-retention": {
    what: "how long writes that arrived stay in etcd_wal",
    type: orNever(duration),
    default: "1d",
    takes: "duration",
    reload: true,
    group: "stream",
  },
  "history-retention": {
    what: "how long history goes back",
    type: orNever(duration),
    default: "30d",
    takes: "duration",
    reload: true,
    group: "stream",
  },
  "event-retention": {
    what: "how long events, and writes that did not arrive, stay",
    type: orNever(duration),
    default: "90d",
    takes: "duration",
    reload: true,
    group: "stream",
  },
  "wal-limit": {
    what: "writes that may wait for etcd; more are refused",
    type: orNever(integer(1_000, Number.MAX_SAFE_INTEGER)),
    default: "1000000",
    takes: "rows",
    reload: true,
    group: "stream",
  },
  listen: {
    what: "serve a status page, /metrics, /healthz, /readyz and /status there; ':9187' is this machine's own",
    type: address,
    takes: "host:port",
    group: "stream",
  },
  "page-values": {
    what: "show keys and values on the status page, to whoever can open it",
    type: toggle,
    default: "false",
    group: "stream",
  },
  "verify-every": {
    what: "how often all of the mirror is compared with etcd",
    type: orNever(duration),
    default: "1d",
    takes: "duration",
    reload: true,
    group: "stream",
  },
} as const satisfies Record<string, Setting>;

export type Name = keyof typeof SETTINGS;
export type Value<N extends Name> = z.output<(typeof SETTINGS)[N]["type"]>;

export const NAMES = Object.keys(SETTINGS) as Name[];

/** As the type says it may be, and not only as each entry is. */
export function setting(name: Name): Setting {
  return SETTINGS[name];
}

/** The variable that stands for a flag. */
export function variableOf(flag: string): string {
  return `ETCD_PG_SYNC_${flag.toUpperCase().replaceAll("-", "_")}`;
}
