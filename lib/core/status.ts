/** What `status` shows, as its JSON has it: times are ISO 8601 in UTC, sizes bytes, ages seconds. docs/status.md explains it. */
import type { Code } from "./codes.ts";

export interface Status {
  /** Of the machine that looked. */
  at: string;
  healthy: boolean;
  /** Of the command: 0 healthy, else see docs/status.md. */
  exit_code: number;
  /** As asked for; what the schema holds is in `postgres.report.stream`. */
  stream: string;
  schema: string;
  prefix: string;
  /** Seconds without a proof after which the mirror counts as not fresh: the setting of who looks. */
  fresh_timeout: number;
  findings: Finding[];
  postgres: PostgresSide;
  etcd: EtcdSide;
}

/** Something that is wrong (`error`), or that somebody should know of (`warning`). */
export interface Finding {
  code: Code;
  name: string;
  severity: "error" | "warning";
  text: string;
  advice: string;
}

/** Why a side cannot be shown. */
export interface Failure {
  code: Code;
  text: string;
}

export interface PostgresSide {
  /** Without secrets. */
  address: string;
  version: string | null;
  error: Failure | null;
  /** null: see `error`. */
  report: StreamReport | null;
}

/** What etcd_sync_status() returns (sql/010_status.sql), with the ages. */
export interface StreamReport {
  schema_version: number;
  now: string;
  /** null: the schema is there, and no stream was ever started. */
  stream: StreamState | null;
  epoch: number | null;
  leader: { holder: string; epoch: number; lease_until: string; since: string | null } | null;
  instances: Instance[];
  blockers: {
    pid: number;
    user: string | null;
    application: string | null;
    transaction_since: string | null;
  }[];
  paused: { since: string; by: string; reason: string | null } | null;
  resyncs: { id: number; prefix: string; asked_at: string; asked_by: string; started_at: string | null }[];
  wal: Wal;
  losses: Losses;
  /** By kind, of the last day. */
  events: Record<string, { count: number; at: string; detail: Record<string, unknown> }>;
  /** `bytes` null: somebody has the table locked. */
  tables: Record<string, { bytes: number | null; rows_estimate: number | null }>;
  verification: Verification | null;
  retention: Retention | null;
}

export interface StreamState {
  name: string;
  prefix: string;
  one_way: boolean;
  installed_at: string;
  state: string;
  change: { since: string; event: string; why: string | null } | null;
  /** The checkpoint; during a scan the watch's position. */
  revision: number;
  timeline: number;
  cluster_id: string | null;
  scan_cursor: string | null;
  scan_revision: number;
  /** All that etcd had acknowledged then is in the mirror. */
  fresh_at: string | null;
  fresh_age: number | null;
  updated_at: string;
}

/** An instance that has a session with PostgreSQL. */
export interface Instance {
  pid: number;
  leader: boolean;
  /** null: through a socket, or not for this role to see. */
  address: string | null;
  port: number | null;
  application: string | null;
  since: string | null;
  last_heard: string | null;
  silent_for: number | null;
}

export interface Wal {
  pending: number;
  /** At most so many: there are more than are counted. */
  pending_is_estimate: boolean;
  /** Rows by status; null: too many to count, see `rows_estimate`. */
  settled: Record<string, number> | null;
  rows_estimate: number | null;
  oldest: { ticket: number; key: string | null; since: string; age: number } | null;
  limit: number | null;
  full: boolean;
}

/** Transactions that were not applied, among the newest thousand of each kind. */
export interface Losses {
  conflicts_last_day: number;
  failures_last_day: number;
  open_conflicts: number;
  open_failures: number;
  newest: Loss[];
}

export interface Loss {
  kind: "conflict" | "failed";
  ticket: number;
  key: string | null;
  rows: number;
  revision: number | null;
  at: string;
  /** Neither retried nor discarded. */
  open: boolean;
  message: string | null;
}

/** The last time that the whole mirror was compared with etcd; what it left unrepaired. */
export interface Verification {
  /** null: never. */
  verified_at: string | null;
  revision: number | null;
  timeline: number | null;
  keys: number | null;
  missing: number | null;
  extra: number | null;
  different: number | null;
  repaired: number | null;
}

export interface Retention {
  keeper: boolean;
  history_from: number | null;
  retained_timeline: number;
  retained_revision: number;
  newest_mark: string | null;
  passed_mark: string | null;
  oldest_mark: string | null;
  oldest_transaction: {
    pid: number;
    user: string | null;
    application: string | null;
    state: string | null;
    since: string;
  } | null;
}

export interface EtcdSide {
  endpoints: EtcdEndpoint[];
  /** null: no linearizable read, see `error`. */
  revision: number | null;
  cluster_id: string | null;
  error: Failure | null;
  /** null: could not be read. */
  alarms: { member: string; alarm: string }[] | null;
  members: { id: string; name: string; learner: boolean }[] | null;
}

export interface EtcdEndpoint {
  address: string;
  error: Failure | null;
  member: EtcdMember | null;
}

/** What a member says of itself. */
export interface EtcdMember {
  id: string;
  version: string;
  /** "0": it knows of none. */
  leader: string;
  learner: boolean;
  db_bytes: number;
  db_in_use_bytes: number;
  /** null: etcd before 3.6 does not tell. */
  quota_bytes: number | null;
  /** What etcd itself complains of. */
  errors: string[];
}

/** Whole seconds and their parts between two instants; null where one is not known. */
export function secondsBetween(from: string | null, to: string): number | null {
  return from === null ? null : Math.max(0, Date.parse(to) - Date.parse(from)) / 1_000;
}
