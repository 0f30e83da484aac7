/** The status page in each state of the stream, in a browser. */
import assert from "node:assert/strict";
import { Proxy } from "../robustness/proxy.ts";
import { hold, killed, streaming, untilBlocked, writeAndHold } from "../support/run.ts";
import { Browser, browserTest } from "../support/browser.ts";
import { Door } from "../support/pages.ts";
import { manyPuts } from "../support/samples.ts";
import { eventually, makeWorld } from "../support/world.ts";

/** More keys than the first page of a scan takes. */
const KEYS = 30_000;

browserTest("bootstrap shows how far it is, then streaming", async () => {
  await using world = await makeWorld();
  for (const ops of manyPuts(world.prefix, KEYS)) await world.etcd.txn(ops);
  const port = Number(/:(\d+)\//.exec(world.postgresDsn)![1]);
  await using slow = Proxy.listen(port);
  slow.slow({ bytesPerSecond: 400_000 }, "up"); // a page takes seconds
  const door = new Door();
  world.program(["-p", world.postgresDsn.replace(`:${port}/`, `:${slow.port}/`), ...door.args]);
  await using browser = await Browser.open();
  await eventually(() => door.get("/"));
  const visit = await browser.visit(door.url);
  await visit.untilState("bootstrap");
  await visit.untilText("#scan-text", /^10,000 keys read, 20,000 left$/);
  await visit.untilText("#verdict", /^Not healthy: 1 problem/);
  await visit.untilText("#findings", /EPS-603 ?A scan is under way/);
  await visit.shoot("bootstrap");
  slow.heal();
  await visit.untilState("streaming");
  await visit.untilText("#verdict", /^Healthy/);
  await visit.untilText("#events", /caught-up/);
  await visit.page.locator("#scan").waitFor({ state: "hidden" });
});

browserTest("streaming, then stale while the mirror is held up", async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, [...door.args, "--fresh-timeout", "2s"]);
  await using browser = await Browser.open();
  const visit = await browser.visit(door.url);
  await visit.untilState("streaming");
  await visit.untilText("#instance", /leader: fresh as of/);
  await visit.shoot("streaming");
  const release = await hold(world.session(), "lock table etcd_kv in exclusive mode");
  await world.etcd.put(world.key("a"), "1");
  await visit.untilText("#verdict", /^Not healthy/);
  await visit.untilText("#findings", /EPS-602/);
  await visit.untilText("#instance", /last proved to be fresh .* limit 2\.0 s/);
  await visit.shoot("stale");
  await release();
  await visit.untilText("#verdict", /^Healthy/);
});

browserTest("draining, with the write that waits", async () => {
  await using world = await makeWorld();
  const door = new Door();
  await streaming(world, door.args);
  await using browser = await Browser.open();
  const visit = await browser.visit(door.url);
  await visit.untilState("streaming");
  const batch = await writeAndHold(world, [["etcd_set($1, '1')", [world.key("a")]]]);
  await visit.untilState("draining");
  await visit.untilText("#facts", /1 pending/);
  await visit.untilText("#plots figure:nth-child(3) .value", /^1$/);
  await visit.shoot("draining");
  await batch.release();
  await visit.untilState("streaming");
  await visit.untilText("#plots figure:nth-child(3) .value", /^0$/);
});

browserTest("compaction-resync, with how far it is", async () => {
  await using world = await makeWorld();
  await killed(await streaming(world));
  for (const ops of manyPuts(world.prefix, KEYS)) await world.etcd.txn(ops);
  await world.etcd.compact(await world.etcd.revision());
  const release = await hold(world.session(), "lock table etcd_kv in exclusive mode");
  const door = new Door();
  const program = world.program(door.args);
  await untilBlocked(world, program, /etcd_kv/);
  await using browser = await Browser.open();
  const visit = await browser.visit(door.url);
  await visit.untilState("compaction-resync");
  await visit.untilText("#facts", /compaction-resync since .*etcd had compacted what was missing/);
  await visit.untilText("#events", /scan-started/);
  await visit.shoot("resync");
  await release();
  await visit.untilState("streaming");
});

browserTest("a standby shows the stream, and that it only waits", async () => {
  await using world = await makeWorld();
  await streaming(world);
  const door = new Door();
  world.program(door.args);
  await door.untilReady(200, /standby/);
  await using browser = await Browser.open();
  const visit = await browser.visit(door.url);
  await visit.untilState("streaming");
  await visit.untilText("#instance", /standby: another instance is the writer/);
  await visit.untilText("#plots figure:nth-child(1) .value", /^–$/);
  await visit.untilText("#plots figure:nth-child(3) .value", /^0$/);
  await visit.shoot("standby");
});

browserTest("disconnected, and right again by itself; another version brings its own page", async () => {
  await using world = await makeWorld();
  const door = new Door();
  const first = await streaming(world, door.args);
  await using browser = await Browser.open();
  const visit = await browser.visit(door.url);
  await visit.untilText("#link", /^live$/);
  await visit.untilText("#verdict", /^Healthy/); // the first proof comes within a second
  await visit.page.evaluate("document.body.dataset.mine = 'yes'");
  await killed(first);
  await visit.untilText("#link", /^disconnected since \d\d:\d\d:\d\dZ$/);
  await visit.untilText("#verdict", /^Not known; at \d\d:\d\d:\d\dZ healthy/); // never green by what was
  assert.deepEqual(await visit.violations(), []);
  await visit.shoot("disconnected");
  const second = await streaming(world, door.args);
  await visit.untilText("#link", /^live$/);
  await visit.untilText("#facts", /epoch 2/);
  await visit.page.locator("body[data-mine=yes]").waitFor(); // the same page
  await killed(second);
  // what it shows is part of the page's version
  await streaming(world, [...door.args, "--page-values"]);
  await visit.page.locator("#search").waitFor();
  await visit.untilText("#link", /^live$/);
  await visit.untilText("#facts", /epoch 3/);
});
