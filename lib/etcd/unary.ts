/** One call on one channel. */
import type { Buffer } from "node:buffer";
import * as grpc from "@grpc/grpc-js";
import { asEtcdError, EtcdError } from "./error.ts";
import { method, methodPath, type Service } from "./protocol.ts";

export const CALL_TIMEOUT_MS = 10_000;

export interface UnaryOptions<Answer> {
  metadata?: grpc.Metadata;
  /** With both, the protocol file is not needed. */
  encode?: (request: unknown) => Buffer;
  decode?: (bytes: Uint8Array) => Answer;
  timeoutMs?: number;
}

/** @throws {EtcdError} */
export async function unary<Answer>(
  client: grpc.Client,
  service: Service,
  name: string,
  request: unknown,
  { metadata = new grpc.Metadata(), encode, decode, timeoutMs = CALL_TIMEOUT_MS }: UnaryOptions<Answer> = {},
): Promise<Answer> {
  const codecs = encode && decode ? undefined : await method(service, name);
  return await new Promise((resolve, reject) => {
    try {
      client.makeUnaryRequest(
        methodPath(service, name),
        encode ?? codecs!.requestSerialize,
        (decode ?? codecs!.responseDeserialize) as grpc.deserialize<Answer>,
        request,
        metadata,
        { deadline: Date.now() + timeoutMs },
        (error, answer) => error ? reject(asEtcdError(error)) : resolve(answer!),
      );
    } catch (error) { // the channel was closed meanwhile
      reject(new EtcdError(grpc.status.UNAVAILABLE, (error as Error).message, true));
    }
  });
}
