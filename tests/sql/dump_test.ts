import assert from "node:assert/strict";
import { dumpSchema } from "../support/dump.ts";
import { installed } from "../support/schema.ts";
import { makeWorld } from "../support/world.ts";

const path = new URL("../../sql/schema.txt", import.meta.url);

Deno.test(
  "the schema is the one that sql/schema.txt shows",
  { sanitizeOps: true, sanitizeResources: true },
  async () => {
    await using world = await makeWorld();
    await installed(world);
    const dump = await dumpSchema(world.session(), world.schema);
    if (Deno.env.has("ETCD_PG_SYNC_TEST_UPDATE")) Deno.writeTextFileSync(path, dump);
    assert.equal(dump, Deno.readTextFileSync(path), "if it is meant: `deno task schema`");
  },
);
