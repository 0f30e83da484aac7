/** A watch whose events go to an inbox, within a budget of bytes, and that is watched over: silence is an error. */
import { type Batch, Inbox } from "../core/inbox.ts";
import type { EtcdClient } from "./client.ts";
import { encodeWatchProgress } from "./encode.ts";
import { EtcdError, STATUS } from "./error.ts";
import type { OpenStream } from "./http2.ts";
import { watchRange } from "./watch.ts";
import type { WatchResponse } from "./wire.ts";

export interface FollowOptions {
  /** First revision wanted is the one after it. */
  position: number;
  clusterId: string;
  carefulProgress: boolean;
  fragment: boolean;
  /** No response for so long: the watch is given up. */
  freshTimeoutMs: number;
}

/** Why a follower ended. */
export type End =
  | { kind: "history-lost"; compactRevision: number }
  | { kind: "history-replaced"; clusterId: string }
  | { kind: "broken"; error: unknown };

const INBOX_BYTES = 16 * 1024 * 1024;
const BATCH_BYTES = 4 * 1024 * 1024;
const IDLE_MS = 1_000;

export class Follower implements Disposable {
  #watch: OpenStream | undefined;
  readonly #inbox: Inbox;
  readonly #options: FollowOptions;
  readonly #timer: ReturnType<typeof setInterval>;
  #end: End | undefined;
  /** The last sign that the stream keeps up: an event, or progress up to what is expected of it. */
  #heard = performance.now();
  #asked = performance.now();
  #expected = 0;
  #unfinished = 0;
  #wakeReader: () => void = () => {};
  readonly #created = Promise.withResolvers<void>();

  private constructor(options: FollowOptions) {
    this.#options = options;
    this.#inbox = new Inbox(options.position, options.carefulProgress);
    this.#timer = setInterval(() => this.#watchOver(), IDLE_MS / 4);
  }

  /**
   * Opens a watch; returns when etcd has it, so that what is read from now on is read after.
   *
   * It begins at `position` itself, whose events are dropped. One revision later it would begin in the future of an etcd
   * where nothing happens, and etcd sends such a watch no progress (mvcc's progressIfSync): it would never prove
   * anything. And the bugs by which a watch that begins at the compact revision loses the deletes of that revision (etcd
   * issues 18089, 19179) then lose none that is wanted.
   */
  static async open(
    client: EtcdClient,
    range: { from: Uint8Array; to: Uint8Array },
    options: FollowOptions,
  ): Promise<Follower> {
    const follower = new Follower(options);
    try {
      await follower.#follow(client, range);
      await follower.#created.promise;
      return follower;
    } catch (error) {
      follower[Symbol.dispose]();
      throw error;
    }
  }

  /** What has arrived, or null. */
  take(): Batch | null {
    const batch = this.#inbox.take(BATCH_BYTES);
    if (this.#inbox.bytes < INBOX_BYTES) this.#watch?.resume();
    return batch;
  }

  /** Why it ended, once all that had arrived before is taken. */
  get end(): End | undefined {
    return this.#inbox.isEmpty ? this.#end : undefined;
  }

  /** Waits until there is something to take, the follower has ended, or `signal` aborts; or for `timeoutMs`. */
  async arrival(signal: AbortSignal, timeoutMs?: number): Promise<void> {
    if (!this.#inbox.isEmpty || this.#end || signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wakeReader = resolve;
    const wake = () => resolve();
    const timer = timeoutMs === undefined ? undefined : setTimeout(wake, timeoutMs);
    signal.addEventListener("abort", wake, { once: true });
    await promise;
    signal.removeEventListener("abort", wake);
    clearTimeout(timer);
  }

  /** etcd is known to be at this revision: progress below it is the sign of a member that has fallen behind. */
  expect(revision: number): void {
    this.#expected = revision;
    this.requestProgress();
  }

  /**
   * Asks for a progress notification: it comes after all events up to the revision in its header. It may take etcd a while,
   * or never come.
   */
  requestProgress(): void {
    this.#asked = performance.now();
    this.#watch?.send(encodeWatchProgress());
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#end ??= { kind: "broken", error: new Error("closed") };
    this.#watch?.cancel();
  }

  async #follow(client: EtcdClient, range: { from: Uint8Array; to: Uint8Array }): Promise<void> {
    const { position, fragment } = this.#options;
    const receive = (response: WatchResponse) => {
      if (this.#end) return;
      const end = this.#receive(response, performance.now());
      if (end) this.#finish(end);
      else this.#wakeReader();
      this.#created.resolve();
      if (this.#inbox.bytes >= INBOX_BYTES) this.#watch?.pause();
    };
    this.#watch = await watchRange(client, range, Math.max(position, 1), fragment, receive);
    this.#watch.ended.catch((error) => this.#finish({ kind: "broken", error }));
  }

  #finish(end: End): void {
    this.#end ??= end;
    this.#created.resolve();
    this.#wakeReader();
  }

  #receive(response: WatchResponse, at: number): End | undefined {
    const { clusterId, revision } = response.header;
    if (clusterId !== this.#options.clusterId) return { kind: "history-replaced", clusterId };
    if (response.canceled) {
      return response.compactRevision > 0
        ? { kind: "history-lost", compactRevision: response.compactRevision }
        : {
          kind: "broken",
          error: new EtcdError(STATUS.CANCELLED, response.cancelReason || "the watch was canceled"),
        };
    }
    // Never the header of a created or event response: it can be ahead of the events.
    if (response.events.length > 0 || response.created || revision >= this.#expected) this.#heard = at;
    if (response.events.length > 0) this.#inbox.events(response.events, response.fragment);
    else if (!response.created) this.#inbox.progress(revision, at);
  }

  #watchOver(): void {
    const now = performance.now();
    const paused = this.#inbox.bytes >= INBOX_BYTES; // we are slow, not etcd
    const unfinished = this.#watch?.unfinished() ?? 0;
    const grows = unfinished > 0 && unfinished !== this.#unfinished; // a large response on a slow line
    this.#unfinished = unfinished;
    if (paused || grows) this.#heard = now;
    else if (now - this.#heard > this.#options.freshTimeoutMs) {
      const silence = `no event and no progress for ${this.#options.freshTimeoutMs / 1_000} s`;
      this.#finish({ kind: "broken", error: new EtcdError(STATUS.DEADLINE_EXCEEDED, silence) });
    } else if (now - this.#heard > IDLE_MS && now - this.#asked > IDLE_MS) this.requestProgress();
  }
}
