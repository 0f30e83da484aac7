/** A watch as messages that are pushed, and can be held up: so that a slow reader slows the server and not our memory. */
import type { EtcdClient } from "./client.ts";
import { encodeWatchCreate, encodeWatchProgress } from "./encode.ts";
import type { OpenStream } from "./http2.ts";
import { decodeWatchResponse, type WatchResponse } from "./wire.ts";

/** What may still come after `pause`. */
export const WATCH_WINDOW_BYTES = 4 * 1024 * 1024;

export class Watch {
  readonly #stream: OpenStream;

  private constructor(stream: OpenStream) {
    this.#stream = stream;
  }

  /**
   * Opens a watch of all keys in the range. `receive` gets every response, the created one first: some servers put
   * events into it.
   * @param client made with WATCH_WINDOW_BYTES, where more may come than one key's events
   */
  static async open(
    client: EtcdClient,
    range: { from: Uint8Array; to: Uint8Array },
    startRevision: number,
    fragment: boolean,
    receive: (response: WatchResponse) => void,
  ): Promise<Watch> {
    // Fragmenting is quadratic in the number of small events: only where a response exceeds the receive limit.
    const create = encodeWatchCreate({ key: range.from, end: range.to, startRevision, fragment });
    return new Watch(await client.stream("Watch", "Watch", create, decodeWatchResponse, receive));
  }

  /** Rejects when the watch has its end. @throws {EtcdError} */
  get ended(): Promise<unknown> {
    return this.#stream.ended;
  }

  /** Asks this stream for its progress: the answer comes after all events up to the revision in its header. */
  requestProgress(): void {
    this.#stream.send(encodeWatchProgress());
  }

  /** Bytes that are here of a response that is not whole. */
  unfinished(): number {
    return this.#stream.unfinished();
  }

  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  /** Nothing is received after it. */
  cancel(): void {
    this.#stream.cancel();
  }
}
