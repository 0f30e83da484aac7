/** The short form of the robustness suite, about three minutes; the long one is `deno task robustness --minutes N`. */
import assert from "node:assert/strict";
import { fromFileUrl } from "../support/paths.ts";
import { strict } from "../support/schema.ts";
import { FAULTS } from "./faults.ts";
import { runSuite } from "./suite.ts";

const ROUNDS = 3;

Deno.test("random traffic and random faults: every promise is kept", strict, async () => {
  const seed = Number(Deno.env.get("ETCD_PG_SYNC_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 31));
  const again = `ETCD_PG_SYNC_TEST_SEED=${seed} deno task test tests/robustness/short_test.ts`;
  console.log(`seed ${seed}; again: ${again}`);
  const totals = await runSuite({
    seed,
    rounds: ROUNDS,
    roundMs: [20_000, 25_000],
    faults: Object.keys(FAULTS),
    build: { root: fromFileUrl("../..") },
    again,
    say: (line) => console.log(line),
  });
  assert.equal(totals.failed, 0, `${totals.violations} violations; again: ${again}`);
  assert.equal(totals.passed, ROUNDS);
  assert.ok(
    totals.transactions > 100 && totals.snapshots > 100 && totals.faults.size > 5,
    `${totals.transactions} transactions, ${totals.snapshots} snapshots and ${totals.faults.size} kinds of faults are too few to tell anything`,
  );
});
