/** etcd is restored from a snapshot: its history goes back, and nothing but its content tells. */
import assert from "node:assert/strict";
import { crashed, events, streaming, strict } from "../support/run.ts";
import { backupTools, type OwnEtcd, ownEtcd } from "../support/servers.ts";
import { eventually, makeWorld, type Program, type World } from "../support/world.ts";
import { quiet } from "../support/history.ts";
import { runSteps, stepsUnder } from "../support/steps.ts";

const disasters = Deno.readTextFileSync(new URL("../../docs/disasters.md", import.meta.url));

const tools = await backupTools();
/** Says in the tests' list what is missing. */
function needs(bump: boolean): { name: string; ignore: boolean } {
  if (!tools) return { name: " (ignored: no etcdctl or etcdutl here)", ignore: true };
  if (bump && !tools.bump) return { name: " (ignored: no etcdutl 3.6 here)", ignore: true };
  return { name: "", ignore: false };
}

interface Restored {
  world: World;
  program: Program;
  server: OwnEtcd;
}

/** A key of each fate in the mirror, one of them after the snapshot; all of it is mirrored. */
async function withBackup(work: (made: Restored) => Promise<void>): Promise<void> {
  await using server = await ownEtcd();
  await using outer = await makeWorld();
  await using world = outer.on(server);
  for (const name of ["changed later", "deleted later", "stays"]) {
    await world.etcd.put(world.key(name), "early");
  }
  const program = await streaming(world);
  await world.sql("select etcd_set($1, 'early')", [world.key("by SQL")]);
  await quiet(world);
  await server.backup();
  await world.etcd.put(world.key("changed later"), "late");
  await world.etcd.delete(world.key("deleted later"));
  await world.sql("select etcd_set($1, 'late')", [world.key("by SQL")]);
  await world.etcd.put(world.key("made later"), "late");
  await quiet(world);
  await work({ world, program, server });
}

async function assertMirrorsEtcd(world: World): Promise<void> {
  await quiet(world);
  const etcd = (await world.etcd.range(world.prefix)).map((
    kv,
  ) => [String(kv.key), String(kv.value), kv.mod_revision]);
  const mirror = await world.sql('select key, value, revision from etcd order by key collate "C"');
  assert.deepEqual(mirror.map(Object.values), etcd);
}

async function assertWorks(world: World): Promise<void> {
  await world.sql("select etcd_set($1, 'after')", [world.key("by SQL")]);
  await eventually(async () => String((await world.etcd.get(world.key("by SQL")))?.value) === "after");
  await assertMirrorsEtcd(world);
}

const back = needs(false);
Deno.test(
  `the revision goes back under a running program: a new timeline, and what waits becomes a conflict${back.name}`,
  { ...strict, ignore: back.ignore },
  () =>
    withBackup(async ({ world, server }) => {
      const { revision } = (await world.state())!;
      await server.stop();
      await world.sql("select etcd_set($1, 'meanwhile')", [world.key("stays")]);
      await server.restore();
      await server.start();
      await eventually(async () => (await world.state())!.timeline === 2);
      await assertMirrorsEtcd(world);
      const [{ status, error_message }] = await world.sql(
        "select status, error_message from etcd_wal order by id desc limit 1",
      );
      assert.equal(status, "conflict", error_message);
      // the old history is kept under its own timeline
      const before = await world.sql("select key from etcd_at($1, 1) order by key", [revision]);
      assert.deepEqual(
        before.map(({ key }) => key),
        ["by SQL", "changed later", "made later", "stays"].map(world.key, world),
      );
      await assertWorks(world);
    }),
);

Deno.test(
  `what a restore has lost the mirror knows, and docs/disasters.md writes it back${back.name}`,
  { ...strict, ignore: back.ignore },
  () =>
    withBackup(async ({ world, server }) => {
      await server.stop();
      await server.restore();
      await server.start();
      await eventually(async () => (await world.state())!.timeline === 2);
      await assertMirrorsEtcd(world);
      const steps = stepsUnder(disasters, "etcd is restored from a snapshot");
      await runSteps(steps.filter(({ language }) => language === "sql"), world);
      await assertMirrorsEtcd(world);
      assert.deepEqual((await world.sql("select key, value from etcd order by key")).map(Object.values), [
        [world.key("by SQL"), "late"],
        [world.key("changed later"), "late"],
        [world.key("deleted later"), "early"], // the restore has it again, nobody wrote it
        [world.key("made later"), "late"],
        [world.key("stays"), "early"],
      ]);
    }),
);

Deno.test(
  `restored while the program is down, and gone on past the checkpoint: the marker and the newest row tell${back.name}`,
  { ...strict, ignore: back.ignore },
  () =>
    withBackup(async ({ world, program, server }) => {
      await crashed(world, program);
      const { revision } = (await world.state())!;
      await server.stop();
      await server.restore();
      await server.start();
      await eventually(() => world.etcd.revision());
      while (await world.etcd.put(world.key("goes on"), "x") <= revision + 5);
      await streaming(world);
      await eventually(async () => (await world.state())!.timeline === 2);
      const [{ detail }] = await events(world, "history-replaced");
      assert.equal(detail.cluster_id, detail.old_cluster_id);
      await assertMirrorsEtcd(world);
      await assertWorks(world);
    }),
);

const bumped = needs(true);
Deno.test(
  `restored with --bump-revision --mark-compacted: it shows as compacted, and the merge finds the other history${bumped.name}`,
  { ...strict, ignore: bumped.ignore },
  () =>
    withBackup(async ({ world, server }) => {
      await server.stop();
      await server.restore(["--bump-revision=1000000", "--mark-compacted"]);
      await server.start();
      await eventually(async () => (await world.state())!.revision > 1_000_000);
      await assertMirrorsEtcd(world);
      assert.equal((await world.state())!.timeline, 2);
      await assertWorks(world);
    }),
);
