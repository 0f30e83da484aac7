/** A watch as messages that are pushed, and can be held up: so that a slow reader slows the server and not our memory. */
import type { EtcdClient } from "./client.ts";
import { encodeWatchCreate } from "./encode.ts";
import type { OpenStream } from "./http2.ts";
import { decodeWatchResponse, type WatchResponse } from "./wire.ts";

/** What may still come after `pause`. */
export const WATCH_WINDOW_BYTES = 4 * 1024 * 1024;

/**
 * Opens a watch of all keys in the range. `receive` gets every response, the created one first: some servers put events
 * into it.
 * @param client made with WATCH_WINDOW_BYTES, where more may come than one key's events
 * @throws {EtcdError} its `ended` too, in any case
 */
export async function watchRange(
  client: EtcdClient,
  range: { from: Uint8Array; to: Uint8Array },
  startRevision: number,
  fragment: boolean,
  receive: (response: WatchResponse) => void,
): Promise<OpenStream> {
  // Fragmenting is quadratic in the number of small events: only where a response exceeds the receive limit.
  const create = encodeWatchCreate({ key: range.from, end: range.to, startRevision, fragment });
  return await client.stream("Watch", "Watch", create, decodeWatchResponse, receive);
}
