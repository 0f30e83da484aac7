import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { keyBytes, keyText } from "../../lib/core/codec.ts";
import { nastyBytes, nastyTexts } from "../support/nasty.ts";
import { installed, refused, strict } from "../support/schema.ts";
import { makeWorld } from "../support/world.ts";

Deno.test("etcd_key_text() and etcd_key_bytes() agree with keyText() and keyBytes()", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  const fromBytes = async (keys: Uint8Array[]) => {
    const [row] = await world.sql(
      "select array_agg(etcd_key_text(k) order by n) as texts, array_agg(etcd_key_bytes(etcd_key_text(k)) order by n) as back from unnest($1::bytea[]) with ordinality u(k, n)",
      [keys.map((key) => Buffer.from(key))],
    );
    assert.deepEqual(row.texts, keys.map(keyText));
    assert.deepEqual(row.back, keys.map((key) => Buffer.from(key)));
  };
  const fromTexts = async (texts: string[]) => {
    const [row] = await world.sql(
      "select array_agg(etcd_key_bytes(k) order by n) as keys from unnest($1::text[]) with ordinality u(k, n)",
      [texts],
    );
    assert.deepEqual(row.keys, texts.map((text) => Buffer.from(keyBytes(text))));
  };
  await fc.assert(fc.asyncProperty(fc.array(nastyBytes, { minLength: 1, maxLength: 50 }), fromBytes), {
    numRuns: 100,
  });
  await fc.assert(fc.asyncProperty(fc.array(nastyTexts, { minLength: 1, maxLength: 50 }), fromTexts), {
    numRuns: 100,
  });
});

Deno.test("etcd_key_text() escapes exactly what is not UTF-8: every pair of bytes", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  const all = Array.from({ length: 65536 }, (_, n) => Buffer.of(n >> 8, n & 255));
  const [{ texts }] = await world.sql(
    `select array_agg(etcd_key_text(set_byte(set_byte('\\x0000', 0, n >> 8), 1, n & 255)) order by n) as texts
     from generate_series(0, 65535) n`,
  );
  assert.deepEqual(texts, all.map(keyText));
});

Deno.test("a write takes a key if and only if the mirror would show it so", strict, async () => {
  await using world = await makeWorld();
  await installed(world);
  const taken = async (text: string) => {
    const key = "/k/" + text;
    const write = world.sql("select etcd_set($1, '')", [key]);
    if (keyText(keyBytes(key)) === key) await write;
    else await refused(write, "ZE002", /its escapes stand for/);
  };
  await fc.assert(fc.asyncProperty(nastyTexts, taken), { numRuns: 300 });
});
