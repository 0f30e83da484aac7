/** A scan's progress: a bar on a terminal, a log line every few seconds elsewhere. */
import process from "node:process";
// @ts-types="@types/cli-progress"
import cliProgress from "cli-progress";
import type { Log } from "./log.ts";

const LINE_EVERY_MS = 5_000;

export class Progress implements Disposable {
  readonly #bar: cliProgress.SingleBar | undefined;
  readonly #started = performance.now();
  #keys = 0;
  #line = performance.now();

  constructor(readonly log: Log, readonly title: string) {
    if (Deno.stderr.isTerminal()) {
      this.#bar = new cliProgress.SingleBar({
        format: `{title} {bar} {percentage}% | {value}/{total} keys | {rate}/s | {left} s left`,
        stream: process.stderr,
        hideCursor: true,
        clearOnComplete: true,
      });
    }
  }

  /** A page was written; `remaining` keys are behind it, as far as etcd knows. */
  page(keys: number, remaining: number): void {
    this.#keys += keys;
    const rate = Math.round(this.#keys / Math.max(this.seconds(), 0.001));
    const left = rate > 0 ? Math.ceil(remaining / rate) : 0;
    if (this.#bar) {
      const payload = { title: this.title, rate, left };
      if (!this.#bar.isActive) this.#bar.start(this.#keys + remaining, 0, payload);
      this.#bar.setTotal(this.#keys + remaining);
      this.#bar.update(this.#keys, payload);
    } else if (performance.now() - this.#line >= LINE_EVERY_MS) {
      this.#line = performance.now();
      this.log.info({
        state: this.title,
        keys: this.#keys,
        remaining,
        keys_per_second: rate,
        seconds_left: left,
      }, "scanning");
    }
  }

  seconds(): number {
    return Math.round(performance.now() - this.#started) / 1_000;
  }

  [Symbol.dispose](): void {
    this.#bar?.stop();
  }
}
