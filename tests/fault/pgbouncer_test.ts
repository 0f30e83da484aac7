/** Behind a pooler nothing that a session has set is sure to last. It is refused, before anything is set. */
import assert from "node:assert/strict";
import { startPgBouncer } from "../support/pgbouncer.ts";
import { refusal } from "../support/program.ts";
import { strict } from "../support/run.ts";
import { makeWorld, Session } from "../support/world.ts";

for (const mode of ["transaction", "statement", "session"] as const) {
  Deno.test(`PgBouncer in ${mode} mode is refused with one line`, strict, async () => {
    await using world = await makeWorld();
    await using pool = await startPgBouncer(world.postgresDsn, mode);
    const { code, stderr } = await world.run("start", ["-p", pool.dsn]);
    const port = new URL(pool.dsn).port;
    assert.equal(
      refusal(stderr),
      `etcd-pg-sync: Cannot use PostgreSQL at '127.0.0.1:${port}': a connection pooler (such as PgBouncer) answers ` +
        "there, and a session would not keep its settings, locks and notifications; give the server's own address",
    );
    assert.equal(code, 1);
    // the next client of the pool gets the session as it was
    await using next = new Session(pool.dsn);
    assert.deepEqual(await next.sql("show search_path"), [{ search_path: '"$user", public' }]);
    assert.equal((await next.sql("select to_regclass('etcd_sync_state') as there"))[0].there, null);
  });
}
