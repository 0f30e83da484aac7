/** `validate`: drift of each kind, made by hand, is found, named and repaired; and nothing else is. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { keyBytes } from "../../lib/core/codec.ts";
import { emptyRepair, pushRepair } from "../../lib/core/compare.ts";
import { EtcdClient } from "../../lib/etcd/client.ts";
import { makeLog } from "../../lib/log.ts";
import { type Repair, repair } from "../../lib/postgres/verify.ts";
import { verify } from "../../lib/verify.ts";
import { freePort } from "../../lib/embedded/ready.ts";
import { quiet } from "../support/history.ts";
import { parseEtcdDsn } from "../support/etcd.ts";
import { crashed, events, heldScan, hold, killed, streaming, strict, untilBlocked } from "../support/run.ts";
import { manyPuts, nastyPairs } from "../support/samples.ts";
import { programSession } from "../support/schema.ts";
import { ownEtcd } from "../support/servers.ts";
import { eventually, makeWorld, Program, type World } from "../support/world.ts";

const EXIT = { equal: 0, configuration: 1, connection: 2, permission: 3, runtime: 4, differences: 5 };

async function validate(world: World, args: string[] = []) {
  const { code, stdout, stderr } = await world.run("validate", [...args, "--format", "json"]);
  assert.ok(stdout !== "", `exit code ${code}: ${stderr}`);
  return { code, ...JSON.parse(stdout) };
}

interface Named {
  kind: string;
  key: string;
  fields: string[];
}

const named = (differences: Named[]) =>
  differences.map(({ kind, key, fields }) => [kind, key, ...fields].join(" ")).toSorted();

/** The checkpoint, once it is etcd's revision. */
async function checkpoint(world: World): Promise<{ revision: number; timeline: number }> {
  await quiet(world);
  const { revision, timeline } = (await world.state())!;
  return { revision, timeline };
}

async function valueOf(world: World, key: string): Promise<string | undefined> {
  return (await world.sql("select value from etcd where key = $1", [key]))[0]?.value;
}

/** Repairs one key by what etcd had at a checkpoint, as `validate --fix` would have found it there. */
async function repairKey(
  world: World,
  at: { revision: number; timeline: number },
  key: string,
): Promise<Repair> {
  const columns = await repairOf(world, at.revision, key);
  await using session = await programSession(world);
  return await repair(session, at, columns);
}

async function repairOf(world: World, revision: number, key: string) {
  const kv = await world.etcd.get(key, revision);
  const etcd = kv
    ? {
      key: kv.key,
      value: kv.value,
      modRevision: kv.mod_revision,
      createRevision: kv.create_revision,
      version: kv.version,
      lease: BigInt(kv.lease),
    }
    : null;
  const mirror = etcd ? null : {
    key: keyBytes(key),
    text: null,
    value: null,
    valueBytes: null,
    revision: 1,
    createRevision: 1,
    version: 1,
    lease: 0n,
    timeline: 1,
  };
  const columns = emptyRepair();
  const select = { prefix: Buffer.from(world.prefix), maxKeyBytes: 2_500 };
  pushRepair(columns, { kind: etcd ? "missing" : "extra", key, etcd, mirror, fields: [] }, select);
  return columns;
}

const INSERT = `insert into etcd_kv (key, value, revision, create_revision, version, lease, timeline)
  values ($1, $2, $3, $3, 1, 0, 1)`;

Deno.test("drift of each kind and in each field is found, named, and repaired", strict, async () => {
  await using world = await makeWorld();
  const fields = ["value", "revision", "create_revision", "version", "lease", "timeline"];
  for (const field of fields) await world.etcd.put(world.key(field), "right");
  for (const { key, value } of nastyPairs(world.prefix)) await world.etcd.put(key, value);
  await world.etcd.put(world.key("gone"), "right");
  const program = await streaming(world);
  await quiet(world);
  const right = await world.sql(
    "select key, value, value_bytes, revision, create_revision, version, lease, timeline from etcd_kv order by 1",
  );
  const equal = await validate(world);
  assert.deepEqual([equal.code, equal.equal, equal.keys, equal.differences], [
    EXIT.equal,
    true,
    right.length,
    [],
  ]);

  for (const field of fields.slice(1)) {
    await world.sql(`update etcd_kv set ${field} = ${field} - 1 where key = $1`, [world.key(field)]);
  }
  const escaped = `${world.prefix}a\\x00b`;
  await world.sql("update etcd_kv set value = 'wrong' where key = $1", [world.key("value")]);
  await world.sql("update etcd_kv set value = null, value_bytes = 'NUL' where key = $1", [escaped]);
  await world.sql("delete from etcd_kv where key in ($1, $2)", [world.key("gone"), `${world.prefix}\\xff`]);
  for (const key of [world.key("extra"), `${world.prefix}\\xfe`, `${world.prefix}\\x41`, "elsewhere"]) {
    await world.sql(INSERT, [key, "wrong", 1]);
  }
  const wanted = [
    ...fields.map((field) => `different ${world.key(field)} ${field}`),
    `different ${escaped} value`,
    `missing ${world.key("gone")}`,
    `missing ${world.prefix}\\xff`,
    `extra ${world.key("extra")}`,
    `extra ${world.prefix}\\xfe`,
    `extra ${world.prefix}\\x41`,
    "extra elsewhere",
  ].toSorted();

  const drifted = await validate(world, ["--show", "100"]);
  assert.equal(drifted.code, EXIT.differences);
  assert.deepEqual(named(drifted.differences), wanted);
  assert.deepEqual([drifted.missing, drifted.extra, drifted.different, drifted.left], [2, 4, 7, 13]);
  const text = await world.run("validate", ["--show", "1"]);
  assert.equal(text.code, EXIT.differences);
  assert.match(
    text.stdout,
    /: 13 differences\n {2}extra +\S+ {2}only the mirror has it, revision 1\n {2}… and 12 more\n.*validate --fix/,
  );
  assert.equal((await events(world, "drift")).length, 2);

  const fixed = await validate(world, ["--fix", "--show", "100"]);
  assert.deepEqual([fixed.code, fixed.repaired, fixed.left, named(fixed.differences)], [
    EXIT.equal,
    13,
    0,
    wanted,
  ]);
  const now = await world.sql(
    "select key, value, value_bytes, revision, create_revision, version, lease, timeline from etcd_kv order by 1",
  );
  assert.deepEqual(now, right);
  const [event] = await events(world, "repaired");
  assert.deepEqual([event.detail.missing, event.detail.extra, event.detail.different], [2, 4, 7]);
  const [record] = await world.sql("select * from etcd_sync_verify");
  assert.deepEqual([record.keys, record.missing, record.extra, record.different, record.repaired], [
    right.length,
    0,
    0,
    0,
    13,
  ]);
  await world.etcd.put(world.key("value"), "goes on");
  await program.until(async () => await valueOf(world, world.key("value")) === "goes on");
});

Deno.test(
  "an empty prefix, several pages, and a part of them; also where no program runs",
  strict,
  async () => {
    await using world = await makeWorld({ prefix: "" });
    await world.etcd.put("\u{10ffff}", "last");
    for (const ops of manyPuts("/", 21_000)) await world.etcd.txn(ops);
    await crashed(world, await streaming(world));
    const equal = await validate(world);
    assert.deepEqual([equal.code, equal.keys], [EXIT.equal, 21_001], "the marker is no key of the mirror");
    await world.sql("delete from etcd_kv where key in ('/many/000000', '/many/010000', '/many/020999')");
    await world.sql("update etcd_kv set version = 9 where key = '\u{10ffff}'");
    const part = await validate(world, ["--prefix", "/many/0"]);
    assert.deepEqual([part.code, part.keys, part.missing, part.different], [EXIT.differences, 21_000, 3, 0]);
    const narrow = await validate(world, ["--fix", "--prefix", "/many/01"]);
    assert.deepEqual([narrow.code, narrow.keys, narrow.repaired], [EXIT.equal, 10_000, 1]);
    const fixed = await validate(world, ["--fix"]);
    assert.deepEqual([fixed.code, fixed.missing, fixed.different, fixed.repaired], [EXIT.equal, 2, 1, 3]);
  },
);

Deno.test("nothing differs while both sides write, and --fix changes nothing", strict, async () => {
  await using world = await makeWorld();
  for (const ops of manyPuts(world.prefix, 12_000)) await world.etcd.txn(ops);
  await streaming(world);
  let stop = false;
  const keys = Array.from({ length: 200 }, (_, i) => world.key(`k${i}\\x4`));
  const etcdWriter = async () => {
    for (let i = 0; !stop; i++) {
      await world.etcd.txn(
        keys.filter((_, k) => (k + i) % 7 === 0).map((key, k) =>
          (k + i) % 3 ? { put: key, value: `${i}` } : { delete: key }
        ),
      );
    }
  };
  const session = world.session();
  const sqlWriter = async () => {
    for (let i = 0; !stop; i++) {
      await session.sql("select etcd_set($1, $2), etcd_delete($3)", [
        world.key(`s${i % 50}`),
        `${i}`,
        world.key(`s${(i + 25) % 50}`),
      ]);
    }
  };
  const writing = [etcdWriter(), sqlWriter()];
  try {
    const from = (await world.state())!.revision;
    for (let i = 0; i < 4; i++) {
      const { code, differences } = await validate(world, i % 2 ? ["--fix"] : []);
      assert.deepEqual([code, differences], [EXIT.equal, []]);
    }
    assert.ok((await world.state())!.revision > from + 20, "too little was written meanwhile");
  } finally {
    stop = true;
    await Promise.all(writing);
  }
  assert.deepEqual(await events(world, "repaired"), []);
});

Deno.test(
  "a repair that comes late is right at the checkpoint at which it is committed",
  strict,
  async () => {
    await using world = await makeWorld();
    const program = await streaming(world);
    const drifts: Record<string, (key: string) => Promise<unknown>> = {
      missing: (key) => world.sql("delete from etcd_kv where key = $1", [key]),
      different: (key) => world.sql("update etcd_kv set value = 'wrong' where key = $1", [key]),
      extra: (key) => world.sql(INSERT, [key, "wrong", 1]),
    };
    const meanwhile: Record<string, (key: string) => Promise<unknown>> = {
      "nothing": () => Promise.resolve(),
      "a put": (key) => world.etcd.put(key, "new"),
      "a delete": (key) => world.etcd.delete(key),
      "a delete and a put": async (key) => {
        await world.etcd.delete(key);
        await world.etcd.put(key, "new");
      },
      "a put and a delete": async (key) => {
        await world.etcd.put(key, "new");
        await world.etcd.delete(key);
      },
      "a write from SQL": (key) => world.sql("select etcd_set($1, 'new')", [key]),
    };
    const cases = Object.keys(drifts).flatMap((drift) =>
      Object.keys(meanwhile).map((what) => ({ drift, what, key: world.key(`${drift}, ${what}`) }))
    );
    for (const { drift, key } of cases) if (drift !== "extra") await world.etcd.put(key, "old");
    await checkpoint(world);
    for (const { drift, key } of cases) await drifts[drift](key);
    const compared = await checkpoint(world);
    for (const { what, key } of cases) await meanwhile[what](key);
    await quiet(world);
    await crashed(world, program); // and another takes over
    const next = await streaming(world);
    await quiet(world);
    for (const { drift, what, key } of cases) {
      const { outcome } = await repairKey(world, compared, key);
      assert.equal(outcome, "repaired");
      const wanted = (await world.etcd.get(key))?.value;
      assert.equal(await valueOf(world, key), wanted && String(wanted), `${drift}, ${what}`);
    }
    const { code, differences } = await validate(world);
    assert.deepEqual([code, differences], [EXIT.equal, []]);
    await killed(next);
  },
);

/** etcd, whose second page at a past revision waits for `release`. */
class HeldPages extends EtcdClient {
  readonly asked = Promise.withResolvers<void>();
  readonly #released = Promise.withResolvers<void>();
  readonly release = this.#released.resolve;
  #pages = 0;

  override async call<Answer>(
    ...args: Parameters<typeof EtcdClient.prototype.call<Answer>>
  ): Promise<Answer> {
    // the request ends with the revision, whose last byte is 0 for the newest one alone
    if (args[2].at(-1) !== 0 && ++this.#pages === 2) {
      this.asked.resolve();
      await this.#released.promise;
    }
    return await super.call<Answer>(...args);
  }
}

// What was found at the first revision was repaired as if etcd had it at the second.
Deno.test(
  "what a comparison found that compaction has cut off is not repaired by the next one",
  strict,
  async () => {
    await using world = await makeWorld();
    for (const ops of manyPuts(world.prefix, 10_100)) await world.etcd.txn(ops);
    await streaming(world);
    await quiet(world);
    const [changed, deleted] = [0, 1].map((n) => world.key(`many/00000${n}`));
    await world.sql("update etcd_kv set value = 'wrong' where key = any ($1)", [[changed, deleted]]);
    await using opened = new AsyncDisposableStack();
    const endpoints = parseEtcdDsn(world.etcdDsn).hosts;
    const kv = opened.adopt(new HeldPages({ endpoints }), (client) => client.close());
    const select = { prefix: Buffer.from(world.prefix), maxKeyBytes: 2_500 };
    const postgres = { dsn: world.postgresDsn, schema: world.schema, applicationName: "etcd-pg-sync test" };
    const log = makeLog({ level: "error", format: "json" });
    const { signal } = new AbortController();
    const verifying = verify({ kv, postgres, select, log }, { signal, fix: true });
    await Promise.race([kv.asked.promise, verifying]);
    await world.etcd.put(changed, "new");
    await world.etcd.delete(deleted);
    await quiet(world);
    const history = () =>
      world.sql("select * from etcd_archive where key = any ($1) order by 1, 2, 3", [[changed, deleted]]);
    const before = await history();
    await world.etcd.compact(await world.etcd.revision());
    kv.release();
    const { repaired, left } = await verifying;
    assert.deepEqual(await Promise.all([changed, deleted].map((key) => valueOf(world, key))), [
      "new",
      undefined,
    ]);
    assert.deepEqual(await history(), before);
    assert.deepEqual([repaired, left], [0, { missing: 0, extra: 0, different: 0 }]);
  },
);

// The row's key lost its mark, sorted elsewhere, and was taken for another key, whose row went.
Deno.test("a key with a byte order mark and an escape is the key that it is", strict, async () => {
  await using world = await makeWorld({ prefix: "" });
  const keys = ["efbbbf61ff", "61ff"].map((hex) => Buffer.from(hex, "hex"));
  for (const key of keys) await world.etcd.put(key, "right");
  await streaming(world);
  await quiet(world);
  const { code, differences, repaired } = await validate(world, ["--fix"]);
  assert.deepEqual([code, differences, repaired], [EXIT.equal, [], 0]);
  const rows = await world.sql("select key from etcd order by key");
  assert.deepEqual(rows.map(({ key }) => key), ["a\\xff", "\ufeffa\\xff"]);
});

Deno.test("a repair that waits for somebody's lock does not hold up a stop", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("k"), "v");
  await crashed(world, await streaming(world));
  await world.sql("delete from etcd_kv");
  const release = await hold(world.session(), "lock table etcd_kv in row exclusive mode");
  await using fixing = new Program([
    "validate",
    "--fix",
    "--postgres-dsn",
    world.postgresDsn,
    "--etcd-dsn",
    world.etcdDsn,
  ]);
  await untilBlocked(world, fixing, /etcd_verify_repair/);
  let ended: number | undefined;
  fixing.status.then(({ code }) => ended = code);
  fixing.kill("SIGTERM");
  await eventually(() => ended !== undefined);
  assert.equal(ended, EXIT.runtime);
  assert.match(fixing.tail(), /: Stopped before everything was compared/);
  await release();
  assert.equal((await validate(world, ["--fix"])).code, EXIT.equal);
  assert.equal(await valueOf(world, world.key("k")), "v");
});

// The leader's statement had its snapshot before it waited for the repair, did not see the row that was put there, and its
// delete left it.
Deno.test("a delete that waits for a repair takes the repaired row away", strict, async () => {
  await using world = await makeWorld();
  const key = world.key("k");
  const program = await streaming(world);
  // once a second the leader writes its proof of freshness: then it is that which waits, and the delete comes after
  for (let deleteWaits = false; !deleteWaits;) {
    await world.etcd.put(key, "old");
    const { revision, timeline } = await checkpoint(world);
    await world.sql("delete from etcd_kv where key = $1", [key]);
    const c = await repairOf(world, revision, key);
    const repairing = world.session();
    await repairing.sql("begin");
    const [{ repaired }] = await repairing.sql(
      "select repaired from etcd_verify_repair($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
      [
        revision,
        timeline,
        c.keys,
        c.values,
        c.valueBytes,
        c.revisions,
        c.createRevisions,
        c.versions,
        c.leases,
        c.there,
        c.mirrored,
      ],
    );
    assert.equal(repaired, 1);
    await world.etcd.delete(key);
    await untilBlocked(world, program, /update etcd_sync_state s set/);
    const waiting = await world.sql(
      "select query from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
    );
    deleteWaits = waiting.some(({ query }) => /unnest.*tombstone/s.test(query));
    await repairing.sql("commit");
    await quiet(world);
    assert.deepEqual(await world.sql("select key from etcd"), []);
  }
});

Deno.test(
  "a row above the checkpoint, past which events went to the archive, is repaired",
  strict,
  async () => {
    await using world = await makeWorld();
    const keys = ["put", "deleted", "quiet"].map((name) => world.key(name));
    for (const key of keys) await world.etcd.put(key, "old");
    await streaming(world);
    const compared = await checkpoint(world);
    await world.sql("update etcd_kv set revision = 1000000000, value = 'wrong'");
    await world.etcd.put(keys[0], "new");
    await world.etcd.delete(keys[1]);
    await quiet(world);
    assert.deepEqual(await Promise.all(keys.map((key) => valueOf(world, key))), ["wrong", "wrong", "wrong"]);
    // what etcd had at the first comparison is no longer right, and it shows
    for (const [i, wanted] of [0, 0, 1].entries()) {
      assert.deepEqual(await repairKey(world, compared, keys[i]), { outcome: "repaired", repaired: wanted });
    }
    const { code, repaired } = await validate(world, ["--fix"]);
    assert.deepEqual([code, repaired], [EXIT.equal, 2]);
    const { revision } = await checkpoint(world);
    assert.deepEqual(
      await world.sql("select key, value from etcd_at($1) order by key", [revision]),
      [{ key: keys[0], value: "new" }, { key: keys[2], value: "old" }],
      "each key once",
    );
  },
);

Deno.test("writers of a key that a repair removed have seen their own writes of it", strict, async () => {
  await using world = await makeWorld();
  const key = world.key("k");
  const program = await streaming(world);
  const write = async (statement: string) => {
    const [{ id }] = await world.sql(`select ${statement} as id`, [key]);
    return (await world.sql("select * from etcd_wait($1)", [id]))[0];
  };
  const { result_revision } = await write("etcd_set($1, 'own')");
  await write("etcd_delete($1)");
  await write("etcd_set($1, 'own, where there was none')");
  await world.etcd.delete(key);
  const compared = await checkpoint(world);
  await crashed(world, program); // the next leader knows its own writes by the WAL
  // as if nothing had come since the first write
  await world.sql(INSERT, [key, "own", result_revision]);
  await world.sql("delete from etcd_archive");
  await world.sql("update etcd_sync_gate set seen_revision = 0, deleted = false");
  assert.equal((await repairKey(world, compared, key)).repaired, 1);
  const [{ id }] = await world.sql("select etcd_set($1, 'again') as id", [key]);
  await streaming(world);
  await world.sql("select etcd_wait($1)", [id]);
  const [settled] = await world.sql("select status, error_message from etcd_wal where id = $1", [id]);
  assert.deepEqual(settled, { status: "success", error_message: null });
});

Deno.test(
  "a repair is not made on another timeline, after retention, below the checkpoint, or in a scan",
  strict,
  async () => {
    await using world = await makeWorld();
    const key = world.key("k");
    await world.etcd.put(key, "old");
    await crashed(world, await streaming(world));
    const at = (await world.state())!;
    await world.sql("delete from etcd_kv");
    const tried: [string, string][] = [
      ["timeline = timeline + 1", "outdated"],
      ["revision = revision - 1", "outdated"],
      ["retained_revision = revision + 1", "outdated"],
      ["state = 'compaction-resync'", "scanning"],
    ];
    for (const [set, outcome] of tried) {
      const before = world.session();
      await before.sql(`update etcd_sync_state set ${set}`);
      assert.deepEqual(await repairKey(world, { revision: at.revision, timeline: at.timeline }, key), {
        outcome,
        repaired: 0,
      });
      await before.sql(
        "update etcd_sync_state set timeline = $1, revision = $2, retained_revision = $3, state = 'streaming'",
        [at.timeline, at.revision, at.retained_revision],
      );
    }
    assert.equal((await validate(world, ["--fix"])).repaired, 1);
  },
);

/** One line on standard error, nothing on standard output. */
async function refused(world: World, args: string[], code: number, line: RegExp): Promise<void> {
  const ended = await world.run("validate", args);
  const lines = ended.stderr.trimEnd().split("\n").filter((text) => !text.startsWith("{"));
  assert.equal(lines.length, 1, ended.stderr);
  assert.match(lines[0], line);
  assert.deepEqual([ended.code, ended.stdout], [code, ""]);
}

Deno.test("what cannot be compared is one line, and its exit code", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("k"), "v");
  await refused(
    world,
    [],
    EXIT.configuration,
    /: Cannot find stream 'default': schema 'public' holds none; /,
  );
  await refused(
    world,
    ["--prefix", "elsewhere"],
    EXIT.configuration,
    /: Cannot read 'prefix' from --prefix: wanted one that begins with .*, got 'elsewhere' \(EPS-100\)$/,
  );
  await refused(
    world,
    ["--show", "all"],
    EXIT.configuration,
    /: Cannot read 'show' from --show: .*, got 'all' \(EPS-100\)$/,
  );
  await refused(
    world,
    ["--format", "xml"],
    EXIT.configuration,
    /: option '--format <format>' argument 'xml' is invalid\. Allowed choices are text, json\. \(EPS-100\)$/,
  );
  const scan = await heldScan(world);
  await refused(
    world,
    [],
    EXIT.runtime,
    /: Cannot compare: the mirror is at no revision, its state is 'bootstrap'; /,
  );
  await scan.release();
  await world.untilState("streaming");
  await refused(
    world,
    ["-e", `${world.etcdDsn}deeper/`],
    EXIT.configuration,
    /: Cannot compare stream 'default' on prefix /,
  );
  const port = freePort();
  await refused(
    world,
    ["-e", `etcd://127.0.0.1:${port}${world.prefix}`],
    EXIT.connection,
    new RegExp(`: Cannot use etcd at '127.0.0.1:${port}': `),
  );
  await refused(
    world,
    ["-p", `postgres://me:hunter2@127.0.0.1:${port}/db`],
    EXIT.connection,
    new RegExp(`: Cannot use PostgreSQL at 'postgres://me@127.0.0.1:${port}/db': `),
  );
  await world.sql("create role weak login password 'weak'");
  try {
    const dsn = new URL(world.postgresDsn);
    [dsn.username, dsn.password] = ["weak", "weak"];
    await refused(world, ["-p", dsn.href], EXIT.permission, /: permission denied for table etcd_sync_/);
  } finally {
    await world.sql("drop role weak");
  }
});

Deno.test(
  "another cluster, and a checkpoint that etcd has compacted, are said and never differences",
  strict,
  async () => {
    await using server = await ownEtcd();
    await using world = await makeWorld();
    await world.etcd.put(world.key("k"), "v");
    await crashed(world, await streaming(world));
    const other = world.on({ dsn: server.dsn });
    await refused(
      other,
      [],
      EXIT.runtime,
      /: Cannot compare: etcd is not the one that was mirrored, its (cluster id is '\d+', was '\d+'|revision is below)/,
    );
    await other[Symbol.asyncDispose]();
    const end = await world.etcd.put(world.key("k"), "w");
    await world.etcd.compact(end);
    await refused(
      world,
      [],
      EXIT.runtime,
      /: Cannot compare: etcd has compacted revision \d+, the mirror's checkpoint; if the mirror stands still, start the program/,
    );
    // with a program it moves on
    await streaming(world);
    assert.equal((await validate(world)).code, EXIT.equal);
  },
);

Deno.test("the background verifier tells of drift, and leaves it", strict, async () => {
  await using world = await makeWorld();
  await world.etcd.put(world.key("k"), "v");
  const program = await streaming(world, ["--verify-every", "1s"]);
  await program.until((line) => line.msg === "compared with etcd: the mirror is equal");
  await eventually(async () => (await world.sql("select keys from etcd_sync_verify"))[0].keys === 1);
  await world.sql("delete from etcd_kv");
  const told = await program.until((line) => line.msg.startsWith("the mirror differs from etcd"));
  assert.deepEqual([told!.level, told!.missing, told!.keys], ["error", 1, [world.key("k")]]);
  assert.deepEqual(await world.sql("select key from etcd"), []);
  assert.equal((await world.sql("select missing from etcd_sync_verify"))[0].missing, 1);
  assert.ok((await events(world, "drift")).length >= 1);
});
