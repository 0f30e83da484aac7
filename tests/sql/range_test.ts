/** The mirror's rows of a range of etcd's keys, as a scan and `validate` read them. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { isUnbounded, keyText, prefixEnd, successor } from "../../lib/core/codec.ts";
import { copyRows, escapedRows, type KeyRange, plainRows } from "../../lib/postgres/copy_rows.ts";
import type { Session } from "../../lib/postgres/client.ts";
import { nastyBytes } from "../support/nasty.ts";
import { installed, programSession, strict } from "../support/schema.ts";
import { makeWorld } from "../support/world.ts";

const hex = (key: Uint8Array) => Buffer.from(key).toString("hex");
const UNBOUNDED = Uint8Array.of(0);

async function read(session: Session, query: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const rows of copyRows(session, query)) keys.push(...rows.map(({ key }) => hex(key)));
  return keys;
}

/** Those of the keys that etcd would answer with, in its order. */
function within(keys: Uint8Array[], { from, to }: KeyRange, escaped: boolean): string[] {
  return keys.filter((key) => keyText(key).includes("\\x") === escaped).filter((key) =>
    Buffer.compare(key, from) >= 0 && (isUnbounded(to) || Buffer.compare(key, to) < 0)
  ).toSorted(Buffer.compare).map(hex);
}

Deno.test(
  "the rows of a range are those whose bytes are in it, in the order of their bytes",
  strict,
  async () => {
    await using world = await makeWorld();
    await installed(world);
    await using session = await programSession(world);
    let found = 0;
    const holds = async (seeds: Uint8Array[], [first, second]: [number, number], tail: Uint8Array) => {
      const keys = [
        ...new Map(seeds.filter(({ length }) => length > 0).map((key) => [hex(key), key])).values(),
      ];
      if (keys.length === 0) return;
      await world.sql("delete from etcd_kv");
      await world.sql(
        `insert into etcd_kv (key, value, revision, create_revision, version, lease, timeline)
       select k, '', 1, 1, 1, 0, 1 from unnest($1::text[]) k`,
        [keys.map(keyText)],
      );
      // a range's ends are near keys, as those of a page are
      const ends = [first, second].map((at) => keys[at % keys.length]).flatMap((key) => [
        key,
        successor(key),
        prefixEnd(key),
        key.subarray(0, -1),
        Buffer.concat([key, tail]),
      ]);
      for (const from of ends) {
        for (const to of [...ends, UNBOUNDED]) {
          if (from.length === 0 || to.length === 0) continue; // no request of etcd
          const range = { from, to };
          const plain = await read(session, plainRows(range));
          assert.deepEqual(plain, within(keys, range, false), `${hex(from)} to ${hex(to)}`);
          assert.deepEqual(await read(session, escapedRows(range)), within(keys, range, true));
          found += plain.length;
        }
      }
    };
    const key = fc.oneof(nastyBytes, fc.string({ maxLength: 4 }).map((text) => Buffer.from(text)));
    const keys = fc.array(key, { minLength: 1, maxLength: 20 });
    await fc.assert(fc.asyncProperty(keys, fc.tuple(fc.nat(), fc.nat()), nastyBytes, holds), {
      numRuns: 150,
    });
    assert.ok(found > 1_000, `only ${found} rows were found`);
  },
);
