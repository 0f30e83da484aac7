import assert from "node:assert/strict";
import fc from "fast-check";
import { compareBytes } from "../../lib/core/compare.ts";
import { Stride } from "../../lib/core/stride.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const bytes = (text: string) => new TextEncoder().encode(text);

/** Reads sorted keys as a scan reads etcd; how many keys were counted, and how many ranges were asked for. */
function scan(keys: Uint8Array[], limit: number): { read: Uint8Array[]; counted: number; asked: number } {
  const stride = new Stride();
  const read: Uint8Array[] = [];
  let counted = 0;
  let asked = 0;
  for (let from: Uint8Array = new Uint8Array();;) {
    const bound = stride.bound(from, 2 * limit);
    if (bound) assert.ok(compareBytes(bound, from) > 0, `${bound} is not above ${from}`);
    const found = keys.filter((key) =>
      compareBytes(key, from) >= 0 && (!bound || compareBytes(key, bound) < 0)
    );
    counted += found.length;
    asked++;
    const page = found.slice(0, limit);
    const [first, last] = [page[0] ?? from, page.at(-1) ?? from];
    stride.learn({ first, last, count: page.length }, bound && 2 * limit);
    read.push(...page);
    if (found.length > limit) from = new Uint8Array([...last, 0]);
    else if (bound) from = page.length > 0 ? bound : from;
    else return { read, counted, asked };
  }
}

const numbers = (n: number, name: (i: number) => string) =>
  Array.from({ length: n }, (_, i) => bytes(name(i))).toSorted(compareBytes);

const SHAPES: Record<string, Uint8Array[]> = {
  "numbers": numbers(20_000, (i) => `/app/${String(i).padStart(8, "0")}`),
  "numbers without zeros": numbers(20_000, (i) => `/app/${i}`),
  "hexadecimal": numbers(20_000, (i) => `/app/${Math.imul(i, 0x9e3779b1) >>> 0}`),
  "in folders": numbers(20_000, (i) => `/app/service-${i % 20}/${i}`),
  "in folders of unequal size": numbers(
    20_000,
    (i) => i % 10 ? `/app/big/${i}` : `/app/${i % 37}/small/${i}`,
  ),
  "far apart": numbers(20_000, (i) => `/${"abcdefghij"[i % 10].repeat(60)}/${i}`),
  "not in ASCII": numbers(20_000, (i) => `/應用/${String.fromCodePoint(0x4e00 + i)}`),
};

for (const [shape, keys] of Object.entries(SHAPES)) {
  Deno.test(`a scan of keys ${shape} reads each once, and few are counted in vain`, strict, () => {
    const { read, counted, asked } = scan(keys, 500);
    assert.deepEqual(read, keys);
    // to ask for the rest each time counts 20 times the keys
    assert.ok(counted < 7 * keys.length, `${counted} counted`);
    assert.ok(asked < 8 * keys.length / 500, `${asked} ranges`);
  });
}

Deno.test("any keys are read, each once", strict, () => {
  const key = fc.uint8Array({ minLength: 1, maxLength: 12 });
  const near = fc.uint8Array({ minLength: 1, maxLength: 3 }).map((end) =>
    new Uint8Array([47, 97, 47, ...end])
  );
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.oneof(key, near), { maxLength: 200, selector: String }),
      fc.integer({ min: 1, max: 20 }),
      (keys, limit) => {
        const sorted = keys.toSorted(compareBytes);
        assert.deepEqual(scan(sorted, limit).read, sorted);
      },
    ),
  );
});

Deno.test("a key that begins all others, which go on with zeros, ends in no error", strict, () => {
  const counters = numbers(0, String).concat(
    [bytes("/a/")],
    Array.from(
      { length: 600 },
      (_, i) => new Uint8Array([...bytes("/a/"), ...new Uint8Array(14), i >> 8, i & 0xff]),
    ),
    [bytes("/b")],
  ).toSorted(compareBytes);
  assert.deepEqual(scan(counters, 601).read, counters);
});
