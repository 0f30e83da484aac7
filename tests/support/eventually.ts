/**
 * Waits for something that another process does. The only polling that tests may do: where a test itself can hold
 * and release a call, it uses a gate.
 */

export interface Patience {
  timeoutMs?: number;
}

/** Calls `fn` every 20 ms until it returns something truthy, and returns that; fails with the last error. */
export async function eventually<T>(fn: () => T | Promise<T>, { timeoutMs = 15_000 }: Patience = {}) {
  let last: unknown;
  for (const end = Date.now() + timeoutMs;; await pause(20)) {
    try {
      const value = await fn();
      if (value) return value as NonNullable<T>;
      last = new Error(`it returned ${JSON.stringify(value)}`);
    } catch (error) {
      if (error instanceof Hopeless) throw error;
      last = error;
    }
    if (Date.now() >= end) {
      throw new Error(`Not within ${timeoutMs} ms: ${(last as Error).message}`, { cause: last });
    }
  }
}

/** Thrown inside `eventually` where waiting longer is of no use. */
export class Hopeless extends Error {}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
