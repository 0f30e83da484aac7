/** One batch of the drain as spans: `drain.batch`, and in it `drain.claim`, `drain.txn` and `drain.settle`. */
import type { Span } from "@opentelemetry/api";
import type { WalRow } from "../core/words.ts";
import { endSpan, inSpan, type Telemetry } from "./telemetry.ts";

export class BatchTrace {
  readonly #telemetry: Telemetry;
  readonly #span: Span;

  /** @param claimedAt when the turn that claimed it began, in milliseconds since 1970 */
  constructor(telemetry: Telemetry, batch: number, rows: WalRow[], claimedAt: number) {
    this.#telemetry = telemetry;
    this.#span = telemetry.span("drain.batch", () => ({
      batch,
      rows: rows.length,
      // the order is that of the transactions: not of the ids
      wal_first: Number(rows[0].id),
      wal_last: Number(rows.at(-1)!.id),
    }), { startTime: claimedAt });
    this.#part("drain.claim", claimedAt).end();
  }

  /** From the sending to etcd's answer. */
  sending<T>(work: () => Promise<T>): Promise<T> {
    return inSpan(this.#part("drain.txn"), work);
  }

  /** @param settledAt when the turn that settled it began, in milliseconds since 1970 */
  settled(result: string, revision: number | undefined, settledAt: number): void {
    if (this.#span.isRecording()) this.#span.setAttributes({ result, ...(revision && { revision }) });
    this.#part("drain.settle", settledAt).end();
    this.#span.end();
  }

  lost(error: unknown): void {
    endSpan(this.#span, error);
  }

  #part(name: string, startTime?: number): Span {
    return this.#telemetry.span(name, undefined, { parent: this.#span, startTime });
  }
}
