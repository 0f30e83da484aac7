/**
 * Bytes in etcd, text in SQL; one to one (tests/unit/codec_test.ts, and the same rule in sql/002_mirror.sql).
 *
 * A key that is valid UTF-8 without NUL and without a literal `\xHH` (two lower-case hex digits) is itself. In any
 * other, each offending byte, and the backslash of a literal `\xHH`, is written `\xHH`. To decode, replace every
 * `\xHH`: one can only stand where the codec wrote it, since a literal one has lost its backslash, and characters on
 * two sides of an escape never form a new one (an escape begins with a backslash, which is neither `x` nor hex).
 */

import { Buffer } from "node:buffer";

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const ESCAPE = /\\x[0-9a-f]{2}/;
const NUL = 0;
const BACKSLASH = 0x5c;

/** Valid UTF-8 without NUL as text, else undefined. */
export function asText(bytes: Uint8Array): string | undefined {
  if (bytes.includes(NUL)) return undefined;
  try {
    return strict.decode(bytes);
  } catch {
    return undefined;
  }
}

/** A key of etcd as SQL writes it. */
export function keyText(key: Uint8Array): string {
  const text = asText(key);
  return text !== undefined && !isEscaped(text) ? text : escapeKey(key);
}

/** The bytes in etcd of a key as SQL writes it. */
export function keyBytes(text: string): Uint8Array {
  if (!isEscaped(text)) return utf8(text);
  const parts = text.split(/\\x([0-9a-f]{2})/);
  return concat(parts.map((part, i) => i % 2 ? Uint8Array.of(parseInt(part, 16)) : utf8(part)));
}

/** Whether a key as SQL writes it has escapes. */
export function isEscaped(text: string): boolean {
  return text.includes("\\x") && ESCAPE.test(text);
}

/** A short text's bytes share a buffer with others': a buffer for each, as a TextEncoder makes it, costs six times as much. */
function utf8(text: string): Uint8Array {
  const { buffer, byteOffset, length } = Buffer.from(text);
  return new Uint8Array(buffer, byteOffset, length);
}

/** A value for the columns `value` and `value_bytes`; exactly one is set. */
export function valueColumns(value: Uint8Array): { value: string | null; valueBytes: Uint8Array | null } {
  const text = asText(value);
  return text === undefined ? { value: null, valueBytes: value } : { value: text, valueBytes: null };
}

/** The bytes of a value from its columns. */
export function valueBytes(row: { value: string | null; valueBytes: Uint8Array | null }): Uint8Array {
  return row.valueBytes ?? utf8(row.value ?? "");
}

/** The longest beginning of `bytes` that is text without NUL. */
export function textPrefix(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length;) {
    const size = sequenceLength(bytes, at);
    if (size === 0) break;
    text += strict.decode(bytes.subarray(at, at + size));
    at += size;
  }
  return text;
}

/** etcd's `range_end` for all keys with a prefix: the prefix + 1, or `\0` where there is none (everything from the key on). */
export function prefixEnd(prefix: Uint8Array): Uint8Array {
  for (let i = prefix.length - 1; i >= 0; i--) {
    if (prefix[i] < 0xff) {
      const end = new Uint8Array(prefix.subarray(0, i + 1)); // slice() of node's Buffer is no copy
      end[i]++;
      return end;
    }
  }
  return Uint8Array.of(NUL);
}

/** Whether a `range_end` is that of everything from the key on. */
export function isUnbounded(end: Uint8Array): boolean {
  return end.length === 1 && end[0] === NUL;
}

/** The key right after `key`. */
export function successor(key: Uint8Array): Uint8Array {
  return concat([key, Uint8Array.of(NUL)]);
}

export function startsWith(bytes: Uint8Array, prefix: Uint8Array): boolean {
  return bytes.length >= prefix.length && prefix.every((b, i) => bytes[i] === b);
}

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && startsWith(a, b);
}

export function concat(parts: ArrayLike<number>[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function escapeKey(key: Uint8Array): string {
  let text = "";
  for (let at = 0; at < key.length;) {
    const size = sequenceLength(key, at);
    if (size === 0 || (key[at] === BACKSLASH && isLiteralEscape(key, at))) {
      text += "\\x" + key[at].toString(16).padStart(2, "0");
      at++;
    } else {
      text += strict.decode(key.subarray(at, at + size));
      at += size;
    }
  }
  return text;
}

function isLiteralEscape(key: Uint8Array, at: number): boolean {
  return key[at + 1] === 0x78 && isHex(key[at + 2]) && isHex(key[at + 3]);
}

function isHex(byte: number | undefined): boolean {
  return byte !== undefined && ((byte >= 0x30 && byte <= 0x39) || (byte >= 0x61 && byte <= 0x66));
}

/** Bytes of the UTF-8 sequence at `at`, 0 where there is none (NUL counts as none). Table 3-7 of the Unicode standard. */
function sequenceLength(bytes: Uint8Array, at: number): number {
  const lead = bytes[at];
  if (lead >= 0x01 && lead <= 0x7f) return 1;
  const size = lead >= 0xc2 && lead <= 0xdf
    ? 2
    : lead >= 0xe0 && lead <= 0xef
    ? 3
    : lead >= 0xf0 && lead <= 0xf4
    ? 4
    : 0;
  if (size === 0 || at + size > bytes.length) return 0;
  const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  if (bytes[at + 1] < low || bytes[at + 1] > high) return 0;
  for (let i = 2; i < size; i++) {
    if (bytes[at + i] < 0x80 || bytes[at + i] > 0xbf) return 0;
  }
  return size;
}
