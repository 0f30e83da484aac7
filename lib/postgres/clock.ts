/** PostgreSQL's clock, as far as this process can know it. */

export class ServerClock {
  #offsetMs: number | null = null;

  /** @param now what the server's clock said, in an answer that came at `receivedAt` of `performance.now()` */
  note(now: Date, receivedAt: number): void {
    this.#offsetMs = now.getTime() - receivedAt;
  }

  /**
   * The server's time at an instant of `performance.now()`, and never a later one: the server read its clock before its
   * answer was received. null: not known yet.
   */
  at(instant: number): Date | null {
    return this.#offsetMs === null ? null : new Date(instant + this.#offsetMs);
  }
}
