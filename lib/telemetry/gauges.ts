/**
 * What is read when somebody asks: what this instance knows of itself, and what PostgreSQL says of the stream. Any instance
 * tells the latter, so it is there also while none leads; two of them tell the same.
 */
import type { Attributes, BatchObservableResult, Meter, ObservableGauge } from "@opentelemetry/api";
import { STATES } from "../machine.ts";
import { COUNTED, type Observation } from "../postgres/observe.ts";
import type { Observer } from "./observer.ts";
import { ROLES, type Vitals } from "./vitals.ts";

export interface Watched {
  stream: string;
  version: string;
  /** An answer that is older does not count as one. */
  freshTimeoutMs: () => number;
  vitals: Vitals;
  observer: Observer;
}

export function addGauges(meter: Meter, watched: Watched): void {
  const own = ownGauges(meter);
  const stream = streamGauges(meter);
  meter.addBatchObservableCallback(
    (result) => tellOwn(result, own, watched),
    Object.values(own),
  );
  meter.addBatchObservableCallback(async (result) => {
    if (watched.vitals.role === "starting") return; // the schema may not be there
    const labels = { stream: watched.stream };
    const seen = await watched.observer.look();
    result.observe(stream.up, watched.observer.answered ? 1 : 0, { ...labels, server: "postgres" });
    const etcd = etcdAnswers(watched);
    if (etcd !== null) result.observe(stream.up, etcd ? 1 : 0, { ...labels, server: "etcd" });
    if (seen) tellStream(result, stream, seen, labels);
  }, Object.values(stream));
}

/**
 * null: not known, for only who has the place asks etcd. Where etcd is down, the place can go from one to the other and none
 * comes to lead: each remembers that it was etcd that failed it.
 */
function etcdAnswers({ vitals: { role, etcd, since, failed }, freshTimeoutMs }: Watched): boolean | null {
  if (role === "leader") return performance.now() - (etcd?.answeredAt ?? since) <= freshTimeoutMs();
  return (role === "taking" || role === "failing") && failed === "etcd" ? false : null;
}

function ownGauges(meter: Meter) {
  const gauge = gauges(meter);
  return {
    build: gauge("build_info", "The program's version"),
    role: gauge("role", "1 for the role that this instance has"),
    leader: gauge("leader", "Whether this instance is the stream's writer"),
    proof: gauge("proof_age_seconds", "Leader: age of its last proof that the mirror is fresh", "s"),
    etcdRevision: gauge("etcd_revision", "Leader: etcd's revision at its last linearizable read"),
    remaining: gauge("scan_remaining_keys", "Leader: keys that the scan under way has not read yet"),
    memory: meter.createObservableGauge("process_resident_memory_bytes", {
      description: "Resident memory",
      unit: "By",
    }),
    started: meter.createObservableGauge("process_start_time_seconds", {
      description: "When the process began, in seconds since 1970",
      unit: "s",
    }),
  };
}

const startedAt = (Date.now() - performance.now()) / 1_000;

function tellOwn(
  result: BatchObservableResult,
  gauges: ReturnType<typeof ownGauges>,
  { stream, version, vitals }: Watched,
): void {
  const labels = { stream };
  const now = performance.now();
  const { role, provenAt, etcd, scan } = vitals;
  result.observe(gauges.build, 1, { ...labels, version, deno: Deno.version.deno });
  result.observe(gauges.memory, Deno.memoryUsage().rss);
  result.observe(gauges.started, startedAt);
  for (const each of ROLES) result.observe(gauges.role, each === role ? 1 : 0, { ...labels, role: each });
  result.observe(gauges.leader, role === "leader" ? 1 : 0, labels);
  if (role !== "leader") return;
  if (provenAt !== null) result.observe(gauges.proof, (now - provenAt) / 1_000, labels);
  if (etcd) result.observe(gauges.etcdRevision, etcd.revision, labels);
  result.observe(gauges.remaining, scan?.remaining ?? 0, labels);
}

function streamGauges(meter: Meter) {
  const gauge = gauges(meter);
  return {
    up: gauge("server_up", "Whether the server answers this instance; only the leader asks etcd"),
    state: gauge("state", "1 for the state of the stream"),
    epoch: gauge("epoch", "Counts the leaderships"),
    timeline: gauge("timeline", "Counts the histories of etcd"),
    checkpoint: gauge("checkpoint_revision", "The revision of etcd that the mirror is at"),
    freshAge: gauge(
      "fresh_age_seconds",
      "All that etcd had acknowledged so long ago is in the mirror; +Inf: nothing is proved",
      "s",
    ),
    transactions: gauge(
      "wal_pending_transactions",
      `Transactions of SQL that wait for etcd, counted up to ${COUNTED}`,
    ),
    rows: gauge("wal_pending_rows", `Writes from SQL that wait for etcd, counted up to ${COUNTED}`),
    oldest: gauge("wal_oldest_age_seconds", "Age of the transaction whose turn it is; 0: none waits", "s"),
    limit: gauge("wal_limit_rows", "Writes from SQL that may wait (--wal-limit)"),
    room: gauge("wal_room_rows", "Writes that SQL may still queue before more are refused"),
    paused: gauge("paused", "Whether the stream is paused"),
    verified: gauge(
      "verification_last_success_timestamp_seconds",
      "When all of the mirror was last compared with etcd, in seconds since 1970; before the first time: when it was installed",
      "s",
    ),
    differences: gauge("verification_differences", "Keys in which they differed then, and were left so"),
  };
}

function tellStream(
  result: BatchObservableResult,
  gauges: ReturnType<typeof streamGauges>,
  seen: Observation,
  labels: Attributes,
): void {
  for (const state of STATES) {
    result.observe(gauges.state, state === seen.state ? 1 : 0, { ...labels, state });
  }
  result.observe(gauges.epoch, seen.epoch, labels);
  result.observe(gauges.timeline, seen.timeline, labels);
  result.observe(gauges.checkpoint, seen.revision, labels);
  result.observe(gauges.freshAge, seen.freshAge ?? Infinity, labels);
  result.observe(gauges.transactions, seen.transactions, labels);
  result.observe(gauges.rows, seen.rows, labels);
  result.observe(gauges.oldest, seen.oldestAge, labels);
  result.observe(gauges.paused, seen.paused ? 1 : 0, labels);
  result.observe(gauges.verified, seen.verifiedAt, labels);
  result.observe(gauges.differences, seen.differences, labels);
  if (seen.limit === null) return;
  result.observe(gauges.limit, seen.limit, labels);
  result.observe(gauges.room, seen.room!, labels);
}

function gauges(meter: Meter) {
  return (name: string, description: string, unit?: string): ObservableGauge =>
    meter.createObservableGauge(`etcd_pg_sync_${name}`, { description, unit });
}
