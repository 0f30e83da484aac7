/** A copy out of PostgreSQL that fails, or that nobody takes for a while. */
import assert from "node:assert/strict";
import { Session } from "../../lib/postgres/client.ts";
import { CopyOut } from "../../lib/postgres/copy_out.ts";
import { eventually, makeWorld, type World } from "../support/world.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };

function opened(world: World): Promise<Session> {
  return Session.open({ dsn: world.postgresDsn, schema: "public", applicationName: "copy-out-test" });
}

const copying = (query: string) => new CopyOut(`copy (${query}) to stdout (format binary)`);

async function bytes(copy: CopyOut): Promise<number> {
  let sum = 0;
  for await (const chunk of copy.chunks()) sum += chunk.length;
  return sum;
}

Deno.test("a copy that fails on its way says why, and the session goes on", strict, async () => {
  await using world = await makeWorld();
  await using session = await opened(world);
  for (const first of [1, 100_000]) {
    const failing = session.submit(
      copying(`select repeat('x', 100), 1 / (${first} - n) from generate_series(1, 200000) n`),
    );
    await assert.rejects(() => bytes(failing), { code: "22012" });
    assert.deepEqual(await session.run("one", "select 1 as one"), [{ one: 1 }]);
  }
  // header and end; for each row the number of its fields, and a field of 1 byte with its length
  assert.equal(
    await bytes(session.submit(copying("select 'x' from generate_series(1, 1000)"))),
    19 + 2 + 1000 * 7,
  );
});

Deno.test("while nobody takes the rows the server waits, and none is lost", strict, async () => {
  await using world = await makeWorld();
  await using session = await opened(world);
  const copy = session.submit(copying("select repeat('x', 1000) from generate_series(1, 100000)"));
  await eventually(async () =>
    (await world.sql(
      "select 1 from pg_stat_activity where application_name = 'copy-out-test' and wait_event = 'ClientWrite'",
    )).length > 0
  );
  assert.equal(await bytes(copy), 19 + 2 + 100_000 * 1006);
  assert.deepEqual(await session.run("one", "select 1 as one"), [{ one: 1 }]);
});

Deno.test("a copy whose session is ended is over, with an error", strict, async () => {
  await using world = await makeWorld();
  await using session = await opened(world);
  const copy = session.submit(copying("select repeat('x', 1000) from generate_series(1, 1000000)"));
  const chunks = copy.chunks();
  await chunks.next();
  await world.sql("select pg_terminate_backend($1)", [session.pid]);
  await assert.rejects(async () => {
    while (!(await chunks.next()).done);
  });
});
