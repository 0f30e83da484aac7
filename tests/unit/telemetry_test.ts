import assert from "node:assert/strict";
import pino from "pino";
import { readConfig } from "../../lib/config.ts";
import { readSignals } from "../../lib/telemetry/environment.ts";
import { endSpan, Telemetry } from "../../lib/telemetry/telemetry.ts";
import { alive, ready, Vitals } from "../../lib/telemetry/vitals.ts";
import { Troubles } from "../../lib/troubles.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const MINUTE = 60_000;

function leading(state: "streaming" | "bootstrap" = "streaming", pausedAt: Date | null = null): Vitals {
  const vitals = new Vitals();
  vitals.leads({ state, revision: 7 }, { pausedAt });
  return vitals;
}

Deno.test("ready(): each role, and the reason in words", strict, () => {
  const now = performance.now();
  const say = (vitals: Vitals, at = now) => {
    const { good, why } = ready(vitals, 10_000, at);
    return `${good}: ${why}`;
  };
  const vitals = new Vitals();
  assert.equal(say(vitals), "false: starting: not connected yet");
  vitals.takes();
  assert.match(say(vitals), /^false: taking the writer's place for -?0\.0 s$/);
  vitals.fails("PostgreSQL: connect ECONNREFUSED 127.0.0.1:5432", "postgres");
  assert.match(
    say(vitals),
    /^false: neither leader nor standby for -?0\.0 s: PostgreSQL: connect ECONNREFUSED 127/,
  );
  vitals.takes();
  assert.match(say(vitals), /^false: taking .* s; before: PostgreSQL: connect ECONNREFUSED 127/);
  vitals.standsBy();
  assert.equal(say(vitals), "true: standby: another instance is the writer");
  assert.equal(
    say(vitals, vitals.beatAt + 12_000),
    "false: standby: PostgreSQL has not answered for 12 s",
  );
  const leader = leading();
  assert.equal(say(leader), "false: leader: not proved to be fresh yet");
  leader.provenAt = now - 9_000;
  assert.equal(say(leader), "true: leader: fresh as of 9.0 s ago");
  leader.provenAt = now - 11_000;
  assert.match(say(leader), /^false: .*11 s ago, limit 10 s: etcd does not answer linearizable reads$/);
  leader.etcd = { revision: 8, answeredAt: now };
  assert.match(say(leader), /: etcd answers, the mirror does not reach its revision$/);
  leader.stops();
  assert.equal(say(leader), "false: stopping");
  leader.fails("a step that was under way", null);
  assert.equal(say(leader), "false: stopping");
  const scanning = leading("bootstrap");
  scanning.scan = { keys: 5, remaining: 3 };
  assert.equal(say(scanning), "false: leader: the mirror is not whole (bootstrap, 5 keys read, 3 left)");
  const paused = leading("streaming", new Date(0));
  paused.provenAt = now;
  assert.match(say(paused), /^false: leader: paused since 1970-01-01T00:00:00\.000Z/);
});

Deno.test("which server failed it is known until it leads again", strict, () => {
  const vitals = new Vitals();
  vitals.takes();
  assert.equal(vitals.failed, null);
  vitals.fails("etcd: no answer for 10 s", "etcd");
  vitals.standsBy();
  vitals.takes();
  assert.equal(vitals.failed, "etcd");
  vitals.leads({ state: "streaming", revision: 7 }, { pausedAt: null });
  assert.equal(vitals.failed, null);
});

Deno.test("a role that is lost takes with it what was known in it", strict, () => {
  const vitals = leading();
  vitals.provenAt = performance.now();
  vitals.etcd = { revision: 8, answeredAt: performance.now() };
  vitals.standsBy();
  assert.deepEqual([vitals.at, vitals.provenAt, vitals.etcd], [null, null, null]);
});

Deno.test(
  "alive(): a loop that is not heard of for minutes wants a restart, a start that takes long does not",
  strict,
  () => {
    const vitals = new Vitals();
    assert.equal(alive(vitals, vitals.beatAt + 10 * MINUTE).good, true);
    vitals.standsBy();
    assert.equal(alive(vitals, vitals.beatAt + MINUTE).good, true);
    assert.deepEqual(alive(vitals, vitals.beatAt + 3 * MINUTE), {
      good: false,
      why: "the loop has not been heard of for 180 s",
    });
  },
);

Deno.test("a trouble is told once an episode, and so is its end", strict, () => {
  const lines: { level: number; msg: string; times?: number }[] = [];
  const log = pino({ level: "debug" }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const troubles = new Troubles(log);
  for (let i = 0; i < 100; i++) {
    troubles.tell("watch", {}, "broke", i * 10_000);
    troubles.over("watch", "works", i * 10_000 + 1);
  }
  troubles.tell("writes", {}, "refused", 0);
  troubles.tell("watch", {}, "broke", 100 * 10_000 + 10 * MINUTE);
  const loud = lines.filter(({ level }) => level > 20).map(({ level, msg }) => [level, msg]);
  assert.deepEqual(loud, [[40, "broke"], [30, "works"], [40, "refused"], [40, "broke"]]);
  assert.equal(lines.filter(({ level }) => level === 20).at(-1)!.times, 100);
});

Deno.test("readSignals() reads the standard variables", strict, () => {
  const read = (env: Record<string, string>) => {
    const { metrics, traces } = readSignals((name) => env[name]);
    return { metrics, traces };
  };
  const url = "http://collector:4318";
  assert.deepEqual(read({}), { metrics: false, traces: false });
  assert.deepEqual(read({ OTEL_EXPORTER_OTLP_ENDPOINT: url }), { metrics: true, traces: true });
  assert.deepEqual(read({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: url }), { metrics: false, traces: true });
  assert.deepEqual(read({ OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: url }), { metrics: true, traces: false });
  assert.deepEqual(
    read({ OTEL_EXPORTER_OTLP_ENDPOINT: url, OTEL_TRACES_EXPORTER: "none" }),
    { metrics: true, traces: false },
  );
  assert.deepEqual(
    read({ OTEL_EXPORTER_OTLP_ENDPOINT: url, OTEL_SDK_DISABLED: "true" }),
    { metrics: false, traces: false },
  );
  assert.equal(
    readSignals((name) => name === "OTEL_EXPORTER_OTLP_PROTOCOL" ? "grpc" : undefined).otherProtocol,
    "grpc",
  );
  assert.throws(
    () => readSignals((name) => name === "OTEL_METRIC_EXPORT_INTERVAL" ? "1s" : undefined),
    /^Fatal: Cannot read 'OTEL_METRIC_EXPORT_INTERVAL': wanted milliseconds, got '1s'$/,
  );
});

Deno.test("without an exporter nothing is recorded, and attributes are not even asked for", strict, () => {
  const telemetry = new Telemetry("default");
  let asked = 0;
  const span = telemetry.span("scan", () => ({ n: ++asked }));
  assert.equal(span.isRecording(), false);
  endSpan(span, new Error("x"));
  telemetry.committed(1, 1, 0);
  telemetry.drained("success", 1);
  assert.equal(asked, 0);
});

Deno.test("--listen: short forms are this machine's own", strict, () => {
  const flags = { etcdDsn: "etcd://h", postgresDsn: "postgres://h" };
  const read = (listen?: string) => readConfig({ ...flags, listen }, {}).listen;
  assert.equal(read(), undefined);
  const own = { hostname: "127.0.0.1", port: 9187 };
  for (const text of [":9187", "9187", "127.0.0.1:9187"]) assert.deepEqual(read(text), own);
  assert.deepEqual(read("0.0.0.0:80"), { hostname: "0.0.0.0", port: 80 });
  assert.deepEqual(read("[::1]:80"), { hostname: "::1", port: 80 });
  for (const text of ["host", "host:", "host:0", "host:65536", "a:b:1", "me@host:80", ":9187 "]) {
    assert.throws(() => read(text), /Cannot read 'listen' from --listen: wanted host:port/);
  }
});
