/** The last ten minutes of what this instance has done, a sample a second, for the plots. It asks nobody. */
import type { Vitals } from "../telemetry/vitals.ts";

/**
 * Seconds since 1970; events and scanned keys a second into the mirror; writes a second into etcd; age of the proof of
 * freshness in seconds; writes that wait; writes that were lost to etcd, and that etcd refused, since the sample before.
 * null: this instance does not know.
 */
export type Sample = [
  at: number,
  mirrored: number | null,
  sent: number | null,
  lag: number | null,
  waiting: number | null,
  conflicts: number | null,
  failures: number | null,
];

/** What only PostgreSQL knows: told while somebody looks. */
export interface Known {
  /** As `performance.now()`. */
  at: number;
  lag: number | null;
  waiting: number;
}

const EVERY_MS = 1_000;
const SAMPLES = 600;
/** What PostgreSQL said counts for two samples. */
const KNOWN_MS = 2_500;

export class Recorder implements Disposable {
  readonly #vitals: Vitals;
  readonly #samples: Sample[] = [];
  readonly #timer = setInterval(() => this.#take(), EVERY_MS);
  #before: { totals: Vitals["totals"]; at: number };
  #known: Known | undefined;

  constructor(vitals: Vitals) {
    this.#vitals = vitals;
    this.#before = { totals: { ...vitals.totals }, at: performance.now() };
  }

  know(known: Known): void {
    this.#known = known;
  }

  /** Those that are newer than the sample of time `at`, oldest first. */
  since(at: number): Sample[] {
    const first = this.#samples.findIndex((sample) => sample[0] > at);
    return first < 0 ? [] : this.#samples.slice(first);
  }

  #take(): void {
    const now = performance.now();
    const seconds = (now - this.#before.at) / 1_000;
    const { totals } = this.#vitals;
    const since = (name: keyof typeof totals) => totals[name] - this.#before.totals[name];
    const leads = this.#vitals.role === "leader";
    const own = (value: number) => leads ? round(value) : null;
    this.#samples.push([
      Math.round(Date.now() / 100) / 10,
      own(since("mirrored") / seconds),
      own(since("success") / seconds),
      this.#lag(now),
      this.#waiting(now),
      own(since("conflict")),
      own(since("failed")),
    ]);
    if (this.#samples.length > SAMPLES) this.#samples.shift();
    this.#before = { totals: { ...totals }, at: now };
  }

  #lag(now: number): number | null {
    const { role, provenAt } = this.#vitals;
    if (role === "leader") return provenAt === null ? null : round((now - provenAt) / 1_000);
    const known = this.#knownAt(now);
    return known && known.lag !== null ? round(known.lag + (now - known.at) / 1_000) : null;
  }

  /** A leader leaves `draining` when nothing waits; how much waits before only PostgreSQL knows. */
  #waiting(now: number): number | null {
    const known = this.#knownAt(now);
    if (known) return known.waiting;
    return this.#vitals.at?.state === "streaming" ? 0 : null;
  }

  #knownAt(now: number): Known | undefined {
    return this.#known && now - this.#known.at <= KNOWN_MS ? this.#known : undefined;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

/** Three digits are enough for a plot. */
function round(value: number): number {
  return value >= 100 ? Math.round(value) : Number(value.toPrecision(3));
}
