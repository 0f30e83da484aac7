/** What goes wrong before the program works: one clear line on stderr, and the exit code that the docs name. */
import assert from "node:assert/strict";
import { freePort } from "../../lib/embedded/ready.ts";
import { runProgram } from "../support/program.ts";
import { killed, streaming, strict } from "../support/run.ts";
import { installed } from "../support/schema.ts";
import { ownEtcd } from "../support/servers.ts";
import { makeWorld } from "../support/world.ts";
import { withUsers } from "../support/etcd_users.ts";

const EXIT = { configuration: 1, connection: 2, permission: 3 };

/** One line of its own, none of a stack; what is JSON is the log. */
function assertRefused(
  ended: { code: number; stdout: string; stderr: string },
  kind: keyof typeof EXIT,
  line: RegExp,
): void {
  const lines = ended.stderr.trimEnd().split("\n").filter((text) => !text.startsWith("{"));
  assert.equal(lines.length, 1, ended.stderr);
  const [, text, code] = /^(.*) \((EPS-\d{3})\)$/.exec(lines[0])!;
  assert.match(text, line);
  assert.equal(Number(code[4]), EXIT[kind], "the code's first digit is the exit code");
  assert.doesNotMatch(ended.stderr, /^\s+at /m);
  assert.doesNotMatch(ended.stderr, /hunter2/);
  assert.equal(ended.stdout, "");
  assert.equal(ended.code, EXIT[kind], ended.stderr);
}

Deno.test("arguments that are wrong", strict, async () => {
  const cases: [string[], RegExp][] = [
    [["start"], /^etcd-pg-sync: Cannot start without 'postgres-dsn': give --postgres-dsn, /],
    [
      ["start", "-e", "etcd://h"],
      /^etcd-pg-sync: Cannot start without 'postgres-dsn': give --postgres-dsn, /,
    ],
    [
      ["start", "-e", "http://me:hunter2@h/", "-p", "postgres://h"],
      /^etcd-pg-sync: Cannot read 'etcd-dsn' from --etcd-dsn: scheme must be 'etcd', got 'http' in 'http:\/\/me@h\/'$/,
    ],
    [
      ["start", "-e", "etcd://h", "-p", "host=h password=hunter2"],
      /^etcd-pg-sync: Cannot read 'postgres-dsn' from --postgres-dsn: /,
    ],
    [["start", "--no-such-flag"], /^etcd-pg-sync: .*unknown option '--no-such-flag'/],
    [["start", "--max-txn-op", "5"], /unknown option '--max-txn-op' \(Did you mean --max-txn-ops\?\)$/],
    [["strat"], /^etcd-pg-sync: .*unknown command 'strat'/],
    [["start", "--log-level", "loud"], /^etcd-pg-sync: Cannot read 'log-level' from --log-level: .*'loud'$/],
  ];
  for (const [args, line] of cases) assertRefused(await runProgram(args), "configuration", line);
});

Deno.test("--help and --version end with 0", strict, async () => {
  for (const args of [["--help"], ["start", "--help"], ["--version"]]) {
    const { code, stdout, stderr } = await runProgram(args);
    assert.deepEqual([code, stderr], [0, ""], args.join(" "));
    assert.ok(stdout.length > 0);
  }
});

Deno.test("no PostgreSQL server", strict, async () => {
  await using world = await makeWorld();
  const dsn = `postgres://me:hunter2@127.0.0.1:${freePort()}/db`;
  const where = new RegExp(
    `^etcd-pg-sync: Cannot use PostgreSQL at '${dsn.replace(":hunter2", "")}': .*ECONNREFUSED`,
  );
  assertRefused(await world.run("start", ["--postgres-dsn", dsn]), "connection", where);
});

Deno.test("no etcd server", strict, async () => {
  await using world = await makeWorld();
  const port = freePort();
  const ended = await world.run("start", ["--etcd-dsn", `etcd://127.0.0.1:${port}/x/`]);
  assertRefused(ended, "connection", new RegExp(`^etcd-pg-sync: Cannot use etcd at '127.0.0.1:${port}': `));
});

Deno.test("no such database, no such role", strict, async () => {
  await using world = await makeWorld();
  const other = new URL(world.postgresDsn);
  other.pathname = "/nothere";
  assertRefused(
    await world.run("start", ["-p", other.href]),
    "connection",
    /Cannot use PostgreSQL at '.*': database "nothere" does not exist$/,
  );
  const role = new URL(world.postgresDsn);
  role.username = "nobody_at_all";
  assertRefused(
    await world.run("start", ["-p", role.href]),
    "permission",
    /Cannot use PostgreSQL at '.*': .*"nobody_at_all"/,
  );
});

Deno.test("a wrong password for PostgreSQL", strict, async () => {
  await using world = await makeWorld();
  const role = `r_${world.database}`;
  await world.sql(`create role ${role} login password 'right'`);
  try {
    const dsn = new URL(world.postgresDsn);
    if (dsn.password === "") return; // this server asks for none
    [dsn.username, dsn.password] = [role, "hunter2"];
    const line = new RegExp(`: password authentication failed for user "${role}"$`);
    assertRefused(await world.run("start", ["-p", dsn.href]), "permission", line);
  } finally {
    await world.sql(`drop role ${role}`);
  }
});

Deno.test("a role without rights", strict, async () => {
  await using world = await makeWorld();
  const role = `r_${world.database}`;
  await world.sql(`create role ${role} login password 'hunter2'`);
  try {
    await world.sql("revoke create on schema public from public");
    const dsn = new URL(world.postgresDsn);
    [dsn.username, dsn.password] = [role, "hunter2"];
    assertRefused(
      await world.run("start", ["-p", dsn.href]),
      "permission",
      /permission denied for schema public$/,
    );
    assertRefused(
      await world.run("start", ["-p", dsn.href, "--schema", "theirs"]),
      "permission",
      /permission denied for database/,
    );
  } finally {
    await world.sql(`drop owned by ${role}`);
    await world.sql(`drop role ${role}`);
  }
});

Deno.test("a wrong password for etcd, and a user without rights", strict, async () => {
  await using server = await ownEtcd();
  await using world = await makeWorld();
  await withUsers(server);
  const dsn = (login: string) => `${server.dsn.replace("//", `//${login}@`)}x/`;
  assertRefused(
    await world.run("start", ["-e", dsn("root:hunter2")]),
    "permission",
    /^etcd-pg-sync: Cannot use etcd at '127/,
  );
  assertRefused(
    await world.run("start", ["-e", dsn("weak:weakpw")]),
    "permission",
    /^etcd-pg-sync: .*permission denied/,
  );
});

Deno.test("a database that is not UTF-8", strict, async () => {
  await using world = await makeWorld({ encoding: "LATIN1" });
  assertRefused(
    await world.run("start"),
    "configuration",
    /^etcd-pg-sync: Cannot use this database: its encoding must be 'UTF8', it is 'LATIN1'$/,
  );
});

Deno.test("another prefix, or another stream, than the schema holds", strict, async () => {
  await using world = await makeWorld();
  await killed(await streaming(world));
  const prefix = await world.run("start", ["-e", `${world.etcdDsn}deeper/`]);
  assertRefused(
    prefix,
    "configuration",
    new RegExp(
      `^etcd-pg-sync: Cannot start stream 'default' on prefix '${world.prefix}deeper/': it mirrors prefix '${world.prefix}'; `,
    ),
  );
  const stream = await world.run("start", ["--stream", "other"]);
  assertRefused(
    stream,
    "configuration",
    /^etcd-pg-sync: Cannot start stream 'other': the schema holds stream 'default'; /,
  );
});

Deno.test("a schema of a newer version", strict, async () => {
  await using world = await makeWorld();
  await installed(world, { prefix: world.prefix });
  await world.sql("insert into etcd_sync_migration (number) values (99)");
  assertRefused(
    await world.run("start"),
    "configuration",
    /^etcd-pg-sync: Cannot use schema 'public': its version is 99, this program knows versions up to \d+$/,
  );
});
