/** `status` as one screen of text: the verdict, what to do, then how things stand. */
import { isLed, isWhole } from "./advise.ts";
import { ageText, bytesText, countText, plural, quoteKey, timeText } from "./human.ts";
import {
  type EtcdEndpoint,
  type Instance,
  type Loss,
  secondsBetween,
  type Status,
  type StreamReport,
  type StreamState,
  type Wal,
} from "./status.ts";

/** A line: what it is about, and what there is to say. */
type Line = [label: string, text: string];

const LABEL = 12;
const SHOWN_LOSSES = 5;

/** The whole screen, with a newline at its end. Pure. */
export function screen(status: Status): string {
  return [
    verdict(status),
    ...status.findings.flatMap(({ code, text, advice }) => ["", `${code} ${text}`, `        → ${advice}`]),
    "",
    ...facts(status).map(([label, text]) => `${label.padEnd(LABEL)}${text}`),
    "",
  ].join("\n");
}

/** How things stand, line by line; a line without a label goes on with what the one before it is about. */
export function facts(status: Status): Line[] {
  const { report } = status.postgres;
  return [
    ...(report?.stream ? streamLines(status, report, report.stream) : []),
    postgresLine(status),
    ...etcdLines(status),
  ];
}

function verdict(status: Status): string {
  const { stream, healthy, at } = status;
  return `Stream '${stream}' is ${healthy ? "healthy" : "NOT healthy"}${findingCounts(status)} (${
    timeText(at)
  })`;
}

/** `: 2 problems, 1 warning`, and nothing where there are none. */
export function findingCounts({ findings }: Status): string {
  const errors = findings.filter(({ severity }) => severity === "error").length;
  const warnings = findings.length - errors;
  const counts = [
    ...(errors > 0 ? [plural(errors, "problem")] : []),
    ...(warnings > 0 ? [plural(warnings, "warning")] : []),
  ];
  return counts.length > 0 ? `: ${counts.join(", ")}` : "";
}

function streamLines(status: Status, report: StreamReport, stream: StreamState): Line[] {
  const { now } = report;
  return [
    ["state", stateText(report, stream)],
    ["writer", writerText(report)],
    ...standbys(report),
    ["mirror", mirrorText(status, stream)],
    ["WAL", walText(report.wal)],
    ...report.losses.newest.slice(0, SHOWN_LOSSES).map((
      loss,
      i,
    ): Line => [i === 0 ? "lost" : "", lossText(loss, now)]),
    ...report.resyncs.map(({ id, prefix, asked_at, asked_by, started_at }): Line => [
      "resync",
      `${id} of prefix ${quoteKey(prefix)}, asked ${ago(asked_at, now)} by '${asked_by}', ${
        started_at ? `started ${ago(started_at, now)}` : "not started"
      }`,
    ]),
    ["verified", verifiedText(report)],
    ["tables", tablesText(report)],
    ...historyLine(report, stream),
  ];
}

function ago(at: string, now: string): string {
  return `${ageText(secondsBetween(at, now)!)} ago`;
}

/** In the words of the machine's outcomes, see lib/machine.ts. */
const WHY: Record<string, string> = {
  "history-lost": "etcd had compacted what was missing",
  "far-behind": "it was far behind, and a scan is shorter",
  "history-replaced": "etcd's history was replaced",
  "caught-up": "the scan has caught up",
};

function stateText({ paused, now }: StreamReport, stream: StreamState): string {
  const { change, state, installed_at } = stream;
  const since = change?.since ?? (isWhole(stream) ? null : installed_at);
  const why = change
    ? WHY[change.why ?? change.event] ?? change.why ?? change.event
    : isWhole(stream)
    ? null
    : "first start";
  const how = `${state}${since ? ` since ${timeText(since)} (${ageText(secondsBetween(since, now)!)})` : ""}${
    why ? `: ${why}` : ""
  }`;
  return `${paused ? `PAUSED since ${timeText(paused.since)}; ` : ""}${how}${
    stream.one_way ? "; one-way" : ""
  }`;
}

function writerText(report: StreamReport): string {
  const { leader, instances, now } = report;
  if (!leader) return "none";
  const own = instances.find((instance) => instance.leader);
  const since = leader.since
    ? ` since ${timeText(leader.since)} (${ageText(secondsBetween(leader.since, now)!)})`
    : ", taking the place";
  const lease = isLed(report)
    ? `lease for ${ageText(secondsBetween(now, leader.lease_until)!)}`
    : `lease ran out ${ago(leader.lease_until, now)}`;
  return `${own ? where(own) : "its session is gone"}, epoch ${leader.epoch}${since}, ${lease}`;
}

function where({ pid, address, port }: Instance): string {
  return address ? `${address}:${port} (session ${pid})` : `session ${pid}`;
}

function standbys({ instances }: StreamReport): Line[] {
  const waiting = instances.filter((instance) => !instance.leader);
  return [["standbys", waiting.length === 0 ? "none" : waiting.map(where).join(", ")]];
}

function mirrorText({ etcd }: Status, stream: StreamState): string {
  const { revision, timeline, fresh_age } = stream;
  const behind = etcd.revision === null
    ? "; etcd's is not known"
    : ` of etcd's ${etcd.revision} (${Math.max(0, etcd.revision - revision)} behind)`;
  const fresh = fresh_age === null ? "never proved fresh" : `proved fresh ${ageText(fresh_age)} ago`;
  const scan = isWhole(stream)
    ? ""
    : `; scan at ${stream.scan_cursor === null ? "its beginning" : quoteKey(stream.scan_cursor)}`;
  return `revision ${revision}${behind}, ${fresh}${timeline > 1 ? `, timeline ${timeline}` : ""}${scan}`;
}

function walText({ pending, pending_is_estimate, settled, rows_estimate, oldest, limit }: Wal): string {
  const waits = `${countText(pending)}${pending_is_estimate ? " pending at most" : " pending"}`;
  const old = oldest
    ? `, the oldest for ${ageText(oldest.age)} (ticket ${oldest.ticket}${
      oldest.key === null ? "" : ` ${quoteKey(oldest.key)}`
    })`
    : "";
  const rest = settled
    ? ["success", "conflict", "failed"].map((name) => `${countText(settled[name] ?? 0)} ${name}`).join(", ")
    : `about ${countText(Math.max(0, (rows_estimate ?? 0) - pending))} settled`;
  return `${waits}${limit === null ? "" : ` (limit ${countText(limit)})`}${old}; ${rest}`;
}

function lossText({ kind, ticket, key, rows, at, open, message }: Loss, now: string): string {
  const what = key === null ? "" : ` ${quoteKey(key)}`;
  const more = rows > 1 ? ` and ${plural(rows - 1, "row")} with it` : "";
  return `${kind} ${ago(at, now)}: ticket ${ticket}${what}${more}${open ? "" : ", retried or gone since"}${
    message ? `: ${message}` : ""
  }`;
}

function verifiedText({ verification: last, now }: StreamReport): string {
  if (!last?.verified_at) return "never";
  const { keys, missing, extra, different, repaired } = last;
  const left = (missing ?? 0) + (extra ?? 0) + (different ?? 0);
  return `${ago(last.verified_at, now)} at revision ${last.revision}: ${plural(keys ?? 0, "key")}, ${
    plural(left, "difference")
  } left, ${repaired} repaired`;
}

function tablesText({ tables }: StreamReport): string {
  return Object.entries(tables).map(([name, { bytes, rows_estimate }]) =>
    `${name} ${bytes === null ? "locked" : bytesText(bytes)}${
      rows_estimate === null ? "" : ` (about ${plural(rows_estimate, "row")})`
    }`
  ).join(", ");
}

function historyLine({ retention, now }: StreamReport, { timeline }: StreamState): Line[] {
  if (!retention) return [];
  const { history_from, retained_timeline, passed_mark, keeper } = retention;
  const from = history_from === null
    ? "none yet"
    : `from revision ${history_from}${
      retained_timeline < timeline ? `, and timeline ${retained_timeline}` : ""
    }`;
  const wal = passed_mark ? `; settled writes can go up to ${ago(passed_mark, now)}` : "";
  return [["history", `${from}${wal}${keeper ? "" : "; nobody keeps house"}`]];
}

function postgresLine({ postgres: { address, version, report }, schema }: Status): Line {
  const installed = report ? `, schema '${schema}' of version ${report.schema_version}` : "";
  return ["PostgreSQL", `${version ?? "not connected"} at '${address}'${installed}`];
}

function etcdLines({ etcd: { endpoints, alarms, members } }: Status): Line[] {
  const raised = alarms === null
    ? "not known"
    : alarms.length === 0
    ? "none"
    : alarms.map(({ alarm }) => alarm).join(", ");
  return [
    ...endpoints.map((endpoint, i): Line => [i === 0 ? "etcd" : "", endpointText(endpoint)]),
    [
      "",
      `alarms: ${raised}; members: ${
        members ? members.map(({ id, name }) => name || id).join(", ") : "not known"
      }`,
    ],
  ];
}

function endpointText({ address, member }: EtcdEndpoint): string {
  if (!member) return `no answer at '${address}'`;
  const { id, version, leader, learner, db_bytes, quota_bytes, errors } = member;
  const role = learner
    ? "learner"
    : leader === "0"
    ? "without a leader"
    : leader === id
    ? "leader"
    : "follower";
  const size = `${bytesText(db_bytes)}${quota_bytes === null ? "" : ` of ${bytesText(quota_bytes)}`}`;
  return `${version} at '${address}', ${role}, ${size}${
    errors.length > 0 ? `; says: ${errors.join("; ")}` : ""
  }`;
}
