/** PostgreSQL without room: its data folder is on a small file system of its own. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { startPostgres } from "../../lib/embedded/postgres.ts";
import { judged, quiet } from "../support/history.ts";
import { streaming, strict } from "../support/run.ts";
import { binaries, fastPostgres, tempDir } from "../support/servers.ts";
import { makeWorld } from "../support/world.ts";

/** Runs a command as it is; false where it does not work here. */
async function works(command: string, ...args: string[]): Promise<boolean> {
  const { success } = await new Deno.Command(command, { args, stdout: "null", stderr: "null" }).output()
    .catch(() => ({ success: false }));
  return success;
}

/** Only root may mount; the test's name says so where it is ignored. */
const ignore = Deno.uid() !== 0;
const name = `PostgreSQL is out of disk: one line, and when there is room all arrives${
  ignore ? " (ignored: not root)" : ""
}`;

Deno.test(name, { ...strict, ignore }, async () => {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const home = join(dir.path, "small");
  await Deno.mkdir(home);
  assert.ok(
    await works("mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", home),
    "wanted the right to mount a tmpfs",
  );
  stack.defer(async () => void await works("umount", "-l", home));
  const { bin } = await binaries();
  const settings = {
    ...fastPostgres,
    wal_level: "minimal",
    max_wal_senders: "0",
    max_wal_size: "64MB",
    max_prepared_transactions: "2",
  };
  const server = await startPostgres({ bin, dir: join(home, "pg"), settings });
  stack.defer(() => server.stop());
  const given = Deno.env.get("ETCD_PG_SYNC_TEST_POSTGRES")!;
  Deno.env.set("ETCD_PG_SYNC_TEST_POSTGRES", server.dsn);
  stack.defer(() => Deno.env.set("ETCD_PG_SYNC_TEST_POSTGRES", given));
  const world = stack.use(await makeWorld());

  const from = await world.etcd.put(world.key("a"), "1");
  const program = await streaming(world);
  await quiet(world);
  const ballast = join(home, "pg", "ballast");
  // all but a little: the next page of a table that grows does not fit
  await works("dd", "if=/dev/zero", `of=${ballast}`, "bs=64k");
  const values = Array.from({ length: 64 }, (_, i) => `${i}`.padEnd(200_000, crypto.randomUUID()));
  for (const [i, value] of values.entries()) await world.etcd.put(world.key(`b${i}`), value);
  await program.until((line) => /No space left on device/.test(JSON.stringify(line)));
  const told = () =>
    program.logs.filter((line) =>
      line.level === "warn" && /No space left on device/.test(JSON.stringify(line))
    );
  await program.until(() =>
    program.logs.filter((line) => line.msg === "this instance is the writer").length >= 3
  );
  assert.ok(told().length <= 2, JSON.stringify(told())); // of the stream, and of the housekeeping
  await Deno.remove(ballast);
  await judged(world, { from }, 60_000);
  await world.sql("select etcd_set($1, '2')", [world.key("a")]);
  await judged(world, { from });
});
