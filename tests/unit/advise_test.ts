import assert from "node:assert/strict";
import { advise, exitOf } from "../../lib/core/advise.ts";
import { CODES } from "../../lib/core/codes.ts";
import { screen } from "../../lib/core/screen.ts";
import type { Instance, Loss } from "../../lib/core/status.ts";
import { before, wellReport, wellSeen } from "../support/seen.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

type World = ReturnType<typeof wellSeen>;

/** What is changed of a stream that is well, and what is told of it: nothing else. */
interface Case {
  name: string;
  change: (seen: World) => void;
  /** Code and text, in their order. */
  told: [code: string, text: RegExp][];
  exit: number;
  advice?: RegExp;
}

const stale = (seen: World) => {
  Object.assign(seen.postgres.report.stream!, { fresh_at: before(75), fresh_age: 75 });
};
const noAnswer = { code: "EPS-212", text: "no answer" } as const;
const loss = (kind: Loss["kind"], open: boolean): Loss => ({
  kind,
  ticket: 5,
  key: "/app/a",
  rows: 2,
  revision: 99,
  at: before(120),
  open,
  message: "because",
});
const standby = (seen: World): Instance => seen.postgres.report.instances[1];

const cases: Case[] = [
  { name: "all is well", change: () => {}, told: [], exit: 0 },
  {
    name: "PostgreSQL is down",
    change: ({ postgres }) => {
      Object.assign(postgres, { report: null, error: { code: "EPS-201", text: "connect ECONNREFUSED" } });
    },
    told: [["EPS-201", /^Cannot use PostgreSQL at 'postgres:\/\/db\/app': connect ECONNREFUSED$/]],
    exit: 2,
  },
  {
    name: "nothing is installed",
    change: ({ postgres }) => {
      Object.assign(postgres, {
        report: null,
        error: { code: "EPS-101", text: "Schema 'public' holds no stream" },
      });
    },
    told: [["EPS-101", /^Schema 'public' holds no stream$/]],
    exit: 1,
  },
  {
    name: "the schema is there, no stream was started",
    change: ({ postgres }) => void (postgres.report.stream = null),
    told: [["EPS-101", /holds no stream yet$/]],
    exit: 1,
  },
  {
    name: "another stream",
    change: ({ postgres }) => void (postgres.report.stream!.name = "other"),
    told: [["EPS-104", /holds stream 'other', asked for was 'default'$/]],
    exit: 1,
  },
  {
    name: "another prefix",
    change: ({ postgres }) => void (postgres.report.stream!.prefix = "/b/"),
    told: [["EPS-104", /mirrors prefix '\/b\/', 'etcd-dsn' says '\/app\/'$/]],
    exit: 1,
  },
  {
    name: "etcd is down",
    change: ({ etcd }) => {
      const error = { code: "EPS-211", text: "refused" } as const;
      Object.assign(etcd, { error, revision: null, cluster_id: null, alarms: null, members: null });
      Object.assign(etcd.endpoints[0], { error, member: null });
    },
    told: [["EPS-211", /^Cannot use etcd at 'etcd-1:2379': refused$/]],
    exit: 2,
  },
  {
    name: "one endpoint of two is down",
    change: ({ etcd }) => void etcd.endpoints.push({ address: "etcd-2:2379", error: noAnswer, member: null }),
    told: [["EPS-713", /^Endpoint 'etcd-2:2379' does not answer: no answer$/]],
    exit: 0,
  },
  {
    name: "etcd without a quorum",
    change: ({ etcd }) => {
      Object.assign(etcd, { error: noAnswer, revision: null, cluster_id: null });
      etcd.endpoints[0].member!.leader = "0";
    },
    told: [["EPS-608", /'etcd-1:2379' answers, and knows of none/], ["EPS-212", /no answer/]],
    exit: 2,
  },
  {
    name: "NOSPACE",
    change: ({ etcd }) => void (etcd.alarms = [{ member: "a1", alarm: "NOSPACE" }]),
    told: [["EPS-606", /^etcd has raised NOSPACE for member 'one': it takes no puts$/]],
    exit: 6,
    advice: /etcdctl alarm disarm/,
  },
  {
    name: "CORRUPT",
    change: ({ etcd }) => void (etcd.alarms = [{ member: "b2", alarm: "CORRUPT" }]),
    told: [["EPS-607", /^etcd has raised CORRUPT for member 'b2'/]],
    exit: 6,
  },
  {
    name: "etcd's quota",
    change: ({ etcd }) => void (etcd.endpoints[0].member!.db_bytes = 0.8 * 2_147_483_648),
    told: [["EPS-712", /has 1\.6 GiB of its 2\.0 GiB, 16\.0 KiB of them in use$/]],
    exit: 0,
  },
  {
    name: "a known bug",
    change: ({ etcd }) => void (etcd.endpoints[0].member!.version = "3.5.20"),
    told: [["EPS-711", /^etcd 3\.5\.20: its linearizable reads can be stale$/]],
    exit: 0,
  },
  {
    name: "paused, and nothing else is told of what follows from it",
    change: (seen) => {
      stale(seen);
      seen.postgres.report.paused = { since: before(90), by: "ann", reason: "move" };
    },
    told: [["EPS-610", /^Paused by 'ann' for 90 s, since 2026-01-02 03:02:35Z: move$/]],
    exit: 6,
  },
  {
    name: "no instance",
    change: ({ postgres: { report } }) => {
      report.leader = null;
      report.instances = [];
    },
    told: [["EPS-601", /^No instance runs/]],
    exit: 6,
  },
  {
    name: "instances, and none leads",
    change: ({ postgres: { report } }) => {
      report.leader = null;
      report.instances[0].leader = false;
    },
    told: [["EPS-601", /^2 instances run, and none is the writer/]],
    exit: 6,
  },
  {
    name: "a frozen writer",
    change: ({ postgres: { report } }) => void (report.leader!.lease_until = before(30)),
    told: [["EPS-601", /^The writer's lease ran out 30 s ago: .*; 1 standby should take over$/]],
    exit: 6,
  },
  {
    name: "a frozen writer alone",
    change: ({ postgres: { report } }) => {
      report.leader!.lease_until = before(30);
      report.instances.pop();
    },
    told: [["EPS-601", /; no other instance runs$/]],
    exit: 6,
  },
  {
    name: "a frozen standby",
    change: (seen) => void (standby(seen).silent_for = 11),
    told: [["EPS-716", /^The standby at 10\.0\.0\.2 has asked nothing for 11 s$/]],
    exit: 0,
  },
  {
    name: "stale",
    change: (seen) => {
      stale(seen);
      seen.etcd.revision = 107;
    },
    told: [[
      "EPS-602",
      /^The mirror was proved fresh 75 s ago, at 2026-01-02 03:02:50Z; it is 7 revisions behind etcd$/,
    ]],
    exit: 6,
  },
  {
    name: "never fresh",
    change: ({ postgres }) =>
      void Object.assign(postgres.report.stream!, { fresh_at: null, fresh_age: null }),
    told: [["EPS-602", /^The mirror was never proved fresh; it is 0 revisions behind etcd$/]],
    exit: 6,
  },
  {
    name: "bootstrap",
    change: ({ postgres }) => void (postgres.report.stream!.state = "bootstrap"),
    told: [["EPS-603", /^A scan is under way \(state 'bootstrap'\): no page is in yet$/]],
    exit: 6,
  },
  {
    name: "resync",
    change: ({ postgres }) => {
      Object.assign(postgres.report.stream!, {
        state: "compaction-resync",
        scan_cursor: "/app/m\n",
        updated_at: before(3),
      });
    },
    told: [["EPS-603", /: it is at key '\/app\/m\\x0a', the last page came 3\.0 s ago$/]],
    exit: 6,
  },
  {
    name: "a write waits",
    change: ({ postgres: { report: { wal } } }) => {
      Object.assign(wal, { pending: 2, oldest: { ticket: 4, key: "/app/a", since: before(61), age: 61 } });
    },
    told: [[
      "EPS-604",
      /^2 writes from SQL wait for etcd, the oldest \(ticket 4 of key '\/app\/a'\) for 61 s$/,
    ]],
    exit: 6,
  },
  {
    name: "a write that is on its way",
    change: ({ postgres: { report: { wal } } }) => {
      Object.assign(wal, { pending: 2, oldest: { ticket: 4, key: "/app/a", since: before(59), age: 59 } });
    },
    told: [],
    exit: 0,
  },
  {
    name: "the WAL is full",
    change: ({ postgres: { report: { wal } } }) => void Object.assign(wal, { pending: 1_000, full: true }),
    told: [["EPS-609", /^1,000 of 1,000 writes wait for etcd: new ones are refused$/]],
    exit: 6,
  },
  {
    name: "the WAL fills",
    change: ({ postgres: { report: { wal } } }) => void (wal.pending = 800),
    told: [["EPS-708", /^800 of 1,000 writes wait for etcd$/]],
    exit: 0,
  },
  {
    name: "losses",
    change: ({ postgres: { report: { losses } } }) => {
      Object.assign(losses, {
        conflicts_last_day: 3,
        open_conflicts: 2,
        failures_last_day: 1,
        open_failures: 1,
      });
      losses.newest = [loss("conflict", true), loss("conflict", false), loss("failed", true)];
    },
    told: [
      [
        "EPS-705",
        /^1 transaction refused by etcd in the last day; not retried or discarded: 1, the newest: ticket 5 \('\/app\/a'\)$/,
      ],
      [
        "EPS-704",
        /^3 transactions lost to etcd in the last day; not retried or discarded: 2, the newest: ticket 5 \('\/app\/a'\)$/,
      ],
    ],
    exit: 0,
  },
  {
    name: "losses that were dealt with",
    change: ({ postgres: { report: { losses } } }) => void (losses.conflicts_last_day = 3),
    told: [],
    exit: 0,
  },
  {
    name: "drift",
    change: ({ postgres: { report } }) =>
      void Object.assign(report.verification!, { missing: 1, different: 2 }),
    told: [["EPS-611", /has left differences from etcd: missing 1, too many 0, different 2$/]],
    exit: 6,
    advice: /validate --fix/,
  },
  {
    name: "no verification for long",
    change: ({ postgres }) => {
      postgres.report.verification!.verified_at = before(4 * 86_400);
    },
    told: [["EPS-721", /^The mirror was last compared with etcd 4 d ago$/]],
    exit: 0,
  },
  {
    name: "never a verification",
    change: ({ postgres }) => {
      postgres.report.verification = null;
      postgres.report.stream!.installed_at = before(4 * 86_400);
    },
    told: [["EPS-721", /^In 4 d since it was installed the mirror was never compared with etcd$/]],
    exit: 0,
  },
  {
    name: "drift in a timeline that is over",
    change: ({ postgres: { report } }) => {
      Object.assign(report.verification!, { missing: 1 });
      report.stream!.timeline = 2;
    },
    told: [],
    exit: 0,
  },
  {
    name: "never verified",
    change: ({ postgres: { report } }) => void Object.assign(report.verification!, { verified_at: null }),
    told: [],
    exit: 0,
  },
  {
    name: "locks of others",
    change: ({ postgres: { report } }) => {
      report.blockers = [{ pid: 99, user: "bob", application: "psql", transaction_since: before(20) }];
    },
    told: [[
      "EPS-706",
      /^Locks of session 99 of 'bob' \(psql\), in a transaction for 20 s stand in the way$/,
    ]],
    exit: 0,
    advice: /pg_terminate_backend\(99\)/,
  },
  {
    name: "another cluster",
    change: ({ etcd }) => void (etcd.cluster_id = "78"),
    told: [["EPS-612", /^etcd answers as cluster 78, the mirror is of cluster 77$/]],
    exit: 6,
  },
  {
    name: "etcd was restored, and nobody has seen it",
    change: (seen) => {
      seen.etcd.revision = 99;
      seen.postgres.report.leader = null;
    },
    told: [["EPS-601", /./], ["EPS-612", /^etcd is at revision 99, the mirror at 100: etcd was restored$/]],
    exit: 6,
  },
  {
    name: "the mirror has moved on since etcd was asked",
    change: ({ etcd }) => void (etcd.revision = 99),
    told: [],
    exit: 0,
  },
  {
    name: "what happened in the last day",
    change: ({ postgres: { report } }) => {
      const event = (count: number) => ({ count, at: before(3_600), detail: {} });
      report.events = {
        "history-replaced": event(1),
        "commits-lost": event(1),
        "marker-gone": event(2),
        "key-skipped": event(4),
        "leader": event(10),
        "scan-started": event(3),
      };
    },
    told: [
      ["EPS-715", /^In the last day etcd's history was replaced: 1 time, last at 2026-01-02 02:04:05Z$/],
      ["EPS-709", /./],
      ["EPS-710", /./],
      ["EPS-707", /: 4 times/],
      ["EPS-701", /the writer changed: 10 times/],
      ["EPS-702", /./],
    ],
    exit: 0,
  },
  {
    name: "a few changes of the writer and a few scans",
    change: ({ postgres: { report } }) => {
      const event = (count: number) => ({ count, at: before(3_600), detail: {} });
      report.events = { "leader": event(9), "scan-started": event(2) };
    },
    told: [],
    exit: 0,
  },
  {
    name: "retention is held up",
    change: ({ postgres: { report: { retention } } }) => {
      Object.assign(retention!, { passed_mark: before(7_300) });
      retention!.oldest_transaction = {
        pid: 8,
        user: "bob",
        application: "",
        state: "idle",
        since: before(7_400),
      };
    },
    told: [[
      "EPS-714",
      /^For 2 h no settled write could go; the oldest transaction is of session 8 \('bob'\), open for 2 h$/,
    ]],
    exit: 0,
  },
];

for (const { name, change, told, exit, advice } of cases) {
  Deno.test(`advise: ${name}`, strict, () => {
    const seen = wellSeen();
    change(seen);
    const findings = advise(seen);
    assert.deepEqual(findings.map(({ code }) => code), told.map(([code]) => code));
    findings.forEach(({ text }, i) => assert.match(text, told[i][1]));
    assert.equal(exitOf(findings), exit);
    if (advice) assert.match(findings[0].advice, advice);
    for (const { code, name, severity } of findings) {
      assert.equal(name, CODES[code].name);
      assert.equal(severity, code.startsWith("EPS-7") ? "warning" : "error");
    }
    const shown = screen({ ...seen, findings, exit_code: exit, healthy: exit === 0 });
    for (const { code, text } of findings) assert.ok(shown.includes(`${code} ${text}`), shown);
    assert.doesNotMatch(shown, /undefined|NaN|\[object|null/);
  });
}

Deno.test("exitOf is that of the most basic error, warnings change nothing", strict, () => {
  const seen = wellSeen();
  seen.etcd.alarms = [{ member: "a1", alarm: "NOSPACE" }];
  seen.postgres.report.stream!.prefix = "/b/";
  seen.postgres.report.wal.pending = 900;
  const findings = advise(seen);
  assert.deepEqual(findings.map(({ code }) => code), ["EPS-104", "EPS-606", "EPS-708"]);
  assert.equal(exitOf(findings), 1);
});

Deno.test("screen of a stream that is well", strict, () => {
  const seen = wellSeen();
  const shown = screen({ ...seen, findings: [], exit_code: 0, healthy: true });
  assert.deepEqual(shown.split("\n"), [
    "Stream 'default' is healthy (2026-01-02 03:04:05Z)",
    "",
    "state       streaming since 2026-01-01 04:50:45Z (22 h): the scan has caught up",
    "writer      10.0.0.1:40001 (session 11), epoch 3 since 2026-01-02 02:54:05Z (10 min), lease for 4.0 s",
    "standbys    10.0.0.2:40002 (session 12)",
    "mirror      revision 100 of etcd's 100 (0 behind), proved fresh 0.5 s ago",
    "WAL         0 pending (limit 1,000); 5 success, 0 conflict, 0 failed",
    "verified    2 h ago at revision 90: 7 keys, 0 differences left, 0 repaired",
    "tables      etcd_kv 24.0 KiB (about 7 rows)",
    "history     from revision 1; settled writes can go up to 60 s ago",
    "PostgreSQL  15.6 at 'postgres://db/app', schema 'public' of version 10",
    "etcd        3.7.3 at 'etcd-1:2379', leader, 20.0 KiB of 2.0 GiB",
    "            alarms: none; members: one",
    "",
  ]);
});

Deno.test("screen shows a state's cause, losses and requests", strict, () => {
  const seen = wellSeen();
  const report = wellReport();
  report.stream!.change = { since: before(10), event: "scan-started", why: "history-lost" };
  report.stream!.state = "compaction-resync";
  report.losses.newest = [loss("conflict", true), loss("failed", false)];
  report.resyncs = [{ id: 3, prefix: "/app/x", asked_at: before(5), asked_by: "ann", started_at: null }];
  seen.postgres.report = report;
  const shown = screen({ ...seen, findings: [], exit_code: 0, healthy: true });
  assert.match(shown, /state +compaction-resync since .*: etcd had compacted what was missing\n/);
  assert.match(shown, /lost +conflict 2 min ago: ticket 5 '\/app\/a' and 1 row with it: because\n/);
  assert.match(shown, /\n +failed 2 min ago: .*, retried or gone since: because\n/);
  assert.match(shown, /resync +3 of prefix '\/app\/x', asked 5\.0 s ago by 'ann', not started\n/);
});
