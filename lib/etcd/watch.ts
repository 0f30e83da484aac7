/** A watch as a raw stream: pulled, so that a slow reader slows the server and not our memory. */
import { Buffer } from "node:buffer";
import type * as grpc from "@grpc/grpc-js";
import type { EtcdClient } from "./client.ts";
import { asEtcdError } from "./error.ts";
import { decodeWatchResponse, type WatchResponse } from "./wire.ts";

type Request =
  | {
    create_request: {
      key: Buffer;
      range_end: Buffer;
      start_revision: number;
      progress_notify: boolean;
      fragment: boolean;
    };
  }
  | { progress_request: Record<never, never> };

export class Watch implements AsyncDisposable {
  readonly #stream: grpc.ClientDuplexStream<Request, WatchResponse>;

  private constructor(stream: grpc.ClientDuplexStream<Request, WatchResponse>) {
    this.#stream = stream;
    stream.on("error", () => {}); // it reaches the reader through the iterator
  }

  /**
   * Opens a watch of all keys with the prefix. Every response is read by the caller, the created one first: some
   * servers put events into it.
   */
  static async open(
    client: EtcdClient,
    range: { from: Uint8Array; to: Uint8Array },
    startRevision: number,
    fragment: boolean,
  ): Promise<Watch> {
    const stream = await client.stream<Request, WatchResponse>("Watch", "Watch", decodeWatchResponse);
    stream.write({
      create_request: {
        key: Buffer.from(range.from),
        range_end: Buffer.from(range.to),
        start_revision: startRevision,
        progress_notify: true,
        // Fragmenting is quadratic in the number of small events: only where a response exceeds the receive limit.
        fragment,
      },
    });
    return new Watch(stream);
  }

  /** Responses until the stream ends. @throws {EtcdError} where it breaks */
  async *[Symbol.asyncIterator](): AsyncGenerator<WatchResponse> {
    try {
      yield* this.#stream;
    } catch (error) {
      throw asEtcdError(error as grpc.ServiceError);
    }
  }

  /** Asks this stream for its progress: the answer comes after all events up to the revision in its header. */
  requestProgress(): void {
    if (this.#stream.writable) this.#stream.write({ progress_request: {} });
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#stream.cancel();
    return Promise.resolve();
  }
}
