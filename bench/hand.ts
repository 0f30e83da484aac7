/** What is done by hand in place of a sync, and what is measured of the servers alone. */
import { migrate } from "../lib/postgres/migrate.ts";
import { now } from "./load.ts";
import { type Place, run } from "./servers.ts";

/** `etcdctl get`, which must be there, into a file. Seconds. */
export async function getByHand(place: Place, file: string): Promise<number> {
  const began = now();
  // a variable that says what a flag says is an error to etcdctl
  await run("bash", [
    "-euo",
    "pipefail",
    "-c",
    `unset ETCDCTL_ENDPOINTS; "$1" --endpoints "$2" get --prefix "$3" | paste - - | awk -F'\\t' -v OFS='\\t' '{ print $1, $2, 1, 1, 1, 0, 1 }' > "$4"`,
    "bash",
    place.servers.etcdctl!,
    place.endpoint,
    place.prefix,
    file,
  ], { signal: place.signal });
  return (now() - began) / 1_000;
}

/** psql's `\copy` of that file into a table like the mirror's. Seconds. */
export async function copyByHand(place: Place, file: string): Promise<number> {
  await migrate(place.session, "public");
  await place.session.script("create table by_hand (like etcd_kv including all)");
  const began = now();
  await psql(
    place,
    `\\copy by_hand (key, value, revision, create_revision, version, lease, timeline) from '${file}'`,
  );
  return (now() - began) / 1_000;
}

async function psql(place: Place, command: string): Promise<void> {
  await run(`${place.servers.bin}/psql`, ["-qX", "-v", "ON_ERROR_STOP=1", "-c", command, place.dsn], {
    signal: place.signal,
  });
}

/** pgbench, 32 clients, one statement a transaction, prepared. Transactions a second. */
export async function pgbench(
  place: Place,
  statement: string,
  length: { seconds: number } | { transactions: number },
): Promise<number> {
  const script = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(script, statement);
    const clients = 32;
    const until = "seconds" in length
      ? ["-T", String(length.seconds)]
      : ["-t", String(Math.ceil(length.transactions / clients))];
    const out = await run(
      `${place.servers.bin}/pgbench`,
      ["-n", "-M", "prepared", "-c", String(clients), "-j", "2", ...until, "-f", script, place.dsn],
      { signal: place.signal },
    );
    const [, failed] = /number of failed transactions: (\d+)/.exec(out) ?? [];
    if (failed && failed !== "0") throw new Error(`${failed} transactions of pgbench failed`);
    return Number(/tps = ([\d.]+)/.exec(out)![1]);
  } finally {
    await Deno.remove(script);
  }
}
