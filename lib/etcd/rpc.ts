/** Calls and streams of grpc on one connection: what HTTP/2 says of them, in grpc's terms. */
import { EtcdError, refusal, STATUS } from "./error.ts";
import { type Allocate, type Headers, Http2Error, TooLargeError } from "./exchange.ts";
import type { Answer as Http2Answer, Http2Connection, OpenStream } from "./http2.ts";

/**
 * A replayed watch message can be larger than grpc's default of 4 MB, and would fail for ever. A message stands in memory
 * several times over: with 256 MiB the program had more than 600 MiB. What is larger comes in fragments
 * (lib/watching.ts), or as smaller pages.
 */
const MAX_RECEIVE_BYTES = 48 * 1024 * 1024;

/** What goes with a request, lower case: `token`, `hasleader`. */
export type Metadata = [name: string, value: string][];

export interface RpcOptions<Answer> {
  metadata: Metadata;
  decode: (bytes: Uint8Array) => Answer;
  timeoutMs: number;
  allocate?: Allocate;
}

/** One message there, one back. @throws {EtcdError} */
export async function callRpc<Answer>(
  connection: Http2Connection,
  path: string,
  message: Uint8Array,
  { metadata, decode, timeoutMs, allocate }: RpcOptions<Answer>,
): Promise<Answer> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), timeoutMs);
  const request = { path, headers: metadata, message, maxBytes: MAX_RECEIVE_BYTES, allocate };
  try {
    return read(decode, readAnswer(await connection.call(request, late.signal)));
  } catch (error) {
    if (error !== late.signal.reason) throw asEtcdError(error);
    throw new EtcdError(STATUS.DEADLINE_EXCEEDED, `no answer for ${timeoutMs / 1_000} s`);
  } finally {
    clearTimeout(timer);
  }
}

/** Opens a stream with its first message; its `ended` fails in any case, with an EtcdError. */
export function openRpc<Message>(
  connection: Http2Connection,
  path: string,
  message: Uint8Array,
  { metadata, decode, receive }: {
    metadata: Metadata;
    decode: (bytes: Uint8Array) => Message;
    receive: (message: Message) => void;
  },
): OpenStream {
  const request = { path, headers: metadata, message, maxBytes: MAX_RECEIVE_BYTES };
  try {
    const stream = connection.stream(request, (bytes) => receive(read(decode, bytes)));
    const ended = stream.ended.then(readStatus).then(
      () => Promise.reject(new EtcdError(STATUS.UNAVAILABLE, "the server has ended the stream")),
      (error) => Promise.reject(asEtcdError(error)),
    );
    ended.catch(() => {}); // whoever waits is told
    return { ...stream, ended };
  } catch (error) {
    throw asEtcdError(error);
  }
}

/** How the connection failed, in grpc's terms. */
function asEtcdError(error: unknown): unknown {
  if (error instanceof TooLargeError) return new EtcdError(STATUS.RESOURCE_EXHAUSTED, error.message);
  if (error instanceof Http2Error) return new EtcdError(STATUS.UNAVAILABLE, error.message, error.unsent);
  return error;
}

function readAnswer({ headers, message }: Http2Answer): Uint8Array {
  readStatus(headers);
  if (!message) throw new EtcdError(STATUS.INTERNAL, "an answer without a message");
  return message;
}

/** @throws {EtcdError} where it is not OK */
function readStatus(headers: Headers): void {
  const status = headers.get("grpc-status");
  if (status === undefined) {
    throw new EtcdError(STATUS.UNAVAILABLE, `no answer of grpc (HTTP ${headers.get(":status")})`);
  }
  const code = /^\d+$/.test(status) ? Number(status) : STATUS.UNKNOWN;
  if (code !== STATUS.OK) throw refusal(code, readDetails(headers.get("grpc-message") ?? ""));
}

function readDetails(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded; // as grpc's other clients
  }
}

/** The server has carried the call out, and what it says of it is not to be read. */
function read<Message>(decode: (bytes: Uint8Array) => Message, bytes: Uint8Array): Message {
  try {
    return decode(bytes);
  } catch (error) {
    throw new EtcdError(STATUS.INTERNAL, (error as Error).message);
  }
}
