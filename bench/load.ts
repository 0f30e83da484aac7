/**
 * Loads etcd, as a process of its own: `deno run -A bench/load.ts '{"endpoint": …}'`. Says on standard output what it did.
 */
import { Connection, putRequest, revisionOf, txnRequest } from "./etcd.ts";

export interface Load {
  /** host:port */
  endpoint: string;
  prefix: string;
  /** Keys are `<prefix><eight digits>`: this many, from `first` on, then again from there. */
  keys: number;
  first?: number;
  /** Only every so manieth of them. */
  step?: number;
  /** It ends after so many puts, or after so long. */
  puts?: number;
  seconds?: number;
  /** Puts in a transaction; 1 = plain puts. */
  perTxn: number;
  clients: number;
  valueBytes: number;
}

export interface Loaded {
  puts: number;
  /** Epoch, ms: the first request was sent, the last answer was received. */
  began: number;
  ended: number;
  revision: number;
}

/** The key of one number. */
export function keyOf(prefix: string, number: number): string {
  return prefix + String(number).padStart(8, "0");
}

/** Runs the load in a child process. @throws {Error} with what it wrote, where it failed or `signal` ended it */
export async function load(what: Load, signal?: AbortSignal): Promise<Loaded> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--allow-net", "--allow-env", "bench/load.ts", JSON.stringify(what)],
    stdin: "null",
    signal,
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  if (!success) throw new Error(`Cannot load etcd: ${text(stderr) || "it took too long"}`);
  return JSON.parse(text(stdout));
}

/** Now, with the clock that all processes of a machine share; epoch, ms. */
export function now(): number {
  return performance.timeOrigin + performance.now();
}

async function run(what: Load): Promise<Loaded> {
  const { endpoint, clients, perTxn } = what;
  const connections = await Promise.all(Array.from({ length: clients }, () => Connection.open(endpoint)));
  // another letter each time, or an update would change nothing
  const value = new Uint8Array(what.valueBytes).fill("a".charCodeAt(0) + Math.floor(Math.random() * 26));
  const began = now();
  const most = what.puts ?? Infinity;
  const until = began + (what.seconds ?? Infinity) * 1_000;
  let puts = 0;
  let revision = 0;
  await Promise.all(connections.map(async (connection) => {
    while (puts < most && now() < until) {
      const from = puts;
      puts = Math.min(most, puts + perTxn);
      const requests = [];
      for (let n = from; n < puts; n++) {
        requests.push(
          putRequest(keyOf(what.prefix, (what.first ?? 0) + (n % what.keys) * (what.step ?? 1)), value),
        );
      }
      const answer = perTxn === 1
        ? await connection.call("KV/Put", requests[0])
        : await connection.call("KV/Txn", txnRequest(requests));
      revision = Math.max(revision, revisionOf(answer));
    }
  }));
  return { puts, began, ended: now(), revision };
}

if (import.meta.main) {
  console.log(JSON.stringify(await run(JSON.parse(Deno.args[0]))));
  Deno.exit();
}
