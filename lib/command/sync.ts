/** `sync`: brings both sides together once, or says what that would do. */
import type { Command } from "commander";
import { type Config, type Flags as SettingFlags, identity, readConfig } from "../config.ts";
import { checkedEtcdVersion, postgresOptions, withBoth, withEtcd, withPostgres } from "../connect.ts";
import { selectionOf } from "../core/plan.ts";
import { EXIT } from "../errors.ts";
import { EtcdClient } from "../etcd/client.ts";
import { stopSignal } from "../lifecycle.ts";
import { type Log, makeLog } from "../log.ts";
import { Session } from "../postgres/client.ts";
import { isInstalled } from "../postgres/migrate.ts";
import { checkStream } from "../postgres/state.ts";
import { readPending } from "../postgres/sync.ts";
import { Progress } from "../progress.ts";
import { type Synced, syncOnce } from "../sync.ts";
import { compareWithNow, countOf, type Found } from "../verify.ts";
import { connectionOptions, type Format, formatOption, streamOptions } from "./options.ts";
import { differenceLines, many, print, verdictJson, verdictLines } from "./report.ts";
import { Troubles } from "../troubles.ts";

interface Flags extends SettingFlags {
  full?: boolean;
  dryRun?: boolean;
  format: Format;
}

export function addSync(program: Command): void {
  const command = program.command("sync")
    .description("bring both sides together once, then exit; exit 5 if a write from SQL did not arrive");
  connectionOptions(command)
    .option("--full", "then compare everything, and repair what differs")
    .option("--dry-run", "write nothing, say what would be done")
    .addOption(formatOption());
  streamOptions(command).action(run);
}

async function run(flags: Flags): Promise<void> {
  const { format } = flags;
  const config = readConfig(flags);
  const log = makeLog(config.log);
  const signal = stopSignal(log);
  using progress = new Progress(log, "compare");
  const page = (keys: number, remaining: number) => progress.page(keys, remaining);
  if (flags.dryRun) {
    const plan = await dryRun(config, log, signal, page);
    return print(format, () => planJson(plan), () => planLines(plan, config));
  }
  const synced = await syncOnce(config, log, signal, { full: flags.full, progress: page });
  print(format, () => syncedJson(synced), () => syncedLines(synced));
  const left = synced.verdict ? countOf(synced.verdict.left) : 0;
  if (synced.lost > 0 || left > 0) Deno.exitCode = EXIT.differences;
}

function syncedJson({ verdict, ...synced }: Synced): unknown {
  const { led, revision, timeline, goal, transactions, losses, lost, seconds } = synced;
  return {
    together: lost === 0 && (verdict === null || countOf(verdict.left) === 0),
    led_by_another: led,
    revision,
    timeline,
    etcd_revision_at_start: goal,
    transactions,
    lost,
    losses,
    seconds,
    ...(verdict && { compared: verdictJson(verdict) }),
  };
}

function syncedLines({ led, revision, transactions, losses, lost, verdict, seconds }: Synced): string[] {
  const lines = [
    `both sides are together at revision ${revision}, after ${seconds} s${
      led ? "; another instance led, and did it" : ""
    }`,
    `${many(transactions, "transaction")} from SQL waited${
      lost > 0 ? `; ${many(lost, "transaction")} did not arrive:` : ""
    }`,
  ];
  for (const { kind, wal_id, key, message } of losses) {
    lines.push(`  ${kind.padEnd(8)}  ${key}  ${message} (write ${wal_id})`);
  }
  if (lost > losses.length) lines.push(`  … and ${lost - losses.length} more`);
  if (lost > 0) {
    lines.push(
      `'select etcd_retry(${losses[0].wal_id})' queues the first one again, 'select etcd_discard(${
        losses[0].wal_id
      })' gives it up`,
    );
  }
  return verdict ? [...lines, ...verdictLines(verdict)] : lines;
}

/** What a run would do. */
interface Plan {
  installed: boolean;
  found: Found & { mirror: { state: string; revision: number } };
  pending: { transactions: number; rows: number };
}

async function dryRun(
  config: Config,
  log: Log,
  signal: AbortSignal,
  progress: (keys: number, remaining: number) => void,
): Promise<Plan> {
  const postgres = postgresOptions(config, new Troubles(log));
  const { installed, pending } = await withPostgres(config, async () => {
    await using session = await Session.open(postgres);
    const installed = await isInstalled(session, config.schema);
    if (!installed) return { installed, pending: { transactions: 0, rows: 0 } };
    await checkStream(session, identity(config), "look at");
    return { installed, pending: await readPending(session) };
  });
  await using opened = new AsyncDisposableStack();
  const kv = opened.adopt(new EtcdClient(config.etcd), (client) => client.close());
  await withEtcd(config, () => checkedEtcdVersion(config, kv, log));
  const sides = { kv, postgres, select: selectionOf(config), log };
  const found = await withBoth(config, () => compareWithNow(sides, installed, { signal, progress }));
  return { installed, found, pending };
}

function planJson({ installed, found, pending }: Plan): unknown {
  return {
    dry_run: true,
    install: !installed,
    revision: found.mirror.revision,
    state: installed ? found.mirror.state : null,
    etcd_revision: found.revision,
    add: found.missing,
    change: found.different,
    remove: found.extra,
    send_transactions: pending.transactions,
    send_rows: pending.rows,
    keys: found.shown,
  };
}

function planLines({ installed, found, pending }: Plan, config: Config): string[] {
  const { mirror, revision, missing, different, extra } = found;
  const words = { missing: "add", different: "change", extra: "remove" };
  return [
    "dry run: nothing was written",
    installed
      ? `the mirror is at revision ${mirror.revision}, state '${mirror.state}'; etcd is at ${revision}`
      : `schema '${config.schema}' holds no stream: it would be installed; etcd is at ${revision}`,
    `in the mirror ${many(missing, "key")} would be added, ${different} changed, ${extra} removed`,
    ...differenceLines(found, words),
    `${many(pending.transactions, "transaction")} (${
      many(pending.rows, "row")
    }) from SQL would be sent to etcd`,
  ];
}
