/** Events on their way from the watch to the mirror, in whole revisions. Pure; the pump is lib/etcd/follow.ts. */
import type { Event } from "./words.ts";

/** What one commit takes: all events up to and including revision `to`. */
export interface Batch {
  events: Event[];
  /** Of their keys and values. */
  bytes: number;
  to: number;
}

/** What an event takes beside its key and value, about. */
const EVENT_BYTES = 64;
/** Ten rounds of etcd's loop for watchers that are behind (100 ms, mvcc's syncWatchersLoop). */
const CAREFUL_MS = 1_000;

interface Revision {
  revision: number;
  events: Event[];
  bytes: number;
}

/**
 * A revision's events count as received only when an event of a later one, or a response without `fragment`, has closed it: they
 * come in order, and etcd never splits a revision over two unfragmented responses. Closing only by the response is not enough for
 * a bound: for a watcher that is behind one response has up to 1,000 revisions, in as many fragments as it takes.
 */
export class Inbox {
  #open: Event[] = [];
  #closed: Revision[] = [];
  #bytes = 0;
  #progress = 0;
  #candidate: { revision: number; at: number } | null = null;
  #proved = false;

  /**
   * @param position everything up to here has been applied
   * @param carefulProgress servers before 3.4.25 and 3.5.8 can send a progress notification ahead of events that it covers
   * (etcd issue 15220): there one counts when the next comes, with no event in between and after a time in which the
   * server, which serves watchers that are behind ten times a second, would have sent them
   */
  constructor(public position: number, readonly carefulProgress: boolean) {}

  /** Bytes of values and keys that wait. */
  get bytes(): number {
    return this.#bytes;
  }

  get isEmpty(): boolean {
    return this.#closed.length === 0 && !this.#proved;
  }

  events(events: Event[], fragment: boolean): void {
    this.#candidate = null;
    // no spread: a revision can have more events than a call can have arguments
    for (const event of events) if (event.kv.modRevision > this.position) this.#open.push(event);
    const last = this.#open.at(-1)?.kv.modRevision;
    const complete = fragment
      ? this.#open.findIndex((event) => event.kv.modRevision === last)
      : this.#open.length;
    this.#close(this.#open.splice(0, Math.max(0, complete)));
  }

  #close(events: Event[]): void {
    for (const event of events) {
      const size = event.kv.key.length + event.kv.value.length + EVENT_BYTES;
      let last = this.#closed.at(-1);
      if (last?.revision !== event.kv.modRevision) {
        last = { revision: event.kv.modRevision, events: [], bytes: 0 };
        this.#closed.push(last);
      }
      last.events.push(event);
      last.bytes += size;
      this.#bytes += size;
    }
  }

  /**
   * A progress notification of this watch: all its events up to `revision` have been received.
   * @param at when it came, in milliseconds
   */
  progress(revision: number, at: number): void {
    const proved = this.carefulProgress ? this.#outlived(revision, at) : revision;
    if (proved === null || this.#open.length > 0) return;
    this.#progress = Math.max(this.#progress, proved);
    this.#proved = this.#progress >= this.position; // also where nothing happened: it is fresh
  }

  /** The revision that was notified long enough ago, with no event since; null: not yet. */
  #outlived(revision: number, at: number): number | null {
    const first = this.#candidate;
    if (first && at - first.at < CAREFUL_MS) return null;
    this.#candidate = { revision, at };
    return first?.revision ?? null;
  }

  /** At least one revision, and more while they fit; null: nothing new. */
  take(maxBytes: number): Batch | null {
    if (this.isEmpty) return null;
    const events: Event[] = [];
    let bytes = 0;
    let count = 0;
    for (const revision of this.#closed) {
      if (count > 0 && bytes + revision.bytes > maxBytes) break;
      for (const event of revision.events) events.push(event);
      bytes += revision.bytes;
      this.position = revision.revision;
      count++;
    }
    this.#closed.splice(0, count);
    this.#bytes -= bytes;
    if (this.#closed.length === 0) {
      this.position = Math.max(this.position, this.#progress);
      this.#proved = false;
    }
    return { events, bytes: bytes - events.length * EVENT_BYTES, to: this.position };
  }
}
