/** From what both servers tell to what is wrong and what to do. Causes come before what follows from them. */
import { type Code, CODES } from "./codes.ts";
import { ageText, bytesText, countText, plural, quoteKey, timeText } from "./human.ts";
import {
  type EtcdMember,
  type Finding,
  type Loss,
  secondsBetween,
  type Status,
  type StreamReport,
  type StreamState,
} from "./status.ts";
import { etcdVersion } from "./version.ts";

/** What was seen, without the conclusions. */
export type Seen = Omit<Status, "findings" | "healthy" | "exit_code">;

/** Seconds that a write may wait for etcd. */
export const WAIT_SECONDS = 60;
/** A standby asks for the place four times a second. */
const SILENT_SECONDS = 10;
const RETENTION_SECONDS = 3_600;
/** Three times the default of --verify-every. */
const VERIFY_SECONDS = 3 * 86_400;
const NEARLY_FULL = 0.8;
/** In a day. */
const OFTEN = { leader: 10, scan: 3 };

interface Found {
  code: Code;
  text: string;
  /** The code's own, where nothing is more telling. */
  advice?: string;
}

/** What is wrong, and what to do. Pure. */
export function advise(seen: Seen): Finding[] {
  const { report } = seen.postgres;
  const stream = report?.stream ?? null;
  const found = [
    ...postgresSide(seen),
    ...etcdSide(seen),
    ...(report && stream ? streamSide(seen, report, stream) : []),
  ];
  const findings = found.map(({ code, text, advice }): Finding => ({
    code,
    name: CODES[code].name,
    severity: exitDigit(code) === 0 ? "warning" : "error",
    text,
    advice: advice ?? CODES[code].advice,
  }));
  return findings.toSorted((a, b) => Number(a.severity === "warning") - Number(b.severity === "warning"));
}

/** The exit code: that of the most basic thing that is wrong, 0 where nothing is. */
export function exitOf(findings: Finding[]): number {
  const digits = findings.map(({ code }) => exitDigit(code)).filter((digit) => digit > 0);
  return digits.length === 0 ? 0 : Math.min(...digits);
}

/** 0: it changes no exit code. */
function exitDigit(code: Code): number {
  const digit = Number(code[4]);
  return digit === 7 ? 0 : digit;
}

function postgresSide({ postgres: { address, error, report }, stream, schema, prefix }: Seen): Found[] {
  if (error?.code === "EPS-101" || error?.code === "EPS-102") return [{ ...error }];
  if (error) return [{ code: error.code, text: `Cannot use PostgreSQL at '${address}': ${error.text}` }];
  const found = report!.stream;
  if (!found) return [{ code: "EPS-101", text: `Schema '${schema}' is prepared, and holds no stream yet` }];
  if (found.name !== stream) {
    return [{
      code: "EPS-104",
      text: `Schema '${schema}' holds stream '${found.name}', asked for was '${stream}'`,
    }];
  }
  if (found.prefix !== prefix) {
    const text = `Stream '${stream}' mirrors prefix '${found.prefix}', 'etcd-dsn' says '${prefix}'`;
    return [{ code: "EPS-104", text }];
  }
  return [];
}

function etcdSide({ etcd }: Seen): Found[] {
  const found: Found[] = [];
  const members = etcd.endpoints.flatMap(({ address, member }) => member ? [{ address, member }] : []);
  if (etcd.error) {
    if (members.length > 0 && members.every(({ member }) => member.leader === "0")) {
      const who = members.map(({ address }) => `'${address}'`).join(" and ");
      found.push({ code: "EPS-608", text: `etcd has no leader: ${who} answers, and knows of none` });
    }
    const where = etcd.endpoints.map(({ address }) => address).join(",");
    found.push({ code: etcd.error.code, text: `Cannot use etcd at '${where}': ${etcd.error.text}` });
  } else {
    for (const { address, error } of etcd.endpoints) {
      if (error) {
        found.push({ code: "EPS-713", text: `Endpoint '${address}' does not answer: ${error.text}` });
      }
    }
  }
  return [
    ...found,
    ...alarms(etcd),
    ...members.flatMap(({ address, member }) => room(address, member)),
    ...bugs(members),
  ];
}

function alarms(etcd: Seen["etcd"]): Found[] {
  const name = (id: string) => etcd.members?.find((member) => member.id === id)?.name || id;
  return (etcd.alarms ?? []).flatMap(({ member, alarm }): Found[] => {
    const text = `etcd has raised ${alarm} for member '${name(member)}'`;
    if (alarm === "NOSPACE") return [{ code: "EPS-606", text: `${text}: it takes no puts` }];
    return alarm === "CORRUPT"
      ? [{ code: "EPS-607", text: `${text}: its data differs from the others'` }]
      : [];
  });
}

function room(address: string, { db_bytes, db_in_use_bytes, quota_bytes }: EtcdMember): Found[] {
  if (quota_bytes === null || db_bytes < NEARLY_FULL * quota_bytes) return [];
  const text = `etcd's database at '${address}' has ${bytesText(db_bytes)} of its ${
    bytesText(quota_bytes)
  }, ${bytesText(db_in_use_bytes)} of them in use`;
  return [{ code: "EPS-712", text }];
}

function bugs(members: { member: EtcdMember }[]): Found[] {
  const versions = [...new Set(members.map(({ member }) => member.version))];
  return versions.flatMap((version) =>
    etcdVersion(version).warnings.map((bug): Found => ({ code: "EPS-711", text: `etcd ${version}: ${bug}` }))
  );
}

function streamSide(seen: Seen, report: StreamReport, stream: StreamState): Found[] {
  return [
    ...asked(report),
    ...leadership(report),
    ...history(seen, report, stream),
    ...blocked(report),
    ...(report.paused ? [] : [...freshness(seen, stream), ...waiting(report)]),
    ...limit(report),
    ...drift(report, stream),
    ...overdue(report, stream),
    ...losses(report),
    ...happened(report),
    ...silent(report),
    ...retention(report),
  ];
}

function asked({ paused, now }: StreamReport): Found[] {
  if (!paused) return [];
  const why = paused.reason ? `: ${paused.reason}` : "";
  const age = ageText(secondsBetween(paused.since, now)!);
  return [{
    code: "EPS-610",
    text: `Paused by '${paused.by}' for ${age}, since ${timeText(paused.since)}${why}`,
  }];
}

/** Whether somebody holds the place now. */
export function isLed({ leader, now }: StreamReport): boolean {
  return leader !== null && Date.parse(leader.lease_until) >= Date.parse(now);
}

function leadership(report: StreamReport): Found[] {
  if (isLed(report)) return [];
  const { leader, instances, now } = report;
  if (leader) {
    const age = ageText(secondsBetween(leader.lease_until, now)!);
    const others = instances.filter((instance) => !instance.leader).length;
    const next = others > 0 ? `${plural(others, "standby")} should take over` : "no other instance runs";
    return [{
      code: "EPS-601",
      text: `The writer's lease ran out ${age} ago: it is frozen, ended or cut off; ${next}`,
    }];
  }
  const text = instances.length === 0
    ? "No instance runs: none has a session with PostgreSQL"
    : `${plural(instances.length, "instance")} ${
      instances.length === 1 ? "runs" : "run"
    }, and none is the writer: it begins anew, or cannot use etcd`;
  return [{ code: "EPS-601", text }];
}

function history({ etcd }: Seen, report: StreamReport, { cluster_id, revision }: StreamState): Found[] {
  if (etcd.cluster_id === null || etcd.revision === null || cluster_id === null) return [];
  if (etcd.cluster_id !== cluster_id) {
    const text = `etcd answers as cluster ${etcd.cluster_id}, the mirror is of cluster ${cluster_id}`;
    return [{ code: "EPS-612", text }];
  }
  // while there is a writer, the checkpoint may have moved on since etcd was asked
  if (isLed(report) || etcd.revision >= revision) return [];
  const text = `etcd is at revision ${etcd.revision}, the mirror at ${revision}: etcd was restored`;
  return [{ code: "EPS-612", text }];
}

function blocked({ blockers, now }: StreamReport): Found[] {
  return blockers.map(({ pid, user, application, transaction_since }): Found => {
    const since = secondsBetween(transaction_since, now);
    const age = since === null ? "" : `, in a transaction for ${ageText(since)}`;
    const who = `session ${pid}${user ? ` of '${user}'` : ""}${application ? ` (${application})` : ""}`;
    return {
      code: "EPS-706",
      text: `Locks of ${who}${age} stand in the way`,
      advice: `Commit or end that session: select pg_terminate_backend(${pid})`,
    };
  });
}

const WHOLE = ["streaming", "draining"];

/** Whether the mirror is a point of etcd's history. */
export function isWhole({ state }: StreamState): boolean {
  return WHOLE.includes(state);
}

function freshness({ etcd, postgres, fresh_timeout }: Seen, stream: StreamState): Found[] {
  const { now } = postgres.report!;
  if (!isWhole(stream)) {
    const where = stream.scan_cursor === null
      ? "no page is in yet"
      : `it is at key ${quoteKey(stream.scan_cursor)}, the last page came ${
        ageText(secondsBetween(stream.updated_at, now)!)
      } ago`;
    return [{ code: "EPS-603", text: `A scan is under way (state '${stream.state}'): ${where}` }];
  }
  if (stream.fresh_age !== null && stream.fresh_age <= fresh_timeout) return [];
  const behind = etcd.revision === null
    ? ""
    : `; it is ${plural(Math.max(0, etcd.revision - stream.revision), "revision")} behind etcd`;
  const text = stream.fresh_at === null
    ? `The mirror was never proved fresh${behind}`
    : `The mirror was proved fresh ${ageText(stream.fresh_age!)} ago, at ${
      timeText(stream.fresh_at)
    }${behind}`;
  return [{ code: "EPS-602", text }];
}

function waiting({ wal }: StreamReport): Found[] {
  if (wal.oldest === null || wal.oldest.age <= WAIT_SECONDS) return [];
  const { ticket, key, age } = wal.oldest;
  const which = key === null ? `ticket ${ticket}` : `ticket ${ticket} of key ${quoteKey(key)}`;
  const all = `${wal.pending_is_estimate ? "at most " : ""}${plural(wal.pending, "write")}`;
  return [{
    code: "EPS-604",
    text: `${all} from SQL ${wal.pending === 1 ? "waits" : "wait"} for etcd, the oldest (${which}) for ${
      ageText(age)
    }`,
  }];
}

function limit({ wal }: StreamReport): Found[] {
  if (wal.limit === null) return [];
  const text = `${countText(wal.pending)} of ${countText(wal.limit)} writes wait for etcd`;
  if (wal.full) return [{ code: "EPS-609", text: `${text}: new ones are refused` }];
  return wal.pending >= NEARLY_FULL * wal.limit ? [{ code: "EPS-708", text }] : [];
}

function drift({ verification: last }: StreamReport, { timeline }: StreamState): Found[] {
  if (!last?.verified_at || last.timeline !== timeline) return [];
  const { missing, extra, different } = last;
  if (!missing && !extra && !different) return [];
  const text = `The verification of ${timeText(last.verified_at)} has left differences from etcd: ` +
    `missing ${missing}, too many ${extra}, different ${different}`;
  return [{ code: "EPS-611", text }];
}

/** Before the first time it counts from the installation, as in the metric. */
function overdue({ verification, now }: StreamReport, { installed_at }: StreamState): Found[] {
  const last = verification?.verified_at ?? null;
  const age = secondsBetween(last ?? installed_at, now)!;
  if (age <= VERIFY_SECONDS) return [];
  const text = last === null
    ? `In ${ageText(age)} since it was installed the mirror was never compared with etcd`
    : `The mirror was last compared with etcd ${ageText(age)} ago`;
  return [{ code: "EPS-721", text }];
}

function losses(
  { losses: { conflicts_last_day, failures_last_day, open_conflicts, open_failures, newest } }: StreamReport,
): Found[] {
  const one = (code: Code, kind: Loss["kind"], what: string, count: number, open: number): Found[] => {
    if (count === 0 || open === 0) return [];
    const some = newest.filter((loss) => loss.kind === kind && loss.open).slice(0, 3)
      .map(({ ticket, key }) => `ticket ${ticket}${key === null ? "" : ` (${quoteKey(key)})`}`);
    const which = some.length > 0 ? `, the newest: ${some.join(", ")}` : "";
    return [{
      code,
      text: `${
        plural(count, "transaction")
      } ${what} in the last day; not retried or discarded: ${open}${which}`,
    }];
  };
  return [
    ...one("EPS-705", "failed", "refused by etcd", failures_last_day, open_failures),
    ...one("EPS-704", "conflict", "lost to etcd", conflicts_last_day, open_conflicts),
  ];
}

/** What was, in the last day. */
function happened({ events }: StreamReport): Found[] {
  const told: [kind: string, code: Code, text: string, least: number][] = [
    ["history-replaced", "EPS-715", "etcd's history was replaced", 1],
    ["commits-lost", "EPS-709", "PostgreSQL had lost commits", 1],
    ["marker-gone", "EPS-710", "the marker was deleted in etcd", 1],
    ["key-skipped", "EPS-707", "keys too long to be mirrored were written", 1],
    ["leader", "EPS-701", "the writer changed", OFTEN.leader],
    ["scan-started", "EPS-702", "the mirror had to be scanned anew", OFTEN.scan],
  ];
  return told.flatMap(([kind, code, text, least]): Found[] => {
    const event = events[kind];
    if (!event || event.count < least) return [];
    return [{
      code,
      text: `In the last day ${text}: ${plural(event.count, "time")}, last at ${timeText(event.at)}`,
    }];
  });
}

function silent({ instances }: StreamReport): Found[] {
  return instances.filter(({ leader, silent_for }) => !leader && (silent_for ?? 0) > SILENT_SECONDS)
    .map(({ pid, address, silent_for }): Found => ({
      code: "EPS-716",
      text: `The standby ${address ? `at ${address}` : `with session ${pid}`} has asked nothing for ${
        ageText(silent_for!)
      }`,
    }));
}

function retention({ retention: kept, now }: StreamReport): Found[] {
  if (!kept?.newest_mark || kept.newest_mark === kept.passed_mark) return [];
  const held = secondsBetween(kept.passed_mark ?? kept.oldest_mark, now) ?? 0;
  if (held <= RETENTION_SECONDS) return [];
  const oldest = kept.oldest_transaction;
  const who = oldest
    ? `; the oldest transaction is of session ${oldest.pid}${
      oldest.user ? ` ('${oldest.user}')` : ""
    }, open for ${ageText(secondsBetween(oldest.since, now)!)}`
    : "";
  return [{ code: "EPS-714", text: `For ${ageText(held)} no settled write could go${who}` }];
}
