/** SIGHUP: what the files say by now. */
import assert from "node:assert/strict";
import { grantAll, guarded, loose } from "../support/guarded_etcd.ts";
import { quiet } from "../support/history.ts";
import { strict, untilStreaming } from "../support/run.ts";
import { tempDir } from "../support/servers.ts";
import { eventually, makeWorld, Program, type World } from "../support/world.ts";

/** Replaces the file as editors and kubelets do, and sends SIGHUP. */
async function change(program: Program, path: string, text: string): Promise<void> {
  await Deno.writeTextFile(`${path}.new`, text);
  await Deno.rename(`${path}.new`, path);
  program.kill("SIGHUP");
}

async function startedWith(world: World, path: string, text: string, args: string[] = []): Promise<Program> {
  await Deno.writeTextFile(path, text);
  const program = world.program(["--config", path, ...args]);
  await untilStreaming(world, program);
  return program;
}

const gate = async (world: World) => (await world.sql("select * from etcd_sync_gate"))[0];

Deno.test("SIGHUP changes what can change, and says what and from where", strict, async () => {
  await using world = await makeWorld();
  await using dir = await tempDir();
  const path = `${dir.path}/s.yaml`;
  const program = await startedWith(world, path, "max-deletes: 3\nwal-retention: never\nwal-limit: never\n");
  assert.equal((await gate(world)).max_deletes, 3);
  await world.sql("select etcd_set($1, '1')", [world.key("a")]);
  await quiet(world);

  await change(
    program,
    path,
    "log-level: debug\nmax-deletes: 1\noversize: refuse\nmax-txn-ops: 64\nwal-retention: 1s\nwal-limit: 5000\nverify-every: 1s\n",
  );
  const line = await program.until((line) => line.setting === "max-deletes");
  assert.deepEqual(
    [line!.level, line!.msg, line!.from, line!.to, line!.source],
    ["info", "setting changed", "3", "1", `${path}:2`],
  );
  const { max_deletes, refuse_oversize, max_txn_rows } = await gate(world);
  assert.deepEqual([max_deletes, refuse_oversize, max_txn_rows], [1, true, 63]);
  // the housekeeping sees the new retention and the new limit, the log its level
  await eventually(async () => (await world.sql("select from etcd_wal")).length === 0);
  await eventually(async () => (await gate(world)).wal_limit === 5_000);
  await program.until((line) => line.msg === "compared with etcd: the mirror is equal");
  await world.sql("select etcd_set($1, '2')", [world.key("a")]);
  await program.until((line) => line.level === "debug");

  await change(program, path, "max-deletes: 1\n");
  await program.until((line) =>
    line.setting === "oversize" && line.to === "split" && line.source === "default"
  );
  assert.equal((await gate(world)).refuse_oversize, false);
});

Deno.test("SIGHUP: what counts only after a restart is said, and stays", strict, async () => {
  await using world = await makeWorld();
  await using dir = await tempDir();
  const path = `${dir.path}/s.yaml`;
  const program = await startedWith(world, path, "");
  await change(program, path, "stream: other\nmax-deletes: 7\n");
  const line = await program.until((line) => line.setting === "stream");
  assert.deepEqual(
    [line!.level, line!.msg, line!.from, line!.to],
    ["warn", "setting changed: it counts after a restart", "default", "other"],
  );
  await program.until((line) => line.setting === "max-deletes");
  await world.etcd.put(world.key("a"), "1");
  await quiet(world);
  assert.equal((await world.state())?.stream, "default");
});

Deno.test("SIGHUP with a file that is wrong changes nothing, and is one line", strict, async () => {
  await using world = await makeWorld();
  await using dir = await tempDir();
  const path = `${dir.path}/s.yaml`;
  const program = await startedWith(world, path, "max-deletes: 3\n");
  await change(program, path, "max-deletes: 4\nmax-txn-ops: many\n");
  const line = await program.until((line) => line.level === "error");
  assert.equal(line!.msg, "settings were read again, and stay as they were");
  assert.equal(
    line!.error,
    `Cannot read 'max-txn-ops' from ${path}:2: wanted an integer from 2 to 10000, got 'many'`,
  );
  assert.equal((await gate(world)).max_deletes, 3);
  assert.equal(program.logs.filter(({ level }) => level === "error").length, 1);

  await change(program, path, "max-deletes: 5\n");
  await program.until((line) => line.setting === "max-deletes" && line.from === "3");
  program.kill("SIGHUP");
  await program.until((line) => line.msg === "settings were read again: nothing has changed");
});

Deno.test(
  "SIGHUP: another user of PostgreSQL, from a file, with the next connection; another database not",
  strict,
  async () => {
    await using world = await makeWorld();
    await using dir = await tempDir();
    const role = `next_${world.database}`;
    await world.sql(`create role ${role} superuser login password 'hunter2'`);
    try {
      const secret = `${dir.path}/dsn`;
      await Deno.writeTextFile(secret, world.postgresDsn);
      const path = `${dir.path}/s.yaml`;
      await Deno.writeTextFile(path, `postgres-dsn-file: ${secret}\n`);
      await using program = new Program(
        ["start", "--config", path, "-e", world.etcdDsn, "--log-format", "json"],
      );
      await untilStreaming(world, program);

      const next = new URL(world.postgresDsn);
      [next.username, next.password] = [role, "hunter2"];
      await change(program, secret, `${next.href}\n`);
      const line = await program.until((line) => line.setting === "postgres-dsn");
      assert.equal(line!.msg, "setting changed: it counts from the next connection on");
      assert.equal(line!.source, `${secret} (named by ${path}:1)`);
      await world.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'etcd-pg-sync%'",
      );
      await eventually(async () =>
        (await world.sql(
          "select distinct usename from pg_stat_activity where application_name like 'etcd-pg-sync%' and datname = current_database()",
        )).map(({ usename }) => usename).join() === role
      );
      await world.etcd.put(world.key("a"), "1");
      await quiet(world);

      next.pathname = "/elsewhere";
      await change(program, secret, next.href);
      await program.until((line) => line.setting === "postgres-dsn" && line.level === "warn");
      assert.ok(!program.output.join("\n").includes("hunter2"));
      program.kill("SIGTERM");
      await program.status;
    } finally {
      await world.sql(`drop owned by ${role}; drop role ${role}`);
    }
  },
);

Deno.test("SIGHUP: a password of etcd that was changed, from a file", loose, async () => {
  await using etcd = await guarded();
  await using dir = await tempDir();
  const { world } = etcd;
  const [user] = (await grantAll(etcd)).split(":");
  const secret = `${dir.path}/dsn`;
  await Deno.writeTextFile(secret, etcd.dsn(`${user}:secret`));
  await using program = new Program(
    ["start", "-p", world.postgresDsn, "--etcd-dsn-file", secret, "--log-format", "json"],
  );
  await untilStreaming(world, program);
  await etcd.ctl(["user", "passwd", user, "--interactive=false"], "hunter2\n");
  await change(program, secret, etcd.dsn(`${user}:hunter2`));
  await program.until((line) => line.setting === "etcd-dsn");
  await world.etcd.put(world.key("down"), "1");
  await world.sql("select etcd_set($1, '1')", [world.key("up")]);
  await quiet(world);
  assert.ok(!program.output.join("\n").includes("hunter2"));
});
