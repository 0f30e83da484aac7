/** Without `--page-values` no page tells a key or a value, whatever has happened to them. */
import assert from "node:assert/strict";
import { Door } from "../support/pages.ts";
import { heldScan, hold, streaming, strict, writeAndHold } from "../support/run.ts";
import { quiet } from "../support/history.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

const encoder = new TextEncoder();
const SECRET = "plainly-visible";

/** Keys and values with the word in every place where they can be told. */
async function happen(world: World): Promise<{ release(): Promise<void> }> {
  const key = world.key(SECRET);
  await world.etcd.put(key, SECRET);
  await world.etcd.put(key, SECRET);
  await world.etcd.put(world.key(SECRET.repeat(200)), SECRET); // too long to be mirrored
  await quiet(world);
  await world.sql("select etcd_set($1, $2, 1)", [key, SECRET]); // loses
  await eventually(async () =>
    (await world.sql("select from etcd_sync_event where kind = 'conflict'")).length === 1
  );
  await world.sql("select etcd_resync($1)", [key]);
  await eventually(async () =>
    (await world.sql("select from etcd_sync_event where kind = 'resynced'")).length === 1
  );
  return await writeAndHold(world, [["etcd_set($1, $2)", [world.key(`${SECRET}/waits`), SECRET]]]);
}

const PATHS = ["/", "/status", "/metrics", "/readyz", "/healthz", "/page.js"];

Deno.test("keys and values are on no page", strict, async () => {
  await using world = await makeWorld();
  const [hidden, shown] = [new Door(), new Door()];
  await streaming(world, hidden.args);
  world.program([...shown.args, "--page-values"]);
  await shown.untilReady(200, /standby/);
  const held = await happen(world);
  await hidden.untilValue("wal_pending_rows", {}, (rows) => rows === 1);
  for (const path of PATHS) {
    assert.ok(!(await hidden.get(path)).text.includes(SECRET), path);
  }
  const frame = await eventually(async () => {
    const frame = await hidden.frame();
    return frame.view.events.some(({ kind }) => kind === "resynced") ? frame : undefined;
  });
  assert.ok(!JSON.stringify(frame).includes(SECRET), JSON.stringify(frame));
  assert.equal((await hidden.get(`/history?key=${SECRET}`)).status, 404);
  assert.ok(!(await hidden.get("/")).text.includes("<form"));

  // and by the one that shows them it is seen that they were there to be told
  const [status, told] = [(await shown.get("/status")).text, JSON.stringify(await shown.frame())];
  const { report } = JSON.parse(status).postgres;
  for (const part of [report.wal.oldest, report.losses.newest, report.events["key-skipped"].detail]) {
    assert.ok(JSON.stringify(part).includes(SECRET), JSON.stringify(part));
  }
  for (const kind of ["conflict", "resynced", "key-skipped"]) {
    assert.match(told, new RegExp(`"kind":"${kind}"[^{}]*${SECRET}`));
  }
  assert.ok((await shown.get(`/history?key=${world.key(SECRET)}`)).text.includes(SECRET));
  await held.release();
});

Deno.test("nor is the key that a scan has come to", strict, async () => {
  await using world = await makeWorld();
  for (let i = 0; i < 3; i++) await world.etcd.put(world.key(`${SECRET}${i}`), "1");
  const door = new Door();
  const scan = await heldScan(world, door.args);
  await door.untilReady(503, /not whole/);
  await world.sql("update etcd_sync_state set scan_cursor = convert_to($1, 'UTF8')", [world.key(SECRET)]);
  const { view } = await door.frame();
  assert.match(JSON.stringify(view.facts), /scan at '…'/);
  assert.ok(!JSON.stringify(view).includes(SECRET));
  await scan.release();
});

Deno.test("where keys are shown on loopback, a foreign name is not answered", strict, async () => {
  await using world = await makeWorld();
  const [hidden, shown] = [new Door(), new Door()];
  await streaming(world, hidden.args);
  world.program([...shown.args, "--page-values"]);
  await shown.untilReady(200);
  const ask = async (port: number, host: string) => {
    using connection = await Deno.connect({ hostname: "127.0.0.1", port });
    await connection.write(
      encoder.encode(`GET /readyz HTTP/1.1\r\nhost: ${host}\r\nconnection: close\r\n\r\n`),
    );
    return /^HTTP\/1\.1 (\d+)/.exec(await new Response(connection.readable).text())![1];
  };
  assert.equal(await ask(shown.port, "rebound.example"), "421");
  assert.equal(await ask(shown.port, `localhost:${shown.port}`), "200");
  assert.equal(await ask(shown.port, `[::1]:${shown.port}`), "200");
  assert.equal(await ask(hidden.port, "rebound.example"), "200");
});

Deno.test("a search that PostgreSQL cannot answer in time is given up", strict, async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, [...door.args, "--page-values"]);
  const release = await hold(world.session(), "lock table etcd_kv in access exclusive mode");
  const { status, text } = await door.get("/history?key=a");
  assert.equal(status, 503);
  assert.match(text, /^PostgreSQL: canceling statement due to lock timeout$/m);
  await release();
  assert.deepEqual(JSON.parse((await door.get("/history?key=nothing")).text).versions, []);
  for (const query of ["", "?key=", "?key=%00"]) {
    assert.equal((await door.get(`/history${query}`)).status, 400);
  }
});
