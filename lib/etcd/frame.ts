/** HTTP/2's frames as bytes (RFC 9113, 4 and 6), as far as lib/etcd/http2.ts needs them. */
import { concat } from "../core/codec.ts";

export const FRAME_HEAD_BYTES = 9;
/** What a sender may assume before it is told. */
export const FIRST_WINDOW = 65_535;
export const WIDEST_WINDOW = 2 ** 31 - 1;

export const FRAME = {
  DATA: 0,
  HEADERS: 1,
  RST_STREAM: 3,
  SETTINGS: 4,
  PING: 6,
  GOAWAY: 7,
  WINDOW_UPDATE: 8,
  CONTINUATION: 9,
} as const;

export const FLAG = { END_STREAM: 1, ACK: 1, END_HEADERS: 4, PADDED: 8, PRIORITY: 0x20 } as const;
export const SETTING = {
  HEADER_TABLE_SIZE: 1,
  ENABLE_PUSH: 2,
  INITIAL_WINDOW_SIZE: 4,
  MAX_FRAME_SIZE: 5,
} as const;
export const ERROR = { NO_ERROR: 0, REFUSED_STREAM: 7, CANCEL: 8 } as const;

const PREFACE = new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

/**
 * A client's first bytes: no header tables, no pushes, the connection's window as wide as it may be.
 * @param windowBytes that of each stream
 */
export function opening(windowBytes: number): Uint8Array {
  const settings = [
    [SETTING.HEADER_TABLE_SIZE, 0],
    [SETTING.ENABLE_PUSH, 0],
    [SETTING.INITIAL_WINDOW_SIZE, windowBytes],
  ].flatMap(([id, value]) => [0, id, ...uint32(value)]);
  return concat([
    PREFACE,
    frame(FRAME.SETTINGS, 0, 0, settings),
    frame(FRAME.WINDOW_UPDATE, 0, 0, uint32(WIDEST_WINDOW - FIRST_WINDOW)),
  ]);
}

export function frame(type: number, flags: number, id: number, payload: ArrayLike<number>): Uint8Array {
  const { length } = payload;
  const out = new Uint8Array(FRAME_HEAD_BYTES + length);
  out.set([length >> 16, length >> 8 & 255, length & 255, type, flags, ...uint32(id)]);
  out.set(payload, FRAME_HEAD_BYTES);
  return out;
}

export interface FrameHead {
  length: number;
  type: number;
  flags: number;
  id: number;
}

export function readHead(bytes: Uint8Array, at: number): FrameHead {
  return {
    length: bytes[at] << 16 | bytes[at + 1] << 8 | bytes[at + 2],
    type: bytes[at + 3],
    flags: bytes[at + 4],
    id: readUint32(bytes, at + 5) & 0x7fffffff,
  };
}

export function uint32(value: number): number[] {
  return [value >>> 24, value >>> 16 & 255, value >>> 8 & 255, value & 255];
}

export function readUint32(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 24 | bytes[at + 1] << 16 | bytes[at + 2] << 8 | bytes[at + 3]) >>> 0;
}
