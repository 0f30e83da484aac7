/** `validate`: compares etcd and the mirror, and repairs what differs. */
import type { Command } from "commander";
import { type Flags as SettingFlags, identity, readTarget, type Target } from "../config.ts";
import { checkedEtcdVersion, openInstalled, postgresOptions, withBoth, withEtcd } from "../connect.ts";
import { keyBytes, keyText, startsWith } from "../core/codec.ts";
import { selectionOf } from "../core/plan.ts";
import { EXIT } from "../errors.ts";
import { EtcdClient } from "../etcd/client.ts";
import { stopSignal } from "../lifecycle.ts";
import { type Log, makeLog } from "../log.ts";
import { checkStream } from "../postgres/state.ts";
import { Progress } from "../progress.ts";
import { refuse } from "../settings/read.ts";
import { countOf, type Verdict, verify, type VerifyOptions } from "../verify.ts";
import { connectionOptions, type Format, formatOption } from "./options.ts";
import { print, verdictJson, verdictLines } from "./report.ts";
import { Troubles } from "../troubles.ts";

interface Flags extends SettingFlags {
  fix?: boolean;
  format: Format;
  show: number;
  prefix?: string;
}

const MOST_SHOWN = 100_000;

export function addValidate(program: Command): void {
  const command = program.command("validate")
    .description(
      "compare etcd and the mirror at one revision, beside a running program; exit 5 if they differ",
    );
  connectionOptions(command)
    .option("--fix", "repair the keys that differ; exit 5 only if some still do")
    .option("--prefix <key>", "only the keys that begin so, written as in SQL")
    .option("--show <n>", "how many differences to name", readShow, 10)
    .addOption(formatOption())
    .action(run);
}

async function run(flags: Flags): Promise<void> {
  const { format, show } = flags;
  const target = readTarget(flags);
  const prefix = readPrefix(flags.prefix, target.prefix);
  const log = makeLog(target.log);
  const signal = stopSignal(log);
  const verdict = await validate(target, log, { signal, prefix, show, fix: flags.fix });
  print(format, () => verdictJson(verdict), () => [...verdictLines(verdict), ...advice(verdict, flags)]);
  if (countOf(verdict.left) > 0) Deno.exitCode = EXIT.differences;
}

function readShow(text: string): number {
  const n = Number(text);
  if (/^\d+$/.test(text) && n <= MOST_SHOWN) return n;
  return refuse(
    "show",
    { kind: "flag", name: "--show" },
    `wanted an integer from 0 to ${MOST_SHOWN}, got '${text}'`,
  );
}

function readPrefix(text: string | undefined, of: Uint8Array): Uint8Array | undefined {
  if (text === undefined) return undefined;
  const prefix = keyBytes(text);
  if (!startsWith(prefix, of)) {
    const wanted = `wanted one that begins with the stream's prefix '${keyText(of)}', got '${text}'`;
    refuse("prefix", { kind: "flag", name: "--prefix" }, wanted);
  }
  return prefix;
}

function advice({ left }: Verdict, { fix }: Flags): string[] {
  if (countOf(left) === 0) return [];
  return [
    fix
      ? `${
        countOf(left)
      } still differ: they change faster than they are compared, or something else writes to the mirror`
      : "'etcd-pg-sync validate --fix' repairs them; 'select * from etcd_sync_event' may say where they come from",
  ];
}

async function validate(target: Target, log: Log, options: VerifyOptions): Promise<Verdict> {
  {
    await using session = await openInstalled(target, log);
    await checkStream(session, identity(target), "compare");
  }
  await using opened = new AsyncDisposableStack();
  const kv = opened.adopt(new EtcdClient(target.etcd), (client) => client.close());
  await withEtcd(target, () => checkedEtcdVersion(target, kv, log));
  const progress = opened.use(new Progress(log, "validate"));
  const sides = {
    kv,
    postgres: postgresOptions(target, new Troubles(log)),
    select: selectionOf(target),
    log,
  };
  const page = (keys: number, remaining: number) => progress.page(keys, remaining);
  return await withBoth(target, () => verify(sides, { ...options, progress: page }));
}
