import { Buffer } from "node:buffer";
import { quiet, takeSnapshot } from "../support/history.ts";
import { untilStreaming } from "../support/run.ts";
import { manyPuts } from "../support/samples.ts";
import { makeWorld } from "../support/world.ts";
for (let n = 0; n < 12; n++) {
  Deno.test(`churn ${n}`, async () => {
    await using world = await makeWorld();
    for (const ops of manyPuts(world.prefix, 10_300)) await world.etcd.txn(ops);
    const from = (await world.etcd.revision()) + 1;
    let stop = false;
    const churners = [0, 1, 2].map(async (c) => {
      for (let i = c; !stop; i += 3) {
        const k = i % 2 ? (i * 7919) % 10_300 : 10_000 + (i * 31) % 300;
        const key = world.key(`many/${String(k).padStart(6, "0")}`);
        await (i % 3 ? world.etcd.put(key, `churn ${i}`) : world.etcd.delete(key));
      }
    });
    const p = world.program();
    try {
      await untilStreaming(world, p);
    } finally {
      stop = true;
      await Promise.all(churners);
    }
    await quiet(world);
    const rows = new Map((await takeSnapshot(world)).rows.map((r) => [r.key, r]));
    const st = await world.state();
    const kvs = new Map((await world.etcd.range(world.prefix)).map((k) => [String(k.key), k]));
    let bad = 0;
    for (const key of new Set([...rows.keys(), ...kvs.keys()])) {
      const r = rows.get(key), k = kvs.get(key);
      if (r?.revision !== k?.mod_revision) {
        if (bad++ < 3) {
          console.log(
            "BAD",
            key,
            r?.revision,
            k?.mod_revision,
            "checkpoint",
            st!.revision,
            "from",
            from,
            "timeline",
            st!.timeline,
          );
          console.log(
            (await world.etcd.history(key, from)).map((e) => `${e.type}@${e.mod_revision}`).join(" "),
          );
          console.log(
            (await world.sql(
              "select revision, until_revision, tombstone from etcd_archive where key=$1 order by 1",
              [key],
            )).map((x) => `${x.tombstone ? "T" : "P"}@${x.revision}-${x.until_revision}`).join(" "),
          );
        }
      }
    }
    console.log(
      "bad",
      bad,
      (await world.sql("select revision, detail from etcd_sync_event where kind='caught-up'")).map((r) =>
        JSON.stringify(r)
      ).join(),
    );
    if (bad) {
      console.log(p.tail(20));
      throw new Error("bad");
    }
  });
}
