/** A watch as a raw stream: pulled, so that a slow reader slows the server and not our memory. */
import type { Buffer } from "node:buffer";
import type * as grpc from "@grpc/grpc-js";
import type { EtcdClient } from "./client.ts";
import { encodeWatchCreate, encodeWatchProgress } from "./encode.ts";
import { asEtcdError } from "./error.ts";
import { decodeWatchResponse, type WatchResponse } from "./wire.ts";

export class Watch implements AsyncDisposable {
  readonly #stream: grpc.ClientDuplexStream<Buffer, WatchResponse>;

  private constructor(stream: grpc.ClientDuplexStream<Buffer, WatchResponse>) {
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
    const stream = await client.stream("Watch", "Watch", decodeWatchResponse);
    // Fragmenting is quadratic in the number of small events: only where a response exceeds the receive limit.
    stream.write(encodeWatchCreate({ key: range.from, end: range.to, startRevision, fragment }));
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
    if (this.#stream.writable) this.#stream.write(encodeWatchProgress());
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#stream.cancel();
    return Promise.resolve();
  }
}
