/** `--listen`: what a probe and a person read, of a run that is well and of one that is not. */
import assert from "node:assert/strict";
import { freePort } from "../../lib/embedded/ready.ts";
import { COUNTED, observe, openObserver } from "../../lib/postgres/observe.ts";
import { Door } from "../support/pages.ts";
import { heldScan, hold, streaming, strict, untilStreaming } from "../support/run.ts";
import { quiet } from "../support/history.ts";
import { installed } from "../support/schema.ts";
import { ownEtcd } from "../support/servers.ts";
import { makeWorld, type World } from "../support/world.ts";
import { Proxy } from "../robustness/proxy.ts";

/** PostgreSQL through a proxy. */
function throughProxy(world: World): { proxy: Proxy; args: string[] } {
  const port = Number(/:(\d+)\//.exec(world.postgresDsn)![1]);
  const proxy = Proxy.listen(port);
  return { proxy, args: ["-p", world.postgresDsn.replace(`:${port}/`, `:${proxy.port}/`)] };
}

Deno.test("a leader that is fresh, and what it has done", strict, async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, door.args);
  assert.match(await door.untilReady(200), /^leader: fresh as of \d+\.\d s ago\n$/);
  assert.deepEqual(await door.get("/healthz"), {
    status: 200,
    text: "the loop runs\n",
    type: "text/plain; charset=utf-8",
  });
  await world.etcd.put(world.key("a"), "12345");
  await world.sql("select etcd_set($1, '1')", [world.key("b")]);
  await quiet(world);
  await door.untilValue("events_total", {}, (events) => events === 2);
  const [a, b] = [world.key("a").length + 5, world.key("b").length + 1];
  assert.equal(await door.value("event_bytes_total"), a + b);
  assert.ok((await door.value("commit_duration_seconds_count"))! >= 1);
  assert.equal(await door.value("txn_duration_seconds_count"), 1);
  assert.equal(await door.value("drain_batches_total", { result: "success" }), 1);
  assert.equal(await door.value("wal_rows_total", { result: "success" }), 1);
  assert.equal(await door.value("scans_total", { state: "bootstrap" }), 1);
  assert.equal(await door.value("state", { state: "streaming" }), 1);
  assert.equal(await door.value("state", { state: "bootstrap" }), 0);
  assert.equal(await door.value("leader"), 1);
  assert.equal(await door.value("paused"), 0);
  const { revision, epoch } = (await world.state())!;
  assert.ok((await door.value("checkpoint_revision"))! >= revision);
  await door.untilValue("etcd_revision", {}, (now) => now >= revision);
  assert.equal(await door.value("epoch"), epoch);
  assert.ok((await door.value("fresh_age_seconds"))! < 10);
});

Deno.test("only reading, and only what there is", strict, async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, door.args);
  await door.untilReady(200);
  const url = `http://127.0.0.1:${door.port}`;
  const other = await door.get("/nothing");
  assert.deepEqual([other.status, other.text], [404, "pages: / /metrics /healthz /readyz /status\n"]);
  for (const method of ["POST", "PUT", "DELETE"]) {
    const response = await fetch(`${url}/metrics`, { method });
    assert.deepEqual([response.status, response.headers.get("allow")], [405, "GET, HEAD"]);
    await response.body?.cancel();
  }
  const head = await fetch(`${url}/readyz`, { method: "HEAD" });
  assert.deepEqual([head.status, await head.text()], [200, ""]);
  const status = await door.get("/status");
  assert.equal(status.type, "application/json");
  assert.equal(JSON.parse(status.text).stream, "default");
});

Deno.test("an address that cannot be listened on", strict, async () => {
  await using world = await makeWorld();
  await using taken = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, () => new Response());
  const cases: [string, RegExp][] = [
    [
      `:${taken.addr.port}`,
      /^etcd-pg-sync: Cannot listen on '127\.0\.0\.1:\d+' \(listen\): another program listens there \(EPS-100\)$/,
    ],
    [
      "192.0.2.1:9187",
      /^etcd-pg-sync: Cannot listen on '192\.0\.2\.1:9187' \(listen\): it is not an address of this machine \(EPS-100\)$/,
    ],
    [
      "9187x",
      /^etcd-pg-sync: Cannot read 'listen' from --listen: wanted host:port, .* got '9187x' \(EPS-100\)$/,
    ],
    [
      "host:0",
      /^etcd-pg-sync: Cannot read 'listen' from --listen: wanted host:port, .* got 'host:0' \(EPS-100\)$/,
    ],
  ];
  for (const [listen, line] of cases) {
    const { code, stderr } = await world.run("start", ["--listen", listen, "--log-format", "json"]);
    const lines = stderr.trimEnd().split("\n").filter((text) => !text.startsWith("{"));
    assert.equal(lines.length, 1, stderr);
    assert.match(lines[0], line);
    assert.equal(code, 1);
  }
});

Deno.test("a standby is ready while PostgreSQL answers, and leads nothing", strict, async () => {
  await using world = await makeWorld();
  await streaming(world);
  const { proxy, args } = throughProxy(world);
  await using _ = proxy;
  const door = new Door();
  world.program([...args, ...door.args]);
  assert.equal(await door.untilReady(200), "standby: another instance is the writer\n");
  assert.equal(await door.value("leader"), 0);
  assert.equal(await door.value("role", { role: "standby" }), 1);
  assert.equal(await door.value("server_up", { server: "etcd" }), undefined, "a standby does not ask etcd");
  await door.untilValue("fresh_age_seconds", {}, (age) => age < 10); // it tells of the stream all the same
  proxy.hold("up", "down");
  await door.untilReady(503, /standby: PostgreSQL has not answered for|neither leader nor standby/);
  await door.untilValue("server_up", { server: "postgres" }, (up) => up === 0);
});

Deno.test("not ready during a scan; the reason says how far it is", strict, async () => {
  await using world = await makeWorld();
  const door = new Door();
  for (let i = 0; i < 3; i++) await world.etcd.put(world.key(`${i}`), "1");
  const scan = await heldScan(world, door.args);
  await door.untilReady(503, /^leader: the mirror is not whole \(bootstrap/);
  assert.equal(await door.value("state", { state: "bootstrap" }), 1);
  assert.equal(await door.value("fresh_age_seconds"), Infinity);
  await scan.release();
  await door.untilReady(200);
});

Deno.test("not ready while PostgreSQL is away, ready again when it is back", strict, async () => {
  await using world = await makeWorld();
  const { proxy, args } = throughProxy(world);
  await using _ = proxy;
  const door = new Door();
  await streaming(world, [...args, ...door.args]);
  await door.untilReady(200);
  await door.untilValue("server_up", { server: "postgres" }, (up) => up === 1);
  assert.equal(await door.value("server_up", { server: "etcd" }), 1);
  proxy.refuse();
  proxy.cut();
  await door.untilReady(503, /^neither leader nor standby for/);
  await door.untilValue("server_up", { server: "postgres" }, (up) => up === 0);
  assert.equal(await door.value("leader"), 0);
  assert.equal(await door.value("server_up", { server: "etcd" }), undefined, "it does not ask etcd any more");
  assert.equal((await door.get("/healthz")).status, 200, "a restart would not help");
  const before = (await door.value("fresh_age_seconds"))!;
  await door.untilValue("fresh_age_seconds", {}, (age) => age > before + 2);
  assert.ok((await door.value("reconnects_total", { server: "postgres" }))! > 0);
  assert.ok((await door.value("errors_total", { kind: "connection" }))! > 0);
  proxy.heal();
  await door.untilReady(200, /leader/);
  await door.untilValue("fresh_age_seconds", {}, (age) => age < before + 2);
});

Deno.test("not ready while etcd hangs, and while the mirror is held up", strict, async () => {
  await using outer = await makeWorld();
  await using server = await ownEtcd();
  await using world = outer.on(server);
  const door = new Door();
  const program = await streaming(world, [...door.args, "--fresh-timeout", "2s"]);
  await door.untilReady(200);
  server.freeze();
  await door.untilReady(503, /limit 2\.0 s: etcd does not answer linearizable reads/);
  await door.untilValue("server_up", { server: "etcd" }, (up) => up === 0);
  server.wake();
  await door.untilReady(200);
  const release = await hold(world.session(), "lock table etcd_kv in exclusive mode");
  await world.etcd.put(world.key("a"), "1");
  await door.untilReady(503, /etcd answers, the mirror does not reach its revision/);
  await release();
  await door.untilReady(200);
  await untilStreaming(world, program);
});

Deno.test("a write that waits is counted, with its age", strict, async () => {
  await using outer = await makeWorld();
  await using server = await ownEtcd();
  await using world = outer.on(server);
  const door = new Door();
  await streaming(world, door.args);
  await quiet(world);
  server.freeze();
  await world.sql("select etcd_set($1 || n, '1') from generate_series(1, 300) n", [world.key("a")]);
  await world.sql("select etcd_set($1, '1')", [world.key("b")]);
  await door.untilValue("wal_pending_rows", {}, (rows) => rows === 301);
  assert.equal(await door.value("wal_pending_transactions"), 2);
  const age = (await door.value("wal_oldest_age_seconds"))!;
  await door.untilValue("wal_oldest_age_seconds", {}, (now) => now > age + 1);
  server.wake();
  await door.untilValue("wal_oldest_age_seconds", {}, (now) => now === 0);
  await door.untilValue("wal_pending_rows", {}, (rows) => rows === 0);
});

Deno.test("an end while somebody reads, and while PostgreSQL hangs, is quick", strict, async () => {
  await using world = await makeWorld();
  const { proxy, args } = throughProxy(world);
  await using _ = proxy;
  const door = new Door();
  await streaming(world);
  const program = world.program([...args, ...door.args]);
  await door.untilReady(200);
  await using idle = await Deno.connect({ hostname: "127.0.0.1", port: door.port });
  await idle.write(new TextEncoder().encode("GET /metrics HTTP/1.1\r\nhost: x\r\n"));
  proxy.hold("up", "down");
  const reading = door.get("/metrics").catch(() => {});
  await program[Symbol.asyncDispose](); // SIGKILL after ten seconds
  await reading;
  assert.deepEqual(await program.status, { code: 0, signal: null });
});

Deno.test("no secret on any page", strict, async () => {
  await using world = await makeWorld();
  const door = new Door();
  const secret = "hunter2-and-more";
  const dsn = new URL(world.postgresDsn);
  const role = `r_${world.database}`;
  await world.sql(`create role ${role} superuser login password '${secret}'`);
  try {
    [dsn.username, dsn.password] = [role, secret];
    const etcd = world.etcdDsn.replace("etcd://", `etcd://user:${secret}@`);
    const program = world.program(["-p", dsn.href, "-e", etcd, ...door.args, "--log-level", "debug"], {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://user:${secret}@127.0.0.1:${freePort()}`,
      OTEL_EXPORTER_OTLP_HEADERS: `authorization=${secret}`,
    });
    await door.untilReady(200);
    await world.sql("select etcd_set($1, $2)", [world.key(secret), secret]);
    await quiet(world);
    await world.sql(`alter role ${role} nologin`);
    await world.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [role]);
    await door.untilReady(503);
    for (const path of ["/metrics", "/healthz", "/readyz", "/status", `/${secret}`]) {
      const { text } = await door.get(path);
      assert.ok(!text.includes(secret), `${path}: ${text}`);
    }
    program.kill("SIGTERM");
    await program.status;
    assert.deepEqual(program.output.filter((line) => line.includes(secret)), []);
  } finally {
    await world.sql(`drop owned by ${role} cascade`);
    await world.sql(`drop role ${role}`);
  }
});

Deno.test(
  "what waits is counted to the row: transactions of one row, of many, and one sent in parts",
  strict,
  async () => {
    await using world = await makeWorld();
    await installed(world, { prefix: world.prefix });
    await using session = await openObserver({
      dsn: world.postgresDsn,
      schema: world.schema,
      applicationName: "etcd-pg-sync test",
    });
    const put = (key: string, n: number) =>
      world.sql("select etcd_set($1 || n, '1') from generate_series(1, $2) n", [world.key(key), n]);
    const counted = async () => {
      const { transactions, rows } = await observe(session);
      return [transactions, rows];
    };
    assert.deepEqual(await counted(), [0, 0]);
    await put("a", 300);
    for (let i = 0; i < 5; i++) await put(`b${i}`, 1);
    assert.deepEqual(await counted(), [6, 305]);
    // 100 of the first have been sent, as etcd_drain_applied leaves them
    await world.sql("update etcd_wal set status = 'success' where id <= 100");
    await world.sql("update etcd_wal_tx set split_id = 101 where first_id = 1");
    assert.deepEqual(await counted(), [6, 205]);
    await put("c", 20_000);
    assert.deepEqual(await counted(), [7, COUNTED], "no more are counted");
  },
);
