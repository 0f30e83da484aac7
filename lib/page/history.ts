/** A key's history, by search; only where keys and values are shown. */
import { keysFrom, type KeyVersion, keyVersions } from "../postgres/recent.ts";
import { timeText } from "../core/human.ts";
import type { PostgresOptions } from "../postgres/client.ts";
import { openPageSession } from "./look.ts";

export interface History {
  key: string;
  /** Newest first. */
  versions: (KeyVersion & { at: string })[];
  /** There are older ones. */
  more: boolean;
  /** Keys that etcd has now and that begin as `key` does. */
  keys: string[];
}

const VERSIONS = 50;
const KEYS = 20;
/** Searches under way at once, each on a session of its own; more are refused. */
const MOST_SEARCHES = 3;

export class Searches {
  readonly #postgres: PostgresOptions;
  #underWay = 0;

  constructor(postgres: PostgresOptions) {
    this.#postgres = postgres;
  }

  /** null: there are too many under way. @throws the error of pg or of the system */
  async history(key: string): Promise<History | null> {
    if (this.#underWay >= MOST_SEARCHES) return null;
    this.#underWay++;
    try {
      await using session = await openPageSession(this.#postgres);
      const keys = await keysFrom(session, key, KEYS);
      const versions = await keyVersions(session, key, VERSIONS + 1);
      return {
        key,
        versions: versions.slice(0, VERSIONS).map((version) => ({ ...version, at: timeText(version.ts) })),
        more: versions.length > VERSIONS,
        keys,
      };
    } finally {
      this.#underWay--;
    }
  }
}
