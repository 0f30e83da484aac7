/**
 * Server-sent events: one look a second for all that listen, none while nobody does. Who does not keep up is skipped: for
 * each listener at most one frame is kept, and the samples that it has missed come with its next one.
 */
import { sleep } from "../lifecycle.ts";
import type { Recorder, Sample } from "./recorder.ts";

const EVERY_MS = 1_000;
/** Tabs of a whole team; more would be a mistake, or worse. */
const MOST_LISTENERS = 100;

interface Listener {
  controller: ReadableStreamDefaultController<Uint8Array>;
  /** The time of the newest sample that it was sent. */
  newest: number;
}

export interface Source {
  /** What all are told. Never throws. */
  look: () => Promise<object>;
  /** Nobody listens any more. */
  rest: () => Promise<void>;
}

export class Feed implements AsyncDisposable {
  readonly #source: Source;
  readonly #recorder: Recorder;
  readonly #listeners = new Set<Listener>();
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;
  /** The last look, as it is sent. */
  #view: string | undefined;

  constructor(source: Source, recorder: Recorder) {
    this.#source = source;
    this.#recorder = recorder;
  }

  /** A listener's stream; null: there are too many. */
  open(): ReadableStream<Uint8Array> | null {
    if (this.#listeners.size >= MOST_LISTENERS || this.#stop.signal.aborted) return null;
    let listener: Listener;
    return new ReadableStream({
      start: (controller) => {
        listener = { controller, newest: 0 };
        this.#listeners.add(listener);
        if (this.#running && this.#view) this.#send(listener, this.#view);
        this.#running ??= this.#run();
      },
      cancel: () => void this.#listeners.delete(listener),
    }, { highWaterMark: 1 });
  }

  /** Two looks are never less than a second apart, however listeners come and go. */
  async #run(): Promise<void> {
    do {
      while (this.#wanted()) {
        this.#view = JSON.stringify(await this.#source.look());
        for (const listener of this.#listeners) this.#send(listener, this.#view);
        await sleep(EVERY_MS, this.#stop.signal);
      }
      this.#view = undefined;
      await this.#source.rest();
    } while (this.#wanted()); // one that came meanwhile has started nothing
    this.#running = undefined; // in the same turn
  }

  #wanted(): boolean {
    return this.#listeners.size > 0 && !this.#stop.signal.aborted;
  }

  #send(listener: Listener, view: string): void {
    if (listener.controller.desiredSize! <= 0) return; // it has not read the last one
    const samples = this.#recorder.since(listener.newest);
    listener.newest = samples.at(-1)?.[0] ?? listener.newest;
    listener.controller.enqueue(frame(view, samples));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    for (const { controller } of this.#listeners) controller.close();
    this.#listeners.clear();
    await this.#running;
  }
}

const encoder = new TextEncoder();

/** The view comes first: it says whether the page is of this program. */
function frame(view: string, samples: Sample[]): Uint8Array {
  return encoder.encode(
    `event: view\ndata: ${view}\n\nevent: samples\ndata: ${JSON.stringify(samples)}\n\n`,
  );
}
