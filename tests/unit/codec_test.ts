import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import {
  asText,
  concat,
  equalBytes,
  keyBytes,
  keyText,
  prefixEnd,
  startsWith,
  successor,
  textPrefix,
  valueBytes,
  valueColumns,
} from "../../lib/core/codec.ts";
import { nastyBytes, nastyTexts } from "../support/nasty.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const bytes = (text: string) => new TextEncoder().encode(text);

Deno.test("keyText() leaves a key that is text as it is", strict, () => {
  for (
    const key of ["", "/a/b", "ключ", "\u{10ffff}", "\ufeff", "\\", "\\x", "\\xg1", "\\X41", "\\xAB", "\\x4"]
  ) {
    assert.equal(keyText(bytes(key)), key);
    assert.deepEqual(keyBytes(key), bytes(key));
  }
});

Deno.test("keyText() escapes what is not text, and a literal escape", strict, () => {
  const cases: [Uint8Array, string][] = [
    [Uint8Array.of(0), "\\x00"],
    [Uint8Array.of(0x61, 0, 0x62), "a\\x00b"],
    [Uint8Array.of(0xff, 0xfe), "\\xff\\xfe"],
    [Uint8Array.of(0xc0, 0xaf), "\\xc0\\xaf"], // overlong "/"
    [Uint8Array.of(0xe0, 0x80, 0xaf), "\\xe0\\x80\\xaf"],
    [Uint8Array.of(0xf0, 0x8f, 0xbf, 0xbf), "\\xf0\\x8f\\xbf\\xbf"],
    [Uint8Array.of(0xed, 0xa0, 0x80), "\\xed\\xa0\\x80"], // a surrogate
    [Uint8Array.of(0xf4, 0x90, 0x80, 0x80), "\\xf4\\x90\\x80\\x80"], // above U+10FFFF
    [Uint8Array.of(0xe2, 0x82), "\\xe2\\x82"], // truncated "€"
    [Uint8Array.of(0xe2, 0x82, 0x61), "\\xe2\\x82a"],
    [bytes("\\x41"), "\\x5cx41"],
    [bytes("\\\\x41"), "\\\\x5cx41"],
    [bytes("é\\xff"), "é\\x5cxff"],
    [concat([bytes("\\"), Uint8Array.of(0xff)]), "\\\\xff"],
    [concat([bytes("\\x4"), Uint8Array.of(0xff)]), "\\x4\\xff"],
  ];
  for (const [key, text] of cases) {
    assert.equal(keyText(key), text);
    assert.deepEqual(keyBytes(text), key);
  }
});

Deno.test("keyText() and keyBytes() are one to one, from bytes", strict, () => {
  fc.assert(fc.property(nastyBytes, (key) => assert.deepEqual(keyBytes(keyText(key)), key)), {
    numRuns: 5_000,
  });
});

Deno.test("keyText() gives different keys different texts", strict, () => {
  const same = (a: Uint8Array, b: Uint8Array) => assert.equal(keyText(a) === keyText(b), equalBytes(a, b));
  fc.assert(fc.property(nastyBytes, nastyBytes, same), { numRuns: 5_000 });
  const all = function* (length: number): Generator<number[]> {
    if (length === 0) return yield [];
    for (const head of all(length - 1)) for (const byte of [0, 0x5c, 0x78, 0x34, 0xff]) yield [...head, byte];
  };
  const keys = [...all(5)].map((key) => Uint8Array.from(key));
  assert.equal(new Set(keys.map(keyText)).size, keys.length);
});

Deno.test("keyText() writes text, and a text that it did not write reads as another", strict, () => {
  const canonical = (text: string) => {
    const written = keyText(keyBytes(text));
    assert.equal(asText(bytes(written)), written);
    assert.equal(keyText(keyBytes(written)), written);
  };
  fc.assert(fc.property(nastyTexts, canonical), { numRuns: 5_000 });
  assert.equal(keyText(keyBytes("\\x41")), "A");
  assert.equal(keyText(keyBytes("\\xc3\\xa9")), "é");
});

Deno.test(
  "valueColumns() puts text without NUL in value, all else in value_bytes, and loses nothing",
  strict,
  () => {
    assert.deepEqual(valueColumns(bytes("")), { value: "", valueBytes: null });
    assert.deepEqual(valueColumns(bytes("\\x41")), { value: "\\x41", valueBytes: null });
    assert.deepEqual(valueColumns(Uint8Array.of(0)), { value: null, valueBytes: Uint8Array.of(0) });
    const roundTrip = (value: Uint8Array) => {
      const columns = valueColumns(value);
      assert.equal((columns.value === null) !== (columns.valueBytes === null), true);
      assert.deepEqual(valueBytes(columns), value);
    };
    fc.assert(fc.property(nastyBytes, roundTrip), { numRuns: 5_000 });
  },
);

Deno.test("textPrefix() is the longest beginning that is text", strict, () => {
  const longest = (value: Uint8Array) => {
    const prefix = textPrefix(value);
    const size = bytes(prefix).length;
    assert.equal(startsWith(value, bytes(prefix)), true);
    assert.equal(asText(value.subarray(0, size)), prefix);
    for (let more = 1; more <= 4 && size + more <= value.length; more++) {
      assert.equal(asText(value.subarray(0, size + more)), undefined);
    }
  };
  fc.assert(fc.property(nastyBytes, longest), { numRuns: 5_000 });
});

Deno.test("prefixEnd() is the first key after all keys with the prefix", strict, () => {
  assert.deepEqual(prefixEnd(bytes("/a")), bytes("/b"));
  assert.deepEqual(prefixEnd(Uint8Array.of(1, 0xff)), Uint8Array.of(2));
  assert.deepEqual(prefixEnd(Uint8Array.of()), Uint8Array.of(0));
  assert.deepEqual(prefixEnd(Uint8Array.of(0xff, 0xff)), Uint8Array.of(0));
  const prefix = Buffer.from("/a");
  prefixEnd(prefix);
  assert.equal(String(prefix), "/a", "what is given stays as it is");
  const before = (key: Uint8Array, end: Uint8Array) =>
    equalBytes(end, Uint8Array.of(0)) || compare(key, end) < 0;
  const holds = (prefix: Uint8Array, key: Uint8Array) => {
    const end = prefixEnd(prefix);
    const inRange = compare(prefix, key) <= 0 && before(key, end);
    assert.equal(inRange, startsWith(key, prefix));
    assert.equal(before(concat([prefix, key]), end), true);
  };
  fc.assert(fc.property(nastyBytes, nastyBytes, holds), { numRuns: 5_000 });
});

Deno.test("successor() leaves no key between", strict, () => {
  fc.assert(fc.property(nastyBytes, nastyBytes, (key, other) => {
    assert.equal(compare(key, other) < 0, compare(successor(key), other) <= 0);
  }));
});

function compare(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    if (a[i] !== b[i]) return a[i] - b[i];
  }
  return a.length - b.length;
}
