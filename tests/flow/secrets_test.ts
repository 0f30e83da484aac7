/**
 * Secrets are planted in every way in which they can be given, in right and in wrong configurations, and all that the
 * program writes is searched for them, also for a part of one, and for its percent-encoded form.
 */
import assert from "node:assert/strict";
import { freePort } from "../../lib/embedded/ready.ts";
import { grantAll, guarded, loose } from "../support/guarded_etcd.ts";
import { quiet } from "../support/history.ts";
import { eventually } from "../support/eventually.ts";
import { Door } from "../support/pages.ts";
import { Program, runProgram } from "../support/program.ts";
import { strict, untilStreaming } from "../support/run.ts";
import { tempDir } from "../support/servers.ts";

/** With what has a meaning in DSNs and in YAML; any two parts of it would do. */
const SECRET = "hunt@er:2/j%wqz?vx#42";
const PARTS = ["hunt", "er:2", "er%3A2", "%wq", "%25wq", "wqz", "vx#42", "vx%2342"];
const ENCODED = encodeURIComponent(SECRET);

function assertNoSecret(output: string, how: string): void {
  for (const part of PARTS) {
    assert.ok(!output.includes(part), `${how}: '${part}' is shown in\n${output}`);
  }
}

/** What is served, whatever it says. */
async function assertPages(door: Door, how: string): Promise<void> {
  for (const page of ["/metrics", "/healthz", "/readyz", "/status", "/nothing"]) {
    const { text } = await door.get(page);
    assert.notEqual(text, "", page);
    assertNoSecret(text, `${page} (${how})`);
  }
}

/** The exit codes of `status` as text and as JSON. */
async function assertStatus(args: string[], how: string): Promise<number[]> {
  const ended = [
    await runProgram(["status", ...args]),
    await runProgram(["status", "--format", "json", ...args]),
  ];
  for (const { stdout, stderr } of ended) {
    assert.notEqual(stdout, "");
    assertNoSecret(stdout + stderr, `status (${how})`);
  }
  return ended.map(({ code }) => code);
}

interface Given {
  args?: string[];
  env?: Record<string, string>;
  /** The content of a file of settings, and of a file of a secret that `SECRET_FILE` names. */
  yaml?: string;
  file?: string;
}

/** Wrong in some way, or on a port where nobody listens: each ends by itself. */
function ways(port: number): Record<string, Given> {
  const pg = `postgres://me:${ENCODED}@127.0.0.1:${port}/db`;
  const etcd = `etcd://me:${ENCODED}@127.0.0.1:${port}/app/`;
  const flags = ["-p", pg, "-e", etcd];
  const plain = ["-p", `postgres://me@127.0.0.1:${port}/db`, "-e", `etcd://127.0.0.1:${port}/app/`];
  return {
    "by flags": { args: flags },
    "by flags, not encoded": {
      args: [
        "-p",
        `postgres://me:${SECRET}@127.0.0.1:${port}/db`,
        "-e",
        `etcd://me:${SECRET}@127.0.0.1:${port}/`,
      ],
    },
    "not encoded, and as a whole DSN": {
      args: ["-p", "postgres://me:hunt@er:2/wqz@127.0.0.1:1/db", "-e", etcd],
    },
    "etcd's not encoded, and as a whole DSN": {
      args: ["-p", pg, "-e", "etcd://me:hunt@er:2/wqz@127.0.0.1:1/"],
    },
    "etcd's, not encoded": { args: ["-p", pg, "-e", `etcd://me:${SECRET}@127.0.0.1:${port}/`] },
    "as a parameter": { args: ["-p", `postgres://me@127.0.0.1:${port}/db?password=${ENCODED}`, "-e", etcd] },
    "as a parameter that is unknown": { args: ["-p", `postgres://me@h/db?pasword=${ENCODED}`, "-e", etcd] },
    "as a parameter, not encoded": { args: ["-p", `postgres://me@h/db?password=${SECRET}`, "-e", etcd] },
    "as a parameter of etcd": { args: ["-p", pg, "-e", `etcd://h/app/?password=${ENCODED}`] },
    "as tls of etcd": { args: ["-p", pg, "-e", `etcd://h/app/?tls=${ENCODED}`] },
    "as libpq's words": { args: ["-p", `host=db user=me password=${SECRET}`, "-e", etcd] },
    "with another scheme": { args: ["-p", pg.replace("postgres", "mysql"), "-e", etcd] },
    "etcd's with another scheme": { args: ["-p", pg, "-e", etcd.replace("etcd:", "https:")] },
    "as the whole of it": { args: ["-p", SECRET, "-e", SECRET] },
    "as the whole of etcd's": { args: ["-p", pg, "-e", SECRET] },
    "by variables": { env: { ETCD_PG_SYNC_POSTGRES_DSN: pg, ETCD_PG_SYNC_ETCD_DSN: etcd } },
    "by variables that are wrong": {
      env: { ETCD_PG_SYNC_POSTGRES_DSN: SECRET, ETCD_PG_SYNC_ETCD_DSN: SECRET },
    },
    "in a variable that is unknown": { args: flags, env: { ETCD_PG_SYNC_PASSWORD: SECRET } },
    "by PGPASSWORD": { args: plain, env: { PGPASSWORD: SECRET } },
    "by ETCDCTL_USER": { args: plain, env: { ETCDCTL_USER: `me:${SECRET}` } },
    "by ETCDCTL_PASSWORD": { args: plain, env: { ETCDCTL_USER: "me", ETCDCTL_PASSWORD: SECRET } },
    "in ETCDCTL_ENDPOINTS": {
      args: ["-p", pg, "-e", "etcd:///app/"],
      env: { ETCDCTL_ENDPOINTS: `http://me:${SECRET}@127.0.0.1:${port}` },
    },
    "in the file": { yaml: `postgres-dsn: '${pg}'\netcd-dsn: '${etcd}'\n` },
    "in the file, twice": { yaml: `postgres-dsn: '${pg}'\npostgres-dsn: '${pg}'\n` },
    "in the file, wrong": { yaml: `postgres-dsn: '${SECRET}'\netcd-dsn: '${etcd}'\n` },
    "in the file, under a wrong name": { yaml: `etcd-dsm: '${etcd}'\n` },
    "in the file, as a list": { yaml: `etcd-dsn:\n  - '${etcd}'\n` },
    "in the file, as a key": { yaml: `'${SECRET}': x\n` },
    "in the file, as all of it": { yaml: `${etcd}\n` },
    "in the file, as what is no YAML": { yaml: `postgres-dsn: &${SECRET} *${SECRET} "${SECRET}\n` },
    "in the file, with a wrong escape": { yaml: `postgres-dsn: "\\${SECRET}"\n` },
    "in the file, as a tag": { yaml: `postgres-dsn: !${SECRET} ${SECRET}\n` },
    "in the file, as another setting": { yaml: `postgres-dsn-file: '/run/x'\nstream: [${SECRET}]\n` },
    "in a file of its own": { file: etcd, args: ["-p", pg, "--etcd-dsn-file", "SECRET_FILE"] },
    "in a file of its own, of two lines": {
      file: `${etcd}\n${SECRET}`,
      args: ["-p", pg, "--etcd-dsn-file", "SECRET_FILE"],
    },
    "alone in a file of its own": { file: SECRET, args: ["-e", etcd, "--postgres-dsn-file", "SECRET_FILE"] },
    "alone in a file of its own, etcd's": {
      file: SECRET,
      args: ["-p", pg, "--etcd-dsn-file", "SECRET_FILE"],
    },
  };
}

for (const [how, { args = [], env = {}, yaml, file }] of Object.entries(ways(1))) {
  Deno.test(`no secret that is given ${how} is shown`, strict, async () => {
    await using dir = await tempDir();
    const [settings, secret] = [`${dir.path}/s.yaml`, `${dir.path}/secret`];
    if (yaml !== undefined) await Deno.writeTextFile(settings, yaml);
    if (file !== undefined) await Deno.writeTextFile(secret, file);
    const own = [
      ...args.map((arg) => arg === "SECRET_FILE" ? secret : arg),
      ...(yaml === undefined ? [] : ["--config", settings]),
    ];
    const commands = [
      ["start", "--log-level", "debug"],
      ["config"],
      ["config", "check", "--format", "json", "--log-level", "debug"],
      ["status"],
      ["status", "--format", "json"],
    ];
    // one line each, or an answer; never a stack, and never a success of what connects
    const ended = await Promise.all(commands.map((command) => runProgram([...command, ...own], { ...env })));
    for (const [i, { code, stdout, stderr }] of ended.entries()) {
      const command = `${commands[i].join(" ")} (${how})`;
      assertNoSecret(stdout + stderr, command);
      if (commands[i].join(" ") !== "config") assert.notEqual(code, 0, command);
      assert.doesNotMatch(stderr, /^\s+at /m, command);
      assert.ok(stdout + stderr !== "", command);
    }
  });
}

Deno.test(
  "no secret is shown by a program that works, is refused, logs in again and reads its settings again",
  loose,
  async () => {
    await using etcd = await guarded();
    await using dir = await tempDir();
    const { world } = etcd;
    const [user] = (await grantAll(etcd)).split(":");
    await etcd.ctl(["user", "passwd", user, "--interactive=false"], `${SECRET}\n`);
    const role = `secret_${world.database}`;
    await world.sql(`create role ${role} superuser login password '${SECRET}'`);
    try {
      const dsn = new URL(world.postgresDsn);
      const pg = `postgres://${role}:${ENCODED}@${dsn.host}${dsn.pathname}${dsn.search}`;
      const [pgFile, etcdFile] = [`${dir.path}/pg`, `${dir.path}/etcd`];
      await Deno.writeTextFile(pgFile, pg);
      await Deno.writeTextFile(etcdFile, etcd.dsn(`${user}:${ENCODED}`));
      const files = ["--postgres-dsn-file", pgFile, "--etcd-dsn-file", etcdFile];
      const door = new Door();
      await using program = new Program([
        "start",
        ...files,
        ...door.args,
        "--log-format",
        "json",
        "--log-level",
        "debug",
      ]);
      await untilStreaming(world, program);
      await world.sql("select etcd_set($1, '1')", [world.key("up")]);
      await quiet(world);
      const exits = async (how: string, ...wanted: number[]) => {
        await assertPages(door, how);
        assert.deepEqual(await assertStatus(files, how), wanted, how);
      };
      await door.untilReady(200);
      await exits("all is well", 0, 0);

      // a login that is refused, a database that is not there, a user that is not there
      const refused = [
        await runProgram(["start", "-p", pg, "-e", etcd.dsn(`${user}:${ENCODED}x`)]),
        await runProgram(["status", "-p", pg, "-e", etcd.dsn(`${user}:${ENCODED}x`)]),
        await runProgram(["status", "-p", pg.replace(role, "nobody"), "-e", etcd.dsn(`x:${ENCODED}`)]),
        await runProgram(["config", "check", "-p", pg, "-e", etcd.dsn(`${user}:${ENCODED}x`)]),
        await runProgram(["start", "-p", pg.replace(dsn.pathname, "/nothere"), "--etcd-dsn-file", etcdFile]),
        await runProgram(["start", "-p", pg.replace(role, "nobody"), "--etcd-dsn-file", etcdFile]),
        await runProgram([
          "start",
          "-p",
          `postgres://me:${ENCODED}@127.0.0.1:${freePort()}/x`,
          "-e",
          etcd.dsn("root:root"),
        ]),
      ];
      for (const { code, stdout, stderr } of refused) {
        assert.notEqual(code, 0);
        assertNoSecret(stdout + stderr, "refused");
      }

      await etcd.stop();
      await door.untilReady(503);
      await exits("etcd is down", 2, 2);
      await etcd.start();
      await door.untilReady(200);
      // PostgreSQL refuses the login
      await world.sql(`alter role ${role} nologin`);
      await world.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [role]);
      await door.untilReady(503);
      await exits("PostgreSQL refuses the login", 3, 3);
      await world.sql(`alter role ${role} login`);
      await door.untilReady(200);
      // etcd refuses it
      await etcd.ctl(["user", "passwd", user, "--interactive=false"], "another\n");
      await exits("etcd refuses the login", 3, 3);
      await etcd.ctl(["user", "passwd", user, "--interactive=false"], `${SECRET}\n`);
      await door.untilReady(200);
      await Deno.writeTextFile(etcdFile, `${SECRET}`); // wrong
      program.kill("SIGHUP");
      await program.until((line) => line.level === "error");
      await Deno.writeTextFile(etcdFile, etcd.dsn(`${user}:${ENCODED}2`)); // another password
      program.kill("SIGHUP");
      await program.until((line) => line.setting === "etcd-dsn");
      await etcd.ctl(["user", "passwd", user, "--interactive=false"], `${SECRET}2\n`);
      await eventually(async () => { // the page logs in with it
        const { etcd: { error } } = JSON.parse((await door.get("/status")).text);
        if (error === null) return true;
        throw new Error(`/status says '${error.text}'`);
      });
      await assertPages(door, "another password");
      await Deno.writeTextFile(pgFile, `${pg}?password=${ENCODED}`);
      program.kill("SIGHUP");
      await program.until((line) => line.setting === "postgres-dsn");
      program.kill("SIGTERM");
      await program.status;
      assertNoSecret(program.output.join("\n"), "start");
      const stored = await world.sql(
        "select to_jsonb(s) as row from etcd_sync_state s union all select to_jsonb(e) from etcd_sync_event e",
      );
      assertNoSecret(JSON.stringify(stored), "what is stored in PostgreSQL");
      const marker = await world.etcd.get("/_etcd-pg-sync/default");
      assertNoSecret(String(marker?.value), "what is stored in etcd");
    } finally {
      await world.sql(`drop owned by ${role}; drop role ${role}`);
    }
  },
);
