/** What operators ask of the instance that works (sql/009_control.sql): to pause, and to compare again. */

export interface Asked {
  /** null: not paused. */
  pausedAt: Date | null;
  /** The oldest resync that is not done. */
  resync: number | null;
}

/** As it was last read: with each renewal of the lease, and when a notification says that it changed. */
export class Control {
  #asked: Asked = { pausedAt: null, resync: null };
  readonly #wakers = new Set<() => void>();

  get pausedAt(): Date | null {
    return this.#asked.pausedAt;
  }

  get resync(): number | null {
    return this.#asked.resync;
  }

  note(asked: Asked): void {
    this.#asked = asked;
    for (const wake of this.#wakers) wake();
  }

  /** Returns as soon as `holds` does, or `signal` aborts. */
  async until(holds: () => boolean, signal: AbortSignal): Promise<void> {
    if (holds() || signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const look = () => holds() && resolve();
    this.#wakers.add(look);
    const stop = () => resolve();
    signal.addEventListener("abort", stop, { once: true });
    await promise;
    signal.removeEventListener("abort", stop);
    this.#wakers.delete(look);
  }
}
