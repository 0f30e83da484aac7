/**
 * What a million rows through the WAL leave behind: sizes of tables and indexes, and what autovacuum did.
 *
 *   deno run -A bench/bloat.ts [rows [rounds]]
 *
 * Two writers, a transaction for each row; the drain's SQL, with an etcd that takes every batch at once; then retention.
 */
import { defaultSearch, findPostgres } from "../lib/embedded/embedded.ts";
import { startPostgres } from "../lib/embedded/postgres.ts";
import { Session } from "../lib/postgres/client.ts";
import { migrate } from "../lib/postgres/migrate.ts";
import { ensureStream } from "../lib/postgres/state.ts";

const rows = Number(Deno.args[0] ?? 1_000_000);
const rounds = Number(Deno.args[1] ?? 1);
const KEYS = 10_000;

const write = (first: number) =>
  `do $$ begin for i in ${first}..${first + rows / 2 - 1} loop
     perform etcd_set('/k' || i % ${KEYS}, 'value ' || i); commit;
   end loop; end $$`;

/** Claims, settles, mirrors; ends when all rows are settled. */
const drain = `do $$
declare
  claimed etcd_wal[];
  settled bigint := 0;
  at bigint := (select revision from etcd_sync_state);
begin
  while settled < ${rows} loop
    perform pg_sleep(0.001) where cardinality(claimed) = 0;
    claimed := array(select c from etcd_drain_claim(127, 1500000, 127) c);
    update etcd_sync_state set batch_id = batch_id + 1, batch_rows = array(select c.id from unnest(claimed) c), updated_at = clock_timestamp();
    commit;
    at := at + 1;
    perform etcd_drain_applied(1, at, array(select c.id from unnest(claimed) c), array(select 0::bigint from unnest(claimed) c));
    insert into etcd_kv (key, value, revision, create_revision, version, lease, timeline)
      select c.key, c.value, at, at, 1, 0, 1 from unnest(claimed) c
      on conflict (key) do update set value = excluded.value, revision = excluded.revision, ts = now();
    update etcd_sync_state set revision = at, fresh_at = clock_timestamp();
    settled := settled + coalesce(cardinality(claimed), 0);
    commit;
  end loop;
end $$`;

async function sizes(session: Session, when: string): Promise<void> {
  const found = await session.run<Record<string, unknown>>(
    "sizes",
    `select c.relname as table, pg_table_size(c.oid) / 1024 as table_kb, pg_indexes_size(c.oid) / 1024 as indexes_kb,
       s.n_live_tup as live, s.n_dead_tup as dead, s.autovacuum_count as vacuums
     from pg_class c join pg_stat_user_tables s on s.relid = c.oid
     where c.relname in ('etcd_wal', 'etcd_wal_tx', 'etcd_sync_state', 'etcd_sync_gate', 'etcd_kv') order by 1`,
  );
  console.log(when);
  console.table(found);
}

const dir = await Deno.makeTempDir({ prefix: "etcd-pg-sync-bloat-" });
await Deno.chmod(dir, 0o755);
const server = await startPostgres({
  bin: await findPostgres(defaultSearch(), { info() {}, warn() {} }),
  dir,
  settings: { fsync: "off", full_page_writes: "off", synchronous_commit: "off", max_wal_size: "4GB" },
  throwaway: dir,
});
try {
  const open = () => Session.open({ dsn: server.dsn, schema: "public", applicationName: "bloat" });
  const [main, a, b, d] = await Promise.all([open(), open(), open(), open()]);
  await migrate(main, "public");
  const prefix = new TextEncoder().encode("/");
  await ensureStream(main, { stream: "default", prefix, prefixText: "/", plainPrefix: "/" });
  await main.script("update etcd_sync_state set state = 'streaming', revision = 10");
  await sizes(main, "before");

  const once = async (round: number): Promise<void> => {
    const began = performance.now();
    await Promise.all([a.script(write(0)), b.script(write(rows / 2)), d.script(drain)]);
    console.log(`${rows} rows in ${Math.round((performance.now() - began) / 1000)} s`);
    await sizes(main, `round ${round}: drained`);
    await main.script("select etcd_keep_mark('0')");
    await main.script("select etcd_keep_pass()");
    let removed = 0;
    for (let next: number | null = 0; next !== null;) {
      const [step]: { _next: number | null; _removed: number }[] = await main.run(
        "step",
        "select * from etcd_keep_wal('0', null, $1, 2000)",
        [next],
      );
      next = step._next;
      removed += step._removed;
    }
    console.log(`${removed} rows removed`);
    // autovacuum looks once a minute
    for (let i = 0; i < 15; i++) {
      await new Promise((resolve) => setTimeout(resolve, 10_000));
      const [{ dead }] = await main.run<{ dead: number }>(
        "dead",
        "select sum(n_dead_tup)::float8 as dead from pg_stat_user_tables where relname in ('etcd_wal', 'etcd_wal_tx')",
      );
      if (dead < rows / 100) break;
    }
    await sizes(main, `round ${round}: after retention and autovacuum`);
  };

  for (let round = 1; round <= rounds; round++) await once(round);
  for (const session of [main, a, b, d]) await session[Symbol.asyncDispose]();
} finally {
  await server.stop();
  await Deno.remove(dir, { recursive: true }).catch(() => {});
}
