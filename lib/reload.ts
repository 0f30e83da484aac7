/** SIGHUP: the file of settings and the files of secrets are read again, and what can change at run time does. */
import { type Config, configOf, shown } from "./config.ts";
import { postgresOptions } from "./connect.ts";
import { sentence } from "./errors.ts";
import type { Log } from "./log.ts";
import { Session } from "./postgres/client.ts";
import { readTarget } from "./postgres/dsn.ts";
import { setGate } from "./postgres/state.ts";
import type { Settings } from "./settings/read.ts";
import { sourceText } from "./settings/source.ts";
import { type Name, NAMES, setting } from "./settings/table.ts";
import { gateOf, settingsOf, type Stream } from "./stream.ts";
import { Troubles } from "./troubles.ts";

/** What is in force, for those that look at it at each use. */
export interface Live {
  config: Config;
}

/** @param reread what is configured by now @param live what is in force: changed here */
export function reloader(stream: Stream, live: Live, reread: () => Config): () => Promise<void> {
  return async () => {
    try {
      live.config = await change(stream, live.config, reread());
    } catch (error) {
      stream.log.error(
        { code: "EPS-717", error: sentence(error) },
        "settings were read again, and stay as they were",
      );
    }
  };
}

/** What is in force afterwards. @throws where it cannot be written for the writers; then nothing has changed */
async function change(stream: Stream, running: Config, wanted: Config): Promise<Config> {
  const differ = NAMES.filter((name) => running.settings[name].text !== wanted.settings[name].text);
  const later = differ.filter((name) => !canChange(name, running, wanted));
  const kept = Object.fromEntries(later.map((name) => [name, running.settings[name]]));
  const next = configOf({ ...wanted.settings, ...kept } as Settings, Deno.env.toObject());
  await writeGate(running, next, stream.log);
  // for all that read them: each at its next use
  Object.assign(stream.settings, settingsOf(next));
  stream.postgres.dsn = next.postgresDsn;
  stream.kv.setLogin(next.etcd);
  stream.watch.setLogin(next.etcd);
  stream.log.level = next.log.level;
  for (const name of differ) tell(stream.log, name, running.settings, wanted.settings, later.includes(name));
  if (differ.length === 0) stream.log.info("settings were read again: nothing has changed");
  return next;
}

/** Of a DSN the login, with the next connection; other servers, or another prefix, are another stream. */
function canChange(name: Name, running: Config, wanted: Config): boolean {
  if (name === "postgres-dsn") return postgresServers(running) === postgresServers(wanted);
  if (name === "etcd-dsn") return etcdServers(running) === etcdServers(wanted);
  return setting(name).reload === true;
}

function postgresServers({ postgresDsn }: Config): string {
  const target = readTarget(postgresDsn, (name) => Deno.env.get(name));
  return JSON.stringify({ ...target, user: undefined, password: undefined });
}

function etcdServers({ etcd, prefix }: Config): string {
  return JSON.stringify([{ ...etcd, user: undefined, password: undefined }, [...prefix]]);
}

/** First of all, since it can fail. */
async function writeGate(running: Config, next: Config, log: Log): Promise<void> {
  if (JSON.stringify(gateOf(running)) === JSON.stringify(gateOf(next))) return;
  await using session = await Session.open(postgresOptions(next, new Troubles(log)));
  await setGate(session, gateOf(next));
}

function tell(log: Log, name: Name, before: Settings, after: Settings, later: boolean): void {
  const { secret } = setting(name);
  const [from, to] = [before, after].map((settings) => shown(settings[name].text, secret));
  const fields = { setting: name, ...(from !== to && { from, to }), source: sourceText(after[name].source) };
  if (later) return log.warn({ code: "EPS-718", ...fields }, "setting changed: it counts after a restart");
  log.info(fields, secret ? "setting changed: it counts from the next connection on" : "setting changed");
}
