/** Keys and values where a mirror would go wrong, by what is special about them. */

import { Buffer } from "node:buffer";
import type { Op } from "./etcd.ts";

const raw = (hex: string) => Buffer.from(hex, "hex");

export const nastyKeys: Record<string, Buffer> = {
  "plain": Buffer.from("plain"),
  "a backslash": Buffer.from("back\\slash"),
  "a literal escape": Buffer.from("\\x41"),
  "a literal escape of a backslash": Buffer.from("\\x5cx41"),
  "no escape: upper case": Buffer.from("\\xAB"),
  "NUL": raw("610062"),
  "NUL alone": raw("00"),
  "0xff": raw("ff"),
  "0xff twice": raw("ffff"),
  "half a character": raw("e282"),
  "an overlong form": raw("c0af"),
  "a surrogate": raw("eda080"),
  "quotes": Buffer.from(`it's "quoted"`),
  "newlines": Buffer.from("a\nb\r\n\tc"),
  "COPY's end": Buffer.from("\\."),
  "COPY's null": Buffer.from("\\N"),
  "emoji": Buffer.from("😀/👩‍👩‍👧"),
  "a byte order mark": Buffer.from("\ufeffbom"),
  "the last character": Buffer.from("\u{10ffff}"),
  "LIKE's signs": Buffer.from("%_"),
  "a dollar and braces": Buffer.from("${x} {1,2}"),
  "a space at its end": Buffer.from("end "),
  "the prefix again": Buffer.from("/a//b/"),
  "long": Buffer.from("k".repeat(2_000)),
};

export const nastyValues: Record<string, Buffer> = {
  "empty": Buffer.of(),
  "NUL": Buffer.of(0),
  "not UTF-8": raw("fffe00"),
  "a literal escape": Buffer.from("\\x41"),
  "a bytea's text": Buffer.from("\\x00ff"),
  "COPY's null": Buffer.from("\\N"),
  "quotes and newlines": Buffer.from(`'"\n\r\t\\ $1`),
  "emoji": Buffer.from("😀"),
  "a byte order mark": Buffer.from("\ufeff"),
  "JSON": Buffer.from('{"a": [1, "\\u0000"]}'),
  "half a character at the end": raw("61e282"),
  "1 MB": Buffer.alloc(1_000_000, "0123456789"),
  "1 MB of bytes": Buffer.alloc(1_000_000, raw("00ff80")),
};

/** Every key with a plain value, and every value under a plain key, below a prefix. */
export function nastyPairs(prefix: string | Uint8Array): { key: Buffer; value: Buffer }[] {
  const under = (key: Uint8Array) => Buffer.concat([Buffer.from(prefix as string), key]);
  return [
    ...Object.entries(nastyKeys).map(([name, key]) => ({ key: under(key), value: Buffer.from(name) })),
    ...Object.entries(nastyValues).map(([name, value]) => ({
      key: under(Buffer.from(`value ${name}`)),
      value,
    })),
  ];
}

/** Many small keys, in etcd transactions of a hundred. */
export function manyPuts(prefix: string, count: number, value = (i: number) => `value ${i}`): Op[][] {
  const puts = Array.from({ length: count }, (_, i) => ({
    put: `${prefix}many/${String(i).padStart(6, "0")}`,
    value: value(i),
  }));
  return Array.from({ length: Math.ceil(count / 100) }, (_, i) => puts.slice(i * 100, i * 100 + 100));
}
