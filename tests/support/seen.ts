/** What `status` sees of a stream that is well, for tests to change. */
import type { Seen } from "../../lib/core/advise.ts";
import type { StreamReport, StreamState } from "../../lib/core/status.ts";

export const NOW = "2026-01-02T03:04:05.000Z";

/** `seconds` before NOW. */
export function before(seconds: number): string {
  return new Date(Date.parse(NOW) - seconds * 1_000).toISOString();
}

export function wellStream(): StreamState {
  return {
    name: "default",
    prefix: "/app/",
    one_way: false,
    installed_at: before(90_000),
    state: "streaming",
    change: { since: before(80_000), event: "caught-up", why: null },
    revision: 100,
    timeline: 1,
    cluster_id: "77",
    scan_cursor: null,
    scan_revision: 0,
    fresh_at: before(0.5),
    fresh_age: 0.5,
    updated_at: before(0.2),
  };
}

export function wellReport(): StreamReport {
  return {
    schema_version: 10,
    now: NOW,
    stream: wellStream(),
    epoch: 3,
    leader: { holder: "0c7c", epoch: 3, lease_until: before(-4), since: before(600) },
    instances: [
      {
        pid: 11,
        leader: true,
        address: "10.0.0.1",
        port: 40001,
        application: "etcd-pg-sync default",
        since: before(600),
        last_heard: before(0.3),
        silent_for: 0.3,
      },
      {
        pid: 12,
        leader: false,
        address: "10.0.0.2",
        port: 40002,
        application: "etcd-pg-sync default",
        since: before(500),
        last_heard: before(0.1),
        silent_for: 0.1,
      },
    ],
    blockers: [],
    paused: null,
    resyncs: [],
    wal: {
      pending: 0,
      pending_is_estimate: false,
      settled: { success: 5 },
      rows_estimate: null,
      oldest: null,
      limit: 1_000,
      full: false,
    },
    losses: { conflicts_last_day: 0, failures_last_day: 0, open_conflicts: 0, open_failures: 0, newest: [] },
    events: {},
    tables: { etcd_kv: { bytes: 24_576, rows_estimate: 7 } },
    verification: {
      verified_at: before(7_200),
      revision: 90,
      timeline: 1,
      keys: 7,
      missing: 0,
      extra: 0,
      different: 0,
      repaired: 0,
    },
    retention: {
      keeper: true,
      history_from: 1,
      retained_timeline: 1,
      retained_revision: 0,
      newest_mark: before(60),
      passed_mark: before(60),
      oldest_mark: before(90_000),
      oldest_transaction: null,
    },
  };
}

export function wellSeen(): Seen & { postgres: { report: StreamReport } } {
  return {
    at: NOW,
    stream: "default",
    schema: "public",
    prefix: "/app/",
    fresh_timeout: 10,
    postgres: { address: "postgres://db/app", version: "15.6", error: null, report: wellReport() },
    etcd: {
      endpoints: [{
        address: "etcd-1:2379",
        error: null,
        member: {
          id: "a1",
          version: "3.7.3",
          leader: "a1",
          learner: false,
          db_bytes: 20_480,
          db_in_use_bytes: 16_384,
          quota_bytes: 2_147_483_648,
          errors: [],
        },
      }],
      revision: 100,
      cluster_id: "77",
      error: null,
      alarms: [],
      members: [{ id: "a1", name: "one", learner: false }],
    },
  };
}
