import assert from "node:assert/strict";
import { installed, mirrored, refused, strict, wal } from "../support/schema.ts";
import { makeWorld, type Session, type World } from "../support/world.ts";

const page = Deno.readTextFileSync(new URL("../../docs/sql.md", import.meta.url));

/** What docs/sql.md grants a role that reads and writes: the views and functions, no table. */
const grants = [...page.split("\n## Rights\n")[1].matchAll(/^grant ([^;]+) to app;$/gm)].map(([, what]) =>
  what
);

const tables = [
  "etcd_kv",
  "etcd_archive",
  "etcd_wal",
  "etcd_wal_tx",
  "etcd_sync_state",
  "etcd_sync_gate",
  "etcd_sync_event",
  "etcd_sync_control",
  "etcd_sync_resync",
  "etcd_sync_migration",
];

async function makeRole(given: string[]): Promise<{ world: World; app: Session } & AsyncDisposable> {
  const world = await makeWorld();
  await installed(world);
  await mirrored(world, "/a", "one", 10);
  await world.sql("insert into etcd_sync_event (kind, timeline, revision) values ('caught-up', 1, 5)");
  await world.sql("update etcd_sync_state set state = 'streaming', revision = 20");
  const role = `role_${world.database}`;
  await world.sql(`create role ${role} login password '${role}'; revoke all on schema public from public`);
  for (const grant of given) await world.sql(`grant ${grant} to ${role}`);
  const app = world.session(role, role);
  return {
    world,
    app,
    async [Symbol.asyncDispose]() {
      await app[Symbol.asyncDispose]();
      await world.sql(`drop owned by ${role} cascade; drop role ${role}`);
      await world[Symbol.asyncDispose]();
    },
  };
}

Deno.test("a role with the view and the functions can read and write", strict, async () => {
  await using given = await makeRole(grants);
  const { world, app } = given;
  const reading = [
    "select * from etcd",
    "select * from etcd_get('/a')",
    "select * from etcd_get('/a', 15)",
    "select * from etcd_list('/')",
    "select * from etcd_at(15)",
    "select * from etcd_get_all('/a')",
    "select * from etcd_history",
  ];
  for (const statement of reading) assert.equal((await app.sql(statement)).length, 1, statement);
  const writing = [
    "select etcd_set('/set', 'x')",
    "select etcd_set('/bytes', 'x'::bytea, 0)",
    "select etcd_delete('/delete')",
    "insert into etcd (key, value) values ('/insert', 'x')",
    "update etcd set value = 'x'",
    "update etcd set key = '/moved'",
    "delete from etcd",
    "begin; select etcd_set('/1', ''); select etcd_set('/1', ''); select etcd_set('/2', ''); commit",
  ];
  for (const statement of writing) await app.sql(statement);
  assert.deepEqual((await wal(world, "key")).map(({ key }) => key), [
    "/set",
    "/bytes",
    "/delete",
    "/insert",
    "/a",
    "/a",
    "/moved",
    "/a",
    "/1",
    "/2",
  ]);
  await world.sql("update etcd_wal set status = 'conflict'; delete from etcd_wal_tx");
  assert.deepEqual(await app.sql("select (etcd_wait(1)).status"), [{ status: "conflict" }]);
  await app.sql("select etcd_retry(1), etcd_discard(2)");
});

Deno.test("a role with the view and the functions can touch no table", strict, async () => {
  await using given = await makeRole(grants);
  const { app } = given;
  for (const table of tables) {
    const statements = [
      `select from ${table}`,
      `delete from ${table}`,
      `truncate ${table}`,
      `insert into ${table} default values`,
    ];
    for (const statement of statements) await refused(app.sql(statement), "42501");
  }
  await refused(app.sql("update etcd_kv set value = 'x'"), "42501");
  await refused(app.sql("update etcd_sync_gate set max_deletes = 0"), "42501");
  await refused(app.sql("select nextval('etcd_wal_id_seq')"), "42501");
});

Deno.test("the drain's functions and the parts of the writer's path are closed", strict, async () => {
  await using given = await makeRole(grants);
  const { app, world } = given;
  const open = await app.sql(
    "select proname from pg_proc where pronamespace = 'public'::regnamespace and has_function_privilege(oid, 'execute') order by 1",
  );
  assert.deepEqual([...new Set(open.map(({ proname }) => proname))], [
    "etcd_at",
    "etcd_delete",
    "etcd_discard",
    "etcd_freshness",
    "etcd_get",
    "etcd_get_all",
    "etcd_list",
    "etcd_retry",
    "etcd_set",
    "etcd_wait",
  ]);
  await app.sql("select etcd_set('/a', 'x')");
  await refused(app.sql("select * from etcd_drain_claim(127, 1500000, 127)"), "42501");
  await refused(app.sql("select etcd_drain_applied(1, 1, '{1}', '{0}')"), "42501");
  assert.deepEqual(await wal(world, "status"), [{ status: "pending" }]);
});

Deno.test("a role that was carelessly granted every function drains nothing", strict, async () => {
  await using given = await makeRole([...grants, "execute on all functions in schema public"]);
  const { app, world } = given;
  await app.sql("select etcd_set('/a', 'x')");
  const calls = [
    "select * from etcd_drain_claim(127, 1500000, 127)",
    "select etcd_drain_applied(1, 1, '{1}', '{0}')",
    "select etcd_drain_lost('failed', 1, '{1}', '{0}', '{no}')",
    "select etcd_drain_fence(0, null, 0)",
  ];
  for (const call of calls) await refused(app.sql(call), "42501");
  assert.deepEqual(await wal(world, "status"), [{ status: "pending" }]);
});

Deno.test("a role with nothing can do nothing", strict, async () => {
  await using given = await makeRole(["usage on schema public"]);
  const { app } = given;
  const statements = [
    "select * from etcd",
    "select * from etcd_history",
    "insert into etcd (key, value) values ('/x', '')",
    "update etcd set value = 'x'",
    "delete from etcd",
    "select etcd_set('/x', '')",
    "select etcd_delete('/x')",
    "select * from etcd_get('/a')",
    "select * from etcd_at(15)",
    "select etcd_retry(1)",
  ];
  for (const statement of statements) await refused(app.sql(statement), "42501");
});

Deno.test(
  "every function that runs with the owner's rights pins its search_path, pg_temp last, or looks nothing up by it",
  strict,
  async () => {
    await using world = await makeWorld();
    await installed(world);
    const functions = await world.sql(
      "select proname, prosecdef, proconfig from pg_proc where pronamespace = 'public'::regnamespace order by 1",
    );
    assert.equal(functions.filter(({ prosecdef }) => prosecdef).length > 5, true);
    for (const { proname, prosecdef, proconfig } of functions) {
      if (!prosecdef || ["etcd_set", "etcd_delete"].includes(proname)) continue; // these: the tests with traps
      assert.equal((proconfig ?? []).includes("search_path=public, pg_temp"), true, proname);
    }
  },
);

for (const path of ["pg_temp, evil, public", "evil, pg_catalog, public"]) {
  Deno.test(`a search_path of '${path}' full of traps redirects nothing`, strict, async () => {
    await using given = await makeRole(grants);
    const { app, world } = given;
    const role = `role_${world.database}`;
    await world.sql(
      `create schema evil authorization ${role}; grant temporary on database ${world.database} to ${role}`,
    );
    for (const schema of ["evil", "pg_temp"]) {
      for (const table of tables) await app.sql(`create table ${schema}.${table} (trap integer)`);
      for (
        const call of [
          "etcd_wal_write(text, text, bytea, boolean, bigint, boolean, boolean, boolean, bigint)",
          "etcd_wal_ticket()",
          "etcd_wal_glance(text, integer, bigint)",
          "etcd_wal_seen(text, integer, bigint)",
          "etcd_wal_count_delete(text)",
          "etcd_wal_wake()",
          "etcd_key_text(bytea)",
          "etcd_wal_key_allowed(text, bytea)",
          "num_nonnulls(text, bytea)",
          "transaction_timestamp()",
          "strpos(text, text)",
          "octet_length(text)",
          "starts_with(text, text)",
          "pg_current_xact_id()",
        ]
      ) {
        await app.sql(
          `create function ${schema}.${call} returns integer language plpgsql as $$ begin raise 'trapped by ${call}'; end $$`,
        );
      }
    }
    for (const type of ["text", "bigint", "integer", "boolean", "xid8", "timestamptz"]) {
      await app.sql(
        `create function evil.same(${type}, ${type}) returns boolean language plpgsql as $$ begin raise 'trapped by ='; end $$`,
      );
      for (const operator of ["=", "<>", "<=", ">"]) {
        await app.sql(
          `create operator evil.${operator} (leftarg = ${type}, rightarg = ${type}, function = evil.same)`,
        );
      }
    }
    await world.sql("update etcd_sync_gate set parked = true");
    await app.sql(`set search_path to ${path}`);
    const statements = [
      "select public.etcd_set('/set', 'x')",
      "select public.etcd_set('/\\x00', 'x')",
      "select public.etcd_delete('/delete')",
      "insert into public.etcd (key, value) values ('/insert', 'x')",
      "update public.etcd set value = 'x'",
      "delete from public.etcd",
      "begin; select public.etcd_set('/1', ''); select public.etcd_set('/2', ''); commit",
      "select * from public.etcd_get('/a')",
      "select * from public.etcd_list('/')",
      "select * from public.etcd_at(15)",
      "select * from public.etcd_get_all('/a')",
    ];
    for (const statement of statements) await app.sql(statement);
    assert.equal((await wal(world, "key")).length, 8);
    assert.deepEqual(
      (await world.sql("select id from etcd_drain_claim(127, 1500000, 127)")).length > 0,
      true,
    );
  });
}

Deno.test("an overload that others make in the schema itself redirects nothing", strict, async () => {
  await using given = await makeRole([...grants, "create on schema public"]);
  const { app, world } = given;
  for (const values of ["text, text", "bytea, text", "bytea, bytea"]) {
    await app.sql(
      `create function public.etcd_wal_write(text, ${values}, boolean, bigint, boolean, boolean, boolean, bigint)
       returns bigint language plpgsql as $$ begin raise 'trapped'; end $$`,
    );
  }
  const writes = ["etcd_set('/x', '1', 0)", "etcd_set('/y', '1'::bytea, 0)", "etcd_delete('/z', 0)"];
  for (const write of writes) await app.sql(`select ${write}`);
  assert.equal((await wal(world, "key")).length, 3);
});
