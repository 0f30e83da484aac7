/** `pause`, `resume`, `resync`: what operators ask of the instance that works. */
import type { Command } from "commander";
import { readLog, readStreamPlace, type StartFlags } from "../config.ts";
import { openInstalled } from "../connect.ts";
import { Fatal } from "../errors.ts";
import { sleep, stopSignal } from "../lifecycle.ts";
import { makeLog } from "../log.ts";
import type { Session } from "../postgres/client.ts";
import { askResync, pauseStream, readResync, resumeStream, type Resync } from "../postgres/control.ts";
import { connectionOptions } from "./options.ts";

const LOOK_MS = 200;

export function addControl(program: Command): void {
  connectionOptions(
    program.command("pause").description("stop mirroring and sending, until resume; writes from SQL wait"),
  ).option("--reason <text>", "shown by status").action(pause);
  connectionOptions(program.command("resume").description("end a pause")).action(resume);
  connectionOptions(
    program.command("resync").description(
      "compare with etcd again and repair what differs, while all goes on",
    ),
  ).option("--prefix <key>", "only keys that begin with it").action(resync);
}

async function pause(flags: StartFlags & { reason?: string }): Promise<void> {
  await withStream(flags, async (session, stream) => {
    const changed = await pauseStream(session, flags.reason ?? null);
    console.log(
      changed
        ? `Stream '${stream}' is paused: nothing is mirrored or sent until 'etcd-pg-sync resume'`
        : `Stream '${stream}' was paused before`,
    );
  });
}

async function resume(flags: StartFlags): Promise<void> {
  await withStream(flags, async (session, stream) => {
    const changed = await resumeStream(session);
    console.log(changed ? `Stream '${stream}' goes on` : `Stream '${stream}' was not paused`);
  });
}

async function resync(flags: StartFlags & { prefix?: string }): Promise<void> {
  await withStream(flags, async (session, stream) => {
    const id = await askResync(session, flags.prefix ?? null);
    const done = await untilDone(session, id);
    const where = `resync ${id} of prefix '${done.prefix}'`;
    if (done.error !== null) throw new Fatal("runtime", `Cannot finish ${where}: ${done.error}`);
    if (done.finishedAt !== null) return console.log(`Done: ${where}: ${told(done.result)}`);
    const why = done.pausedAt !== null
      ? `stream '${stream}' is paused`
      : done.attended
      ? "it goes on without this command"
      : `no instance works on stream '${stream}'; the next one will`;
    console.log(`Asked: ${where}; ${why}`);
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
  return Object.entries(result ?? {}).map(([name, count]) => `${name} ${count}`).join(", ");
}

async function withStream(
  flags: StartFlags,
  work: (session: Session, stream: string) => Promise<void>,
): Promise<void> {
  const place = readStreamPlace(flags);
  await using session = await openInstalled(place, makeLog(readLog(flags)));
  await work(session, place.stream);
}
