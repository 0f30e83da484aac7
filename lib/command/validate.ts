/** `validate`: compares etcd and the mirror, and repairs what differs. */
import type { Command } from "commander";
import { identity, oneOf, readInteger, type Target, type TargetFlags, targetOf, wrong } from "../config.ts";
import { checkedEtcdVersion, openInstalled, postgresOptions, withBoth, withEtcd } from "../connect.ts";
import { keyBytes, keyText, startsWith } from "../core/codec.ts";
import { MAX_KEY_BYTES } from "../core/plan.ts";
import { EXIT, sentence } from "../errors.ts";
import { EtcdClient } from "../etcd/client.ts";
import { guardTransport } from "../etcd/guard.ts";
import { stopSignal } from "../lifecycle.ts";
import { type Log, makeLog } from "../log.ts";
import { checkStream } from "../postgres/state.ts";
import { Progress } from "../progress.ts";
import { countOf, type Verdict, verify, type VerifyOptions } from "../verify.ts";
import { connectionOptions } from "./options.ts";
import { FORMAT, FORMATS, print, verdictJson, verdictLines } from "./report.ts";

interface Flags extends TargetFlags {
  fix?: boolean;
  format: string;
  show: string;
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
    .option("--show <n>", "how many differences to name", "10")
    .option(...FORMAT)
    .addHelpText(
      "after",
      `
Examples:
  etcd-pg-sync validate                       is the mirror right?
  etcd-pg-sync validate --fix                 make it right
  etcd-pg-sync validate --prefix /app/users/  only a part of it
  etcd-pg-sync validate --format json --show 1000`,
    )
    .action(run);
}

async function run(flags: Flags): Promise<void> {
  const format = oneOf("format", flags.format, FORMATS);
  const target = targetOf(flags);
  const show = readInteger("show", flags.show, 0, MOST_SHOWN);
  const prefix = readPrefix(flags.prefix, target.prefix);
  const log = makeLog(target.log);
  const signal = stopSignal(log);
  guardTransport((error) => log.debug({ error: sentence(error) }, "a connection to etcd broke"));
  const verdict = await validate(target, log, { signal, prefix, show, fix: flags.fix });
  print(format, () => verdictJson(verdict), () => [...verdictLines(verdict), ...advice(verdict, flags)]);
  if (countOf(verdict.left) > 0) Deno.exitCode = EXIT.differences;
}

function readPrefix(text: string | undefined, of: Uint8Array): Uint8Array | undefined {
  if (text === undefined) return undefined;
  const prefix = keyBytes(text);
  if (!startsWith(prefix, of)) {
    wrong("prefix", text, `wanted one that begins with the stream's prefix '${keyText(of)}'`);
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
  const progress = new Progress(log, "validate");
  opened.defer(() => progress.stop());
  const sides = {
    kv,
    postgres: postgresOptions(target, log),
    select: { prefix: target.prefix, maxKeyBytes: MAX_KEY_BYTES },
    log,
  };
  const page = (keys: number, remaining: number) => progress.page(keys, remaining);
  return await withBoth(target, () => verify(sides, { ...options, progress: page }));
}
