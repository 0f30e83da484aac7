/** `pause`, `resume`, `resync`: what operators ask of the instance that works. */
import type { Command } from "commander";
import { type Flags, readStreamPlace } from "../config.ts";
import { openInstalled } from "../connect.ts";
import { Fatal } from "../errors.ts";
import { sleep, stopSignal } from "../lifecycle.ts";
import { makeLog } from "../log.ts";
import type { Session } from "../postgres/client.ts";
import { askResync, pauseStream, readResync, resumeStream, type Resync } from "../postgres/control.ts";
import { answer, connectionOptions, type Format, formatOption } from "./options.ts";

const LOOK_MS = 200;

export function addControl(program: Command): void {
  connectionOptions(
    program.command("pause").description("stop mirroring and sending, until resume; writes from SQL wait"),
  ).option("--reason <text>", "shown by status").addOption(formatOption()).action(pause);
  connectionOptions(program.command("resume").description("end a pause")).addOption(formatOption())
    .action(resume);
  connectionOptions(
    program.command("resync").description(
      "compare with etcd again and repair what differs, while all goes on",
    ),
  ).option("--prefix <key>", "only keys that begin with it").addOption(formatOption()).action(resync);
}

interface Formatted extends Flags {
  format: Format;
}

async function pause(flags: Formatted & { reason?: string }): Promise<void> {
  await withStream(flags, async (session, stream) => {
    const changed = await pauseStream(session, flags.reason ?? null);
    answer(
      flags.format,
      { paused: true, changed },
      changed
        ? `Stream '${stream}' is paused: nothing is mirrored or sent until 'etcd-pg-sync resume'`
        : `Stream '${stream}' was paused before`,
    );
  });
}

async function resume(flags: Formatted): Promise<void> {
  await withStream(flags, async (session, stream) => {
    const changed = await resumeStream(session);
    const text = changed ? `Stream '${stream}' goes on` : `Stream '${stream}' was not paused`;
    answer(flags.format, { paused: false, changed }, text);
  });
}

async function resync(flags: Formatted & { prefix?: string }): Promise<void> {
  await withStream(flags, async (session, stream) => {
    const id = await askResync(session, flags.prefix ?? null);
    const done = await untilDone(session, id);
    const where = `resync ${id} of prefix '${done.prefix}'`;
    if (done.error !== null) throw new Fatal("runtime", `Cannot finish ${where}: ${done.error}`);
    const found = { id, prefix: done.prefix, done: done.finishedAt !== null, ...done.result };
    if (found.done) return answer(flags.format, found, `Done: ${where}: ${told(done.result)}`);
    const why = done.pausedAt !== null
      ? `stream '${stream}' is paused`
      : done.attended
      ? "it goes on without this command"
      : `no instance works on stream '${stream}'; the next one will`;
    answer(flags.format, found, `Asked: ${where}; ${why}`);
  });
}

/** Waits until the request is done; not where nobody sees to it, or after SIGINT. */
async function untilDone(session: Session, id: number): Promise<Resync> {
  const signal = stopSignal();
  for (;;) {
    const found = await readResync(session, id);
    const waits = found.finishedAt === null && found.attended && found.pausedAt === null;
    if (!waits || signal.aborted) return found;
    await sleep(LOOK_MS, signal);
  }
}

function told(result: Resync["result"]): string {
  const { keys, missing, extra, different, repaired, revision } = result ?? {};
  return `${keys} keys at revision ${revision}, ${missing} missing, ${extra} extra, ${different} different; ${repaired} repaired`;
}

async function withStream(
  flags: Flags,
  work: (session: Session, stream: string) => Promise<void>,
): Promise<void> {
  const place = readStreamPlace(flags);
  await using session = await openInstalled(place, makeLog(place.log));
  await work(session, place.stream);
}
