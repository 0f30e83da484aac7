/**
 * The whole keyspace by pages, beside the watch: bootstrap (an empty mirror) and compaction-resync (one that holds data,
 * which readers keep). No revision is pinned, so no compaction can send the scan back to its start.
 *
 *   pages   P1@10      P2@17      P3@25                     scan_revision = 25
 *   watch        11..16     17..22      23..25 progress@31  revision = 31  ≥ 25: caught up at 31
 *
 * Each page is at the newest revision when it is read, so the mirror holds keys of different revisions; the watch, which
 * began right after the first page, brings every key of an older page forward. Once it has passed the newest page, the
 * mirror is one revision. The checkpoint is then the watch's position: a page's or a row's revision can be ahead of
 * events that are still on their way.
 *
 * A page that is read BEFORE a delete arrives and merged AFTER it would bring the key back:
 *
 *   page read @10 (has k) ── event: delete k @11 applied ── page merged: k is back, and no event will take it away
 *
 * In a resync few rows differ, so the rows of a page's range are read beside it, and only what differs is merged. The scan
 * is the only writer of these rows: between its reading and its merge nothing changes them.
 *
 * The next pages are read ahead while this one is written, so a merge looks at the tombstones since (MERGE_PAGE), and the
 * copy into an empty range, which does not look, is used only if no event was applied since the page was asked for.
 */
import { compareBytes } from "../core/compare.ts";
import {
  foldEvents,
  foldPage,
  newerProbe,
  newestRow,
  type Probe,
  probeAfter,
  type Skipped,
} from "../core/plan.ts";
import type { Page } from "../core/words.ts";
import type { Follower } from "../etcd/follow.ts";
import { readKey } from "../etcd/kv.ts";
import { PagesAhead } from "../etcd/ahead.ts";
import { PageReader } from "../etcd/pages.ts";
import { next, type Outcome } from "../machine.ts";
import {
  applyEvents,
  catchUp,
  copyPage,
  mergePage,
  moveCheckpoint,
  type PageCommit,
} from "../postgres/mirror.ts";
import { diffPage } from "../postgres/page_diff.ts";
import { Progress } from "../progress.ts";
import { type Leadership, prefixRange, type Stream } from "../stream.ts";
import { inSpan } from "../telemetry/telemetry.ts";
import { endOf, openWatch } from "../watching.ts";

type ScanOutcome = Extract<Outcome, "caught-up" | "history-lost" | "history-replaced">;

const PROGRESS_EVERY_MS = 100;

/** What a page's commit knows of its keys. */
interface Written {
  newest: Probe | null;
  skipped: Skipped[];
}

/** Runs one scan, from its cursor if it has one. null: `signal` aborted. */
export async function scan(
  stream: Stream,
  leadership: Leadership,
  signal: AbortSignal,
): Promise<ScanOutcome | null> {
  using run = new Scan(stream, leadership, signal);
  const { state } = leadership.at;
  stream.telemetry.scanBegan(state);
  const span = stream.telemetry.span("scan", () => ({ state }));
  return await inSpan(span, async () => {
    const outcome = await run.run();
    span.setAttributes({ ...run.totals, revision: leadership.at.revision, outcome: outcome ?? "stopped" });
    return outcome;
  });
}

class Scan implements Disposable {
  readonly #stream: Stream;
  readonly #lead: Leadership;
  readonly #signal: AbortSignal;
  readonly #range: { from: Uint8Array; to: Uint8Array };
  readonly #pages: PageReader;
  readonly #progress: Progress;
  #follower: Follower | undefined;
  #probe: Probe | null = null;
  /** The range of the last page held rows, so the next one's will. */
  #held = false;
  /** Counts the batches of events applied: a page knows whether one came after it was asked for. */
  #applied = 0;
  readonly totals = { pages: 0, keys: 0, written: 0, deleted: 0 };

  constructor(stream: Stream, lead: Leadership, signal: AbortSignal) {
    this.#stream = stream;
    this.#lead = lead;
    this.#signal = signal;
    this.#range = prefixRange(stream.settings.prefix);
    this.#pages = new PageReader(stream.kv, this.#range.to);
    this.#progress = new Progress(stream.log, lead.at.state);
  }

  [Symbol.dispose](): void {
    this.#progress[Symbol.dispose]();
    this.#stream.telemetry.vitals.scan = null;
    this.#follower?.[Symbol.dispose]();
  }

  async run(): Promise<ScanOutcome | null> {
    const { at } = this.#lead;
    // after a crash the watch is reopened where it was; where it cannot be, the scan starts again
    const cursor = at.scanCursor;
    const lost = cursor && await this.#openWatch(at.revision);
    if (lost) return lost;
    const done = cursor !== null && compareBytes(cursor, this.#range.to) === 0;
    const ahead = new PagesAhead(
      (from, allocate) => this.#pages.read(from, 0, allocate),
      done ? null : cursor ?? this.#range.from,
      () => this.#applied,
    );
    while (!this.#signal.aborted) {
      const end = this.#follower ? await this.#applyArrived() : null;
      if (end) return end;
      const read = await ahead.next();
      if (!read) return await this.#awaitCaughtUp();
      const { page, note: applied } = read;
      if (await this.#isAnother(page)) return "history-replaced";
      // the first page fixes where the watch begins, and is merged before any event
      const first = !this.#follower;
      const ended = first ? await this.#openWatch(page.revision) : null;
      const replaced = ended ?? await this.#write(
        page,
        page.last ? this.#range.to : page.to,
        first || this.#applied === applied && page.revision >= at.revision,
        first ? page.revision : at.revision,
      );
      if (replaced) return replaced;
    }
    return null;
  }

  /** Another cluster, or a revision that was passed: an old server's stale read is read again, a restore stays below. */
  async #isAnother({ clusterId, revision }: Page): Promise<boolean> {
    const { at } = this.#lead;
    const highWater = Math.max(at.revision, at.scanRevision);
    return clusterId !== at.clusterId ||
      revision < highWater && (await readKey(this.#stream.kv, this.#range.from)).revision < highWater;
  }

  async #openWatch(position: number): Promise<ScanOutcome | null> {
    const opened = await openWatch(this.#stream, this.#lead, position);
    if (opened.kind !== "opened") return opened.kind;
    this.#follower = opened.follower;
    return null;
  }

  async #write(
    page: Page,
    cursor: Uint8Array,
    undisturbed: boolean,
    revision: number,
  ): Promise<ScanOutcome | null> {
    const { at } = this.#lead;
    const commit = { page, revision, cursor };
    const written = (undisturbed && !this.#held ? await this.#copy(commit) : null) ??
      await this.#merge(commit);
    if (written === "history-replaced") return written;
    at.revision = revision;
    at.scanRevision = Math.max(at.scanRevision, page.revision);
    at.scanCursor = cursor;
    // an event that was applied since the page was read may have passed the page's newest key
    if (undisturbed) this.#probe = newerProbe(this.#probe, written.newest);
    const { telemetry, troubles } = this.#stream;
    const { count } = page.keys;
    const remaining = Math.max(0, page.remaining - count);
    this.totals.pages++;
    this.totals.keys += count;
    for (const key of written.skipped) {
      troubles.tell("long-key", { code: "EPS-707", ...key }, "a key is too long to be mirrored");
    }
    this.#progress.page(count, remaining);
    telemetry.scanned(count);
    telemetry.vitals.scan = { keys: this.totals.keys, remaining };
    return null;
  }

  /** null: the range holds rows. */
  async #copy(commit: PageCommit): Promise<Written | null> {
    const { mirror, place, at } = this.#lead;
    const copied = await copyPage(mirror, place, at, commit, this.#stream.select);
    this.#held = copied === null;
    if (copied) this.totals.written += copied.rows;
    return copied;
  }

  async #merge(commit: PageCommit): Promise<Written | "history-replaced"> {
    const { mirror, place, at } = this.#lead;
    const { select } = this.#stream;
    const diff = await diffPage(mirror, commit.page, select, at.timeline);
    this.#held = diff === null || diff.rows > 0;
    const { columns, skipped } = foldPage(diff?.differing ?? commit.page.keys, select);
    const merged = await mergePage(mirror, place, at, { ...commit, columns, skipped, gone: diff?.gone });
    if (merged.kind === "another-history") {
      this.#stream.log.warn(
        { code: "EPS-612", key: merged.key, revision: commit.page.revision },
        "a key cannot be of this history: it was replaced",
      );
      return "history-replaced";
    }
    this.totals.written += merged.put;
    this.totals.deleted += merged.deleted;
    return { newest: diff ? diff.newest : newestRow(columns), skipped };
  }

  /** Applies what the watch has brought, and says how it ended if it did. */
  async #applyArrived(): Promise<ScanOutcome | null> {
    const { mirror, place, at } = this.#lead;
    const follower = this.#follower!;
    for (let batch = follower.take(); batch; batch = follower.take()) {
      if (batch.events.length === 0) {
        if (batch.to > at.revision) await moveCheckpoint(mirror, place, at, batch.to, null);
      } else {
        this.#applied++;
        const began = performance.now();
        const { columns, skipped } = foldEvents(batch.events, this.#stream.select);
        await applyEvents(mirror, place, at, { columns, to: batch.to, probe: null, skipped, freshAt: null });
        this.#probe = probeAfter(this.#probe, columns);
        this.#stream.telemetry.committed(batch.events.length, batch.bytes, began);
      }
      at.revision = batch.to;
    }
    return endOf(this.#stream, follower);
  }

  /** The last page is in: the watch has to pass the newest one. */
  async #awaitCaughtUp(): Promise<ScanOutcome | null> {
    const { mirror, place, at } = this.#lead;
    while (at.revision < at.scanRevision) {
      this.#follower!.requestProgress();
      await this.#follower!.arrival(this.#signal, PROGRESS_EVERY_MS);
      if (this.#signal.aborted) return null;
      const end = await this.#applyArrived();
      if (end) return end;
    }
    const seconds = this.#progress.seconds();
    await catchUp(mirror, place, at, next(at.state, "caught-up"), this.#probe, { ...this.totals, seconds });
    at.probe = this.#probe;
    at.scanCursor = null;
    at.scanRevision = 0;
    this.#progress[Symbol.dispose]();
    this.#stream.log.info({ ...this.totals, seconds, revision: at.revision }, "the scan has caught up");
    return "caught-up";
  }
}
