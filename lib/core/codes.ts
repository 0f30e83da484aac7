/**
 * Every error and condition that a person can meet, by its code; docs/errors.md is made from it (`deno task errors`). The
 * first digit of an `EPS` code is the exit code, see lib/errors.ts; 7 stands for what changes no exit code. A code is never
 * given another meaning.
 */

export interface CodeEntry {
  /** For people and for metrics: `not-fresh`. */
  name: string;
  meaning: string;
  advice: string;
}

const CONFIGURATION = {
  "EPS-100": {
    name: "configuration",
    meaning: "A flag, a variable or the configuration is wrong or missing. Nothing was touched.",
    advice: "The line names the setting, quotes its value and says what is wanted.",
  },
  "EPS-101": {
    name: "not-installed",
    meaning:
      "The schema holds no stream: `start` was never run on it, or `--schema` or the database is another.",
    advice: "Check `--postgres-dsn` and `--schema`; `etcd-pg-sync start` installs a new stream.",
  },
  "EPS-102": {
    name: "schema-older",
    meaning: "The schema is of an older version than this program.",
    advice:
      "`start` of this version upgrades it. Instances of the older version go on until they are stopped.",
  },
  "EPS-103": {
    name: "schema-newer",
    meaning: "The schema is of a newer version than this program: somebody has upgraded.",
    advice: "Use the newer program.",
  },
  "EPS-104": {
    name: "other-stream",
    meaning: "The schema holds a stream of another name, or of another prefix.",
    advice: "Give the name and the prefix that the line shows, or another `--schema` for another stream.",
  },
  "EPS-105": {
    name: "other-installation",
    meaning:
      "Another installation writes to this etcd under the same stream name: its marker stands under `/_etcd-pg-sync/`.",
    advice:
      "Give this one another `--stream`. Only where the other database is gone for good, delete that key, and start.",
  },
  "EPS-106": {
    name: "server-unsupported",
    meaning: "PostgreSQL is older than 14, etcd is older than 3.4, or the database's encoding is not UTF8.",
    advice: "Upgrade the server, or create the database with `encoding 'UTF8'`.",
  },
  "EPS-107": {
    name: "pooler",
    meaning:
      "A connection pooler answers in place of PostgreSQL. Locks, settings and notifications do not live through it.",
    advice: "Give the server's own address.",
  },
};

const CONNECTION = {
  "EPS-200": {
    name: "connection",
    meaning: "A server could not be used, for a reason that can pass.",
    advice: "The line names the server and its reason.",
  },
  "EPS-201": {
    name: "unreachable",
    meaning: "Nobody answers at that address: refused, no route, no such name, or no answer in time.",
    advice:
      "Is the server up? Are host and port right, and is the way there open? A running instance tries on by itself.",
  },
  "EPS-202": {
    name: "postgres-session-lost",
    meaning: "The session with PostgreSQL ended or gave no answer, or none of the hosts takes writes.",
    advice: "Look at PostgreSQL's log at that time. A running instance begins anew by itself.",
  },
  "EPS-203": {
    name: "no-such-database",
    meaning: "The server has no database of that name.",
    advice: "Check the path of `--postgres-dsn`, or create the database.",
  },
  "EPS-204": {
    name: "postgres-read-only",
    meaning: "The server is a standby, or read-only.",
    advice:
      "Give all hosts in `--postgres-dsn`; the one that takes writes is found. After a failover: is there a primary?",
  },
  "EPS-205": {
    name: "postgres-short",
    meaning: "PostgreSQL is out of connections, disk or memory.",
    advice: "An instance takes four sessions. Look at `max_connections` and at the disk of the server.",
  },
  "EPS-206": {
    name: "postgres-interrupted",
    meaning: "PostgreSQL starts, stops, or has ended the statement or the session.",
    advice: "Passes with a restart of the server. If it stays: its log, and `statement_timeout`.",
  },
  "EPS-211": {
    name: "etcd-unreachable",
    meaning: "No endpoint of etcd answers, or the connection to it broke.",
    advice:
      "`etcdctl endpoint health` with the same endpoints. With TLS: certificate, CA and the name in the DSN.",
  },
  "EPS-212": {
    name: "etcd-silent",
    meaning:
      "etcd took the call and gave no answer in time: no quorum, a slow disk, or a cut in the network.",
    advice:
      "`etcdctl endpoint health`, and `etcdctl endpoint status --cluster`: is there a leader? Then the processes and disks of the members.",
  },
};

const PERMISSION = {
  "EPS-300": {
    name: "permission",
    meaning: "A server refuses what was asked.",
    advice: "docs/rights.md has the rights that are needed on each side.",
  },
  "EPS-301": {
    name: "postgres-login",
    meaning: "PostgreSQL refuses the login: role, password, certificate or `pg_hba.conf`.",
    advice: "Check user and password (DSN, `PGPASSWORD`, password file), and the server's `pg_hba.conf`.",
  },
  "EPS-302": {
    name: "postgres-rights",
    meaning: "The role has no right to do this in PostgreSQL.",
    advice:
      "`etcd-pg-sync config check` names the grants that are missing. For `status`: `grant usage on schema …` and `grant execute on function etcd_sync_status()`.",
  },
  "EPS-311": {
    name: "etcd-login",
    meaning:
      "etcd does not accept the login: there is none and it wants one, a token has ended, or users have changed.",
    advice:
      "An instance logs in anew by itself. If it stays: user and password in `--etcd-dsn`; from a file they count after SIGHUP, else after a restart.",
  },
  "EPS-312": {
    name: "etcd-rights",
    meaning: "etcd refuses the password, or the user may not read or write these keys.",
    advice: "`etcd-pg-sync config check` names the right that is missing, and the command that grants it.",
  },
};

const RUNTIME = {
  "EPS-400": {
    name: "unexpected",
    meaning: "Something that the program does not know. It is a bug, or the machine is out of something.",
    advice: "Run it again with `ETCD_PG_SYNC_STACK=1` in the environment, and report what it prints.",
  },
  "EPS-401": {
    name: "postgres-refused",
    meaning: "PostgreSQL refused a statement with a code that has no entry here.",
    advice:
      "The line has PostgreSQL's words. A table or function of the schema that was changed by hand does this.",
  },
  "EPS-402": {
    name: "etcd-refused",
    meaning: "etcd refused a call with a code that has no entry here.",
    advice: "The line has etcd's words; look at etcd's log.",
  },
  "EPS-403": {
    name: "locked",
    meaning: "A lock of another session stood in the way for longer than a second.",
    advice:
      "`select pid, mode, relation::regclass from pg_locks where granted and relation is not null` shows who has it; an `alter table`, a `lock` or a `vacuum full` by hand does this.",
  },
};

const UNHEALTHY = {
  "EPS-601": {
    name: "no-leader",
    meaning:
      "No instance holds the writer's place: none runs, the writer is frozen, or none can reach both servers.",
    advice:
      "Is `etcd-pg-sync start` running? Its log says what it waits for. A frozen writer is replaced by a standby within 5 s; where there is none, end it and start it again.",
  },
  "EPS-602": {
    name: "not-fresh",
    meaning:
      "For longer than `--fresh-timeout` (10 s) nothing has proved that the mirror has all that etcd has. Readers see old values.",
    advice: "Its cause is among the other findings, or in `/readyz` and the log of the writer.",
  },
  "EPS-603": {
    name: "scanning",
    meaning:
      "The mirror is filled or brought up to date by a scan; until it has caught up it is no point of etcd's history.",
    advice: "Wait; progress is in the log and in `status`. If the cursor does not move: the writer's log.",
  },
  "EPS-604": {
    name: "writes-wait",
    meaning:
      "The oldest write from SQL has waited for etcd for more than a minute (since the start of its transaction).",
    advice:
      "`etcdctl alarm list` and `endpoint health`; `etcd-pg-sync config check` for rights; then the writer's log. Nothing is lost: it is tried for ever.",
  },
  "EPS-605": {
    name: "etcd-takes-no-writes",
    meaning:
      "etcd does not take the drain's writes now: no space, no leader, no right to the marker. The mirror goes on.",
    advice:
      "The log line has etcd's words; `etcd-pg-sync config check` names a right that is missing. Nothing is lost, it is tried on.",
  },
  "EPS-606": {
    name: "etcd-no-space",
    meaning: "etcd has raised NOSPACE: its database is at its quota, and it takes no puts.",
    advice:
      "Compact and defragment (docs/operations.md has the commands), or raise `--quota-backend-bytes`; then `etcdctl alarm disarm`. Writes from SQL wait meanwhile.",
  },
  "EPS-607": {
    name: "etcd-corrupt",
    meaning: "etcd has raised CORRUPT: its members differ.",
    advice:
      "Stop writing, and follow etcd's own guide for data corruption. Afterwards: `etcd-pg-sync validate`.",
  },
  "EPS-608": {
    name: "etcd-no-leader",
    meaning: "etcd has no leader: too few of its members can see each other. Neither direction moves.",
    advice: "Bring members back until more than half run; `etcdctl endpoint status --cluster`.",
  },
  "EPS-609": {
    name: "wal-full",
    meaning: "As many writes wait for etcd as `--wal-limit` allows: new ones are refused with ZE013.",
    advice:
      "Find out why etcd does not take them (EPS-604 to EPS-608). A higher `--wal-limit` helps at once where the disk has room.",
  },
  "EPS-610": {
    name: "paused",
    meaning: "Somebody has paused the stream.",
    advice: "`etcd-pg-sync resume`, when what it was paused for is done.",
  },
  "EPS-611": {
    name: "drift",
    meaning: "The last verification has found keys that differ between etcd and the mirror.",
    advice: "`etcd-pg-sync validate` names them, `validate --fix` repairs them.",
  },
  "EPS-612": {
    name: "history-replaced",
    meaning:
      "etcd's history is not the one that was mirrored: it was restored, or is another cluster. A running writer begins a new timeline and a resync.",
    advice:
      "If nobody restored etcd, check `--etcd-dsn`. Writes that were waiting become conflicts: look through them.",
  },
};

const NOTICES = {
  "EPS-701": {
    name: "lost-place",
    meaning:
      "An instance is no longer, or not surely, the writer: it begins anew, as the writer or as a standby.",
    advice:
      "Once is harmless. Again and again: the network to PostgreSQL, a frozen machine, or a statement that hangs.",
  },
  "EPS-702": {
    name: "history-lost",
    meaning:
      "etcd has compacted what the watch would have had to replay. A scan follows; versions in between are a gap.",
    advice: "If it comes often: compact etcd less often, or find out why the mirror was behind.",
  },
  "EPS-703": {
    name: "far-behind",
    meaning:
      "More than `--rescan-after` revisions behind: a scan is the shorter way. Versions in between are a gap.",
    advice: "Nothing; with `--rescan-after never` every version is kept, and it takes longer.",
  },
  "EPS-704": {
    name: "conflict",
    meaning:
      "A write from SQL lost to a write in etcd of the same key: its whole transaction was not applied.",
    advice:
      "`select etcd_retry(ticket)` writes it again over what is there now, `select etcd_discard(ticket)` gives it up.",
  },
  "EPS-705": {
    name: "failed",
    meaning:
      "etcd has refused a write from SQL for good, such as one that is too large or not permitted. Its whole transaction was not applied.",
    advice:
      "Remove the reason that its message names, then `select etcd_retry(ticket)`; or `select etcd_discard(ticket)`.",
  },
  "EPS-706": {
    name: "blocked",
    meaning:
      "A session of somebody else holds locks on the stream's tables or rows, and the program waits for them.",
    advice: "Commit or end that session: `select pg_terminate_backend(pid)`.",
  },
  "EPS-707": {
    name: "key-too-long",
    meaning:
      "A key of etcd is longer than 2,500 bytes and is not mirrored; so is a key whose escapes make it longer.",
    advice: "Nothing, where nobody wants it in SQL. Else shorten it.",
  },
  "EPS-708": {
    name: "wal-filling",
    meaning:
      "Four fifths of `--wal-limit` writes wait for etcd. At the limit new ones are refused with ZE013.",
    advice: "Find out why etcd does not take them (EPS-604 to EPS-608), before it is full.",
  },
  "EPS-709": {
    name: "commits-lost",
    meaning:
      "PostgreSQL had lost commits (a failover to a replica that lagged); they were recovered from the marker in etcd.",
    advice:
      "Look through the conflicts of that time. `synchronous_commit` and synchronous standbys prevent it.",
  },
  "EPS-710": {
    name: "marker-gone",
    meaning: "Somebody deleted the stream's marker in etcd (`/_etcd-pg-sync/<stream>`). It was written anew.",
    advice: "Find out who, and leave that key alone. Look through the conflicts of that time.",
  },
  "EPS-711": {
    name: "etcd-known-bug",
    meaning: "This version of etcd has a known bug that concerns the mirror.",
    advice: "Upgrade etcd to the newest patch of its version.",
  },
  "EPS-712": {
    name: "etcd-nearly-full",
    meaning: "etcd's database has reached four fifths of its quota. At the quota it takes no puts.",
    advice: "Compact and defragment, or raise `--quota-backend-bytes`.",
  },
  "EPS-713": {
    name: "endpoint-down",
    meaning: "One of the endpoints in `--etcd-dsn` does not answer; others do.",
    advice: "Bring that member back, or take it out of the DSN.",
  },
  "EPS-714": {
    name: "retention-waits",
    meaning:
      "Rows of the WAL cannot go: a transaction has been open since before they arrived, or a write still waits.",
    advice: "End the oldest transaction in this database (idle in transaction, a prepared one, a long dump).",
  },
  "EPS-715": {
    name: "timeline-began",
    meaning:
      "etcd's history was replaced not long ago (a restore, another cluster), and a new timeline began.",
    advice: "If nobody restored etcd, find out what happened to it. Look through the conflicts of that time.",
  },
  "EPS-716": {
    name: "instance-silent",
    meaning:
      "A session of an instance is open but the instance has asked nothing for a while: it is frozen, or cut off.",
    advice:
      "Look at that machine. Its session ends by itself when TCP gives up; a frozen one that wakes does no harm.",
  },
  "EPS-717": {
    name: "settings-kept",
    meaning: "SIGHUP: the settings that were read again are not right. All stays as it was.",
    advice:
      "The line names the setting. `etcd-pg-sync config` shows what a start would take; then SIGHUP again.",
  },
  "EPS-718": {
    name: "restart-needed",
    meaning: "SIGHUP: a setting was changed that cannot change at run time. The old value stays in force.",
    advice: "Restart the instances, one after another.",
  },
  "EPS-719": {
    name: "telemetry-not-sent",
    meaning: "What is measured could not be sent over OTLP. Nothing else is held up by it.",
    advice: "The line has the collector's answer; check `OTEL_EXPORTER_OTLP_ENDPOINT`.",
  },
  "EPS-720": {
    name: "telemetry-protocol",
    meaning:
      "`OTEL_EXPORTER_OTLP_PROTOCOL` names a protocol that this program does not speak; it sends http/protobuf.",
    advice: "Set it to `http/protobuf`, and the endpoint to the collector's port for it.",
  },
  "EPS-721": {
    name: "verification-overdue",
    meaning: "For more than three days nobody has compared all of the mirror with etcd.",
    advice:
      "`etcd-pg-sync validate` does it now. The writer does it every `--verify-every`; its log says what kept it from it.",
  },
  "EPS-722": {
    name: "systemd-not-told",
    meaning:
      "The socket of `NOTIFY_SOCKET` cannot be used. A unit of `Type=notify` is taken for one that does not start.",
    advice:
      "`RuntimeDirectory=etcd-pg-sync` in the unit gives the program a folder for its end of it. The binary may use the sockets of systemd only, `/run/systemd/notify` and those under `/run/user`.",
  },
};

const SQL = {
  "ZE001": {
    name: "key-not-ours",
    meaning:
      "The key is outside the stream's prefix, or under `/_etcd-pg-sync/`, where the program's own keys are.",
    advice: "The message has the prefix.",
  },
  "ZE002": {
    name: "key-invalid",
    meaning: "The key is empty, longer than 2,500 bytes, or escaped otherwise than etcd's key would be.",
    advice: "A backslash before `xHH` is written `\\x5c`; only bytes that are not UTF-8 are escaped.",
  },
  "ZE003": {
    name: "value-invalid",
    meaning:
      "The value has more than 1,500,000 bytes, or not exactly one of `value` and `value_bytes` is given.",
    advice: "To remove a key, delete it.",
  },
  "ZE004": {
    name: "not-writable",
    meaning: "The stream is one-way, etcd to PostgreSQL, or has never been started.",
    advice: "Write in etcd, or start the stream without `--one-way`.",
  },
  "ZE005": {
    name: "mass-delete",
    meaning: "More deletes in one transaction than `--max-deletes`.",
    advice: "If it is meant: `set local etcd_sync.confirm_mass_delete = on`.",
  },
  "ZE006": {
    name: "transaction-too-large",
    meaning:
      "The transaction is larger than etcd takes at once, and the stream runs with `--oversize refuse`.",
    advice: "Write less in one transaction; or `--oversize split`, which sends it in several, in order.",
  },
  "ZE007": {
    name: "row-settled",
    meaning:
      "The row is settled already, is not one to retry or discard, or two writes of the transaction compare the key with different revisions.",
    advice: "Only `conflict` and `failed` rows can be retried or discarded.",
  },
  "ZE008": {
    name: "column-of-etcd",
    meaning: "A column of the view `etcd` that etcd sets was written.",
    advice: "Write `key`, `value` or `value_bytes`.",
  },
  "ZE009": {
    name: "wait-timed-out",
    meaning: "`etcd_wait`: the write was not settled and mirrored in time. It is still on its way.",
    advice: "Wait again with the same ticket. If it does not end: `etcd-pg-sync status`.",
  },
  "ZE010": {
    name: "wait-impossible",
    meaning:
      "`etcd_wait` cannot see the row settle: in the transaction that wrote it, above READ COMMITTED, or there is no such row.",
    advice: "Commit first, then wait in READ COMMITTED.",
  },
  "ZE011": {
    name: "revision-unknown",
    meaning:
      "A past revision that the mirror does not know: before the retention, after the checkpoint, or inside a gap.",
    advice: "The message says which revisions are known.",
  },
  "ZE012": {
    name: "truncate",
    meaning: "`TRUNCATE` of one of the stream's tables.",
    advice: "Delete the keys from the view `etcd`.",
  },
  "ZE013": {
    name: "wal-limit",
    meaning: "As many writes wait for etcd as `--wal-limit` allows.",
    advice: "Try again later; `etcd-pg-sync status` says why etcd does not take them.",
  },
  "ZE100": {
    name: "fenced",
    meaning:
      "An instance that is no longer the writer was stopped before it wrote. People do not meet it: it begins anew (EPS-701).",
    advice: "Nothing.",
  },
};

/** The groups, in the order of docs/errors.md. */
export const CODE_GROUPS = [
  { title: "Configuration (exit code 1)", codes: CONFIGURATION },
  { title: "Connection (exit code 2)", codes: CONNECTION },
  { title: "Permission (exit code 3)", codes: PERMISSION },
  { title: "Runtime (exit code 4)", codes: RUNTIME },
  { title: "Not healthy (`status`, exit code 6)", codes: UNHEALTHY },
  { title: "Worth knowing (no exit code)", codes: NOTICES },
  { title: "SQLSTATEs that writers and readers in SQL get", codes: SQL },
] as const;

const ALL = {
  ...CONFIGURATION,
  ...CONNECTION,
  ...PERMISSION,
  ...RUNTIME,
  ...UNHEALTHY,
  ...NOTICES,
  ...SQL,
};
export type Code = keyof typeof ALL;
export const CODES: Record<Code, CodeEntry> = ALL;
