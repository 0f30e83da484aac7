/** One call on one channel. */
import type { Buffer } from "node:buffer";
import * as grpc from "@grpc/grpc-js";
import { asEtcdError, EtcdError } from "./error.ts";
import { method, type Service } from "./protocol.ts";

const CALL_TIMEOUT_MS = 10_000;

export interface UnaryOptions<Answer> {
  metadata?: grpc.Metadata;
  decode?: (bytes: Buffer) => Answer;
  timeoutMs?: number;
}

/** @throws {EtcdError} */
export function unary<Answer>(
  client: grpc.Client,
  service: Service,
  name: string,
  request: unknown,
  { metadata = new grpc.Metadata(), decode, timeoutMs = CALL_TIMEOUT_MS }: UnaryOptions<Answer> = {},
): Promise<Answer> {
  const { path, requestSerialize, responseDeserialize } = method(service, name);
  return new Promise((resolve, reject) => {
    try {
      client.makeUnaryRequest(
        path,
        requestSerialize,
        (decode ?? responseDeserialize) as grpc.deserialize<Answer>,
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
