/** Stopping and retrying, once for the whole program. */
import { EXIT } from "./errors.ts";
import type { Log } from "./log.ts";

/** Sleeps; returns early when `signal` aborts, or when the function that `wakeable` is given is called. */
export function sleep(ms: number, signal: AbortSignal, wakeable?: (wake: () => void) => void): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done, { once: true });
    wakeable?.(done);
  });
}

/** Returns when `signal` aborts. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** The result of `work`; an error where it takes longer. The work itself goes on. */
export async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer for ${ms / 1_000} s`)), ms);
  });
  work.catch(() => {}); // where it fails after that
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Exponential backoff with full jitter (each pause is random up to the bound), back to the start on success. */
export class Backoff {
  #attempt = 0;

  constructor(readonly firstMs = 50, readonly maxMs = 2_000) {}

  get attempts(): number {
    return this.#attempt;
  }

  reset(): void {
    this.#attempt = 0;
  }

  async pause(signal: AbortSignal): Promise<void> {
    const bound = Math.min(this.firstMs * 2 ** this.#attempt++, this.maxMs);
    await sleep(Math.random() * bound, signal);
  }
}

/** The first signal lets the batch in flight commit, the second exits at once. */
export function stopSignal(log?: Log): AbortSignal {
  const stop = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(name, () => {
      if (stop.signal.aborted) Deno.exit(EXIT.runtime);
      log?.info({ signal: name }, "stopping; the batch in flight is finished, a second signal exits at once");
      stop.abort();
    });
  }
  return stop.signal;
}
