/** OpenTelemetry by OTLP, to a collector that is a few lines of HTTP. Names are plain text in its messages. */
import assert from "node:assert/strict";
import { quiet } from "../support/history.ts";
import { Door } from "../support/pages.ts";
import { refusal } from "../support/program.ts";
import { strict, untilStreaming } from "../support/run.ts";
import { eventually, makeWorld } from "../support/world.ts";

class Collector implements AsyncDisposable {
  /** What came, by its path. */
  readonly came = new Map<string, string>();
  readonly headers = new Map<string, string>();
  readonly #server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const { pathname } = new URL(request.url);
    const text = new TextDecoder("latin1").decode(await request.arrayBuffer());
    this.came.set(pathname, (this.came.get(pathname) ?? "") + text);
    request.headers.forEach((value, name) => this.headers.set(name, value));
    return new Response();
  });

  get variables(): Record<string, string> {
    return {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${this.#server.addr.port}`,
      OTEL_METRIC_EXPORT_INTERVAL: "200",
      OTEL_BSP_SCHEDULE_DELAY: "100",
    };
  }

  /** Waits until all of these have come. */
  async until(path: string, words: string[]): Promise<void> {
    await eventually(() => {
      const missing = words.filter((word) => !this.came.get(path)?.includes(word));
      if (missing.length > 0) throw new Error(`${path} lacks ${missing.join(", ")}`);
      return true;
    }, { timeoutMs: 30_000 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}

Deno.test("metrics and spans arrive, with the service's name and attributes", strict, async () => {
  await using collector = await Promise.resolve(new Collector());
  await using world = await makeWorld();
  await world.etcd.put(world.key("a"), "1");
  const program = world.program([], {
    ...collector.variables,
    OTEL_SERVICE_NAME: "our-sync",
    OTEL_RESOURCE_ATTRIBUTES: "team=blue",
    OTEL_EXPORTER_OTLP_HEADERS: "x-key=abc",
  });
  await untilStreaming(world, program);
  await world.sql("select etcd_set($1, '1')", [world.key("b")]);
  await quiet(world);
  await collector.until("/v1/metrics", [
    "our-sync",
    "blue",
    "etcd_pg_sync_fresh_age_seconds",
    "etcd_pg_sync_wal_rows",
    "etcd_pg_sync_commit_duration_seconds",
    "process_resident_memory_bytes",
  ]);
  await collector.until("/v1/traces", [
    "our-sync",
    "scan",
    "takeover",
    "mirror.commit",
    "drain.batch",
    "drain.claim",
    "drain.txn",
    "drain.settle",
    "wal_first",
    "revision",
  ]);
  assert.equal(collector.headers.get("content-type"), "application/x-protobuf");
  assert.equal(collector.headers.get("x-key"), "abc");
  for (const text of collector.came.values()) {
    assert.ok(!text.includes(world.key("b")), "keys are not told");
  }
});

Deno.test("a sampler that is off: metrics, no spans; what is left is sent at the end", strict, async () => {
  await using collector = await Promise.resolve(new Collector());
  await using world = await makeWorld();
  const program = world.program([], {
    ...collector.variables,
    OTEL_METRIC_EXPORT_INTERVAL: "3600000",
    OTEL_TRACES_SAMPLER: "always_off",
  });
  await untilStreaming(world, program);
  program.kill("SIGTERM");
  await program.status;
  assert.ok(collector.came.get("/v1/metrics")?.includes("etcd_pg_sync_scans"));
  assert.equal(collector.came.has("/v1/traces"), false);
});

Deno.test("a collector that is away is told once, and holds nothing up", strict, async () => {
  await using world = await makeWorld();
  const door = new Door();
  const program = world.program([...door.args, "--log-level", "debug"], {
    OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:1",
    OTEL_EXPORTER_OTLP_TIMEOUT: "300",
    OTEL_METRIC_EXPORT_INTERVAL: "300",
    OTEL_METRIC_EXPORT_TIMEOUT: "300",
  });
  await door.untilReady(200);
  const refused = () =>
    program.logs.filter(({ msg }) => msg === "the collector does not take metrics; trying on");
  await program.until(() => refused().length > 3, 30_000);
  assert.deepEqual(refused().filter(({ level }) => level === "warn").length, 1);
  await program[Symbol.asyncDispose]();
  assert.equal((await program.status).code, 0);
});

Deno.test("variables that are wrong: one line", strict, async () => {
  await using world = await makeWorld();
  const cases: [Record<string, string>, RegExp][] = [
    [
      { OTEL_EXPORTER_OTLP_ENDPOINT: "me:hunter2 at collector" },
      /^etcd-pg-sync: Cannot read 'OTEL_EXPORTER_OTLP_ENDPOINT': wanted a URL/,
    ],
    [
      { OTEL_METRIC_EXPORT_INTERVAL: "1s" },
      /^etcd-pg-sync: Cannot read 'OTEL_METRIC_EXPORT_INTERVAL': wanted milliseconds, got '1s'$/,
    ],
  ];
  for (const [env, line] of cases) {
    const { code, stderr } = await world.run("start", ["--log-format", "json"], env);
    assert.match(refusal(stderr), line);
    assert.doesNotMatch(stderr, /hunter2/);
    assert.equal(code, 1);
  }
});

Deno.test("Deno's own integration can be on beside it", strict, async () => {
  await using collector = await Promise.resolve(new Collector());
  await using world = await makeWorld();
  const program = world.program([], { ...collector.variables, OTEL_DENO: "true" });
  await untilStreaming(world, program);
  await world.sql("select etcd_set($1, '1')", [world.key("b")]);
  await quiet(world);
  await collector.until("/v1/metrics", ["etcd_pg_sync_wal_rows"]);
  await collector.until("/v1/traces", ["drain.batch"]);
});
