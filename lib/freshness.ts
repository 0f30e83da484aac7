/**
 * The proof that the mirror is fresh (promise 7), end to end and also when nothing happens. Once a second:
 *
 *   1. the time is taken: T;
 *   2. a linearizable read says etcd's revision: R. Whatever etcd acknowledged before T has a revision up to R;
 *   3. the watch is asked for its progress;
 *   4. a commit of the mirror reaches R, by the watch's own events or progress: the mirror has all that was
 *      acknowledged before T, and that commit writes `fresh_at` = T.
 *
 * The order of 1 and 2 is what makes it a proof. A member that has fallen behind, or is cut off from the others, answers
 * 3 with a revision below R, and proves nothing. Without a quorum there is no R.
 */
import type { Follower } from "./etcd/follow.ts";
import { readKey } from "./etcd/kv.ts";
import { sleep } from "./lifecycle.ts";
import { readableKey, type Stream } from "./stream.ts";

const EVERY_MS = 1_000;
/** etcd leaves a request for progress unanswered while it still replays to the watch: it is repeated. */
const REPEAT_MS = 100;
/** A mirror that is further behind has lost nothing but the older proofs. */
const MOST_ASKED = 600;

export class FreshnessProof implements Disposable {
  readonly #stop = new AbortController();
  #asked: { at: number; revision: number }[] = [];

  constructor(stream: Stream, follower: Follower) {
    this.#ask(stream, follower);
  }

  /** A commit reaches `revision`: the instant (of `performance.now()`) as of which the mirror is fresh; null: no newer one. */
  proven(revision: number): number | null {
    const reached = this.#asked.findLastIndex((asked) => asked.revision <= revision);
    if (reached < 0) return null;
    return this.#asked.splice(0, reached + 1)[reached].at;
  }

  /** Does not wait for a read that hangs. */
  [Symbol.dispose](): void {
    this.#stop.abort();
  }

  async #ask(stream: Stream, follower: Follower): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const at = performance.now();
      try {
        const { revision } = await readKey(stream.kv, readableKey(stream));
        stream.telemetry.vitals.etcd = { revision, answeredAt: performance.now() };
        this.#asked.push({ at, revision });
        if (this.#asked.length > MOST_ASKED) this.#asked.shift();
        follower.expect(revision);
      } catch { /* no proof: `fresh_at` stands still, and the watch has its own watchdog */ }
      for (let left = EVERY_MS; left > 0 && !signal.aborted; left = EVERY_MS - (performance.now() - at)) {
        await sleep(this.#asked.length > 0 ? Math.min(left, REPEAT_MS) : left, signal);
        if (this.#asked.length > 0 && !signal.aborted) follower.requestProgress();
      }
    }
  }
}
