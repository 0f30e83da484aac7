/** What goes wrong again and again is told once an episode. */
import type { Log } from "./log.ts";

/** What has not been seen for so long is over; seen again, it is another episode. */
const QUIET_MS = 60_000;

interface Episode {
  began: number;
  seen: number;
  /** How often it was seen. */
  times: number;
  /** Its end was told, or there was none to tell. */
  endTold: boolean;
}

/** Of one stream: the names are those of its troubles, such as `watch`. */
export class Troubles {
  readonly #log: Log;
  readonly #episodes = new Map<string, Episode>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** At `warn` where the trouble is new, else at `debug`. */
  tell(name: string, fields: object, message: string, now = performance.now()): void {
    const last = this.#episodes.get(name);
    if (last && now - last.seen <= QUIET_MS) {
      last.seen = now;
      last.times++;
      this.#log.debug({ ...fields, times: last.times }, message);
    } else {
      this.#episodes.set(name, { began: now, seen: now, times: 1, endTold: false });
      this.#log.warn(fields, message);
    }
  }

  /** Their end will be nobody's to tell. */
  forget(...names: string[]): void {
    for (const name of names) this.#episodes.delete(name);
  }

  /** What was in trouble works: told once an episode too. */
  over(name: string, message: string, now = performance.now()): void {
    const last = this.#episodes.get(name);
    if (!last || last.endTold) return;
    last.endTold = true;
    this.#log.info({ seconds: Math.round((now - last.began) / 1_000), times: last.times }, message);
  }
}
