/**
 * What the flows tell: numbers and spans, by OpenTelemetry's API. Without an exporter both go nowhere and cost next to
 * nothing. They tell once a batch, a page or a commit, never once a key.
 */
import {
  type Attributes,
  createNoopMeter,
  type Meter,
  ProxyTracerProvider,
  ROOT_CONTEXT,
  type Span,
  SpanStatusCode,
  trace,
  type Tracer,
} from "@opentelemetry/api";
import { type Outcome, OUTCOMES, type State } from "../machine.ts";
import { sentence } from "../errors.ts";
import { Vitals } from "./vitals.ts";

/** Where the numbers and spans go. */
export interface Exporters {
  meter: Meter;
  tracer: Tracer;
}

/** How the rows of a batch ended; `refused`: etcd will never take the batch, so its transactions go one by one. */
export type BatchResult = "success" | "conflict" | "failed" | "refused";

const DURATION = { unit: "s", advice: { explicitBucketBoundaries: bounds() } };

/** 1 ms to 10 s. */
function bounds(): number[] {
  return [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
}

/** Names are as Prometheus has them, where counters get `_total`. */
export class Telemetry {
  readonly vitals = new Vitals();
  readonly meter: Meter;
  readonly tracer: Tracer;
  readonly #stream: Attributes;
  readonly #counters: ReturnType<typeof counters>;

  constructor(stream: string, { meter, tracer }: Exporters = nowhere()) {
    this.meter = meter;
    this.tracer = tracer;
    this.#stream = { stream };
    this.#counters = counters(meter);
    this.#beginAtZero();
  }

  /** A commit of the mirror with events. `bytes`: of their keys and values. */
  committed(events: number, bytes: number, startedAt: number): void {
    this.vitals.totals.mirrored += events;
    this.#counters.events.add(events, this.#stream);
    this.#counters.bytes.add(bytes, this.#stream);
    this.#counters.commit.record((performance.now() - startedAt) / 1_000, this.#stream);
  }

  scanBegan(state: State): void {
    this.#counters.scans.add(1, { ...this.#stream, state });
  }

  /** A page of the scan is written. */
  scanned(keys: number): void {
    this.vitals.totals.mirrored += keys;
    this.#counters.pages.add(1, this.#stream);
    this.#counters.keys.add(keys, this.#stream);
  }

  /** etcd has answered a transaction of the drain, or refused it. */
  answered(startedAt: number): void {
    this.#counters.txn.record((performance.now() - startedAt) / 1_000, this.#stream);
  }

  /** A batch of the drain has a result, and so many rows are settled by it. */
  drained(result: BatchResult, rows: number): void {
    const labels = { ...this.#stream, result };
    this.#counters.batches.add(1, labels);
    if (result === "refused") return;
    this.vitals.totals[result] += rows;
    this.#counters.rows.add(rows, labels);
  }

  changed(outcome: Outcome): void {
    this.#counters.changes.add(1, { ...this.#stream, outcome });
  }

  /** A connection is made anew after an error. */
  reconnects(server: "postgres" | "etcd"): void {
    this.#counters.reconnects.add(1, { ...this.#stream, server });
  }

  /** An error interrupted the work; `kind` as in lib/errors.ts. */
  failed(kind: string): void {
    this.#counters.errors.add(1, { ...this.#stream, kind });
  }

  /** A span. Attributes are asked for only where somebody records; `startTime` in milliseconds since 1970. */
  span(
    name: string,
    attributes: () => Attributes = () => ({}),
    { parent, startTime }: { parent?: Span; startTime?: number } = {},
  ): Span {
    const around = parent ? trace.setSpan(ROOT_CONTEXT, parent) : ROOT_CONTEXT;
    const span = this.tracer.startSpan(name, { startTime }, around);
    if (span.isRecording()) span.setAttributes({ ...this.#stream, ...attributes() });
    return span;
  }

  /** A counter that is not there before its first event has no rise at it: alerts would miss the first conflict. */
  #beginAtZero(): void {
    const { events, bytes, scans, pages, keys, batches, rows, changes, reconnects, errors } = this.#counters;
    for (const counter of [events, bytes, pages, keys]) counter.add(0, this.#stream);
    for (const state of ["bootstrap", "compaction-resync"]) scans.add(0, { ...this.#stream, state });
    for (const result of ["success", "conflict", "failed"]) rows.add(0, { ...this.#stream, result });
    for (const result of ["success", "conflict", "failed", "refused"]) {
      batches.add(0, { ...this.#stream, result });
    }
    for (const outcome of OUTCOMES) changes.add(0, { ...this.#stream, outcome });
    for (const server of ["postgres", "etcd"]) reconnects.add(0, { ...this.#stream, server });
    for (const kind of ["lost-place", "connection", "permission", "configuration", "runtime"]) {
      errors.add(0, { ...this.#stream, kind });
    }
  }
}

/** Ends a span, with the error that it ended by. */
export function endSpan(span: Span, error?: unknown): void {
  if (error !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: sentence(error) });
  span.end();
}

/** What `work` returns, in a span. */
export async function inSpan<T>(span: Span, work: () => Promise<T>): Promise<T> {
  try {
    const result = await work();
    endSpan(span);
    return result;
  } catch (error) {
    endSpan(span, error);
    throw error;
  }
}

/** Nobody listens. Not the API's global providers: Deno's own (OTEL_DENO) would be there. */
function nowhere(): Exporters {
  return { meter: createNoopMeter(), tracer: new ProxyTracerProvider().getTracer("etcd-pg-sync") };
}

function counters(meter: Meter) {
  const counter = (name: string, description: string, unit?: string) =>
    meter.createCounter(`etcd_pg_sync_${name}`, { description, unit });
  const duration = (name: string, description: string) =>
    meter.createHistogram(`etcd_pg_sync_${name}`, { description, ...DURATION });
  return {
    events: counter("events", "Events of etcd that were written to the mirror"),
    bytes: counter("event_bytes", "Keys and values of the events that were written to the mirror", "By"),
    commit: duration("commit_duration_seconds", "Commits of the mirror that wrote events"),
    scans: counter("scans", "Scans of the whole keyspace that began or went on"),
    pages: counter("scan_pages", "Pages that scans have written"),
    keys: counter("scan_keys", "Keys that scans have read"),
    txn: duration("txn_duration_seconds", "Transactions that were sent to etcd, until its answer"),
    batches: counter("drain_batches", "Batches of writes from SQL, by what etcd made of them"),
    rows: counter("wal_rows", "Writes from SQL, by how they ended"),
    changes: counter("state_changes", "Transitions of the state machine"),
    reconnects: counter("reconnects", "Connections that were made anew after an error"),
    errors: counter("errors", "Errors that interrupted the work"),
  };
}
