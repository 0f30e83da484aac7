/** A call by grpc-js: what a client that many use makes of the same server. */
import type { Buffer } from "node:buffer";
import * as grpc from "@grpc/grpc-js";

/** How it fails; `refusal` says as what the program takes it. */
export function failByGrpc(
  address: string,
  path: string,
  message: Buffer,
  metadata: Record<string, string>,
  timeoutMs: number,
): Promise<grpc.ServiceError> {
  const client = new grpc.Client(address, grpc.credentials.createInsecure(), {
    "grpc.max_send_message_length": -1,
    "grpc.enable_retries": 0,
  });
  const same = <T>(bytes: T) => bytes;
  const headers = grpc.Metadata.fromHttp2Headers(metadata);
  return new Promise((resolve, reject) =>
    client.makeUnaryRequest(
      path,
      same<Buffer>,
      same<Buffer>,
      message,
      headers,
      { deadline: Date.now() + timeoutMs },
      (error) => {
        client.close();
        if (error) resolve(error);
        else reject(new Error("it did not fail"));
      },
    )
  );
}
