/** The tests' own sessions in PostgreSQL. */

import pg from "pg";

// deno-lint-ignore no-explicit-any
export type Row = Record<string, any>;

/**
 * One session; opened again where it was lost, by a restart of the server for example. `once`: not opened again, as in
 * the middle of a transaction the rest of it would go on in no transaction at all.
 */
export class Session implements AsyncDisposable {
  readonly dsn: string;
  readonly #once: boolean;
  #client: pg.Client | undefined;
  #lost = false;

  constructor(dsn: string, { once = false } = {}) {
    this.dsn = dsn;
    this.#once = once;
  }

  /** The rows; int8 as a number where that is exact, else as a bigint, bytea as a Buffer. */
  async sql(text: string, params?: unknown[]): Promise<Row[]> {
    if (this.#once && this.#lost) throw new Error("the session was lost");
    const client = this.#client ??= await this.#connect();
    const result = await client.query(text, params);
    return Array.isArray(result) ? result.at(-1).rows : result.rows;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client?.end().catch(() => {});
    this.#client = undefined;
  }

  async #connect(): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: this.dsn,
      types: { getTypeParser } as pg.CustomTypesConfig,
    });
    const lost = () => {
      this.#lost = true;
      if (this.#client === client) this.#client = undefined;
    };
    client.on("error", lost);
    client.on("end", lost);
    await client.connect();
    return client;
  }
}

const int8 = 20;
const int8Array = 1016;

function getTypeParser(oid: number, format: string) {
  if (oid === int8) return exactNumber;
  const parser = pg.types.getTypeParser(oid, format as "text");
  return oid === int8Array ? (text: string) => parser(text).map(mapNumber) : parser;
}

function mapNumber(item: string | null): unknown {
  return item === null ? null : exactNumber(item);
}

function exactNumber(text: string): number | bigint {
  const number = Number(text);
  return Number.isSafeInteger(number) ? number : BigInt(text);
}
