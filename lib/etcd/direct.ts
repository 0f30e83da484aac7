/** One call of grpc on a connection of our own, see lib/etcd/http2.ts. */
import * as grpc from "@grpc/grpc-js";
import { asEtcdError, EtcdError } from "./error.ts";
import { type Answer as Http2Answer, type Http2Connection, Http2Error, TooLargeError } from "./http2.ts";

export interface DirectOptions<Answer> {
  metadata: grpc.Metadata;
  decode: (bytes: Uint8Array) => Answer;
  timeoutMs: number;
  /** A larger answer is refused, as grpc does: RESOURCE_EXHAUSTED. */
  maxBytes: number;
}

/** @throws {EtcdError} */
export async function directUnary<Answer>(
  connection: Http2Connection,
  path: string,
  message: Uint8Array,
  { metadata, decode, timeoutMs, maxBytes }: DirectOptions<Answer>,
): Promise<Answer> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), timeoutMs);
  try {
    const headers = Object.entries(metadata.getMap()).map(([k, v]): [string, string] => [k, String(v)]);
    return decode(
      readAnswer(await connection.call(path, { headers, message, maxBytes, signal: late.signal })),
    );
  } catch (error) {
    if (late.signal.aborted) {
      throw new EtcdError(grpc.status.DEADLINE_EXCEEDED, `no answer for ${timeoutMs / 1_000} s`);
    }
    if (error instanceof TooLargeError) throw new EtcdError(grpc.status.RESOURCE_EXHAUSTED, error.message);
    if (error instanceof Http2Error) {
      throw new EtcdError(grpc.status.UNAVAILABLE, error.message, error.unsent);
    }
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function readAnswer({ headers, message }: Http2Answer): Uint8Array {
  const status = headers.get("grpc-status");
  if (status === undefined) {
    throw new EtcdError(grpc.status.UNAVAILABLE, `no answer of grpc (HTTP ${headers.get(":status")})`);
  }
  const code = Number(status);
  if (code !== grpc.status.OK) {
    const details = decodeURIComponent(headers.get("grpc-message") ?? "");
    throw asEtcdError(Object.assign(new Error(details), { code, details }));
  }
  if (!message) throw new EtcdError(grpc.status.INTERNAL, "an answer without a message");
  return message;
}
